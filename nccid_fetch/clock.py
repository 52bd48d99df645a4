"""Time and chance, passed in: so that a test, or a simulation of a whole night, has them in its hand."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _on_the_wall() -> datetime:
    return datetime.now(UTC).astimezone()


@dataclass(frozen=True, slots=True)
class Clock:
    """What a run knows of time and chance. By default they are the real ones.

    Attributes:
        now: Seconds on a clock that only goes forward, whatever becomes of the time of day.
        sleep: Waits for seconds of that clock.
        chance: A number in [0, 1).
        local: What the clock on the wall shows. It may be set, and goes with summer time.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random  # noqa: S311 - how long to wait is no secret.
    local: Callable[[], datetime] = _on_the_wall


REAL = Clock()
"""The time of this machine, and its chance."""
