"""Time and chance, passed in: so that a test, or a simulation of a whole night, has them in its hand."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """What a run knows of time and chance. By default they are the real ones.

    Attributes:
        now: Seconds on a clock that only goes forward, whatever becomes of the time of day.
        sleep: Waits for seconds of that clock.
        chance: A number in [0, 1).
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


REAL = Clock()
"""The time of this machine, and its chance."""
