"""What is on disk and proved: one SQLite file in the state folder.

Rules
    A record is written only after its file is in place and durable, so the journal never claims more than the
    disk holds. Losing the journal costs hashing, never downloading.
    One connection, used from one thread. `locking_mode=EXCLUSIVE` comes before WAL: it makes the open journal the
    lock of the run, kept by the kernel, and does without the shared-memory file.

Schema, version 1 (times are milliseconds since the epoch, UTC)
    identity   bucket, group_name, endpoint, created: the one warehouse that this destination belongs to
    folder     id, prefix: a key up to its last slash, once, however many objects are below it
    object     folder, name, size, etag, modified, verified_by: an object that is in place. An ETag of 32 hex
               digits is kept as 16 bytes. verified_by: 1 MD5, 2 multipart MD5, 3 checksum, 4 size alone
    failure    key, reason, message: an object that was refused or failed in the last run over its part
    twin       folded, key: on a file system that folds names, which key owns a name
    run        id, command, started, ended: a run without an end was killed
    objects    a view of object for people: key, size, etag, modified, verified_by
"""

import os
import re
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import DestinationBusyError, DestinationError, Reason, UsageError
from .keys import STATE_FOLDER
from .model import ETag, Record, VerifiedBy

VERSION = 1
_MS = 1_000_000
_FOLDERS_CACHED_MAX = 4096

_SCHEMA = """
CREATE TABLE identity (bucket TEXT NOT NULL, group_name TEXT NOT NULL, endpoint TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE folder (id INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE);
CREATE TABLE object (
    folder INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, etag NOT NULL,
    modified INTEGER NOT NULL, verified_by INTEGER NOT NULL, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE TABLE failure (key TEXT PRIMARY KEY, reason TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE twin (folded TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (id INTEGER PRIMARY KEY, command TEXT NOT NULL, started TEXT NOT NULL, ended TEXT);
CREATE VIEW objects AS SELECT
    prefix || name AS key, size, iif(typeof(etag) = 'blob', lower(hex(etag)), etag) AS etag,
    strftime('%Y-%m-%dT%H:%M:%SZ', modified / 1000, 'unixepoch') AS modified,
    CASE verified_by WHEN 1 THEN 'md5' WHEN 2 THEN 'multipart_md5' WHEN 3 THEN 'checksum' ELSE 'size' END AS verified_by
    FROM object JOIN folder ON folder.id = object.folder;
"""

_ROWS = "SELECT prefix || name, size, etag, modified, verified_by FROM folder CROSS JOIN object ON folder = folder.id"
_IN_A_FOLDER = f"{_ROWS} WHERE prefix = ? AND name BETWEEN ? AND ?"
_BETWEEN_FOLDERS = f"{_ROWS} WHERE prefix BETWEEN ? AND ? LIMIT ?"
_AS_BYTES = re.compile(r"[0-9a-f]{32}")
_PROOFS = {int(proof): proof for proof in VerifiedBy}


class Journal:
    """An open journal, and with it the sole right to change its destination.

    Args:
        connection: The connection, already exclusive.
        path: The file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._folder_ids: dict[str, int] = {}

    @staticmethod
    def path(dest: Path) -> Path:
        """Return where a destination's journal is."""
        return dest / STATE_FOLDER / "journal.sqlite"

    @classmethod
    def open(cls, dest: Path, *, bucket: str, group: str, endpoint: str | None = None) -> "Journal | None":
        """Open a destination's journal.

        Args:
            dest: The destination.
            bucket: The bucket that the run is about.
            group: The group that the run is about.
            endpoint: Make the journal if it is missing, noting this endpoint. None: leave a missing one missing.

        Returns:
            The journal, or None if it is missing and is not to be made.

        Raises:
            DestinationBusyError: Another run holds it.
            UsageError: It belongs to another bucket or group, or to a newer version of this tool.
            DestinationError: It cannot be opened.
        """
        path = cls.path(dest)
        try:
            if not _is_there(path) and endpoint is None:
                return None
            try:
                journal = cls(cls._connect(path), path)
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error):
                    raise
                if endpoint is None:
                    return None
                _set_aside(path)
                journal = cls(cls._connect(path), path)
        except (OSError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.DatabaseError) and _is_busy(error):
                raise DestinationBusyError(
                    f"another run holds {dest}", hint="wait for it, or stop it; then run the same command again"
                ) from None
            raise DestinationError(
                f"{path} cannot be opened: {error}", hint="check the disk and the permissions"
            ) from error
        try:
            with journal._telling():
                journal._belong(dest, bucket, group, endpoint)
        except BaseException:
            journal.close()
            raise
        return journal

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
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
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "mmap_size=0"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _belong(self, dest: Path, bucket: str, group: str, endpoint: str | None) -> None:
        """Check or set whose journal this is."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise UsageError(
                f"{dest} was written by a newer nccid-fetch (journal version {version})", hint="upgrade nccid-fetch"
            )
        if version == 0:
            self._connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
        owner = self._connection.execute("SELECT bucket, group_name FROM identity").fetchone()
        if owner is None:
            self._connection.execute(
                "INSERT INTO identity VALUES (?, ?, ?, ?)", (bucket, group, endpoint or "", _now())
            )
        elif tuple(owner) != (bucket, group):
            raise UsageError(
                f"{dest} belongs to group {owner[1]} of bucket {owner[0]}, not to group {group} of {bucket}",
                hint="give every bucket and group a --dest of its own",
            )

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        """Return what is remembered of the keys of a page.

        Args:
            keys: Its keys. Those in one folder are asked for in one query.
        """
        folders: defaultdict[str, list[str]] = defaultdict(list)
        for key in keys:
            cut = key.rfind("/") + 1
            folders[key[:cut]].append(key[cut:])
        wanted = set(keys)
        with self._telling():
            return {
                key: Record(size, _load_etag(etag), modified * _MS, _PROOFS[verified_by])
                for key, size, etag, modified, verified_by in self._rows(folders, rows_max=2 * len(keys))
                if key in wanted
            }

    def _rows(self, folders: Mapping[str, Sequence[str]], rows_max: int) -> Iterable[tuple[Any, ...]]:
        """Return the rows of these names in these folders, and some of their neighbours."""
        execute = self._connection.execute
        if len(folders) * 10 > rows_max:
            # Folders of a few objects each: one query takes a third of the time of one per folder. Unless what is
            # asked for lies far apart, as it may in a plan.
            rows = execute(_BETWEEN_FOLDERS, (min(folders), max(folders), rows_max)).fetchall()
            if len(rows) < rows_max:
                return rows
        return chain.from_iterable(
            execute(_IN_A_FOLDER, (prefix, min(names), max(names))) for prefix, names in folders.items()
        )

    def commit(self, placed: Iterable[tuple[str, Record]], failed: Iterable[tuple[str, Reason, str]] = ()) -> None:
        """Record a batch: files that are in place, and objects that failed. All of it, or nothing.

        Args:
            placed: Key and record.
            failed: Key, reason, message.
        """
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)",
                [self._row(key, record) for key, record in placed],
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO failure VALUES (?, ?, ?)",
                [(_text(key), str(reason), _text(message)) for key, reason, message in failed],
            )

    def own_names(self, folded: Sequence[tuple[str, str]]) -> list[str]:
        """Return which key owns each name on a file system that folds names; the first to ask does.

        Args:
            folded: Folded path and key.
        """
        owners = []
        execute = self._connection.execute
        with self._transaction():
            for name, key in folded:
                execute("INSERT OR IGNORE INTO twin VALUES (?, ?)", (name, key))
                owners.append(execute("SELECT key FROM twin WHERE folded = ?", (name,)).fetchone()[0])
        return owners

    @contextmanager
    def run(self, command: str, prefixes: Iterable[str]) -> Iterator[None]:
        """Note a run, from its beginning to its end, however it ends.

        What failed before is forgotten: everything below these prefixes is tried again.

        Args:
            command: What was called.
            prefixes: What the run is about, each ending in a slash.
        """
        with self._transaction():
            for prefix in prefixes:
                after = prefix[:-1] + "0"  # The character that follows the slash.
                self._connection.execute("DELETE FROM failure WHERE key >= ? AND key < ?", (prefix, after))
            cursor = self._connection.execute("INSERT INTO run (command, started) VALUES (?, ?)", (command, _now()))
        try:
            yield
        finally:
            with suppress(sqlite3.Error):  # On a disk that is full, how the run ended is said elsewhere.
                self._connection.execute("UPDATE run SET ended = ? WHERE id = ?", (_now(), cursor.lastrowid))

    def close(self) -> None:
        """Close the journal, leaving one file, and let the next run have the destination."""
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it, or nothing."""
        with self._telling():
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._folder_ids.clear()
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself.
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what the disk did to the journal; a wrong use of SQLite by us stays a defect."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _is_damaged(error):
                raise DestinationError(
                    f"{self._path} is damaged",
                    hint="move it away and run the same command again: what is intact is not downloaded again",
                ) from error
            if not isinstance(error, sqlite3.OperationalError):
                raise
            raise DestinationError(
                f"{self._path} cannot be read or written: {error}",
                hint="make room, check the disk, then run the same command again; what was verified stays",
            ) from error

    def _row(self, key: str, record: Record) -> tuple[int, str, int, bytes | str, int, int]:
        prefix = _prefix(key)
        return (
            self._folder_id(prefix),
            key[len(prefix) :],
            record.size,
            _store_etag(record.etag),
            record.modified_ns // _MS,
            int(record.verified_by),
        )

    def _folder_id(self, prefix: str) -> int:
        """Return the number of a folder, which gets one if it has none."""
        known = self._folder_ids.get(prefix)
        if known is not None:
            return known
        row = self._connection.execute("SELECT id FROM folder WHERE prefix = ?", (prefix,)).fetchone()
        number = (
            int(row[0])
            if row
            else int(self._connection.execute("INSERT INTO folder (prefix) VALUES (?)", (prefix,)).lastrowid or 0)
        )
        if len(self._folder_ids) >= _FOLDERS_CACHED_MAX:
            self._folder_ids.clear()
        self._folder_ids[prefix] = number
        return number


def _prefix(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _store_etag(etag: ETag) -> bytes | str:
    return bytes.fromhex(etag) if _AS_BYTES.fullmatch(etag) else str(etag)


def _load_etag(stored: bytes | str) -> ETag:
    return ETag(stored.hex() if isinstance(stored, bytes) else stored)


def _text(text: str) -> str:
    """Return text that SQLite takes: a key that was refused may be no Unicode text."""
    return text.encode(errors="backslashreplace").decode()


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's primary result code; 0 for what Python's module says by itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_there(path: Path) -> bool:
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


def _set_aside(path: Path) -> None:
    """Keep a damaged journal for whoever wants to look at it. The files it spoke of will be hashed again."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path.rename(path.with_name(f"{path.name}.damaged-{stamp}"))
    for leftover in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
