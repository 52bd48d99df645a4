"""What people and scripts read: summaries, tables, errors. stdout carries data, stderr all else."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from nccid_fetch.errors import AccessError, RunError
from nccid_fetch.events import Held, LimitSet, Released
from nccid_fetch.keys import printable
from nccid_fetch.model import PartState, VerifiedBy
from nccid_fetch.progress import Waiting
from nccid_fetch.summary import Summary
from nccid_fetch.units import size_text, time_text

_ASK = "choose another --profile, or ask NCCID for access"


def objects_text(number: int) -> str:
    """Return a number of objects."""
    return f"{number:,} object{'' if number == 1 else 's'}"


def waiting_text(waiting: Waiting) -> str:
    """Return what a run is held by: waiting for the endpoint, 2m 10s of 15m 00s; or waiting for 19:00 (--window)."""
    if waiting.until is not None:
        return f"waiting for {waiting.until} (--window)"
    return f"waiting for {waiting.reason}, {time_text(waiting.seconds)} of {time_text(waiting.retry_for_seconds)}"


def hold_text(event: Held | Released) -> str:
    """Return that a run waits, or that it goes on."""
    if isinstance(event, Released):
        return f"going on: waited {time_text(event.seconds)} for {event.reason}"
    if event.hour is not None:
        return f"waiting for {event.hour} (--window)"
    return f"waiting for {event.reason}: {event.message}; asked again in {event.pause_seconds:.1f}s"


def limit_text(limit: LimitSet) -> str:
    """Return how many objects may be in flight, unless that is what was asked for."""
    if limit.of is None:
        return f"{limit.objects} in flight (auto)"
    return f"slowed down by the server: {limit.objects} of {limit.of} in flight" if limit.objects < limit.of else ""


def rate_text(bytes_per_second: int | None) -> str:
    """Return how many bytes may come."""
    return "off" if bytes_per_second is None else f"{size_text(bytes_per_second)}/s"


def note(text: str) -> None:
    """Write a line to stderr, and let whoever keeps a record of that have it first."""
    for hear in _hearers:
        hear(text)
    say(text)


def say(text: str) -> None:
    """Write a line to stderr alone, in one piece: whoever keeps a record does so in a thread of its own, and lines must not mix."""
    with suppress(OSError):  # A terminal that went away is no reason for a run to end.
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()


_hearers: list[Callable[[str], object]] = []


@contextmanager
def heard_by(hear: Callable[[str], object]) -> Iterator[None]:
    """Let a function have every line that `note` writes, while the block lasts. It is called in whichever thread that is."""
    _hearers.append(hear)
    try:
        yield
    finally:
        _hearers.remove(hear)


def print_error(error: RunError) -> None:
    """Write what went wrong and the next step to stderr."""
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")


def print_json(value: dict[str, Any]) -> None:
    """Write one JSON object to stdout."""
    answer.is_given = True
    print(json.dumps(value, indent=2), flush=True)


class _Answer:
    """What `--format json` promises: one object, whatever happens.

    Attributes:
        is_given: Whether this command has printed it, or begun to.
    """

    is_given = False


answer = _Answer()


def print_table(rows: list[tuple[str, ...]], out: TextIO | None = None) -> None:
    """Write rows of text in columns; the first row is the heading, all columns but the first are numbers."""
    for line in columns_of(rows):
        print(line, file=out or sys.stdout)


def columns_of(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows of text as lines, one column under the other."""
    rows = [tuple(map(printable, row)) for row in rows]  # The names of parts are a server's words as well.
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


PROOFS = {
    VerifiedBy.MD5: "MD5",
    VerifiedBy.MULTIPART_MD5: "multipart MD5",
    VerifiedBy.CHECKSUM: "checksum",
    VerifiedBy.SIZE: "size alone",
}


def note_outcome(summary: Summary, *, quiet: bool, raised: bool) -> None:
    """Say on stderr what did not come, and why.

    Args:
        summary: The end of the run.
        quiet: Say only what is an error.
        raised: An error ended the run, and is about to be printed: then a part that did not come is not what did.
    """
    for level, text in _remarks(summary, raised=raised):
        if level == "error" or not quiet:
            note(f"{level}: {text}")
    if quiet and not raised and summary.exit_code == 1:
        tally = summary.tally
        failed = objects_text(tally.failed + tally.refused)
        note(f"error: {failed} failed or were refused; the table `failure` of the journal names them all")


def _remarks(summary: Summary, *, raised: bool) -> Iterator[tuple[str, str]]:
    states = {part.state for part in summary.tally.parts.values()}
    no_access = summary.exit_code == AccessError.exit_code and not raised
    denied = "error" if no_access else "note"
    asked = f"; {_ASK}" if no_access else ""
    nothing_there = "error" if no_access and PartState.DENIED not in states else "note"
    for name, part in summary.tally.parts.items():
        match part.state:
            case PartState.DENIED:
                yield denied, f"{name} is denied: {part.message or 'the credentials may not list it'}{asked}"
            case PartState.ABSENT | PartState.EMPTY:
                yield nothing_there, f"{name} is {part.state}: {part.message or 'there are no objects in it'}"
            case PartState.COMPLETE if part.message:
                yield "warning", f"{name}: {part.message}"
            case PartState.FAILED:
                yield "error", f"the listing of {name} broke off: {part.message}; run the same command again"
    if (cut_short := summary.tally.cut_short) is not None and not raised:
        yield "error" if summary.exit_code == 1 else "note", f"stopped by {cut_short.by}: {cut_short.message}"
        if not summary.planned:
            yield "hint", cut_short.hint
    if summary.exit_code == 3:
        by_size = summary.tally.unproved
        if by_size or not summary.planned:
            yield "error", f"{objects_text(by_size)} could be proved by size alone"
        else:
            yield "error", "--verify size proves nothing that --require-verified counts"
