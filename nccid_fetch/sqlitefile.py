"""The journal as a file: opened for one run alone, told from what is none, and set aside where it is damaged."""

import errno
import fcntl
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote

from .attributes import set_mode
from .errors import DestinationBusyError, DestinationError, RunError
from .filesystem import remote_name, type_of, user_name
from .machine import file_limit_told

_MOVES_MAX = 3
_LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that have no locks. SQLite does not tell it from a disk that fails, or takes it for a lock."""
_WAL_BYTES_MAX = 16 << 20
"""What a WAL that grew with a large batch is cut back to. SQLite's checkpoints keep it at a quarter of that."""


def connect(path: Path, *, is_remote: bool) -> sqlite3.Connection:
    """Open a database, made if it is missing, for this connection alone.

    Raises:
        DestinationBusyError: It was set aside again and again while it was opened.
        sqlite3.DatabaseError: It is none, is damaged, cannot be written, or another connection has it.
        OSError: It cannot be made.
    """
    for _ in range(_MOVES_MAX):
        _make(path)
        with suppress(FileNotFoundError):
            before = path.stat()
            connection = _connected(path, is_remote=is_remote)
            try:
                # The run that had it may have set it aside before it let go of it: then its lock keeps no other run out.
                if path.stat().st_ino == before.st_ino:
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
    raise busy(path.parent.parent)


def _make(path: Path) -> None:
    """Make a journal that is still empty, unless there is one.

    Not by SQLite, so that no other user can read it and no link is followed. One that is there is left to SQLite: to close
    another descriptor of it would give up the lock that this process may hold.
    """
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            set_mode(descriptor, 0o600)
        finally:
            os.close(descriptor)


def _connected(path: Path, *, is_remote: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        mode = "TRUNCATE" if is_remote else "WAL"
        for pragma in ("locking_mode=EXCLUSIVE", f"journal_mode={mode}", "synchronous=FULL", "mmap_size=0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_MAX}")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def uri_of(path: Path, parameters: str) -> str:
    """Return the URI by which SQLite opens a database with these parameters. The path may have bytes that are not UTF-8."""
    return f"file:{quote(os.fsencode(path.absolute()))}?{parameters}"


def is_busy(error: sqlite3.DatabaseError) -> bool:
    """Say whether another connection has it."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Say whether what is there is no database, or not a whole one."""
    return primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def has_no_locks(folder: Path) -> bool:
    """Say whether a folder's file system has no locks, by trying one that no other process can have."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _LOCKLESS
    return False


def why_closed(error: OSError | sqlite3.DatabaseError, path: Path, dest: Path) -> RunError:
    """Return the error of a run that cannot have its journal.

    Args:
        error: What was said.
        path: The journal.
        dest: The destination.
    """
    hint = "check the disk and the permissions"
    with suppress(OSError):
        if path.stat().st_uid != os.geteuid() and not os.access(path, os.R_OK | os.W_OK):
            return belongs_to_another(path)
    if isinstance(error, sqlite3.DatabaseError):
        could_not_lock = primary_code(error) in {
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_PROTOCOL,
            sqlite3.SQLITE_IOERR,
        }
        if could_not_lock and has_no_locks(path.parent):
            hint = "its file system does not lock files: mount it so that it does, or choose another --dest"
        elif is_busy(error):
            return busy(dest)
    return DestinationError(f"{path} cannot be opened: {error}{file_limit_told()}", hint=hint)


def belongs_to_another(place: Path) -> DestinationError:
    """Return the error of a run that may not use what another user's run has left."""
    return DestinationError(
        f"{place} belongs to {user_name(place.lstat().st_uid)}, and is closed to you",
        hint="let them run it, have the tree handed over to you (chown -R), or choose a --dest of your own",
    )


def primary_code(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's primary result code; 0 for what Python's module says by itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_there(path: Path) -> bool:
    """Say whether there is a journal.

    Raises:
        DestinationError: It or the state folder is a link, or something else that is not ours.
    """
    for place, is_right in ((path.parent, stat.S_ISDIR), (path, stat.S_ISREG)):
        try:
            mode = place.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError:
            raise belongs_to_another(path.parent) from None
        if not is_right(mode):
            raise DestinationError(
                f"{place} is not this tool's: it is a link or of another kind",
                hint="remove it and run the same command again",
            )
    return True


def remote_name_of(folder: Path) -> str | None:
    """Return what a folder's file system is called, if it is or may be on another machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return remote_name(type_of(descriptor))
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> None:
    """Keep a damaged journal under another name. The files that it lists are hashed again.

    What SQLite keeps beside it goes first: beside a new journal it would be taken for that one's. A connection that still has
    the journal notices that it was moved, and touches no name when it is closed.
    """
    for leftover in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)
    path.rename(_new_file(f"{path}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))


def _new_file(name: str) -> Path:
    """Make an empty file under a name, or the next one that is free, so that none is ever overwritten."""
    for number in count(1):
        path = Path(name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return path
    raise AssertionError("unreachable")


@contextmanager
def alone(folder: Path, dest: Path) -> Iterator[None]:
    """Keep all other runs from setting a journal aside while the block lasts.

    Else a second run that found the same damage would set aside the journal that the first one has begun since.

    Raises:
        DestinationBusyError: Another run is in such a block.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy(dest) from None
        except OSError:
            pass  # This file system does not lock folders.
        yield
    finally:
        os.close(descriptor)


def busy(dest: Path) -> DestinationBusyError:
    """Return the error of a run that comes second."""
    return DestinationBusyError(
        f"another run holds {dest}", hint="wait for it, or stop it; then run the same command again"
    )


def text_of(text: str) -> str:
    """Return text that SQLite takes: a key that was refused may be no Unicode text."""
    return text.encode(errors="backslashreplace").decode()


def now_text() -> str:
    """Return the time as it is kept for people."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
