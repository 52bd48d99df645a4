"""The destination: the tree of files, and the state folder inside it.

Rules
    Nothing gets its final name before it is verified, and only by a rename.
    Every step below the destination is taken by descriptor, never through a link (see `walk`).
    A file that no record vouches for is set aside before its name is taken, never overwritten.
    Order: data durable, rename, names durable. The journal is told last, by the caller.

Every function here blocks, and is called in a thread.
"""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from .decisions import IN_THE_WAY, KEPT
from .diagnosis import CROWDED, FULL, destination_error
from .digests import md5_of
from .durability import Flusher, FlushError, NoFlusher, PiecemealFlusher, drop_cached
from .errors import DestinationError, ObjectError, Reason
from .keys import STATE_FOLDER
from .model import LocalFile, LocalKind
from .reserve import Reserve
from .settings import Durability, Existing, Settings
from .staging import StagedFile, Staging, chunks_of
from .walk import BlockedError, Walk, close_folder, look_at, name_bytes

_OF_ONE_NAME = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR}
_NOT_A_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO}
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Placement:
    """A verified file that is to get its name.

    Attributes:
        path: Segments below the destination.
        staged: The file.
        replaces: What may be overwritten at the path without more ado.
    """

    path: tuple[str, ...]
    staged: StagedFile
    replaces: LocalFile | None


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
                    found.append(_closed(error))
        return found


class Destination(Tree):
    """An open destination.

    Attributes:
        dest: Its path, for messages.
        staging: Where files wait for their names.
        reserve: Room for the last batch on a disk that is full.
        distrusts_cache: Whether files are to be read from the disk itself: what is in memory may not have got there.
        filled_up: What the file system said when the reserve was given up for a name; None as long as it was not.
        has_run_out: Whether a verified file found no room for its name, even with that.
        folds: Whether its file system takes different keys for the same name.
    """

    def __init__(self, dest: Path, settings: Settings, root_fd: int, state_fd: int, staging_fd: int) -> None:
        super().__init__(root_fd)
        self.dest = dest
        self.staging = Staging(staging_fd, settings.file_mode)
        self.reserve = Reserve(staging_fd)
        self.filled_up: OSError | None = None
        self.has_run_out = False
        self.distrusts_cache = False
        self.folds = folds_names(staging_fd)
        self._settings = settings
        self._state_fd = state_fd
        self._flusher = _flusher(root_fd, settings.durability)
        self._set_aside_folder = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")

    def retime(self, paths: Iterable[tuple[tuple[str, ...], int]]) -> None:
        """Give files a newer mtime: path, nanoseconds. Those that went away or belong to others are passed over."""
        with Walk(self._root_fd) as walk:
            for path, modified_ns in paths:
                try:
                    os.utime(
                        name_bytes(path[-1]),
                        ns=(modified_ns, modified_ns),
                        dir_fd=walk.enter(path[:-1]),
                        follow_symlinks=False,
                    )
                except (FileNotFoundError, BlockedError, PermissionError):
                    continue  # The next run finds that it is not as recorded, and says what is wrong.

    def open_file(self, path: tuple[str, ...]) -> int:
        """Open a file of the tree for reading; the caller closes the descriptor.

        Raises:
            ObjectError: It cannot be opened, or is not a file any more.
            OSError: Nothing can be opened any more.
        """
        try:
            with Walk(self._root_fd) as walk:
                descriptor = _open_file(walk.enter(path[:-1]), path[-1])
        except BlockedError:
            raise ObjectError(Reason.CONFLICT, IN_THE_WAY[LocalKind.BLOCKED]) from None
        except OSError as error:
            if error.errno in CROWDED:
                raise
            raise ObjectError(Reason.LOCAL_ERROR, f"its file cannot be read: {error.strerror}") from error
        if self.distrusts_cache:
            try:
                drop_cached(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def adopt(self, descriptor: int, modified_ns: int) -> None:
        """Give a proved file the mode and the mtime of a fetched one.

        Raises:
            ObjectError: It belongs to somebody else.
        """
        try:
            os.fchmod(descriptor, self._settings.file_mode)
            os.utime(descriptor, ns=(modified_ns, modified_ns))
        except PermissionError as error:
            raise ObjectError(Reason.LOCAL_ERROR, "its file is right but belongs to another user") from error

    def publish(self, batch: Sequence[Placement]) -> list[ObjectError | None]:
        """Give a batch of verified files their names, durably.

        On a disk that fills up the reserve is given up for it, and what then finds no room makes room for the others.

        Returns:
            For each file None, or why it could not get its name. Its staged file is then gone.

        Raises:
            OSError: The file system failed; nothing of the batch may be recorded.
            DestinationError: It is no longer where it was.
        """
        self._check_mounted()
        self._flush_staged(batch)
        if not batch:
            return []
        results: list[ObjectError | None] = [None] * len(batch)
        with self._making_walk(self._root_fd) as walk:
            for index in sorted(range(len(batch)), key=lambda index: batch[index].path):
                try:
                    self._place_at_last(walk, batch[index])
                except ObjectError as error:
                    results[index] = error
                except OSError as error:
                    if isinstance(error, FlushError) or error.errno not in _OF_ONE_NAME | FULL:
                        raise
                    results[index] = ObjectError(Reason.LOCAL_ERROR, f"it cannot be put in place: {error.strerror}")
                    self.has_run_out |= error.errno in FULL  # What goes now makes room for the others.
                if results[index] is not None:
                    batch[index].staged.discard()
        self._flusher.flush([self._root_fd])
        return results

    def _making_walk(self, root_fd: int) -> Walk:
        """Return a walk that makes folders, and leaves them durable where one flush does not reach everything."""
        on_leave = None if self._flusher.is_whole else (lambda descriptor: self._flusher.flush([descriptor]))
        return Walk(root_fd, create_mode=self._settings.folder_mode, on_leave=on_leave)

    def _flush_staged(self, batch: Sequence[Placement]) -> None:
        if self._flusher.is_whole:
            self._flusher.flush()
            return
        for placement in batch:
            descriptor = placement.staged.open_for_reading()
            try:
                self._flusher.flush([descriptor])
            finally:
                os.close(descriptor)

    def flush_adopted(self, paths: Sequence[tuple[str, ...]]) -> None:
        """Make files that were there already as durable as fetched ones: whoever wrote them may not have.

        Raises:
            FlushError: They are not; nothing of the batch may be recorded.
        """
        if self._flusher.is_whole or not paths:
            return  # `publish` flushes them with all else.
        with Walk(self._root_fd, on_leave=lambda descriptor: self._flusher.flush([descriptor])) as walk:
            for path in sorted(paths):
                try:
                    descriptor = _open_file(walk.enter(path[:-1]), path[-1])
                except (FileNotFoundError, BlockedError, ObjectError):
                    continue  # It went away since it was hashed: the next run finds that.
                try:
                    self._flusher.flush([descriptor])
                finally:
                    os.close(descriptor)

    def _check_mounted(self) -> None:
        """Notice that the file system was unmounted, or the folder replaced: what its path leads to now is not ours."""
        held, is_there = os.fstat(self._root_fd), False
        with suppress(FileNotFoundError):
            found = self.dest.stat()
            is_there = (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
        if not is_there:
            raise DestinationError(
                f"{self.dest} is no longer where it was: it was unmounted, moved or replaced",
                hint="bring it back and run the same command again; what was verified is where it went",
            )

    def _place_at_last(self, walk: Walk, placement: Placement) -> None:
        """Place a file; on a disk that is full once more, with the room that was kept back."""
        try:
            self._place(walk, placement)
        except OSError as error:
            # A flush that failed for want of room is told once, and may be about files that wait for the next batch.
            if isinstance(error, FlushError) or error.errno not in FULL or not self.reserve.give_up():
                raise
            self.filled_up = error
            self._place(walk, placement)

    def _place(self, walk: Walk, placement: Placement) -> None:
        name = placement.path[-1]
        try:
            folder_fd = walk.enter(placement.path[:-1])
        except BlockedError:
            raise ObjectError(Reason.CONFLICT, IN_THE_WAY[LocalKind.BLOCKED]) from None
        there = look_at(folder_fd, name)
        if there is not None:
            if there.kind is not LocalKind.FILE:
                raise ObjectError(Reason.CONFLICT, IN_THE_WAY[there.kind])
            if there != placement.replaces and self._settings.existing is not Existing.REPLACE:
                self._make_way(folder_fd, placement)
        try:
            os.rename(placement.staged.name, name_bytes(name), src_dir_fd=self.staging.folder_fd, dst_dir_fd=folder_fd)
        except FileNotFoundError:
            # Over NFS an answer may get lost: the rename is sent again, and finds that there is nothing to rename.
            if placement.staged.md5 is None or _md5_at(folder_fd, name) != placement.staged.md5:
                raise

    def _make_way(self, folder_fd: int, placement: Placement) -> None:
        """Set aside a file that no record vouches for, unless it has the very bytes that replace it."""
        name = placement.path[-1]
        md5 = placement.staged.md5 or md5_of(placement.staged.chunks())
        if _md5_at(folder_fd, name) == md5:
            return
        if self._settings.existing is Existing.KEEP:
            raise ObjectError(Reason.CONFLICT, KEPT)
        try:
            with self._making_walk(self._state_fd) as aside:
                # A name may be set aside twice in a run. It is kept as it is: a longer one may be too long.
                for number in count(1):
                    run = self._set_aside_folder if number == 1 else f"{self._set_aside_folder}-{number}"
                    aside_fd = aside.enter(("quarantine", run, *placement.path[:-1]))
                    if look_at(aside_fd, name) is None:
                        os.rename(name_bytes(name), name_bytes(name), src_dir_fd=folder_fd, dst_dir_fd=aside_fd)
                        if self._flusher.is_whole:  # Else the folders are flushed as they are left.
                            self._flusher.flush()
                        return
        except BlockedError as error:
            raise ObjectError(
                Reason.LOCAL_ERROR, f"what has its name cannot be set aside: in the state folder {error} is no folder"
            ) from None


def _flusher(root_fd: int, durability: Durability) -> Flusher:
    match durability:
        case Durability.BATCH:
            return Flusher(root_fd)
        case Durability.FILE:
            return PiecemealFlusher(root_fd)
        case Durability.NONE:
            return NoFlusher(root_fd)


def _entered(walk: Walk, folder: tuple[str, ...]) -> tuple[int | None, LocalFile | None]:
    """Return a folder's descriptor, or None and what stands at every path in it."""
    try:
        return walk.enter(folder), None
    except FileNotFoundError:
        return None, None
    except BlockedError:
        return None, LocalFile(LocalKind.BLOCKED)
    except OSError as error:
        return None, _closed(error)


def _closed(error: OSError) -> LocalFile:
    """Return what stands where one name cannot be looked at; what is wrong with all of them is raised on."""
    if error.errno not in _OF_ONE_NAME:
        raise error
    return LocalFile(LocalKind.CLOSED)


def _open_file(folder_fd: int, name: str) -> int:
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


def _md5_at(folder_fd: int, name: str) -> str:
    descriptor = _open_file(folder_fd, name)
    try:
        return md5_of(chunks_of(descriptor))
    finally:
        os.close(descriptor)


def folds_names(folder_fd: int) -> bool:
    """Find out whether the file system takes names for the same that differ in case or Unicode form."""
    probe = f"Probe-{os.urandom(6).hex()}-\u00e9"  # A name of its own: another run may be probing.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(name_bytes(probe), flags, 0o600, dir_fd=folder_fd))
    try:
        others = (probe.lower(), unicodedata.normalize("NFD", probe))
        return any(look_at(folder_fd, other) is not None for other in others)
    finally:
        with suppress(FileNotFoundError):  # A run that began in the same moment has cleared it away.
            os.unlink(name_bytes(probe), dir_fd=folder_fd)


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


def _make(dest: Path, mode: int) -> bool:
    """Make a folder unless it is there; say whether it was made. Those above it are as the umask has them."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    try:
        dest.mkdir(mode)
    except FileExistsError:
        return False
    return True


@contextmanager
def open_destination(settings: Settings) -> Iterator[Destination]:
    """Open a destination, making it and its state folder if they are missing.

    Raises:
        DestinationError: It cannot be made or written, or its state folder is a link.
    """
    dest = settings.dest
    opened: list[int] = []
    try:
        try:
            is_new = _make(dest, settings.folder_mode)
            # DEST itself may be reached through a link; from here on none is followed.
            root_fd = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.append(root_fd)
            if is_new:
                os.fchmod(root_fd, settings.folder_mode)
            with Walk(root_fd, create_mode=0o700) as walk:
                opened.append(os.dup(walk.enter((STATE_FOLDER,))))
                with suppress(PermissionError):  # One that was copied here may be open to others.
                    os.fchmod(opened[-1], 0o700)
                opened.append(os.dup(walk.enter((STATE_FOLDER, "staged"))))
            destination = Destination(dest, settings, root_fd, opened[1], opened[2])
        except BlockedError as error:
            raise DestinationError(
                f"{dest / STATE_FOLDER} is not a folder of this tool's: {error} is a link or a file",
                hint="remove it and run the same command again",
            ) from None
        except OSError as error:
            raise destination_error(error, dest) from error
        yield destination
    finally:
        for descriptor in reversed(opened):
            close_folder(descriptor)
