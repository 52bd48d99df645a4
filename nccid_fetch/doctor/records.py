"""The journal's health, looked at without taking the lock of a run and without leaving anything behind.

A journal that was closed in order is one file, and is read as one that nobody changes: to open it in any other way would
make files beside it. Where there are such files, a run holds it, which its lock tells, or one was killed: then SQLite is
needed to read them.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from ..journal import Journal
from ..schema import VERSION
from ..sqlitefile import is_busy, is_damaged, is_there, uri_of
from ..status import RunStatus
from ..statusfile import read_status

CHECK_SECONDS = 5.0
"""How long a journal is looked through for damage. One of a million objects takes about a second."""
_STEPS = 10_000
"""SQLite's steps between two looks at the clock: about a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Another run holds it.

    Attributes:
        run: What that says of itself, if it does.
    """

    run: RunStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """It is no journal, or not a whole one.

    Attributes:
        why: What SQLite says.
    """

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Newer:
    """It was written by a newer version of this tool.

    Attributes:
        version: The journal's.
    """

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """It is whole, as far as it was looked through.

    Attributes:
        bucket: Whose objects it has.
        group: Whose objects it has.
        objects: How many.
        bytes: How much they are.
        listed_objects: How many the last listings gave, of the parts that were listed; None if none is known.
        listed_bytes: How much those are.
        last_run: The command of the last run, and when it began; None if there was none.
        ended: Whether that run came to its end.
        looked_through: Whether there was time for all of it. If not, how many objects there are is not known either.
    """

    bucket: str
    group: str
    objects: int = 0
    bytes: int = 0
    listed_objects: int | None = None
    listed_bytes: int = 0
    last_run: tuple[str, str] | None = None
    ended: bool = True
    looked_through: bool = True


Health = Held | Damaged | Newer | Healthy


def health_of(dest: Path, now: Callable[[], float] = monotonic) -> Health | None:
    """Look a destination's journal through; None if there is none.

    Args:
        dest: The destination.
        now: A clock that only goes forward.

    Raises:
        DestinationError: It, or the state folder, is a link or something else that is not ours.
        OSError: It cannot be read.
        sqlite3.DatabaseError: The same.
    """
    path = Journal.path(dest)
    if not is_there(path):
        return None
    path.open("rb").close()  # SQLite would only say that it is unable to.
    left_over = _beside(path)
    address = uri_of(path, "mode=ro" if left_over else "mode=ro&immutable=1")
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)) as connection:
            return _look_through(connection, now)
    except sqlite3.DatabaseError as error:
        if is_busy(error) or (not left_over and _beside(path)):  # A run has begun since.
            return Held(run=read_status(dest))
        if is_damaged(error):
            return Damaged(why=str(error))
        raise
    finally:
        if left_over:
            _clear_away(path, left_over)


def _look_through(connection: sqlite3.Connection, now: Callable[[], float]) -> Health:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        return Newer(version=version)
    if version == 0:
        return Healthy(bucket="", group="")  # A run was killed before it had written anything.
    bucket, group = connection.execute("SELECT bucket, group_name FROM identity").fetchone() or ("", "")
    run = connection.execute("SELECT command, started, ended FROM run ORDER BY id DESC LIMIT 1").fetchone()
    last_run, ended = ((run[0], run[1]), run[2] is not None) if run else (None, True)
    deadline = now() + CHECK_SECONDS
    connection.set_progress_handler(lambda: now() > deadline, _STEPS)
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            return Damaged(why=verdict.splitlines()[-1])
        objects, size = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM object").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return Healthy(bucket=bucket, group=group, last_run=last_run, ended=ended, looked_through=False)
    listed_objects, listed_bytes = _listed(connection)
    return Healthy(
        bucket=bucket,
        group=group,
        objects=objects,
        bytes=size,
        listed_objects=listed_objects,
        listed_bytes=listed_bytes,
        last_run=last_run,
        ended=ended,
    )


def _listed(connection: sqlite3.Connection) -> tuple[int | None, int]:
    """Return how many objects were last listed, and their bytes; None where no listing is known."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'listing'").fetchone() is None:
        return None, 0  # An older version wrote it.
    objects, size = connection.execute("SELECT sum(objects), coalesce(sum(bytes), 0) FROM listing").fetchone()
    return objects, size


def _beside(path: Path) -> set[Path]:
    """Return the files that SQLite keeps beside a database while it is open, and leaves where it is killed."""
    return {place for end in ("-wal", "-shm", "-journal") if (place := path.with_name(path.name + end)).exists()}


def _clear_away(path: Path, before: set[Path]) -> None:
    """Remove the index of a write-ahead log that reading it has made. A run has its own in memory, and makes none."""
    for place in _beside(path) - before:
        if place.name.endswith("-shm"):
            with suppress(OSError):
                place.unlink()
