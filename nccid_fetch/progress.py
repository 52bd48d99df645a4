"""How far a run is, as a value: what a display shows, what a status file says, what a signal prints.

A `Meter` looks at the tally of a run now and then, and knows what only time shows: the rate, how long it may still take, and
for how long nothing has come. What it gives is plain and can be written as JSON and read again, so that another process can
show the same.

Nothing in it jumps back. A share that was shown is never followed by a smaller one, also where a listing turns out longer
than the last one was. The time left is a moment of the clock, the end, which follows new estimates slowly; so it counts
down like a clock and drifts where the rate changes, and does not dance.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .summary import Count, PartTally, Tally

RATE_WINDOW_SECONDS = 15.0
LEFT_WINDOW_SECONDS = 60.0
"""The time left goes by more than the last moments: parts of large objects and of small ones take turns."""
LEFT_FOLLOWS_SECONDS = 20.0
"""After so long, two thirds of a change have reached the time left that is shown."""


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
        verified_objects: What of it was fetched or adopted, and proved.
        skipped_objects: What of it was recorded and unchanged.
        failed_objects: What of it did not arrive, refused objects among them.
        expected_objects: How many it had when it was last listed to its end; None if that is not known.
        expected_bytes: The same in bytes.
        share: What of it is done, from 0 to 1; never goes back. None while its total is not even about known.
        bytes_per_second: Over the last moments, of what reached its end.
        seconds_left: How long it may still take at this rate; None if that cannot be known.
    """

    name: str
    state: str | None
    listed_objects: int
    listed_bytes: int
    settled_objects: int
    settled_bytes: int
    verified_objects: int = 0
    skipped_objects: int = 0
    failed_objects: int = 0
    expected_objects: int | None = None
    expected_bytes: int | None = None
    share: float | None = None
    bytes_per_second: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a run is held by.

    Attributes:
        reason: What it waits for: "the endpoint".
        message: What happened, for a person.
        seconds: For how long it has waited.
        retry_for_seconds: How long it may wait.
        until: What the clock will show when it goes on, where that is known.
    """

    reason: str
    message: str
    seconds: float
    retry_for_seconds: float
    until: str | None = None


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
        bytes_per_second: What comes in, over the last moments.
        seconds_left: How long it may still take; None if that cannot be known.
        limit_objects: How many objects may be in flight; None before the first one.
        limit_of: How many were asked for; None where that is left to the run.
        waiting: What it is held by; None if it is not.
        parts: The parts, in the order in which they became known.
        expected_objects: About how many objects there will be, while the listing goes on; None if that is not known.
        expected_bytes: The same in bytes.
        share: What is done of all that is to be done, from 0 to 1; never goes back. None while that is not even about known.
        hashed_bytes: How much of files that are there was hashed.
        hashed_bytes_per_second: The same over the last moments.
        in_flight: How many objects were in flight when last told; None before that.
        rate_limit: Bytes per second that the run keeps to; None for as fast as it goes.
        stopping: What the run is coming to its end for; None if it is not.
        idle_seconds: For how long nothing came in, was hashed, was listed or came to its end.
        committing_objects: How many objects are being put in place and flushed.
        committing_seconds: For how long they have been.
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
    expected_objects: int | None = None
    expected_bytes: int | None = None
    share: float | None = None
    hashed_bytes: int = 0
    hashed_bytes_per_second: float = 0.0
    in_flight: int | None = None
    rate_limit: int | None = None
    stopping: str | None = None
    idle_seconds: float = 0.0
    committing_objects: int = 0
    committing_seconds: float = 0.0

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
    """So many per second over the last moments: bytes, or objects.

    Args:
        now: Seconds on a clock that only goes forward.
        window_seconds: How long these moments are.
    """

    def __init__(self, now: Callable[[], float], window_seconds: float = RATE_WINDOW_SECONDS) -> None:
        self._now = now
        self._window = window_seconds
        self._marks: deque[tuple[float, int]] = deque([(now(), 0)])

    def at(self, total: int) -> float:
        """Return the rate, given how many have come in all."""
        present = self._now()
        self._marks.append((present, total))
        # The oldest mark goes when the next one is old enough; after a pause, or asked twice at once, it stays.
        while present - self._marks[1][0] >= self._window:
            self._marks.popleft()
        began, total_then = self._marks[0]
        return (total - total_then) / (present - began) if present > began else 0.0


class _Since:
    """For how long something has been as it is.

    Args:
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: object = None
        self._at = now()

    def seconds(self, state: object) -> float:
        """Return for how long it has been in this state, as far as it was looked at."""
        if state != self._seen:
            self._seen, self._at = state, self._now()
        return self._now() - self._at


class _Left:
    """How long it may still take, by the rate at which work is done.

    Small objects take as long as their number, large ones as long as their bytes. What is done now may be all of one kind, and
    what is left of the other: so the best rate of each is kept, and what a run does now of that which it does best is taken
    to hold for both.

    Args:
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._bytes = Rate(now, LEFT_WINDOW_SECONDS)
        self._objects = Rate(now, LEFT_WINDOW_SECONDS)
        self._best_bytes = self._best_objects = 0.0
        self._end: float | None = None
        self._at = now()

    def seconds(self, done: Count, left: Count | None) -> float | None:
        """Return how long it may still take.

        Args:
            done: What was worked off: not what was only passed over.
            left: What is still to be worked off; None if that is not known.
        """
        bytes_rate, objects_rate = self._bytes.at(done.bytes), self._objects.at(done.objects)
        now, before = self._now(), self._at
        self._at = now
        if left is None:
            self._end = None
            return None
        if left.objects <= 0:
            return 0.0
        if not (bytes_rate or objects_rate):
            self._end = None
            return None
        end = now + self._at_rates(bytes_rate, objects_rate, left)
        if self._end is None:
            self._end = end
        self._end += (end - self._end) * -math.expm1(-(now - before) / LEFT_FOLLOWS_SECONDS)
        return max(0.0, self._end - now)

    def _at_rates(self, bytes_rate: float, objects_rate: float, left: Count) -> float:
        best_bytes = self._best_bytes = max(self._best_bytes, bytes_rate)
        best_objects = self._best_objects = max(self._best_objects, objects_rate)
        by_bytes = (left.bytes / best_bytes, bytes_rate / best_bytes) if best_bytes else (0.0, 0.0)
        by_objects = (left.objects / best_objects, objects_rate / best_objects) if best_objects else (0.0, 0.0)
        return max(by_bytes[0], by_objects[0]) / max(by_bytes[1], by_objects[1])


class _PartMeter:
    """What only time shows of one part."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._rate = Rate(now)
        self._left = _Left(now)
        self._share = 0.0

    def read(self, name: str, part: PartTally) -> PartProgress:
        total = part.expected if part.state is None else part.listed
        share = None if total is None else _share(part.settled, part.listed, total, is_final=part.state is not None)
        if share is not None:
            share = self._share = max(share, self._share)
        worked = Count(part.settled.objects - part.skipped.objects, part.settled.bytes - part.skipped.bytes)
        return PartProgress(
            name=name,
            state=None if part.state is None else str(part.state),
            listed_objects=part.listed.objects,
            listed_bytes=part.listed.bytes,
            settled_objects=part.settled.objects,
            settled_bytes=part.settled.bytes,
            verified_objects=part.fetched.objects + part.adopted.objects,
            skipped_objects=part.skipped.objects,
            failed_objects=part.failed,
            expected_objects=None if part.expected is None else part.expected.objects,
            expected_bytes=None if part.expected is None else part.expected.bytes,
            share=share,
            bytes_per_second=self._rate.at(part.fetched.bytes + part.adopted.bytes),
            seconds_left=self._left.seconds(worked, _to_do(part)),
        )


class Meter:
    """Looks at a run now and then.

    Args:
        tally: Its numbers, which go on changing.
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, tally: Tally, now: Callable[[], float]) -> None:
        self.tally = tally
        self._now = now
        self._began = now()
        self._received, self._hashed, self._left = Rate(now), Rate(now), _Left(now)
        self._idle, self._committing = _Since(now), _Since(now)
        self._parts: dict[str, _PartMeter] = {}
        self._share = 0.0

    def read(self) -> Progress:
        """Return how far the run is."""
        tally, settled, now = self.tally, self.tally.settled, self._now()
        parts = list(tally.parts.items())
        held, expected = tally.held, _expected(tally)
        share = None
        if expected is not None:
            share = _share(settled, tally.listed, expected, is_final=tally.listing_is_complete)
            share = self._share = max(share, self._share)
        moved = (tally.received_bytes, tally.hashed_bytes, tally.listed.objects, settled.objects, held is not None)
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
            bytes_per_second=self._received.at(tally.received_bytes),
            seconds_left=self._seconds_left(settled),
            limit_objects=None if tally.limit is None else tally.limit.objects,
            limit_of=None if tally.limit is None else tally.limit.of,
            waiting=None
            if held is None
            else Waiting(str(held.reason), held.message, now - held.since, held.retry_for_seconds, held.hour),
            parts=tuple(self._parts.setdefault(name, _PartMeter(self._now)).read(name, part) for name, part in parts),
            expected_objects=None if expected is None or tally.listing_is_complete else expected.objects,
            expected_bytes=None if expected is None or tally.listing_is_complete else expected.bytes,
            share=share,
            hashed_bytes=tally.hashed_bytes,
            hashed_bytes_per_second=self._hashed.at(tally.hashed_bytes),
            in_flight=tally.in_flight,
            rate_limit=tally.rate_limit,
            stopping=tally.stopping,
            idle_seconds=self._idle.seconds(moved),
            committing_objects=tally.committing,
            committing_seconds=self._committing.seconds(tally.batches) if tally.committing else 0.0,
        )

    def _seconds_left(self, settled: Count) -> float | None:
        tally = self.tally
        to_do = [_to_do(part) for part in list(tally.parts.values())]
        known = [count for count in to_do if count is not None]
        left = Count(sum(count.objects for count in known), sum(count.bytes for count in known))
        is_known = bool(to_do) and len(known) == len(to_do)
        worked_objects = settled.objects - tally.skipped.objects
        # What has come in of objects that are not at their end counts as well: one may take an hour.
        worked_bytes = max(tally.received_bytes + tally.hashed_bytes, settled.bytes - tally.skipped.bytes)
        return self._left.seconds(Count(worked_objects, worked_bytes), left if is_known else None)


def _to_do(part: PartTally) -> Count | None:
    """Return what of a part is still to be worked off; None if that is not known.

    Of what is not listed yet, as much will have to be fetched as of what is: the rest is only passed over.
    """
    objects, size = part.listed.objects - part.settled.objects, part.listed.bytes - part.settled.bytes
    if part.state is not None:
        return Count(objects, size)
    if part.expected is None or not part.listed.objects:
        return None
    wanted = 1 - part.skipped.objects / part.listed.objects
    unlisted_objects = max(0, part.expected.objects - part.listed.objects)
    unlisted_bytes = max(0, part.expected.bytes - part.listed.bytes)
    return Count(objects + int(unlisted_objects * wanted), size + int(unlisted_bytes * wanted))


def _expected(tally: Tally) -> Count | None:
    """Return about how much there will be in all; None if there is a part of which nothing is known."""
    total = Count()
    for part in list(tally.parts.values()):
        if part.state is None and part.expected is None:
            return None
        last = part.expected if part.state is None and part.expected is not None else Count()
        total.add(max(part.listed.bytes, last.bytes), max(part.listed.objects, last.objects))
    return total if tally.parts else None


def _share(settled: Count, listed: Count, total: Count, *, is_final: bool) -> float:
    """Return what is done, by bytes or by objects, of which the smaller; 1 only where nothing is left."""
    if settled.objects >= listed.objects and is_final:
        return 1.0
    by_objects = settled.objects / max(total.objects, listed.objects, 1)
    by_bytes = settled.bytes / max(total.bytes, listed.bytes, 1)
    return min(by_objects, by_bytes, 0.99)
