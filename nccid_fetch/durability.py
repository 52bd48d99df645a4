"""Making what was written survive a power failure, for many files at once or for each by itself.

On Linux one `syncfs` flushes a batch of a thousand files in the time of a few `fsync`s, and since 5.8 it reports
failed writes. Elsewhere, and over a network, each file and folder is flushed by itself.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .filesystem import remote_name, type_of

_SYNCFS_REPORTS_ERRORS = (5, 8)
_CANNOT_BE_FLUSHED = {errno.EINVAL, errno.ENOTSUP}
"""What some file systems say of a folder. They keep its entries with the files."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FlushError(OSError):
    """What was written since the last flush must be thought lost, though it may still be read for a while."""


class Flusher:
    """Flushes one file system.

    A flush that fails is never repeated: the kernel may have dropped the data and would report success.

    Args:
        root_fd: A descriptor on the file system, open since before the first write: errors are reported once to each.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._syncfs = None if remote_name(type_of(root_fd)) else _find_syncfs()

    @property
    def is_whole(self) -> bool:
        """Whether one flush covers everything, so that no file or folder has to be named."""
        return self._syncfs is not None

    def flush(self, descriptors: Iterable[int] = ()) -> None:
        """Return when all that was written is durable: everything, or what the descriptors name.

        Raises:
            FlushError: It is not.
        """
        if self._syncfs is None:
            for descriptor in descriptors:
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    if error.errno not in _CANNOT_BE_FLUSHED:
                        raise FlushError(error.errno, error.strerror) from error
        elif self._syncfs(self._root_fd) != 0:
            number = ctypes.get_errno()
            raise FlushError(number, os.strerror(number))


class PiecemealFlusher(Flusher):
    """Flushes each file and folder by itself, also where one flush would cover everything."""

    def __init__(self, root_fd: int) -> None:
        super().__init__(root_fd)
        self._syncfs = None


class NoFlusher(Flusher):
    """Flushes nothing: what was written is left to the system, which will get round to it."""

    @property
    def is_whole(self) -> bool:
        """No file or folder has to be named."""
        return True

    def flush(self, descriptors: Iterable[int] = ()) -> None:
        """Do nothing."""


def boot_id() -> str | None:
    """Return what tells this boot of the machine from any other; None where nothing does.

    Within one boot, what was written can be read again whether or not it has reached the disk.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def drop_cached(descriptor: int) -> None:
    """Let the next read of a file come from the disk itself, where the system can be told so.

    Raises:
        FlushError: What is not on the disk yet cannot be brought there.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise FlushError(error.errno, error.strerror) from error
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _find_syncfs() -> "ctypes._NamedFuncPointer | None":
    if platform.system() != "Linux":
        return None
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    if release < _SYNCFS_REPORTS_ERRORS:
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
