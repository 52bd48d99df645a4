"""The places for objects in flight: the one that says how many there may be, and who waits for one.

A place that falls free goes straight to whoever has waited longest. So as long as anyone waits, none is free, and
whoever finds one free takes it from nobody. All of it happens on one event loop, between two awaits, without locks.
"""

import asyncio
from collections import deque


class Slots:
    """So many places, and first come, first served.

    Attributes:
        in_flight: How many are taken. More than the limit for a while after the limit has fallen: nobody is put out.

    Args:
        limit: How many there are.
    """

    def __init__(self, limit: int) -> None:
        self.in_flight = 0
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many may be taken."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._let_in()

    def try_acquire(self) -> bool:
        """Take a place if there is one, and say whether there was."""
        if self.in_flight >= self._limit:
            return False
        self.in_flight += 1
        return True

    async def acquire(self) -> None:
        """Take a place, as soon as there is one."""
        if self.try_acquire():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # The place came at the same moment.
                self.release()
            raise

    def release(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.in_flight < self._limit:
            turn = self._waiting.popleft()
            if not turn.cancelled():  # Else whoever waited has gone.
                self.in_flight += 1
                turn.set_result(None)
