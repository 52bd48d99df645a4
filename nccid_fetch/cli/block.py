"""How far a run is, as a terminal shows it: what is most important first, and as much of the rest as there is room for.

Everything here is made from a `Progress` and a size alone, so that any process may show any run.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nccid_fetch.keys import printable
from nccid_fetch.progress import PartProgress, Progress
from nccid_fetch.units import size_text, time_text

from .output import waiting_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

SILENT_SECONDS = 5.0
"""A run that does nothing for so long says what it waits for."""
BAR_WIDTHS = (10, 40)
GAP = 2
ROOMY_LINES_MIN = 12
"""On terminals with fewer lines there are no headings and no explanations: numbers come first."""


def held_up_by(progress: Progress) -> Iterator[str]:
    """Yield what a run waits for or ends for, one phrase for each."""
    if progress.stopping is not None:
        yield f"stopping: {printable(progress.stopping)}"
    if progress.waiting is not None:
        yield printable(waiting_text(progress.waiting))
    elif progress.committing_seconds >= SILENT_SECONDS:
        seconds = time_text(progress.committing_seconds)
        yield f"waiting for the disk to flush {progress.committing_objects:,} objects, for {seconds} now"
    elif progress.idle_seconds >= SILENT_SECONDS:
        yield from _silence(progress)


def _silence(progress: Progress) -> Iterator[str]:
    seconds = time_text(progress.idle_seconds)
    if not progress.parts:
        yield f"no answer for {seconds}"
    elif progress.settled_objects < progress.listed_objects:
        yield f"nothing received for {seconds}"
    elif not progress.listing_is_complete:
        yield f"waiting for the listing, for {seconds} now"


def amounts(progress: Progress) -> Iterator[str]:
    """Yield how far a run is and how fast, one phrase for each number."""
    if not progress.parts:
        yield "asking which parts may be listed"
        return
    total_objects, total_bytes = f"{progress.listed_objects:,}", size_text(progress.listed_bytes)
    if not progress.listing_is_complete:
        expected = progress.expected_objects, progress.expected_bytes
        if expected[0] is not None and expected[1] is not None and expected[0] > progress.listed_objects:
            total_objects, total_bytes = f"about {expected[0]:,}", f"about {size_text(expected[1])}"
        else:
            total_objects = f"at least {total_objects}"
    yield f"{progress.settled_objects:,} of {total_objects} objects"
    yield f"{size_text(progress.settled_bytes)} of {total_bytes}"
    if progress.hashed_bytes_per_second:
        yield f"hashing {size_text(progress.hashed_bytes_per_second)}/s of what is there"
    if progress.bytes_per_second or not progress.hashed_bytes_per_second:
        limit = "" if progress.rate_limit is None else f" (limit {size_text(progress.rate_limit)}/s)"
        yield f"{size_text(progress.bytes_per_second)}/s{limit}"
    left = None if _is_at_a_stand(progress) else progress.seconds_left
    if not progress.listing_is_complete:
        yield "listing..."
        if left:
            yield f"about {_left_text(left)} left"
    elif progress.settled_objects < progress.listed_objects:
        yield "waiting" if left is None else f"{_left_text(left)} left"


def _left_text(seconds: float) -> str:
    return time_text(max(1.0, seconds))


def _is_at_a_stand(progress: Progress) -> bool:
    """Say whether nothing goes on, so that no time left would be true."""
    is_idle = not (progress.bytes_per_second or progress.hashed_bytes_per_second)
    return is_idle or progress.waiting is not None or progress.idle_seconds >= SILENT_SECONDS


def counts(progress: Progress) -> Iterator[str]:
    """Yield what became of objects and requests where there are any, and how many are in flight."""
    numbers = {
        "verified": progress.verified_objects,
        "skipped": progress.skipped_objects,
        "failed": progress.failed_objects,
        "retry" if progress.retries == 1 else "retries": progress.retries,
        "throttled": progress.throttled,
    }
    yield from (f"{number:,} {name}" for name, number in numbers.items() if number)
    limit, of, now = progress.limit_objects, progress.limit_of, progress.in_flight
    if limit is None:
        if now is not None:
            yield f"{now} in flight"
    elif of is None:
        yield f"{limit} in flight (auto)" if now is None else f"{now} of {limit} in flight (auto)"
    elif limit < of:
        yield f"slowed down by the server: {limit} of {of} in flight"
    elif now is not None:
        yield f"{now} of {limit} in flight"


@dataclass(frozen=True, slots=True)
class Block:
    """A run as lines on a terminal: what holds it up, how far it is, what became of it, and a row for each part.

    Attributes:
        progress: How far it is.
        told: A sentence to stand above it all.
    """

    progress: Progress
    told: str = ""

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Render it into the size that the terminal has at this moment."""
        width, height = options.max_width, max(1, options.size.height - 1)
        is_roomy = options.size.height >= ROOMY_LINES_MIN
        head = list(self._head(width, explained=is_roomy))[:height]
        yield from head
        yield from self._parts(width, height - len(head), headed=is_roomy)

    def _head(self, width: int, *, explained: bool) -> Iterator["Text"]:
        from rich.text import Text  # noqa: PLC0415 - slow to import, and only terminals need it.

        progress = self.progress
        yield from (Text(row) for row in textwrap.wrap(printable(self.told), width))
        held = list(held_up_by(progress))
        if progress.waiting is not None and explained:
            held.append(printable(progress.waiting.message))
        for phrase in held:
            yield from (Text(row, style="yellow") for row in wrapped([phrase], width))
        done = [] if progress.share is None else [f"{int(progress.share * 100)} %"]
        for phrases in (
            [*done, *amounts(progress)],
            [f"{time_text(progress.elapsed_seconds)} so far", *counts(progress)],
        ):
            yield from (Text(row, no_wrap=True, overflow="ellipsis") for row in wrapped(phrases, width))

    def _parts(self, width: int, height: int, *, headed: bool) -> "RenderResult":
        """Render as many parts as there are lines for, those that are under way before those that are not."""
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        parts, left_out = self.progress.parts, 0
        headed = headed and height > len(parts)
        if len(parts) > height:
            first = sorted(range(len(parts)), key=lambda number: _is_over(parts[number]))[: max(0, height - 1)]
            parts, left_out = tuple(parts[number] for number in sorted(first)), len(parts) - len(first)
        columns = _fitting(_columns(parts), width, headed=headed)
        table = Table.grid(padding=(0, GAP, 0, 0))
        for column in columns:
            table.add_column(no_wrap=True, overflow="ellipsis", justify="right" if column.is_number else "left")
        if headed:
            table.add_row(*(Text(column.heading, style="dim") for column in columns))
        for number, part in enumerate(parts):
            table.add_row(*(_bar(part) if column.is_bar else Text(column.cells[number]) for column in columns))
        if parts:
            yield table
        if left_out and height:
            more = f"and {left_out} more" if parts else f"{left_out} parts"
            yield Text(more, style="dim", no_wrap=True, overflow="ellipsis")


def wrapped(phrases: Sequence[str], width: int) -> list[str]:
    """Return phrases as lines that end between two phrases; one that is longer than a line ends between words.

    >>> wrapped(["10 of 20 objects", "3 MB/s", "5s left"], 26)
    ['10 of 20 objects, 3 MB/s,', '5s left']
    """
    lines = textwrap.wrap(
        ", ".join(phrase.replace(" ", "\0") for phrase in phrases),
        width,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in (line.replace("\0", " ") for line in lines):
        if len(line) > width:
            return textwrap.wrap(", ".join(phrases), width)
    return [line.replace("\0", " ") for line in lines]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table of parts. Those with a lower rank go first where there is no room for all."""

    heading: str
    rank: int
    cells: Sequence[str]
    is_number: bool = True
    is_bar: bool = False

    def width(self, *, headed: bool) -> int:
        from rich.cells import cell_len  # noqa: PLC0415

        if self.is_bar:
            return BAR_WIDTHS[0]
        return max(map(cell_len, [*self.cells, self.heading if headed else ""]), default=0)


def _columns(parts: Sequence[PartProgress]) -> list[_Column]:
    def numbers(name: str) -> list[str]:
        return [f"{number:,}" if (number := getattr(part, name)) else "" for part in parts]

    left = [
        "" if not part.seconds_left or not part.bytes_per_second or _is_over(part) else _left_text(part.seconds_left)
        for part in parts
    ]
    rates = [f"{size_text(part.bytes_per_second)}/s" if part.bytes_per_second else "" for part in parts]
    shares = ["" if part.share is None or not part.listed_objects else f"{int(part.share * 100)} %" for part in parts]
    columns = [
        _Column("part", 9, [printable(part.name) for part in parts], is_number=False),
        _Column("done", 6, shares),
        _Column("", 3, shares, is_bar=True),
        _Column("objects", 8, [_of_objects(part) for part in parts]),
        _Column("bytes", 4, [_of_bytes(part) for part in parts]),
        _Column("rate", 1, rates),
        _Column("left", 2, left),
        _Column("verified", 1, numbers("verified_objects")),
        _Column("skipped", 0, numbers("skipped_objects")),
        _Column("failed", 6, numbers("failed_objects")),
        _Column("", 5, [_state(part) for part in parts], is_number=False),
    ]
    return [column for column in columns if any(column.cells)]


def _fitting(columns: Sequence[_Column], width: int, *, headed: bool) -> list[_Column]:
    """Return the columns that fit side by side, without those that matter least; the first one stays and is cut."""
    kept = list(columns)
    while len(kept) > 1 and sum(column.width(headed=headed) + GAP for column in kept) - GAP > width:
        kept.remove(min(kept, key=lambda column: column.rank))
    return kept


def _bar(part: PartProgress) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    # While nothing is known of a part's total, there is nothing that a bar could be a share of.
    if part.share is None or not part.listed_objects:
        return Text("")
    full = int(part.share * BAR_WIDTHS[0])
    return Text("\N{BOX DRAWINGS HEAVY HORIZONTAL}" * full, style="green").append(
        "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (BAR_WIDTHS[0] - full), style="dim"
    )


def _of_objects(part: PartProgress) -> str:
    if _has_none(part):
        return printable(part.state or "")
    return f"{part.settled_objects:,}/{_total(part, 'objects')}"


def _of_bytes(part: PartProgress) -> str:
    if _has_none(part):
        return ""
    return f"{size_text(part.settled_bytes)}/{_total(part, 'bytes')}"


def _has_none(part: PartProgress) -> bool:
    return not part.listed_objects and (part.state is not None or not part.expected_objects)


def _total(part: PartProgress, of: str) -> str:
    listed, expected = getattr(part, f"listed_{of}"), getattr(part, f"expected_{of}")
    is_about = part.state is None and expected is not None and expected > listed
    total = expected if is_about else listed
    text = size_text(total) if of == "bytes" else f"{total:,}"
    return f"~{text}" if is_about else f"{text}+" if part.state is None and of == "objects" else text


def _is_over(part: PartProgress) -> bool:
    return part.state is not None and part.settled_objects >= part.listed_objects


def _state(part: PartProgress) -> str:
    if part.state is None:
        return "listing..."
    return "" if part.state == "complete" or _has_none(part) else printable(part.state)
