"""`--concurrency auto`: how many objects may be in flight, found out from those that arrive.

Objects in flight are the rate of arrivals times the seconds each takes (Little's law). As long as more in flight does
not make each take longer, it brings more; from some point on, the knee, it only makes each wait: for the network, the
server, the disk or this process, all the same. So the one thing to know is by how much objects are slower than they
need be, and the rule is::

    limit := limit × least time / present time × HEADROOM

which, below the knee, makes the limit grow by HEADROOM each time, and comes to rest at HEADROOM times the knee.

Times are those of a whole object, from its slot to its proof, for any step of it may be the narrow one; and they are
compared within a class of sizes (each twice as large as the one before), never across: when the listing turns from
15 KB files to X-rays, bytes and objects per second jump, and neither says that anything is wrong. The least time of a
class is what it took when last the limit was low, which is seen to on purpose: a *probe* halves the limit for one
window. A rise in times alone is not believed to be of our making; it has to go away when fewer are in flight.

===================================  ==============================================================================
In a window of objects               Then
===================================  ==============================================================================
the rule asks for a fifth more       the limit follows, at most by HEADROOM
the rule asks for a quarter less     a probe: is it because there are too many, or is all slower just now?
it is about right                    it stays; now and then a probe, ever more seldom while all is well
a probe: times fell with the limit   the half was still too many: it stays at the half, and that is probed in turn
a probe: they fell less, or did not  back to the whole
told to slow down                    a fifth less at once, and no more than that for half a second; then growth
                                     begins anew at a hundredth a window, and gathers pace
slots stood empty                    nothing: what is not used up says nothing about its limit
the run was held, or --bwlimit held  nothing: what an object waited for then was no place
an object back
===================================  ==============================================================================

A window lasts until as many objects as may be in flight have come since the limit last changed, and their times
account for half of all slots' time: so slow objects have their say beside quick ones. Clock, chance and loop are kept
out of it; the same arrivals give the same limits. The numbers below were chosen on simulated servers, which
`tests/test_adaptive.py` has; none is a cliff.
"""

LIMIT_FIRST = 64
"""What a fixed number is by default: no run begins slower for having chosen auto."""
LIMIT_MIN = 4
LIMIT_MAX = 512
HEADROOM = 1.5
"""How far above the knee: arrivals are uneven, and with no object in reserve something would stand idle."""
GROW_ABOVE, PROBE_BELOW = 1.2, 0.75
"""What lies between is noise."""
SATURATED = 0.55
"""Half as many in flight, and hardly more than half the time: so also at the half objects wait."""
PROBE_WINDOWS_FIRST, PROBE_WINDOWS_MAX = 8, 64
"""Windows between two probes, doubling. A probe costs up to half of what a window brings."""
WINDOW_OBJECTS = 50
WINDOW_SECONDS = 0.1
SLOWED = 0.8
SLOWED_SECONDS = 0.5
"""Requests that were under way will be refused as well: that is the same word, not another one."""
CAUTION, CAUTION_GROWTH = 0.01, 1.2
"""Growth in the first window after that, and by how much each further one may exceed the one before."""


class GivenLimit:
    """A number that was given: kept to, but for the time after being told to slow down.

    Then it is a fifth less at once, as above, and one more again each time that as many objects have come in peace as
    may be in flight.

    Attributes:
        limit: How many objects may be in flight: from LIMIT_MIN, or the number if that is less, to the number.

    Args:
        number: What was given.
    """

    def __init__(self, number: int) -> None:
        self.limit = self._number = number
        self._came = 0
        self._changed = self._told_until = float("-inf")

    @property
    def is_at_rest(self) -> bool:
        """Whether it is what was given, so that objects that arrive say nothing about it."""
        return self.limit == self._number

    def finished(self, size: int, began: float, now: float, in_flight: int) -> None:  # noqa: ARG002 - as below.
        """Take note of an object that arrived; see `AdaptiveLimit.finished`."""
        if began < self._changed or self.is_at_rest:
            return
        self._came += 1
        if self._came >= self.limit:
            self._came = 0
            self.limit += 1

    def disturbed(self, now: float) -> None:
        """Take note of an object that had to wait, which says nothing against the number that was given."""

    def throttled(self, now: float) -> None:
        """Take note of having been told to slow down; see `AdaptiveLimit.throttled`."""
        if now < self._told_until:
            return
        self._told_until = now + SLOWED_SECONDS
        self._changed, self._came = now, 0
        self.limit = max(min(LIMIT_MIN, self._number), int(self.limit * SLOWED))


Times = dict[int, float]
"""Seconds that an object takes, by class of sizes."""


class AdaptiveLimit:
    """The limit, as it is found out.

    Attributes:
        limit: How many objects may be in flight, from LIMIT_MIN to LIMIT_MAX.
        is_at_rest: Never: each object that arrives says something.
    """

    is_at_rest = False

    def __init__(self) -> None:
        self.limit = LIMIT_FIRST
        self._least: Times = {}
        self._usual: Times = {}  # When not probing.
        self._whole: int | None = None  # What the limit was before it was halved, during a probe.
        self._probe_windows = self._until_probe = PROBE_WINDOWS_FIRST
        self._growth_max = HEADROOM - 1
        self._told_until = float("-inf")
        self._changed = float("-inf")
        self._since: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._counts: dict[int, int] = {}
        self._sums: Times = {}
        self._objects = 0
        self._seconds = 0.0

    def finished(self, size: int, began: float, now: float, in_flight: int) -> None:
        """Take note of an object that arrived.

        Args:
            size: Its bytes.
            began: Seconds on any clock, when it got its slot.
            now: Seconds on that clock.
            in_flight: How many were in flight, this one among them.
        """
        if self._since is None:
            self._since = began
        if began < self._changed:
            return
        if in_flight < 0.9 * self.limit:
            self._restart(now)
            return
        kind, seconds = size.bit_length(), now - began
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._sums[kind] = self._sums.get(kind, 0.0) + seconds
        self._objects += 1
        self._seconds += seconds
        elapsed = now - self._since
        if (
            elapsed >= WINDOW_SECONDS
            and self._objects >= max(self.limit, WINDOW_OBJECTS)
            and self._seconds >= self.limit * elapsed / 2
        ):
            self._decide(now)
            self._restart(now)

    def disturbed(self, now: float) -> None:
        """Take note of an object that had to wait for something else: of its time nothing can be learned, nor of this window.

        Args:
            now: Seconds on the clock of `finished`.
        """
        self._restart(now)

    def throttled(self, now: float) -> None:
        """Take note of having been told to slow down.

        Args:
            now: Seconds on the clock of `finished`.
        """
        if now < self._told_until:
            return
        self._told_until = now + SLOWED_SECONDS
        self._growth_max = CAUTION
        self._set((self._whole or self.limit) * SLOWED, now)
        self._whole = None
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._since = now
        self._clear()

    def _set(self, limit: float, now: float) -> None:
        before, self.limit = self.limit, max(LIMIT_MIN, min(LIMIT_MAX, round(limit)))
        if self.limit != before:
            self._changed = now

    def _decide(self, now: float) -> None:
        times = {kind: self._sums[kind] / count for kind, count in self._counts.items()}
        if self._whole is None:
            self._usual |= times
            self._least = times | self._least
            self._follow(times, now)
        else:
            self._least |= times
            self._conclude(times, self._whole, now)
        self._growth_max = min(HEADROOM - 1, self._growth_max * CAUTION_GROWTH)

    def _follow(self, times: Times, now: float) -> None:
        """Do as the rule asks, or probe whether it is right."""
        if self.limit == LIMIT_MIN:
            self._least |= times  # It cannot be lower, so these are the least there are.
        factor = HEADROOM * self._ratio(self._least, times)
        if factor > GROW_ABOVE and self.limit < LIMIT_MAX:
            self._set(self.limit * min(factor, 1 + self._growth_max), now)
            return
        self._until_probe -= 1
        if (factor < PROBE_BELOW or self._until_probe <= 0) and self.limit > LIMIT_MIN:
            self._probe(now)

    def _probe(self, now: float) -> None:
        self._whole = self.limit
        self._set(self.limit / 2, now)

    def _conclude(self, times: Times, whole: int, now: float) -> None:
        """End a probe."""
        if self._ratio(times, self._usual) < SATURATED and self.limit > LIMIT_MIN:
            self._usual |= times
            self._probe_windows = PROBE_WINDOWS_FIRST
            self._probe(now)
            return
        self._whole = None
        self._set(whole, now)
        self._until_probe = self._probe_windows
        self._probe_windows = min(2 * self._probe_windows, PROBE_WINDOWS_MAX)

    def _ratio(self, times: Times, others: Times) -> float:
        """Compare times on the window's mixture of sizes: the sum of the ones by the sum of the others."""
        kinds = self._counts.keys() & times.keys() & others.keys()
        mine = sum(self._counts[kind] * times[kind] for kind in kinds)
        theirs = sum(self._counts[kind] * others[kind] for kind in kinds)
        return mine / theirs if theirs else 1.0
