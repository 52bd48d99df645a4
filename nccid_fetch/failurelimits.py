"""Failure limits: how many objects may fail in a row before their part, or the run, is given up."""

from dataclasses import dataclass, field

from .errors import EndpointError, ObjectError, Reason, RedirectedError, RedirectRefusedError
from .events import ListingEnded, Report
from .model import PartState

DENIED_MAX = 32
"""A part of which so many objects are denied, and none came, is given up."""
EXHAUSTED_MAX = 16
"""When so many objects in a row used up their attempts, it is not the objects."""
REDIRECTED_MAX = 3
"""When so many objects in a row were redirected, or two of different parts, and none ever came, it is not the objects."""
MISMATCHED_MAX = 16
"""When so many objects are not what their ETags say, and none ever was, it is not the objects."""


@dataclass(slots=True)
class FailureLimits:
    """Counts failures over all workers: which parts are given up, and when the run ends.

    =============================================  ================================================
    In a row                                       Then
    =============================================  ================================================
    one redirected object                          it failed
    two redirected ones of different parts, or     the run ends, unless an object ever came: then
    three of one                                   each failed
    16 that used up their attempts, for any        the run ends
    reason
    =============================================  ================================================
    """

    denied: dict[str, int] = field(default_factory=dict)
    came: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    exhausted_in_a_row: int = 0
    redirected: list[str] = field(default_factory=list)
    """The parts of objects that were redirected, in a row."""
    mismatched: int = 0
    has_proof: bool = False

    def succeeded(self, part: str) -> None:
        """Count an object of a part that arrived."""
        self.came.add(part)
        self.exhausted_in_a_row = 0
        self.redirected.clear()
        self.has_proof = True

    def failed(self, part: str, error: ObjectError, report: Report) -> None:
        """Count an object that did not arrive.

        Args:
            part: Its part.
            error: Why.
            report: Told of a part that is given up.

        Raises:
            EndpointError: The endpoint is at fault, and not the objects.
        """
        if error.reason is Reason.RETRIES_EXHAUSTED:
            self.exhausted_in_a_row += 1
            self._note_redirect(part, error.__cause__)
            if self.exhausted_in_a_row >= EXHAUSTED_MAX:
                raise EndpointError(
                    f"{self.exhausted_in_a_row} objects in a row used up their attempts; the last: {error}",
                    hint="check the network, then run the same command again; what was verified stays",
                )
            return
        self.exhausted_in_a_row = 0
        self.redirected.clear()
        if error.reason is Reason.DIGEST_MISMATCH:
            self.mismatched += 1
            if self.mismatched >= MISMATCHED_MAX and not self.has_proof:
                raise EndpointError(
                    f"of {self.mismatched} objects none is what its ETag says, and none ever was; the last: {error}",
                    hint="if this server's ETags are no MD5s, --verify size goes by the length alone; else something on "
                    "the way changes what it sends",
                )
        if error.reason is Reason.DENIED and part not in self.came:
            self.denied[part] = self.denied.get(part, 0) + 1
            if self.denied[part] >= DENIED_MAX and part not in self.given_up:
                self.given_up.add(part)
                report(
                    ListingEnded(
                        part,
                        PartState.DENIED,
                        f"it can be listed, but its objects may not be read; of the last, the server said: {error}",
                    )
                )

    def _note_redirect(self, part: str, cause: BaseException | None) -> None:
        """Take note of an object that used up its attempts.

        Raises:
            RedirectRefusedError: Object after object is redirected.
        """
        if not isinstance(cause, RedirectedError):
            self.redirected.clear()
            return
        self.redirected.append(part)
        count = len(self.redirected)
        is_of_all = not self.has_proof and (len(set(self.redirected)) > 1 or count >= REDIRECTED_MAX)
        if is_of_all or count >= EXHAUSTED_MAX:
            raise RedirectRefusedError(
                f"{count} objects in a row were redirected, as from a wrong region: {cause}", cause.meaning.hint
            )
