"""`--window`: whole runs in a world of its own, from one evening to the next."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from nccid_fetch.adaptive import LIMIT_MIN
from nccid_fetch.clock import Clock
from nccid_fetch.errors import (
    CredentialsError,
    RunError,
    ThrottledError,
    TokenRefusedError,
    TransientError,
    UnreachableError,
)
from nccid_fetch.events import Committed, Event, Held, LimitSet, PartsKnown, Released, Wait
from nccid_fetch.governor import Governor
from nccid_fetch.hours import keep_hours
from nccid_fetch.timetable import Timetable, Window

from .conftest import run
from .oracle import Run
from .virtual import BEGAN, VirtualBucket, Weather, World

HOUR = 3600.0
SECONDS = 30.0
"""What each request takes, so that the hours have something to come between."""


class Watch(Weather):
    """Notes when what is asked for, and takes its time."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.renewed: list[float] = []

    async def listing(self, prefix: str) -> None:
        await self.get(prefix)

    async def get(self, key: str) -> None:
        self.asked.append((asyncio.get_running_loop().time(), key))
        await asyncio.sleep(SECONDS)

    def renew(self) -> bool:
        self.renewed.append(asyncio.get_running_loop().time())
        return False


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def world(dest: Path, watch: Watch) -> World:
    """60 objects in one part, of which three at a time take ten minutes; the world begins at midnight."""
    bucket = VirtualBucket(weather=watch, page_keys=10)
    for number in range(60):
        bucket.put(f"training/data/Covid{number:04}/a.json", b"%d" % number)
    return World(dest, bucket)


def fetched(world: World, window: str, **options: object) -> Run:
    return world.run(None, options.pop("report", None), window=Window(window), **options)  # type: ignore[arg-type]


def holds(ended: Run, wait: Wait) -> list[Held]:
    return [event for event in ended.events if isinstance(event, Held) and event.reason is wait]


def test_a_run_that_is_within_its_hours_is_not_held(world: World, watch: Watch) -> None:
    assert fetched(world, "00:00-24:00").exit_code == 0
    assert fetched(world, "22:00-06:00").exit_code == 0
    assert not watch.renewed
    assert world.seconds < HOUR


def test_outside_of_its_hours_nothing_is_asked_for_and_then_it_goes_on(world: World, watch: Watch) -> None:
    ended = fetched(world, "19:00-00:05", attempts=1, retry_for_seconds=60.0)
    assert (ended.exit_code, ended.reasons) == (0, {})
    times = [second for second, _ in watch.asked]
    assert not [second for second in times if 5 * 60 < second < 19 * HOUR]
    assert [second for second in times if second <= 5 * 60]
    (held,) = holds(ended, Wait.WINDOW)
    assert held.until == BEGAN + timedelta(hours=19)
    assert held.pause_seconds == pytest.approx(19 * HOUR - 5 * 60, abs=1)
    (released,) = [event for event in ended.events if isinstance(event, Released) and event.reason is Wait.WINDOW]
    assert released.seconds == held.pause_seconds
    assert ended.tally.held is None


def test_what_is_on_its_way_when_the_hours_end_is_finished_and_committed_at_once(world: World) -> None:
    committed: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Committed):
            committed.extend(asyncio.get_running_loop().time() for _ in event.outcomes)

    ended = fetched(world, "19:00-00:05", report=listen)
    by_day = [second for second in committed if second < 19 * HOUR]
    assert by_day
    assert max(by_day) < 5 * 60 + SECONDS + 5
    assert len(committed) == ended.tally.fetched.objects == 60


def test_when_the_hours_begin_credentials_are_read_anew_before_one_asks_for_all(world: World, watch: Watch) -> None:
    fetched(world, "19:00-00:05")
    (renewed,) = watch.renewed
    assert renewed == pytest.approx(19 * HOUR, abs=1)
    after = [second for second, _ in watch.asked if second > HOUR]
    assert renewed <= after[0] < renewed + 1
    assert after[1] >= after[0] + SECONDS, "the others wait for its answer"


def test_credentials_that_have_expired_over_the_day_are_waited_for_from_the_evening_on(
    world: World, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_before_ten_past(_: Watch) -> bool:
        now = asyncio.get_running_loop().time()
        if now < 19 * HOUR + 600:
            raise CredentialsError("there are none")
        return True

    monkeypatch.setattr(Watch, "renew", none_before_ten_past)
    ended = fetched(world, "19:00-00:05")
    assert ended.exit_code == 0, "ten minutes, and not nineteen hours, of fifteen"


def test_a_run_that_begins_by_day_looks_at_everything_and_waits_for_the_evening(world: World, watch: Watch) -> None:
    world.seconds = 12 * HOUR
    ended = fetched(world, "19:00-07:00")
    assert ended.exit_code == 0
    access = [key for second, key in watch.asked if second < 19 * HOUR]
    assert access[0] == "training/"
    assert "training/data/" not in access, (
        "whether anything is there, in the group and in parts that it does not show; no page"
    )
    kinds = [type(event) for event in ended.events]
    assert kinds.index(PartsKnown) < kinds.index(Held)


def test_what_is_wrong_shows_by_day(world: World, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: object) -> None:
        raise UnreachableError("host cannot be reached")

    monkeypatch.setattr(Watch, "listing", gone)
    world.seconds = 12 * HOUR
    assert fetched(world, "19:00-07:00").exit_code == 5
    assert world.seconds < 13 * HOUR


def test_a_run_that_is_held_when_the_hours_end_is_held_as_if_for_the_first_time_when_they_begin(
    world: World, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone_until_ten_past_seven(_: Watch, key: str) -> None:
        now = asyncio.get_running_loop().time()
        if 60 < now < 19 * HOUR + 600:
            raise UnreachableError("host cannot be reached")
        await asyncio.sleep(SECONDS)

    monkeypatch.setattr(Watch, "get", gone_until_ten_past_seven)
    ended = fetched(world, "19:00-00:05", attempts=1)
    assert (ended.exit_code, ended.reasons) == (0, {})
    assert holds(ended, Wait.ENDPOINT)[-1].since >= 19 * HOUR


def test_a_listing_whose_token_became_too_old_over_the_day_goes_on(world: World, watch: Watch) -> None:
    told: list[float] = []

    class Forgetful(Watch):
        async def listing(self, prefix: str) -> None:
            await super().listing(prefix)
            now = asyncio.get_running_loop().time()
            if now > 19 * HOUR and prefix == "training/data/" and not told:
                told.append(now)
                raise TokenRefusedError("the server does not go on from its own token")

    world.bucket.weather = Forgetful()
    assert fetched(world, "19:00-00:02").exit_code == 0
    assert told
    assert len(world.bucket.gets) == 60


def test_a_machine_that_slept_and_a_clock_that_was_set_are_noticed_within_seconds(dest: Path) -> None:
    """The clock that only goes forward knows nothing of either."""
    governor = Governor(report=lambda event: seen.append((shown[0], event)))
    seen: list[tuple[datetime, Event]] = []
    shown = [datetime(2026, 1, 1, 6, 59, 55, tzinfo=ZoneInfo("Europe/London"))]
    jumps = iter([timedelta(hours=3), timedelta(hours=10), timedelta(hours=-10), timedelta(days=1)])
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        shown[0] += timedelta(seconds=seconds) + next(jumps)
        await asyncio.sleep(0)

    clock = Clock(sleep=sleep, local=lambda: shown[0])
    with pytest.raises(RuntimeError, match="StopIteration"):
        run(keep_hours(Window("19:00-07:00"), governor, clock))
    reasons = [(shown.hour, type(event).__name__) for shown, event in seen if event.reason is Wait.WINDOW]  # type: ignore[union-attr]
    assert reasons == [(10, "Held"), (20, "Released"), (10, "Held")]
    assert max(slept) <= 10.0


@pytest.mark.parametrize("when", ["nothing is under way", "the run is held for something else"])
def test_a_hold_can_be_ended_from_outside(when: str) -> None:
    async def scenario() -> None:
        governor = Governor()

        async def renew() -> bool:
            return False

        async def ask(met: Exception | None = None) -> None:
            async with governor.request(renew):
                if met is not None:
                    raise met

        if when == "the run is held for something else":
            with pytest.raises(UnreachableError):
                await ask(UnreachableError("gone"))
        governor.shut(None, 0.0)
        waiting = [asyncio.create_task(ask()) for _ in range(5)]
        await asyncio.sleep(0)
        governor.end(lambda: RunError("the time is over"))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {str(error) for error in ended} == {"the time is over"}
        governor.open()
        with pytest.raises(RunError, match="the time is over"):
            await ask()

    run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize(
    "met", [None, UnreachableError("gone"), ThrottledError("busy", 30.0), CredentialsError("expired")]
)
def test_what_becomes_of_the_one_that_asked_for_all_does_not_open_what_is_shut(met: Exception | None) -> None:
    async def scenario() -> None:
        governor = Governor(retry_for_seconds=0.0)

        async def renew() -> bool:
            return True

        with pytest.raises(UnreachableError):
            async with governor.request(renew):
                raise UnreachableError("gone")
        lead = governor.request(renew)
        await lead.__aenter__()
        governor.shut(None, 0.0)
        await lead.__aexit__(type(met) if met else None, met, None)
        assert governor.is_held
        late = asyncio.create_task(_asked(governor))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not late.done()
        governor.open()
        await late
        assert not governor.is_held

    run(asyncio.wait_for(scenario(), 10))


async def _asked(governor: Governor) -> None:
    async def renew() -> bool:
        return True

    async with governor.request(renew):
        pass


def test_a_day_outside_is_no_reason_to_give_a_server_up_that_asked_to_slow_down_before() -> None:
    async def scenario() -> None:
        now = [0.0]
        governor = Governor(Clock(now=lambda: now[0]))
        governor.slowed(ThrottledError("busy"))
        governor.shut(None, 0.0)
        now[0] += 12 * HOUR
        governor.open()
        governor.slowed(ThrottledError("busy"))

    run(scenario())


def test_auto_learns_nothing_from_objects_that_waited_for_the_evening(world: World, watch: Watch) -> None:
    """By their times, more in flight would have made each of them slower by a day."""
    for number in range(600):
        world.bucket.put(f"training/data/Covid1{number:04}/a.json", b"%d" % number)
    ended = fetched(world, "19:00-00:02", concurrency="auto")
    assert ended.exit_code == 0
    assert min([event.objects for event in ended.events if isinstance(event, LimitSet)], default=64) > LIMIT_MIN


def test_a_server_that_fails_when_the_hours_begin_is_no_word_on_the_credentials(
    world: World, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails_once(self: Watch, key: str) -> None:
        now = asyncio.get_running_loop().time()
        self.asked.append((now, key))
        await asyncio.sleep(SECONDS)
        if 19 * HOUR <= now < 19 * HOUR + 10:
            raise TransientError("500")

    monkeypatch.setattr(Watch, "get", fails_once)
    ended = fetched(world, "19:00-00:05")
    assert ended.exit_code == 0
    released = [event for event in ended.events if isinstance(event, Released) and event.reason is Wait.CREDENTIALS]
    assert released[0].seconds >= 2 * SECONDS - 1


def test_auto_learns_nothing_from_objects_that_waited_for_bandwidth(world: World, watch: Watch) -> None:
    """Fewer in flight would bring no less, and as many as before are wanted when the limit goes."""
    for number in range(800):
        world.bucket.put(f"training/data/Covid1{number:04}/a.json", bytes(1000))
    ended = world.run(bwlimit=Timetable("2000B"), concurrency="auto")
    assert ended.exit_code == 0
    assert world.seconds > 300, "the limit is what held it up"
    assert {event.objects for event in ended.events if isinstance(event, LimitSet)} <= {64}
