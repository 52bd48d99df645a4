"""`status`: look at a destination and say what it holds, or follow the run over it."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

import typer

from nccid_fetch.errors import UsageError
from nccid_fetch.holdings import JournalState, count_quarantine, journal_state, read_holdings
from nccid_fetch.keys import printable
from nccid_fetch.status import Life, RunStatus, life_of, where_is
from nccid_fetch.statusfile import age_of, is_alive, is_held, read_status, this_process

from . import options
from .block import Block
from .display import PLAIN_SECONDS, line, live
from .flags import Format
from .output import print_json
from .signals import going_to
from .statuspage import Look, as_dict, of_the_run, page

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOK_SECONDS = 1.0
_LOOKS_MAX = 3
"""A run that begins or ends while one looks makes one look again."""

Found = tuple[RunStatus | None, Life]
"""What the last run says of itself, and what has become of it."""


def show(values: options.Values) -> None:
    """Carry out `status`.

    Raises:
        UsageError: There is no destination.
        DestinationError: Its journal cannot be read.
        typer.Exit: A signal ended `--watch`.
    """
    dest: Path = values["dest"]
    spoken = Format(values["format_"])
    if values["watch"]:
        _watch(dest, quiet=spoken in {Format.QUIET, Format.JSON})
    look = look_at(dest)
    if look.journal is JournalState.MISSING and look.status is None and look.life is Life.NONE:
        raise UsageError(
            f"{dest} is no destination of nccid-fetch, or its state folder was deleted",
            hint="name another with --dest or NCCID_DATA_DIR; the next run over it makes one of it",
        )
    if spoken is Format.JSON:
        print_json(as_dict(dest, look))
    elif spoken is not Format.QUIET:
        for text in page(dest, look, time.time()):
            print(text)


def look_at(dest: Path) -> Look:
    """Look at a destination, changing nothing.

    Raises:
        DestinationError: Its journal cannot be read.
    """
    for _ in range(_LOOKS_MAX):
        status, life = find_run(dest)
        holdings = None if life.goes_on else read_holdings(dest)
        journal = journal_state(dest)
        if holdings is not None or life.goes_on or journal is not JournalState.CLOSED:
            break
    return Look(life, status, holdings, journal, count_quarantine(dest))


def find_run(dest: Path, silent_seconds: Callable[[RunStatus], float] = age_of) -> Found:
    """Return what the last run says of itself, and what has become of it."""
    status, held = read_status(dest), is_held(dest)
    if status is None:
        return None, Life.BEGINNING if held else Life.NONE
    where = where_is(status.process, this_process(), is_alive=is_alive(status.process))
    return status, life_of(status, where, silent_seconds(status), is_held=held)


# Following a run


class _Screen(Protocol):
    """Where it is shown how far a run is."""

    def show(self, found: Found) -> None:
        """Show it, where it is time for that."""


def _watch(dest: Path, *, quiet: bool) -> None:
    """Follow the run over a destination to its end; wait for one where there is none.

    Raises:
        typer.Exit: A signal came, or the terminal went away.
    """
    news: SimpleQueue[int] = SimpleQueue()

    def pause() -> None:
        try:
            number = news.get(timeout=LOOK_SECONDS)
        except Empty:
            return
        raise typer.Exit(128 + number)

    heard = Hearing(time.monotonic)
    with going_to(news.put), _losing_the_terminal(), _screen(dest, quiet=quiet) as screen:
        follow(lambda: find_run(dest, heard.silent_seconds), screen.show, pause)


def follow(find: Callable[[], Found], show_: Callable[[Found], None], pause: Callable[[], None]) -> None:
    """Return when a run that goes on, or the next one that begins, is over.

    Args:
        find: Looks for it.
        show_: Takes what was found, each time.
        pause: Waits between two looks.
    """
    before, life = found = find()
    goes_on = life in {Life.RUNNING, Life.SILENT}
    while not goes_on or life.goes_on:
        show_(found)
        pause()
        status, life = found = find()
        is_another = status is not None and (before is None or not status.is_of_the_same_run(before))
        # One that began and ended between two looks is over, too. Who has the destination and says nothing may be a plan.
        goes_on = goes_on or is_another or life in {Life.RUNNING, Life.SILENT}


class Hearing:
    """Tells by this process's own clock how long a run has been silent: other machines' clocks may differ.

    Args:
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._heartbeat = ""
        self._since = now()

    def silent_seconds(self, status: RunStatus) -> float:
        """Return for how long the heartbeat of a run has been the same."""
        if status.heartbeat != self._heartbeat:
            self._heartbeat, self._since = status.heartbeat, self._now()
        return self._now() - self._since


@contextmanager
def _losing_the_terminal() -> Iterator[None]:
    """End as SIGHUP does where a terminal is gone before that is heard."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # What is still to be flushed must not fail again.
        raise typer.Exit(129) from None


@contextmanager
def _screen(dest: Path, *, quiet: bool) -> Iterator[_Screen]:
    if quiet:
        yield _Nothing()
    elif sys.stdout.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}:
        block = _Block(dest)
        with live(block.render, sys.stdout, by_itself=False) as shown:
            block.refresh = shown.refresh
            yield block
    else:
        yield PlainLines(dest, print, time.monotonic)


class _Nothing:
    def show(self, found: Found) -> None:
        """Show nothing."""


class _Block:
    """A live block on a terminal."""

    def __init__(self, dest: Path) -> None:
        self._dest = dest
        self._found: Found = (None, Life.NONE)
        self.refresh: Callable[[], None] = lambda: None

    def show(self, found: Found) -> None:
        """Show it now."""
        self._found = found
        self.refresh()

    def render(self) -> "RenderableType":
        """Return what is to be seen."""
        from rich.text import Text  # noqa: PLC0415 - slow to import, and only terminals need it.

        status, life = self._found
        told = _sentence(self._dest, self._found)
        if status is None or life not in {Life.RUNNING, Life.SILENT}:
            return Text(printable(told))
        return Block(status.progress, told)


class PlainLines:
    """A line when something changes, and once a minute.

    Args:
        dest: The destination.
        write: Takes a line.
        now: Seconds on a clock that only goes forward.
    """

    def __init__(self, dest: Path, write: Callable[[str], None], now: Callable[[], float]) -> None:
        self._dest = dest
        self._write = write
        self._now = now
        self._state: object = None
        self._written = 0.0

    def show(self, found: Found) -> None:
        """Write what is due."""
        status, life = found
        state = (life, status.state if status is not None and life.goes_on else None)
        if state != self._state:
            self._write(printable(_sentence(self._dest, found)))
        if state != self._state or self._now() - self._written >= PLAIN_SECONDS:
            self._state, self._written = state, self._now()
            if status is not None and life in {Life.RUNNING, Life.SILENT}:
                self._write(printable(line(status.progress)))
            sys.stdout.flush()


def _sentence(dest: Path, found: Found) -> str:
    status, life = found
    told = "" if life is Life.NONE else of_the_run(status, life, time.time())
    if life in {Life.RUNNING, Life.SILENT}:
        return told
    return f"{told} Waiting for a run over {dest}; Ctrl-C ends the waiting.".strip()
