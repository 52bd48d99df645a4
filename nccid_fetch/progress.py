"""How far a run is, as a value: what a display shows, what a status file says, what a signal prints.

A `Meter` looks at the tally of a run now and then, and knows what only time shows: the rate, and how long it may still
take. What it gives is plain and can be written as JSON and read again, so that another process can show the same.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .summary import PartTally, Tally

RATE_WINDOW_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class PartProgress:
    """How far one part is.

    Attributes:
        name: The part.
        state: Its end, in the words of the contract; None while it is being listed.
        listed_objects: What its listing gave so far.
        listed_bytes: The same in bytes.
        settled_objects: What of it reached an end, skipped objects among them.
        settled_bytes: The same in bytes.
    """

    name: str
    state: str | None
    listed_objects: int
    listed_bytes: int
    settled_objects: int
    settled_bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a run is held by.

    Attributes:
        reason: What it waits for: "the endpoint".
        message: What happened, for a person.
        seconds: For how long it has waited.
        retry_for_seconds: How long it may wait.
    """

    reason: str
    message: str
    seconds: float
    retry_for_seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        elapsed_seconds: Since it began.
        listing_is_complete: Whether the totals are final; else they are "at least".
        listed_objects: What the listings gave so far.
        listed_bytes: The same in bytes.
        settled_objects: What reached an end so far, skipped and failed objects among them.
        settled_bytes: The same in bytes.
        fetched_objects: Downloaded by this run.
        fetched_bytes: The same in bytes.
        adopted_objects: Found in place and proved.
        skipped_objects: Recorded and unchanged.
        verified_objects: Fetched or adopted, and proved.
        failed_objects: Did not arrive, refused ones among them.
        retries: Attempts that failed and are made again.
        throttled: Requests that were told to slow down.
        bytes_per_second: Over the last moments.
        seconds_left: How long it may still take; None if that cannot be known.
        limit_objects: How many objects may be in flight; None before the first one.
        limit_of: How many were asked for; None where that is left to the run.
        waiting: What it is held by; None if it is not.
        parts: The parts, in the order in which they became known.
    """

    elapsed_seconds: float
    listing_is_complete: bool
    listed_objects: int
    listed_bytes: int
    settled_objects: int
    settled_bytes: int
    fetched_objects: int
    fetched_bytes: int
    adopted_objects: int
    skipped_objects: int
    verified_objects: int
    failed_objects: int
    retries: int
    throttled: int
    bytes_per_second: float
    seconds_left: float | None
    limit_objects: int | None
    limit_of: int | None
    waiting: Waiting | None
    parts: tuple[PartProgress, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """Take what `as_dict` gave.

        Raises:
            TypeError: It is of another version.
        """
        waiting = values["waiting"]
        return cls(
            **values
            | {
                "waiting": None if waiting is None else Waiting(**waiting),
                "parts": tuple(PartProgress(**part) for part in values["parts"]),
            }
        )


class Rate:
    """Bytes per second over the last moments.

    Args:
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._marks: deque[tuple[float, int]] = deque([(now(), 0)])

    def at(self, total_bytes: int) -> float:
        """Return the rate, given how many bytes have come in all."""
        present = self._now()
        self._marks.append((present, total_bytes))
        # The oldest mark goes when the next one is old enough; after a pause, or asked twice at once, it stays.
        while present - self._marks[1][0] >= RATE_WINDOW_SECONDS:
            self._marks.popleft()
        began, bytes_then = self._marks[0]
        return (total_bytes - bytes_then) / (present - began) if present > began else 0.0


class Meter:
    """Looks at a run now and then.

    Args:
        tally: Its numbers, which go on changing.
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, tally: Tally, now: Callable[[], float]) -> None:
        self.tally = tally
        self._rate = Rate(now)
        self._now = now
        self._began = now()

    def read(self) -> Progress:
        """Return how far the run is."""
        tally, settled, now = self.tally, self.tally.settled, self._now()
        rate = self._rate.at(tally.received_bytes)
        held = tally.held
        return Progress(
            elapsed_seconds=now - self._began,
            listing_is_complete=tally.listing_is_complete,
            listed_objects=tally.listed.objects,
            listed_bytes=tally.listed.bytes,
            settled_objects=settled.objects,
            settled_bytes=settled.bytes,
            fetched_objects=tally.fetched.objects,
            fetched_bytes=tally.fetched.bytes,
            adopted_objects=tally.adopted.objects,
            skipped_objects=tally.skipped.objects,
            verified_objects=sum(tally.verified.values()),
            failed_objects=tally.failed + tally.refused,
            retries=tally.retries,
            throttled=tally.throttled,
            bytes_per_second=rate,
            seconds_left=self._seconds_left(rate),
            limit_objects=None if tally.limit is None else tally.limit.objects,
            limit_of=None if tally.limit is None else tally.limit.of,
            waiting=None
            if held is None
            else Waiting(str(held.reason), held.message, now - held.since, held.retry_for_seconds),
            parts=tuple(_part(name, part) for name, part in list(tally.parts.items())),
        )

    def _seconds_left(self, rate: float) -> float | None:
        """Return how long it may still take; None if that cannot be known yet."""
        tally, settled = self.tally, self.tally.settled
        objects_left = tally.listed.objects - settled.objects
        if not tally.listing_is_complete:
            return None
        if objects_left <= 0:
            return 0.0
        if rate <= 0:
            return None
        # Small objects take as long as their number, large ones as long as their bytes: the longer one is nearer.
        by_bytes = (tally.listed.bytes - settled.bytes) / rate
        settled_now = settled.objects - tally.skipped.objects
        by_objects = objects_left * (self._now() - self._began) / settled_now if settled_now else 0.0
        return max(by_bytes, by_objects)


def _part(name: str, part: PartTally) -> PartProgress:
    return PartProgress(
        name,
        None if part.state is None else str(part.state),
        part.listed.objects,
        part.listed.bytes,
        part.settled.objects,
        part.settled.bytes,
    )
