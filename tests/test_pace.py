"""A body that trickles is given up, and one that our own disk holds up is not: which it is depends on whose time it was."""

from typing import Any

import pytest

from nccid_fetch.errors import TransientError
from nccid_fetch.store.pace import SLOW_BYTES_PER_SECOND, SLOW_SECONDS, Pace
from nccid_fetch.store.protocol import CHUNK_BYTES
from nccid_fetch.store.reactor import Buffers, Exchange
from nccid_fetch.store.reference import _ReferenceBody

from .catalogue import fault
from .conftest import run

MINUTE = int(SLOW_SECONDS)


def given_up(bytes_per_second: list[int], *, every: int = 1) -> int | None:
    """Return the second in which a body is given up that came at these rates, if it is."""
    pace, received = Pace(), 0
    for second, size in enumerate(bytes_per_second, 1):
        received += size
        if second % every == 0 and pace.is_too_slow(float(second), received):
            return second
    return None


@fault(8)
def test_a_body_is_given_up_after_a_minute_below_the_floor_and_not_before() -> None:
    floor = SLOW_BYTES_PER_SECOND
    assert given_up([floor - 1] * 2 * MINUTE) == MINUTE
    assert given_up([floor] * 100 * MINUTE) is None
    assert given_up([0] * (MINUTE - 1) + [floor * (MINUTE + 4)] + [0] * (MINUTE - 10)) is None, "it came, all at once"


@fault(8)
def test_what_came_quickly_before_is_no_excuse() -> None:
    """The minute slides: a body of any size that begins to trickle has a minute from then."""
    ended = given_up([10 << 20] * 5 * MINUTE + [1] * 2 * MINUTE)
    assert ended is not None
    assert 6 * MINUTE <= ended <= 6 * MINUTE + 4


def test_what_is_looked_at_seldom_is_judged_alike() -> None:
    assert given_up([1] * 3 * MINUTE, every=7) == 63
    assert given_up([SLOW_BYTES_PER_SECOND] * 10 * MINUTE, every=7) is None


def test_it_remembers_no_more_than_a_minute() -> None:
    pace = Pace()
    for step in range(100_000):
        pace.is_too_slow(step / 100, step << 20)
    assert len(pace._marks) <= 18


class Line:
    """A body on a clock that its sender and its taker move on."""

    def __init__(self, seconds_per_read: float, size: int) -> None:
        self.now, self.seconds_per_read, self.size = 0.0, seconds_per_read, size

    async def read(self, _: int) -> bytes:
        self.now += self.seconds_per_read
        return bytes(self.size)

    def body(self) -> Any:
        answer = {"ETag": '"x"', "ContentLength": 1 << 40, "ResponseMetadata": {"HTTPHeaders": {}}}
        return _ReferenceBody(answer, self, "here", expected=1 << 40, whole=False, now=lambda: self.now)


@fault(8, 99)
@pytest.mark.parametrize(
    ("line", "seconds_to_write", "comes"),
    [(Line(0.1, CHUNK_BYTES), 3600.0, True), (Line(10.0, 1000), 0.0, False)],
    ids=["our disk is slow", "it trickles"],
)
def test_only_time_that_was_waited_for_the_network_counts(line: Line, seconds_to_write: float, comes: bool) -> None:  # noqa: FBT001
    async def take() -> int:
        taken = 0
        async for _ in line.body().chunks():
            line.now += seconds_to_write
            taken += 1
            if taken == 50:
                break
        return taken

    if comes:
        assert run(take()) == 50
    else:
        with pytest.raises(TransientError, match="less than 1024 bytes a second"):
            run(take())


@fault(99)
def test_a_sender_that_is_held_up_does_not_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("nccid_fetch.store.reactor.monotonic", lambda: now)
    exchange = Exchange("http://127.0.0.1", [], whole=-2, room=4, buffers=Buffers(8))
    exchange.begin(Handle(), lambda _: None)
    assert exchange._on_body(b"1234") is None
    assert exchange._on_body(b"5") is not None, "a chunk waits to be taken: the sender is held up"
    now = 1000.0
    assert not exchange.trickles(now)
    exchange.unpause(now)
    assert not exchange.trickles(now + SLOW_SECONDS - 1)
    assert exchange.trickles(now + SLOW_SECONDS)


class Handle:
    """A handle of libcurl that takes every option."""

    def setopt(self, *_: object) -> None:
        pass
