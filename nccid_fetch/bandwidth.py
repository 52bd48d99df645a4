"""`--bwlimit`: so many bytes a second for everything that a run receives, by the clock on the wall.

Bytes are counted on one line. Whoever wants some takes the next ones on it and waits until they are served, which
happens at the rate that holds: so whoever came first is served first, and a change of the rate is one for all who wait.
What nobody wants is not saved up, but for a tenth of a second's worth. What was received without being asked for is owed:
it stands on the line before whoever comes next.

Over any minute that is the rate, but for what is taken at once: at most `piece` bytes, which is a second's worth.
"""

from .clock import REAL, Clock
from .events import RateSet, Report
from .timetable import Timetable, seconds_to

BURST_SECONDS = 0.1
PIECE_SECONDS = 1.0
LOOK_SECONDS = 1.0
"""How often the clock on the wall is looked at: it may be set, and a machine that slept wakes up at another hour. Who waits does
not sleep longer either."""
_SLEEP_SECONDS_MIN = 0.001


class Bandwidth:
    """The bytes that may come, and who waits for them. All of it happens on one event loop.

    Attributes:
        rate: Bytes per second that may come now; None for any number.
        is_off: Whether the timetable is put aside for the time being.
        waited_at: When, on the clock, somebody last had to wait.
        report: Who wants to know of a change.

    Args:
        timetable: Which rate holds when.
        clock: Time: of the day, and the one that only goes forward.
    """

    def __init__(self, timetable: Timetable, clock: Clock = REAL) -> None:
        self.rate: int | None = None
        self.is_off = False
        self.waited_at = float("-inf")
        self.report: Report = lambda _: None
        self._timetable = timetable
        self._clock = clock
        self._taken = self._served = 0.0
        self._marked = clock.now()
        self._look_at = float("-inf")

    def piece(self, wanted: int) -> int:
        """Return how many of the bytes that are wanted may be taken at once."""
        self._advance()
        return wanted if self.rate is None else min(wanted, int(self.rate * PIECE_SECONDS))

    async def take(self, size: int) -> None:
        """Take bytes before they are received, and wait until they are served. Who gives up waiting has spent them."""
        self._advance()
        place = self._taken
        self._taken += size
        while self.rate is not None and self._served < place:
            self.waited_at = now = self._clock.now()
            pause = min((place - self._served) / self.rate, self._look_at - now)
            await self._clock.sleep(max(pause, _SLEEP_SECONDS_MIN))
            self._advance()

    def owe(self, size: int) -> None:
        """Take bytes that were received already; or give back, by a negative number, what was taken and did not come."""
        self._advance()
        if size > 0:
            self._taken += size
        else:  # Whoever waits moves up. Were the line made shorter, they would stand beyond its end, which nobody ever reaches.
            self._served -= size

    def toggle(self) -> None:
        """Put the timetable aside, or go by it again. Whoever waits learns of it within a second."""
        self._advance()
        self.is_off = not self.is_off
        self._look(self._clock.now())

    def _advance(self) -> None:
        """Serve what has become due since the last time, and look at the clock on the wall if that is due."""
        now = self._clock.now()
        if self.rate is None:
            self._served = self._taken
        else:
            self._served += self.rate * (now - self._marked)
        self._marked = now
        if now >= self._look_at:
            self._look(now)
        if self.rate is not None:
            self._served = min(self._served, self._taken + self.rate * BURST_SECONDS)

    def _look(self, now: float) -> None:
        local = self._clock.local()
        rate = None if self.is_off else self._timetable.rate_at(local)
        self._look_at = now + min(LOOK_SECONDS, seconds_to(self._timetable.changes_at(local), local))
        if rate != self.rate:
            self.rate = rate
            self.report(RateSet(rate))
