"""The progress of a run: a live block on a terminal, one plain line a minute elsewhere."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from nccid_fetch.progress import Meter, Progress
from nccid_fetch.summary import Tally

from .block import Block, amounts, counts, held_up_by
from .output import note
from .signals import ending_with

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

PLAIN_SECONDS = 60
REFRESHES_PER_SECOND = 4
_SHOW_CURSOR = b"\x1b[?25h"


class Display:
    """Shows how far a run is, again and again.

    Args:
        read: Returns how far it is.
    """

    def __init__(self, read: Callable[[], Progress]) -> None:
        self._read = read

    def render(self) -> Block:
        """Return the live block, for `rich` to print."""
        return Block(self._read())


def line(progress: Progress) -> str:
    """Return how far a run is in one line. What holds it up comes first: a line may be cut at its end."""
    return ", ".join([*held_up_by(progress), *amounts(progress), *counts(progress)])


@asynccontextmanager
async def shown(tally: Tally, *, quiet: bool) -> AsyncIterator[None]:
    """Show a run's progress on stderr while the block lasts."""
    meter = Meter(tally, time.monotonic)
    if quiet:
        yield
    elif sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}:
        with ending_with(_show_cursor), live(Display(meter.read).render, _Terminal(sys.stderr)):
            yield
    else:
        lines = asyncio.create_task(_lines(meter), name="progress")
        try:
            yield
        finally:
            lines.cancel()


def live(
    render: Callable[[], "RenderableType"],
    terminal: "TextIO | _Terminal",
    *,
    by_itself: bool = True,
) -> "Live":
    """Return what keeps a block up to date on a terminal, while it is entered.

    Args:
        render: Returns the block.
        terminal: Where it is shown.
        by_itself: Do so several times a second; else when `refresh` is called.
    """
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only terminals need it.
    from rich.live import Live  # noqa: PLC0415

    class Resizable(Live):
        """Begins anew on a clean screen where the terminal has become narrower.

        Most terminals then break the lines of the block, and nobody can know over how many it goes now.
        """

        _width = 0

        def refresh(self) -> None:
            width, height = self.console.size
            if width < self._width:
                self._scroll_away(height)
            self._width = width
            super().refresh()

        def _scroll_away(self, height: int) -> None:
            """Move all that is shown to where one scrolls back to, and the cursor to where the block's last line will be."""
            last_line = max(1, min(self._live_render.last_render_height, height))
            self.console.file.write("\n" * height + f"\x1b[{last_line};1H")

    return Resizable(
        get_renderable=render,
        console=Console(file=terminal, stderr=True),  # type: ignore[arg-type]
        auto_refresh=by_itself,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,  # The summary that follows says it all again.
        redirect_stdout=False,  # Else the summary of a run that is left, display and all, would go to stderr.
    )


class _Terminal:
    """A terminal that may go away: whoever then still writes to it need not know, and the run goes on."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._terminal.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._terminal.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._terminal, name)


def _show_cursor() -> None:
    """Show the cursor again, on a descriptor of our own that waits for nothing: a terminal may be stopped."""
    terminal = os.open(os.ttyname(2), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.write(terminal, _SHOW_CURSOR)


async def _lines(meter: Meter) -> None:
    """Write a line a minute, with the time of day: whoever reads it reads it in the morning."""
    while True:
        for _ in range(PLAIN_SECONDS):
            await asyncio.sleep(1)
            progress = meter.read()  # A rate over the last moments, and since when nothing came, take looks in between.
        note(f"{datetime.now().astimezone():%Y-%m-%d %H:%M} {line(progress)}")
