"""The events of a run as JSON lines, for programs that follow it. docs/events.md is their schema."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nccid_fetch.events import (
    Adopted,
    Committed,
    Event,
    Failed,
    Fetched,
    Hashed,
    LastListed,
    Outcome,
    PagePlanned,
    Received,
)
from nccid_fetch.model import Check, Fetch, Refuse, RemoteObject, Skip
from nccid_fetch.summary import Summary

from .files import open_to_append, unwritable, write_all
from .outlet import BYTES_MAX, Outlet
from .times import now, stamp

SCHEMA = "nccid-fetch/events/1"
STDOUT = Path("-")
_ACTIONS = {Fetch: "fetch", Check: "check", Skip: "skip", Refuse: "refuse"}
_OUTCOMES = {Fetched: "fetched", Adopted: "adopted", Failed: "failed"}
_write_json = json.JSONEncoder(separators=(",", ":"), default=str).encode
Lines = Iterator[dict[str, Any]]


def lines_of(event: Event, received_bytes: int) -> Lines:
    """Yield an event as a program is told of it, without the time: one line, or one for each outcome and one for the batch.

    Args:
        event: What happened. Bytes that were received have no line of their own: they come with the next batch.
        received_bytes: How many came until then.
    """
    match event:
        case Received() | Hashed():
            return
        case LastListed(parts):
            yield {"event": "last_listed", "parts": {part: listed._asdict() for part, listed in parts.items()}}
        case PagePlanned(part, decisions, known_by_size):
            line: dict[str, Any] = {"event": "page_planned", "part": part}
            for kind, action in _ACTIONS.items():
                sizes = [decision.remote.size for decision in decisions if type(decision) is kind]
                line[action] = {"objects": len(sizes), "bytes": sum(sizes)}
            yield line | {"known_by_size": known_by_size, "begun": event.begun}
        case Committed(outcomes):
            yield from map(_outcome, outcomes)
            numbers = {word: sum(type(o) is kind for o in outcomes) for kind, word in _OUTCOMES.items()}
            yield {"event": "committed", **numbers, "received_bytes": received_bytes}
        case _:
            facts = {field.name: getattr(event, field.name) for field in fields(event)}
            yield {"event": name_of(type(event))} | dict(_plain(facts))


def name_of(event: type) -> str:
    """Return what an event is called: `ListingEnded` is `listing_ended`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


def _plain(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, fact in facts.items():
        if isinstance(fact, RemoteObject):
            yield "key", fact.key
        elif isinstance(fact, datetime):
            yield name, stamp(fact.astimezone(UTC))
        elif name != "since":  # On a clock that means nothing outside.
            yield name, fact


def _outcome(outcome: Outcome) -> dict[str, Any]:
    remote = outcome.remote
    line = {"event": _OUTCOMES[type(outcome)], "key": remote.key, "size": remote.size, "etag": remote.etag}
    if isinstance(outcome, Failed):
        return line | {"reason": outcome.reason, "message": outcome.message}
    return line | {"verified_by": outcome.verified_by.label}


class EventStream:
    """Listens to a run, and writes what it hears as JSON lines, a page or a batch at a time, without waiting.

    A reader that goes away is told of once, and the run goes on; so it does where nothing can be written any more. A reader
    that looks away for minutes misses something, and a line says how much.

    Args:
        path: The file, pipe or device, appended to; `-` for stdout.
        on_failure: Called, in another thread, when it cannot be written any more.
        clock: The time of day.

    Raises:
        UsageError: It cannot be opened.
    """

    def __init__(
        self, path: Path, *, on_failure: Callable[[OSError], object], clock: Callable[[], datetime] = now
    ) -> None:
        self._clock = clock
        self._received_bytes = 0
        try:
            # Of its own: while a thread has `sys.stdout` and waits for a reader, nobody else could as much as flush it.
            self._descriptor = os.dup(sys.stdout.fileno()) if path == STDOUT else open_to_append(path)
        except OSError as error:
            raise unwritable("--events", path, error) from error
        self._outlet = Outlet("events", self._write, gap=self._gap, on_failure=on_failure, bytes_max=BYTES_MAX)

    def begin(self, command: str, facts: dict[str, Any]) -> None:
        """Write the first line."""
        self._outlet.put(self._text([{"event": "started", "command": command} | facts], {"schema": SCHEMA}))

    def __call__(self, event: Event) -> None:
        """Write an event. What waits is its lines: the event itself may be a page of decisions, a hundred times as large."""
        if type(event) is Received:
            self._received_bytes += event.size
        elif text := self._text(lines_of(event, self._received_bytes)):
            self._outlet.put(text)

    def end(self, code: int, summary: Summary | None, seconds: float) -> bool:
        """Write the last line, but wait no longer than this; return whether all of it was written."""
        self._outlet.put(
            self._text([{"event": "ended", "exit_code": code, "summary": summary.as_dict() if summary else None}])
        )
        written = self._outlet.close(seconds)
        if written:
            os.close(self._descriptor)
        return written

    def _text(self, lines: Iterable[dict[str, Any]], before: Mapping[str, Any] = MappingProxyType({})) -> bytes:
        at = {**before, "time": stamp(self._clock())}
        return "".join(f"{_write_json(at | line)}\n" for line in lines).encode()

    def _gap(self, lost: int) -> bytes:
        return self._text([{"event": "lost", "events": lost}])

    def _write(self, text: bytes) -> None:
        write_all(self._descriptor, text)
