"""The journal as a file: opened for one run alone, told from what is none, and set aside where it is damaged."""

import os
import sqlite3
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from .errors import DestinationError
from .filesystem import remote_name, type_of

_WAL_BYTES_MAX = 16 << 20
"""What a WAL that grew with a large batch is cut back to. SQLite's checkpoints keep it at a quarter of that."""


def connect(path: Path, *, is_remote: bool) -> sqlite3.Connection:
    """Open a database, made if it is missing, for this connection alone.

    Raises:
        sqlite3.DatabaseError: It is none, is damaged, cannot be written, or another connection has it.
        OSError: It cannot be made.
    """
    # Made here, and not by SQLite, so that it is nobody else's to read and no link is followed. One that is there
    # is left to SQLite: to close another descriptor of it would give up the lock that this process may hold.
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
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


def is_lockless(error: sqlite3.DatabaseError) -> bool:
    """Say whether a lock could not be had because there are none, and not because another has it."""
    extended = int(getattr(error, "sqlite_errorcode", 0))
    return primary_code(error) == sqlite3.SQLITE_PROTOCOL or extended in {
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_UNLOCK,
    }


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
    """Keep a damaged journal for whoever wants to look at it. The files it spoke of will be hashed again."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path.rename(path.with_name(f"{path.name}.damaged-{stamp}"))
    for leftover in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)


def text_of(text: str) -> str:
    """Return text that SQLite takes: a key that was refused may be no Unicode text."""
    return text.encode(errors="backslashreplace").decode()


def now_text() -> str:
    """Return the time as it is kept for people."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
