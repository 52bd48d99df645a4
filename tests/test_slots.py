"""The places for objects in flight: who gets one, and that none is lost."""

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.slots import Slots

from .conftest import run


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Tasks that want a place; `inside` are those that have one, in the order in which they got it."""

    def __init__(self, limit: int) -> None:
        self.slots = Slots(limit)
        self.inside: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self) -> None:
        async def want(number: int) -> None:
            await self.slots.acquire()
            self.inside.append(number)

        self.tasks.append(asyncio.create_task(want(len(self.tasks))))
        await settle()

    async def leave(self) -> None:
        if self.inside:
            self.inside.pop(0)
            self.slots.release()
            await settle()


def crowd(limit: int, size: int, scene: Callable[[Crowd], Awaitable[None]]) -> None:
    async def main() -> None:
        made = Crowd(limit)
        for _ in range(size):
            await made.come()
        await scene(made)
        for task in made.tasks:
            task.cancel()

    run(main())


def test_there_are_as_many_places_as_the_limit_says_and_whoever_came_first_is_served_first() -> None:
    async def scene(all_: Crowd) -> None:
        assert all_.inside == [0, 1]
        await all_.leave()
        assert all_.inside == [1, 2]
        await all_.leave()
        assert all_.inside == [2, 3]
        assert all_.slots.in_flight == 2

    crowd(2, 5, scene)


def test_a_free_place_is_taken_at_once_and_none_from_those_who_wait() -> None:
    async def scene(all_: Crowd) -> None:
        assert not all_.slots.try_acquire()
        all_.slots.release()  # It goes to whoever waits, before anyone else can ask.
        assert not all_.slots.try_acquire()
        await settle()
        assert all_.inside == [0, 1, 2]
        all_.slots.release()
        assert all_.slots.try_acquire()
        assert not all_.slots.try_acquire()

    crowd(2, 3, scene)


def test_a_limit_that_rises_lets_in_those_who_wait() -> None:
    async def scene(all_: Crowd) -> None:
        all_.slots.limit = 4
        await settle()
        assert all_.inside == [0, 1, 2, 3]

    crowd(1, 5, scene)


def test_a_limit_that_falls_puts_nobody_out_and_lets_nobody_in_until_there_is_room() -> None:
    async def scene(all_: Crowd) -> None:
        all_.slots.limit = 1
        assert all_.slots.in_flight == 3
        for left in (2, 1):
            await all_.leave()
            assert (all_.slots.in_flight, len(all_.inside)) == (left, left)
        await all_.leave()
        assert all_.inside == [3]

    crowd(3, 5, scene)


def test_who_gives_up_waiting_leaves_the_place_to_the_next() -> None:
    async def scene(all_: Crowd) -> None:
        all_.tasks[1].cancel()
        await settle()
        await all_.leave()
        assert all_.inside == [2]

    crowd(1, 3, scene)


def test_who_gives_up_just_as_the_place_comes_gives_it_back() -> None:
    async def scene(all_: Crowd) -> None:
        all_.slots.release()
        all_.tasks[1].cancel()
        await settle()
        assert all_.inside == [0, 2]
        assert all_.slots.in_flight == 1

    crowd(1, 3, scene)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("come"), st.just(0)),
            st.tuples(st.just("leave"), st.just(0)),
            st.tuples(st.just("limit"), st.integers(1, 5)),
            st.tuples(st.just("cancel"), st.integers(0, 20)),
            st.tuples(st.just("leave, cancel"), st.integers(0, 20)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_no_place_is_lost_and_none_is_given_twice(steps: list[tuple[str, int]]) -> None:
    async def scene(all_: Crowd) -> None:
        for step, number in steps:
            within = max(all_.slots.limit, all_.slots.in_flight)
            if step == "come":
                await all_.come()
            elif step == "limit":
                all_.slots.limit = number
                within = max(within, number)
            if step.startswith("leave") and all_.inside:
                all_.inside.pop(0)
                all_.slots.release()
            if step.endswith("cancel") and number < len(all_.tasks):
                all_.tasks[number].cancel()
            await settle()
            assert all_.slots.in_flight == len(all_.inside) <= within
            waiting = [task for task in all_.tasks if not task.done()]
            assert not waiting or all_.slots.in_flight >= all_.slots.limit
        while all_.inside:
            await all_.leave()
        assert all(task.done() for task in all_.tasks)

    crowd(2, 0, scene)
