"""Time that passes at once, as far as somebody sleeps: a whole night on one clock, in a second."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from nccid_fetch.clock import Clock


@dataclass
class Night:
    """A clock for a run.

    Attributes:
        now: Seconds since the night began.
    """

    now: float = 0.0
    _due: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def at(self, second: float, callback: Callable[[], object]) -> None:
        """Let something happen at a time."""
        self._due.append((second, callback))

    async def sleep(self, seconds: float) -> None:
        """Let time pass; those who sleep at the same time do so side by side."""
        until = self.now + seconds
        await asyncio.sleep(0)
        for due in sorted(self._due, key=lambda due: due[0]):
            if due[0] <= until:
                self._due.remove(due)
                self.now = max(self.now, due[0])
                due[1]()
        self.now = max(self.now, until)

    @property
    def clock(self) -> Clock:
        """The clock, with a chance that is always the same."""
        return Clock(lambda: self.now, self.sleep, lambda: 0.5)
