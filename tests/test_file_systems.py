"""File systems that keep less than others do, or refuse it; and files of the user's that change while they are read.

Whole runs in a world of their own (`virtual`), on a sound disk whose calls answer as such a file system's do.
"""

import errno
import os
import re
import sqlite3
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nccid_fetch.attributes import Passed, access_acl, passed_on_by
from nccid_fetch.errors import Reason
from nccid_fetch.events import PagePlanned, PlaceNoted
from nccid_fetch.journal import Journal
from nccid_fetch.model import Skip

from .catalogue import fault
from .faulty_disk import FaultyDisk
from .oracle import Run, files_of, records
from .virtual import VirtualBucket, World

FOLDER = "training/ct/Covid0001/1.2/1.2.3"
SECOND_NS = 1_000_000_000


class OddDisk(FaultyDisk):
    """A disk with a file system that keeps less, or refuses more, than it does itself.

    Args:
        dest: The destination on it.
        refuses: Which calls it refuses.
        number: What it says then.
        foreign: Refuse them for these files alone.
        shown_mode: What mode all files have after any that they are given.
        unit_ns: What mtimes are counted in.
        forgets_times: Whether it takes mtimes and keeps none.
        bad: The names that it does not take.
        bad_calls: Which calls meet them.
    """

    def __init__(
        self,
        dest: Path,
        *,
        refuses: Collection[str] = (),
        number: int = errno.EPERM,
        foreign: Collection[Path] | None = None,
        shown_mode: int | None = None,
        unit_ns: int = 1,
        forgets_times: bool = False,
        bad: str | None = None,
        bad_calls: Collection[str] = (),
        before: Callable[[str, tuple[Any, ...]], object] = lambda *_: None,
        after: Callable[[str, tuple[Any, ...]], object] = lambda *_: None,
    ) -> None:
        super().__init__(dest)
        self.refuses, self.number, self.unit_ns, self.forgets_times = refuses, number, unit_ns, forgets_times
        self.shown_mode, self.bad, self.bad_calls = shown_mode, bad, bad_calls
        self.foreign = None if foreign is None else {path.stat().st_ino for path in foreign}
        self.before, self.after = before, after

    def call(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if name in self.refuses and (self.foreign is None or os.fstat(arguments[0]).st_ino in self.foreign):
            raise OSError(self.number, os.strerror(self.number))
        if name in self.bad_calls and self.bad in arguments:
            raise OSError(self.number, os.strerror(self.number), self.bad)
        if name == "utime":
            if self.forgets_times:
                return None
            options["ns"] = tuple(time_ns // self.unit_ns * self.unit_ns for time_ns in options["ns"])
        self.before(name, arguments)
        result = super().call(name, real, *arguments, **options)
        self.after(name, arguments)
        if name in {"stat", "fstat"} and self.shown_mode is not None:
            shown = {field: getattr(result, field) for field in dir(result) if field.startswith("st_")}
            return SimpleNamespace(**shown | {"st_mode": stat.S_IFMT(result.st_mode) | self.shown_mode})
        return result


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


@pytest.fixture
def bucket() -> VirtualBucket:
    """Objects with times in milliseconds, as MinIO and Ceph list them; one of them is known by its size alone."""
    made = VirtualBucket()
    for number in range(4):
        made.put(f"{FOLDER}/{number}.dcm", bytes([number]) * (100 + number), opaque=number == 3)
    made.put("training/data/Covid0001/data_2021-01-01.json", b"{}")
    for key, stored in made.now.items():
        made.now[key] = replace(stored, modified=stored.modified + timedelta(microseconds=123_000))
    return made


def notes(run: Run) -> list[str]:
    return [event.message for event in run.events if isinstance(event, PlaceNoted)]


def is_at_rest(run: Run) -> bool:
    """Say whether a run found all in place: nothing fetched, hashed or given another time."""
    decisions = [d for event in run.events if isinstance(event, PagePlanned) for d in event.decisions]
    skipped = all(isinstance(decision, Skip) and decision.retime is None for decision in decisions)
    return run.exit_code == 0 and skipped and bool(decisions) and not run.tally.hashed_bytes


# ---- Modes and times

REFUSED = [errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP]


@fault(139, 140)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(
            (
                {"refuses": {"fchmod"}, "number": number},
                [rf"refuses to set modes \({re.escape(os.strerror(number))}\): .* 600 "],
            )
            for number in REFUSED
        ),
        ({"shown_mode": 0o777}, [r"does not keep modes: .* mode 777 there, open to every user .* mounted"]),
        ({"shown_mode": 0o770}, [r"does not keep modes: .* mode 770 there, open to their group"]),
        ({"shown_mode": 0o700}, [r"does not keep modes: .* mode 700 there, closed to other users$"]),
        ({"refuses": {"fchmod"}, "shown_mode": 0o755}, [r"refuses to set modes .* mode 755 there, open to every user"]),
        *(({"unit_ns": unit}, []) for unit in (100, 1000, 1_000_000, 10_000_000, SECOND_NS, 2 * SECOND_NS)),
        *(({"refuses": {"utime"}, "number": number}, ["does not keep the times"]) for number in REFUSED),
        ({"forgets_times": True}, ["does not keep the times"]),
        ({"refuses": {"utime", "fchmod"}, "shown_mode": 0o777, "number": errno.ENOSYS}, ["modes", "times"]),
    ],
)
def test_a_file_system_that_keeps_less_gets_every_file_says_so_at_once_and_comes_to_rest(
    dest: Path, bucket: VirtualBucket, options: dict[str, Any], said: list[str]
) -> None:
    run = World(dest, bucket).run(OddDisk(dest, **options))
    assert (run.exit_code, run.tally.fetched.objects) == (0, len(bucket.now))
    for pattern, told in zip(said, notes(run), strict=True):
        assert re.search(pattern, told), told
        assert "chmod" not in told.replace(str(dest), "")
    assert {key: path.read_bytes() for key, path in files_of(dest).items()} == {
        k: o.body for k, o in bucket.now.items()
    }
    bucket.gets.clear()
    for _ in range(2):
        assert is_at_rest(World(dest, bucket).run(OddDisk(dest, **options)))
    assert bucket.gets == []
    (
        dest / ".nccid-fetch/journal.sqlite"
    ).unlink()  # Then all is hashed once, and what no digest can prove comes again.
    assert World(dest, bucket).run(OddDisk(dest, **options)).tally.adopted.objects == len(bucket.now) - 1
    assert is_at_rest(World(dest, bucket).run(OddDisk(dest, **options)))


@fault(140)
@pytest.mark.parametrize("options", [{"unit_ns": 2 * SECOND_NS}, {"forgets_times": True}, {"refuses": {"utime"}}])
def test_a_newer_time_of_the_same_object_is_followed_as_far_as_it_can_be_and_once(
    dest: Path, bucket: VirtualBucket, options: dict[str, Any]
) -> None:
    assert World(dest, bucket).run(OddDisk(dest, **options)).exit_code == 0
    for key, stored in bucket.now.items():
        bucket.now[key] = replace(stored, modified=stored.modified + timedelta(days=1))
    bucket.gets.clear()
    run = World(dest, bucket).run(OddDisk(dest, **options))
    assert (run.exit_code, run.tally.skipped.objects, run.tally.hashed_bytes) == (0, len(bucket.now), 0)
    assert is_at_rest(World(dest, bucket).run(OddDisk(dest, **options)))
    assert bucket.gets == []
    if "unit_ns" in options:
        unit = options["unit_ns"]
        wanted = {key: stored.version.modified_ns // unit * unit for key, stored in bucket.now.items()}
        assert {key: path.stat().st_mtime_ns for key, path in files_of(dest).items()} == wanted


@fault(102, 140)
def test_what_an_older_version_recorded_on_a_coarse_file_system_is_hashed_once(
    dest: Path, bucket: VirtualBucket
) -> None:
    coarse: dict[str, Any] = {"unit_ns": SECOND_NS}
    assert World(dest, bucket).run(OddDisk(dest, **coarse)).exit_code == 0
    with closing(sqlite3.connect(Journal.path(dest), isolation_level=None)) as journal:
        journal.execute("ALTER TABLE object DROP COLUMN mtime")
        journal.execute("PRAGMA user_version=2")
    bucket.gets.clear()
    run = World(dest, bucket).run(OddDisk(dest, **coarse))
    assert (run.tally.adopted.objects, bucket.gets) == (len(bucket.now) - 1, [f"{FOLDER}/3.dcm"])
    assert is_at_rest(World(dest, bucket).run(OddDisk(dest, **coarse)))


def test_on_a_file_system_that_keeps_all_nothing_is_said_and_no_time_is_kept_twice(
    dest: Path, bucket: VirtualBucket
) -> None:
    assert notes(World(dest, bucket).run(OddDisk(dest))) == []
    with closing(sqlite3.connect(Journal.path(dest))) as journal:
        assert journal.execute("SELECT DISTINCT mtime FROM object").fetchall() == [(None,)]


@fault(139)
def test_advice_to_close_a_folder_is_given_where_it_works_and_nowhere_else(dest: Path, bucket: VirtualBucket) -> None:
    dest.mkdir()
    dest.chmod(0o755)
    assert [f"chmod 700 {dest}" in note for note in notes(World(dest, bucket).run(OddDisk(dest)))] == [True]
    assert ["chmod 700" in note for note in notes(World(dest, bucket).run(OddDisk(dest, shown_mode=0o777)))] == [False]


# ---- Names

BAD = "re:port*"


def bad_key(*, is_folder: bool) -> str:
    return f"{FOLDER}/{BAD}/9.dcm" if is_folder else f"{FOLDER}/{BAD}"


@fault(76, 141)
@pytest.mark.parametrize(
    ("number", "calls"),
    [
        *((number, {"rename"}) for number in (errno.ENOENT, errno.EPERM, errno.EACCES, errno.EBUSY)),
        *(
            (number, calls)
            for number in (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.EPROTO, errno.EOPNOTSUPP)
            for calls in ({"rename"}, {"rename", "stat"})
        ),
        *(
            (number, {"mkdir"})
            for number in (errno.ENOENT, errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ)
        ),
        (errno.ENAMETOOLONG, {"mkdir", "open"}),
    ],
)
def test_a_name_that_is_refused_fails_its_own_object_on_every_run_and_no_other(
    dest: Path, bucket: VirtualBucket, number: int, calls: set[str]
) -> None:
    key = bad_key(is_folder="mkdir" in calls)
    good = set(bucket.now)
    bucket.put(key, b"of a name that is refused")
    odd: dict[str, Any] = {"number": number, "bad": BAD, "bad_calls": calls}
    for _ in range(2):
        run = World(dest, bucket).run(OddDisk(dest, **odd))
        assert (run.exit_code, run.reasons) == (1, {key: Reason.LOCAL_ERROR})
        (failed,) = run.tally.failures
        assert os.strerror(number) in failed.message
        assert (BAD in failed.message) == (number not in {errno.EPERM, errno.EACCES, errno.EBUSY})
        assert set(files_of(dest)) == set(records(dest)) == good
        assert list((dest / ".nccid-fetch/staged").iterdir()) == []
        with closing(sqlite3.connect(Journal.path(dest))) as journal:
            assert journal.execute("SELECT key, reason FROM failure").fetchall() == [(key, "local_error")]


@fault(141)
@pytest.mark.parametrize("lost", ["the staged file", "the folder"])
def test_a_rename_that_finds_nothing_to_rename_is_no_matter_of_the_name(
    dest: Path, bucket: VirtualBucket, lost: str
) -> None:
    def before(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "rename" and "0.dcm" in arguments:
            folder = files_of(dest)  # What is there by then.
            assert f"{FOLDER}/0.dcm" not in folder
            if lost == "the staged file":
                (dest / ".nccid-fetch/staged" / arguments[0]).unlink()
            else:
                (dest / "ct/Covid0001/1.2/1.2.3").rmdir()

    run = World(dest, bucket).run(OddDisk(dest, before=before))
    assert (run.exit_code, run.reasons) == (9, {})
    assert World(dest, bucket).run().exit_code == 0


@fault(62)
@pytest.mark.parametrize("name", ["mkdir", "open"])
def test_a_disk_without_room_for_more_files_is_full_and_no_object_is_named_as_failed(
    dest: Path, bucket: VirtualBucket, name: str
) -> None:
    made: list[str] = []

    def before(called: str, arguments: tuple[Any, ...]) -> None:
        makes = called == "mkdir" or (called == "open" and arguments[1] & os.O_CREAT)
        if called == name and makes:
            made.append(str(arguments[0]))
            if len(made) > {"mkdir": 3, "open": 5}[name]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = World(dest, bucket).run(OddDisk(dest, before=before))
    assert (run.exit_code, run.reasons, run.tally.failed) == (9, {}, 0)
    assert "is full" in str(run.error)
    with closing(sqlite3.connect(Journal.path(dest))) as journal:
        assert journal.execute("SELECT count(*) FROM failure").fetchone() == (0,)
    assert set(files_of(dest)) == set(records(dest))
    assert World(dest, bucket).run().exit_code == 0
    assert set(records(dest)) == set(bucket.now)


# ---- A tree that a colleague made


def facts_of(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_mode, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


@fault(142)
@pytest.mark.parametrize("existing", ["check", "keep", "replace"])
def test_a_tree_of_another_user_is_hashed_once_recorded_and_left_as_it_is(
    dest: Path, bucket: VirtualBucket, existing: str
) -> None:
    proved = [key for key, stored in bucket.now.items() if not stored.opaque]
    for key in proved:
        path = dest / key.removeprefix("training/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.now[key].body)
        path.chmod(0o640)
    paths = list(files_of(dest).values())
    before = {path: facts_of(path) for path in paths}
    theirs: dict[str, Any] = {"refuses": {"fchmod", "utime"}, "foreign": paths}
    dest.chmod(0o700)
    run = World(dest, bucket).run(OddDisk(dest, **theirs), existing=existing)
    assert (run.exit_code, run.tally.adopted.objects) == (0, len(proved))
    assert [note for note in notes(run) if "another user" in note] == notes(run) != []
    assert bucket.gets == [f"{FOLDER}/3.dcm"]
    assert {path: facts_of(path) for path in paths} == before
    assert is_at_rest(World(dest, bucket).run(OddDisk(dest, **theirs), existing=existing))


@fault(142)
def test_a_file_of_another_user_that_may_not_be_read_fails_by_name(dest: Path, bucket: VirtualBucket) -> None:
    key = f"{FOLDER}/0.dcm"
    path = dest / key.removeprefix("training/")
    path.parent.mkdir(parents=True)
    path.write_bytes(bucket.now[key].body)
    disk = OddDisk(dest, number=errno.EACCES, bad="0.dcm", bad_calls={"open"})
    run = World(dest, bucket).run(disk)
    assert (run.exit_code, run.reasons) == (1, {key: Reason.LOCAL_ERROR})
    assert run.tally.failures[0].message == "its file cannot be read: Permission denied"
    assert set(records(dest)) == set(bucket.now) - {key}


# ---- What a folder passes on

OTHER_GROUP = 4321
USER, BOB = 0x02, 1234
ENTRIES = [(0x01, 7, -1), (USER, 5, BOB), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
"""What `setfacl -d -m u:1234:rx` makes of a folder with mode 755."""


def acl_of(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", kind, may, who & 0xFFFFFFFF) for kind, may, who in entries
    )


def effective(path: Path, name: int = BOB) -> int | None:
    """Return what an ACL lets a user do; None if it does not name them."""
    try:
        acl = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return None
    entries = {(kind, who): may for kind, may, who in struct.iter_unpack("<HHI", acl[4:])}
    mask = entries[0x10, 0xFFFFFFFF]
    return entries[USER, name] & mask if (USER, name) in entries else None


def new_things(dest: Path) -> Iterator[Path]:
    yield from (path for path in dest.rglob("*") if ".nccid-fetch" not in path.parts)


@fault(142)
@pytest.mark.parametrize("group_readable", [True, False])
@pytest.mark.parametrize("is_made", [True, False], ids=["a new DEST", "a DEST that is there"])
def test_setgid_and_group_hold_for_everything_below(
    tmp_path: Path, bucket: VirtualBucket, *, group_readable: bool, is_made: bool
) -> None:
    above = tmp_path / "shared"
    dest = above / "dest"
    above.mkdir()
    group = OTHER_GROUP if os.geteuid() == 0 else above.stat().st_gid
    os.chown(above, -1, group)
    above.chmod(0o2770)
    if not is_made:
        dest.mkdir()
    run = World(dest, bucket).run(OddDisk(dest), group_readable=group_readable)
    assert run.exit_code == 0
    assert files_of(dest).keys() == bucket.now.keys()
    for path in (dest, *new_things(dest)):
        found = path.stat()
        assert found.st_gid == group, path
        if path.is_dir():
            assert found.st_mode & stat.S_ISGID, path
            assert stat.S_IMODE(found.st_mode) & 0o777 == (0o750 if group_readable else 0o700) or path == dest
        else:
            assert stat.S_IMODE(found.st_mode) == (0o640 if group_readable else 0o600)
    assert stat.S_IMODE((dest / ".nccid-fetch").stat().st_mode) & 0o777 == 0o700


@fault(142)
@pytest.mark.parametrize("is_member", [True, False])
def test_a_file_gets_the_group_of_its_folder_and_not_of_the_one_it_was_staged_in(
    dest: Path, bucket: VirtualBucket, monkeypatch: pytest.MonkeyPatch, *, is_member: bool
) -> None:
    asked: list[int] = []

    def fchown(descriptor: int, user: int, group: int) -> None:
        asked.append(group)
        if not is_member:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def passed_on(folder_fd: int) -> Passed:
        is_shared = os.path.samestat(os.fstat(folder_fd), (dest / "ct/Covid0001/1.2/1.2.3").stat())
        return Passed(OTHER_GROUP if is_shared else None, None)

    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr("nccid_fetch.destination.passed_on_by", passed_on)
    (dest / "ct/Covid0001/1.2/1.2.3").mkdir(parents=True)
    dest.chmod(0o700)
    assert World(dest, bucket).run(OddDisk(dest)).exit_code == 0
    assert asked == [OTHER_GROUP] * 4
    assert set(files_of(dest)) == set(bucket.now)


@fault(142)
@pytest.mark.parametrize("group_readable", [True, False])
def test_users_that_a_default_acl_names_may_read_everything_below_and_nobody_else_may(
    tmp_path: Path, bucket: VirtualBucket, *, group_readable: bool
) -> None:
    above = tmp_path / "shared"
    above.mkdir()
    try:
        os.setxattr(above, "system.posix_acl_default", acl_of(*ENTRIES))
    except OSError:
        pytest.skip("this file system has no ACLs")
    dest = above / "dest"
    adopted = dest / "ct/Covid0001/1.2/1.2.3/0.dcm"
    adopted.parent.mkdir(parents=True)
    adopted.write_bytes(bucket.now[f"{FOLDER}/0.dcm"].body)
    run = World(dest, bucket).run(OddDisk(dest), group_readable=group_readable)
    assert (run.exit_code, run.tally.adopted.objects) == (0, 1)
    for key, path in files_of(dest).items():
        assert effective(path) == 4, key
        assert not path.stat().st_mode & 0o007
    data = dest / "data/Covid0001"
    assert (effective(data), data.stat().st_mode & 0o007) == (5, 0)
    assert passed_on_by_path(data) == passed_on_by_path(above)
    assert effective(Journal.path(dest)) in {None, 0}
    assert is_at_rest(World(dest, bucket).run(OddDisk(dest), group_readable=group_readable))


def passed_on_by_path(folder: Path) -> bytes | None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return passed_on_by(descriptor).acl
    finally:
        os.close(descriptor)


@fault(142)
@pytest.mark.parametrize(
    ("mode", "is_folder", "owning_group", "mask"), [(0o600, False, 0, 6), (0o640, False, 4, 6), (0o750, True, 5, 7)]
)
def test_what_a_default_acl_gives_is_its_named_entries_and_the_mode_for_all_others(
    mode: int,
    is_folder: bool,  # noqa: FBT001
    owning_group: int,
    mask: int,
) -> None:
    found = access_acl(acl_of(*ENTRIES), mode, is_folder=is_folder)
    assert found == acl_of(
        (0x01, mode >> 6, -1), (USER, 5, BOB), (0x04, owning_group, -1), (0x10, mask, -1), (0x20, 0, -1)
    )


@pytest.mark.parametrize(
    "acl", [b"", b"\2\0\0\0\1", acl_of((1, 7, -1), (4, 5, -1), (0x20, 5, -1)), b"\3" + acl_of(*ENTRIES)[1:]]
)
def test_an_acl_that_names_nobody_or_cannot_be_read_leaves_the_mode_as_it_is(acl: bytes) -> None:
    assert access_acl(acl, 0o600, is_folder=False) is None


# ---- Files that change while they are read

KEY = f"{FOLDER}/0.dcm"


class Writer:
    """A user who works on a file while a run is over it.

    Attributes:
        times: How often it was changed.

    Args:
        path: The file.
        call: When: at which call on it.
        change: What is done.
        limit: How often, at most.
        late: Only once the call was made.
    """

    def __init__(self, path: Path, call: str, change: Callable[[Path, int], object], *, limit: int, late: bool) -> None:
        self.path, self.times = path, 0
        self._call, self._change, self._limit, self._late = call, change, limit, late

    def _saw(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name != self._call or self.times >= self._limit or not isinstance(arguments[0], int):
            return
        if self.path.exists() and os.path.samestat(os.fstat(arguments[0]), self.path.stat()):
            self.times += 1
            self._change(self.path, self.times)

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self._late:
            self._saw(name, arguments)

    def after(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._late:
            self._saw(name, arguments)


def bytes_of(number: int) -> bytes:
    return (b"edited %d " % number * 20)[:100]


def rewrite(path: Path, number: int) -> None:
    path.write_bytes(bytes_of(number))


def rewrite_and_restore_the_time(path: Path, number: int) -> None:
    found = path.stat()
    rewrite(path, number)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replace_it(path: Path, number: int) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes_of(number))
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    other.rename(path)


def extend(path: Path, number: int) -> None:
    with path.open("ab") as file:
        file.write(b"more")


RESTORED = "rewritten, its time restored"
CHANGES = {
    "rewritten": rewrite,
    RESTORED: rewrite_and_restore_the_time,
    "replaced": replace_it,
    "extended": extend,
}
MOMENTS = [
    (call, late, change)
    for call, late in (("pread", False), ("pread", True), ("fchmod", False), ("utime", True))
    for change in CHANGES
    # Between two calls that follow each other, what restores the very time cannot be told from setting it.
    if change != RESTORED or call == "pread"
]


def adoptable(dest: Path, bucket: VirtualBucket) -> Path:
    path = dest / KEY.removeprefix("training/")
    path.parent.mkdir(parents=True)
    path.write_bytes(bucket.now[KEY].body)
    path.chmod(0o644)
    dest.chmod(0o700)
    return path


@fault(138)
@pytest.mark.parametrize(("call", "late", "change"), MOMENTS)
def test_a_file_that_changes_while_it_is_hashed_is_never_taken_for_what_it_was(
    dest: Path,
    bucket: VirtualBucket,
    call: str,
    late: bool,  # noqa: FBT001
    change: str,
) -> None:
    """Changed once, it is hashed again, differs and is set aside, with what was written into it."""
    path = adoptable(dest, bucket)
    writer = Writer(path, call, CHANGES[change], limit=1, late=late)
    run = World(dest, bucket).run(OddDisk(dest, before=writer.before, after=writer.after))
    assert (writer.times, run.exit_code, run.tally.adopted.objects) == (1, 0, 0)
    assert path.read_bytes() == bucket.now[KEY].body
    (aside,) = [found for found in (dest / ".nccid-fetch/quarantine").rglob("0.dcm") if found.is_file()]
    assert aside.read_bytes() in {bytes_of(1), bucket.now[KEY].body + b"more"}
    assert is_at_rest(World(dest, bucket).run())


@fault(138)
@pytest.mark.parametrize("existing", ["check", "keep", "replace"])
def test_a_file_that_changes_each_time_that_it_is_hashed_fails_by_name_and_stays(
    dest: Path, bucket: VirtualBucket, existing: str
) -> None:
    path = adoptable(dest, bucket)
    writer = Writer(path, "pread", rewrite, limit=10**6, late=False)
    run = World(dest, bucket).run(OddDisk(dest, before=writer.before), attempts=3, existing=existing)
    assert (run.exit_code, run.reasons) == (1, {KEY: Reason.LOCAL_ERROR})
    assert run.tally.failures[0].message == "its file was changed while it was read, in 3 attempts"
    assert path.read_bytes() == bytes_of(writer.times)
    assert KEY not in records(dest)
    assert run.tally.fetched.objects == len(bucket.now) - 1


@fault(138, 126)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_compared_is_set_aside_and_not_overwritten(
    dest: Path, bucket: VirtualBucket, change: str
) -> None:
    """It appeared after the plan with the very bytes that came, and is written to as it is read."""
    path = dest / KEY.removeprefix("training/")
    writer = Writer(path, "pread", CHANGES[change], limit=1, late=True)
    appeared: list[str] = []

    def before(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "stat" and arguments[0] == "0.dcm" and path.parent.exists() and not appeared:
            appeared.append(name)
            path.write_bytes(bucket.now[KEY].body)

    run = World(dest, bucket).run(OddDisk(dest, before=before, after=writer.after))
    assert (run.exit_code, writer.times) == (0, 1)
    (aside,) = [found for found in (dest / ".nccid-fetch/quarantine").rglob("0.dcm") if found.is_file()]
    assert aside.read_bytes() in {bytes_of(1), bucket.now[KEY].body + b"more"}
    assert path.read_bytes() == bucket.now[KEY].body


@fault(138)
def test_a_file_that_is_written_as_soon_as_it_has_its_name_is_not_recorded_as_it_is_then(
    dest: Path, bucket: VirtualBucket
) -> None:
    path = dest / KEY.removeprefix("training/")

    def after(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "rename" and "0.dcm" in arguments:
            rewrite(path, 1)

    assert World(dest, bucket).run(OddDisk(dest, after=after)).exit_code == 0
    assert path.read_bytes() == bytes_of(1)
    run = World(dest, bucket).run()
    assert (run.exit_code, run.tally.fetched.objects) == (0, 1)
    assert path.read_bytes() == bucket.now[KEY].body
    assert [p.read_bytes() for p in (dest / ".nccid-fetch/quarantine").rglob("0.dcm") if p.is_file()] == [bytes_of(1)]


@fault(138)
@pytest.mark.parametrize("change", ["rewritten", "replaced", "extended"])
def test_a_file_that_changes_before_it_gets_a_newer_time_is_looked_at_by_the_next_run(
    dest: Path, bucket: VirtualBucket, change: str
) -> None:
    assert World(dest, bucket).run().exit_code == 0
    stored = bucket.now[KEY]
    bucket.now[KEY] = replace(stored, modified=stored.modified + timedelta(days=1))
    path = files_of(dest)[KEY]
    writer = Writer(path, "fstat", CHANGES[change], limit=1, late=False)
    run = World(dest, bucket).run(OddDisk(dest, before=writer.before))
    assert (run.exit_code, writer.times) == (0, 1)
    content = path.read_bytes()
    assert World(dest, bucket).run().exit_code == 0
    assert path.read_bytes() == stored.body
    assert [p.read_bytes() for p in (dest / ".nccid-fetch/quarantine").rglob("0.dcm") if p.is_file()] == [content]
