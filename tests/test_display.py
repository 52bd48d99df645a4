"""What a display says about a tally, with a clock that a test moves."""

import asyncio
import json
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise

import pytest
from rich.cells import cell_len
from rich.console import Console

from nccid_fetch.cli import strays
from nccid_fetch.cli.block import Block, wrapped
from nccid_fetch.cli.display import Display, line, shown
from nccid_fetch.errors import Reason
from nccid_fetch.events import (
    Adopted,
    Committed,
    Committing,
    Failed,
    Fetched,
    Hashed,
    Held,
    LimitSet,
    ListingEnded,
    PagePlanned,
    PartsKnown,
    RateSet,
    Received,
    Released,
    Retrying,
    Wait,
)
from nccid_fetch.model import ETag, Fetch, PartState, RemoteObject, Skip, VerifiedBy, Why
from nccid_fetch.progress import Meter, Progress, Rate, Waiting
from nccid_fetch.summary import Tally
from nccid_fetch.units import size_text, time_text

MB = 1_000_000


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Run:
    """A run as a display sees it."""

    def __init__(self, *parts: str, states: dict[str, PartState] | None = None) -> None:
        self.tally, self.clock = Tally(), Clock()
        self.meter = Meter(self.tally, self.clock)
        self.display = Display(self.meter.read)
        self.tally(PartsKnown(parts or ("ct",), states or {}))

    def remotes(self, count: int, part: str = "ct", size: int = MB, start: int = 0) -> list[RemoteObject]:
        return [RemoteObject(f"training/{part}/{start + n:04}", size, ETag("0" * 32), 0) for n in range(count)]

    def page(self, count: int, part: str = "ct", size: int = MB, start: int = 0) -> list[RemoteObject]:
        remotes = self.remotes(count, part, size, start)
        self.tally(PagePlanned(part, [Fetch(remote, Why.MISSING) for remote in remotes]))
        return remotes

    def end(self, part: str = "ct", state: PartState = PartState.COMPLETE) -> None:
        self.tally(ListingEnded(part, state))

    def fetch(self, remotes: list[RemoteObject], seconds: float = 1.0) -> None:
        self.clock.time += seconds
        self.tally(Received(sum(remote.size for remote in remotes)))
        self.tally(Committed([Fetched(remote, VerifiedBy.MD5) for remote in remotes]))

    def line(self) -> str:
        return line(self.meter.read())

    def rendered(self, width: int, height: int = 24) -> str:
        console = Console(record=True, width=width, height=height, file=StringIO())
        console.print(self.display.render())
        return console.export_text()


def test_while_listing_goes_on_totals_are_a_lower_bound() -> None:
    run = Run()
    run.fetch(run.page(1000)[:10])
    assert run.line() == "10 of at least 1,000 objects, 10.0 MB of 1.0 GB, 10.0 MB/s, listing..., 10 verified"


def test_one_part_that_is_still_listed_keeps_all_totals_open() -> None:
    run = Run("ct", "mri")
    run.page(10)
    run.end("ct")
    assert "of at least 10 objects" in run.line()
    run.end("mri", PartState.EMPTY)
    assert "0 of 10 objects" in run.line()


def test_after_it_there_is_a_time_left_by_the_rate() -> None:
    run = Run()
    remotes = run.page(1000)
    run.end()
    run.fetch(remotes[:100], seconds=10)
    assert run.line() == "100 of 1,000 objects, 100 MB of 1.0 GB, 10.0 MB/s, 1m 30s left, 100 verified"


def test_without_a_byte_coming_in_it_waits_and_says_for_how_long() -> None:
    run = Run()
    remotes = run.page(10)
    run.end()
    assert run.line().endswith("0 B/s, waiting")
    run.fetch(remotes[:1])
    run.line()
    run.clock.time += 4
    assert "nothing" not in run.line()
    run.clock.time += 56
    run.line()
    run.clock.time += 60
    assert run.line().startswith("nothing received for 2m 00s, 1 of 10 objects")
    assert "0 B/s, waiting" in run.line()


def test_a_listing_that_takes_its_time_is_named_as_what_is_waited_for() -> None:
    run = Run()
    run.fetch(run.page(10))
    run.line()
    run.clock.time += 10
    assert run.line().startswith("waiting for the listing, for 10s now, 10 of at least 10 objects")


def test_a_disk_that_takes_long_to_flush_is_named_as_what_is_waited_for() -> None:
    run = Run()
    run.page(10)
    run.tally(Committing(10, in_flight=3))
    run.line()
    run.clock.time += 12
    assert run.line().startswith("waiting for the disk to flush 10 objects, for 12s now")
    run.tally(Committed([]))
    assert "flush" not in run.line()


def test_files_that_are_hashed_are_work_that_goes_on_with_a_rate_of_its_own() -> None:
    run = Run()
    remotes = run.page(1000)
    run.end()
    run.line()
    for step in range(10):
        run.clock.time += 1
        run.tally(Hashed(20 * MB))
        run.tally(Committed([Adopted(remote, VerifiedBy.MD5) for remote in remotes[20 * step : 20 * step + 20]]))
        run.line()
    assert run.line() == (
        "200 of 1,000 objects, 200 MB of 1.0 GB, hashing 20.0 MB/s of what is there, 40s left, 200 verified"
    )


def test_what_a_run_ends_for_is_said_first() -> None:
    run = Run()
    run.tally.stopping = "--max-duration is over"
    assert run.line().startswith("stopping: --max-duration is over, 0 of at least 0 objects")


def test_a_limited_rate_is_shown_with_its_limit() -> None:
    run = Run()
    run.fetch(run.page(10))
    run.tally.rate_limit = 20 * MB
    assert "10.0 MB/s (limit 20.0 MB/s)" in run.line()


def test_at_the_end_there_is_nothing_left() -> None:
    run = Run()
    remotes = run.page(10)
    run.end()
    run.fetch(remotes)
    assert run.line() == "10 of 10 objects, 10.0 MB of 10.0 MB, 10.0 MB/s, 10 verified"


def test_what_is_skipped_counts_as_done_and_not_as_received() -> None:
    run = Run()
    remote = RemoteObject("training/ct/a", MB, ETag("0" * 32), 0)
    run.tally(PagePlanned("ct", [Skip(remote)]))
    run.end()
    run.clock.time += 1
    assert run.line() == "1 of 1 objects, 1.0 MB of 1.0 MB, 0 B/s, 1 skipped"


def test_troubles_are_counted_where_there_are_any() -> None:
    run = Run()
    refused, failed, *_ = remotes = run.page(10)
    run.tally(Retrying(remotes[2], 1, "it broke off", 0.1, throttled=False))
    run.tally(Retrying(remotes[2], 1, "slow down", 0.1, throttled=True))
    run.tally(Retrying(remotes[3], 1, "slow down", 0.1, throttled=True))
    run.tally(Committed([Failed(refused, Reason.CONFLICT, ""), Failed(failed, Reason.GONE, "")]))
    assert run.line().endswith("listing..., 2 failed, 1 retry, 2 throttled")


def test_how_many_are_in_flight_is_shown_where_the_run_finds_out() -> None:
    run = Run()
    run.page(10)
    assert "in flight" not in run.line()
    run.tally(LimitSet(64))
    run.tally(LimitSet(96))
    assert run.line().endswith("listing..., 96 in flight (auto)")
    assert "96 in flight (auto)" in run.rendered(200)
    run.tally(Committing(10, in_flight=80))
    assert run.line().endswith("80 of 96 in flight (auto)")


def test_how_many_are_in_flight_is_shown_as_of_the_last_batch() -> None:
    run = Run()
    run.page(10)
    run.tally(LimitSet(64, 64))
    assert "in flight" not in run.line()
    run.tally(Committing(10, in_flight=61))
    assert run.line().endswith("listing..., 61 of 64 in flight")


def test_a_line_says_first_what_a_held_run_waits_for_and_for_how_long() -> None:
    run = Run()
    run.page(10)
    run.tally(Held(Wait.ENDPOINT, "it cannot be reached", run.clock.time, 5.0, 900.0))
    run.clock.time += 130
    assert run.line().startswith("waiting for the endpoint, 2m 10s of 15m 00s, 0 of at least 10 objects")
    run.tally(Released(Wait.ENDPOINT, 130.0))
    assert "waiting for" not in run.line()


@pytest.mark.parametrize(("hours", "told"), [(9, "19:00"), (57, "Sat 19:00")])
def test_a_line_says_when_a_run_goes_on_that_is_outside_of_its_hours(hours: int, told: str) -> None:
    run = Run()
    run.page(10)
    opens = datetime(2026, 1, 1, 10, tzinfo=UTC) + timedelta(hours=hours)
    run.tally(Held(Wait.WINDOW, "it is outside of its hours", run.clock.time, hours * 3600.0, 0.0, opens))
    assert run.line().startswith(f"waiting for {told} (--window), 0 of at least 10 objects")


def test_a_line_says_how_much_may_come_while_there_is_a_limit() -> None:
    run = Run()
    run.page(10)
    run.tally(RateSet(5_000_000))
    assert "0 B/s (limit 5.0 MB/s)" in run.line()
    run.tally(RateSet(None))
    assert "limit" not in run.line()


def test_a_line_says_that_the_server_slows_the_run_down_as_long_as_it_does() -> None:
    run = Run()
    run.page(10)
    run.tally(LimitSet(51, 64))
    assert run.line().endswith("slowed down by the server: 51 of 64 in flight")
    run.tally(LimitSet(64, 64))
    assert "in flight" not in run.line()


def test_a_rate_is_that_of_the_last_moments() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.at(0) == 0
    for second in range(1, 61):
        clock.time += 1
        shown = rate.at(second * MB if second <= 30 else 30 * MB)
        assert shown == (MB if second <= 30 else pytest.approx(max(0, 45 - second) / 15 * MB))


def test_a_rate_survives_a_pause_and_being_asked_twice_at_once() -> None:
    clock = Clock()
    rate = Rate(clock)
    clock.time += 100
    assert rate.at(200 * MB) == rate.at(200 * MB) == 2 * MB
    clock.time += 0.25
    assert rate.at(200 * MB) == pytest.approx(200 * MB / 100.25)


def test_nothing_shown_ever_jumps_back() -> None:
    """Objects and bytes that are done, and each part's share of its bar, once it is known."""
    run = Run("ct", "mri")
    done, shares = [], []
    waiting = run.page(50, "ct")
    for step in range(12):
        if step < 4:
            waiting += run.page(50, "ct", start=50 * (step + 1))
        if step == 4:
            run.end("ct")
            run.end("mri", PartState.EMPTY)
        run.fetch(waiting[:20])
        del waiting[:20]
        settled = run.tally.settled
        done.append((settled.objects, settled.bytes))
        shares.append(_share(run, "ct"))
    assert all(before <= after for before, after in pairwise(done))
    assert shares[:4] == [None] * 4, "a total that grows has no share"
    known = [share for share in shares if share is not None]
    assert len(known) == 8
    assert all(before < after for before, after in pairwise(known))


def _share(run: Run, part: str) -> float | None:
    """What the bar of a part shows: None while there is none."""
    return next(one.share for one in run.display.render().progress.parts if one.name == part)


@pytest.mark.parametrize("width", [80, 200])
def test_the_live_block_fits_its_terminal(width: int) -> None:
    run = Run("ct", "mri", "xray", "unknown", states={"xray": PartState.DENIED})
    remotes = run.page(1234, "ct")
    run.end("ct")
    run.page(5, "mri")
    run.end("unknown", PartState.EMPTY)
    run.fetch(remotes[:100], seconds=65)

    rows = [row.rstrip() for row in run.rendered(width).splitlines()]

    assert max(map(len, rows)) <= width
    top, second, heading, ct, mri, xray, unknown = rows
    assert top == "100 of at least 1,239 objects, 100 MB of 1.2 GB, 1.5 MB/s, listing..."
    assert second == "1m 05s so far, 100 verified"
    assert heading.split()[0] == "part"
    assert ct.split()[:2] == ["ct", "8"]
    assert "100/1,234  100 MB/1.2 GB" in ct
    assert "0/5+" in mri
    assert mri.endswith("listing...")
    assert xray.endswith("denied")
    assert unknown.endswith("empty")


@pytest.mark.parametrize(("width", "height"), [(20, 5), (20, 24), (80, 5), (1, 1), (40, 8), (79, 10)])
def test_in_a_small_terminal_the_block_keeps_what_matters_most(width: int, height: int) -> None:
    run = Run(*(f"part-{number}" for number in range(20)))
    run.tally(Held(Wait.ENDPOINT, "it cannot be reached", run.clock.time, 5.0, 900.0))
    for number in range(10):
        run.end(f"part-{number}", PartState.EMPTY)
    rows = run.rendered(width, height).splitlines()
    assert len(rows) <= max(1, height - 1)
    assert max(map(len, rows)) <= width
    if width >= 20:
        assert rows[0].startswith("waiting for the")
    if (width, height) == (40, 8):
        assert rows[-3:] == ["part-10  listing...", "part-11  listing...", "and 18 more"]


def test_phrases_stay_whole_where_there_is_room() -> None:
    phrases = ["10 of 20 objects", "3 MB/s", "5s left"]
    assert wrapped(phrases, 26) == ["10 of 20 objects, 3 MB/s,", "5s left"]
    assert wrapped(phrases, 10) == ["10 of 20", "objects, 3", "MB/s, 5s", "left"]
    assert wrapped([], 10) == []


def test_names_of_parts_may_be_wide_and_longer_than_the_terminal() -> None:
    run = Run("\N{CJK UNIFIED IDEOGRAPH-75C5}" * 60, "ct")
    run.page(1234)
    for width in (20, 40, 80):
        assert all(cell_len(row) <= width for row in run.rendered(width).splitlines())


def test_progress_can_be_written_down_and_read_again() -> None:
    run = Run("ct", "mri", states={"mri": PartState.DENIED})
    run.fetch(run.page(3)[:1])
    run.tally(LimitSet(51, 64))
    run.tally(Held(Wait.ENDPOINT, "it cannot be reached", run.clock.time, 5.0, 900.0))
    progress = run.meter.read()
    assert Progress.from_dict(json.loads(json.dumps(progress.as_dict()))) == progress


def test_the_name_of_a_part_cannot_speak_to_the_terminal_nor_to_rich() -> None:
    run = Run("\x1b[31mred", "[bold]x[/nonsense]")
    shown = run.rendered(100)
    assert r"\x1b[31mred" in shown
    assert "[bold]x[/nonsense]" in shown
    assert "\x1b" not in shown


def test_no_other_word_of_a_status_file_can_speak_to_the_terminal() -> None:
    evil = "\x1b]0;evil"
    progress = Run("ct").meter.read()
    parts = (replace(progress.parts[0], state=evil), replace(progress.parts[0], state=evil, listed_objects=1))
    for waiting in (Waiting(evil, evil, 1.0, 2.0), Waiting("", "", 1.0, 2.0, until=evil)):
        console = Console(width=100, height=24, file=StringIO(), record=True)
        console.print(Block(replace(progress, waiting=waiting, parts=parts)))
        shown = console.export_text()
        assert "\x1b" not in shown
        assert shown.count(r"\x1b]0;evil") >= 3


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (1, "1 B"), (999, "999 B"), (999.4, "999 B"), (999.5, "1.0 KB"), (1000, "1.0 KB")),
        *((1049, "1.0 KB"), (1051, "1.1 KB"), (99_949, "99.9 KB"), (99_950, "100 KB"), (999_499, "999 KB")),
        *((999_500, "1.0 MB"), (1.5e9, "1.5 GB"), (12e12, "12.0 TB"), (3e15, "3.0 PB"), (5e18, "5000 PB")),
    ],
)
def test_sizes_are_in_powers_of_1000_with_three_digits_or_so(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0s"), (0.9, "0s"), (59.9, "59s"), (60, "1m 00s"), (61, "1m 01s"), (3599, "59m 59s")),
        *((3600, "1h 00m"), (3725, "1h 02m"), (86_400, "24h 00m"), (360_000, "100h 00m")),
    ],
)
def test_times_are_in_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_stdout_stays_what_it_is_while_a_terminal_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is left after a signal still shows its progress when its summary is printed."""

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    async def seen() -> object:
        async with shown(Tally(), quiet=False):
            return sys.stdout

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    assert asyncio.run(seen()) is out
    assert out.getvalue() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_where_nothing_but_errors_is_to_be_said_nothing_is_said_of_strays(
    capsys: pytest.CaptureFixture[str], *, quiet: bool
) -> None:
    with strays.caught(quiet=quiet):
        warnings.showwarning("a secret", ResourceWarning, "a file", 1)
    said = capsys.readouterr().err
    assert said == "" if quiet else said.startswith("note: a ResourceWarning came up as a warning")
