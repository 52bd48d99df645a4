"""The time of day, as records have it."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


def stamp(time: datetime) -> str:
    """Return a time as records have it: UTC, to the millisecond.

    >>> stamp(datetime(2026, 11, 22, 19, 0, 0, 123456, tzinfo=UTC))
    '2026-11-22T19:00:00.123Z'
    """
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"
