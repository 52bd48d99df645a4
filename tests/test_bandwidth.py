"""The limit of bytes per second: what comes in any minute, who waits for whom, and what a change does to those who wait."""

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from nccid_fetch.bandwidth import Bandwidth
from nccid_fetch.clock import Clock
from nccid_fetch.events import Event, RateSet
from nccid_fetch.settings import Source, Transport
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.session import open_session
from nccid_fetch.store.strict import LIMITED_AHEAD_BYTES
from nccid_fetch.timetable import Timetable

from .conftest import run
from .night import Night
from .oracle import check_tree, fetch, snapshot
from .servers.scripted import ScriptedS3
from .virtual import VirtualLoop

MINUTE = 60.0
SMALL, SLICE, XRAY = 15_000, 500_000, 9_000_000
CHUNK = 512 << 10


@dataclass
class Line:
    """A run's bytes, as they are received, on a clock that nobody waits for.

    Attributes:
        came: When how many bytes came.
        began: What the clock on the wall shows in the beginning.
        put_on: By how much it has been put on since.
    """

    limit: str
    began: datetime = datetime(2026, 1, 5, 7, 50, tzinfo=UTC)
    came: list[tuple[float, int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    put_on: timedelta = timedelta(0)

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        clock = Clock(now=loop.time, local=lambda: self.began + self.put_on + timedelta(seconds=loop.time()))
        self.bandwidth = Bandwidth(Timetable(self.limit), clock)
        self.bandwidth.report = self.events.append

    async def receive(self, size: int) -> None:
        """Receive an object as the readers do: what is small at once, else by the chunk."""
        bandwidth = self.bandwidth
        left = size
        while left:
            piece = left if left <= bandwidth.piece(1 << 20) else bandwidth.piece(CHUNK)
            await bandwidth.take(piece)
            self.came.append((asyncio.get_running_loop().time(), piece))
            left -= piece

    async def crowd(self, workers: int, sizes: list[int], seconds: float) -> None:
        """Let so many receive one object after another, of these sizes in turn, for so long."""
        chance = random.Random(0)

        async def work() -> None:
            while True:
                await self.receive(chance.choice(sizes))

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def between(self, begin: float, end: float) -> int:
        times = [second for second, _ in self.came]
        return sum(size for _, size in self.came[bisect_left(times, begin) : bisect_left(times, end)])

    def minutes(self, begin: float, end: float) -> list[int]:
        """The bytes of each minute between two times, whenever it begins."""
        sums, total = [0], 0
        for _, size in self.came:
            total += size
            sums.append(total)
        times = [second for second, _ in self.came]
        starts = [begin, *(second for second in times if begin <= second <= end - MINUTE)]
        return [sums[bisect_left(times, start + MINUTE)] - sums[bisect_left(times, start)] for start in starts]


def on(line: Line, scene: Callable[[], Awaitable[None]]) -> Line:
    async def main() -> None:
        await line.begin()
        await scene()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    return line


@pytest.mark.parametrize("workers", [1, 64])
@pytest.mark.parametrize(
    "sizes", [[SMALL], [SLICE], [XRAY], [SMALL] * 9 + [SLICE] * 9 + [XRAY]], ids=["small", "slices", "x-rays", "mixed"]
)
@pytest.mark.parametrize("rate", ["30KB", "1MB"])
def test_in_any_minute_comes_what_is_set_within_5_percent(workers: int, sizes: list[int], rate: str) -> None:
    line = Line(rate)
    on(line, lambda: line.crowd(workers, sizes, 100))
    per_minute = Timetable(rate).rate_at(line.began)
    assert per_minute is not None
    per_minute *= 60
    assert 0.95 * per_minute <= min(line.minutes(0, 100))
    assert max(line.minutes(0, 100)) <= 1.05 * per_minute


def test_a_rate_that_changes_holds_from_its_minute_on_and_wakes_those_who_wait() -> None:
    line = Line("07:00,20MB 08:00,1MB 08:02,4MB 08:04,off", datetime(2026, 1, 5, 7, 58, tzinfo=UTC))
    edges = {0: 20e6, 120: 1e6, 240: 4e6}
    on(line, lambda: line.crowd(64, [SLICE, SLICE, XRAY], 359.9))
    assert [event.bytes_per_second for event in line.events if isinstance(event, RateSet)] == [20e6, 1e6, 4e6]
    for begin, end in pairwise([*edges, 360]):
        for minute in line.minutes(begin, end):
            assert minute == pytest.approx(edges[begin] * 60, rel=0.05)


def test_when_the_limit_goes_nobody_waits_any_more_and_when_it_comes_nothing_was_saved_up() -> None:
    line = Line("07:55,off 08:00,1MB", datetime(2026, 1, 5, 7, 54, tzinfo=UTC))

    async def scene() -> None:
        crowd = asyncio.create_task(line.crowd(8, [10_000_000], 59.0))
        await crowd
        waiting = asyncio.create_task(line.receive(100_000_000))
        await asyncio.sleep(2.0)
        assert waiting.done(), "at 07:55 it was off"
        await asyncio.sleep(600)
        await line.crowd(8, [SMALL], 100)

    on(line, scene)
    assert max(line.minutes(661, 761)) <= 1.05 * 60e6


def test_who_came_first_is_served_first() -> None:
    line = Line("1MB")
    order: list[int] = []

    async def want(number: int, size: int) -> None:
        await line.bandwidth.take(size)
        order.append(number)

    async def scene() -> None:
        sizes = [300_000, 1_000, 500_000, 1_000, 1_000, 900_000, 1]
        await asyncio.gather(*(want(number, size) for number, size in enumerate(sizes)))

    on(line, scene)
    assert order == list(range(7))


def test_after_a_pause_no_more_than_a_tenth_of_a_seconds_worth_comes_at_once() -> None:
    line = Line("1MB")

    async def scene() -> None:
        await line.receive(SMALL)
        await asyncio.sleep(3600)
        await line.crowd(64, [SMALL], 1.0)

    on(line, scene)
    assert line.between(3600, 3600.1) <= 100_000 + 100_000 + SMALL


def test_what_came_unasked_is_owed_by_whoever_comes_next() -> None:
    line = Line("1MB")

    async def scene() -> None:
        await line.bandwidth.take(0)
        line.bandwidth.owe(5_000_000)
        began = asyncio.get_running_loop().time()
        await line.bandwidth.take(1)
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.3)

    on(line, scene)


def test_what_is_given_back_lets_those_who_wait_move_up_and_leaves_nobody_beyond_the_end_of_the_line() -> None:
    line = Line("100KB")

    async def scene() -> None:
        async def ask_for_a_page() -> None:
            await line.bandwidth.take(400_000)
            line.bandwidth.owe(10_000 - 400_000)

        pages = [asyncio.create_task(ask_for_a_page()) for _ in range(16)]
        await asyncio.sleep(0)  # They stand on the line before the object does.
        await asyncio.wait_for(line.receive(SMALL), 60)
        assert all(page.done() for page in pages)
        assert asyncio.get_running_loop().time() == pytest.approx(16 * 10_000 / 100_000, abs=17 * 1.0)
        await line.crowd(8, [SMALL], 60)

    on(line, scene)
    assert max(line.minutes(0, 76)) <= 1.05 * 6e6


def test_a_second_toggle_goes_back_to_the_timetable_and_who_waits_learns_of_the_first() -> None:
    line = Line("1MB")

    async def scene() -> None:
        waiting = asyncio.create_task(line.receive(1_000_000_000))
        await asyncio.sleep(10)
        line.bandwidth.toggle()
        await asyncio.sleep(1.1)
        assert waiting.done()
        line.bandwidth.toggle()
        await line.crowd(8, [SLICE], 100)

    on(line, scene)
    assert line.events == [RateSet(1_000_000), RateSet(None), RateSet(1_000_000)]
    assert max(line.minutes(12, 111)) <= 1.05 * 60e6


def test_a_clock_that_is_put_on_is_believed_within_a_second() -> None:
    line = Line("07:00,off 08:00,1MB")

    async def scene() -> None:
        await line.receive(SMALL)
        line.put_on = timedelta(hours=1)
        await asyncio.sleep(1.0)
        await line.crowd(8, [SMALL], 60)

    on(line, scene)
    assert line.between(1.0, 61.0) <= 1.05 * 60e6


def test_where_nothing_is_limited_taking_does_not_even_let_others_have_their_turn() -> None:
    line = Line("off")

    async def scene() -> None:
        with pytest.raises(StopIteration):
            line.bandwidth.take(10**12).__await__().__next__()

    on(line, scene)


def test_what_a_listing_took_is_owed_by_the_next_request_and_a_page_is_taken_for_as_long_as_the_one_before() -> None:
    night = Night()
    taken: list[int] = []

    class Noting(Bandwidth):
        async def take(self, size: int) -> None:
            taken.append(size)
            await super().take(size)

    bandwidth = Noting(Timetable("2KB"), night.clock)

    async def scene() -> list[float]:
        times = []
        with ScriptedS3() as s3:
            for number in range(100):
                s3.put(f"training/data/Covid{number:04}/a.json", b"{}")
            source = Source(endpoint_url=s3.endpoint_url)
            async with open_session(source, connections=1, stall_seconds=30.0, bandwidth=bandwidth) as session:
                lister = Lister(session)
                for _ in range(3):
                    await lister.page("training/data/")
                    times.append(night.now)
                for keys in (1, 1000):
                    await lister.page("training/data/", max_keys=keys)
        return times

    first, second, third = run(scene())
    assert first == 0
    assert second > 100 * 200 / 2000, "at least 200 bytes for each key"
    assert third == pytest.approx(2 * second, rel=0.01)
    unknown, page, *further = taken
    assert unknown == 0
    assert further == [page, 0, page], "a listing of one key says nothing about how long a page is"


@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
@pytest.mark.parametrize(
    ("sizes", "ahead"), [([20_000] * 130, 200_000), ([2_600_000], CHUNK + LIMITED_AHEAD_BYTES)], ids=["small", "large"]
)
def test_a_real_run_takes_the_time_that_its_bytes_have(
    dest: Path, transport: Transport, sizes: list[int], ahead: int
) -> None:
    """A busy machine may take longer over them, so that `limits` alone can say more for certain."""
    limit = 2_000_000
    with ScriptedS3() as s3:
        for number, size in enumerate(sizes):
            s3.put(f"training/data/Covid{number:04}/a.json", bytes(size))
        began = time.monotonic()
        ended = fetch(s3, dest, bwlimit=Timetable(f"{limit}B"), transport=transport)
        taken = time.monotonic() - began
        assert ended.exit_code == 0
        assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))
    assert taken >= (sum(sizes) - ahead) / limit
    assert ended.tally.rate_limit == limit
