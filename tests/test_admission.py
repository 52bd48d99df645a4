"""What is begun next of all that waits, who waits for whom, and how much may be begun."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch.admission import WAITING_OBJECTS, Budget, Due, Lanes
from nccid_fetch.events import Stopped, StoppedBy
from nccid_fetch.model import ETag, Fetch, RemoteObject, Why
from nccid_fetch.settings import Settings
from nccid_fetch.stopping import Brake


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def brake() -> Brake:
    return Brake(Settings(dest=Path("unused")))


def due(*keys: str) -> list[Due]:
    """Return what is to be fetched, by keys below the group."""
    return [Fetch(RemoteObject(f"training/{key}", 1, ETag("0" * 32), 0), Why.MISSING) for key in keys]


def many(number: int, part: str = "ct") -> list[Due]:
    return due(*(f"{part}/Covid0000/{count:06}" for count in range(number)))


async def taken(lanes: Lanes, number: int) -> list[str]:
    """Take so many, and return their keys below the group."""
    found = [await lanes.take() for _ in range(number)]
    return [one.remote.key.removeprefix("training/") for one in found if one is not None]


async def settled() -> None:
    """Let everybody go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


# --- The order ------------------------------------------------------------------------------------


def test_of_all_that_waits_the_earliest_phase_comes_first_and_within_it_one_patient_after_the_other() -> None:
    async def scenario() -> None:
        lanes = Lanes("training", brake())
        for keys in (
            ["ct/Covid0001/a", "ct/Covid0002/a"],
            ["xray-metadata/Covid0001/a", "xray-metadata/Covid0003/a"],
            ["ct-metadata/Covid0002/a", "ct-metadata/Covid0003/a"],
            ["ct/Covid0000/a"],
            ["data/Covid0009/a"],
        ):
            await lanes.open().admit("", due(*keys))
        assert await taken(lanes, 8) == [
            "data/Covid0009/a",
            "xray-metadata/Covid0001/a",
            "ct-metadata/Covid0002/a",
            "xray-metadata/Covid0003/a",
            "ct-metadata/Covid0003/a",
            "ct/Covid0000/a",
            "ct/Covid0001/a",
            "ct/Covid0002/a",
        ]

    run(scenario())


def test_nobody_waits_for_what_comes_first_while_there_is_anything_to_do() -> None:
    async def scenario() -> None:
        lanes = Lanes("training", brake())
        first, last = lanes.open(), lanes.open()
        await last.admit("", due("ct/Covid0000/a", "ct/Covid0000/b"))
        assert await taken(lanes, 1) == ["ct/Covid0000/a"]
        await first.admit("", due("data/Covid0000/a"))
        assert await taken(lanes, 2) == ["data/Covid0000/a", "ct/Covid0000/b"]

    run(scenario())


def test_whoever_waits_is_woken_and_at_the_end_told_so() -> None:
    async def scenario() -> None:
        lanes = Lanes("training", brake())
        lane = lanes.open()
        waiting = [asyncio.create_task(lanes.take()) for _ in range(4)]
        await settled()
        waiting[0].cancel()
        await settled()
        await lane.admit("", due("ct/Covid0000/a", "ct/Covid0000/b"))
        await settled()
        assert [task.done() for task in waiting] == [True, True, True, False]
        lanes.close()
        assert await waiting[3] is None
        assert (lanes.admitted, lanes.waiting) == (2, 0)

    run(scenario())


# --- Back-pressure --------------------------------------------------------------------------------


def test_a_full_lane_holds_back_its_own_stream_alone() -> None:
    async def scenario() -> None:
        lanes = Lanes("training", brake())
        full, empty = lanes.open(), lanes.open()
        held = asyncio.create_task(full.admit("", many(1500)))
        await settled()
        assert not held.done()
        await empty.admit("", due("ct/Covid0000/a"))
        await taken(lanes, 499)
        await settled()
        assert not held.done()
        await taken(lanes, 1)
        await asyncio.wait_for(held, 1)

    run(scenario())


@pytest.mark.parametrize("streams", [1, 2, 16])
def test_what_waits_is_bounded_however_many_streams_there_are(streams: int) -> None:
    async def scenario() -> None:
        lanes = Lanes("training", brake())
        page = 100

        async def produce(lane: Any) -> None:
            while True:
                await lane.admit("", many(page))

        tasks = [asyncio.create_task(produce(lane)) for lane in [lanes.open() for _ in range(streams)]]
        await settled()
        assert WAITING_OBJECTS <= lanes.waiting <= WAITING_OBJECTS + streams * page
        for task in tasks:
            task.cancel()

    run(scenario())


def test_what_others_do_not_use_any_more_is_had_by_those_who_are_left() -> None:
    async def scenario() -> None:
        lanes = Lanes("training", brake())
        left, gone = lanes.open(), lanes.open()
        await gone.end()
        await left.admit("", many(WAITING_OBJECTS))
        assert lanes.share == WAITING_OBJECTS

    run(scenario())


def test_when_the_run_is_halted_nothing_is_taken_any_more() -> None:
    async def scenario() -> None:
        pulled = brake()
        lanes = Lanes("training", pulled)
        await lanes.open().admit("", many(3))
        pulled.stop(Stopped(StoppedBy.MAX_PATIENTS, ""), at_once=False)
        assert len(await taken(lanes, 1)) == 1, "what was admitted is a patient who was begun"
        pulled.stop(Stopped(StoppedBy.MAX_DURATION, ""))
        assert await lanes.take() is None
        assert lanes.waiting == 2
        assert pulled.stopped == Stopped(StoppedBy.MAX_PATIENTS, ""), "the first reason is the one that is told"

    run(scenario())


# --- Budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patients", "size_max", "begun", "is_patient", "size", "by"),
    [
        (None, None, (9, 900), True, 10**15, None),
        (3, None, (2, 200), True, 10**15, None),
        (3, None, (3, 300), True, 0, StoppedBy.MAX_PATIENTS),
        (3, None, (3, 300), False, 10**15, None),
        (None, 300, (2, 200), True, 100, None),
        (None, 300, (2, 200), True, 101, StoppedBy.MAX_BYTES),
        (None, 300, (2, 200), False, 101, StoppedBy.MAX_BYTES),
        (None, 300, (3, 300), True, 0, None),
        (3, 300, (3, 300), True, 1, StoppedBy.MAX_PATIENTS),
        (4, 300, (3, 300), True, 1, StoppedBy.MAX_BYTES),
    ],
)
def test_a_budget_stops_before_what_would_be_too_much(
    *,
    patients: int | None,
    size_max: int | None,
    begun: tuple[int, int],
    is_patient: bool,
    size: int,
    by: StoppedBy | None,
) -> None:
    stopped = Budget(patients, size_max, *begun).stops(is_patient=is_patient, size=size)
    assert (stopped and stopped.by) == by
