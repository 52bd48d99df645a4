"""What must hold of a destination after any run, however it ended; and one way to make a run and keep what it said.

Tests state what is special about them and leave the rest to `check_tree`: it reads the tree as a user would, and
the journal as SQLite has it, and trusts neither to speak for the other.
"""

import asyncio
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import datetime
from hashlib import md5
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from nccid_fetch import operations
from nccid_fetch.clock import REAL, Clock
from nccid_fetch.errors import RunError
from nccid_fetch.events import Event, Report
from nccid_fetch.journal import Journal
from nccid_fetch.keys import STATE_FOLDER
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.planfile import open_plan
from nccid_fetch.settings import Settings, Source
from nccid_fetch.summary import Tally

from .servers.scripted import MODIFIED, ScriptedS3

GROUP = "training"


class Version(NamedTuple):
    """One version of an object: what a file may be, and the ETag it is recorded with, if that is known."""

    body: bytes
    modified: datetime = MODIFIED
    etag: str | None = None

    @property
    def modified_ns(self) -> int:
        return round(self.modified.timestamp() * 1000) * 1_000_000


_SHOWN = "SELECT key, size, etag FROM objects"
_HIDDEN = "SELECT prefix || name, coalesce(mtime, modified * 1000000), unflushed FROM object JOIN folder ON folder.id = object.folder"
"""What the view does not show. To join it with the view by key would compare each object with all others."""

Objects = Mapping[str, bytes | Collection[Version]]


def md5_hex(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def snapshot(s3: ScriptedS3) -> dict[str, list[Version]]:
    """Return the one version that each object of a server has now."""
    return {key: [Version(found.body, found.modified, found.etag)] for key, found in s3._objects.items()}


def remote_of(s3: ScriptedS3, key: str) -> RemoteObject:
    """Return an object as a listing would describe it now."""
    found = s3._objects[key]
    version = Version(found.body, found.modified)
    return RemoteObject(key, len(found.body), ETag(found.etag), version.modified_ns)


def records(dest: Path) -> dict[str, tuple[int, str]]:
    """Return size and ETag of every object that the journal has, also where a killed run left it open."""
    return {key: (size, etag) for key, (size, etag, _, _) in _rows(dest).items()}


def _rows(dest: Path) -> dict[str, tuple[int, str, int, bool]]:
    """Return size, ETag and mtime of every object that the journal has, and whether it was left to the system to flush."""
    with tempfile.TemporaryDirectory() as copy:
        for part in (dest / STATE_FOLDER).glob("journal.sqlite*"):
            shutil.copy(part, copy)
        with closing(sqlite3.connect(Path(copy) / "journal.sqlite")) as journal:
            assert journal.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if journal.execute("PRAGMA user_version").fetchone() == (0,):
                return {}  # Made, and not yet furnished.
            hidden = {key: (modified_ns, bool(run)) for key, modified_ns, run in journal.execute(_HIDDEN)}
            return {key: (size, etag, *hidden[key]) for key, size, etag in journal.execute(_SHOWN)}


def files_of(dest: Path) -> dict[str, Path]:
    """Return every file below a destination, outside its state folder, by its key."""
    return {
        _key(dest, path): path
        for path, found in _walk(dest)
        if not (stat.S_ISDIR(found.st_mode) or (stat.S_ISLNK(found.st_mode) and path.is_dir()))
    }


class Served(Protocol):
    """A server of objects, real or not."""

    @property
    def endpoint_url(self) -> str: ...


def check_tree(  # noqa: C901 - one invariant after the other; each file is read once.
    dest: Path,
    bucket_objects: Objects,
    *,
    killed: bool = False,
    power_lost: bool = False,
    unsettled: Collection[str] = (),
    foreign: Mapping[str, Collection[bytes]] = MappingProxyType({}),
) -> set[str]:
    """Check what holds after every run, and return the keys whose files are in place.

    Args:
        dest: The destination.
        bucket_objects: Every object there ever was: its content, or its versions.
        killed: The last run had no chance to clean up: staged files may be left, and the journal open. Where it had just
            put a newer version in place, the record may still be that of the older one, whose time tells it apart.
        power_lost: Nor had the kernel: what is not recorded, or recorded as not flushed, may lack its own time, and is not
            among the keys that are returned.
        unsettled: Keys of which a loss of power may have left anything, as long as no run has put them right.
        foreign: What somebody else put under the names of some keys, or took away from there: none of it may be lost,
            and what is recorded of these keys need not hold until a run has put them right.
    """
    state = dest / STATE_FOLDER
    recorded = _rows(dest) if Journal.path(dest).exists() or not power_lost else {}
    if power_lost:
        recorded = {key: row for key, row in recorded.items() if not row[-1]}
    _check_mode(dest, dest.lstat().st_mode)
    present: set[str] = set()
    kept: dict[str, bytes] = {}
    for path, found in _walk(dest):
        _check_mode(path, found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            continue
        key = _key(dest, path)
        present.add(key)
        assert key in bucket_objects, f"{key} is no object"
        content = path.read_bytes()
        wholes = [version for version in _versions(bucket_objects, key) if version.body == content]
        is_foreign = key in foreign and content in foreign[key]
        if key in foreign:
            kept[key] = content
        if not is_foreign and key not in unsettled:
            assert wholes, f"{key} is no version of its object whole"
            assert (power_lost and key not in recorded) or any(
                version.modified_ns == found.st_mtime_ns for version in wholes
            ), f"{key} has a time that is not its own"
        if is_foreign or key not in recorded:
            continue
        size, etag, modified_ns, is_unflushed = recorded[key]
        if key in unsettled and is_unflushed:
            continue
        if (killed or power_lost or key in unsettled) and (len(content), found.st_mtime_ns) != (size, modified_ns):
            continue  # It is a whole version, as was seen above, and the next run looks which.
        assert len(content) == size, f"the journal has another size of {key}"
        assert any(version.etag in {None, etag} for version in wholes), f"{key} is not what is recorded"
    for key in recorded.keys() - present:
        is_excused = key in foreign or (key in unsettled and recorded[key][-1])
        assert is_excused, f"the journal has {key}, and the disk has not"
    aside = {path.read_bytes() for path in (state / "quarantine").rglob("*") if path.is_file()} if foreign else set()
    for key, contents in foreign.items():
        assert (aside | {kept.get(key)}).issuperset(contents), f"what somebody put at {key} is lost"
    if not killed and not power_lost:
        assert list((state / "staged").iterdir()) == [], "a staged file is left"
        left = {path.name for path in state.iterdir()}
        assert left <= {"journal.sqlite", "staged", "quarantine", "status.json"}, f"{left} is left in the state folder"
    return set(recorded) if power_lost else present


def _check_mode(path: Path, mode: int) -> None:
    assert not stat.S_ISLNK(mode), f"{path} is a link"
    assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), f"{path} has mode {mode:o}"


def unsettled(dest: Path, bucket_objects: Objects, *, power_lost: bool = False) -> set[str]:
    """Return the keys that the next run would look at: their files are no whole version with its time, or not as recorded.

    Args:
        dest: The destination.
        bucket_objects: Every object there ever was.
        power_lost: So are those that are recorded as not flushed.
    """
    rows = _rows(dest) if Journal.path(dest).exists() else {}
    found = {key for key, row in rows.items() if power_lost and row[-1]}
    for key, path in files_of(dest).items():
        content, modified_ns = path.read_bytes(), path.stat().st_mtime_ns
        found.update({key} if key in rows and rows[key][::2][:2] != (len(content), modified_ns) else ())
        if not any(
            (version.body, version.modified_ns) == (content, modified_ns) for version in _versions(bucket_objects, key)
        ):
            found.add(key)
    return found


def _versions(bucket_objects: Objects, key: str) -> Collection[Version]:
    known = bucket_objects[key]
    return [Version(known)] if isinstance(known, bytes) else known


def _key(dest: Path, path: Path) -> str:
    return f"{GROUP}/{str(path)[len(str(dest)) + 1 :]}"


def _walk(dest: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a destination in order, outside its state folder, as it is itself: links are not followed."""
    for entry in sorted(os.scandir(dest), key=lambda entry: entry.name):
        if entry.name == STATE_FOLDER:
            continue
        yield Path(entry.path), entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over."""

    tally: Tally
    events: list[Event]
    exit_code: int
    error: RunError | None

    @property
    def left_over(self) -> int:
        """What was listed and reached no end: by the contract only what a run leaves that stops early."""
        tally = self.tally
        ended = tally.fetched.objects + tally.adopted.objects + tally.skipped.objects + tally.refused + tally.failed
        left = tally.listed.objects - ended
        assert left >= 0, "more ended than was listed"
        return left

    @property
    def reasons(self) -> dict[str, str]:
        """Why each object that did not arrive did not."""
        return {failed.remote.key: str(failed.reason) for failed in self.tally.failures}


def fetch(
    s3: Served,
    dest: Path,
    *parts: str,
    report: Report | None = None,
    plan_file: Path | None = None,
    clock: Clock = REAL,
    **options: Any,
) -> Run:
    """Make one run to its end, whatever that is; an exception that is no RunError is a defect and raised."""
    return asyncio.run(fetching(s3, dest, *parts, report=report, plan_file=plan_file, clock=clock, **options))


async def fetching(
    s3: Served,
    dest: Path,
    *parts: str,
    report: Report | None = None,
    plan_file: Path | None = None,
    clock: Clock = REAL,
    dry: bool = False,
    **options: Any,
) -> Run:
    """See `fetch`; with `dry` the run is only foreseen."""
    settings = Settings(dest=dest, parts=parts, **({"concurrency": 8} | options))
    tally = Tally()
    events: list[Event] = []

    def listen(event: Event) -> None:
        tally(event)
        events.append(event)
        if report is not None:
            report(event)

    error: RunError | None = None
    try:
        carry_out = operations.plan if dry else operations.fetch
        source = Source(endpoint_url=s3.endpoint_url)
        with nullcontext() if plan_file is None else open_plan(plan_file, source) as plan:
            await carry_out(source, settings, listen, plan_file=plan, clock=clock)
    except RunError as caught:
        error = caught
    code = tally.exit_code(settings) if error is None else error.exit_code
    run = Run(tally, events, code, error)
    excused = error is not None or tally.stopped is not None
    assert dry or run.left_over == 0 or excused or "denied" in {part.state for part in tally.parts.values()}
    return run
