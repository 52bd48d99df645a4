"""How long to wait before another attempt: pure functions of a number and of chance."""

from collections.abc import Callable

BASE_SECONDS = 0.2
CAP_SECONDS = 20.0


def backoff_seconds(attempt: int, chance: Callable[[], float]) -> float:
    """Return the pause after a failed attempt: exponential, capped, with half of it left to chance.

    Chance keeps workers that failed together from coming back together.

    Args:
        attempt: The attempt that failed, from 1.
        chance: Returns a number in [0, 1).
    """
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** (attempt - 1))
    return ceiling * (0.5 + 0.5 * chance())


def throttle_seconds(times: int, asked_seconds: float | None, chance: Callable[[], float]) -> float:
    """Return the pause after being told to slow down: what the server asked for, or a backoff of our own.

    Args:
        times: How often in a row this object was told so, from 1.
        asked_seconds: The answer's Retry-After, if it had one.
        chance: Returns a number in [0, 1).
    """
    own = backoff_seconds(times, chance)
    return own if asked_seconds is None else min(120.0, asked_seconds) + own
