"""Entering folders below a root by descriptor, one name at a time, never through a symbolic link.

Text cannot keep a path inside a folder: someone may put a link where a folder was. A descriptor can. Every
name is opened relative to the folder before it, with O_NOFOLLOW, so there is no moment to exploit.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from .attributes import passed_on_by, set_mode, take_on
from .model import LocalFile, LocalKind

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_FILE = LocalKind.FILE  # As a global: Python 3.11 takes as long over a member of an enum as over a call.


class BlockedError(Exception):
    """A link, or something else that is no folder, is where a folder belongs."""


class NameRefusedError(OSError):
    """The file system has no such file for a name that is to be made, though the folder is there: it refuses the name."""


class Walk:
    """A pass over folders below a root. Folders entered in sorted order are opened once.

    Not for use by two threads at once. Use it as a context manager: it holds descriptors.

    Args:
        root_fd: The folder below which everything happens. It is not closed.
        create_mode: Make missing folders, with this mode whatever the umask; None to report them as missing.
        on_leave: Called with the descriptor of each folder that something was made in, before it is closed.
        passes_on: Give the folders that are made what the default ACL above them gives, and not only what the mode says.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        create_mode: int | None = None,
        on_leave: Callable[[int], None] | None = None,
        passes_on: bool = False,
    ) -> None:
        self._root_fd = root_fd
        self._passes_on = passes_on
        self._create_mode = create_mode
        self._on_leave = on_leave
        self._open: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave(0, quietly=kind is not None)
        finally:
            self._leave(0, quietly=True)  # What is still open when `on_leave` failed.

    def enter(self, folder: tuple[str, ...]) -> int:
        """Return a descriptor of a folder, valid until the next call.

        Args:
            folder: Names below the root; empty for the root itself.

        Raises:
            FileNotFoundError: It is not there, and folders are not made.
            BlockedError: A link or a file is in the way.
        """
        shared = 0
        for (name, _), wanted in zip(self._open, folder, strict=False):
            if name != wanted:
                break
            shared += 1
        self._leave(shared)
        for name in folder[shared:]:
            self._open.append((name, self._step(self._top(), name)))
        return self._top()

    def _top(self) -> int:
        return self._open[-1][1] if self._open else self._root_fd

    def _step(self, parent_fd: int, name: str) -> int:
        try:
            return _open_folder(name, parent_fd)
        except FileNotFoundError:
            if self._create_mode is None:
                raise
        try:
            with suppress(FileExistsError):  # Another process may have made it just now.
                os.mkdir(name_bytes(name), self._create_mode, dir_fd=parent_fd)
            descriptor = _open_folder(name, parent_fd)
        except FileNotFoundError as error:
            raise refused_name(error, name, parent_fd) from error
        try:
            set_mode(descriptor, self._create_mode)
            if self._passes_on and (passed := passed_on_by(descriptor)).acl is not None:
                take_on(descriptor, self._create_mode, passed)
            if self._on_leave is not None:
                self._on_leave(parent_fd)  # The new folder's name is an entry of its parent.
        except BaseException:
            close_folder(descriptor)
            raise
        return descriptor

    def _leave(self, depth: int, *, quietly: bool = False) -> None:
        while len(self._open) > depth:
            _, descriptor = self._open.pop()
            try:
                if self._on_leave is not None and not quietly:
                    self._on_leave(descriptor)
            finally:
                close_folder(descriptor)


def name_bytes(name: str) -> bytes:
    """Return a name of the tree as it stands on disk: in UTF-8, as in the bucket, and not in this process's encoding of names."""
    return name.encode()


def refused_name(error: FileNotFoundError, name: str, folder_fd: int) -> OSError:
    """Return what it means that nothing can be made under a name: that the folder is gone, or that the name is refused."""
    if os.fstat(folder_fd).st_nlink == 0:
        return error
    return NameRefusedError(error.errno, error.strerror, name)


def close_folder(descriptor: int) -> None:
    """Close a folder. Should the disk complain, that is passed over: no close writes anything of a folder."""
    with suppress(OSError):
        os.close(descriptor)


def _open_folder(name: str, parent_fd: int) -> int:
    try:
        return os.open(name_bytes(name), _FOLDER_FLAGS, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}:
            raise BlockedError(name) from None
        raise


def look_at(folder_fd: int, name: str) -> LocalFile | None:
    """Return what stands under a name in a folder, without following a link; None for nothing."""
    try:
        found = os.stat(name_bytes(name), dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode):
        return LocalFile(_FILE, found.st_size, found.st_mtime_ns)
    if stat.S_ISDIR(found.st_mode):
        return LocalFile(LocalKind.FOLDER)
    if stat.S_ISLNK(found.st_mode):
        return LocalFile(LocalKind.LINK)
    return LocalFile(LocalKind.OTHER)
