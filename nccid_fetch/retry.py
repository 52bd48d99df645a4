"""Whether to try again, and how long to wait before it: pure functions of what failed, and of chance."""

from collections.abc import Callable

from .errors import DigestMismatchError, NccidFetchError, ThrottledError

BASE_SECONDS = 0.2
CAP_SECONDS = 20.0
_DOUBLINGS_MAX = 60
"""Far above the cap, and far below what a float can be."""
RETRY_AFTER_SECONDS_MAX = 120.0
MISMATCHES_MAX = 3
"""A body that is not the object three times over will not become it."""
THROTTLED_SECONDS_MAX = 900.0
"""How long one object, or one page, goes on being told to slow down."""


def backoff_seconds(attempt: int, chance: Callable[[], float]) -> float:
    """Return the pause after a failed attempt: exponential, capped, with half of it left to chance.

    Chance keeps workers that failed together from coming back together.

    Args:
        attempt: The attempt that failed, from 1.
        chance: Returns a number in [0, 1).
    """
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
    return ceiling * (0.5 + 0.5 * chance())


def throttle_seconds(times: int, asked_seconds: float | None, chance: Callable[[], float]) -> float:
    """Return the pause after being told to slow down: what the server asked for, and a backoff of our own.

    Args:
        times: How often this object was told so, from 1.
        asked_seconds: The answer's Retry-After, if it had one.
        chance: Returns a number in [0, 1).
    """
    return min(RETRY_AFTER_SECONDS_MAX, asked_seconds or 0.0) + backoff_seconds(times, chance)


class Patience:
    """How long one thing is tried: so many attempts, and so long being told to slow down, which is none.

    Attributes:
        attempts: How many attempts have failed.

    Args:
        attempts_max: Attempts in all.
        chance: Returns a number in [0, 1).
        throttled_seconds_max: How long it goes on being told to slow down: what it waits for that in all, and not what
            passes meanwhile, for the run may be held for hours.
    """

    def __init__(
        self,
        attempts_max: int,
        chance: Callable[[], float],
        *,
        throttled_seconds_max: float = THROTTLED_SECONDS_MAX,
    ) -> None:
        self.attempts = 0
        self._throttled_seconds_max = throttled_seconds_max
        self._attempts_max = attempts_max
        self._chance = chance
        self._mismatches = 0
        self._throttled = 0
        self._throttled_seconds = 0.0

    def after(self, error: NccidFetchError) -> float | None:
        """Return how many seconds to wait before another attempt, or None if there is to be none."""
        if isinstance(error, ThrottledError):
            if self._throttled_seconds > self._throttled_seconds_max:
                return None
            self._throttled += 1
            pause = throttle_seconds(self._throttled, error.retry_after_seconds, self._chance)
            self._throttled_seconds += pause
            return pause
        self.attempts += 1
        self._mismatches += isinstance(error, DigestMismatchError)
        if self.attempts >= self._attempts_max or self._mismatches >= MISMATCHES_MAX:
            return None
        return backoff_seconds(self.attempts, self._chance)
