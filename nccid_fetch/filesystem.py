"""Which kind of file system a folder is on: on some that reach it over a network, less holds than on a disk of one's own.

A lock may be granted to everybody, a file that is mapped into memory may not be seen by other machines, and a flush of
the whole file system may not reach the server. What matters to the journal and to flushing is only whether it is so.
"""

import ctypes
import platform
from contextlib import suppress

_REMOTE = {
    0x0000_6969: "NFS",
    0x0000_517B: "SMB",
    0xFF53_4D42: "SMB",
    0xFE53_4D42: "SMB",
    0x0BD0_0BD0: "Lustre",
    0x4750_4653: "GPFS",
    0x1983_0326: "BeeGFS",
    0x5346_414F: "AFS",
    0x6B41_4653: "AFS",
    0x00C3_6400: "Ceph",
    0x0102_1997: "9p",
    0x6573_5546: "FUSE",
}
"""What statfs(2) tells as `f_type`, from the kernel's `magic.h` and from what these file systems say of themselves."""
_STATFS_BYTES = 512
"""More than the structure has on any platform; its first member is all that is read."""


def remote_name(f_type: int | None) -> str | None:
    """Return what a file system is called that is, or may be, on another machine; None for any other.

    Args:
        f_type: What statfs(2) tells; None where nothing is known.
    """
    return None if f_type is None else _REMOTE.get(f_type & 0xFFFF_FFFF)


def type_of(descriptor: int) -> int | None:
    """Return statfs(2)'s `f_type` for an open file or folder; None where it is not to be had."""
    if platform.system() != "Linux":
        return None
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None).fstatfs(descriptor, answer) != 0:
        return None
    return ctypes.c_long.from_buffer(answer).value


def user_name(uid: int) -> str:
    """Return a user's name, or the number where there is none."""
    import pwd  # noqa: PLC0415 - not on every platform.

    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
