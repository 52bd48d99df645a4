"""The end of a run in words, fit to be pasted into an e-mail: what came, how it was proved, what did not come, what to do.

The first line says it all. What follows keeps to 78 columns, but for the user's own paths and the bucket's keys.
"""

import errno
import os
import shlex
import sys
from collections.abc import Iterator

from nccid_fetch.errors import Reason
from nccid_fetch.keys import printable
from nccid_fetch.model import PartState, VerifiedBy
from nccid_fetch.summary import REFUSALS, Count, PartTally, Summary, Tally
from nccid_fetch.units import size_text, time_text

from .output import PROOFS, columns_of, objects_text

KEYS_SHOWN = 3
"""Of each reason; the journal has them all."""
_LABEL_WIDTH = 10
_EVERY_BYTE = "every byte was compared with the digest that the bucket has of it"
_SIZE_ALONE = "by size alone: as long as it should be, and no more is known of it"
_WHAT_NOW = {
    Reason.CHANGED: "replaced in the bucket while it was fetched: run it again",
    Reason.GONE: "no longer in the bucket: there is nothing to do",
    Reason.DENIED: "may be listed, but not read: ask NCCID for access",
    Reason.ARCHIVED: "in an archive: ask NCCID to restore it, then run it again",
    Reason.UNSAFE_KEY: "its name leads out of the folder or is no name: tell NCCID",
    Reason.CONFLICT: "its place is taken: move away what is there, then run it again",
    Reason.DIGEST_MISMATCH: "what comes is not what the bucket says: run it again",
    Reason.SHORT_BODY: "it comes shorter or longer than listed: run it again",
    Reason.RETRIES_EXHAUSTED: "no attempt went well: run it again",
    Reason.LOCAL_ERROR: "this machine could not read or write it: mend that, run it again",
}


def print_summary(summary: Summary) -> None:
    """Write the end of a run to stdout. If that was a terminal which has gone away, nobody reads it, and that is all."""
    try:
        print(summary_text(summary, shlex.join(["nccid-fetch", *sys.argv[1:]])), flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # What is still to be flushed must not fail again.


def summary_text(summary: Summary, command_line: str) -> str:
    """Return the end of a run in words.

    Args:
        summary: The end of the run.
        command_line: What was typed, so that it can be typed again.
    """
    sections = [[headline(summary)], list(_circumstances(summary)), list(columns_of(_table(summary)))]
    sections += [list(_plan(summary) if summary.planned else _account(summary))]
    sections += [list(_failures(summary.tally)), list(_next(summary, command_line))]
    return "\n\n".join("\n".join(section) for section in sections if section)


def headline(summary: Summary) -> str:
    """Return what a run came to in one line."""
    tally = summary.tally
    total = f"{objects_text(tally.listed.objects)}, {size_text(tally.listed.bytes)}"
    missing = _parts_missing(tally)
    if summary.planned:
        fetch = tally.planned["fetch"]
        return f"Planned: {_amount(fetch)}, to fetch, of {tally.listed.objects:,} in all{missing}"
    if summary.exit_code == 0:
        return f"Complete: {total}, {_how_proved(tally)}{missing}"
    if summary.exit_code == 3:
        return f"Not proved: {tally.unproved:,} of {total}, are known by size alone{missing}"
    at_least = "" if tally.listing_is_complete else "at least "
    return f"Incomplete: {_amount(_in_place(tally))}, in place of {at_least}{tally.listed.objects:,}{missing}"


def _parts_missing(tally: Tally) -> str:
    told = ""
    for state in (PartState.DENIED, PartState.FAILED, PartState.ABSENT, PartState.EMPTY):
        names = [printable(name) for name, part in tally.parts.items() if part.state is state]
        told += f"; {state}: {', '.join(names)}" if names else ""
    return told


def _how_proved(tally: Tally) -> str:
    kinds = [proof for proof in VerifiedBy if tally.verified[proof]]
    if not kinds:
        return "all in place already"
    if VerifiedBy.SIZE in kinds:
        how = f"{tally.verified[VerifiedBy.SIZE]:,} known by size alone"
        return how if not tally.skipped.objects else f"{how}, {tally.skipped.objects:,} in place already"
    how = f"proved by {PROOFS[kinds[0]]}" if len(kinds) == 1 else "proved"
    if not tally.skipped.objects:
        return f"all {how}"
    return f"{sum(tally.verified.values()):,} {how}, {tally.skipped.objects:,} in place already"


def _in_place(tally: Tally) -> Count:
    counts = (tally.fetched, tally.adopted, tally.skipped)
    return Count(sum(count.objects for count in counts), sum(count.bytes for count in counts))


def _circumstances(summary: Summary) -> Iterator[str]:
    source = f"{summary.source.bucket}/{summary.source.group}"
    verb = "Planned" if summary.planned else "Fetched"
    took = time_text(summary.duration_seconds)
    yield f"{verb} {source} -> {printable(str(summary.settings.dest))} in {took}"
    if not summary.planned:
        began, ended = (f"{time.astimezone():%Y-%m-%d %H:%M}" for time in (summary.started, summary.ended))
        rate = size_text(summary.tally.received_bytes / max(summary.duration_seconds, 1.0))
        yield f"from {began} to {ended}, {rate}/s on average"


def _table(summary: Summary) -> list[tuple[str, ...]]:
    """Return a row for each part, with those columns that have anything in them."""
    parts = summary.tally.parts
    numbers = _planned_numbers if summary.planned else _numbers
    counted = {name: numbers(part) for name, part in parts.items()}
    totals = {column: sum(row[column] for row in counted.values()) for column in numbers(PartTally())}
    columns = [column for number, column in enumerate(totals) if totals[column] or not number]
    rows: list[tuple[str, ...]] = [("part", "objects", "bytes", *columns, "state")]
    rows += [
        (
            name,
            f"{part.listed.objects:,}",
            size_text(part.listed.bytes),
            *(f"{counted[name][column]:,}" for column in columns),
            str(part.end(planned=summary.planned)),
        )
        for name, part in parts.items()
    ]
    listed = summary.tally.listed
    rows.append(("all", f"{listed.objects:,}", size_text(listed.bytes), *(f"{totals[c]:,}" for c in columns), ""))
    return rows


def _numbers(part: PartTally) -> dict[str, int]:
    return {
        "fetched": part.fetched.objects,
        "already": part.adopted.objects + part.skipped.objects,
        "failed": part.failed,
        "left": part.listed.objects - part.settled.objects,
    }


def _planned_numbers(part: PartTally) -> dict[str, int]:
    return {action: count.objects for action, count in part.planned.items()}


def _plan(summary: Summary) -> Iterator[str]:
    tally = summary.tally
    for action, count in tally.planned.items():
        if count.objects or action == "fetch":
            yield _line(f"to {action}", _amount(count))
    if tally.free_bytes is not None:
        short = tally.planned["fetch"].bytes - tally.free_bytes
        too_little = f", {size_text(short)} too little" if short > 0 else ""
        yield _line("free", f"{size_text(tally.free_bytes)} where it is to go{too_little}")


def _account(summary: Summary) -> Iterator[str]:
    tally = summary.tally
    yield _line("fetched", _amount(tally.fetched))
    if tally.adopted.objects:
        yield _line("adopted", f"{_amount(tally.adopted)} (found in place and proved, not downloaded)")
    yield _line("skipped", f"{_amount(tally.skipped)} (recorded and unchanged)")
    proofs = [f"{tally.verified[proof]:,} by {PROOFS[proof]}" for proof in VerifiedBy if tally.verified[proof]]
    if proofs:
        yield _line("verified", ", ".join(proofs))
    if sum(tally.verified.values()) > tally.verified[VerifiedBy.SIZE]:
        yield _line("", f"({_EVERY_BYTE})")
    if tally.verified[VerifiedBy.SIZE]:
        yield _line("", f"({_SIZE_ALONE})")
    troubles = {"retries": tally.retries, "requests told to slow down": tally.throttled}
    told = [f"{number:,} {what}" for what, number in troubles.items() if number]
    if tally.held_seconds >= 1:
        told.append(f"{time_text(tally.held_seconds)} of waiting")
    if told:
        yield _line("delays", ", ".join(told))


def _failures(tally: Tally) -> Iterator[str]:
    """Say what did not come, reason by reason: how many, what to do, and the first few keys."""
    if not tally.reasons:
        return
    yield _line("failed", f"{objects_text(tally.failed + tally.refused)} did not arrive")
    for reason, number in tally.reasons.most_common():
        yield f"  {reason}, {number:,}: {_WHAT_NOW[reason]}"
        shown = [failed for failed in tally.failures if failed.reason is reason][:KEYS_SHOWN]
        yield from (f"    {reason}: {printable(failed.remote.key)}: {printable(failed.message)}" for failed in shown)
        if number > len(shown):
            yield f"    and {number - len(shown):,} more; the table `failure` of the journal names them all"


def _next(summary: Summary, command_line: str) -> Iterator[str]:
    """Say what to type next, where there is anything."""
    if summary.planned:
        return
    tally = summary.tally
    if any(part.end(planned=False) in {PartState.STOPPED, PartState.FAILED} for part in tally.parts.values()):
        yield "To go on, run the same command again:"
    elif set(tally.reasons) - REFUSALS - {Reason.GONE}:
        yield "To try once more what may mend, run the same command again:"
    else:
        return
    yield f"  {printable(command_line)}"


def _amount(count: Count) -> str:
    return f"{objects_text(count.objects)}, {size_text(count.bytes)}"


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"
