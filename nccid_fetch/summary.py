"""What a run came to: a fold over its events, the summary of the contract, and the exit code."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .errors import AccessError, EndpointError, Reason
from .events import (
    Adopted,
    Committed,
    Committing,
    Event,
    Failed,
    Fetched,
    Hashed,
    Held,
    LastListed,
    LimitSet,
    ListingEnded,
    ListingRetrying,
    PagePlanned,
    PartsKnown,
    RateSet,
    Received,
    Released,
    Retrying,
    RoomFound,
    Stopped,
    StoppedBy,
)
from .model import Check, Decision, Fetch, PartState, Refuse, Skip, VerifiedBy
from .settings import Settings, Source, Verify
from .units import size_text
from .warehouse import part_of

FAILURES_MAX = 1000
"""How many failures a summary names; all of them are in the journal."""
_ACTIONS = {Fetch: "fetch", Check: "check", Skip: "skip", Refuse: "refuse"}
REFUSALS = {Reason.UNSAFE_KEY, Reason.CONFLICT}


@dataclass(slots=True)
class Count:
    """Objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int, objects: int = 1) -> None:
        """Count one object, or several of this size in all."""
        self.objects += objects
        self.bytes += size

    def as_dict(self) -> dict[str, int]:
        """Return it as the contract writes it."""
        return {"objects": self.objects, "bytes": self.bytes}


@dataclass(slots=True)
class PartTally:
    """How far one part came.

    Attributes:
        state: Its end; None while it is being listed.
        listed: What its listing gave so far.
        settled: What of it reached an end, skipped objects among them.
        planned: What was decided about it, by action; of a run that is only foreseen, what it begins.
        fetched: What of it was downloaded.
        adopted: What was found in place and proved.
        skipped: What was recorded and unchanged.
        failed: How many objects did not arrive, refused ones among them.
        expected: What it had when it was last listed to its end; None if that is not known.
        message: For a person: why it did not end well, or why its end is to be doubted.
    """

    state: PartState | None = None
    listed: Count = field(default_factory=Count)
    settled: Count = field(default_factory=Count)
    planned: dict[str, Count] = field(default_factory=lambda: {action: Count() for action in _ACTIONS.values()})
    fetched: Count = field(default_factory=Count)
    adopted: Count = field(default_factory=Count)
    skipped: Count = field(default_factory=Count)
    failed: int = 0
    expected: Count | None = None
    message: str | None = None

    def end(self, *, planned: bool) -> PartState:
        """Return how the part ended: a listing that is complete does not make it so while objects are left over.

        Args:
            planned: The run is only foreseen: left over is what it does not begin.
        """
        if self.state is None:
            return PartState.STOPPED
        dealt_with = sum(count.objects for count in self.planned.values()) if planned else self.settled.objects
        left_over = dealt_with < self.listed.objects
        return PartState.STOPPED if self.state is PartState.COMPLETE and left_over else self.state


@dataclass(slots=True)
class Tally:
    """Folds events into numbers. An instance is a listener: call it with each event.

    Attributes:
        committing: How many objects are being put in place and flushed at this moment.
        batches: How many batches were begun.
        in_flight: How many objects were in flight when the last of them was; None before the first.
        rate_limit: Bytes per second that the run keeps to; None for as fast as it goes.
        held_seconds: For how long the run was held in all.
        free_bytes: How much room there was when the run began; None if that is not known.
        reasons: How many objects did not arrive, by reason.
        stopping: What the run is coming to its end for; None if it is not.
    """

    parts: dict[str, PartTally] = field(default_factory=dict)
    listed: Count = field(default_factory=Count)
    planned: dict[str, Count] = field(default_factory=lambda: {action: Count() for action in _ACTIONS.values()})
    fetched: Count = field(default_factory=Count)
    adopted: Count = field(default_factory=Count)
    skipped: Count = field(default_factory=Count)
    refused: int = 0
    failed: int = 0
    verified: Counter[VerifiedBy] = field(default_factory=Counter)
    failures: list[Failed] = field(default_factory=list)
    reasons: Counter[Reason] = field(default_factory=Counter)
    received_bytes: int = 0
    hashed_bytes: int = 0
    committing: int = 0
    batches: int = 0
    in_flight: int | None = None
    stopping: str | None = None
    retries: int = 0
    throttled: int = 0
    limit: LimitSet | None = None
    rate_limit: int | None = None
    held: Held | None = None
    stopped: Stopped | None = None
    held_seconds: float = 0.0
    free_bytes: int | None = None
    known_by_size: int = 0
    named: bool = False
    listing_failed: bool = False
    denied_later: bool = False

    def __call__(self, event: Event) -> None:  # noqa: C901, PLR0912 - a case for each event.
        """Count an event."""
        match event:
            case Received(size):
                self.received_bytes += size
            case Hashed(size):
                self.hashed_bytes += size
            case PagePlanned(part, decisions, known_by_size):
                self.known_by_size += known_by_size
                self._plan(self.parts.setdefault(part, PartTally()), decisions, begun=event.begun)
            case Committing(objects, in_flight):
                self.committing, self.in_flight = objects, in_flight
                self.batches += 1
            case Committed(outcomes):
                self.committing = 0
                for outcome in outcomes:
                    self._settle(outcome)
            case Retrying() | ListingRetrying():
                self.retries += not event.throttled
                self.throttled += event.throttled
            case Held():
                self.held = event
            case Released():
                self.held = None
                self.held_seconds += event.seconds
            case RoomFound():
                self.free_bytes = event.free_bytes
            case LimitSet():
                self.limit = event
            case Stopped():
                self.stopped = event
                self.stopping = f"{event.by}: {event.message}"
            case RateSet(bytes_per_second):
                self.rate_limit = bytes_per_second
            case PartsKnown(parts, states, named):
                self.named = named
                for part in parts:
                    self.parts[part] = PartTally(states.get(part))
            case LastListed(known):
                for part, last in known.items():
                    self.parts.setdefault(part, PartTally()).expected = Count(last.objects, last.bytes)
            case ListingEnded(part, state, message, denied):
                tally = self.parts.setdefault(part, PartTally())
                if tally.state is not PartState.DENIED:
                    tally.state, tally.message = state, message
                self.listing_failed |= state is PartState.FAILED and not denied
                self.denied_later |= (state is PartState.FAILED and denied) or (
                    state is PartState.DENIED and tally.listed.objects > 0
                )

    @property
    def settled(self) -> Count:
        """What reached an end so far, skipped objects among them."""
        parts = list(self.parts.values())  # In one step: others look on from threads of their own.
        return Count(sum(part.settled.objects for part in parts), sum(part.settled.bytes for part in parts))

    @property
    def listing_is_complete(self) -> bool:
        """Whether every part's listing has ended, so that totals are final."""
        return bool(self.parts) and all(part.state is not None for part in list(self.parts.values()))

    @property
    def unproved(self) -> int:
        """How many objects are known by their size alone: of this run's, and of those that an earlier one put in place."""
        return self.verified[VerifiedBy.SIZE] + self.known_by_size

    @property
    def cut_short(self) -> Stopped | None:
        """What ended the run before all was dealt with; None where nothing did, or nothing was left by then."""
        ends = [part.end(planned=False) for part in self.parts.values()]
        return self.stopped if PartState.STOPPED in ends or not ends else None

    def _plan(self, part: PartTally, decisions: Sequence[Decision], *, begun: bool) -> None:
        for kind, action in _ACTIONS.items():
            sizes = [decision.remote.size for decision in decisions if type(decision) is kind]
            planned = (part.planned[action], self.planned[action]) if begun else ()
            for count in (part.listed, self.listed, *planned):
                count.add(sum(sizes), len(sizes))
            if kind is Skip:
                self.skipped.add(sum(sizes), len(sizes))
                part.skipped.add(sum(sizes), len(sizes))
                part.settled.add(sum(sizes), len(sizes))

    def _settle(self, outcome: Fetched | Adopted | Failed) -> None:
        remote = outcome.remote
        part = self.parts.setdefault(part_of(remote.key, remote.key.partition("/")[0]), PartTally())
        part.settled.add(remote.size)
        match outcome:
            case Fetched():
                self.fetched.add(remote.size)
                part.fetched.add(remote.size)
                self.verified[outcome.verified_by] += 1
            case Adopted():
                self.adopted.add(remote.size)
                part.adopted.add(remote.size)
                self.verified[outcome.verified_by] += 1
            case Failed():
                part.failed += 1
                self.reasons[outcome.reason] += 1
                if outcome.reason in REFUSALS:
                    self.refused += 1
                else:
                    self.failed += 1
                if len(self.failures) < FAILURES_MAX:
                    self.failures.append(outcome)

    def misses_access(self, settings: Settings) -> bool:
        """Say whether something that was asked for may not be had, or nothing of it is there."""
        states = [part.state for part in self.parts.values()]
        denied = PartState.DENIED in states
        nothing = all(state in {PartState.DENIED, PartState.EMPTY, PartState.ABSENT} for state in states)
        return bool(states) and (nothing or self.denied_later or (denied and (settings.strict or self.named)))

    def exit_code(self, settings: Settings, error: BaseException | None = None, *, planned: bool = False) -> int:
        """Return the exit code of a run, for the command line and for Python.

        Args:
            settings: What was asked for.
            error: What ended the run. Without one it is 4, 5, 10, 2, 1, 3 or 0, in this order.
            planned: The run is only foreseen.
        """
        if error is not None and not (isinstance(error, EndpointError) and self.misses_access(settings)):
            return int(getattr(error, "exit_code", 1))
        if self.misses_access(settings):
            return AccessError.exit_code  # What may not be had outranks what could not be reached.
        if self.listing_failed:
            return 5
        cut_short = self.cut_short
        if cut_short is not None and cut_short.by is not StoppedBy.ON_FAILURE:
            return 10
        if not self.listed.objects and (settings.include or settings.exclude):
            return 2
        if self.failed or self.refused:
            return 1
        if settings.require_verified and self._is_unproved(settings, planned=planned):
            return 3
        return 0

    def _is_unproved(self, settings: Settings, *, planned: bool) -> bool:
        """Say whether an object is known by its size alone, or will be."""
        will_be = self.planned["fetch"].objects if planned and settings.verify is Verify.SIZE else 0
        return bool(self.unproved + will_be)


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run, as the contract's JSON has it.

    Attributes:
        command: `all`, `get`, or `plan`.
        source: Where it came from.
        settings: How it was fetched.
        tally: The numbers.
        started: When it began.
        ended: When it ended.
        exit_code: What the command line exits with.
        planned: Whether the decisions are part of it: a plan or a dry run.
    """

    command: str
    source: Source
    settings: Settings
    tally: Tally
    started: datetime
    ended: datetime
    exit_code: int
    planned: bool = False

    def __repr__(self) -> str:
        """Return what a notebook shows: the numbers, and no object."""
        tally = self.tally
        numbers = {"listed": tally.listed, "fetched": tally.fetched, "adopted": tally.adopted, "skipped": tally.skipped}
        if self.planned:
            numbers = {"listed": tally.listed} | {f"to {action}": count for action, count in tally.planned.items()}
        told = [f"{name} {count.objects:,} ({size_text(count.bytes)})" for name, count in numbers.items()]
        told += [f"refused {tally.refused:,}", f"failed {tally.failed:,}"]
        return f"<Summary of {self.command}: exit code {self.exit_code}, {', '.join(told)}>"

    @property
    def duration_seconds(self) -> float:
        """How long the run took."""
        return (self.ended - self.started).total_seconds()

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as the contract's JSON object."""
        tally = self.tally
        summary: dict[str, Any] = {
            "schema": "nccid-fetch/summary/1",
            "command": self.command,
            "bucket": self.source.bucket,
            "group": self.source.group,
            "dest": str(self.settings.dest),
            "started": _iso(self.started),
            "ended": _iso(self.ended),
            "duration_seconds": round(self.duration_seconds, 3),
            "listed": tally.listed.as_dict(),
        }
        if self.planned:
            summary["planned"] = {action: count.as_dict() for action, count in tally.planned.items()}
        if (cut_short := tally.cut_short) is not None:
            summary["stopped"] = {"by": str(cut_short.by), "message": cut_short.message}
        return summary | {
            "fetched": tally.fetched.as_dict(),
            "adopted": tally.adopted.as_dict(),
            "skipped": tally.skipped.as_dict(),
            "refused": {"objects": tally.refused},
            "failed": {"objects": tally.failed},
            "verified": {proof.label: tally.verified[proof] for proof in VerifiedBy},
            "parts": {
                name: {"state": str(part.end(planned=self.planned)), "listed": part.listed.as_dict()}
                for name, part in tally.parts.items()
            },
            "failures": [
                {"key": failed.remote.key, "reason": str(failed.reason), "message": failed.message}
                for failed in tally.failures
            ],
            "exit_code": self.exit_code,
        }


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
