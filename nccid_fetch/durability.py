"""Making what was written survive a power failure, for many files at once.

On Linux one `syncfs` flushes a batch of a thousand files in the time of a few `fsync`s, and since 5.8 it reports
failed writes. Elsewhere each file and folder is flushed by itself.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterable

_SYNCFS_REPORTS_ERRORS = (5, 8)
_CANNOT_BE_FLUSHED = {errno.EINVAL, errno.ENOTSUP}
"""What some file systems say of a folder. They keep its entries with the files."""


class Flusher:
    """Flushes one file system.

    A flush that fails is never repeated: the kernel may have dropped the data and would report success.

    Args:
        root_fd: A descriptor on the file system, open since before the first write: errors are reported once to each.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._syncfs = _find_syncfs()

    @property
    def is_whole(self) -> bool:
        """Whether one flush covers everything, so that no file or folder has to be named."""
        return self._syncfs is not None

    def flush(self, descriptors: Iterable[int] = ()) -> None:
        """Return when all that was written is durable: everything, or what the descriptors name.

        Raises:
            OSError: It is not, and what was written since the last flush must be thought lost.
        """
        if self._syncfs is None:
            for descriptor in descriptors:
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    if error.errno not in _CANNOT_BE_FLUSHED:
                        raise
        elif self._syncfs(self._root_fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _find_syncfs() -> "ctypes._NamedFuncPointer | None":
    if platform.system() != "Linux":
        return None
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    if release < _SYNCFS_REPORTS_ERRORS:
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
