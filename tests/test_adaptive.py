"""How many objects in flight are found to be worth it, on servers and networks that are simulated with their clock."""

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.adaptive import LIMIT_FIRST, LIMIT_MAX, LIMIT_MIN, SLOWED, SLOWED_SECONDS, AdaptiveLimit

GBIT = 125e6
CHUNK = 256 << 10
SWEEP = (16, 64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class World:
    """What lies between a request and its object. Each step but the first serves one after another.

    Attributes:
        latency: Seconds to the first byte, on average; a new connection takes as long again.
        jitter: How uneven that is: the standard deviation of its logarithm.
        slower: By how much all requests take longer, by the time.
        refused_above: Requests a second, by the time, from which on the server says to slow down.
        link: Bytes per second of the line; chunks of all bodies take turns.
        stream: Bytes per second of one connection.
        client: Objects per second that the client can deal with.
    """

    latency: float = 0.04
    jitter: float = 0.15
    slower: Callable[[float], float] = lambda _: 1.0
    refused_above: Callable[[float], float] = lambda _: math.inf
    link: float = math.inf
    stream: float = math.inf
    client: float = 4000.0


@dataclass
class Flight:
    """What came of it: when objects arrived, what the limit was then, and how many requests were refused."""

    arrivals: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    requests: int = 0
    refused: int = 0

    @property
    def rate(self) -> float:
        return len(self.arrivals) / self.arrivals[-1]

    def rate_between(self, begin: float, end: float) -> float:
        return sum(begin <= time < end for time in self.arrivals) / (end - begin)

    @property
    def usual_limit(self) -> float:
        """The limit in the second half, probes aside."""
        return median(self.limits[len(self.limits) // 2 :])


class _Simulation:
    """A client that keeps as many objects in flight as it may, until there are no more."""

    def __init__(self, world: World, sizes: list[int], limit: int | AdaptiveLimit, seed: int) -> None:
        self.world, self.sizes, self.limit = world, iter(sizes), limit
        self.random = random.Random(seed)
        self.flight = Flight()
        self.steps: list[tuple[float, int, Callable[[float], None]]] = []
        self.order = count()
        self.in_flight = self.connections = 0
        self.link_free = self.client_free = 0.0
        self.tokens, self.tokens_at = 0.0, 0.0

    def run(self) -> Flight:
        self.fill(0.0)
        while self.steps:
            now, _, step = heapq.heappop(self.steps)
            step(now)
        return self.flight

    def at(self, time: float, step: Callable[[float], None]) -> None:
        heapq.heappush(self.steps, (time, next(self.order), step))

    def fill(self, now: float) -> None:
        while self.in_flight < (self.limit if isinstance(self.limit, int) else self.limit.limit):
            size = next(self.sizes, None)
            if size is None:
                return
            self.in_flight += 1
            fresh = self.in_flight > self.connections
            self.connections += fresh
            self.request(now + fresh * self.world.latency, size, now)

    def request(self, now: float, size: int, began: float, attempt: int = 0) -> None:
        world = self.world
        uneven = self.random.lognormvariate(-(world.jitter**2) / 2, world.jitter)
        self.at(now + world.latency * world.slower(now) * uneven, lambda then: self.answer(then, size, began, attempt))

    def answer(self, now: float, size: int, began: float, attempt: int) -> None:
        self.flight.requests += 1
        most = self.world.refused_above(now)
        if most < math.inf:
            self.tokens = min(most / 10, self.tokens + (now - self.tokens_at) * most)
            self.tokens_at = now
            if self.tokens < 1:
                self.flight.refused += 1
                if isinstance(self.limit, AdaptiveLimit):
                    self.limit.throttled(now)
                pause = min(20.0, 0.2 * 2**attempt) * (0.5 + self.random.random() / 2)
                self.at(now + pause, lambda then: self.request(then, size, began, attempt + 1))
                return
            self.tokens -= 1
        self.send(now, size, size, began)

    def send(self, now: float, left: int, size: int, began: float) -> None:
        chunk = min(left, CHUNK)
        self.link_free = max(self.link_free, now) + chunk / self.world.link
        sent = max(self.link_free, now + chunk / self.world.stream)
        self.at(
            sent,
            lambda then: self.send(then, left - chunk, size, began) if left > chunk else self.take(then, size, began),
        )

    def take(self, now: float, size: int, began: float) -> None:
        self.client_free = max(self.client_free, now) + 1 / self.world.client
        self.at(self.client_free, lambda then: self.end(then, size, began))

    def end(self, now: float, size: int, began: float) -> None:
        if isinstance(self.limit, AdaptiveLimit):
            self.limit.finished(size, began, now, self.in_flight)
        self.in_flight -= 1
        self.flight.arrivals.append(now)
        self.flight.limits.append(self.limit if isinstance(self.limit, int) else self.limit.limit)
        self.fill(now)


def simulate(world: World, sizes: list[int], limit: int | AdaptiveLimit | None = None, seed: int = 1) -> Flight:
    """Fetch objects of these sizes; without a limit, with one that is found out."""
    return _Simulation(world, sizes, limit or AdaptiveLimit(), seed).run()


def best_of_sweep(world: World, sizes: list[int]) -> float:
    return max(simulate(world, sizes, limit).rate for limit in SWEEP)


def metadata(number: int) -> list[int]:
    """Sizes of metadata files."""
    chance = random.Random(number)
    return [chance.randrange(8_000, 24_000) for _ in range(number)]


def slices(number: int) -> list[int]:
    """Sizes of CT slices."""
    chance = random.Random(number)
    return [round(chance.gauss(525_000, 20_000)) for _ in range(number)]


def xrays(number: int) -> list[int]:
    chance = random.Random(number)
    return [chance.randrange(5_000_000, 15_000_000) for _ in range(number)]


def shuffled(*sizes: list[int]) -> list[int]:
    mixed = [size for some in sizes for size in some]
    random.Random(len(mixed)).shuffle(mixed)
    return mixed


# Throughput, the ramp included.


@pytest.mark.parametrize("client", [4000.0, 1000.0])
def test_with_40_ms_to_the_first_byte_it_reaches_nine_tenths_of_the_best_fixed_number(client: float) -> None:
    world, sizes = World(client=client), metadata(20_000)
    best = best_of_sweep(world, sizes)
    for seed in range(3):
        assert simulate(world, sizes, seed=seed).rate >= 0.9 * best


@pytest.mark.parametrize(
    ("world", "sizes"),
    [
        (World(jitter=0.6), metadata(20_000)),
        (World(link=GBIT, stream=80e6), slices(3000)),
        (World(link=10 * GBIT, stream=80e6, client=1500), slices(8000)),
        (World(link=10 * GBIT, stream=80e6), xrays(1000)),
        (World(link=10 * GBIT, stream=80e6), shuffled(metadata(6000), slices(6000), xrays(100))),
        (World(link=GBIT / 20), metadata(4000)),
    ],
    ids=["uneven", "slices, 1 Gbit/s", "slices, 10 Gbit/s", "X-rays", "a mixture", "a slow line"],
)
def test_so_it_does_where_something_else_is_the_bottleneck(world: World, sizes: list[int]) -> None:
    assert simulate(world, sizes).rate >= 0.9 * best_of_sweep(world, sizes)


# Not more in flight than that takes.


@pytest.mark.parametrize(
    ("world", "sizes", "knee"),
    [
        (World(), metadata(40_000), 0.04 * 4000),
        (World(client=1000), metadata(20_000), 0.04 * 1000),
        (World(latency=0.005, client=1000), metadata(20_000), 0.006 * 1000),
        (World(link=GBIT, stream=80e6), slices(6000), (0.04 + 525e3 / 80e6) * GBIT / 525e3),
    ],
    ids=["client", "slow client", "slow client, near server", "line"],
)
def test_it_settles_between_the_knee_and_twice_that(world: World, sizes: list[int], knee: float) -> None:
    assert knee <= simulate(world, sizes).usual_limit <= 2 * knee


def test_where_nothing_queues_it_grows_to_its_bound() -> None:
    flight = simulate(World(client=1e6), metadata(40_000))
    assert flight.usual_limit == max(flight.limits) == LIMIT_MAX


# Being told to slow down.


@pytest.mark.parametrize("most", [500.0, 2000.0])
def test_few_requests_are_refused_and_what_the_server_allows_is_used(most: float) -> None:
    flight = simulate(World(refused_above=lambda _: most), metadata(20_000))
    assert flight.refused <= 0.05 * flight.requests
    assert flight.rate >= 0.9 * most


def test_a_server_that_no_longer_refuses_is_used_again() -> None:
    flight = simulate(World(refused_above=lambda now: 300.0 if now < 5 else math.inf), metadata(30_000))
    assert flight.rate_between(1, 5) == pytest.approx(300, rel=0.2)
    assert flight.rate_between(9, 11) >= 0.9 * 4000


def test_being_told_so_by_many_at_once_is_being_told_once() -> None:
    limit = AdaptiveLimit()
    for tenth in range(5):
        limit.throttled(100 + tenth * SLOWED_SECONDS / 10)
    assert limit.limit == round(LIMIT_FIRST * SLOWED)
    limit.throttled(100 + SLOWED_SECONDS)
    assert limit.limit == round(round(LIMIT_FIRST * SLOWED) * SLOWED)


def test_being_told_during_a_probe_counts_from_what_is_probed() -> None:
    limit = AdaptiveLimit()
    whole = next(before for before, after in pairwise(_limits(limit)) if after == round(before / 2))
    limit.throttled(1e6)
    assert limit.limit == round(whole * SLOWED)


def _limits(limit: AdaptiveLimit) -> Iterator[int]:
    """Every limit that a server sets that serves one after another, as it comes about."""
    yield limit.limit
    for number in count():
        now = number / 1000
        limit.finished(15_000, now - limit.limit / 1000, now, limit.limit)
        yield limit.limit


# What changes on the way.


def test_sizes_that_change_from_minute_to_minute_are_not_taken_for_trouble() -> None:
    sizes = [size for _ in range(3) for size in [*metadata(6000), *slices(1500)]]
    for world in (World(link=GBIT, stream=80e6), World(link=10 * GBIT, stream=80e6)):
        assert simulate(world, sizes).rate >= 0.9 * best_of_sweep(world, sizes)


def test_a_while_in_which_all_is_slower_does_not_make_it_shrink() -> None:
    flight = simulate(World(slower=lambda now: 3.0 if 3 <= now < 6 else 1.0), metadata(40_000))
    slow = [limit for limit, time in zip(flight.limits, flight.arrivals, strict=True) if 4 <= time < 6]
    assert median(slow) >= 1.5 * 160
    assert flight.rate_between(7, 9) >= 0.9 * 4000


def arrive(
    limit: AdaptiveLimit, begin: float, until: float, *, size: int, seconds: float, in_flight: int | None = None
) -> Iterator[int]:
    """Let objects of one kind come in evenly, each in so many seconds; yield the limits."""
    now = begin
    while now < until:
        taken = in_flight or limit.limit
        now += seconds / taken
        limit.finished(size, now - seconds, now, taken)
        yield limit.limit


def test_other_sizes_with_other_times_are_no_trouble_at_all() -> None:
    limit = AdaptiveLimit()
    assert list(arrive(limit, 0, 1, size=15_000, seconds=0.04))[-1] == LIMIT_MAX
    assert set(arrive(limit, 1, 2, size=10_000_000, seconds=0.5)) == {LIMIT_MAX}


def test_what_is_slow_has_its_say_before_anything_is_decided() -> None:
    """A third of the slots has quick objects, which alone have come so far; X-rays are in the others."""
    limit = AdaptiveLimit()
    for number in range(4000):
        now = number / 400
        limit.finished(15_000, now - 0.05, now, LIMIT_FIRST)
        assert limit.limit == LIMIT_FIRST
    for _ in range(40):
        limit.finished(10_000_000, 0, 10, LIMIT_FIRST)
    assert limit.limit > LIMIT_FIRST


def test_at_its_lowest_it_does_not_stay_for_having_known_better_times() -> None:
    limit = AdaptiveLimit()
    for told in range(20):
        limit.throttled(float(told))
    assert limit.limit == LIMIT_MIN
    assert max(arrive(limit, 20, 21, size=15_000, seconds=0.04)) == LIMIT_MIN
    assert list(arrive(limit, 21, 121, size=15_000, seconds=0.4))[-1] >= LIMIT_FIRST


@pytest.mark.parametrize("in_flight", [4, 50])
def test_slots_that_stand_empty_say_nothing(in_flight: int) -> None:
    """The listing is behind, and does not bring as many as might be in flight."""
    assert set(arrive(AdaptiveLimit(), 0, 10, size=15_000, seconds=0.04, in_flight=in_flight)) == {LIMIT_FIRST}


# Always.


def test_it_begins_where_a_fixed_number_would() -> None:
    assert AdaptiveLimit().limit == 64


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1 << 33),
            st.floats(0, 1e5, allow_nan=False),
            st.floats(0, 2),
            st.integers(1, 200),
            st.integers(0, 30),
        ),
        max_size=60,
    )
)
def test_whatever_comes_the_limit_keeps_within_its_bounds(
    arrivals: list[tuple[int, float, float, int, int]],
) -> None:
    limit, now = AdaptiveLimit(), 0.0
    for size, seconds, pause, times, told in arrivals:
        now += pause
        for _ in range(times):
            limit.finished(size, now - seconds, now, limit.limit)
            assert LIMIT_MIN <= limit.limit <= LIMIT_MAX
        for number in range(told):
            limit.throttled(now + number)
            assert LIMIT_MIN <= limit.limit <= LIMIT_MAX
