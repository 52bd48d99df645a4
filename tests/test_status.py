"""What a run says of itself to others, and what `status` makes of that and of the journal."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from nccid_fetch import statusfile
from nccid_fetch.cli import status as command
from nccid_fetch.cli.publishing import published
from nccid_fetch.cli.statuspage import Look, as_dict, page
from nccid_fetch.errors import DestinationBusyError, DestinationError, DestinationFullError, Reason, UsageError
from nccid_fetch.events import DestinationOpened, LastListed, PartsKnown, RoomShort, Stopped, StoppedBy
from nccid_fetch.holdings import JournalState, count_quarantine, journal_state, read_holdings
from nccid_fetch.journal import Journal
from nccid_fetch.keys import STATE_FOLDER
from nccid_fetch.model import ETag, Listed, Record, VerifiedBy
from nccid_fetch.progress import PartProgress, Progress, Waiting
from nccid_fetch.settings import Settings, Source
from nccid_fetch.status import SILENT_SECONDS, End, Life, Process, RunStatus, Whereabouts, life_of, time_of, where_is
from nccid_fetch.statusfile import NAME, Publisher, read_status, this_process, write_status
from nccid_fetch.summary import Count, Tally

from . import snapshots
from .oracle import fetch, records
from .processes import Child, environment
from .servers.scripted import Do, Hold, ScriptedS3, Status

NOW = 1_764_000_000.0
MD5 = ETag("9e107d9d372bb6826bd81d3542a419d6")
BUCKET = "nccid-data-warehouse-prod"
PROGRESS = Progress(
    elapsed_seconds=7860.0,
    listing_is_complete=False,
    listed_objects=6_100_000,
    listed_bytes=1_900_000_000_000,
    settled_objects=3_050_000,
    settled_bytes=850_000_000_000,
    fetched_objects=3_000_000,
    fetched_bytes=849_000_000_000,
    adopted_objects=0,
    skipped_objects=49_988,
    verified_objects=3_000_000,
    failed_objects=12,
    retries=40,
    throttled=0,
    bytes_per_second=108_000_000.0,
    seconds_left=None,
    limit_objects=64,
    limit_of=64,
    waiting=None,
    parts=(
        PartProgress("data", "complete", 50_000, 700_000_000, 50_000, 700_000_000),
        PartProgress("ct", None, 6_050_000, 1_899_300_000_000, 3_000_000, 849_300_000_000),
        PartProgress("mri", "denied", 0, 0, 0, 0),
    ),
)
STATUS = RunStatus(
    version="0.1.0",
    process=Process(4711, "imaging-7", "a-boot"),
    command="all",
    bucket=BUCKET,
    group="training",
    asked=(),
    started=time_of(NOW - 7860),
    heartbeat=time_of(NOW - 1),
    changed=time_of(NOW - 1),
    warnings=(),
    progress=PROGRESS,
)
ENDED = replace(STATUS, end=End(time_of(NOW - 600), 1, "it finished, but some objects failed or were refused", None))


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """A destination as `open_destination` leaves it."""
    dest = tmp_path / "nccid"
    (dest / STATE_FOLDER).mkdir(parents=True, mode=0o700)
    return dest


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for number in range(20):
            server.put(f"training/data/Covid{number:04}/data_2020-04-01.json", b"{}" * (number + 1))
        yield server


def status_path(dest: Path) -> Path:
    return dest / STATE_FOLDER / NAME


def record(size: int, proof: VerifiedBy = VerifiedBy.MD5) -> Record:
    return Record(size, MD5, 0, proof)


def fill(dest: Path) -> None:
    """Leave a journal with two parts that were listed, of which one lacks objects, and one that never was."""
    journal = Journal.open(dest, bucket=BUCKET, group="training", endpoint="https://s3.example.org")
    assert journal is not None
    with closing(journal), journal.run("all", ["training/ct/"]):
        journal.note_listing("ct", 5, 5000, is_whole=True, endpoint="")
        journal.note_listing("data", 1, 10, is_whole=True, endpoint="")
        journal.commit(
            [(f"training/ct/Covid0/1/{series}/{n}.dcm", record(1000)) for series in (1, 2) for n in range(1)]
            + [("training/ct/Covid0/1/1/b.dcm", record(1000, VerifiedBy.SIZE))]
            + [("training/data/Covid0/data_2020-04-01.json", record(10))]
            + [("training/xray/Covid0/1/1/a.dcm", record(70, VerifiedBy.CHECKSUM))],
            [
                ("training/ct/Covid0/1/1/c.dcm", Reason.CHANGED, "replaced"),
                ("training/ct/../d", Reason.UNSAFE_KEY, "no"),
            ],
        )
    with sqlite3.connect(Journal.path(dest)) as connection:
        connection.execute("UPDATE listing SET ended = ?", (time_of(NOW - 3600),))
        connection.execute("UPDATE run SET started = ?, ended = ?", (time_of(NOW - 7860), time_of(NOW - 600)))
    connection.close()


# ---- What was last listed


def test_what_was_listed_is_remembered_before_any_filter_and_told_to_the_next_run(
    s3: ScriptedS3, tmp_path: Path
) -> None:
    dest = tmp_path / "nccid"
    s3.put("training/data/Covid0/", b"")  # A folder marker, which is none.
    first = fetch(s3, dest, include=("data/Covid0001/*",))
    assert first.tally.listed.objects == 1
    assert [event.parts for event in first.events if isinstance(event, LastListed)] == [], "something is selected"
    again = fetch(s3, dest)
    (told,) = [event.parts["data"] for event in again.events if isinstance(event, LastListed)]
    assert told[:2] == (20, sum(2 * (number + 1) for number in range(20)))
    assert told.is_whole


def listed(dest: Path) -> dict[str, Listed]:
    holdings = read_holdings(dest)
    assert holdings is not None
    return holdings.listed


@pytest.mark.usefixtures("no_pauses")
def test_a_listing_that_breaks_off_leaves_what_was_listed_before(s3: ScriptedS3, tmp_path: Path) -> None:
    dest = tmp_path / "nccid"
    fetch(s3, dest)
    before = listed(dest)
    s3.put("training/data/Covid9999/a.json", b"new")
    s3.script("list", Status(500, "InternalError"), after=1, count=None)
    assert fetch(s3, dest).exit_code == 5
    assert listed(dest) == before


def test_a_plan_that_is_carried_out_is_no_listing(s3: ScriptedS3, tmp_path: Path) -> None:
    dest, plan = tmp_path / "nccid", tmp_path / "plan.jsonl"
    ends = [subprocess.run(
        [sys.executable, "-m", "nccid_fetch", *words, "--dest", str(dest), "--endpoint-url", s3.endpoint_url],
        env=environment(), check=True, capture_output=True, timeout=110,
    ) for words in (["plan", "data", "--output", str(plan)], ["get", "--plan", str(plan)])]  # fmt: skip
    assert len(ends) == 2
    assert listed(dest) == {}


def test_a_listing_that_is_shorter_than_what_is_in_place_is_kept_as_one_to_be_doubted(
    s3: ScriptedS3, tmp_path: Path
) -> None:
    dest = tmp_path / "nccid"
    fetch(s3, dest)
    for number in range(10):
        s3.delete(f"training/data/Covid{number:04}/data_2020-04-01.json")
    fetch(s3, dest)
    assert (listed(dest)["data"].objects, listed(dest)["data"].is_whole) == (10, False)
    assert "may not have been the whole: data" in "\n".join(page(dest, command.look_at(dest), NOW))


# ---- What a destination holds


def test_a_journal_says_what_is_in_place_how_it_was_proved_and_what_failed(dest: Path) -> None:
    fill(dest)
    holdings = read_holdings(dest)
    assert holdings is not None
    assert {name: (part.in_place, dict(part.failed)) for name, part in holdings.parts.items()} == {
        "ct": (Count(3, 3000), {"changed": 1, "unsafe_key": 1}),
        "data": (Count(1, 10), {}),
        "xray": (Count(1, 70), {}),
    }
    assert +holdings.verified == {VerifiedBy.MD5: 3, VerifiedBy.SIZE: 1, VerifiedBy.CHECKSUM: 1}
    assert {name: told.objects for name, told in holdings.listed.items()} == {"ct": 5, "data": 1}
    assert (holdings.runs, holdings.bucket, holdings.group) == (1, BUCKET, "training")


def test_looking_changes_nothing_and_needs_no_right_to_write(dest: Path) -> None:
    fill(dest)
    before = {path.name: path.stat() for path in (dest / STATE_FOLDER).iterdir()}
    opened: list[int] = []
    sys.addaudithook(
        lambda event, arguments: opened.append(arguments[2]) if event == "open" and opened is not None else None
    )
    command.look_at(dest)
    assert not [flags for flags in opened if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)]
    assert {path.name: path.stat()[:-3] for path in (dest / STATE_FOLDER).iterdir()} == {
        name: found[:-3] for name, found in before.items()
    }


def test_a_run_that_begins_while_one_reads_makes_what_was_read_nothing(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(dest)
    read = sys.modules["nccid_fetch.holdings"]._read
    begun: list[Journal | None] = []

    def reading(connection: sqlite3.Connection, dest: Path) -> Any:
        holdings = read(connection, dest)
        begun.append(Journal.open(dest, bucket=BUCKET, group="training"))
        return holdings

    monkeypatch.setattr("nccid_fetch.holdings._read", reading)
    assert read_holdings(dest) is None
    (journal,) = begun
    assert journal is not None, "and it was not turned away"
    journal.close()
    monkeypatch.setattr("nccid_fetch.holdings._read", read)
    assert read_holdings(dest) is not None


@pytest.fixture
def killed(dest: Path, tmp_path: Path) -> Path:
    """A destination whose last run was killed after a commit: as is copied while it goes on."""
    copy = tmp_path / "killed"
    journal = Journal.open(dest, bucket=BUCKET, group="training", endpoint="https://s3.example.org")
    assert journal is not None
    with closing(journal), journal.run("all", []):
        journal.commit([("training/ct/a", record(1))])
        shutil.copytree(dest, copy)
    (copy / STATE_FOLDER / "staged").mkdir()
    return copy


def state_of(dest: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (dest / STATE_FOLDER).rglob("*") if path.is_file()}


def test_of_a_journal_that_was_left_open_a_copy_is_read_and_nothing_stays_of_it(killed: Path) -> None:
    before = state_of(killed)
    assert journal_state(killed) is JournalState.LEFT_OPEN
    holdings = read_holdings(killed)
    assert holdings is not None
    assert holdings.parts["ct"].in_place == Count(1, 1)
    assert holdings.last_run is not None
    assert holdings.last_run.ended is None
    assert state_of(killed) == before


@pytest.mark.parametrize("hindrance", ["size", "no folder", "link"])
def test_a_journal_that_was_left_open_and_cannot_be_copied_waits_for_the_next_run(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    staged = killed / STATE_FOLDER / "staged"
    if hindrance == "size":
        monkeypatch.setattr("nccid_fetch.holdings._COPIED_BYTES_MAX", 100)
    else:
        staged.rmdir()
    if hindrance == "link":
        (tmp_path / "elsewhere").mkdir()
        staged.symlink_to(tmp_path / "elsewhere")
    assert read_holdings(killed) is None


def test_a_journal_without_the_table_of_listings_says_what_is_in_place(dest: Path) -> None:
    fill(dest)
    with sqlite3.connect(Journal.path(dest)) as connection:
        connection.execute("DROP TABLE listing")
    connection.close()
    holdings = read_holdings(dest)
    assert holdings is not None
    assert (holdings.listed, holdings.parts["ct"].in_place.objects) == ({}, 3)


def test_a_damaged_journal_and_a_newer_one_are_errors_with_a_next_step(dest: Path) -> None:
    fill(dest)
    with sqlite3.connect(Journal.path(dest)) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(UsageError, match="newer"):
        read_holdings(dest)
    Journal.path(dest).write_bytes(b"no database" * 100)
    with pytest.raises(DestinationError, match="cannot be read"):
        read_holdings(dest)


def test_what_is_set_aside_is_counted_and_no_link_is_followed(dest: Path, tmp_path: Path) -> None:
    assert count_quarantine(dest) == Count()
    aside = dest / STATE_FOLDER / "quarantine" / "20260101T000000Z" / "ct"
    aside.mkdir(parents=True)
    (aside / "a.dcm").write_bytes(b"12345")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b").write_bytes(b"1")
    (aside / "link").symlink_to(tmp_path / "elsewhere")
    (aside / "c.dcm").symlink_to(tmp_path / "elsewhere" / "b")
    assert count_quarantine(dest) == Count(1, 5)


def test_what_is_set_aside_and_cannot_be_read_is_not_counted(dest: Path) -> None:
    (dest / STATE_FOLDER / "quarantine").symlink_to("quarantine")
    assert count_quarantine(dest) == Count()


# ---- What a run says of itself


def test_a_status_is_read_as_it_was_written(dest: Path) -> None:
    told = replace(
        ENDED, asked=("ct", "data"), warnings=("full",), progress=replace(PROGRESS, waiting=Waiting("x", "y", 1.0, 2.0))
    )
    for status in (STATUS, told):
        write_status(dest, status, 0o600)
        assert read_status(dest) == status
    assert status_path(dest).stat().st_mode & 0o777 == 0o600
    write_status(dest, STATUS, 0o640)
    assert status_path(dest).stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (dest / STATE_FOLDER).iterdir()] == [NAME]


ENORMOUS = PROGRESS.as_dict()["parts"][0] | {"share": 10**17}
"""A part whose bar would fill the memory."""


def changed(**values: object) -> str:
    return json.dumps(STATUS.as_dict() | values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        changed(schema="nccid-fetch/status/2"),
        changed(command=7),
        changed(command="x" * 5000),
        changed(started="yesterday"),
        changed(heartbeat=None),
        changed(end={"time": "today", "exit_code": 0, "message": "", "hint": None}),
        changed(progress=PROGRESS.as_dict() | {"share": -1}),
        changed(progress=PROGRESS.as_dict() | {"parts": [ENORMOUS]}),
        changed(process={"pid": "1", "host": "h", "boot": None}),
        changed(progress=None),
        changed(progress=PROGRESS.as_dict() | {"listed_objects": "many"}),
        changed(progress=PROGRESS.as_dict() | {"listed_objects": True}),
        changed(progress=PROGRESS.as_dict() | {"elapsed_seconds": float("nan")}),
        changed(progress=PROGRESS.as_dict() | {"listed_bytes": 10**400}),
        changed(progress=PROGRESS.as_dict() | {"parts": [None] * 3}),
        changed(asked=["x"] * 2000),
        changed() + " " * (1 << 18),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_status_is_none(dest: Path, text: str) -> None:
    status_path(dest).write_text(text)
    assert read_status(dest) is None


def test_what_a_newer_version_has_besides_is_passed_over(dest: Path) -> None:
    status_path(dest).write_text(changed(mood="good"))
    assert read_status(dest) == STATUS


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "linked state folder"])
def test_no_status_is_read_through_a_link_or_from_what_is_no_file(dest: Path, tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / NAME).write_text(changed())
    if kind == "linked state folder":
        (dest / STATE_FOLDER).rmdir()
        (dest / STATE_FOLDER).symlink_to(elsewhere)
    elif kind == "link":
        status_path(dest).symlink_to(elsewhere / NAME)
    elif kind == "pipe":
        os.mkfifo(status_path(dest))
    else:
        status_path(dest).mkdir()
    assert read_status(dest) is None
    with suppress(OSError):
        write_status(dest, replace(STATUS, command="get"), 0o600)
    assert (elsewhere / NAME).read_text() == changed(), "what a link leads to is nobody's to change"


class Publishing:
    """A publisher, its clock, and what it is to say."""

    def __init__(self, dest: Path) -> None:
        self.now = NOW
        self.status = STATUS
        self.dest = dest
        self.publisher = Publisher(dest, 0o600, lambda: self.status, lambda: self.now)

    def beat(self, seconds: float = 1.0) -> RunStatus | None:
        """Let time pass and the publisher write; return what is new in the file, if anything is."""
        before = read_status(self.dest)
        self.now += seconds
        self.publisher.beat()
        after = read_status(self.dest)
        return after if after != before else None


def test_a_status_is_written_when_something_changes_and_else_every_ten_seconds(dest: Path) -> None:
    run = Publishing(dest)
    first = run.beat()
    assert first is not None
    assert first.heartbeat == first.changed == time_of(NOW + 1)
    assert [run.beat() for _ in range(9)] == [None] * 9
    still = run.beat()
    assert still is not None
    assert (still.heartbeat, still.changed) == (time_of(NOW + 11), time_of(NOW + 1))
    run.status = replace(STATUS, progress=replace(PROGRESS, elapsed_seconds=1.0, seconds_left=3.0))
    assert run.beat() is None, "time alone is no change"
    run.status = replace(STATUS, progress=replace(PROGRESS, settled_objects=3_050_001))
    news = run.beat()
    assert news is not None
    assert news.heartbeat == news.changed == time_of(NOW + 13)
    assert run.beat(-86_400) is not None, "a clock that was set back does not silence it"


def test_a_disk_that_takes_no_status_hurts_nobody(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Publishing(dest)
    run.beat()
    with monkeypatch.context() as patch:
        patch.setattr("nccid_fetch.statusfile.set_mode", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert run.beat(10) is None
    assert [path.name for path in (dest / STATE_FOLDER).iterdir()] == [NAME], "half a status is not left behind"
    assert run.beat(10) is not None


def test_the_end_is_written_unless_another_run_has_the_destination(dest: Path) -> None:
    run = Publishing(dest)
    run.publisher.begin()
    run.publisher.end(5, "a listing broke off", "again")
    last = read_status(dest)
    assert last is not None
    assert last.end == End(time_of(NOW), 5, "a listing broke off", "again")
    run = Publishing(dest)
    run.publisher.begin()
    run.publisher._is_over.set()
    run.publisher._thread.join()
    theirs = replace(STATUS, process=Process(4712, "imaging-8", "b"))
    write_status(dest, theirs, 0o600)
    run.publisher.end(0, "well", None)
    assert read_status(dest) == theirs


def publishing_block(dest: Path, *, opened: bool, end: BaseException | None) -> RunStatus | None:
    settings = Settings(dest=dest, parts=("ct",))
    with suppress(typer.Exit, DestinationFullError), published("get", Source(), settings, Tally()) as listen:
        if opened:
            listen(DestinationOpened())
            listen(RoomShort(10, 1, 5, None))
        if end is not None:
            raise end
    return read_status(dest)


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        (typer.Exit(0), 0, "everything that was asked for is in place"),
        (typer.Exit(1), 1, "it finished, but some objects failed or were refused"),
        (DestinationFullError("/data is full", hint="make room"), 9, "/data is full"),
    ],
    ids=["well", "with failures", "with an error"],
)
def test_a_command_leaves_how_it_ended(dest: Path, end: BaseException, code: int, message: str) -> None:
    status = publishing_block(dest, opened=True, end=end)
    assert status is not None
    assert status.end is not None
    assert (status.end.exit_code, status.end.message, status.asked) == (code, message, ("ct",))
    assert [warning[:13] for warning in status.warnings] == ["room is short"]
    assert status.process == this_process()


def test_a_run_that_was_stopped_leaves_by_what_and_how_to_go_on(dest: Path) -> None:
    tally = Tally()
    with suppress(typer.Exit), published("all", Source(), Settings(dest=dest), tally) as listen:
        listen(DestinationOpened())
        tally(PartsKnown(("ct",), {}))
        tally(Stopped(StoppedBy.MAX_DURATION, "8h 00m are over"))
        raise typer.Exit(10)
    status = read_status(dest)
    assert status is not None
    assert status.end is not None
    assert status.end.message == "it was stopped by --max-duration: 8h 00m are over"
    assert status.end.hint == "run the same command again to go on"


def test_a_run_that_never_had_the_destination_leaves_the_word_of_the_one_that_has_it(dest: Path) -> None:
    write_status(dest, STATUS, 0o600)
    assert publishing_block(dest, opened=False, end=typer.Exit(75)) == STATUS


def test_no_folder_is_made_for_it(tmp_path: Path) -> None:
    assert publishing_block(tmp_path / "none", opened=True, end=None) is None
    assert not (tmp_path / "none").exists()


# ---- What has become of a run

OLD, YOUNG = SILENT_SECONDS + 1, 1.0
HERE, NOT_HERE, ELSEWHERE = Whereabouts.HERE, Whereabouts.NOT_HERE, Whereabouts.ELSEWHERE


@pytest.mark.parametrize(
    ("is_held", "status", "where", "age", "life"),
    [
        (True, None, HERE, OLD, Life.BEGINNING),
        (True, ENDED, HERE, YOUNG, Life.BEGINNING),
        (True, STATUS, NOT_HERE, YOUNG, Life.BEGINNING),
        (True, STATUS, HERE, YOUNG, Life.RUNNING),
        (True, STATUS, ELSEWHERE, YOUNG, Life.RUNNING),
        (True, STATUS, HERE, OLD, Life.SILENT),
        (True, STATUS, ELSEWHERE, OLD, Life.SILENT),
        (False, None, HERE, YOUNG, Life.NONE),
        (False, ENDED, HERE, OLD, Life.ENDED),
        (False, STATUS, NOT_HERE, YOUNG, Life.GONE),
        (False, STATUS, HERE, YOUNG, Life.RUNNING),
        (False, STATUS, ELSEWHERE, YOUNG, Life.RUNNING),
        (False, STATUS, ELSEWHERE, -3600, Life.RUNNING),
        (False, STATUS, HERE, OLD, Life.GONE),
        (False, STATUS, ELSEWHERE, OLD, Life.GONE),
    ],
)
def test_the_lock_the_process_and_the_heartbeat_say_what_has_become_of_a_run(
    *, is_held: bool, status: RunStatus | None, where: Whereabouts, age: float, life: Life
) -> None:
    assert life_of(status, where, age, is_held=is_held) is life


@pytest.mark.parametrize(
    ("process", "is_alive", "where"),
    [
        (Process(1, "here", "boot"), True, HERE),
        (Process(1, "here", "boot"), False, NOT_HERE),
        (Process(1, "here", "earlier"), True, NOT_HERE),
        (Process(1, "there", "boot"), True, ELSEWHERE),
    ],
)
def test_a_process_is_here_only_in_this_boot_of_this_machine(
    *, process: Process, is_alive: bool, where: Whereabouts
) -> None:
    assert where_is(process, Process(2, "here", "boot"), is_alive=is_alive) is where


def test_a_process_is_alive_where_its_number_is_one() -> None:
    numbers = (os.getpid(), 0, -1, 2**22 + 1, 2**40)
    assert [statusfile.is_alive(Process(pid, "h", None)) for pid in numbers] == [True, False, False, False, False]


def test_who_has_the_journal_is_seen_from_another_process_and_stays_so(dest: Path) -> None:
    fill(dest)
    code = f"""
import sys
from pathlib import Path
from nccid_fetch.journal import Journal
journal = Journal.open(Path(sys.argv[1]), bucket={BUCKET!r}, group="training")
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(dest)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert statusfile.is_held(dest)
    with pytest.raises(DestinationBusyError):
        Journal.open(dest, bucket=BUCKET, group="training")
    holder.communicate("", timeout=60)
    assert not statusfile.is_held(dest)
    assert not statusfile.is_held(dest / "nowhere")


# ---- The page


def look(life: Life, status: RunStatus | None = None, dest: Path | None = None, aside: Count | None = None) -> Look:
    holdings = read_holdings(dest) if dest is not None else None
    state = JournalState.CLOSED if holdings is not None else JournalState.LEFT_OPEN
    return Look(life, status, holdings, state, aside or Count())


PAGES: dict[str, Callable[[Path], Look]] = {
    "ended": lambda dest: look(Life.ENDED, ENDED, dest, Count(2, 1_500_000)),
    "no-word-of-a-run": lambda dest: look(Life.NONE, None, dest),
    "running": lambda _: look(Life.RUNNING, STATUS),
    "waiting": lambda _: look(
        Life.RUNNING,
        replace(
            STATUS,
            changed=time_of(NOW - 130),
            warnings=("room is short: 10 GB in 10 files were planned when 9 GB were free",),
            progress=replace(PROGRESS, waiting=Waiting("the endpoint", "no route", 130.0, 900.0)),
        ),
    ),
    "silent": lambda _: look(Life.SILENT, replace(STATUS, heartbeat=time_of(NOW - 3000))),
    "gone": lambda _: look(Life.GONE, replace(STATUS, heartbeat=time_of(NOW - 3000), asked=("ct", "data"))),
    "left-open": lambda _: look(Life.NONE),
    "beginning": lambda _: look(Life.BEGINNING),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_those_that_are_kept_and_fit_eighty_columns(dest: Path, name: str) -> None:
    fill(dest)
    lines = list(page(Path("/data/nccid"), PAGES[name](dest), NOW))
    assert max(map(len, lines)) <= 80
    snapshots.check(f"status/{name}", "\n".join(lines) + "\n")


def test_where_nothing_is_in_place_the_page_has_no_gap(dest: Path) -> None:
    fill(dest)
    seen = look(Life.NONE, None, dest)
    assert seen.holdings is not None
    empty = replace(seen, holdings=replace(seen.holdings, verified=Counter(), parts={}))
    assert ("", "") not in pairwise(page(Path("/data/nccid"), empty, NOW))


def test_every_page_that_is_kept_is_shown_by_a_test() -> None:
    assert snapshots.names("status") == {f"status/{name}" for name in PAGES}


def test_a_page_shows_no_control_character_of_a_stranger(dest: Path) -> None:
    evil = replace(STATUS, process=Process(1, "\x1b[2Jhost", None), warnings=("\r\x07",), bucket="b\n")
    text = "\n".join(page(dest, look(Life.RUNNING, evil), NOW))
    assert text.replace("\n", "").isprintable()


def test_nobody_is_waited_for_who_put_a_pipe_in_the_journals_place(dest: Path) -> None:
    os.mkfifo(Journal.path(dest))
    assert not statusfile.is_held(dest)


def test_as_json_it_is_one_object_with_a_schema_and_an_exit_code(dest: Path) -> None:
    fill(dest)
    told = json.loads(json.dumps(as_dict(dest, look(Life.ENDED, ENDED, dest))))
    assert (told["schema"], told["exit_code"], told["complete"]) == ("nccid-fetch/holdings/1", 0, False)
    assert told["parts"]["ct"]["missing"] == 2
    assert told["parts"]["xray"]["listed"] is None
    assert told["run"]["life"] == "ended"


def shown(dest: Path, capsys: pytest.CaptureFixture[str], form: str = "auto") -> str:
    command.show({"dest": dest, "format_": form, "watch": False})
    return capsys.readouterr().out


def test_the_command_shows_a_page_or_an_object_or_nothing(dest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(dest)
    assert shown(dest, capsys).startswith(f"{BUCKET}/training -> {dest}\n")
    assert json.loads(shown(dest, capsys, "json"))["dest"] == str(dest)
    assert shown(dest, capsys, "quiet") == ""


@pytest.mark.parametrize("kind", ["missing", "without a state folder", "with an empty one", "a file"])
def test_what_is_no_destination_is_2_with_a_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    dest = tmp_path / "dest"
    if kind == "a file":
        dest.write_text("")
    elif kind != "missing":
        (dest / STATE_FOLDER if "empty" in kind else dest).mkdir(parents=True)
    with pytest.raises(UsageError, match="is no destination") as error:
        shown(dest, capsys)
    assert "--dest" in str(error.value.hint)


def test_without_a_state_folder_there_is_no_status_and_with_a_status_alone_there_is_a_page(
    dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(dest, ENDED, 0o600)
    assert "Incomplete: it has no journal. To go on:" in shown(dest, capsys)


def test_nothing_is_loaded_that_speaks_to_a_network_or_draws() -> None:
    code = "import sys, nccid_fetch.cli.status; print({'aioboto3', 'botocore', 'aiohttp', 'pycurl', 'rich'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# ---- Following


def follow(*found: tuple[RunStatus | None, Life]) -> int:
    """Follow a run of which this is found, look by look; return how many looks it took."""
    looks, shown, made = iter(found), list[command.Found](), list[command.Found]()

    def find() -> tuple[RunStatus | None, Life]:
        made.append(next(looks))
        return made[-1]

    command.follow(find, shown.append, lambda: None)
    assert shown == made[:-1], "the end is left to the page"
    return len(made)


ANOTHER = replace(STATUS, started=time_of(NOW))


def test_a_run_is_followed_to_its_end() -> None:
    assert follow((STATUS, Life.RUNNING), (STATUS, Life.SILENT), (STATUS, Life.RUNNING), (ENDED, Life.ENDED)) == 4
    assert follow((STATUS, Life.RUNNING), (STATUS, Life.GONE)) == 2


def test_where_there_is_none_the_next_one_is_waited_for() -> None:
    waiting: tuple[RunStatus | None, Life] = (None, Life.NONE)
    beginning: tuple[RunStatus | None, Life] = (None, Life.BEGINNING)
    assert follow(waiting, beginning, waiting, (STATUS, Life.RUNNING), (ENDED, Life.ENDED)) == 5
    assert follow((ENDED, Life.ENDED), (ENDED, Life.ENDED), (replace(ENDED, started=time_of(NOW)), Life.ENDED)) == 3
    assert follow((STATUS, Life.GONE), (STATUS, Life.BEGINNING), (ANOTHER, Life.RUNNING), (ANOTHER, Life.GONE)) == 4


def test_another_machines_clock_does_not_make_a_run_look_silent() -> None:
    now = [0.0]
    hearing = command.Hearing(lambda: now[0])
    early = replace(STATUS, heartbeat="2001-01-01T00:00:00Z")
    assert hearing.silent_seconds(early) == 0
    now[0] = 50
    assert hearing.silent_seconds(early) == 50
    assert hearing.silent_seconds(replace(early, heartbeat="2001-01-01T00:00:10Z")) == 0


def test_where_it_is_no_terminal_there_is_a_line_a_minute_and_one_when_something_changes() -> None:
    now, written = [1000.0], list[str]()
    lines = command.PlainLines(Path("/data"), written.append, lambda: now[0])

    def shown(found: tuple[RunStatus | None, Life], seconds: float = 1.0) -> list[str]:
        now[0] += seconds
        written.clear()
        lines.show(found)
        return [line[:20] for line in written]

    assert shown((None, Life.NONE)) == ["Waiting for a run ov"]
    assert shown((None, Life.NONE), 600) == []
    assert shown((STATUS, Life.RUNNING)) == ["A run goes on: all, ", "3,050,000 of at leas"]
    assert shown((STATUS, Life.RUNNING), 59) == []
    assert shown((STATUS, Life.RUNNING)) == ["3,050,000 of at leas"]
    held = replace(STATUS, progress=replace(PROGRESS, waiting=Waiting("the endpoint", "", 1.0, 900.0)))
    assert shown((held, Life.RUNNING)) == ["A run goes on: all, ", "waiting for the endp"]


# ---- Real processes


def started(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "nccid_fetch", "status", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(TERM="dumb"), **options,
    )  # fmt: skip


def said(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_run_is_seen_from_another_process_and_so_is_its_death(s3: ScriptedS3, tmp_path: Path) -> None:
    dest, reached, never = tmp_path / "nccid", threading.Event(), threading.Event()
    s3.script("get", Do(reached.set, Hold(never)), after=10)
    s3.script("get", Hold(never), after=10, count=None)
    watch = started("--watch", "--dest", dest)
    assert watch.stdout is not None
    assert watch.stdout.readline().startswith("Waiting for a run over")
    assert not dest.exists()
    child = Child(s3, dest)
    try:
        assert next(text for text in watch.stdout if "goes on" in text).startswith(
            f"A run goes on: all, process {child.pid} on"
        )
        code, out, err = said(started("--format", "json", "--dest", dest))
        told = json.loads(out)
        assert (code, err, told["run"]["life"], told["journal"]) == (0, "", "running", "in use")
        assert told["run"]["process"]["pid"] == child.pid
        assert reached.wait(60)
        child.signal(signal.SIGKILL)
        child.process.communicate(timeout=60)
        code, out, err = said(watch)
        assert (code, err) == (0, "")
        assert "is gone: it was killed" in out.replace("\n", " ")
        assert "the last run did not come to its end. To go on:" in out.replace("\n", " ")
        told = json.loads(said(started("--format", "json", "--dest", dest))[1])
        assert (told["run"]["life"], told["journal"], told["complete"]) == ("gone", "left open", False)
        part = told["parts"]["data"]
        assert (part["listed"]["objects"], part["in_place"]["objects"]) == (20, len(records(dest)))
        assert out.endswith(f"\n  nccid-fetch all --dest {dest}\n")
    finally:
        never.set()


def test_a_run_that_ends_well_ends_the_watch_and_ctrl_c_ends_a_watch_alone(s3: ScriptedS3, tmp_path: Path) -> None:
    dest, begun, go_on = tmp_path / "nccid", threading.Event(), threading.Event()
    s3.script("get", Do(begun.set, Hold(go_on)), after=10)
    child = Child(s3, dest)
    assert begun.wait(60)
    watches = [started("--watch", "--dest", dest) for _ in range(2)]
    for watch in watches:
        assert watch.stdout is not None
        assert "process" in next(text for text in watch.stdout if "goes on" in text)
    watches[0].send_signal(signal.SIGINT)
    assert said(watches[0])[0::2] == (130, "")
    go_on.set()
    assert child.end()[0] == 0
    code, out, err = said(watches[1])
    assert (code, err) == (0, "")
    assert "everything that was asked for is in place" in out.replace("\n", " ")
    assert "Complete: all that was last listed is in place" in out
