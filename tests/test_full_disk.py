"""A disk that fills up or breaks in the middle of a run: the run ends in order, says what is missing, and goes on later.

The real disks are small file systems in memory, mounted where only the test's own processes see them.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch import commit
from nccid_fetch.errors import DestinationFullError
from nccid_fetch.events import PagePlanned, RemoteFound, RoomShort
from nccid_fetch.journal import Journal
from nccid_fetch.model import ETag, Fetch, LocalFile, LocalKind, RemoteObject, Space, Why
from nccid_fetch.reserve import RESERVE_BYTES, Reserve
from nccid_fetch.room import Room
from nccid_fetch.units import size_text

from .catalogue import fault
from .oracle import Run, check_tree, fetch, records, snapshot
from .servers.scripted import Hold, ScriptedS3

pytestmark = pytest.mark.usefixtures("no_pauses")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


def stock(s3: ScriptedS3, count: int, size: int) -> list[str]:
    keys = [f"training/data/Covid0000/{number:04}.json" for number in range(count)]
    for number, key in enumerate(keys):
        s3.put(key, number.to_bytes(4, "big") * (size // 4))
    return keys


# --- Real disks -----------------------------------------------------------------------------------

SCENE = """
import json, os, subprocess, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.oracle import files_of, records
disk, endpoint, more = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
dest = disk / "dest"

def run():
    command = [sys.executable, "-m", "nccid_fetch", "all", "--dest", str(dest), "--endpoint-url", endpoint]
    done = subprocess.run(
        [*command, "--format", "json", "--concurrency", "4"], check=False, capture_output=True, text=True, timeout=110
    )
    state = dest / ".nccid-fetch"
    print(json.dumps({{
        "code": done.returncode,
        "said": done.stderr,
        "summary": json.loads(done.stdout),
        "files": sorted(files_of(dest)),
        "recorded": sorted(records(dest)),
        "staged": os.listdir(state / "staged"),
        "state": sorted(os.listdir(state)),
    }}))

run()
subprocess.run(["mount", "-o", f"remount,{{more}}", str(disk)], check=True)
run()
"""


def on_small_disk(tmp_path: Path, options: str, code: str, *arguments: str) -> list[str]:
    """Run code in a process of its own that has a small file system; return the lines that it prints."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'disk=$2; mount -t tmpfs -o "$1" tmpfs "$disk" && shift 2 && exec "$1" -c "$2" "$disk" "${@:3}"'
    command = ["unshare", "-rm", "bash", "-c", script, "bash", options, str(disk), sys.executable, code, *arguments]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    if found.returncode != 0 and found.stderr.startswith(("mount", "unshare", "bash: line 1: mount")):
        pytest.skip(f"no small file system can be mounted here: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


@fault(60, 61, 62, 63)
@pytest.mark.parametrize("short_of", ["bytes", "files"])
def test_on_a_disk_that_fills_up_what_fits_stays_and_the_next_run_fetches_the_rest(
    s3: ScriptedS3, tmp_path: Path, short_of: str
) -> None:
    disk, more, count, size = {
        "bytes": ("size=12m", "size=64m", 40, 512 << 10),
        "files": ("size=64m,nr_inodes=50", "nr_inodes=500", 80, 64),
    }[short_of]
    keys = stock(s3, count, size)
    full, well = map(json.loads, on_small_disk(tmp_path, disk, SCENE.format(root=str(ROOT)), s3.endpoint_url, more))
    assert full["code"] == full["summary"]["exit_code"] == 9
    assert full["said"].count("warning: what is planned so far takes") == 1
    left = count - full["summary"]["fetched"]["objects"]
    missing = f"at least {size_text(left * size)} in {left:,} files are still to come"
    assert missing in full["said"]
    assert "dest is full: " in full["said"]
    if short_of == "files":
        assert re.search(r"and \d files are left", full["said"])
    assert full["staged"] == []
    assert full["state"] == ["journal.sqlite", "staged", "status.json"]
    assert full["files"] == full["recorded"], "the journal had room for what is in place"
    assert len(full["files"]) == count - left > count // 4
    assert (well["code"], well["files"], well["recorded"]) == (0, keys, keys)
    assert well["summary"]["skipped"]["objects"] == count - left
    assert well["summary"]["fetched"]["objects"] == left
    assert well["state"] == ["journal.sqlite", "staged", "status.json"]


UNMOUNTED = """
import os, subprocess, sys
from pathlib import Path
from nccid_fetch.destination import Placement, open_destination
from nccid_fetch.errors import DestinationError
from nccid_fetch.settings import Settings
dest = Path(sys.argv[1])

def publish(name):
    staged = destination.staging.new(hashed=True)
    staged.append_and_seal(b"bytes", 0)
    return destination.publish([Placement(("ct", name), staged, None)])

with open_destination(Settings(dest=dest)) as destination:
    print(publish("a"))
    subprocess.run(["umount", "--lazy", str(dest)], check=True)
    try:
        publish("b")
    except DestinationError as error:
        print(error.exit_code, error.message)
    print(os.listdir(dest))
"""


@fault(84)
def test_a_destination_that_is_unmounted_ends_the_run_and_nothing_lands_in_the_folder_below(tmp_path: Path) -> None:
    placed, ended, below = on_small_disk(tmp_path, "size=1m", UNMOUNTED)
    assert placed == "[None]"
    assert ended == f"9 {tmp_path / 'disk'} is no longer where it was: it was unmounted, moved or replaced"
    assert below == "[]"


APART = """
import os, subprocess, sys
from pathlib import Path
from nccid_fetch.destination import Placement, open_destination
from nccid_fetch.diagnosis import destination_error
from nccid_fetch.settings import Settings
dest = Path(sys.argv[1]) / "dest"
(dest / "ct").mkdir(parents=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(dest / "ct")], check=True)
with open_destination(Settings(dest=dest)) as destination:
    staged = destination.staging.new(hashed=True)
    staged.append_and_seal(b"bytes", 0)
    try:
        destination.publish([Placement(("ct", "a"), staged, None)])
    except OSError as error:
        print(destination_error(error, Path("DEST")).message)
    print(os.listdir(dest / "ct"))
"""


@fault(71)
def test_a_folder_on_another_file_system_is_named_and_nothing_half_copied_is_left(tmp_path: Path) -> None:
    said, left = on_small_disk(tmp_path, "size=1m", APART)
    assert said == "a folder in DEST is on another file system, and a file gets its name only within one"
    assert left == "[]"


CHECKPOINTED = """
import os, sys
from pathlib import Path
from nccid_fetch.errors import DestinationError
from nccid_fetch.journal import Journal
from nccid_fetch.model import ETag, Record, VerifiedBy
dest = Path(sys.argv[1])
(dest / ".nccid-fetch").mkdir()
def opened():
    return Journal.open(dest, bucket="b", group="training", endpoint="")
def batch(first):
    return [(f"training/ct/{number:064}", Record(number, ETag(""), 0, VerifiedBy.MD5)) for number in range(first, first + 100)]
journal, done = opened(), 0
filler = os.open(dest / "filler", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        journal.commit(batch(done))
        done += 100
except DestinationError as error:
    print(type(error).__name__)
journal.close()
print(sorted(os.listdir(dest / ".nccid-fetch")))
journal = opened()
print(done > 100, all(len(journal.records([key for key, _ in batch(first)])) == 100 for first in range(0, done, 100)))
(dest / "filler").unlink()
journal.close()
"""


@fault(106)
def test_when_the_disk_is_full_at_a_checkpoint_no_commit_is_lost(tmp_path: Path) -> None:
    """The WAL has what the database has no room for, and the next run takes it from there."""
    ended, left, kept = on_small_disk(tmp_path, "size=600k", CHECKPOINTED)
    assert ended == "DestinationFullError"
    assert "journal.sqlite" in left
    assert kept == "True True"


# --- Errors of the disk, one by one ---------------------------------------------------------------


@fault(60, 64, 65, 67)
@pytest.mark.parametrize("function", ["write", "close", "utime"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG])
def test_what_the_disk_says_of_one_file_ends_the_run_and_what_was_verified_is_recorded(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    keys = stock(s3, 30, 1000)
    calls = 0
    real: Callable[..., Any] = getattr(os, function)

    def fails(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        named = Path(f"/proc/self/fd/{arguments[0]}").readlink() if isinstance(arguments[0], int) else Path()
        is_staged = named.parent.name == "staged" and named.name != "reserve"
        done = real(*arguments, **options)
        calls += is_staged
        if is_staged and calls == 20:
            raise OSError(number, os.strerror(number))
        return done

    monkeypatch.setattr(commit, "BATCH_OBJECTS", 6)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails)
        run = fetch(s3, dest, concurrency=2)
    assert run.exit_code == 9
    present = check_tree(dest, snapshot(s3))
    assert 15 <= len(present) == len(records(dest)) == run.tally.fetched.objects < 30
    if number in {errno.ENOSPC, errno.EDQUOT}:
        assert isinstance(run.error, DestinationFullError)
        assert re.search(rf"at least [\d.]+ K?B in {30 - len(present)} files are still to come", str(run.error))
    before = s3.gets()
    assert fetch(s3, dest).exit_code == 0
    assert s3.gets() - before == 30 - len(present)
    assert check_tree(dest, snapshot(s3)) == set(keys)


@fault(61)
@pytest.mark.parametrize("fits", [True, False])
def test_a_journal_without_room_gets_what_was_kept_back_and_the_run_ends(
    s3: ScriptedS3,
    dest: Path,
    monkeypatch: pytest.MonkeyPatch,
    fits: bool,  # noqa: FBT001
) -> None:
    stock(s3, 30, 100)
    record = Journal.commit

    def full(self: Journal, placed: Any, failed: Any = ()) -> None:
        if (dest / ".nccid-fetch/staged/reserve").exists() or not fits:
            raise DestinationFullError("the journal is full")
        record(self, placed, failed)

    monkeypatch.setattr(Journal, "commit", full)
    run = fetch_twelve(s3, dest, monkeypatch)
    assert isinstance(run.error, DestinationFullError)
    assert run.exit_code == 9
    present = check_tree(dest, snapshot(s3))
    assert 5 <= len(present) <= 12
    assert set(records(dest)) == (present if fits else set())
    assert run.tally.fetched.objects == len(records(dest))


def fetch_twelve(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make a run that ends only because of its disk: after twelve objects the server holds its answers back."""
    never = threading.Event()
    s3.script("get", Hold(never), after=12, count=None)
    monkeypatch.setattr(commit, "BATCH_OBJECTS", 5)
    try:
        return fetch(s3, dest, concurrency=2)
    finally:
        never.set()


@fault(60)
def test_on_a_disk_that_fills_up_in_the_middle_of_a_batch_the_rest_of_it_gets_what_was_kept_back(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = stock(s3, 30, 100)
    rename = os.rename

    def full(*arguments: Any, **options: Any) -> None:
        if b"0003.json" in arguments and (dest / ".nccid-fetch/staged/reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(*arguments, **options)

    monkeypatch.setattr(os, "rename", full)
    run = fetch_twelve(s3, dest, monkeypatch)
    present = check_tree(dest, snapshot(s3))
    assert (run.exit_code, present) == (9, set(records(dest)))
    assert keys[3] in present
    assert 5 <= len(present) <= 12


@fault(60, 62)
def test_a_last_batch_without_room_is_9_and_not_a_few_failures(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = stock(s3, 10, 100)
    rename = os.rename

    def full(*arguments: Any, **options: Any) -> None:
        if b"0003.json" in arguments:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(*arguments, **options)

    monkeypatch.setattr(commit, "BATCH_SECONDS", 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        run = fetch(s3, dest)
    assert run.exit_code == 9
    assert re.search(r"at least [\d.]+ K?B in 1 files are still to come", str(run.error))
    assert check_tree(dest, snapshot(s3)) == set(records(dest)) == set(keys) - {keys[3]}
    assert fetch(s3, dest).exit_code == 0


# --- What is kept back ----------------------------------------------------------------------------


@pytest.fixture
def folder_fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_what_is_kept_back_is_really_there_and_given_up_once(tmp_path: Path, folder_fd: int) -> None:
    reserve = Reserve(folder_fd)
    reserve.take()
    kept = (tmp_path / "reserve").stat()
    assert kept.st_blocks * 512 >= RESERVE_BYTES
    assert not reserve.is_given_up
    assert [reserve.give_up(), reserve.give_up()] == [True, False]
    assert reserve.is_given_up
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_kept_back_a_run_begins_all_the_same(
    tmp_path: Path, folder_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run over a full disk may have nothing to fetch."""

    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    Reserve(folder_fd).take()
    assert list(tmp_path.iterdir()) == []


def test_room_is_kept_back_while_a_run_lasts(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 3, 10)
    there: list[bool] = []
    fetch(s3, dest, report=lambda event: there.append((dest / ".nccid-fetch/staged/reserve").exists()))
    assert there[-1]
    check_tree(dest, snapshot(s3))  # Which sees that it is gone.


# --- What cannot fit ------------------------------------------------------------------------------


def page(*sizes: int, replaces: int | None = None) -> PagePlanned:
    local = None if replaces is None else LocalFile(LocalKind.FILE, replaces)
    return PagePlanned(
        "ct",
        [
            Fetch(RemoteObject(f"training/ct/{n}", size, ETag(""), 0), Why.MISSING, local)
            for n, size in enumerate(sizes)
        ],
    )


@fault(62, 63)
@pytest.mark.parametrize(
    ("free", "told"),
    [
        (Space(59, None), [RoomShort(60, 3, 59, None)]),
        (Space(60, 3), []),
        (Space(60, 2), [RoomShort(60, 3, 60, 2)]),
        (Space(29, 10), [RoomShort(30, 2, 29, 10)]),
        (None, []),
    ],
)
def test_what_cannot_fit_is_told_as_soon_as_it_is_known_and_once(free: Space | None, told: list[RoomShort]) -> None:
    heard: list[Any] = []
    room = Room(heard.append)
    room.free = free
    pages = [page(10, 20), page(30), page(), page(1 << 40) if told else page(0, replaces=0)]
    for planned in pages:
        room(planned)
    assert [event for event in heard if isinstance(event, RoomShort)] == told
    assert [event for event in heard if isinstance(event, PagePlanned)] == pages


@fault(63)
def test_what_replaces_a_file_needs_only_what_it_is_larger() -> None:
    heard: list[Any] = []
    room = Room(heard.append)
    room.free = Space(5, 0)
    room(page(100, replaces=95))
    assert len(heard) == 1


@fault(63)
def test_the_disk_and_not_the_forecast_says_when_it_is_full(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota, a compressing file system or somebody who makes room: a warning, and the run goes on."""
    keys = stock(s3, 10, 100)
    monkeypatch.setattr("nccid_fetch.operations.space_of", lambda dest: Space(500, 3))
    run = fetch(s3, dest)
    assert [event for event in run.events if isinstance(event, RoomShort)] == [RoomShort(1000, 10, 500, 3)]
    assert (run.exit_code, check_tree(dest, snapshot(s3))) == (0, set(keys))


@fault(105)
def test_a_destination_on_another_machine_is_noted(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = stock(s3, 10, 100)
    monkeypatch.setattr("nccid_fetch.sqlitefile.type_of", lambda descriptor: 0x6969)
    monkeypatch.setattr("nccid_fetch.durability.type_of", lambda descriptor: 0x6969)
    for _ in range(2):
        run = fetch(s3, dest)
        assert [event for event in run.events if isinstance(event, RemoteFound)] == [RemoteFound("NFS")]
        assert (run.exit_code, check_tree(dest, snapshot(s3))) == (0, set(keys))
    assert run.tally.skipped.objects == 10
