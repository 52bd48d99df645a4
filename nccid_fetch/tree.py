"""The tree of files, looked at: what stands at a key's path, and what a file system says of a name.

Every function here blocks, and is called in a thread.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .diagnosis import destination_error
from .keys import printable
from .model import LocalFile, LocalKind
from .walk import BlockedError, NameRefusedError, Walk, close_folder, look_at

_OF_ONE_NAME = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBUSY, errno.ETXTBSY}
_OF_A_NAME_ITSELF = {
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPROTO),
}
"""What file systems say of a name that they do not take: exFAT and NTFS of some characters, encfs and CIFS of long ones."""


class Tree:
    """The tree of files, for looking at.

    Args:
        root_fd: A descriptor of the destination.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd

    def look(self, paths: Sequence[tuple[str, ...]]) -> list[LocalFile | None]:
        """Return what stands at each path. Fastest when they are sorted."""
        found: list[LocalFile | None] = []
        folder: tuple[str, ...] | None = None
        folder_fd: int | None = None
        no_folder: LocalFile | None = None
        with Walk(self._root_fd) as walk:
            for path in paths:
                if path[:-1] != folder:
                    folder = path[:-1]
                    folder_fd, no_folder = _entered(walk, folder)
                try:
                    found.append(no_folder if folder_fd is None else look_at(folder_fd, path[-1]))
                except OSError as error:
                    found.append(_closed(error, path))
        return found


def _entered(walk: Walk, folder: tuple[str, ...]) -> tuple[int | None, LocalFile | None]:
    """Return a folder's descriptor, or None and what stands at every path in it."""
    try:
        return walk.enter(folder), None
    except FileNotFoundError:
        return None, None
    except BlockedError:
        return None, LocalFile(LocalKind.BLOCKED)
    except OSError as error:
        return None, _closed(error, folder)


def _closed(error: OSError, path: tuple[str, ...]) -> LocalFile:
    """Return what stands where one name cannot be looked at; what is wrong with all of them is raised on."""
    if not is_of_one_name(error):
        raise error
    return LocalFile(LocalKind.CLOSED, refusal=refusal_of(error, path[-1], "its place cannot be looked at"))


def is_of_one_name(error: OSError) -> bool:
    """Say whether an error is about a name, or a folder, and not about the file system."""
    return isinstance(error, NameRefusedError) or error.errno in _OF_ONE_NAME | _OF_A_NAME_ITSELF


def refusal_of(error: OSError, name: str, otherwise: str) -> str:
    """Return why a file system does not let us to a name.

    Args:
        error: What it says.
        name: The name, if the error names none.
        otherwise: What that means where it is not the name itself that it refuses.
    """
    if not isinstance(error, NameRefusedError) and error.errno not in _OF_A_NAME_ITSELF:
        return f"{otherwise}: {error.strerror}"
    named = error.filename2 or error.filename or name
    shown = printable(named.decode(errors="replace") if isinstance(named, bytes) else str(named))
    return f'this file system does not take the name "{shown}": {error.strerror}'


@contextmanager
def open_tree(dest: Path) -> Iterator[Tree | None]:
    """Open a destination for looking only; None if there is none."""
    try:
        root_fd = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise destination_error(error, dest) from error
    try:
        yield Tree(root_fd)
    finally:
        close_folder(root_fd)
