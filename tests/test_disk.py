"""Short functions that share a hop to a thread: each result goes to whom it belongs, and nobody is left waiting."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch import disk
from nccid_fetch.disk import Disk

from .catalogue import fault
from .conftest import run


def on_disk(scene: Callable[[Disk], Awaitable[None]]) -> None:
    async def main() -> None:
        with Disk(2) as opened:
            await scene(opened)

    run(main())


def fail(number: int) -> int:
    raise OSError(number, "no")


class Held:
    """A function that stands in a thread until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.go.wait(60)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 20)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_results_and_errors_go_to_whom_they_belong(goes_well: list[bool]) -> None:
    async def scene(opened: Disk) -> None:
        functions = [partial(int, number) if well else partial(fail, number) for number, well in enumerate(goes_well)]
        ends = await asyncio.gather(*(opened.run_short(function, 1) for function in functions), return_exceptions=True)
        for number, (well, end) in enumerate(zip(goes_well, ends, strict=True)):
            assert (end if well else getattr(end, "errno", None)) == number

    on_disk(scene)


@fault(90)
def test_what_is_due_at_the_same_time_takes_one_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[None] = []
    once = Disk.run

    async def counted(self: Disk, function: Callable[[], object]) -> object:
        hops.append(None)
        return await once(self, function)

    monkeypatch.setattr(Disk, "run", counted)

    async def scene(opened: Disk) -> None:
        await asyncio.gather(*(opened.run_short(int, 1) for _ in range(disk.HOP_FUNCTIONS_MAX)))
        assert len(hops) == 1
        await asyncio.gather(*(opened.run_short(int, 1) for _ in range(disk.HOP_FUNCTIONS_MAX + 1)))
        assert len(hops) == 3

    on_disk(scene)


def test_a_hop_takes_no_more_than_is_worth_one_and_others_go_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done first does not wait for much else: its place in flight is wanted."""
    monkeypatch.setattr(disk, "cores", lambda: 2)

    async def scene(opened: Disk) -> None:
        held = [Held() for _ in range(3)]
        tasks = [asyncio.create_task(opened.run_short(one, disk.HOP_BYTES)) for one in held]
        await held[0].wait()
        await held[1].wait()
        assert not held[2].reached.is_set(), "no more at once than there are cores"
        for one in held:
            one.go.set()
        await asyncio.gather(*tasks)
        assert opened._short_bytes == 0
        small = Held()
        tasks = [asyncio.create_task(opened.run_short(small, 1))]
        await small.wait()
        tasks += [asyncio.create_task(opened.run_short(lambda: None, disk.HOP_BYTES // 2 - 1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert opened._hopping == 1, "what is little waits for the hop that is under way"
        small.go.set()
        await asyncio.gather(*tasks)

    on_disk(scene)


def test_who_gives_up_waiting_harms_no_other() -> None:
    async def scene(opened: Disk) -> None:
        held = Held()
        first = asyncio.create_task(opened.run_short(held, 1))
        await held.wait()
        second, third = (asyncio.create_task(opened.run_short(lambda: 3, 1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        held.go.set()
        assert await third == 3
        ends = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 2

    on_disk(scene)


def test_whoever_comes_as_a_hop_ends_is_not_left_behind() -> None:
    """In every turn of the loop around its end."""

    async def scene(opened: Disk) -> None:
        for turns in range(12):
            held = Held()
            first = asyncio.create_task(opened.run_short(held, 1))
            await held.wait()
            held.go.set()
            if turns > 6:
                await asyncio.wait([first])
            for _ in range(turns % 6):
                await asyncio.sleep(0)
            assert await opened.run_short(lambda: 3, 1) == 3
            await first
        assert opened._hopping == 0

    on_disk(scene)


def test_a_disk_that_has_ended_says_so_to_everybody() -> None:
    async def scene(opened: Disk) -> None:
        opened._threads.shutdown()
        ends = await asyncio.gather(*(opened.run_short(int, 1) for _ in range(3)), return_exceptions=True)
        assert [type(end) for end in ends] == [RuntimeError] * 3

    on_disk(scene)
