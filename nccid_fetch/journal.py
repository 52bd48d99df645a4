"""What is on disk and proved: one SQLite file in the state folder.

Rules
    A record is written only after its file is in place and durable, so the journal never claims more than the
    disk holds. Losing the journal costs hashing, never downloading.
    One connection, used from one thread. `locking_mode=EXCLUSIVE` comes before WAL: it makes the open journal the
    lock of the run, kept by the kernel, and does without the shared-memory file. On file systems that are, or may be,
    on another machine there is no WAL but a rollback journal, and the lock may be granted to others as well.
    What was not flushed says so, and is in doubt in any other boot of the machine than that it was written in.
    Commits of a run that flushes nothing may be lost, but not a record of an earlier run: SQLite still flushes around
    checkpoints (`synchronous=NORMAL`), which is seldom.

Schema, version 3 (times are milliseconds since the epoch, UTC)
    identity   bucket, group_name, endpoint, created: the one warehouse that this destination belongs to
    folder     id, prefix: a key up to its last slash, once, however many objects are below it
    object     folder, name, size, etag, modified, verified_by, unflushed, mtime: an object that is in place. An ETag of 32
               hex digits is kept as 16 bytes. verified_by: 1 MD5, 2 multipart MD5, 3 checksum, 4 size alone.
               unflushed: the run that put it in place without flushing it to disk; 0 for all others. mtime: nanoseconds, of its
               file, where the file system did not keep `modified`, which is the object's; else null
    failure    key, reason, message: an object that was refused or failed when a run last looked at it
    twin       folded, key: on a file system that folds names, which key owns a name
    run        id, command, started, ended: a run without an end was killed
    unflushed  run, boot, failed: a run that did not flush what it wrote, in which boot of the machine (null where
               that is not known), and whether it was a flush that failed. A failed flush makes the system's memory
               suspect for as long as that boot lasts
    listing    part, objects, bytes, ended, is_whole, endpoint: what the last listing of a part that came to its end gave, before
               any filter; where, and whether it is to be doubted. Older versions of this tool neither have nor mind it
    objects    a view of object for people: key, size, etag, modified, verified_by

Version 1 knew only what was flushed: it had no `unflushed`, neither the column nor the table. Version 2 had no `mtime`.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import DestinationError, DestinationFullError, Reason, UsageError
from .failures import Failures
from .keys import STATE_FOLDER
from .machine import file_limit_told
from .model import Listed, Record
from .rows import INTEGER_MAX, MS, PROOFS, loaded_etag, own_time, prefix_of, stored_etag
from .schema import LISTING, MIGRATION, SCHEMA, VERSION
from .settings import Durability
from .sqlitefile import (
    alone,
    connect,
    is_damaged,
    is_there,
    now_text,
    primary_code,
    remote_name_of,
    set_aside,
    text_of,
    why_closed,
)

_FOLDERS_CACHED_MAX = 4096

_ROWS = (
    "SELECT prefix || name, size, etag, modified, verified_by, unflushed, mtime"
    " FROM folder CROSS JOIN object ON folder = folder.id"
)
_IN_A_FOLDER = f"{_ROWS} WHERE prefix = ? AND name BETWEEN ? AND ?"
_BETWEEN_FOLDERS = f"{_ROWS} WHERE prefix BETWEEN ? AND ? LIMIT ?"
_COUNT = "SELECT count(*) FROM folder CROSS JOIN object ON folder = folder.id WHERE prefix >= ? AND prefix < ?"


class _DamagedError(DestinationError):
    """The journal is there, and is none."""


class Journal:
    """An open journal, and with it the sole right to change its destination.

    Args:
        connection: The connection, already exclusive.
        path: The file, for messages.
        boot: What tells this boot of the machine from any other; None where that is not known.
        remote: What the file system is called, if it is or may be on another machine.

    Attributes:
        failures: What did not arrive.
        remote: As given.
        distrusts_cache: Whether a flush failed in this boot: what is read may then not be what is on the disk.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, boot: str | None = None, remote: str | None = None
    ) -> None:
        self.remote = remote
        self.distrusts_cache = False
        self._connection = connection
        self.failures = Failures(connection, self._transaction)
        self._path = path
        self._boot = boot
        self._folder_ids: dict[str, int] = {}
        self._in_doubt: frozenset[int] = frozenset()
        self._run = 0
        self._unflushed = 0
        self._is_damaged = self._has_begun = False

    @staticmethod
    def path(dest: Path) -> Path:
        """Return where a destination's journal is."""
        return dest / STATE_FOLDER / "journal.sqlite"

    @classmethod
    def open(
        cls, dest: Path, *, bucket: str, group: str, endpoint: str | None = None, boot: str | None = None
    ) -> "Journal | None":
        """Open a destination's journal.

        Args:
            dest: The destination.
            bucket: The bucket that the run is about.
            group: The group that the run is about.
            endpoint: Make the journal if it is missing, noting this endpoint. None: leave a missing one missing.
            boot: What tells this boot of the machine from any other. None where that is not known: then all that was
                not flushed is in doubt.

        Returns:
            The journal, or None if it is missing and is not to be made.

        Raises:
            DestinationBusyError: Another run holds it.
            UsageError: It belongs to another bucket or group, or to a newer version of this tool.
            DestinationError: It cannot be opened.
        """
        path = cls.path(dest)

        def opened() -> Journal:
            remote = remote_name_of(path.parent)
            journal = cls(connect(path, is_remote=remote is not None), path, boot, remote)
            try:
                with journal._telling():
                    journal._belong(dest, bucket, group, endpoint)
                    journal._look_for_doubt()
            except BaseException:
                journal.close()
                raise
            return journal

        try:
            if not is_there(path) and endpoint is None:
                return None
            journal = _unless_damaged(opened)
            if journal is not None or endpoint is None:
                return journal
            with alone(path.parent, dest):
                journal = _unless_damaged(opened)  # Another run may have begun a new one since.
                if journal is None:
                    set_aside(path)
                    journal = opened()
                return journal
        except (OSError, sqlite3.DatabaseError) as error:
            raise why_closed(error, path, dest) from error

    def _belong(self, dest: Path, bucket: str, group: str, endpoint: str | None) -> None:
        """Check or set whose journal this is."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise UsageError(
                f"{dest} was written by a newer nccid-fetch (journal version {version})", hint="upgrade nccid-fetch"
            )
        execute, run_script = self._connection.execute, self._connection.executescript
        if version == 0:
            run_script(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
        owner = execute("SELECT bucket, group_name FROM identity").fetchone()
        if owner is not None and tuple(owner) != (bucket, group):
            raise UsageError(
                f"{dest} belongs to group {owner[1]} of bucket {owner[0]}, not to group {group} of {bucket}",
                hint="give every bucket and group a --dest of its own",
            )
        if 0 < version < VERSION:  # Only now: of what belongs to another, nothing is changed.
            changes = "".join(MIGRATION[step] for step in range(version, VERSION))
            run_script(f"BEGIN;{changes}PRAGMA user_version={VERSION};COMMIT;")
        if owner is None:
            execute("INSERT INTO identity VALUES (?, ?, ?, ?)", (bucket, group, endpoint or "", now_text()))
        execute(LISTING)

    def _look_for_doubt(self) -> None:
        """Find out which runs' records are in doubt. There are few such runs, and no record is looked at."""
        runs = self._connection.execute("SELECT run, boot, failed FROM unflushed").fetchall()
        here = {run for run, boot, _ in runs if boot is not None and boot == self._boot}
        failed = [run for run, boot, has_failed in runs if has_failed and (run in here or None in {boot, self._boot})]
        self.distrusts_cache = bool(failed)
        self._in_doubt = frozenset(run for run, _, _ in runs if run not in here or run <= max(failed, default=0))

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
        in_doubt = self._in_doubt
        with self._telling():
            return {
                key: Record(size, loaded_etag(etag), modified * MS, PROOFS[verified_by], unflushed in in_doubt, mtime)
                for key, size, etag, modified, verified_by, unflushed, mtime in self._rows(
                    folders, rows_max=2 * len(keys)
                )
                if key in wanted
            }

    def count(self, prefix: str) -> int:
        """Return how many objects below a prefix, which ends in a slash, are recorded."""
        with self._telling():
            (objects,) = self._connection.execute(_COUNT, (prefix, f"{prefix[:-1]}0")).fetchone()
        return int(objects)

    def listed(self) -> dict[str, Listed]:
        """Return what was last listed of each part."""
        with self._telling():
            rows = self._connection.execute("SELECT part, objects, bytes, ended, is_whole FROM listing").fetchall()
        return {part: Listed(objects, size, ended, bool(is_whole)) for part, objects, size, ended, is_whole in rows}

    def note_listing(self, part: str, objects: int, size: int, *, is_whole: bool, endpoint: str) -> None:
        """Remember what a listing of a part, which came to its end, gave.

        Args:
            part: The part.
            objects: How many, whatever was wanted of them.
            size: Their bytes.
            is_whole: Whether there is no reason to doubt that it was all.
            endpoint: Of whom it was asked.
        """
        row = (text_of(part), objects, min(size, INTEGER_MAX), now_text(), is_whole, endpoint)
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO listing VALUES (?, ?, ?, ?, ?, ?)", row)

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
            placed: Key and record. What failed before under these keys is forgotten.
            failed: Key, reason, message.
        """
        with self._transaction():
            rows = {key: self._row(key, record) for key, record in placed}
            self._connection.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows.values())
            self.failures.forget(rows)
            self.failures.note(failed)

    def retime(self, moved: Iterable[tuple[str, int, int]]) -> None:
        """Record that objects have a newer LastModified, and which mtime their files have, and nothing else about them.

        Args:
            moved: Key, and nanoseconds of both.
        """
        with self._transaction():
            self._connection.executemany(
                "UPDATE object SET modified = ?, mtime = ? WHERE folder = ? AND name = ?",
                [
                    (modified_ns // MS, own_time(modified_ns, mtime_ns), self._folder_id(prefix), key[len(prefix) :])
                    for key, modified_ns, mtime_ns in moved
                    for prefix in [prefix_of(key)]
                ],
            )

    def forget(self, keys: Iterable[str], replaced: Iterable[str] = ()) -> None:
        """Forget, durably, records of files that are to be written anew, in a run that does not flush them.

        Else a file may keep the recorded size and time through a loss of power, and not its content. Where a record vouches
        for the file that is to be replaced, it stays, and is in doubt in any other boot.
        """
        if not self._unflushed:
            return
        forgetting = "DELETE FROM object WHERE folder = ? AND name = ?"
        doubting = "UPDATE object SET unflushed = (SELECT max(run) FROM unflushed) WHERE folder = ? AND name = ?"
        with self._telling():
            self._connection.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                for sql, some in ((forgetting, keys), (doubting, replaced)):
                    rows = [(self._folder_id(prefix_of(key)), key[len(prefix_of(key)) :]) for key in some]
                    self._connection.executemany(sql, rows)
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def note_failed_flush(self) -> None:
        """Remember that what this run wrote may not be on the disk, whatever is read as long as the machine runs."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO unflushed VALUES (?, ?, 1)", (self._run, self._boot))

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
    def run(self, command: str, prefixes: Iterable[str], durability: Durability = Durability.BATCH) -> Iterator[None]:
        """Note a run, from its beginning to its end, however it ends.

        Args:
            command: What was called.
            prefixes: The parts that it lists, each ending in a slash.
            durability: With `none`, what is recorded is marked as not flushed, and commits are not flushed either.
        """
        self._has_begun = True
        with self._transaction():
            self.failures.begin(prefixes)
            cursor = self._connection.execute("INSERT INTO run (command, started) VALUES (?, ?)", (command, now_text()))
            self._run = int(cursor.lastrowid or 0)
            if durability is Durability.NONE:
                self._unflushed = self._run
                self._connection.execute("INSERT INTO unflushed VALUES (?, ?, 0)", (self._run, self._boot))
        if durability is Durability.NONE:
            self._connection.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._unflushed = 0
            with suppress(sqlite3.Error):  # On a disk that is full, how the run ended is said elsewhere.
                self._connection.execute("UPDATE run SET ended = ? WHERE id = ?", (now_text(), self._run))
                self._connection.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        """Close the journal, leaving one file, and let the next run have the destination.

        If it turned out during a run that it is damaged, it is set aside before the lock goes: a run that waits for the lock
        would go on in it, and a third one begin a new one. The next run begins a new one.
        """
        if self._is_damaged and self._has_begun:
            with suppress(OSError):
                set_aside(self._path)
            self._connection.close()
            return
        with suppress(sqlite3.Error):
            if self.remote is None:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            else:  # A rollback journal goes only when nobody is kept out any more, and SQLite sees to it that none is.
                self._connection.execute("PRAGMA locking_mode=NORMAL")
                self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                self._connection.execute("PRAGMA journal_mode=DELETE")
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
            if is_damaged(error):
                self._is_damaged = True
                raise _DamagedError(
                    f"{self._path} is damaged",
                    hint="the next run begins a new one: what is intact is hashed, and not downloaded again",
                ) from error
            if not isinstance(error, sqlite3.OperationalError):
                raise
            kind = DestinationFullError if primary_code(error) == sqlite3.SQLITE_FULL else DestinationError
            raise kind(
                f"{self._path} cannot be read or written: {error}{file_limit_told()}",
                hint="make room, check the disk, then run the same command again; what was verified stays",
            ) from error

    def _row(self, key: str, record: Record) -> tuple[int, str, int, bytes | str, int, int, int, int | None]:
        prefix = prefix_of(key)
        return (
            self._folder_id(prefix),
            key[len(prefix) :],
            record.size,
            stored_etag(record.etag),
            record.modified_ns // MS,
            int(record.verified_by),
            self._unflushed,
            own_time(record.modified_ns, record.file_ns),
        )

    def _folder_id(self, prefix: str) -> int:
        """Return the number of a folder, which gets one if it has none."""
        known = self._folder_ids.get(prefix)
        if known is not None:
            return known
        row = self._connection.execute("SELECT id FROM folder WHERE prefix = ?", (prefix,)).fetchone()
        if row is None:
            row = (self._connection.execute("INSERT INTO folder (prefix) VALUES (?)", (prefix,)).lastrowid or 0,)
        number = int(row[0])
        if len(self._folder_ids) >= _FOLDERS_CACHED_MAX:
            self._folder_ids.clear()
        self._folder_ids[prefix] = number
        return number


def _unless_damaged(opened: Callable[[], Journal]) -> Journal | None:
    """Return what is opened; None if it is damaged."""
    try:
        return opened()
    except _DamagedError:
        return None
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
        return None
