"""What `status` shows: a page for a terminal and for an e-mail, and the same as one JSON object."""

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nccid_fetch.holdings import Holdings, JournalState, PartHolding
from nccid_fetch.keys import STATE_FOLDER, printable
from nccid_fetch.model import PartState, VerifiedBy
from nccid_fetch.progress import PartProgress
from nccid_fetch.status import Life, RunStatus, seconds_of
from nccid_fetch.summary import Count
from nccid_fetch.units import size_text, time_text
from nccid_fetch.warehouse import BUCKET, GROUPS, phase_of

from .display import PLAIN_SECONDS, line
from .output import PROOFS, columns_of, objects_text

WIDTH = 80


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at a destination.

    Attributes:
        life: What has become of the last run.
        status: What that says of itself; None where it says nothing.
        holdings: What the journal says; None where it is missing, in use or left open.
        journal: Whether it can be read.
        set_aside: What is in quarantine.
    """

    life: Life
    status: RunStatus | None
    holdings: Holdings | None
    journal: JournalState
    set_aside: Count


def page(dest: Path, look: Look, now: float) -> Iterator[str]:
    """Yield the lines of the page, which fits a terminal and an e-mail.

    Args:
        dest: The destination.
        look: What was found there.
        now: Seconds since the epoch.
    """
    source = look.holdings or look.status
    if source is not None:
        yield printable(f"{source.bucket}/{source.group} -> {dest}")
        yield ""
    known = look.status is not None or look.life.goes_on
    yield from _wrapped(of_the_run(look.status, look.life, now) if known else _of_the_last(look))
    if look.status is not None and look.life.goes_on:
        yield from _wrapped(*(f"Warning: {warning}." for warning in look.status.warnings))
    if look.status is not None and look.life in {Life.RUNNING, Life.SILENT}:
        yield from _wrapped(line(look.status.progress))
    yield ""
    details = list(_details(look))
    if look.holdings is not None:
        yield from _held_table(look.holdings)
    elif look.status is not None and look.status.progress.parts:
        yield from _progress_table(look.status.progress.parts)
        yield from _wrapped(_why_no_journal(look))
    if details:
        yield ""
        yield from details
    yield ""
    sentence, command = verdict(dest, look)
    yield from _wrapped(sentence)
    yield f"  {printable(command)}"  # In one line, however long: it is to be copied.


def _wrapped(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(printable(text), WIDTH, break_long_words=False, break_on_hyphens=False)


def of_the_run(status: RunStatus | None, life: Life, now: float) -> str:
    """Say in a sentence or two what has become of the last run.

    Args:
        status: What it says of itself.
        life: What has become of it.
        now: Seconds since the epoch.
    """
    if life is Life.BEGINNING:
        return "A run has this destination, and has said nothing of itself yet."
    if status is None:
        return "Nothing is known of any run."
    end = status.end
    process = f"process {status.process.pid} on {status.process.host}"
    called, since = f"{status.command}, {process}", _time(status.started)
    if end is not None:
        took = time_text(max(0.0, seconds_of(end.time) - seconds_of(status.started)))
        outcome = "" if not end.exit_code else f" (exit code {end.exit_code})"
        return f"The last run, {status.command}, ended {_time(end.time)} after {took}{outcome}: {end.message}."
    heard = time_text(max(0.0, now - seconds_of(status.heartbeat)))
    match life:
        case Life.GONE:
            return (
                f"The last run ({called}, begun {since}) is gone: it was killed, or its machine went down. It was last "
                f"heard of {_time(status.heartbeat)}, {heard} ago. What was verified by then is in place."
            )
        case Life.SILENT:
            return (
                f"A run goes on ({called}, begun {since}), but has said nothing for {heard}: it was stopped, or what it "
                "writes to hangs. Look at its machine and its disk."
            )
    still = now - seconds_of(status.changed)
    quiet = f"; nothing has changed for {time_text(still)}" if still > PLAIN_SECONDS else ""
    return f"A run goes on: {called}, begun {since}{quiet}."


def _of_the_last(look: Look) -> str:
    """Say of the last run what the journal alone knows."""
    last = look.holdings.last_run if look.holdings is not None else None
    if last is None and look.journal is JournalState.LEFT_OPEN:
        return "The last run was killed; what it left is too much to be copied, and is read again after the next run."
    if last is None:
        return "Nothing is known of any run."
    if last.ended is None:
        return f"The last run, {last.command}, begun {_time(last.started)}, was killed."
    return f"The last run, {last.command}, ended {_time(last.ended)}."


def _time(text: str) -> str:
    return f"{text[:10]} {text[11:16]} UTC"


def _held_table(holdings: Holdings) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("part", "listed", "in place", "missing", "failed", "bytes", "listed on")]
    total = [0, 0, 0, 0, 0]
    for name in parts_of(holdings):
        part, listed = holdings.parts.get(name, PartHolding()), holdings.listed.get(name)
        failed, missing = part.failed.total(), missing_of(holdings, name)
        numbers = (listed.objects if listed else 0, part.in_place.objects, missing or 0, failed, part.in_place.bytes)
        total = [sum(pair) for pair in zip(total, numbers, strict=True)]
        rows.append(
            (
                name,
                "?" if listed is None else f"{listed.objects:,}",
                f"{part.in_place.objects:,}",
                "?" if missing is None else f"{missing:,}",
                f"{failed:,}",
                size_text(part.in_place.bytes),
                "never" if listed is None else listed.ended[:10],
            )
        )
    sums = [f"{number:,}" for number in total[:4]]
    if None in {missing_of(holdings, name) for name in parts_of(holdings)}:
        sums[0] = sums[2] = "?"
    rows.append(("all", *sums, size_text(total[4]), ""))
    yield from columns_of(rows)


def _progress_table(parts: tuple[PartProgress, ...]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("part", "listed", "done", "bytes", "of", "state")]
    rows += [
        (
            part.name,
            f"{part.listed_objects:,}",
            f"{part.settled_objects:,}",
            size_text(part.settled_bytes),
            size_text(part.listed_bytes),
            part.state or "listing",
        )
        for part in parts
    ]
    yield from columns_of(rows)


def _details(look: Look) -> Iterator[str]:
    if look.holdings is not None:
        yield from _held_details(look.holdings, look)
    if look.set_aside.objects:
        files = f"{look.set_aside.objects:,} file{'' if look.set_aside.objects == 1 else 's'}"
        yield from _labelled("set aside", [files, size_text(look.set_aside.bytes), f"in {STATE_FOLDER}/quarantine"])


def _held_details(holdings: Holdings, look: Look) -> Iterator[str]:
    proofs = [f"{holdings.verified[proof]:,} by {PROOFS[proof]}" for proof in VerifiedBy if holdings.verified[proof]]
    if proofs:
        yield from _labelled("verified", proofs)
    reasons: Counter[str] = sum((part.failed for part in holdings.parts.values()), Counter())
    if reasons:
        yield from _labelled("failed", [f"{number:,} {reason}" for reason, number in reasons.most_common()])
    if denied := _in_state(look, PartState.DENIED):
        yield from _labelled("denied", denied)


def _labelled(label: str, items: Sequence[str]) -> Iterator[str]:
    text = printable(", ".join(items))
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"{label:<10}", subsequent_indent=" " * 10)


def _in_state(look: Look, state: PartState) -> list[str]:
    """Return the parts that came to this state in the last run."""
    parts = look.status.progress.parts if look.status is not None else ()
    return [part.name for part in parts if part.state == state]


def _why_no_journal(look: Look) -> str:
    if look.life.goes_on:
        return "These are the run's own numbers; what the journal has shows when it is over."
    heard = look.status.heartbeat if look.status is not None else ""
    return f"These are the run's own numbers of {_time(heard)}. The next run brings its journal in order."


def parts_of(holdings: Holdings) -> list[str]:
    """Return the parts that anything is known of."""
    return sorted({*holdings.listed, *holdings.parts}, key=lambda part: (phase_of(part), part))


def missing_of(holdings: Holdings, part: str) -> int | None:
    """Return how many objects of a part were listed and are not in place, at least; None if it was never listed to its end.

    What is in place and was not listed, because the bucket has lost it since, hides as many.
    """
    listed = holdings.listed.get(part)
    if listed is None:
        return None
    return max(0, listed.objects - holdings.parts.get(part, PartHolding()).in_place.objects)


def flaws_of(look: Look) -> list[str]:
    """Return why a destination does not hold all that was last listed, as far as is known; nothing where it does."""
    holdings = look.holdings
    if holdings is None:
        return ["its journal was left open"] if look.journal is JournalState.LEFT_OPEN else ["it has no journal"]
    missing = {part: missing_of(holdings, part) for part in parts_of(holdings)}
    number = sum(count or 0 for count in missing.values())
    failed = sum(part.failed.total() for part in holdings.parts.values())
    never = [part for part, count in missing.items() if count is None]
    doubted = [part for part, listed in holdings.listed.items() if not listed.is_whole]
    broken = _in_state(look, PartState.FAILED)
    flaws = {
        f"{objects_text(number)} of what was last listed {'is' if number == 1 else 'are'} missing": number,
        f"{objects_text(failed)} failed or {'was' if failed == 1 else 'were'} refused": failed,
        f"never listed to the end: {', '.join(never)}": never,
        f"the last listing may not have been the whole: {', '.join(doubted)}": doubted,
        f"the last listing broke off: {', '.join(broken)}": broken,
        "nothing was ever listed to its end": not missing,
        "the last run did not come to its end": look.life is Life.GONE,
    }
    return [flaw for flaw, holds in flaws.items() if holds]


def verdict(dest: Path, look: Look) -> tuple[str, str]:
    """Return the last sentence, that all is there or what is missing, and what to type then."""
    if look.life.goes_on:
        return "To follow it:", shlex.join(["nccid-fetch", "status", "--watch", "--dest", str(dest)])
    if flaws := flaws_of(look):
        return f"Incomplete: {'; '.join(flaws)}. To go on:", command_of(dest, look)
    return "Complete: all that was last listed is in place. To look for what is new:", command_of(dest, look)


def command_of(dest: Path, look: Look) -> str:
    """Return the command that goes on with what the last run did."""
    source = look.holdings or look.status
    asked = look.status.asked if look.status is not None else ()
    words = ["nccid-fetch", *(("get", *asked) if asked else ("all",)), "--dest", str(dest)]
    if source is not None:
        words += ["--bucket", source.bucket] if source.bucket != BUCKET else []
        words += ["--group", source.group] if source.group != GROUPS[0] else []
    return shlex.join(words)


def as_dict(dest: Path, look: Look) -> dict[str, Any]:
    """Return what was found as one JSON object."""
    holdings, status = look.holdings, look.status
    source = holdings or status
    return {
        "schema": "nccid-fetch/holdings/1",
        "dest": str(dest),
        "bucket": source.bucket if source is not None else None,
        "group": source.group if source is not None else None,
        "run": {"life": str(look.life)} | ({} if status is None else status.as_dict()),
        "journal": "in use" if look.life.goes_on else str(look.journal),
        "parts": None if holdings is None else {name: _part_dict(holdings, name) for name in parts_of(holdings)},
        "verified": None if holdings is None else {p.label: holdings.verified[p] for p in VerifiedBy},
        "set_aside": look.set_aside.as_dict(),
        "complete": not look.life.goes_on and not flaws_of(look),
        "exit_code": 0,
    }


def _part_dict(holdings: Holdings, name: str) -> dict[str, Any]:
    part, listed = holdings.parts.get(name, PartHolding()), holdings.listed.get(name)
    return {
        "listed": None if listed is None else listed._asdict(),
        "in_place": part.in_place.as_dict(),
        "missing": missing_of(holdings, name),
        "failed": dict(part.failed),
    }
