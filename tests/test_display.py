"""What a display says about a tally, with a clock that a test moves."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise

import pytest
from rich.console import Console

from nccid_fetch.cli.display import Progress, Rate, shown
from nccid_fetch.cli.output import size_text, time_text
from nccid_fetch.errors import Reason
from nccid_fetch.events import (
    Committed,
    Failed,
    Fetched,
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
from nccid_fetch.summary import Tally

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
        self.progress = Progress(self.tally, self.clock)
        self.tally(PartsKnown(parts or ("ct",), states or {}))

    def page(self, count: int, part: str = "ct", size: int = MB, start: int = 0) -> list[RemoteObject]:
        remotes = [RemoteObject(f"training/{part}/{start + n:04}", size, ETag("0" * 32), 0) for n in range(count)]
        self.tally(PagePlanned(part, [Fetch(remote, Why.MISSING) for remote in remotes]))
        return remotes

    def end(self, part: str = "ct", state: PartState = PartState.COMPLETE) -> None:
        self.tally(ListingEnded(part, state))

    def fetch(self, remotes: list[RemoteObject], seconds: float = 1.0) -> None:
        self.clock.time += seconds
        self.tally(Received(sum(remote.size for remote in remotes)))
        self.tally(Committed([Fetched(remote, VerifiedBy.MD5) for remote in remotes]))

    def rendered(self, width: int) -> str:
        console = Console(record=True, width=width, file=StringIO())
        console.print(self.progress.render())
        return console.export_text()


def test_while_listing_goes_on_totals_are_a_lower_bound() -> None:
    run = Run()
    run.fetch(run.page(1000)[:10])
    assert run.progress.line() == "10 of at least 1,000 objects, 10.0 MB of 1.0 GB, 10.0 MB/s, listing..."


def test_one_part_that_is_still_listed_keeps_all_totals_open() -> None:
    run = Run("ct", "mri")
    run.page(10)
    run.end("ct")
    assert "of at least 10 objects" in run.progress.line()
    run.end("mri", PartState.EMPTY)
    assert "0 of 10 objects" in run.progress.line()


def test_after_it_there_is_a_time_left_by_the_rate() -> None:
    run = Run()
    remotes = run.page(1000)
    run.end()
    run.fetch(remotes[:100], seconds=10)
    assert run.progress.line() == "100 of 1,000 objects, 100 MB of 1.0 GB, 10.0 MB/s, 1m 30s left"


def test_without_a_byte_coming_in_it_waits() -> None:
    run = Run()
    remotes = run.page(10)
    run.end()
    assert run.progress.line().endswith("0 B/s, waiting")
    run.fetch(remotes[:1])
    run.progress.line()
    run.clock.time += 60
    run.progress.line()
    run.clock.time += 60
    assert run.progress.line().endswith("0 B/s, waiting")


def test_at_the_end_there_is_nothing_left() -> None:
    run = Run()
    remotes = run.page(10)
    run.end()
    run.fetch(remotes)
    assert run.progress.line() == "10 of 10 objects, 10.0 MB of 10.0 MB, 10.0 MB/s"


def test_what_is_skipped_counts_as_done_and_not_as_received() -> None:
    run = Run()
    remote = RemoteObject("training/ct/a", MB, ETag("0" * 32), 0)
    run.tally(PagePlanned("ct", [Skip(remote)]))
    run.end()
    run.clock.time += 1
    assert run.progress.line() == "1 of 1 objects, 1.0 MB of 1.0 MB, 0 B/s"


def test_troubles_are_counted_where_there_are_any() -> None:
    run = Run()
    refused, failed, *_ = remotes = run.page(10)
    run.tally(Retrying(remotes[2], 1, "it broke off", 0.1, throttled=False))
    run.tally(Retrying(remotes[2], 1, "slow down", 0.1, throttled=True))
    run.tally(Retrying(remotes[3], 1, "slow down", 0.1, throttled=True))
    run.tally(Committed([Failed(refused, Reason.CONFLICT, ""), Failed(failed, Reason.GONE, "")]))
    assert run.progress.line().endswith("listing..., 2 failed, 1 retries, 2 throttled")


def test_how_many_are_in_flight_is_shown_where_the_run_finds_out() -> None:
    run = Run()
    run.page(10)
    assert "in flight" not in run.progress.line()
    run.tally(LimitSet(64))
    run.tally(LimitSet(96))
    assert run.progress.line().endswith("listing..., 96 in flight (auto)")
    assert "96 in flight (auto)" in run.rendered(200)


def test_a_line_says_first_what_a_held_run_waits_for_and_for_how_long() -> None:
    run = Run()
    run.page(10)
    run.tally(Held(Wait.ENDPOINT, "it cannot be reached", run.clock.time, 5.0, 900.0))
    run.clock.time += 130
    assert run.progress.line().startswith("waiting for the endpoint, 2m 10s of 15m 00s, 0 of at least 10 objects")
    run.tally(Released(Wait.ENDPOINT, 130.0))
    assert "waiting for" not in run.progress.line()


@pytest.mark.parametrize(("hours", "told"), [(9, "19:00"), (57, "Sat 19:00")])
def test_a_line_says_when_a_run_goes_on_that_is_outside_of_its_hours(hours: int, told: str) -> None:
    run = Run()
    run.page(10)
    opens = datetime(2026, 1, 1, 10, tzinfo=UTC) + timedelta(hours=hours)
    run.tally(Held(Wait.WINDOW, "it is outside of its hours", run.clock.time, hours * 3600.0, 0.0, opens))
    assert run.progress.line().startswith(f"waiting for {told} (--window), 0 of at least 10 objects")


def test_a_line_says_how_much_may_come_while_there_is_a_limit() -> None:
    run = Run()
    run.page(10)
    run.tally(RateSet(5_000_000))
    assert run.progress.line().endswith("limited to 5.0 MB/s (--bwlimit)")
    run.tally(RateSet(None))
    assert "--bwlimit" not in run.progress.line()


def test_a_line_says_that_the_server_slows_the_run_down_as_long_as_it_does() -> None:
    run = Run()
    run.page(10)
    run.tally(LimitSet(51, 64))
    assert run.progress.line().endswith("slowed down by the server: 51 of 64 in flight")
    run.tally(LimitSet(64, 64))
    assert "in flight" not in run.progress.line()


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
    """What the bar of a part shows: None while it pulses."""
    table = run.progress.render().renderables[1]  # type: ignore[union-attr]
    bar = list(table.columns[1].cells)[list(run.tally.parts).index(part)]
    return None if bar.total is None else bar.completed / bar.total


@pytest.mark.parametrize("width", [80, 200])
def test_the_live_block_fits_its_terminal(width: int) -> None:
    run = Run("ct", "mri", "xray", "unknown", states={"xray": PartState.DENIED})
    remotes = run.page(1234, "ct")
    run.end("ct")
    run.page(5, "mri")
    run.end("unknown", PartState.EMPTY)
    run.fetch(remotes[:100], seconds=65)

    rows = run.rendered(width).splitlines()

    assert max(map(len, rows)) <= width
    line, ct, mri, xray, unknown = rows
    assert ct.split()[0] == "ct"
    assert "100/1,234" in ct
    assert "1.2 GB" in ct
    assert "listing..." not in ct
    assert mri.rstrip().endswith("listing...")
    assert xray.rstrip().endswith("denied")
    assert unknown.rstrip().endswith("empty")
    whole = run.progress.line() + ", 1m 05s"
    assert line.rstrip() == whole if len(whole) <= width else line.rstrip().endswith("…")


def test_the_name_of_a_part_cannot_speak_to_the_terminal_nor_to_rich() -> None:
    run = Run("\x1b[31mred", "[bold]x[/nonsense]")
    shown = run.rendered(100)
    assert r"\x1b[31mred" in shown
    assert "[bold]x[/nonsense]" in shown
    assert "\x1b" not in shown


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
