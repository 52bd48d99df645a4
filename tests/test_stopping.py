"""Runs that end early because the user said so: by time, at a patient's edge, or with the first failure; and the order of a run."""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count, pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch import admission, planfile, warehouse
from nccid_fetch.clock import Clock
from nccid_fetch.errors import ObjectError, Reason, TransientError, UnreachableError
from nccid_fetch.events import Committed, Event, ListingEnded, Stopped, StoppedBy
from nccid_fetch.model import Fetch, PartState, RemoteObject, Why
from nccid_fetch.settings import OnFailure, Source, Transport
from nccid_fetch.stopping import GRACE_SECONDS_MAX

from .oracle import Run, check_tree, fetching, records, snapshot
from .servers.scripted import ScriptedS3, Stall
from .virtual import VirtualBucket, Weather, World

HOURS = 3600.0
PER_PATIENT = {"data": 1, "ct-metadata": 4, "xray-metadata": 1, "xray": 1, "ct": 12}


class Steady(Weather):
    """Each object takes a second, and each page of a listing a tenth."""

    async def listing(self, prefix: str) -> None:
        await asyncio.sleep(0.1)

    async def get(self, key: str) -> None:
        await asyncio.sleep(1)


def stocked(
    patients: int, *, per_patient: dict[str, int] = PER_PATIENT, weather: Weather | None = None, page_keys: int = 7
) -> VirtualBucket:
    """Return a bucket in which each patient has so many objects of 100 bytes in each part."""
    bucket = VirtualBucket(page_keys=page_keys, weather=weather or Steady())
    for patient in range(patients):
        for part, objects in per_patient.items():
            for number in range(objects):
                bucket.put(f"training/{part}/Covid{patient:04}/1.2/{number:03}", b"%100d" % number)
    return bucket


def whole(bucket: VirtualBucket, keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the patients of whom everything is there, and those of whom only something is."""
    wanted: dict[str, set[str]] = {}
    for key in bucket.now:
        wanted.setdefault(warehouse.patient_of(key), set()).add(key)
    there = set(keys)
    return (
        sorted(patient for patient, theirs in wanted.items() if theirs <= there),
        sorted(patient for patient, theirs in wanted.items() if theirs & there and not theirs <= there),
    )


def present(world: World) -> set[str]:
    """Return what is in place, having checked it."""
    there = check_tree(world.dest, world.bucket.ever)
    assert there == set(records(world.dest))
    return there


def stopped(run: Run) -> Stopped:
    """Return why a run was stopped, which it says once."""
    (event,) = [event for event in run.events if isinstance(event, Stopped)]
    return event


@pytest.fixture
def world(tmp_path: Path) -> Callable[[VirtualBucket], World]:
    return lambda bucket: World(tmp_path / "dest", bucket)


# --- The order of a run ---------------------------------------------------------------------------


def _cut(world: World, share: float) -> set[str]:
    """Cancel a run when so much of the bucket has come; return what is in place."""
    came = 0

    def listen(event: Event) -> None:
        nonlocal came
        if isinstance(event, Committed):
            came += len(event.outcomes)
            if came >= share * len(world.bucket.now):
                world.cancel()

    with suppress(asyncio.CancelledError):
        world.run(report=listen, concurrency=4)
    return present(world)


def test_a_broken_night_leaves_whole_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = stocked(40, page_keys=200)
    in_order, in_part = whole(bucket, _cut(World(tmp_path / "in order", bucket), 0.6))
    turns = count()
    monkeypatch.setattr(admission._Lane, "head", property(lambda lane: (next(turns), "", lane.number, lane)))
    side_by_side, _ = whole(bucket, _cut(World(tmp_path / "side by side", bucket), 0.6))
    assert len(in_order) >= 14, "there is no time for more than 15"
    assert len(side_by_side) <= 7
    assert in_order[:10] == [f"Covid{number:04}/" for number in range(10)]
    assert len(in_part) == 40 - len(in_order), "who these are, everybody has by then"


def test_parts_come_in_the_order_of_their_phases_as_far_as_they_wait_together(
    world: Callable[[VirtualBucket], World],
) -> None:
    bucket = stocked(20)
    assert world(bucket).run(concurrency=3).exit_code == 0
    phases = [warehouse.phase_of(warehouse.part_of(key, "training")) for key in bucket.gets]
    settled = phases[8:]  # Whatever was listed first was begun: nobody waits for an order.
    assert sum(later < earlier for earlier, later in pairwise(settled)) <= 4
    assert phases[-200:] == [warehouse.phase_of("ct")] * 200


@pytest.mark.parametrize("part", [*warehouse.PARTS, "unknown", "unknown-metadata", "pet"])
def test_every_part_has_its_phase_and_the_table_says_so(part: str) -> None:
    row = next(
        row for row in str(warehouse.phase_of.__doc__).splitlines() if f"`{part}`" in row or "anything else" in row
    )
    assert warehouse.phase_of(part) == int(row.split()[0])


# --- By time --------------------------------------------------------------------------------------


def test_when_its_time_is_over_a_run_ends_with_10_and_the_next_one_goes_on(
    world: Callable[[VirtualBucket], World],
) -> None:
    bucket = stocked(20)
    here = world(bucket)
    run = here.run(max_duration_seconds=20.0, concurrency=4)
    assert (run.exit_code, run.error, stopped(run).by) == (10, None, StoppedBy.MAX_DURATION)
    assert 20 <= here.seconds <= 23
    assert run.tally.fetched.objects == len(present(here)) == len(bucket.gets)
    assert run.left_over > 0
    assert {name: str(part.end(planned=False)) for name, part in run.tally.parts.items() if part.listed.objects} == {
        "data": "complete",
        "ct-metadata": "stopped",
        "xray-metadata": "stopped",
        "xray": "stopped",
        "ct": "stopped",
    }
    again = here.run(concurrency=4)
    assert (again.exit_code, again.tally.skipped.objects) == (0, run.tally.fetched.objects)
    assert sorted(bucket.gets) == sorted(bucket.now), "and nothing came twice"


class Endless(Steady):
    """Some objects take hours."""

    async def get(self, key: str) -> None:
        await asyncio.sleep(3 * HOURS if key.endswith("3") else 1)


@pytest.mark.parametrize("seconds", [20.0, 100.0])
def test_what_is_in_flight_has_a_minute_and_no_longer_than_the_run_and_is_dropped(
    world: Callable[[VirtualBucket], World], seconds: float
) -> None:
    here = world(stocked(20, per_patient={"ct": 12}, weather=Endless()))
    run = here.run(max_duration_seconds=seconds, concurrency=9, stall_seconds=HOURS)
    assert (run.exit_code, run.error) == (10, None)
    assert here.seconds == pytest.approx(seconds + min(seconds, GRACE_SECONDS_MAX), abs=2)
    assert run.tally.fetched.objects == len(present(here)) > 0


class Gone(Steady):
    """After a while the endpoint cannot be reached any more, not by those who list either."""

    async def listing(self, prefix: str) -> None:
        await super().listing(prefix)
        self._go()

    async def get(self, key: str) -> None:
        await super().get(key)
        self._go()

    def _go(self) -> None:
        if asyncio.get_running_loop().time() > 20:
            raise UnreachableError("no route")


def test_time_is_over_also_for_a_run_that_is_held(world: Callable[[VirtualBucket], World]) -> None:
    here = world(stocked(20, weather=Gone()))
    run = here.run(max_duration_seconds=200.0, concurrency=4, retry_for_seconds=9 * HOURS)
    assert (run.exit_code, run.error) == (10, None)
    assert here.seconds <= 200 + GRACE_SECONDS_MAX + 1
    assert len(present(here)) == run.tally.fetched.objects > 0


def test_time_is_over_also_for_a_run_that_only_lists(world: Callable[[VirtualBucket], World]) -> None:
    bucket = stocked(60)
    here = world(bucket)
    here.run()
    began = here.seconds
    bucket.gets.clear()
    run = here.run(max_duration_seconds=0.75)
    assert (run.exit_code, bucket.gets) == (10, [])
    assert here.seconds - began < 1
    assert 0 < run.tally.skipped.objects < len(bucket.now)
    assert not [event for event in run.events if isinstance(event, ListingEnded) and event.message]


def test_time_is_over_also_while_it_is_found_out_what_there_is(world: Callable[[VirtualBucket], World]) -> None:
    class Silent(Weather):
        async def listing(self, prefix: str) -> None:
            await asyncio.sleep(inf)

    here = world(stocked(1, weather=Silent()))
    run = here.run(max_duration_seconds=3.0)
    assert (run.exit_code, here.seconds) == (10, 3)
    assert not here.dest.exists()


@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
def test_a_server_that_hangs_is_left_when_time_is_over_and_no_connection_and_no_task_stays(
    tmp_path: Path, transport: Transport
) -> None:
    async def main() -> Run:
        with ScriptedS3() as s3:
            for number in range(20):
                s3.put(f"training/ct/Covid0000/{number:02}", b"image")
            s3.script("get", Stall(2), after=10, count=None)

            async def sleep(_: float) -> None:
                await asyncio.to_thread(s3.wait_until, lambda: s3.gets() >= 14)

            clock = Clock(sleep=sleep)
            run = await fetching(
                s3, tmp_path / "dest", clock=clock, transport=transport, concurrency=4, max_duration_seconds=HOURS
            )
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await asyncio.to_thread(s3.wait_until, lambda: not s3.connections)
            check_tree(tmp_path / "dest", snapshot(s3))
            return run

    run = asyncio.run(main())
    assert (run.exit_code, run.tally.fetched.objects, run.left_over) == (10, 10, 10)


def test_a_listener_that_breaks_when_time_is_over_ends_the_run_loudly(world: Callable[[VirtualBucket], World]) -> None:
    def breaks(event: Event) -> None:
        if isinstance(event, Stopped):
            raise ZeroDivisionError

    here = world(stocked(20))
    with pytest.raises(ZeroDivisionError):
        here.run(max_duration_seconds=20.0, report=breaks)
    assert here.seconds < 23


def test_a_run_that_is_through_in_time_ends_with_0(world: Callable[[VirtualBucket], World]) -> None:
    run = world(stocked(3)).run(max_duration_seconds=HOURS)
    assert run.exit_code == 0
    assert not [event for event in run.events if isinstance(event, Stopped)]


def test_a_run_whose_last_object_comes_in_the_minute_after_its_time_ends_with_0(
    world: Callable[[VirtualBucket], World],
) -> None:
    here = world(stocked(1, per_patient={"ct": 2}))
    run = here.run(max_duration_seconds=0.9, concurrency=2)
    assert here.seconds > 0.9
    assert (run.exit_code, run.left_over, run.tally.cut_short) == (0, 0, None)


# --- At a patient's edge --------------------------------------------------------------------------


def test_so_many_patients_are_begun_and_each_of_them_is_whole(world: Callable[[VirtualBucket], World]) -> None:
    bucket = stocked(30)
    here = world(bucket)
    run = here.run(max_patients=3, concurrency=4)
    assert (run.exit_code, run.error) == (10, None)
    assert stopped(run) == Stopped(StoppedBy.MAX_PATIENTS, "3 patients were begun, and there are more")
    assert whole(bucket, present(here)) == (["Covid0000/", "Covid0001/", "Covid0002/"], [])
    assert run.tally.listed.objects < len(bucket.now) / 3, "what nobody will fetch is not listed"


@pytest.mark.parametrize("options", [{"max_patients": 4}, {"max_bytes": 8000}], ids=str)
def test_each_run_goes_on_where_the_last_one_stopped_and_the_last_one_ends_with_0(
    world: Callable[[VirtualBucket], World], options: dict[str, Any]
) -> None:
    """4 patients have 4 * 19 objects of 100 bytes."""
    bucket = stocked(10)
    here = world(bucket)
    codes = []
    for number in range(1, 4):
        codes.append(here.run(concurrency=4, **options).exit_code)
        assert len(whole(bucket, present(here))[0]) == min(4 * number, 10)
        assert whole(bucket, present(here))[1] == []
    assert codes == [10, 10, 0]
    assert here.run(**options).exit_code == 0
    assert sorted(bucket.gets) == sorted(bucket.now), "nothing came twice"


def test_broken_patients_are_finished_before_others_are_begun(world: Callable[[VirtualBucket], World]) -> None:
    bucket = stocked(30)
    here = world(bucket)
    in_part = whole(bucket, _cut(here, 0.5))[1]
    assert len(in_part) > 5
    bucket.gets.clear()
    run = here.run(max_patients=5, concurrency=4)
    assert run.exit_code == 10
    assert {warehouse.patient_of(key) for key in bucket.gets} == {*in_part[:5]}
    assert set(in_part[:5]) <= set(whole(bucket, present(here))[0])


def test_a_patient_is_not_begun_who_would_bring_too_many_bytes(world: Callable[[VirtualBucket], World]) -> None:
    bucket = stocked(10)
    here = world(bucket)
    run = here.run(max_bytes=3 * 1900 + 1899)
    assert (run.exit_code, len(whole(bucket, present(here))[0]), run.tally.fetched.bytes) == (10, 3, 3 * 1900)
    assert stopped(run).message == "the next patient needs 1,900 bytes, and 1,899 are left"


def test_where_not_even_the_first_patient_fits_in_that_is_said_and_nothing_comes(
    world: Callable[[VirtualBucket], World],
) -> None:
    bucket = stocked(3)
    run = world(bucket).run(max_bytes=1899)
    assert (run.exit_code, bucket.gets) == (10, [])
    assert stopped(run).message == "not even the first patient fits in: it needs 1,900 bytes, and 1,899 are allowed"
    assert stopped(run).hint == "--max-bytes 1900 lets it in"


def test_an_object_at_the_top_of_a_part_is_no_patient_and_comes_in_its_turn(
    world: Callable[[VirtualBucket], World],
) -> None:
    bucket = stocked(3)
    for name in ("A", "Covid0000", "Covid0001-notes", "Z"):
        bucket.put(f"training/ct/{name}.txt", b"x")
    here = world(bucket)
    assert here.run(max_patients=2).exit_code == 10
    at_top = {key.rpartition("/")[2] for key in present(here) if key.count("/") == 2}
    assert at_top == {"A.txt", "Covid0000.txt", "Covid0001-notes.txt"}
    assert whole(bucket, present(here))[0][-2:] == ["Covid0001-notes.txt", "Covid0001/"]
    assert here.run(max_patients=1).exit_code == 0
    assert present(here) == set(bucket.now)


def test_names_of_patients_that_begin_alike_are_told_apart(world: Callable[[VirtualBucket], World]) -> None:
    bucket = VirtualBucket(page_keys=2)
    for patient in ("Covid1", "Covid10", "Covid1-a", "Covid1.b", "Covid"):
        for part in ("ct", "data"):
            for number in range(3):
                bucket.put(f"training/{part}/{patient}/{number}", b"x")
    here = world(bucket)
    for number in range(1, 6):
        assert here.run(max_patients=1).exit_code == (10 if number < 5 else 0)
        assert (len(whole(bucket, present(here))[0]), whole(bucket, present(here))[1]) == (number, [])


class Uneven(Weather):
    """Every request takes a time of its own."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    async def listing(self, prefix: str) -> None:
        await asyncio.sleep(self._chance.choice([0, 0.01, 5]))

    async def get(self, key: str) -> None:
        await asyncio.sleep(self._chance.random())


@pytest.mark.parametrize("seed", range(5))
def test_whichever_part_is_listed_faster_patients_are_whole_and_the_first_ones(
    world: Callable[[VirtualBucket], World], seed: int
) -> None:
    chance = random.Random(seed)
    bucket = VirtualBucket(page_keys=chance.choice([1, 3, 8]), weather=Uneven(seed))
    for part in chance.sample(warehouse.PARTS, 4):
        for patient in chance.sample(range(12), chance.randint(1, 12)):
            for number in range(chance.choice([1, 2, 9])):
                bucket.put(f"training/{part}/Covid{patient}/{number}", b"x" * chance.randrange(300))
    here = world(bucket)
    patients = sorted({warehouse.patient_of(key) for key in bucket.now})
    for begun in range(chance.randint(1, 5), len(patients) + 5, 5):
        code = here.run(max_patients=min(begun, 5), concurrency=4).exit_code
        assert whole(bucket, present(here)) == (patients[:begun], [])
        assert code == (10 if begun < len(patients) else 0)


class Broken(Steady):
    """The listing of X-rays' metadata breaks off, each time that its second page is asked for."""

    def __init__(self) -> None:
        self.pages = 0

    async def listing(self, prefix: str) -> None:
        self.pages += prefix == "training/xray-metadata/"
        if prefix == "training/xray-metadata/" and self.pages > 1:
            raise TransientError("500")


@pytest.mark.usefixtures("no_pauses")
def test_a_part_whose_listing_breaks_off_holds_up_no_patient_and_is_5(world: Callable[[VirtualBucket], World]) -> None:
    bucket = stocked(30, weather=Broken())
    here = world(bucket)
    run = here.run(max_patients=20, concurrency=4)
    assert run.exit_code == 5
    assert run.tally.parts["xray-metadata"].state is PartState.FAILED
    assert stopped(run).by is StoppedBy.MAX_PATIENTS
    there = present(here)
    assert len({warehouse.patient_of(key) for key in there}) == 20
    bucket.weather = Steady()
    assert here.run(max_patients=20).exit_code == 10, "13 that lack something and 7 more"
    assert len(whole(bucket, present(here))[0]) == 27
    assert whole(bucket, present(here))[1] == []


def test_a_patient_of_more_objects_than_are_gathered_is_whole_all_the_same_and_one(
    world: Callable[[VirtualBucket], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "GATHERED_OBJECTS_MAX", 10)
    bucket = stocked(5, per_patient={"data": 1, "ct-metadata": 40, "ct": 35})
    here = world(bucket)
    run = here.run(max_patients=2, max_bytes=10**6)
    assert (run.exit_code, stopped(run).by) == (10, StoppedBy.MAX_PATIENTS)
    assert whole(bucket, present(here)) == (["Covid0000/", "Covid0001/"], [])


def test_no_more_than_a_patient_and_a_page_of_each_part_is_gathered(
    world: Callable[[VirtualBucket], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    move = admission.Patients._move

    async def watched(self: Any) -> None:
        nonlocal most
        most = max(most, sum(map(len, self._gathered.values())))
        await move(self)

    monkeypatch.setattr(admission.Patients, "_move", watched)
    bucket = stocked(60)
    assert world(bucket).run(max_patients=60).exit_code == 0
    assert most <= 19 + 7 * len(PER_PATIENT)


@pytest.mark.parametrize("options", [{"max_patients": 3}, {"max_bytes": 6000}], ids=str)
def test_a_plan_is_carried_out_by_whole_patients_too_however_it_is_ordered(
    world: Callable[[VirtualBucket], World], tmp_path: Path, options: dict[str, Any]
) -> None:
    bucket = stocked(8)
    plan = tmp_path / "plan.jsonl"
    lines = [key for key in bucket.now if not key.startswith("training/xray/")]
    random.Random(1).shuffle(lines)
    with plan.open("w") as out:
        planfile.write_header(out, Source())
        for key in lines:
            stored = bucket.now[key].version
            remote = RemoteObject(key, len(stored.body), bucket.now[key].etag, stored.modified_ns)
            planfile.write_decision(out, Fetch(remote, Why.MISSING))
    here = world(bucket)
    for number in range(1, 4):
        assert here.run(plan_file=plan, **options).exit_code == (10 if number < 3 else 0)
        patients = {warehouse.patient_of(key) for key in present(here)}
        assert patients == {f"Covid{patient:04}/" for patient in range(min(3 * number, 8))}
        assert present(here) == {key for key in lines if warehouse.patient_of(key) in patients}


def test_the_time_of_a_run_by_whole_patients_may_be_over_too(world: Callable[[VirtualBucket], World]) -> None:
    here = world(stocked(20))
    run = here.run(max_patients=19, max_duration_seconds=20.0, concurrency=4)
    assert (run.exit_code, stopped(run).by) == (10, StoppedBy.MAX_DURATION)
    assert here.seconds < 23


# --- With the first failure -----------------------------------------------------------------------


class Refusing(Steady):
    """One object is not there any more."""

    async def get(self, key: str) -> None:
        await super().get(key)
        if key == "training/ct/Covid0003/1.2/004":
            raise ObjectError(Reason.GONE, "404")


def test_with_the_first_failure_nothing_more_is_begun_and_what_is_in_flight_finishes(
    world: Callable[[VirtualBucket], World],
) -> None:
    bucket = stocked(20, per_patient={"ct": 12}, weather=Refusing())
    here = world(bucket)
    run = here.run(on_failure=OnFailure.STOP, concurrency=4)
    assert (run.exit_code, run.reasons) == (1, {"training/ct/Covid0003/1.2/004": "gone"})
    assert (stopped(run).by, run.tally.cut_short) == (StoppedBy.ON_FAILURE, stopped(run))
    assert stopped(run).message.startswith("training/ct/Covid0003/1.2/004 did not arrive: gone: ")
    assert 30 < len(present(here)) < 60
    assert run.tally.parts["ct"].end(planned=False) is PartState.STOPPED
    bucket.delete("training/ct/Covid0003/1.2/004")
    assert here.run(on_failure=OnFailure.STOP).exit_code == 0
    assert present(here) == set(bucket.now)


def test_with_the_first_failure_nothing_that_waits_for_a_place_is_begun_either(
    world: Callable[[VirtualBucket], World],
) -> None:
    bucket = stocked(60, per_patient={"ct": 12}, weather=Refusing())
    asked: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stopped):
            asked.append(len(bucket.gets))

    run = world(bucket).run(on_failure=OnFailure.STOP, concurrency="auto", report=listen)
    assert run.exit_code == 1
    assert run.tally.limit is not None
    assert len(bucket.gets) <= asked[0] + run.tally.limit.objects, "the others in flight"
    assert run.left_over > 300


def test_a_refused_object_is_a_failure_too(world: Callable[[VirtualBucket], World]) -> None:
    bucket = stocked(20, per_patient={"ct": 12})
    bucket.put("training/ct/Covid0000/../escape", b"x")
    here = world(bucket)
    run = here.run(on_failure=OnFailure.STOP)
    assert (run.exit_code, stopped(run).by) == (1, StoppedBy.ON_FAILURE)
    assert len(bucket.gets) <= 3, "what was in flight"
    assert here.run().exit_code == 1
    assert len(present(here)) == len(bucket.now) - 1


def test_a_name_that_is_taken_at_the_very_end_is_a_failure_too(world: Callable[[VirtualBucket], World]) -> None:
    class Taking(Steady):
        async def get(self, key: str) -> None:
            await super().get(key)
            if key == "training/ct/Covid0001/1.2/003":  # After the disk was looked at.
                (here.dest / "ct/Covid0001/1.2/003").mkdir(parents=True, mode=0o700)

    here = world(stocked(20, per_patient={"ct": 12}, weather=Taking()))
    run = here.run(on_failure=OnFailure.STOP)
    assert (run.exit_code, run.reasons) == (1, {"training/ct/Covid0001/1.2/003": "conflict"})
    assert run.left_over > 100
