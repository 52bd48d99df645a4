"""The destination: the tree of files, and the state folder inside it.

Rules
    Nothing gets its final name before it is verified, and only by a rename.
    Every step below the destination is taken by descriptor, never through a link (see `walk`).
    A file that no record vouches for is set aside before its name is taken, never overwritten.
    Order: data durable, rename, names durable. The journal is told last, by the caller.

Every function here blocks, and is called in a thread.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from .attributes import Passed, Stamp, passed_on_by, set_mode, stamp_of, take_on
from .decisions import KEPT
from .diagnosis import CROWDED, FULL, destination_error
from .digests import md5_of
from .durability import Flusher, FlushError, NoFlusher, PiecemealFlusher, drop_cached
from .errors import DestinationError, FileChangedError, ObjectError, Reason
from .keys import STATE_FOLDER
from .model import IN_THE_WAY, LocalFile, LocalKind
from .reading import CHANGED, check_unchanged, give_time, has_bytes, leads_to, md5_at, open_file
from .reserve import Reserve
from .settings import Durability, Existing, Settings
from .staging import StagedFile, Staging
from .traits import find_traits, notes_on
from .tree import Tree, is_of_one_name, refusal_of
from .walk import BlockedError, Walk, close_folder, look_at, name_bytes, refused_name


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


class NoRoomError(ObjectError):
    """A verified file found no room for its name: that is the disk's failure and not the object's, which is left to the next run."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a file that was there already has, now that it counts as the object.

    Attributes:
        mtime_ns: Its mtime.
        as_it_is: Whether it is another user's, and keeps the mode and the mtime that it had.
    """

    mtime_ns: int
    as_it_is: bool = False


class Destination(Tree):
    """An open destination.

    Attributes:
        dest: Its path, for messages.
        staging: Where files wait for their names.
        reserve: Room for the last batch on a disk that is full.
        distrusts_cache: Whether files are to be read from the disk itself: what is in memory may not have got there.
        filled_up: What the file system said when the reserve was given up for a name; None as long as it was not.
        has_run_out: Whether a verified file found no room for its name, even with that.
        traits: What its file system keeps of what it is given.
    """

    def __init__(self, dest: Path, settings: Settings, root_fd: int, state_fd: int, staging_fd: int) -> None:
        super().__init__(root_fd)
        self.dest = dest
        self.staging = Staging(staging_fd, settings.file_mode)
        self.reserve = Reserve(staging_fd)
        self.filled_up: OSError | None = None
        self.has_run_out = False
        self.distrusts_cache = False
        self.traits = find_traits(staging_fd, settings.file_mode)
        self._settings = settings
        self._state_fd = state_fd
        self._passed: tuple[tuple[str, ...], Passed] | None = None
        self._flusher = _flusher(root_fd, settings.durability)
        self._set_aside_folder = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")

    @property
    def folds(self) -> bool:
        """Whether its file system takes different keys for the same name."""
        return self.traits.folds

    def notes(self) -> Iterator[str]:
        """Yield what a user should know of the place before anything is put there."""
        return notes_on(self.dest, self._root_fd, self.traits, self._settings.folder_mode)

    def retime(self, moves: Iterable[tuple[tuple[str, ...], int, LocalFile]]) -> list[int | None]:
        """Give files a newer mtime: path, nanoseconds, and what was found there.

        Returns:
            The mtime that each has then. None for one that is no longer what was found: it is left as it is, and the next run
            finds that it is not as recorded.
        """
        with Walk(self._root_fd) as walk:
            return [self._retimed(walk, *move) for move in moves]

    def _retimed(self, walk: Walk, path: tuple[str, ...], modified_ns: int, found: LocalFile) -> int | None:
        try:
            descriptor = open_file(walk.enter(path[:-1]), path[-1])
        except (FileNotFoundError, BlockedError, PermissionError, ObjectError):
            return None
        try:
            stamp = stamp_of(descriptor)
            if (stamp.size, stamp.modified_ns) != (found.size, found.modified_ns):
                return None
            return give_time(descriptor, stamp, modified_ns, is_kept=self.traits.keeps_times)[0]
        except FileChangedError:
            return None
        finally:
            os.close(descriptor)

    def open_file(self, path: tuple[str, ...]) -> int:
        """Open a file of the tree for reading; the caller closes the descriptor.

        Raises:
            ObjectError: It cannot be opened, or is not a file any more.
            OSError: Nothing can be opened any more.
        """
        try:
            with Walk(self._root_fd) as walk:
                descriptor = open_file(walk.enter(path[:-1]), path[-1])
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

    def check_unchanged(self, descriptor: int, path: tuple[str, ...], stamp: Stamp) -> None:
        """Check that a file is what it was before it was read, and still has its name.

        Raises:
            FileChangedError: It is not, or has not: what was read is neither what was there nor what is there now.
        """
        with Walk(self._root_fd) as walk:
            check_unchanged(descriptor, walk, path, stamp)

    def adopt(self, descriptor: int, path: tuple[str, ...], stamp: Stamp, modified_ns: int) -> Adoption:
        """Give a proved file the mode and the mtime of a fetched one, as far as it is this user's to give.

        Nothing tells of a write between the last look at the mtime and the call that sets it, so these come one after the
        other. Before and after, a write shows.

        Args:
            descriptor: The file, open.
            path: Where it was opened.
            stamp: What it was before it was read.
            modified_ns: The object's LastModified.

        Raises:
            FileChangedError: It was written since, or another one has its name.
        """
        mode = self._settings.file_mode
        with Walk(self._root_fd) as walk:
            check_unchanged(descriptor, walk, path, stamp)
            is_set = set_mode(descriptor, mode)
            if (passed := passed_on_by(walk.enter(path[:-1]))).acl is not None:
                take_on(descriptor, mode, passed._replace(group=None))
            ours = stamp_of(descriptor).changed_ns  # The mode was a change, and nothing else may have been.
            stamp = stamp._replace(changed_ns=ours)
            mtime_ns, is_timed = give_time(descriptor, stamp, modified_ns, is_kept=self.traits.keeps_times)
            if not leads_to(walk, path, stamp):
                raise FileChangedError(CHANGED)
        is_foreign = os.geteuid() not in {0, os.fstat(descriptor).st_uid}
        return Adoption(mtime_ns, is_foreign or not is_timed or (not is_set and self.traits.refusal is None))

    def publish(self, batch: Sequence[Placement]) -> list[ObjectError | None]:
        """Give a batch of verified files their names, durably.

        On a disk that fills up the reserve is given up for it, and what then finds no room makes room for the others.

        Returns:
            For each file None, or why it could not get its name: `NoRoomError` where the disk is full, and else what is wrong
            with the name. Its staged file is then gone. One that got it knows its mtime.

        Raises:
            OSError: The file system failed; nothing of the batch may be recorded.
            DestinationError: It is no longer where it was.
        """
        self._check_mounted()
        self._flush_staged(batch)
        if not batch:
            return []
        results: list[ObjectError | None] = [None] * len(batch)
        self._passed = None
        with self._making_walk(self._root_fd) as walk:
            for index in sorted(range(len(batch)), key=lambda index: batch[index].path):
                try:
                    self._place_at_last(walk, batch[index])
                except ObjectError as error:
                    results[index] = error
                except OSError as error:
                    if isinstance(error, FlushError) or not (is_of_one_name(error) or error.errno in FULL):
                        raise
                    why = refusal_of(error, batch[index].path[-1], "it cannot be put in place")
                    kind = NoRoomError if error.errno in FULL else ObjectError
                    results[index] = kind(Reason.LOCAL_ERROR, why)
                    self.has_run_out |= error.errno in FULL  # What goes now makes room for the others.
                if results[index] is not None:
                    batch[index].staged.discard()
        self._flusher.flush([self._root_fd])
        return results

    def _making_walk(self, root_fd: int) -> Walk:
        """Return a walk that makes folders, and leaves them durable where one flush does not reach everything."""
        on_leave = None if self._flusher.is_whole else (lambda descriptor: self._flusher.flush([descriptor]))
        is_tree = root_fd == self._root_fd
        mode = self._settings.folder_mode if is_tree else 0o700
        return Walk(root_fd, create_mode=mode, on_leave=on_leave, passes_on=is_tree)

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
                    descriptor = open_file(walk.enter(path[:-1]), path[-1])
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
        staged = placement.staged
        self._pass_on(folder_fd, placement)
        # Before it has its own name, under which others may write to it at once.
        if (sealed := look_at(self.staging.folder_fd, staged.name)) is not None:
            staged.mtime_ns = sealed.modified_ns
        try:
            os.rename(staged.name, name_bytes(name), src_dir_fd=self.staging.folder_fd, dst_dir_fd=folder_fd)
        except FileNotFoundError as error:
            if sealed is not None and look_at(self.staging.folder_fd, staged.name) is not None:
                raise refused_name(error, name, folder_fd) from error
            # Over NFS an answer may get lost: the rename is sent again, and finds that there is nothing to rename.
            if staged.md5 is None or md5_at(folder_fd, name) != staged.md5:
                raise

    def _pass_on(self, folder_fd: int, placement: Placement) -> None:
        """Give a staged file what the folder passes on that it is to get its name in: it was made in another one."""
        folder, staged = placement.path[:-1], placement.staged
        if self._passed is None or self._passed[0] != folder:
            self._passed = folder, passed_on_by(folder_fd)
        passed, has = self._passed[1], self.staging.passed
        if passed.acl is None and has.acl is None and passed.group in {None, has.group}:
            return
        descriptor = staged.open_for_reading()
        try:
            take_on(descriptor, self._settings.file_mode, passed)
            if not self._flusher.is_whole:
                self._flusher.flush([descriptor])
        finally:
            os.close(descriptor)

    def _make_way(self, folder_fd: int, placement: Placement) -> None:
        """Set aside a file that no record vouches for, unless it has the very bytes that replace it."""
        name, staged = placement.path[-1], placement.staged
        if has_bytes(folder_fd, name, staged.size, lambda: staged.md5 or md5_of(staged.chunks())):
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
                set_mode(root_fd, settings.folder_mode)
                take_on(root_fd, settings.folder_mode, passed_on_by(root_fd)._replace(group=None))
            with Walk(root_fd, create_mode=0o700) as walk:
                opened.append(os.dup(walk.enter((STATE_FOLDER,))))
                set_mode(opened[-1], 0o700)  # One that was copied here may be open to others.
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
