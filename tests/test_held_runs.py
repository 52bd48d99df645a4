"""Whole runs through a night that goes wrong: what is gone is waited for, what has expired is read anew."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nccid_fetch.events import Held, LimitSet, Wait
from nccid_fetch.settings import Transport

from .catalogue import fault
from .night import Night
from .oracle import Run, check_tree, fetch, snapshot
from .servers.scripted import Action, Do, Drop, Exchange, Honest, ScriptedS3, Status

BOTH = pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
IN_FLIGHT = 8


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for number in range(40):
            server.put(f"training/data/Covid{number:04}/a.json", f"{number} {'x' * number}".encode())
        yield server


@pytest.fixture
def night() -> Night:
    return Night()


@pytest.fixture
def keys_in_file(s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the file that is the only source of credentials: an access key and a token of this name."""
    path = tmp_path / "credentials"

    def write(name: str) -> None:
        s3.secrets[name] = "s"
        path.write_text(
            f"[default]\naws_access_key_id = {name}\naws_secret_access_key = s\naws_session_token = {name}\n"
        )

    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    write("OLD")
    return write


@dataclass
class Guard:
    """Answers honestly to the token that is good now, and refuses every other one."""

    refusal: Action = field(default_factory=lambda: Status(400, "ExpiredToken"))
    good: str = "OLD"

    async def tell(self, exchange: Exchange) -> None:
        token = exchange.request.headers.get("x-amz-security-token")
        await (Honest() if token == self.good else self.refusal).tell(exchange)

    def turn(self, name: str) -> None:
        self.good = name


def expire(s3: ScriptedS3, after: int, guard: Guard) -> None:
    """After so many GETs only the token NEW is good."""
    s3.script("get", Do(lambda: guard.turn("NEW"), guard), after=after)
    for operation in ("get", "head", "list"):
        s3.script(operation, guard, count=None)


def holds(run: Run, wait: Wait) -> list[Held]:
    return [event for event in run.events if isinstance(event, Held) and event.reason is wait]


# An endpoint that is gone


@BOTH
@fault(9, 10)
def test_an_endpoint_that_is_gone_for_an_hour_is_waited_for_and_no_object_loses_an_attempt(
    s3: ScriptedS3, dest: Path, night: Night, transport: Transport
) -> None:
    s3.script("get", Do(s3.leave), after=10)
    night.at(3600, s3.come_back)
    # Two attempts: one may have been cut off when it went, the other has to last for the hour.
    run = fetch(s3, dest, clock=night.clock, transport=transport, attempts=2, retry_for_seconds=7200.0)
    assert (run.exit_code, run.reasons) == (0, {})
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))
    assert run.tally.retries <= IN_FLIGHT
    assert len(holds(run, Wait.ENDPOINT)) < 300
    assert 3600 <= night.now < 3660


@BOTH
@fault(10, 13)
def test_an_object_that_was_told_to_slow_down_before_and_after_the_endpoint_was_gone_for_an_hour_arrives(
    s3: ScriptedS3, dest: Path, night: Night, transport: Transport
) -> None:
    key = "training/data/Covid0000/a.json"
    s3.script("get", Status(503, "SlowDown"), key=key)
    s3.script("get", Do(s3.leave), key=key, after=1)
    s3.script("get", Status(503, "SlowDown"), key=key, count=2)
    night.at(3600, s3.come_back)
    run = fetch(s3, dest, clock=night.clock, transport=transport, attempts=2, concurrency=1, retry_for_seconds=7200.0)
    assert (run.exit_code, run.reasons) == (0, {})
    assert run.tally.throttled == 3


@fault(10)
def test_an_endpoint_that_does_not_come_back_ends_the_run_when_the_time_is_over(
    s3: ScriptedS3, dest: Path, night: Night
) -> None:
    s3.script("get", Do(s3.leave), after=10)
    run = fetch(s3, dest, clock=night.clock)
    assert run.exit_code == 5
    assert "cannot be reached, for 15 minutes now" in str(run.error)
    assert check_tree(dest, snapshot(s3)) < set(snapshot(s3))
    assert 900 <= night.now < 910


@fault(10, 38)
def test_the_end_of_the_run_is_no_objects_denial(s3: ScriptedS3, dest: Path, night: Night) -> None:
    """What a denial means is asked for, and by then the endpoint is gone for good."""
    key = "training/data/Covid0000/a.json"
    s3.script("get", Status(403, "AccessDenied"), key=key, count=None)
    s3.script("list", Do(s3.leave, Drop()), key=key)
    run = fetch(s3, dest, clock=night.clock, concurrency=1)
    assert (run.exit_code, run.reasons) == (5, {})


@fault(10)
def test_an_endpoint_that_is_gone_before_the_run_is_not_waited_for(s3: ScriptedS3, dest: Path, night: Night) -> None:
    s3.leave()
    run = fetch(s3, dest, clock=night.clock)
    assert (run.exit_code, night.now) == (5, 0)


# Credentials


@BOTH
@fault(38)
def test_a_token_that_expires_is_read_anew_from_its_file_and_all_objects_arrive(
    s3: ScriptedS3, dest: Path, night: Night, keys_in_file: Callable[[str], None], transport: Transport
) -> None:
    expire(s3, 10, Guard())
    night.at(120, lambda: keys_in_file("NEW"))
    run = fetch(s3, dest, clock=night.clock, transport=transport, attempts=1)
    assert (run.exit_code, run.reasons) == (0, {})
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))
    assert len(holds(run, Wait.CREDENTIALS)) > 1
    gets = [seen for seen in s3.requests if seen.operation == "get"]
    refused = [seen for seen in gets if seen.headers.get("x-amz-security-token") == "OLD"][10:]
    assert len(refused) <= 2 * IN_FLIGHT + len(holds(run, Wait.CREDENTIALS)), "one at a time asks whether it is over"
    assert 120 <= night.now < 150


@fault(38)
def test_a_token_that_nobody_renews_ends_the_run_with_4_when_the_time_is_over(
    s3: ScriptedS3, dest: Path, night: Night, keys_in_file: Callable[[str], None]
) -> None:
    expire(s3, 10, Guard())
    run = fetch(s3, dest, clock=night.clock)
    assert run.exit_code == 4
    assert "the credentials have expired" in str(run.error)
    assert "for 15 minutes now" in str(run.error)
    assert "run the same command again" in str(run.error.hint if run.error else "")
    assert 900 <= night.now < 910
    assert 0 < len(check_tree(dest, snapshot(s3))) < 40
    keys_in_file("NEW")
    again = fetch(s3, dest, clock=night.clock)
    assert (again.exit_code, again.tally.skipped.objects) == (0, run.tally.fetched.objects)


@fault(38)
def test_a_head_that_is_refused_without_a_word_for_an_expired_token_is_no_denial(
    s3: ScriptedS3, dest: Path, night: Night, keys_in_file: Callable[[str], None]
) -> None:
    key = "training/data/Covid0000/a.json"
    s3.put(key, b"12", parts=[1, 1])
    guard = Guard(good="NEW")
    s3.script("get", Do(lambda: keys_in_file("NEW")), key=key)
    s3.script("head", guard, count=None)
    s3.script("list", guard, key=key, count=None)
    run = fetch(s3, dest, clock=night.clock)
    assert (run.exit_code, run.reasons) == (0, {})


@BOTH
@fault(39)
@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_keys_that_are_revoked_end_the_run_at_once(
    s3: ScriptedS3, dest: Path, night: Night, transport: Transport, code: str
) -> None:
    s3.script("get", Status(403, code), after=10, count=None)
    run = fetch(s3, dest, clock=night.clock, transport=transport)
    assert (run.exit_code, night.now) == (4, 0)
    assert s3.gets() <= 10 + 2 * IN_FLIGHT, "what was in flight"


@fault(39)
def test_keys_that_were_exchanged_are_no_reason_to_end(
    s3: ScriptedS3, dest: Path, night: Night, keys_in_file: Callable[[str], None]
) -> None:
    guard = Guard(Status(403, "InvalidAccessKeyId"))
    s3.script("get", Do(lambda: keys_in_file("NEW"), Do(lambda: guard.turn("NEW"), guard)), after=9)
    s3.script("get", guard, count=None)
    s3.script("list", guard, count=None)
    run = fetch(s3, dest, clock=night.clock, concurrency=1, attempts=1)
    assert (run.exit_code, run.reasons) == (0, {})
    assert night.now == 0


# Being told to slow down


@BOTH
@fault(13)
def test_nobody_asks_again_before_the_time_that_a_server_names(
    s3: ScriptedS3, dest: Path, night: Night, transport: Transport
) -> None:
    times: list[float] = []
    s3.script("get", Status(429, "TooManyRequests", headers={"Retry-After": "60"}), after=5)
    s3.script("get", Do(lambda: times.append(night.now)), count=None)
    run = fetch(s3, dest, clock=night.clock, transport=transport, attempts=1)
    assert (run.exit_code, run.tally.throttled) == (0, 1)
    assert len([second for second in times if second < 60]) <= IN_FLIGHT + 5, "what was in flight"
    assert len(holds(run, Wait.SLOWED)) == 1


@BOTH
@fault(13)
def test_a_server_that_allows_so_many_requests_a_second_gets_no_more_and_no_object_fails(
    s3: ScriptedS3, dest: Path, night: Night, transport: Transport
) -> None:
    @dataclass
    class Quota:
        seconds: dict[int, int] = field(default_factory=dict)

        async def tell(self, exchange: Exchange) -> None:
            second = int(night.now)
            self.seconds[second] = self.seconds.get(second, 0) + 1
            answer: Action = Honest() if self.seconds[second] <= 5 else Status(503, "SlowDown")
            await answer.tell(exchange)

    s3.script("get", Quota(), count=None)
    run = fetch(s3, dest, clock=night.clock, transport=transport, attempts=1)
    assert (run.exit_code, run.reasons) == (0, {})
    limits = [event for event in run.events if isinstance(event, LimitSet)]
    assert min(event.objects for event in limits) < IN_FLIGHT
    assert {event.of for event in limits} == {IN_FLIGHT}
    assert night.now < 40 / 5 / 0.5


# Time


@fault(41)
def test_a_clock_that_jumps_by_a_day_disturbs_nothing(
    s3: ScriptedS3, dest: Path, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of day is for signatures alone."""
    s3.has_clock = False
    days = iter(range(1000))
    monkeypatch.setattr("nccid_fetch.store.fast.time", lambda: 1.6e9 + 86_400 * (next(days) % 3))
    run = fetch(s3, dest, clock=night.clock, transport=Transport.FAST)
    assert (run.exit_code, run.tally.retries, night.now) == (0, 0, 0)
    assert len({seen.headers["x-amz-date"][:8] for seen in s3.requests if seen.operation == "get"}) == 3
    assert fetch(s3, dest).tally.skipped.objects == 40


@fault(11, 12)
def test_what_waits_for_its_turn_is_not_signed_yet(
    s3: ScriptedS3, dest: Path, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature is good for a quarter of an hour, and nobody may use it up in a queue."""
    s3.has_clock = False
    monkeypatch.setattr("nccid_fetch.store.fast.time", lambda: 1.6e9 + night.now)

    def later() -> None:
        night.now += 1000

    signed: list[tuple[str, float]] = []

    @dataclass
    class Slow:
        async def tell(self, exchange: Exchange) -> None:
            signed.append((exchange.request.headers["x-amz-date"], night.now))
            later()
            await Honest().tell(exchange)

    s3.script("get", Slow(), count=None)
    assert fetch(s3, dest, clock=night.clock, transport=Transport.FAST, concurrency=1).exit_code == 0
    assert len({date for date, _ in signed}) == len(signed) == 40
