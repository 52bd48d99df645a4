"""Whether a body still comes, or only trickles: a byte now and then keeps every stall timer quiet."""

from collections import deque

SLOW_SECONDS = 60.0
SLOW_BYTES_PER_SECOND = 1024
"""A body that comes more slowly than this for a minute is given up."""
_MARKS = 16


class Pace:
    """How fast one body came lately: over a sliding minute of waiting for it.

    Only time in which the network was waited for is to be counted. While our own disk is slow, nobody sends, and
    that is no fault of the sender's.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)])

    def is_too_slow(self, waited_seconds: float, received_bytes: int) -> bool:
        """Take note of how far it is, and say whether it trickles.

        Args:
            waited_seconds: How long it was waited for so far, in all.
            received_bytes: How much of it came in that time.
        """
        marks = self._marks
        if waited_seconds - marks[-1][0] >= SLOW_SECONDS / _MARKS:
            marks.append((waited_seconds, received_bytes))
        while len(marks) > 1 and waited_seconds - marks[1][0] >= SLOW_SECONDS:
            marks.popleft()
        since, before = marks[0]
        elapsed = waited_seconds - since
        return elapsed >= SLOW_SECONDS and received_bytes - before < SLOW_BYTES_PER_SECOND * elapsed
