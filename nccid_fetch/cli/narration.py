"""What happens during a run, in sentences: for stderr, and for the log, which hears of everything."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from nccid_fetch.events import (
    Committed,
    Event,
    Failed,
    Held,
    LimitSet,
    ListingEnded,
    ListingRetrying,
    PartsKnown,
    PlaceNoted,
    Received,
    Released,
    RemoteFound,
    Retrying,
    RoomShort,
    Stopped,
)
from nccid_fetch.model import PartState
from nccid_fetch.units import size_text

from .output import hold_text, limit_text, say


class Shown(Enum):
    """When stderr gets a sentence as well."""

    UNLESS_QUIET = "what may go wrong with the destination, as soon as it is known"
    IF_VERBOSE = "every retry, every wait and every failure"
    NEVER = "what the summary says anyway"


@dataclass(frozen=True, slots=True)
class Sentence:
    """Something that happened, for a person.

    Attributes:
        level: `error`, `warning` or `info`, as a log has it.
        text: What to read; not yet printable.
        shown: When stderr gets it as well.
        facts: What a program wants to have by itself.
    """

    level: str
    text: str
    shown: Shown = Shown.IF_VERBOSE
    facts: dict[str, Any] = field(default_factory=dict)


def sentences(event: Event) -> Iterator[Sentence]:  # noqa: C901, PLR0912 - a case for each event.
    """Yield what there is to say about an event."""
    match event:
        case Retrying(remote, attempt, message, pause):
            text = f"retry: {remote.key}: attempt {attempt}: {message}; next in {pause:.1f}s"
            yield Sentence("info", text, facts={"key": remote.key})
        case ListingRetrying(prefix, message, pause):
            yield Sentence("info", f"retry: the listing of {prefix}: {message}; next in {pause:.1f}s")
        case Held() | Released():
            yield Sentence("warning" if isinstance(event, Held) else "info", hold_text(event))
        case Stopped(by, message):
            yield Sentence("warning", f"stopping, for {by}: {message}")
        case LimitSet():
            if event.of is not None and (told := limit_text(event)):
                yield Sentence("info", told)
        case Committed(outcomes):
            for outcome in outcomes:
                if type(outcome) is Failed:
                    key, reason = outcome.remote.key, str(outcome.reason)
                    facts = {"key": key, "reason": reason}
                    yield Sentence("error", f"{reason}: {key}: {outcome.message}", facts=facts)
        case RoomShort(needed_bytes, needed_files, free_bytes, free_files):
            files = "" if free_files is None else f" and {free_files:,} files"
            yield Sentence(
                "warning",
                f"warning: what is planned so far takes {size_text(needed_bytes)} in {needed_files:,} files, and"
                f" {size_text(free_bytes)}{files} are free; the run goes on until there is no more room",
                Shown.UNLESS_QUIET,
            )
        case RemoteFound(name):
            text = f"note: the destination is on {name}, where locks may not hold: start no second run over it"
            yield Sentence("info", text, Shown.UNLESS_QUIET)
        case PlaceNoted(message):
            yield Sentence("warning", f"note: {message}", Shown.UNLESS_QUIET)
        case PartsKnown(parts, states):
            told = ", ".join(f"{part} ({states[part]})" if part in states else part for part in parts)
            yield Sentence("info", f"parts: {told}", Shown.NEVER)
        case ListingEnded(part, state, message):
            level = "error" if state is PartState.FAILED else "info"
            text = f"the listing of {part} ended: {state}{f': {message}' if message else ''}"
            yield Sentence(level, text, Shown.NEVER, {"part": part, "state": str(state)})


class Narrator:
    """Listens to a run, and says what stderr is to have of it.

    Args:
        verbose: Name every retry, every wait and every failure as it happens.
        quiet: Keep back warnings and notes.
        log: Gets everything, whatever stderr gets.
    """

    def __init__(self, *, verbose: bool, quiet: bool, log: Callable[[Sentence], object] | None = None) -> None:
        self._shown = ({Shown.IF_VERBOSE} if verbose else set()) | (set() if quiet else {Shown.UNLESS_QUIET})
        self._log = log

    def __call__(self, event: Event) -> None:
        """Say what there is to say about an event."""
        if type(event) is Received or (not self._shown and self._log is None):  # The one that comes by the object.
            return
        for sentence in sentences(event):
            if self._log is not None:
                self._log(sentence)
            if sentence.shown in self._shown:
                say(sentence.text)
