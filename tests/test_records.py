"""What a command keeps besides what it says: how it is opened, written, bounded and described. No command runs here."""

import asyncio
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nccid_fetch.cli.flags import LogFormat
from nccid_fetch.cli.narration import Narrator, sentences
from nccid_fetch.cli.records.files import open_to_append
from nccid_fetch.cli.records.log import OLD_LOGS, Log
from nccid_fetch.cli.records.metrics import EVERY_SECONDS, OUTCOMES, Metrics
from nccid_fetch.cli.records.outlet import Outlet
from nccid_fetch.cli.records.stream import EventStream, lines_of, name_of
from nccid_fetch.errors import Reason, UsageError
from nccid_fetch.events import (
    Adopted,
    Committed,
    Committing,
    DestinationOpened,
    Event,
    Failed,
    Fetched,
    Hashed,
    Held,
    LastListed,
    LimitSet,
    ListingEnded,
    ListingRetrying,
    PagePlanned,
    PartsKnown,
    PlaceNoted,
    RateSet,
    Received,
    Released,
    RemoteFound,
    Retrying,
    RoomFound,
    RoomShort,
    Stopped,
    StoppedBy,
    Wait,
)
from nccid_fetch.model import ETag, Fetch, Listed, PartState, RemoteObject, Skip, VerifiedBy, Why
from nccid_fetch.summary import Tally

from .catalogue import fault
from .conftest import run

DOCUMENT = (Path(__file__).parent.parent / "docs" / "events.md").read_text()
SOMEBODY = 12345
REMOTE = RemoteObject("training/ct/Covid0000/1/2/a.dcm", 7, ETag("0" * 32), 0)
EVENTS: tuple[Event, ...] = (
    PartsKnown(("ct", "mri"), {"mri": PartState.DENIED}),
    PagePlanned("ct", [Fetch(REMOTE, Why.MISSING), Skip(REMOTE)]),
    ListingEnded("ct", PartState.COMPLETE),
    ListingRetrying("training/ct/", "no", 0.5, throttled=False),
    Received(7),
    Retrying(REMOTE, 1, "no", 0.5, throttled=True),
    Held(Wait.WINDOW, "no", 1.0, 2.0, 3.0, datetime(2026, 11, 22, 19, tzinfo=UTC)),
    Released(Wait.ENDPOINT, 4.0),
    LimitSet(3, 4),
    DestinationOpened(),
    LastListed({"ct": Listed(5, 35, "2026-11-20T03:00:00Z", is_whole=True)}),
    RateSet(5_000_000),
    RoomFound(3, None),
    RemoteFound("nfs"),
    PlaceNoted("no"),
    Hashed(7),
    Committing(4, 60),
    Stopped(StoppedBy.MAX_BYTES, "no"),
    RoomShort(1, 2, 3, None),
    Committed(
        [
            Fetched(REMOTE, VerifiedBy.MD5),
            Adopted(REMOTE, VerifiedBy.SIZE),
            Failed(REMOTE, Reason.GONE, "no"),
            Failed(REMOTE, Reason.CONFLICT, "no"),
        ]
    ),
)
"""One of each kind."""


def at_seven() -> datetime:
    return datetime(2026, 11, 22, 19, tzinfo=UTC)


def nobody_fails(error: OSError) -> None:
    raise error


# Writing without waiting.


class Gate:
    """Something to write to that hangs until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.written: list[str] = []

    def write(self, item: str) -> None:
        self.entered.set()
        assert self.opened.wait(60)
        self.written.append(item)


def test_what_finds_no_room_is_counted_and_the_number_written_in_its_place() -> None:
    gate = Gate()
    outlet = Outlet("test", gate.write, gap=lambda lost: f"{lost} lost", on_failure=nobody_fails, bytes_max=120)
    outlet.put("written")
    assert gate.entered.wait(60)
    for item in ("first", "second", "third", "fourth"):
        outlet.put(item)
    gate.opened.set()
    assert outlet.close(60)
    assert gate.written == ["written", "first", "second", "2 lost"]


@fault(146)
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_what_waits_is_bounded_by_its_bytes_whatever_it_is(size: int) -> None:
    """And one text may wait, however long it is: else it would never be written."""
    gate = Gate()
    outlet = Outlet("test", gate.write, gap=str, on_failure=nobody_fails, bytes_max=50_000)
    outlet.put("written")
    assert gate.entered.wait(60)
    for number in range(5000):
        outlet.put(f"{number}".ljust(size, "."))
    waiting = list(outlet._waiting)
    assert 1 <= len(waiting) < 5000
    assert len(waiting) == 1 or 40_000 < sum(map(sys.getsizeof, waiting)) <= 50_000
    gate.opened.set()
    assert outlet.close(60)
    assert gate.written == ["written", *waiting, str(5000 - len(waiting))]


def test_nobody_waits_longer_than_they_say_for_what_hangs() -> None:
    gate = Gate()
    outlet = Outlet("test", gate.write, gap=str, on_failure=nobody_fails)
    outlet.put("hangs")
    assert not outlet.close(0.0)
    gate.opened.set()


def test_that_nothing_can_be_written_any_more_is_said_once() -> None:
    said: list[OSError] = []

    def fail(_: str) -> None:
        raise OSError(28, "No space left on device")

    outlet = Outlet("test", fail, gap=str, on_failure=said.append)
    for _ in range(100):
        outlet.put("more")
    assert outlet.close(60)
    assert len(said) == 1
    assert outlet.error is said[0]


# Files.


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_record_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    os.close(open_to_append(tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_record_that_lets_others_in_is_closed_to_them_and_keeps_what_it_has(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("old\n")
    old.chmod(0o664)
    with os.fdopen(open_to_append(old), "w") as out:
        out.write("new\n")
    assert old.read_text() == "old\nnew\n"
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


@fault(112)
@pytest.mark.parametrize("what", ["link", "file"])
def test_what_another_user_left_under_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    mine, planted = tmp_path / "mine", tmp_path / "planted"
    mine.write_text("precious")
    if what == "link":
        planted.symlink_to(mine)
    else:
        planted.touch()
    if os.geteuid() == 0:
        os.chown(planted, SOMEBODY, SOMEBODY, follow_symlinks=False)
    else:
        monkeypatch.setattr("os.geteuid", lambda: SOMEBODY)
    with pytest.raises(OSError, match=r"symbolic links|another user"):
        open_to_append(planted)
    assert mine.read_text() == "precious"


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.close(open_to_append(tmp_path / "link"))
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o600


# The log.


def log_to(path: Path, form: LogFormat = LogFormat.TEXT) -> Log:
    return Log(path, form, on_failure=nobody_fails, clock=at_seven)


def test_a_line_of_the_log_has_time_process_level_and_text(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log")
    log.hear("error: it is broken")
    log.hear("hint: mend it")
    log.write("info", "a key\nerror: forged\x1b[2J", key="ignored in text")
    log.close(60)
    at = f"2026-11-22T19:00:00.000Z {os.getpid()}"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"{at} error   it is broken",
        f"{at} error   hint: mend it",
        rf"{at} info    a key\x0aerror: forged\x1b[2J",
    ]


def test_a_line_of_the_log_in_json_has_the_facts_as_well(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log", LogFormat.JSON)
    log.write("error", "gone: a\nb", key="a\nb", reason="gone")
    log.close(60)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line) == {
        "time": "2026-11-22T19:00:00.000Z",
        "level": "error",
        "pid": os.getpid(),
        "message": r"gone: a\x0ab",
        "key": "a\nb",
        "reason": "gone",
    }


def test_a_log_is_turned_over_and_so_many_are_kept_all_for_their_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.cli.records.log.LOG_BYTES_MAX", 100)
    log = log_to(tmp_path / "log")
    for number in range(20):
        log.write("info", f"{number}:{'x' * 30}")
    log.close(60)
    names = ["log", *(f"log.{number}" for number in range(1, OLD_LOGS + 1))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 100
    assert " 19:x" in (tmp_path / "log").read_text()


@fault(112)
def test_two_that_write_to_one_log_lose_nothing_when_it_is_turned_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as a process has it: opened by itself. Who finds it turned over goes on with the new one."""
    monkeypatch.setattr("nccid_fetch.cli.records.log.LOG_BYTES_MAX", 4000)
    logs = [log_to(tmp_path / "log") for _ in range(4)]
    for number in range(60):
        for name, log in enumerate(logs):
            log.write("info", f"{name}.{number:02} {'x' * 20}")
    for log in logs:
        log.close(60)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(line.split()[3] for line in lines) == [f"{n}.{m:02}" for n in range(4) for m in range(60)]
    assert all(line.endswith(" " + "x" * 20) for line in lines)


def test_a_log_that_cannot_be_renamed_grows_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in /var/log, where an administrator has made the file and nobody else may make any."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nccid_fetch.cli.records.log.LOG_BYTES_MAX", 100)
    monkeypatch.setattr("os.rename", refuse)
    log = log_to(tmp_path / "log")
    for number in range(5):
        log.write("info", f"{number}:{'x' * 30}")
    log.close(60)
    assert len((tmp_path / "log").read_text().splitlines()) == 5


def test_a_log_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """By logrotate, or by somebody who cleans up."""
    log = log_to(tmp_path / "log")
    log.write("info", "first")
    log._outlet.close(60)
    (tmp_path / "log").rename(tmp_path / "moved")
    log._file.write("second")
    (tmp_path / "log").rename(tmp_path / "moved too")
    (tmp_path / "log").touch()
    log._file.write("third")
    log._file.close()
    assert "first" in (tmp_path / "moved").read_text()
    assert (tmp_path / "moved too").read_text() == "second\n"
    assert (tmp_path / "log").read_text() == "third\n"


@fault(112)
def test_who_waited_while_somebody_else_turned_a_log_over_does_not_turn_it_over_as_well(tmp_path: Path) -> None:
    first, second = (log_to(tmp_path / "log") for _ in range(2))
    first._file.doRollover()
    second._file.doRollover()
    second.write("info", "goes on")
    for log in (first, second):
        log.close(60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert "goes on" in (tmp_path / "log").read_text()


def test_the_log_hears_of_everything_and_stderr_of_what_it_is_to_have(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*, verbose: bool, quiet: bool) -> list[str]:
        narrator = Narrator(verbose=verbose, quiet=quiet)
        for event in EVENTS:
            narrator(event)
        return [re.split(r"[: ]", line)[0] for line in capsys.readouterr().err.splitlines()]

    told = ["retry", "retry", "waiting", "going", "slowed", "gone", "conflict", "stopping,"]
    assert said(verbose=False, quiet=True) == []
    assert said(verbose=False, quiet=False) == ["note", "note", "warning"]
    assert sorted(said(verbose=True, quiet=True)) == sorted(told)
    assert sorted(said(verbose=True, quiet=False)) == sorted([*told, "note", "note", "warning"])
    heard: list[str] = []
    narrator = Narrator(verbose=False, quiet=True, log=lambda sentence: heard.append(sentence.text))
    for event in EVENTS:
        narrator(event)
    assert heard == [sentence.text for event in EVENTS for sentence in sentences(event)]
    assert len(heard) == len(told) + 5


# Events.


def documented() -> dict[str, tuple[set[str], dict[str, Any]]]:
    """The fields of each line in the document, and its example."""
    found = {}
    for section in re.split(r"^### ", DOCUMENT, flags=re.MULTILINE)[1:]:
        (example,) = re.findall(r"```json\n(.*)\n```", section)
        rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        found[section.split("`")[1]] = (
            {name for row in rows for name in re.findall(r"`(\w+)`", row)},
            json.loads(example),
        )
    return found


def written(tmp_path: Path) -> list[dict[str, Any]]:
    """All lines that there are, as written: one of each kind."""
    stream = EventStream(tmp_path / "events", on_failure=nobody_fails, clock=at_seven)
    stream.begin("all", {"version": "0", "bucket": "b", "group": "g", "dest": "d"})
    for event in EVENTS:
        stream(event)
    stream._outlet.put(stream._gap(3))
    assert stream.end(0, None, 60)
    return [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]


def test_the_document_has_every_line_that_is_written_and_exactly_its_fields(tmp_path: Path) -> None:
    lines = written(tmp_path)
    told = documented()
    assert told.keys() == {line["event"] for line in lines}
    for line in lines:
        fields, example = told[line["event"]]
        assert list(example) == list(line), "the example has its fields, in their order"
        assert fields == line.keys() - {"time", "event"}, line["event"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", example["time"])


def page_of(number: int) -> PagePlanned:
    """A page as a listing gives it: nothing of it is shared with another."""
    return PagePlanned(
        "ct",
        [
            Fetch(RemoteObject(f"training/ct/Covid{number:04}/1/2/{i}.dcm", i, ETag(f"{i:032}"), i), Why.MISSING)
            for i in range(1000)
        ],
    )


def batch_of(number: int) -> Committed:
    return Committed([Fetched(decision.remote, VerifiedBy.MD5) for decision in page_of(number).decisions])


@fault(146)
@pytest.mark.parametrize(("event_of", "bytes_max"), [(page_of, 20_000), (batch_of, 1_000_000)])
def test_a_reader_of_events_that_stalls_costs_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event_of: Callable[[int], Event], bytes_max: int
) -> None:
    """A page of decisions waits as one line, and lines that wait are bounded."""
    monkeypatch.setattr("nccid_fetch.cli.records.stream.BYTES_MAX", 1_000_000)
    os.mkfifo(tmp_path / "events")
    reader = os.open(tmp_path / "events", os.O_RDONLY | os.O_NONBLOCK)  # It takes nothing.
    stream = EventStream(tmp_path / "events", on_failure=lambda _: None)
    for number in range(40):
        event = event_of(number)
        known = sys.getrefcount(event)
        stream(event)
        assert sys.getrefcount(event) == known, "nothing keeps the event itself"
    assert sum(map(sys.getsizeof, stream._outlet._waiting)) <= bytes_max
    assert stream._outlet._lost or event_of is page_of
    os.close(reader)
    assert stream.end(0, None, 60)


def test_there_is_an_example_of_every_event() -> None:
    """So that no new one goes undescribed."""
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    silent = [name_of(type(event)) for event in EVENTS if not list(lines_of(event, 0))]
    assert silent == ["received", "hashed"]


def test_a_file_of_events_begins_with_its_schema_is_appended_to_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    first = written(tmp_path)
    both = written(tmp_path)
    assert both[: len(first)] == first
    assert [line["event"] for line in both if "schema" in line] == ["started", "started"]
    assert (both[0]["schema"], both[-1]["event"]) == ("nccid-fetch/events/1", "ended")
    assert stat.S_IMODE((tmp_path / "events").stat().st_mode) == 0o600


def test_objects_have_lines_and_those_that_are_skipped_only_numbers(tmp_path: Path) -> None:
    lines = written(tmp_path)
    assert [line["event"] for line in lines if "key" in line] == ["retrying", "fetched", "adopted", "failed", "failed"]
    (page,) = [line for line in lines if line["event"] == "page_planned"]
    assert (page["skip"], page["check"]) == ({"objects": 1, "bytes": 7}, {"objects": 0, "bytes": 0})
    (batch,) = [line for line in lines if line["event"] == "committed"]
    assert (batch["fetched"], batch["adopted"], batch["failed"], batch["received_bytes"]) == (1, 1, 2, 7)


def test_a_batch_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two runs may append to one file, and a thousand objects cost one call."""
    writes: list[bytes] = []
    monkeypatch.setattr("nccid_fetch.cli.records.stream.write_all", lambda _, data: writes.append(data))
    stream = EventStream(tmp_path / "events", on_failure=nobody_fails)
    stream(Committed([Fetched(REMOTE, VerifiedBy.MD5)] * 1000))
    assert stream.end(0, None, 60)
    assert [data.count(b"\n") for data in writes] == [1001, 1]


def test_events_go_into_a_pipe_that_has_a_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "events").read_text()))
    reader.start()
    stream = EventStream(tmp_path / "events", on_failure=nobody_fails)
    assert stream.end(0, None, 60)
    reader.join(60)
    assert json.loads(read[0])["event"] == "ended"


# Metrics.


def metrics_of(path: Path) -> dict[str, dict[tuple[str, ...], float]]:
    """What Prometheus makes of the file: by name, and by the labels that differ."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            assert (sample.labels.pop("group"), sample.labels.pop("dest")) == ("training", '/data/"n\\c\ncid')
            assert sample.name not in found or family.name in sample.name
            found.setdefault(sample.name.removeprefix("nccid_fetch_"), {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    labels = {"group": "training", "dest": '/data/"n\\c\ncid'}
    return Metrics(tmp_path / "m.prom", labels, on_failure=nobody_fails, clock=at_seven)


def test_prometheus_reads_the_numbers_of_a_run(metrics: Metrics, tmp_path: Path) -> None:
    began = metrics_of(tmp_path / "m.prom")
    assert began["running"] == {(): 1.0}
    assert "exit_code" not in began
    tally = Tally()

    async def follow() -> None:
        async with metrics.kept(tally):
            for event in EVENTS:
                tally(event)
                metrics(event)

    run(follow())
    assert metrics.end(5, 60)
    ended = metrics_of(tmp_path / "m.prom")
    assert (ended["running"], ended["exit_code"]) == ({(): 0.0}, {(): 5.0})
    assert ended["last_end_timestamp_seconds"] == ended["start_timestamp_seconds"] == {(): at_seven().timestamp()}
    ct = {("ct", outcome): 7.0 * (outcome in OUTCOMES) for outcome in OUTCOMES}
    assert {key: number for key, number in ended["bytes_total"].items() if key[0] == "ct"} == ct
    assert ended["objects_total"]["mri", "failed"] == 0.0
    assert ended["objects_total"]["ct", "refused"] == 1.0
    assert ended["listed_objects_total"] == {("ct",): 2.0, ("mri",): 0.0}
    assert ended["listing_complete"] == {("ct",): 1.0, ("mri",): 1.0}
    assert (ended["retries_total"], ended["throttled_total"]) == ({(): 1.0}, {(): 1.0})
    assert (ended["received_bytes_total"], ended["in_flight_limit"]) == ({(): 7.0}, {(): 3.0})
    assert ended["held"] == {("endpoint",): 0.0, ("credentials",): 0.0, ("slowed",): 0.0, ("window",): 0.0}


def test_the_numbers_are_written_every_few_seconds_and_say_what_is_waited_for(metrics: Metrics, tmp_path: Path) -> None:
    pauses: list[float] = []
    tally = Tally()

    async def follow() -> None:
        twice = asyncio.Event()

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                twice.set()
                await asyncio.Event().wait()
            tally(Held(Wait.CREDENTIALS, "expired", 0.0, 1.0, 2.0))

        async with metrics.kept(tally, sleep=pause):
            await twice.wait()

    run(follow())
    assert pauses == [EVERY_SECONDS] * 2
    assert metrics._outlet.close(60)
    assert metrics_of(tmp_path / "m.prom")["held"]["credentials",] == 1.0


def test_whoever_collects_metrics_may_read_them_and_finds_no_object_and_no_half_of_a_file(
    metrics: Metrics, tmp_path: Path
) -> None:
    for event in EVENTS:
        metrics(event)
    assert metrics.end(0, 60)
    assert stat.S_IMODE((tmp_path / "m.prom").stat().st_mode) == 0o644
    assert "Covid" not in (tmp_path / "m.prom").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["m.prom"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
def test_metrics_replace_nothing_but_files(tmp_path: Path, kind: str) -> None:
    path = Path() if kind == "nothing" else tmp_path / "m.prom"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(UsageError, match="cannot be written: it is no file"):
        Metrics(path, {"group": "training", "dest": "d"}, on_failure=nobody_fails)
    assert not path.is_file()


def test_a_destination_whose_name_is_no_utf8_has_metrics_all_the_same(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m.prom", {"group": "training", "dest": "d\udcff"}, on_failure=nobody_fails)
    assert metrics.end(0, 60)
    (sample,) = [s for f in text_string_to_metric_families((tmp_path / "m.prom").read_text()) for s in f.samples][:1]
    assert sample.labels["dest"] == r"d\udcff"


@fault(147)
def test_metrics_leave_a_link_and_replace_the_file_where_it_leads(tmp_path: Path) -> None:
    real = tmp_path / "collected" / "real.prom"
    real.parent.mkdir()
    real.write_text("older numbers")
    (tmp_path / "m.prom").symlink_to(real)
    with real.open() as reader:
        metrics = Metrics(tmp_path / "m.prom", {"group": "training", "dest": "d"}, on_failure=nobody_fails)
        assert metrics.end(0, 60)
        assert reader.read() == "older numbers", "the program that collects it never reads half of it"
    assert (tmp_path / "m.prom").readlink() == real
    assert "nccid_fetch_exit_code" in real.read_text()
    assert [path.name for path in real.parent.iterdir()] == ["real.prom"]
