"""What happens during a run, as frozen values. Whoever wants to know gets them through one callable.

Nothing that works knows about progress bars, logs or summaries: it reports, and they listen. Events come by page
and by batch, not by object, except where an object is worth a line of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .errors import Reason
from .model import Decision, Listed, PartState, RemoteObject, VerifiedBy


@dataclass(frozen=True, slots=True)
class PartsKnown:
    """Which parts the run is about.

    Attributes:
        parts: All of them.
        states: Those that will not come: denied, or absent.
        named: Whether they were asked for by name, so that one that is denied is missed.
    """

    parts: tuple[str, ...]
    states: dict[str, PartState]
    named: bool = False


@dataclass(frozen=True, slots=True)
class PagePlanned:
    """A page of a part's listing was planned.

    Attributes:
        part: The part.
        decisions: What was decided, in key order.
        known_by_size: How many of the skipped objects no digest ever proved.
        begun: Whether a run begins them. A dry run says of some objects that a run stops before them.
    """

    part: str
    decisions: Sequence[Decision]
    known_by_size: int = 0
    begun: bool = True


@dataclass(frozen=True, slots=True)
class ListingEnded:
    """A part's listing came to its end, broke off, or was given up.

    Attributes:
        part: The part.
        state: What that makes of the part.
        message: For a person: why it did not end well, or why its end is to be doubted.
        denied: Whether it broke off because the credentials may not go on.
    """

    part: str
    state: PartState
    message: str | None = None
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of a body came in. Bytes of an attempt that failed are reported like any other."""

    size: int


@dataclass(frozen=True, slots=True)
class Hashed:
    """Bytes of a file that was there already were hashed, to see whether it is the object."""

    size: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """An attempt failed, and another one follows after a pause."""

    remote: RemoteObject
    attempt: int
    message: str
    pause_seconds: float
    throttled: bool


@dataclass(frozen=True, slots=True)
class ListingRetrying:
    """A page of a listing did not come, and is asked for again after a pause."""

    prefix: str
    message: str
    pause_seconds: float
    throttled: bool


class Wait(StrEnum):
    """What a run waits for while it is held."""

    ENDPOINT = "the endpoint"
    CREDENTIALS = "credentials"
    SLOWED = "the server, which asks to slow down"
    WINDOW = "its hours (--window)"


@dataclass(frozen=True, slots=True)
class Held:
    """From now on nothing is asked for, but for one request at a time that finds out whether it is over.

    It comes when the run is held, and again each time that it is found not to be over.

    Attributes:
        reason: What is waited for.
        message: What happened, for a person.
        since: When it was first held for this, in seconds on its clock.
        pause_seconds: How long until the next request.
        retry_for_seconds: How long it may go on like this.
        until: What the clock on the wall will show when it goes on, where that is known: outside of `--window`.
    """

    reason: Wait
    message: str
    since: float
    pause_seconds: float
    retry_for_seconds: float
    until: datetime | None = None

    @property
    def hour(self) -> str | None:
        """When that is, for a person: 19:00, or Sat 00:00 where it is more than a day away."""
        if self.until is None:
            return None
        return f"{self.until:%a %H:%M}" if self.pause_seconds >= 86_400 else f"{self.until:%H:%M}"


@dataclass(frozen=True, slots=True)
class Released:
    """The run goes on, after having been held for so many seconds."""

    reason: Wait
    seconds: float


@dataclass(frozen=True, slots=True)
class LimitSet:
    """From now on so many objects may be in flight.

    Attributes:
        objects: How many.
        of: How many were asked for; None where that was left to the run.
    """

    objects: int
    of: int | None = None


@dataclass(frozen=True, slots=True)
class DestinationOpened:
    """From now on the destination is this run's alone, to its end."""


@dataclass(frozen=True, slots=True)
class LastListed:
    """What an earlier run found in the bucket: how much there may be, before the listing is complete.

    It does not come where something is selected, for then it says nothing about how much is wanted.

    Attributes:
        parts: The parts of this run that were ever listed to their end.
    """

    parts: Mapping[str, Listed]


@dataclass(frozen=True, slots=True)
class RateSet:
    """From now on so many bytes a second may come; None for any number."""

    bytes_per_second: int | None


@dataclass(frozen=True, slots=True)
class RemoteFound:
    """The destination is on a file system that is, or may be, on another machine, where locks may not hold."""

    name: str


@dataclass(frozen=True, slots=True)
class PlaceNoted:
    """Something about the destination, or what is in it, that a person should know.

    Attributes:
        message: What it is, in a sentence.
    """

    message: str


@dataclass(frozen=True, slots=True)
class RoomFound:
    """So much room there was where the destination is, or is to be, when the run began.

    Attributes:
        free_bytes: What was free.
        free_files: How many files could be made; None where there is no limit, or none that is known.
    """

    free_bytes: int
    free_files: int | None


@dataclass(frozen=True, slots=True)
class RoomShort:
    """What has been planned so far needs more room than there is. Said once: how much more changes with each page.

    Attributes:
        needed_bytes: What the planned objects take, at least.
        needed_files: How many files they become, folders not counted.
        free_bytes: What was free when the run began.
        free_files: How many files could be made then; None where there is no limit, or none that is known.
    """

    needed_bytes: int
    needed_files: int
    free_bytes: int
    free_files: int | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object was downloaded, proved, put in place and recorded."""

    remote: RemoteObject
    verified_by: VerifiedBy


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file that was there already was proved to be the object, and recorded."""

    remote: RemoteObject
    verified_by: VerifiedBy


@dataclass(frozen=True, slots=True)
class Failed:
    """An object did not arrive."""

    remote: RemoteObject
    reason: Reason
    message: str


Outcome = Fetched | Adopted | Failed


class StoppedBy(StrEnum):
    """Which option may end a run early."""

    MAX_DURATION = "--max-duration"
    MAX_BYTES = "--max-bytes"
    MAX_PATIENTS = "--max-patients"
    ON_FAILURE = "--on-failure"


@dataclass(frozen=True, slots=True)
class Stopped:
    """From now on nothing new is begun, as the user asked for. What is in flight may still finish.

    Attributes:
        by: The option that says so.
        message: What it came to, for a person.
        hint: The next step.
    """

    by: StoppedBy
    message: str
    hint: str = "run the same command again to go on"


@dataclass(frozen=True, slots=True)
class Committing:
    """A batch of objects is being put in place and flushed, which is over when `Committed` comes.

    Attributes:
        objects: How many.
        in_flight: How many others were in flight at that moment.
    """

    objects: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch of objects reached its end, durably."""

    outcomes: Sequence[Outcome]


Event = (
    PartsKnown
    | PagePlanned
    | ListingEnded
    | ListingRetrying
    | Received
    | Hashed
    | Retrying
    | Held
    | Released
    | LimitSet
    | DestinationOpened
    | LastListed
    | RateSet
    | RemoteFound
    | PlaceNoted
    | RoomFound
    | RoomShort
    | Committing
    | Committed
    | Stopped
)
Report = Callable[[Event], None]
