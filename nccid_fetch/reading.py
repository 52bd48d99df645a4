"""A file of the tree, read so that a change meanwhile shows: what is concluded from its bytes has to be true of the file.

Every function here blocks, and is called in a thread.
"""

import errno
import os
import stat
from collections.abc import Callable

from .attributes import COARSEST_NS, Stamp, set_time, stamp_of
from .digests import md5_of
from .errors import FileChangedError, ObjectError, Reason
from .model import IN_THE_WAY, LocalKind
from .staging import chunks_of
from .walk import BlockedError, Walk, name_bytes

_NOT_A_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO}
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CHANGED = "its file was changed while it was read"


def open_file(folder_fd: int, name: str) -> int:
    """Open a file for reading: never through a link, and never waiting for the other end of a pipe.

    Raises:
        ObjectError: Something else has its name by now.
    """
    in_the_way = ObjectError(Reason.CONFLICT, IN_THE_WAY[LocalKind.OTHER])
    try:
        descriptor = os.open(name_bytes(name), _READ_FLAGS, dir_fd=folder_fd)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise in_the_way from None
        raise
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    if not is_file:
        os.close(descriptor)
        raise in_the_way
    return descriptor


def md5_at(folder_fd: int, name: str) -> str:
    """Return the MD5 of the file under a name."""
    descriptor = open_file(folder_fd, name)
    try:
        return md5_of(chunks_of(descriptor))
    finally:
        os.close(descriptor)


def has_bytes(folder_fd: int, name: str, size: int, md5: Callable[[], str]) -> bool:
    """Say whether a file has these bytes for certain. One that was changed while it was read, or cannot be read, may have others.

    Args:
        folder_fd: The folder that it is in.
        name: Its name.
        size: Of the bytes.
        md5: Returns their MD5, in hex.
    """
    try:
        descriptor = open_file(folder_fd, name)
    except PermissionError:
        return False
    try:
        stamp = stamp_of(descriptor)
        if stamp.size != size or md5_of(chunks_of(descriptor)) != md5():
            return False
        with Walk(folder_fd) as walk:
            return stamp_of(descriptor) == stamp and leads_to(walk, (name,), stamp)
    finally:
        os.close(descriptor)


def leads_to(walk: Walk, path: tuple[str, ...], stamp: Stamp) -> bool:
    """Say whether a path leads to a file, of this size."""
    try:
        found = os.stat(name_bytes(path[-1]), dir_fd=walk.enter(path[:-1]), follow_symlinks=False)
    except (FileNotFoundError, BlockedError):
        return False
    return (found.st_dev, found.st_ino, found.st_size) == stamp[:3]


def check_unchanged(descriptor: int, walk: Walk, path: tuple[str, ...], stamp: Stamp) -> None:
    """Check that an open file is what it was before it was read, and still has its name.

    Raises:
        FileChangedError: It is not, or has not: what was read is neither what was there nor what is there now.
    """
    if stamp_of(descriptor) != stamp or not leads_to(walk, path, stamp):
        raise FileChangedError(CHANGED)


def give_time(descriptor: int, stamp: Stamp, modified_ns: int, *, is_kept: bool) -> tuple[int, bool]:
    """Give an open file an mtime.

    Args:
        descriptor: The file.
        stamp: What it was a moment ago.
        modified_ns: The mtime, in nanoseconds.
        is_kept: Whether its file system keeps the mtimes that it is given; one that does not is not asked.

    Returns:
        The mtime that it then has, and whether it is this user's to set.

    Raises:
        FileChangedError: It was written meanwhile.
    """
    if stamp_of(descriptor) != stamp:
        raise FileChangedError(CHANGED)
    is_set = True
    if is_kept and stamp.modified_ns != modified_ns:
        is_set = set_time(descriptor, modified_ns)
    after = stamp_of(descriptor)
    expected = modified_ns if is_kept and is_set else stamp.modified_ns
    is_other = abs(after.modified_ns - expected) > (COARSEST_NS if is_set and is_kept else 0)
    if is_other and is_kept and is_set:
        # A time that no file can have there, as 1970 on FAT, becomes the nearest one: so it does again. A write's does not.
        set_time(descriptor, modified_ns)
        is_other = stamp_of(descriptor).modified_ns != after.modified_ns
    if after.size != stamp.size or is_other:
        raise FileChangedError(CHANGED)
    return after.modified_ns, is_set
