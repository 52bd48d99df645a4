"""What a run says of itself to other processes, and what is to be made of what one finds: both as values.

A running process keeps a small file about itself (`statusfile`). Whoever reads it knows nothing of the process but that,
so it carries what tells a run that goes on from one that is gone: the process, the boot of its machine, and a heartbeat.
Nothing that is found in it is trusted: it has exactly the shape that is written here, or is none.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from .progress import Progress

T = TypeVar("T")

SCHEMA = "nccid-fetch/status/1"
SILENT_SECONDS = 60.0
"""A run whose heartbeat is older is not simply slow. Heartbeats come every ten seconds, and clocks of two machines differ."""
_TEXT_MAX = 4000
_ITEMS_MAX = 1000
_NUMBER_MAX = 10**18


@dataclass(frozen=True, slots=True)
class Process:
    """Which process carries out a run.

    Attributes:
        pid: Its number on its machine.
        host: The machine's name.
        boot: What tells this boot of the machine from any other; None where nothing does.
    """

    pid: int
    host: str
    boot: str | None


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended.

    Attributes:
        time: When, as an ISO 8601 time in UTC.
        exit_code: What the command exited with.
        message: That in one sentence.
        hint: The next step, if one is known.
    """

    time: str
    exit_code: int
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What a run says of itself. Times are ISO 8601, in UTC.

    Attributes:
        version: That of this tool.
        process: Who carries it out.
        command: `all` or `get`.
        bucket: Where from.
        group: The group.
        asked: The parts that were named; empty for all.
        started: When it began.
        heartbeat: When this was written, by the clock of its machine.
        changed: When any of its numbers last changed.
        warnings: What it has warned of so far.
        progress: How far it is.
        end: How it ended; None while it goes on.
    """

    version: str
    process: Process
    command: str
    bucket: str
    group: str
    asked: tuple[str, ...]
    started: str
    heartbeat: str
    changed: str
    warnings: tuple[str, ...]
    progress: Progress
    end: End | None = None

    @property
    def state(self) -> str:
        """What it is doing, in one word or a few: `running`, `waiting for the endpoint`, `ended`."""
        if self.end is not None:
            return "ended"
        return "running" if self.progress.waiting is None else f"waiting for {self.progress.waiting.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, under its schema's name."""
        return {"schema": SCHEMA, "state": self.state} | asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "RunStatus":
        """Take what `as_dict` gave, read from a file that anybody may have written.

        Raises:
            ValueError: It is of another schema, or its values are not what they should be.
        """
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ValueError(f"it is not of the schema {SCHEMA}")
        status = _value(cls, values)
        times = (status.started, status.heartbeat, status.changed)
        for time in times if status.end is None else (*times, status.end.time):
            seconds_of(time)
        for share in (status.progress.share, *(part.share for part in status.progress.parts)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{share} is no share of anything")
        return status

    def is_of_the_same_run(self, other: "RunStatus") -> bool:
        """Say whether two are of one run."""
        return (self.process, self.started) == (other.process, other.started)


class Life(StrEnum):
    """What has become of the last run."""

    NONE = "none"
    """There is no word of any."""
    BEGINNING = "beginning"
    """There is one, of which nothing else is known yet."""
    RUNNING = "running"
    SILENT = "silent"
    """It is there, and has said nothing for a while: it, its machine or the disk hangs."""
    GONE = "gone"
    """It did not come to its end: it was killed, or its machine went down."""
    ENDED = "ended"

    @property
    def goes_on(self) -> bool:
        """Whether there is a run now."""
        return self in {Life.BEGINNING, Life.RUNNING, Life.SILENT}


class Whereabouts(StrEnum):
    """Where the process of a run is, seen from here."""

    HERE = "here"
    NOT_HERE = "not here any more"
    """On this machine, where it is no more: it ended, or the machine was started anew."""
    ELSEWHERE = "elsewhere"
    """On another machine, where nobody can look from here."""


def life_of(status: RunStatus | None, where: Whereabouts, silent_seconds: float, *, is_held: bool) -> Life:
    """Say what has become of the last run over a destination.

    ============  ============  ===================  =========  =========
    Journal       The file      The process          Heartbeat  Then
    ============  ============  ===================  =========  =========
    held          none, ended   any                  any        beginning
    held          a run         not here any more    any        beginning
    held          a run         here, elsewhere      young      running
    held          a run         here, elsewhere      old        silent
    not held      none          any                  any        none
    not held      ended         any                  any        ended
    not held      a run         not here any more    any        gone
    not held      a run         here, elsewhere      young      running
    not held      a run         here, elsewhere      old        gone
    ============  ============  ===================  =========  =========

    Not every file system shows its locks, least of all to another machine; so a young heartbeat is enough. Where nobody holds
    the journal, an old one is that of a process whose number another has by now, or of a machine that is down.

    Args:
        status: What its file says; None where there is none.
        where: Where its process is.
        silent_seconds: The age of its heartbeat.
        is_held: Whether anybody is seen to hold the journal.
    """
    if status is None or status.end is not None:
        return Life.BEGINNING if is_held else Life.NONE if status is None else Life.ENDED
    if where is Whereabouts.NOT_HERE:
        return Life.BEGINNING if is_held else Life.GONE
    if silent_seconds <= SILENT_SECONDS:
        return Life.RUNNING
    return Life.SILENT if is_held else Life.GONE


def where_is(process: Process, here: Process, *, is_alive: bool) -> Whereabouts:
    """Say where the process of a run is.

    Args:
        process: That of the run.
        here: This one.
        is_alive: Whether there is a process of that number on this machine.
    """
    if process.host != here.host:
        return Whereabouts.ELSEWHERE
    return Whereabouts.HERE if process.boot == here.boot and is_alive else Whereabouts.NOT_HERE


def time_of(seconds: float) -> str:
    """Return a time as it is written.

    >>> time_of(1.6e9)
    '2020-09-13T12:26:40Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(time: str) -> float:
    """Return a time in seconds since the epoch.

    Raises:
        ValueError: It is not written as one.
    """
    return datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _value(kind: type[T], found: object) -> T:
    """Take a value of JSON for one of a type, which may be made of others.

    Raises:
        ValueError: It is none, or larger than any that we write.
    """
    return cast("T", _taken(kind, found))


def _taken(kind: Any, found: Any) -> object:  # noqa: ANN401 - a type as annotations have it, and whatever was found.
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(found, dict):
        kinds = get_type_hints(kind)
        # What another version has besides is passed over; what has no default must be there.
        wanted = [field.name for field in fields(kind) if field.name in found or field.default is MISSING]
        return cast("type[Any]", kind)(**{name: _taken(kinds[name], found.get(name)) for name in wanted})
    if origin is tuple and isinstance(found, list) and len(found) <= _ITEMS_MAX:
        return tuple(_taken(inner[0], item) for item in found)
    if origin in {dict, Mapping} and isinstance(found, dict) and len(found) <= _ITEMS_MAX:
        return {_taken(inner[0], name): _taken(inner[1], item) for name, item in found.items()}
    if isinstance(kind, UnionType):
        if found is None and NoneType in inner:
            return None
        return _taken(next(choice for choice in inner if choice is not NoneType), found)
    if _is_plain(kind, found):
        return found
    raise ValueError(f"{found!r:.100} is no {kind}")


def _is_plain(kind: object, found: object) -> bool:
    """Say whether a value is a text or a number of this kind, and of a size that we would write."""
    if isinstance(found, bool):
        return kind is bool
    if isinstance(found, str):
        return kind is str and len(found) <= _TEXT_MAX
    if isinstance(found, int | float):
        return kind in ({int, float} if isinstance(found, int) else {float}) and -_NUMBER_MAX < found < _NUMBER_MAX
    return False
