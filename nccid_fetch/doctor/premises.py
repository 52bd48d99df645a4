"""The destination, looked at: nothing is made there that stays, nothing in the tree at all, and no folder looks newer for it."""

import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..diagnosis import FULL, nearest_present, space_of
from ..errors import DestinationError
from ..filesystem import remote_name, type_of, user_name
from ..keys import SEGMENT_BYTES_MAX, STATE_FOLDER
from ..model import Space
from ..traits import Traits, find_traits
from . import records
from .records import Health

_PROBE = bytes(4096)
_FILE_MODE = 0o600
_NOTHING = Space(0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """What the file system says.

    Attributes:
        is_there: Whether the destination is.
        nearest: The destination, or the nearest folder above it that is there.
        is_folder: Whether that is a folder.
        is_root: Whether it is the root of the file system.
        refusal: Why nothing can be written there; None if it can.
        is_read_only: Whether its file system is.
        is_full: Whether it is for want of room that nothing can be written.
        space: What is left, before anything is written.
        mode: The permissions of the destination; None if it is not there.
        owner: Whose it is; None for ours.
        remote: What the file system is called, if it is or may be on another machine.
        traits: What it keeps of what it is given; None if that could not be tried.
        name_bytes_max: The longest name that it takes.
        health: The journal's; None if there is none.
        unreadable: Why the journal cannot be looked at, and what to do; None if it can.
    """

    is_there: bool
    nearest: Path
    is_folder: bool = True
    is_root: bool = False
    refusal: str | None = None
    is_read_only: bool = False
    is_full: bool = False
    space: Space = _NOTHING
    mode: int | None = None
    owner: str | None = None
    remote: str | None = None
    traits: Traits | None = None
    name_bytes_max: int = SEGMENT_BYTES_MAX
    health: Health | None = None
    unreadable: tuple[str, str | None] | None = None


def look_at(dest: Path) -> Premises:
    """Look at a destination. Blocks, for as long as its file system does.

    Raises:
        OSError: Nothing can be said of it.
    """
    nearest = nearest_present(dest)
    is_there = dest.exists()
    if not nearest.is_dir() or (dest.is_symlink() and not is_there):
        return Premises(is_there=is_there, nearest=nearest, is_folder=False)
    if nearest.samefile("/") and is_there:
        return Premises(is_there=True, nearest=nearest, is_root=True)
    found = nearest.stat()
    seen = Premises(
        is_there=is_there,
        nearest=nearest,
        is_read_only=bool(os.statvfs(nearest).f_flag & os.ST_RDONLY),
        space=space_of(dest),
        mode=stat.S_IMODE(found.st_mode) if is_there else None,
        owner=user_name(found.st_uid) if is_there and found.st_uid != os.geteuid() else None,
        name_bytes_max=os.pathconf(nearest, "PC_NAME_MAX"),
    )
    descriptor = os.open(nearest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        seen = replace(seen, remote=remote_name(type_of(descriptor)))
    finally:
        os.close(descriptor)
    return _with_journal(_with_probe(seen), dest)


def _with_probe(seen: Premises) -> Premises:
    """Add whether it may be written, and whether it really can be."""
    if seen.is_read_only or not os.access(seen.nearest, os.W_OK | os.X_OK):
        return replace(seen, refusal="it may not be written")
    try:
        with _probed(seen) as folder:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                file.write(_PROBE)
                os.fsync(file.fileno())
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return replace(seen, traits=find_traits(descriptor, _FILE_MODE))
            finally:
                os.close(descriptor)
    except OSError as error:
        refusal = _owned_by_another(seen.nearest / STATE_FOLDER) if isinstance(error, PermissionError) else None
        return replace(seen, refusal=refusal or error.strerror or str(error), is_full=error.errno in FULL)


def _owned_by_another(folder: Path) -> str | None:
    """Say whose the folder for state is, if it is not ours."""
    with suppress(OSError):
        if (owner := folder.lstat().st_uid) != os.geteuid():
            return f"{folder.name} in it belongs to {user_name(owner)}"
    return None


@contextmanager
def _probed(seen: Premises) -> Iterator[Path]:
    """Give the folder to try things in: that for state, which is made for it and taken away; or what will be above DEST."""
    folder = seen.nearest / STATE_FOLDER
    with _times_kept(seen.nearest):
        if not seen.is_there:
            yield seen.nearest
            return
        try:
            folder.mkdir(0o700)
        except FileExistsError:
            with _times_kept(folder):
                yield folder
            return
        try:
            yield folder
        finally:
            with suppress(OSError):  # A run that began in the same moment has taken it for its own.
                folder.rmdir()


@contextmanager
def _times_kept(folder: Path) -> Iterator[None]:
    """Let a folder have the times after the block that it had before: backups go by them."""
    before = folder.stat()
    try:
        yield
    finally:
        with suppress(OSError):  # It is somebody else's.
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _with_journal(seen: Premises, dest: Path) -> Premises:
    try:
        return replace(seen, health=records.health_of(dest))
    except DestinationError as error:
        return replace(seen, unreadable=(error.message, error.hint))
    except (OSError, sqlite3.DatabaseError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return replace(seen, unreadable=(f"the journal cannot be read: {why}", None))
