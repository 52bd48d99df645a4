"""What a running `all` or `get` lets other processes know: how far it is, what it warned of, and how it ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import typer

from nccid_fetch import __version__
from nccid_fetch.errors import message_of
from nccid_fetch.events import DestinationOpened, Event, PlaceNoted, RemoteFound, Report, RoomShort
from nccid_fetch.progress import Meter
from nccid_fetch.settings import Settings, Source
from nccid_fetch.status import RunStatus, time_of
from nccid_fetch.statusfile import Publisher, this_process
from nccid_fetch.summary import Tally
from nccid_fetch.units import size_text

_ENDS = {
    0: "everything that was asked for is in place",
    1: "it finished, but some objects failed or were refused",
    3: "objects are known by their size alone",
    4: "something of what was asked for may not be had with these credentials, or nothing of it is there",
    5: "a listing broke off",
}
_AGAIN = "run the same command again"
_HINTS = {1: f"{_AGAIN} to try them once more", 5: _AGAIN}


def warning_of(event: Event) -> str | None:
    """Return what may go wrong with a destination, for those who did not see the run say so; None of any other event."""
    match event:
        case RoomShort(needed_bytes, needed_files, free_bytes, free_files):
            files = "" if free_files is None else f" and {free_files:,} files"
            needed = f"{size_text(needed_bytes)} in {needed_files:,} files"
            return f"room is short: {needed} were planned when {size_text(free_bytes)}{files} were free"
        case RemoteFound(name):
            return f"it is on {name}, where locks may not hold: start no second run over it"
        case PlaceNoted(message):
            return message
    return None


def _end_of(code: int, tally: Tally) -> tuple[str, str | None]:
    """Return in a sentence how a run ended that no error ended, and the next step."""
    if (cut_short := tally.cut_short) is not None:
        return f"it was stopped by {cut_short.by}: {cut_short.message}", cut_short.hint
    return _ENDS.get(code, f"it ended with {code}"), _HINTS.get(code)


@contextmanager
def published(command: str, source: Source, settings: Settings, tally: Tally) -> Iterator[Report]:
    """Keep the status file of a run while the block lasts, and let its end be the block's.

    Nothing is written before the run has its destination to itself, and so nothing at all of a plan.

    Yields:
        A listener: what wants to hear the run's events.
    """
    meter, warnings = Meter(tally, time.monotonic), list[str]()
    now = time_of(datetime.now(UTC).timestamp())
    process = this_process()

    def describe() -> RunStatus:
        return RunStatus(
            version=__version__,
            process=process,
            command=command,
            bucket=source.bucket,
            group=source.group,
            asked=settings.parts,
            started=now,
            heartbeat=now,
            changed=now,
            warnings=tuple(warnings),
            progress=meter.read(),
        )

    publisher = Publisher(settings.dest, settings.file_mode, describe)

    def listen(event: Event) -> None:
        if isinstance(event, DestinationOpened):
            publisher.begin()
        elif isinstance(event, RoomShort | RemoteFound | PlaceNoted) and (warning := warning_of(event)) is not None:
            warnings.append(warning)

    try:
        yield listen
    except typer.Exit as end:
        publisher.end(end.exit_code, *_end_of(end.exit_code, tally))
        raise
    except BaseException as error:
        publisher.end(getattr(error, "exit_code", 1), message_of(error), getattr(error, "hint", None))
        raise
