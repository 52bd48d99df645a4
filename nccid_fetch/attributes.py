"""What a file has besides its bytes: mode, mtime, and the group and ACL that its folder passes on.

Some file systems refuse to set these (CIFS, FUSE), others take them and forget them (exFAT, NTFS). Neither keeps a file from
arriving: `traits` finds it out when a run begins, and the run says it once.
"""

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

REFUSALS = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system says that does not set an attribute, or not for this user."""
COARSEST_NS = 2_000_000_000
"""Two seconds, as FAT counts: the coarsest mtimes that there are."""

_DEFAULT_ACL, _ACL = "system.posix_acl_default", "system.posix_acl_access"
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_VERSION = 2
_OWNER, _OWNING_GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20
"""Kinds of an ACL's entries, from the kernel's `posix_acl_xattr.h`. The other two name a user or a group."""


class Stamp(NamedTuple):
    """What changes when a file is written, or another one takes its name. Times are nanoseconds since the epoch."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Passed(NamedTuple):
    """What a folder passes on to files that are made in it.

    Attributes:
        group: Its group, if it has the setgid bit; else None.
        acl: Its default ACL, as the system keeps it; None if it has none.
    """

    group: int | None
    acl: bytes | None


def stamp_of(descriptor: int) -> Stamp:
    """Return an open file's stamp."""
    found = os.fstat(descriptor)
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def set_mode(descriptor: int, mode: int) -> bool:
    """Give an open file or folder a mode, unless it has it. A folder's setgid bit stays.

    Returns:
        Whether the file system took it.
    """
    found = os.fstat(descriptor).st_mode
    wanted = mode | (found & stat.S_ISGID if stat.S_ISDIR(found) else 0)
    if stat.S_IMODE(found) == wanted:
        return True
    with _refusals() as refused:
        os.fchmod(descriptor, wanted)
    return not refused


def set_time(descriptor: int, modified_ns: int) -> bool:
    """Give an open file an mtime; say whether the file system took it."""
    with _refusals() as refused:
        os.utime(descriptor, ns=(modified_ns, modified_ns))
    return not refused


def passed_on_by(folder_fd: int) -> Passed:
    """Return what a folder passes on."""
    found = os.fstat(folder_fd)
    return Passed(found.st_gid if found.st_mode & stat.S_ISGID else None, _attribute(folder_fd, _DEFAULT_ACL))


def take_on(descriptor: int, mode: int, passed: Passed) -> None:
    """Give an open file or folder what its folder passes on, as if it had been made there with this mode.

    Users and groups that a default ACL names get what it gives them. The owning group and all others get no more than the mode
    says, although the ACL may give more: it always has entries for them, which no person need have chosen.
    """
    is_folder = stat.S_ISDIR((found := os.fstat(descriptor)).st_mode)
    if passed.group is not None and found.st_gid != passed.group:
        with _refusals():  # A group that this user is not in.
            os.fchown(descriptor, -1, passed.group)
    if sys.platform == "linux":
        acl = None if passed.acl is None else access_acl(passed.acl, mode, is_folder=is_folder)
        with _refusals():
            if acl is not None:
                os.setxattr(descriptor, _ACL, acl)
            elif _attribute(descriptor, _ACL) is not None:  # Of the folder that it was made in.
                os.removexattr(descriptor, _ACL)


def access_acl(default: bytes, mode: int, *, is_folder: bool) -> bytes | None:
    """Return the ACL of something with this mode in a folder with this default ACL; None where the mode says it all."""
    if len(default) % _ENTRY.size != _HEADER.size or _HEADER.unpack_from(default) != (_ACL_VERSION,):
        return None
    entries = list(_ENTRY.iter_unpack(default[_HEADER.size :]))
    if all(kind != _MASK for kind, _, _ in entries):  # It names no user and no group.
        return None
    most = {_OWNER: mode >> 6 & 7, _OWNING_GROUP: mode >> 3 & 7, _OTHERS: mode & 7, _MASK: 7 if is_folder else 6}
    return _HEADER.pack(_ACL_VERSION) + b"".join(
        _ENTRY.pack(kind, most[kind] if kind == _OWNER else allowed & most.get(kind, 7), name)
        for kind, allowed, name in entries
    )


def _attribute(descriptor: int, name: str) -> bytes | None:
    if sys.platform == "linux":
        with suppress(OSError):  # It has none, or its file system knows none.
            return os.getxattr(descriptor, name)
    return None


@contextmanager
def _refusals() -> Iterator[list[OSError]]:
    """Keep in a list what the file system refuses in the block."""
    refused: list[OSError] = []
    try:
        yield refused
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        refused.append(error)
