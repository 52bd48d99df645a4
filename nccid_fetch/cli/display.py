"""The progress of a run: a live block on a terminal, one plain line a minute elsewhere."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from nccid_fetch.events import LimitSet
from nccid_fetch.keys import printable
from nccid_fetch.progress import Meter, PartProgress, Progress
from nccid_fetch.summary import Tally

from .output import limit_text, note, size_text, time_text, waiting_text

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_SECONDS = 60.0
REFRESHES_PER_SECOND = 4


class Display:
    """Shows how far a run is, again and again.

    Args:
        read: Returns how far it is.
    """

    def __init__(self, read: Callable[[], Progress]) -> None:
        self._read = read

    def render(self) -> "RenderableType":
        """Return the live block: a row per part, and the line."""
        from rich.console import Group  # noqa: PLC0415 - slow to import, and only terminals need it.
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        progress = self._read()
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, max_width=40)
        for _ in range(2):
            table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for part in progress.parts:
            # While a part is listed its total grows, and a bar would jump back: so it only pulses.
            total = None if part.state is None else max(part.listed_bytes, 1)
            bar = ProgressBar(total=total, completed=_done_bytes(part)) if total is None or part.listed_objects else ""
            table.add_row(
                Text(printable(part.name)),
                bar,
                f"{part.settled_objects:,}/{part.listed_objects:,}",
                size_text(part.listed_bytes),
                _state(part),
            )
        elapsed = time_text(progress.elapsed_seconds)
        return Group(Text(f"{line(progress)}, {elapsed}", no_wrap=True, overflow="ellipsis"), table)


def line(progress: Progress) -> str:
    """Return how far a run is in one line."""
    total = f"{progress.listed_objects:,}" if progress.listing_is_complete else f"at least {progress.listed_objects:,}"
    parts = [
        f"{progress.settled_objects:,} of {total} objects",
        f"{size_text(progress.settled_bytes)} of {size_text(progress.listed_bytes)}",
        f"{size_text(progress.bytes_per_second)}/s",
        _left(progress),
    ]
    troubles = {"failed": progress.failed_objects, "retries": progress.retries, "throttled": progress.throttled}
    parts += [f"{number:,} {name}" for name, number in troubles.items() if number]
    if progress.limit_objects is not None:
        parts.append(limit_text(LimitSet(progress.limit_objects, progress.limit_of)))
    if progress.waiting is not None:  # First: a line that is too long for its terminal is cut at its end.
        parts.insert(0, waiting_text(progress.waiting))
    return ", ".join(part for part in parts if part)


def _left(progress: Progress) -> str:
    if not progress.listing_is_complete:
        return "listing..."
    if progress.seconds_left is None:
        return "waiting"
    return f"{time_text(progress.seconds_left)} left" if progress.settled_objects < progress.listed_objects else ""


def _done_bytes(part: PartProgress) -> int:
    finished = part.state is not None and part.settled_objects == part.listed_objects
    return max(part.listed_bytes, 1) if finished else part.settled_bytes


def _state(part: PartProgress) -> str:
    return "listing..." if part.state is None else "" if part.state == "complete" else part.state


@asynccontextmanager
async def shown(tally: Tally, *, quiet: bool) -> AsyncIterator[None]:
    """Show a run's progress on stderr while the block lasts."""
    meter = Meter(tally, time.monotonic)
    if quiet:
        yield
    elif sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}:
        from rich.console import Console  # noqa: PLC0415 - slow to import, and only terminals need it.
        from rich.live import Live  # noqa: PLC0415

        with Live(
            get_renderable=Display(meter.read).render,
            console=Console(stderr=True),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,  # The summary that follows says it all again.
            redirect_stdout=False,  # Else the summary of a run that is left, display and all, would go to stderr.
        ):
            yield
    else:
        lines = asyncio.create_task(_lines(meter), name="progress")
        try:
            yield
        finally:
            lines.cancel()


async def _lines(meter: Meter) -> None:
    while True:
        await asyncio.sleep(PLAIN_SECONDS)
        note(line(meter.read()))
