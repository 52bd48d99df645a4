"""The progress of a run: a live block on a terminal, one plain line a minute elsewhere."""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from nccid_fetch.keys import printable
from nccid_fetch.summary import PartTally, Tally

from .output import held_text, limit_text, note, rate_text, size_text, time_text

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_SECONDS = 60.0
REFRESHES_PER_SECOND = 4
RATE_WINDOW_SECONDS = 15.0


class Rate:
    """Bytes per second over the last moments.

    Args:
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._marks: deque[tuple[float, int]] = deque([(now(), 0)])

    def at(self, total_bytes: int) -> float:
        """Return the rate, given how many bytes have come in all."""
        present = self._now()
        self._marks.append((present, total_bytes))
        # The oldest mark goes when the next one is old enough; after a pause, or asked twice at once, it stays.
        while present - self._marks[1][0] >= RATE_WINDOW_SECONDS:
            self._marks.popleft()
        began, bytes_then = self._marks[0]
        return (total_bytes - bytes_then) / (present - began) if present > began else 0.0


class Progress:
    """What a display shows, taken from a tally.

    Args:
        tally: The numbers, which go on changing.
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, tally: Tally, now: Callable[[], float] = time.monotonic) -> None:
        self.tally = tally
        self.rate = Rate(now)
        self._now = now
        self._began = now()

    def line(self) -> str:
        """Return the state of the run in one line."""
        tally, settled = self.tally, self.tally.settled
        rate = self.rate.at(tally.received_bytes)
        parts = [
            f"{settled.objects:,} of {self._total()} objects",
            f"{size_text(settled.bytes)} of {size_text(tally.listed.bytes)}",
            f"{size_text(rate)}/s",
            self._eta(rate),
        ]
        troubles = {"failed": tally.failed + tally.refused, "retries": tally.retries, "throttled": tally.throttled}
        parts += [f"{number:,} {name}" for name, number in troubles.items() if number]
        parts.append(limit_text(tally.limit) if tally.limit is not None else "")
        if tally.rate_limit is not None:
            parts.append(f"limited to {rate_text(tally.rate_limit)} (--bwlimit)")
        if tally.held is not None:  # First: a line that is too long for its terminal is cut at its end.
            parts.insert(0, held_text(tally.held, self._now() - tally.held.since))
        return ", ".join(part for part in parts if part)

    def _total(self) -> str:
        listed = self.tally.listed.objects
        return f"{listed:,}" if self.tally.listing_is_complete else f"at least {listed:,}"

    def _eta(self, rate: float) -> str:
        if not self.tally.listing_is_complete:
            return "listing..."
        tally, settled = self.tally, self.tally.settled
        objects_left = tally.listed.objects - settled.objects
        if objects_left <= 0:
            return ""
        if rate <= 0:
            return "waiting"
        # Small objects take as long as their number, large ones as long as their bytes: the longer one is nearer.
        by_bytes = (tally.listed.bytes - settled.bytes) / rate
        settled_now = settled.objects - tally.skipped.objects
        by_objects = objects_left * (self._now() - self._began) / settled_now if settled_now else 0.0
        return f"{time_text(max(by_bytes, by_objects))} left"

    def render(self) -> "RenderableType":
        """Return the live block: a row per part, and the line."""
        from rich.console import Group  # noqa: PLC0415 - slow to import, and only terminals need it.
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, max_width=40)
        for _ in range(2):
            table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for name, part in self.tally.parts.items():
            # While a part is listed its total grows, and a bar would jump back: so it only pulses.
            total = None if part.state is None else max(part.listed.bytes, 1)
            bar = ProgressBar(total=total, completed=_done_bytes(part)) if total is None or part.listed.objects else ""
            table.add_row(
                Text(printable(name)),
                bar,
                f"{part.settled.objects:,}/{part.listed.objects:,}",
                size_text(part.listed.bytes),
                _state(part),
            )
        elapsed = time_text(self._now() - self._began)
        return Group(Text(f"{self.line()}, {elapsed}", no_wrap=True, overflow="ellipsis"), table)


def _done_bytes(part: PartTally) -> int:
    finished = part.state is not None and part.settled.objects == part.listed.objects
    return max(part.listed.bytes, 1) if finished else part.settled.bytes


def _state(part: PartTally) -> str:
    return "listing..." if part.state is None else "" if part.state == "complete" else str(part.state)


@asynccontextmanager
async def shown(tally: Tally, *, quiet: bool) -> AsyncIterator[None]:
    """Show a run's progress on stderr while the block lasts."""
    progress = Progress(tally)
    if quiet:
        yield
    elif sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}:
        from rich.console import Console  # noqa: PLC0415 - slow to import, and only terminals need it.
        from rich.live import Live  # noqa: PLC0415

        with Live(
            get_renderable=progress.render,
            console=Console(stderr=True),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,  # The summary that follows says it all again.
            redirect_stdout=False,  # Else the summary of a run that is left, display and all, would go to stderr.
        ):
            yield
    else:
        lines = asyncio.create_task(_lines(progress), name="progress")
        try:
            yield
        finally:
            lines.cancel()


async def _lines(progress: Progress) -> None:
    while True:
        await asyncio.sleep(PLAIN_SECONDS)
        note(progress.line())
