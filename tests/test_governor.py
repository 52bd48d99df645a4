"""What holds a run, who asks for all, and how it ends: the governor alone, on a clock that a test moves."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from nccid_fetch import governor
from nccid_fetch.errors import (
    AccessError,
    CredentialsError,
    EndpointError,
    NccidFetchError,
    ObjectError,
    Reason,
    RunError,
    ThrottledError,
    TransientError,
    UnreachableError,
)
from nccid_fetch.events import Event, Held, Released, Wait
from nccid_fetch.governor import HOLDS, Governor
from nccid_fetch.retry import CAP_SECONDS, RETRY_AFTER_SECONDS_MAX, backoff_seconds

from .catalogue import fault
from .conftest import run
from .night import Night

GONE = UnreachableError("host cannot be reached")
EXPIRED = CredentialsError("the credentials have expired (host)")
WRONG = CredentialsError("the access key is not known to the server (host)", are_wrong=True)


@dataclass
class World:
    """A run's requests, and what each of them meets; an answer, when nothing is left to meet."""

    meets: list[NccidFetchError | None] = field(default_factory=list)
    retry_for: float = 900.0
    renewals: list[bool | NccidFetchError] = field(default_factory=list)
    night: Night = field(default_factory=Night)
    events: list[Event] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    renewed: int = 0
    at_once: int = 0
    at_once_max: int = 0

    def __post_init__(self) -> None:
        self.governor = Governor(self.night.clock, retry_for_seconds=self.retry_for, report=self.events.append)

    async def renew(self) -> bool:
        self.renewed += 1
        outcome = self.renewals.pop(0) if self.renewals else True
        if isinstance(outcome, NccidFetchError):
            raise outcome
        return outcome

    async def ask(self) -> None:
        """Send one request."""
        async with self.governor.request(self.renew):
            self.sent.append(self.night.now)
            self.at_once += 1
            self.at_once_max = max(self.at_once_max, self.at_once)
            await asyncio.sleep(0)
            self.at_once -= 1
            met = self.meets.pop(0) if self.meets else None
            if met is not None:
                raise met

    async def insist(self) -> None:
        """Send one request until it is answered."""
        while True:
            try:
                await self.ask()
            except (*HOLDS, ThrottledError):
                continue
            return

    async def insist_on(self, met: NccidFetchError) -> None:
        """Send one request, which meets this, and let its turn cost what it does."""
        self.meets = [met]
        with suppress(*HOLDS):
            await self.ask()

    def holds(self) -> list[Held]:
        return [event for event in self.events if isinstance(event, Held)]


async def all_of(world: World, number: int) -> list[BaseException | None]:
    """Let so many insist at once."""
    return await asyncio.gather(*(world.insist() for _ in range(number)), return_exceptions=True)


@fault(10)
@pytest.mark.parametrize(
    ("error", "wait"),
    [(GONE, Wait.ENDPOINT), (EXPIRED, Wait.CREDENTIALS), (ThrottledError("busy", 7.0), Wait.SLOWED)],
)
def test_what_one_request_learns_holds_all_and_one_at_a_time_asks_whether_it_is_over(
    error: NccidFetchError, wait: Wait
) -> None:
    world = World([error, *[error] * 9])
    assert run(all_of(world, 10)) == [None] * 10
    first_wave = 10  # These were on their way when the first of them came back.
    assert [event.reason for event in world.holds()] == [wait]
    assert world.events[-1] == Released(wait, world.night.now)
    assert (world.renewed > 0) is (wait is Wait.CREDENTIALS)
    assert len(world.sent) == 2 * first_wave

    later = World([error, error, error, error], night=Night())

    async def one_then_all() -> None:
        with pytest.raises(type(error)):
            await later.ask()
        later.at_once_max = 0
        waiting = asyncio.gather(*(later.insist() for _ in range(10)))
        while later.governor.is_held:
            assert later.at_once_max <= 1
            await asyncio.sleep(0)
        await waiting

    run(one_then_all())
    assert len(later.holds()) == 4
    assert [later.sent[number + 1] > later.sent[number] for number in range(1, 4)] == [True] * 3
    assert later.at_once_max == 9


@fault(9, 10)
def test_pauses_grow_to_a_cap_and_end_with_the_time_there_is() -> None:
    world = World([GONE] * 10_000, retry_for=3600.0)
    (ended,) = run(all_of(world, 1))
    assert isinstance(ended, EndpointError)
    assert ended.message == "host cannot be reached, for 60 minutes now"
    assert "run the same command again" in str(ended.hint)
    assert world.night.now == pytest.approx(3600.0)
    pauses = [event.pause_seconds for event in world.holds()]
    assert pauses[0] == 0.0, "at once, to see whether it is so"
    assert pauses[1:-1] == sorted(pauses[1:-1])
    assert max(pauses) == 15.0
    assert len(pauses) < 300


@fault(9)
def test_a_run_that_is_held_again_is_held_as_if_for_the_first_time() -> None:
    """With short pauses to begin with, and all the time there is."""
    world = World()

    async def scenario() -> None:
        for _ in range(2):
            world.meets = [GONE] * 60
            await world.insist()

    run(scenario())
    pauses = [event.pause_seconds for event in world.holds()]
    assert pauses[:60] == pauses[60:]
    assert sum(pauses) > 900.0


@pytest.mark.parametrize(("error", "kind"), [(GONE, EndpointError), (EXPIRED, AccessError)])
@fault(10, 38)
def test_when_the_time_is_over_everybody_who_waits_or_comes_is_told(
    error: NccidFetchError, kind: type[RunError]
) -> None:
    world = World([error] * 10_000)

    async def scenario() -> list[BaseException | None]:
        ended = await all_of(world, 5)
        return [*ended, *await all_of(world, 1)]

    ended = run(scenario())
    assert [type(error) for error in ended] == [kind] * 6
    assert world.night.now == pytest.approx(900.0)


@fault(38)
def test_credentials_are_read_anew_before_each_request_that_asks_for_all() -> None:
    world = World([EXPIRED, EXPIRED, EXPIRED], renewals=[False, CredentialsError("no token in the cache"), True, True])
    assert run(all_of(world, 1)) == [None]
    assert (world.renewed, len(world.sent)) == (4, 4)
    assert [event.message for event in world.holds()] == [
        str(EXPIRED),
        str(EXPIRED),
        "no token in the cache",
        str(EXPIRED),
    ]


@fault(38)
def test_what_was_signed_before_credentials_were_renewed_is_no_reason_to_renew_them_again() -> None:
    world = World()

    async def scenario() -> None:
        late = world.governor.request(world.renew)
        await late.__aenter__()
        world.meets = [EXPIRED]
        await world.insist()
        assert not await late.__aexit__(CredentialsError, EXPIRED, None), "it is raised, so that it is asked again"
        assert not world.governor.is_held

    run(scenario())
    assert world.renewed == 1


@fault(39)
def test_wrong_credentials_end_the_run_unless_there_are_others_now() -> None:
    same = World([WRONG] * 100, renewals=[False])
    ended = run(all_of(same, 8))
    assert {(type(error), str(error).partition("\n")[0]) for error in ended} == {(AccessError, str(WRONG))}
    assert (len(same.sent), same.renewed) == (8, 1)
    assert same.night.now == 0

    others = World([WRONG], renewals=[True])
    assert run(all_of(others, 1)) == [None]

    wrong_again = World([WRONG, WRONG, WRONG], renewals=[True, False])
    assert [type(error) for error in run(all_of(wrong_again, 1))] == [AccessError]
    assert len(wrong_again.sent) == 2


@fault(38, 39)
@pytest.mark.parametrize("cause", [EXPIRED, WRONG])
def test_credentials_that_nobody_has_had_a_word_on_yet_are_neither_read_again_nor_taken_for_wrong(
    cause: CredentialsError,
) -> None:
    """A denial does not say whether they are good, nor does a request that was cancelled."""
    world = World([cause, *[ObjectError(Reason.DENIED, "denied")] * 5, None], renewals=[True, False])

    async def scenario() -> None:
        for _ in range(7):
            with suppress(CredentialsError, ObjectError):
                await world.ask()

    run(scenario())
    assert not world.governor.is_held
    assert (world.renewed, len(world.sent)) == (1, 7)


@fault(13)
def test_a_word_to_slow_down_holds_nobody_unless_it_says_for_how_long() -> None:
    world = World([ThrottledError("busy")])
    told: list[float] = []
    world.governor.when_slowed = lambda: told.append(world.night.now)
    assert run(all_of(world, 1)) == [None]
    assert (world.holds(), told) == ([], [0.0])


@fault(13)
@pytest.mark.parametrize("asked", [(7.0, 30.0), (30.0, 7.0)])
@pytest.mark.parametrize("somebody_waits", [True, False])
def test_of_several_times_that_were_asked_for_nobody_comes_back_before_the_latest(
    asked: tuple[float, float],
    somebody_waits: bool,  # noqa: FBT001
) -> None:
    world = World([ThrottledError("busy", seconds) for seconds in asked])

    async def scenario() -> None:
        ask = world.insist if somebody_waits else world.ask
        await asyncio.gather(ask(), ask(), return_exceptions=True)
        await world.insist()

    run(scenario())
    assert [second for second in world.sent if second] == [30.0] * (3 if somebody_waits else 1)


@fault(13)
def test_nobody_is_asked_to_stay_away_for_longer_than_is_reasonable() -> None:
    world = World([ThrottledError("busy", 86_400.0)])
    assert run(all_of(world, 1)) == [None]
    assert world.night.now == RETRY_AFTER_SECONDS_MAX


@fault(13)
def test_who_asks_for_all_and_is_told_to_slow_down_leaves_it_to_the_next() -> None:
    world = World([GONE, ThrottledError("busy")])
    assert run(asyncio.wait_for(all_of(world, 1), 10)) == [None]
    assert [event.reason for event in world.holds()] == [Wait.ENDPOINT, Wait.SLOWED]
    assert not world.governor.is_held


@pytest.mark.parametrize(
    ("error", "trouble"), [(GONE, True), (ThrottledError("busy"), True), (ObjectError(Reason.DENIED, "no"), False)]
)
def test_a_run_remembers_that_it_was_in_trouble(error: NccidFetchError, trouble: bool) -> None:  # noqa: FBT001
    """So that the fast reader is not given up for what any reader would have met."""
    world = World([error])
    with pytest.raises(type(error)):
        run(world.ask())
    assert world.governor.had_trouble is trouble


@fault(13)
def test_a_run_that_hears_nothing_but_slow_down_ends_when_the_time_is_over() -> None:
    world = World()

    async def scenario() -> None:
        for _ in range(3):  # What is answered in between is heard.
            for _ in range(8):
                world.meets = [ThrottledError("busy")]
                with pytest.raises(ThrottledError):
                    await world.ask()
                world.night.now += 100
            await world.ask()
        for _ in range(10):
            world.meets = [ThrottledError("busy")]
            with pytest.raises(ThrottledError):
                await world.ask()
            world.night.now += 90
        world.meets = [ThrottledError("busy")]
        with pytest.raises(EndpointError, match="busy, for 15 minutes now"):
            await world.ask()

    run(scenario())


@fault(13)
@pytest.mark.parametrize("asked", [None, 7.0])
def test_a_server_that_asks_for_time_has_it_also_where_an_endpoint_that_is_gone_is_not_waited_for(
    asked: float | None,
) -> None:
    world = World([ThrottledError("busy", asked)] * 20, retry_for=0.0)
    assert run(all_of(world, 2)) == [None] * 2
    world.meets = [GONE] * 2
    assert [type(error) for error in run(all_of(world, 1))] == [EndpointError]


@pytest.mark.parametrize("error", [ObjectError(Reason.DENIED, "no"), TransientError("500")])
def test_any_other_answer_is_one(error: NccidFetchError) -> None:
    world = World([GONE, error])

    async def scenario() -> None:
        with pytest.raises(UnreachableError):
            await world.ask()
        with pytest.raises(type(error)):
            await world.ask()

    run(scenario())
    assert not world.governor.is_held
    assert world.governor.answers == 1


@fault(38)
def test_a_server_that_fails_while_credentials_are_waited_for_is_no_word_on_them() -> None:
    world = World([EXPIRED, TransientError("500")])

    async def scenario() -> None:
        with pytest.raises(CredentialsError):
            await world.ask()
        with pytest.raises(TransientError):
            await world.ask()
        assert world.governor.is_held
        await world.ask()
        assert not world.governor.is_held

    run(scenario())
    assert world.renewed == 1, "what was read is still to be tried"


@pytest.mark.parametrize("becomes", ["held", "shut"])
def test_who_waited_for_something_else_does_not_send_past_a_hold_that_came_meanwhile(becomes: str) -> None:
    world = World()
    sent: list[str] = []

    async def scenario() -> None:
        go = asyncio.Event()

        async def send() -> None:
            async with world.governor.request(world.renew, go.wait):  # type: ignore[arg-type]
                sent.append("late")

        late = asyncio.create_task(send())
        await asyncio.sleep(0)
        if becomes == "held":
            with pytest.raises(UnreachableError):
                async with world.governor.request(world.renew):
                    raise GONE
            lead = world.governor.request(world.renew)
            await lead.__aenter__()
        else:
            world.governor.shut(None, 0.0)
        go.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not sent
        if becomes == "held":
            await lead.__aexit__(None, None, None)
        else:
            world.governor.open()
        await late

    run(asyncio.wait_for(scenario(), 10))
    assert sent


@pytest.mark.parametrize("when", ["it sleeps", "it asks"])
def test_who_asks_for_all_and_is_cancelled_leaves_it_to_the_next(when: str) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        night = Night()

        async def sleep(seconds: float) -> None:
            await go.wait()
            await night.sleep(seconds)

        world = World([ThrottledError("busy", 5.0)], night=night)
        world.governor = Governor(type(night.clock)(lambda: night.now, sleep, lambda: 0.5))
        with pytest.raises(ThrottledError):
            await world.ask()
        first = asyncio.create_task(_held_up(world))
        second = asyncio.create_task(world.insist())
        for _ in range(5):
            await asyncio.sleep(0)
        if when == "it asks":
            go.set()
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(world.sent) == 2
        first.cancel()
        go.set()
        await second
        assert not world.governor.is_held

    run(asyncio.wait_for(scenario(), 10))


async def _held_up(world: World) -> None:
    """Send a request that is never answered."""
    async with world.governor.request(world.renew):
        world.sent.append(world.night.now)
        await asyncio.Event().wait()


def test_a_run_that_is_not_held_waits_for_nothing() -> None:
    """Its cost is one look at an attribute: no task, no turn of the loop."""

    async def scenario() -> None:
        world = World()
        entering = world.governor.request(world.renew).__aenter__()
        with pytest.raises(StopIteration):
            entering.__await__().__next__()

    run(scenario())


# Every pair of a reason to be held and what comes then


REASONS: dict[str, NccidFetchError] = {
    "gone": GONE,
    "expired": EXPIRED,
    "wrong": WRONG,
    "slowed": ThrottledError("busy", 1.0),
    "window": WRONG,  # Held for this when the window closes: whose renewal may still be under way.
}
MEETS: dict[str, BaseException | None] = {
    "the lead is answered": None,
    "the lead is denied": ObjectError(Reason.DENIED, "no"),
    "the server fails (5xx)": TransientError("500"),
    "the lead is cancelled": asyncio.CancelledError(),
}
READ: dict[str, bool | NccidFetchError] = {
    "others are read": True,
    "the same are read": False,
    "none are read": CredentialsError("no token in the cache"),
}


def pairs() -> list[tuple[str, str, str]]:
    """The table in the governor's docstring: what comes, why the run is held, what becomes of it."""
    lines = str(governor.__doc__).splitlines()
    begins = next(number for number, line in enumerate(lines) if re.match("Then +gone", line))
    columns = re.split("  +", lines[begins])[1:]
    ends = next(number for number in range(begins + 2, len(lines)) if lines[number].startswith("==="))
    return [
        (cells[0], column, outcome)
        for cells in (re.split("  +", line) for line in lines[begins + 2 : ends])
        for column, outcome in zip(columns, cells[1:], strict=True)
    ]


class Hold(World):
    """A run that is held, whose lead is under way."""

    async def begin(self, why: str) -> None:
        """Hold it. A request that was sent before is still under way, too."""
        self.why = why
        self.release = asyncio.Event()
        self.earlier = self.governor.request(self.renew)
        await self.earlier.__aenter__()
        self.meets = [REASONS[why]]
        with suppress(NccidFetchError):
            await self.ask()

    async def lead(self) -> None:
        """Let one ask for all, and have it under way when the window closes, if that is why the run is held."""
        self.led = self.governor.request(self.renew)
        await self.led.__aenter__()
        self.begun = len(self.events)
        if self.why == "window":
            self.governor.shut(None, 0.0)
            self.begun = len(self.events)

    async def end(self, request: Any, met: BaseException | None) -> None:
        """Let a request that is under way meet something."""
        with suppress(NccidFetchError, asyncio.CancelledError):
            await request.__aexit__(type(met) if met else None, met, None)

    async def read(self, outcome: bool | NccidFetchError) -> str:  # noqa: FBT001
        """Let the lead read the credentials again; under way when the window closes, if that is why the run is held."""
        reading = asyncio.Event()

        async def renew() -> bool:
            reading.set()
            self.begun = len(self.events)
            if self.why == "window":
                self.governor.shut(None, 0.0)
                self.begun = len(self.events)
                await self.release.wait()
            self.renewals = [outcome]
            return await World.renew(self)

        async def send() -> None:
            async with self.governor.request(renew):
                self.sent.append(self.night.now)

        before = len(self.sent)
        asking = asyncio.create_task(send())
        await turns()
        if not reading.is_set():
            await self.settled(asking)
            return "(not read)"
        self.release.set()
        await turns()
        outcome_ = await self.outcome()
        if outcome_ == "goes on" and len(self.sent) == before + 1 and asking.done():
            return "one asks"
        await self.settled(asking)
        return outcome_

    async def settled(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, NccidFetchError):
            raise error  # A defect.

    async def outcome(self) -> str:
        """What has become of the run."""
        if self.governor.has_ended:
            with pytest.raises(RunError):
                await self.ask()
            return "ends"
        if not self.governor.is_held:
            return "goes on"
        held = [event.reason for event in self.events[self.begun :] if isinstance(event, Held)]
        own = {"gone": Wait.ENDPOINT, "slowed": Wait.SLOWED, "window": Wait.WINDOW}.get(self.why, Wait.CREDENTIALS)
        before, self.renewals, now = len(self.sent), [], self.night.now
        asking = asyncio.create_task(self.ask())
        await turns()
        is_sent = len(self.sent) > before
        await self.settled(asking)
        if not held:
            return ("next one asks" if self.sent[-1] == now else "later") if is_sent else "stays shut"
        if held[0] is Wait.WINDOW:
            return "asks" if is_sent else "shut"
        if self.why == "window":
            return f"{held[0]}" if is_sent and self.renewed else "asks without reading"
        return "held on" if held[0] is own else "held for that"


async def turns() -> None:
    """Let everything go as far as it goes."""
    for _ in range(20):
        await asyncio.sleep(0)


@fault(10, 38, 39, 151)
@pytest.mark.parametrize(("comes", "why", "becomes"), [pair for pair in pairs() if pair[2] not in {"(shut)", "(open)"}])
def test_a_pause_ends_as_the_table_has_it(comes: str, why: str, becomes: str) -> None:
    world = Hold()

    async def scenario() -> str:
        await world.begin(why)
        if comes in READ:
            return await world.read(READ[comes])
        await world.lead()
        same = REASONS[why]
        match comes:
            case "the lead meets the same":
                await world.end(world.led, same)
            case "the lead meets another":
                await world.end(world.led, EXPIRED if why in {"gone", "slowed"} else GONE)
            case "an earlier one is answered":
                await world.end(world.earlier, None)
                assert world.governor.is_held
                await world.end(world.led, asyncio.CancelledError())
            case "the time for it is over":
                world.night.now += 86_400.0
                await world.end(world.led, same)
            case "the window closes":
                world.governor.shut(None, 0.0)
            case "the window opens":
                world.renewed = 0
                world.governor.open()
                await world.end(world.led, None)
            case "the run is ended":
                world.governor.end(lambda: RunError("the time is over"))
                await world.end(world.led, same)
            case _:
                await world.end(world.led, MEETS[comes])
        return await world.outcome()

    assert run(asyncio.wait_for(scenario(), 10)) == becomes


@fault(151)
def test_the_first_end_of_a_run_is_the_one_that_is_told() -> None:
    """Also where wrong credentials are read again, and are the same, just then."""
    world = World([WRONG])

    async def scenario() -> None:
        with pytest.raises(CredentialsError):
            await world.ask()

        async def renew() -> bool:
            world.governor.end(lambda: RunError("the time is over"))
            return False

        with pytest.raises(RunError, match="the time is over"):
            async with world.governor.request(renew):
                pass

    run(scenario())


@fault(151)
def test_each_reason_within_a_hold_has_its_own_time() -> None:
    """Credentials that end while the endpoint is gone are waited for as long as any; two that alternate are not for ever."""
    world = World(retry_for=100.0)

    async def scenario() -> None:
        await world.insist_on(GONE)
        world.night.now += 90.0
        await world.insist_on(EXPIRED)
        assert world.holds()[-1].since == 90.0
        world.night.now += 90.0
        await world.insist_on(EXPIRED)
        assert not world.governor.has_ended
        with pytest.raises(EndpointError, match="for 3 minutes now"):
            await world.insist_on(GONE)

    run(scenario())


@fault(151)
@pytest.mark.parametrize("when", ["shut", "ended"])
def test_being_told_to_slow_down_outside_of_the_hours_ends_nothing(when: str) -> None:
    world = World()
    busy = ThrottledError("busy")
    world.governor.slowed(busy)
    if when == "shut":
        world.governor.shut(None, 0.0)
    else:
        world.governor.end(lambda: RunError("the time is over"))
    world.night.now += 3600.0
    world.governor.slowed(busy)
    assert world.governor.has_ended is (when == "ended")


@fault(128)
def test_a_run_that_ends_for_want_of_credentials_says_what_their_provider_lacks() -> None:
    lacking = CredentialsError("the login has expired", "aws sso login --profile site")
    world = World([EXPIRED], renewals=[lacking] * 1000)
    (ended,) = run(all_of(world, 1))
    assert isinstance(ended, AccessError)
    assert ended.message == "the login has expired, for 15 minutes now"
    assert ended.hint == "aws sso login --profile site, then run the same command again; what was verified stays"


@fault(129)
def test_a_provider_has_the_time_that_is_left_of_the_hold() -> None:
    world = World([EXPIRED], retry_for=100.0)
    assert world.governor.seconds_left == 100.0
    with pytest.raises(CredentialsError):
        run(world.ask())
    world.night.now += 70.0
    assert world.governor.seconds_left == 30.0
    world.night.now += 70.0
    assert world.governor.seconds_left == 0.0
    world.governor.shut(None, 0.0)
    assert world.governor.seconds_left == 100.0


@fault(129)
@pytest.mark.parametrize("before", ["", "held", "shut"])
def test_once_the_run_has_ended_a_provider_has_no_time_left(before: str) -> None:
    world = World([EXPIRED])
    if before == "held":
        with pytest.raises(CredentialsError):
            run(world.ask())
    elif before == "shut":
        world.governor.shut(None, 0.0)
    world.governor.end(lambda: EndpointError("it ends"))
    assert world.governor.seconds_left == 0.0


def test_however_often_something_failed_the_pause_is_a_number_and_no_longer_than_the_longest() -> None:
    assert backoff_seconds(10_000, lambda: 1.0) == CAP_SECONDS
