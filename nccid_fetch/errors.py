"""Everything that can go wrong, and the exit code of what ends a run.

::

    NccidFetchError                 1   anything that is ours
    ├── RunError                        ends the run; carries an exit code and a hint
    │   ├── UsageError              2   an option, the configuration, a DEST of another bucket
    │   ├── AccessError             4   no, wrong or expired credentials; nothing may be listed
    │   │   ├── CredentialsError    4   credentials that may be others when they are read anew
    │   │   ├── ClockError          4   this machine's clock is too far off for a signature to count
    │   │   └── NoSuchBucketError   4   the endpoint knows no such bucket
    │   ├── EndpointError           5   cannot be reached, or answers nonsense
    │   │   ├── ListingError        5   a listing that breaks off, repeats or is not S3's
    │   │   ├── TokenRefusedError   5   a page cannot be gone on from; the listing can, from its last key
    │   │   └── RedirectRefusedError     5   the endpoint points elsewhere
    │   │       └── WrongRegionError     5   to another region
    │   ├── DestinationError        9   full, read-only or broken
    │   │   └── DestinationFullError 9  full: no more bytes, or no more files
    │   ├── LimitError              9   too few threads, files or too little memory are allowed here
    │   └── DestinationBusyError    75  another run holds DEST
    ├── TransientError                  worth another attempt; never leaves the retry loop
    │   ├── ShortBodyError              a body without the listed length
    │   ├── DigestMismatchError         a whole body that is not the object
    │   ├── ThrottledError              the server asks for patience
    │   ├── NotSupportedError           S3 itself does not do what was asked
    │   ├── RedirectedError             one object's GET was answered with a redirect
    │   ├── UnreachableError            no connection
    │   │   ├── UntrustedError          none that can be trusted
    │   │   └── ProxyError              the proxy refuses it, or cannot be reached
    │   ├── FileChangedError            a file was written while it was read
    │   └── RangeIgnoredError           a range was answered with something else: start anew
    ├── ListingDeniedError      4       this prefix may not be listed
    ├── RefusedError                    the fast transport says no; the reference path says why
    └── ObjectError                     this object only: an outcome, with a reason

A bad object is a value, a bad run is an exception: ObjectError ends in a `Failed` outcome, RunError
ends at the command line, which alone turns it into an exit code.
"""

from collections.abc import Iterator
from enum import StrEnum


class Reason(StrEnum):
    """Why an object did not arrive. These words are part of the contract."""

    CHANGED = "changed"
    GONE = "gone"
    DENIED = "denied"
    ARCHIVED = "archived"
    UNSAFE_KEY = "unsafe_key"
    CONFLICT = "conflict"
    DIGEST_MISMATCH = "digest_mismatch"
    SHORT_BODY = "short_body"
    RETRIES_EXHAUSTED = "retries_exhausted"
    LOCAL_ERROR = "local_error"


class NccidFetchError(Exception):
    """Base of every error that this package raises on purpose."""


class RunError(NccidFetchError):
    """Ends a run.

    Its text is the message, and the hint on a line of its own, as a traceback shows it.

    Args:
        message: What went wrong and where, one sentence without a full stop.
        hint: The next step, if one is known.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and the hint."""
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class UsageError(RunError):
    """An option, the configuration, or a destination that belongs to another bucket or group."""

    exit_code = 2


class AccessError(RunError):
    """No credentials, wrong or expired ones, or nothing that was asked for may be listed."""

    exit_code = 4


class CredentialsError(AccessError):
    """Credentials that have expired, are wrong, or cannot be had: during a run they are read anew before it ends.

    Args:
        message: What went wrong and where.
        hint: The next step.
        are_wrong: They will not be right later, as ones that have expired may be: only other ones help.
    """

    def __init__(self, message: str, hint: str | None = None, *, are_wrong: bool = False) -> None:
        super().__init__(message, hint)
        self.are_wrong = are_wrong


class ClockError(AccessError):
    """This machine's clock is too far from the server's: no signature of its counts."""


class NoSuchBucketError(AccessError):
    """The endpoint knows no bucket of this name."""


class EndpointError(RunError):
    """The endpoint cannot be reached or answers nonsense."""

    exit_code = 5


class ListingError(EndpointError):
    """A listing that breaks off, repeats itself, runs backwards or is not S3's answer at all."""


class TokenRefusedError(EndpointError):
    """The endpoint does not go on from a token that it gave: it may have become too old."""


class RedirectRefusedError(EndpointError):
    """The endpoint answered with a redirect, which is never followed."""


class WrongRegionError(RedirectRefusedError):
    """The bucket is in another region than that which was asked.

    Args:
        message: What went wrong and where.
        hint: The next step.
        region: The bucket's region, which only the server knows.
    """

    def __init__(self, message: str, hint: str | None = None, *, region: str) -> None:
        super().__init__(message, hint)
        self.region = region


class DestinationError(RunError):
    """The destination is full, read-only or broken."""

    exit_code = 9


class DestinationFullError(DestinationError):
    """The destination takes no more bytes, or no more files."""


class LimitError(RunError):
    """The machine, or a limit that was set on it, allows too little of something for a run."""

    exit_code = 9


class DestinationBusyError(RunError):
    """Another run holds this destination."""

    exit_code = 75


class TransientError(NccidFetchError):
    """A failure that another attempt may mend: a cut body, a stall, a server error.

    Attributes:
        reason: The word for it in the contract, should no attempt mend it.
        hint: The next step, should it end a run.
    """

    reason = Reason.RETRIES_EXHAUSTED
    hint = "check the network and --endpoint-url, then run the same command again"


class ShortBodyError(TransientError):
    """A body without the length that was listed."""

    reason = Reason.SHORT_BODY


class DigestMismatchError(TransientError):
    """A whole body that is not the object's content."""

    reason = Reason.DIGEST_MISMATCH


class ThrottledError(TransientError):
    """The server asks for patience (503, 429).

    Args:
        message: What the server said.
        retry_after_seconds: What its Retry-After header asked for, if it had one.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(TransientError):
    """No connection to the endpoint. Worth another attempt during a run; the end of one that has not begun."""


class UntrustedError(UnreachableError):
    """The endpoint shows a certificate that is not trusted."""


class FileChangedError(TransientError):
    """A file of the tree was written, or another one took its name, while it was read: nothing follows from what was read."""

    reason = Reason.LOCAL_ERROR


class ProxyError(UnreachableError):
    """The proxy on the way to the endpoint refuses to connect to it, or cannot be reached.

    Args:
        message: Which proxy, and what it said.
        has_answered: Whether it did answer; then it is asked again at once.
    """

    hint = "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY, then run the same command again"

    def __init__(self, message: str, *, has_answered: bool = False) -> None:
        super().__init__(message)
        self.has_answered = has_answered


class NotSupportedError(TransientError):
    """S3 itself answered that it does not do what was asked: another attempt seldom mends that."""


class RedirectedError(TransientError):
    """The GET of one object was answered with a redirect, which is never followed.

    Args:
        meaning: What it means if it befalls all objects: the error to end a run with.
    """

    def __init__(self, meaning: RedirectRefusedError) -> None:
        super().__init__(meaning.message)
        self.meaning = meaning


class RangeIgnoredError(TransientError):
    """A range was answered with the whole object, or with another range."""


class ListingDeniedError(NccidFetchError):
    """The credentials may not list this prefix."""

    exit_code = 4


class RefusedError(NccidFetchError):
    """The fast transport was refused an object, without a word that can be trusted on why."""


class ObjectError(NccidFetchError):
    """One object did not arrive; the run goes on.

    Args:
        reason: The word for it in the contract.
        message: One sentence for a person.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnsafeKeyError(ObjectError):
    """A key that has no safe path below the destination."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.UNSAFE_KEY, message)


def message_of(error: BaseException) -> str:
    """Return what an error says, without the next step: for a sentence that has one of its own, or none."""
    return error.message if isinstance(error, RunError) else str(error)


_PRECEDENCE = (9, 4, 5)


def decisive(group: BaseExceptionGroup) -> BaseException:
    """Return the one error that says why a group of tasks ended.

    An error that is not ours is a defect, and hides behind nothing. Of ours, the destination's comes before
    access, and access before the endpoint: so the exit codes are ranked.
    """
    leaves = list(_leaves(group))
    defects = [error for error in leaves if not isinstance(error, RunError)]
    if defects:
        return defects[0]
    ranked = {code: rank for rank, code in enumerate(_PRECEDENCE)}
    return min(leaves, key=lambda error: ranked.get(getattr(error, "exit_code", 1), len(ranked)))


def _leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
