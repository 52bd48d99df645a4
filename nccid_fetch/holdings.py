"""What a destination holds, from its journal alone: offline, changing nothing, and in no run's way.

The journal is read only while no run has it. It is opened as what cannot change (SQLite's `immutable`), without a lock: a
lock of ours, held for the seconds that eleven million rows take, would turn away a run that begins meanwhile. So
whoever reads looks afterwards whether it did change, and then reads nothing out of it.

A run that was killed leaves its journal open: what it committed last is in a file beside it, and only the next run, which
has the right to change it, brings both together. Until then a copy is read, in which SQLite may do so; it is made among the
staged files, where a pseudonym is as safe as in the journal, and where the next run clears away what is left of it.
"""

import os
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from .errors import DestinationError, UsageError
from .journal import Journal
from .keys import STATE_FOLDER
from .model import Listed, VerifiedBy
from .schema import VERSION
from .sqlitefile import is_there, uri_of
from .summary import Count
from .warehouse import part_of

_OBJECTS = """
SELECT prefix, objects, bytes, multipart_md5, checksum, size FROM folder JOIN (
    SELECT folder, count(*) AS objects, sum(size) AS bytes,
        sum(verified_by = 2) AS multipart_md5, sum(verified_by = 3) AS checksum, sum(verified_by = 4) AS size
    FROM object GROUP BY folder
) ON folder = folder.id
"""
"""By folder, which is the order on the disk: 0.3 s for a million rows, in which an index would help little."""
_LAST_RUN = "SELECT command, started, ended FROM run ORDER BY id DESC LIMIT 1"
_STAGED = "staged"
_LEFT_OPEN = ("-wal", "-journal")
_COPIED_BYTES_MAX = 256 << 20
"""A journal of two million objects. A larger one is not copied, but waits for the next run."""


@dataclass(slots=True)
class PartHolding:
    """What is in place of one part.

    Attributes:
        in_place: Recorded as in place.
        failed: What was refused or failed when a run last looked at it, by reason.
    """

    in_place: Count = field(default_factory=Count)
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run over a destination, as its journal has it.

    Attributes:
        command: What was called.
        started: When it began.
        ended: When it ended; None if it was killed.
    """

    command: str
    started: str
    ended: str | None


@dataclass(slots=True)
class Holdings:
    """What a destination holds.

    Attributes:
        bucket: The bucket that it belongs to.
        group: The group that it belongs to.
        runs: How many runs there were.
        last_run: The last of them.
        listed: What was last listed of each part that ever was to its end.
        parts: What is in place of each part that anything is known of.
        verified: How many objects were proved in which way.
    """

    bucket: str
    group: str
    runs: int
    last_run: LastRun | None
    listed: dict[str, Listed]
    parts: dict[str, PartHolding] = field(default_factory=dict)
    verified: Counter[VerifiedBy] = field(default_factory=Counter)


class JournalState(StrEnum):
    """Whether a journal can be read."""

    MISSING = "missing"
    LEFT_OPEN = "left open"
    """By a run that was killed, or one that goes on."""
    CLOSED = "closed"


def journal_state(dest: Path) -> JournalState:
    """Say whether a destination's journal can be read.

    Raises:
        DestinationError: It or the state folder is a link, or something else that is not ours.
    """
    path = Journal.path(dest)
    if not is_there(path) or not path.stat().st_size:
        return JournalState.MISSING
    beside = [path.with_name(path.name + ending) for ending in _LEFT_OPEN]
    left = any(file.exists() and file.stat().st_size for file in beside)
    return JournalState.LEFT_OPEN if left else JournalState.CLOSED


def read_holdings(dest: Path) -> Holdings | None:
    """Return what a destination holds; None if it has no journal, or one that cannot be read now.

    Only where no run is seen to have it: one that goes on looks like one that was killed.

    Raises:
        UsageError: It was written by a newer version of this tool.
        DestinationError: It cannot be read.
    """
    path = Journal.path(dest)
    try:
        before = _stamp(path)
        state = journal_state(dest)
        if state is JournalState.MISSING or (state is JournalState.LEFT_OPEN and not _may_be_copied(path)):
            return None
        try:
            holdings = _read_copy(path, dest) if state is JournalState.LEFT_OPEN else _read_file(path, dest)
        except (sqlite3.DatabaseError, OSError):
            if _stamp(path) != before:
                return None
            raise
        return holdings if _stamp(path) == before else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (sqlite3.DatabaseError, OSError) as error:
        raise DestinationError(
            f"{path} cannot be read: {error}",
            hint="if it is damaged, the next run begins a new one: what is intact is hashed, and not downloaded again",
        ) from error


def _stamp(path: Path) -> tuple[object, ...]:
    """Return what changes when anybody changes the journal, or opens it."""
    stamp: list[object] = []
    for file in _files(path):
        found = file.stat()
        stamp += [file, found.st_ino, found.st_size, found.st_mtime_ns]
    return tuple(stamp)


def _files(path: Path) -> list[Path]:
    """Return the journal, and what a run that has it, or left it open, keeps beside it."""
    beside = [path.with_name(path.name + ending) for ending in _LEFT_OPEN]
    return [path, *(file for file in beside if file.exists())]


def _read_file(path: Path, dest: Path) -> Holdings:
    with closing(sqlite3.connect(uri_of(path, "mode=ro&immutable=1"), uri=True)) as connection:
        return _read(connection, dest)


def _may_be_copied(path: Path) -> bool:
    staged = path.parent / _STAGED
    is_small = sum(file.stat().st_size for file in _files(path)) <= _COPIED_BYTES_MAX
    return is_small and staged.is_dir() and not staged.is_symlink() and os.access(staged, os.W_OK)


def _read_copy(path: Path, dest: Path) -> Holdings | None:
    """Return what a copy says; None where there is no room for one."""
    copy = path.parent / _STAGED / f"status-{os.urandom(6).hex()}.sqlite"
    try:
        for file in _files(path):
            target = copy.with_name(copy.name + file.name.removeprefix(path.name))
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out, file.open("rb") as content:
                shutil.copyfileobj(content, out, 1 << 20)
    except OSError:
        _remove(copy)
        return None
    try:
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            return _read(connection, dest)
    finally:
        _remove(copy)


def _remove(copy: Path) -> None:
    with suppress(OSError):  # Then the next run clears it away.
        for left in copy.parent.glob(f"{copy.name}*"):
            left.unlink(missing_ok=True)


def _read(connection: sqlite3.Connection, dest: Path) -> Holdings:
    execute = connection.execute
    (version,) = execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise UsageError(
            f"{dest} was written by a newer nccid-fetch (journal version {version})", hint="upgrade nccid-fetch"
        )
    bucket, group = execute("SELECT bucket, group_name FROM identity").fetchone() or ("", "")
    (runs,) = execute("SELECT count(*) FROM run").fetchone()
    last = execute(_LAST_RUN).fetchone()
    holdings = Holdings(bucket, group, runs, None if last is None else LastRun(*last), dict(_listed(connection)))
    for prefix, objects, size, *proofs in execute(_OBJECTS):
        part = holdings.parts.setdefault(part_of(prefix, group), PartHolding())
        part.in_place.add(size, objects)
        holdings.verified[VerifiedBy.MD5] += objects - sum(proofs)
        for proof, number in zip((VerifiedBy.MULTIPART_MD5, VerifiedBy.CHECKSUM, VerifiedBy.SIZE), proofs, strict=True):
            holdings.verified[proof] += number
    for key, reason in execute("SELECT key, reason FROM failure"):
        holdings.parts.setdefault(part_of(key, group), PartHolding()).failed[reason] += 1
    return holdings


def _listed(connection: sqlite3.Connection) -> Iterator[tuple[str, Listed]]:
    """Yield what was last listed of each part; nothing where the journal is older than that table."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'listing'").fetchone():
        rows = connection.execute("SELECT part, objects, bytes, ended, is_whole FROM listing ORDER BY part")
        for part, objects, size, ended, is_whole in rows:
            yield part, Listed(objects, size, ended, bool(is_whole))


def count_quarantine(dest: Path) -> Count:
    """Return how many files are set aside in the state folder. No link is followed, and what cannot be read is not counted."""
    count = Count()
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder_fd = os.open(dest / STATE_FOLDER, flags)
    except OSError:
        return count
    try:
        for _, _, names, inner_fd in os.fwalk("quarantine", dir_fd=folder_fd):
            for name in names:
                found = os.stat(name, dir_fd=inner_fd, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    count.add(found.st_size)
    except OSError:
        return count  # There is none, or it changes meanwhile: the next look sees what is there then.
    finally:
        os.close(folder_fd)
    return count
