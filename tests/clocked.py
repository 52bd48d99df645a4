"""nccid-fetch, with a display that goes by a clock in a file: `python -m tests.clocked FILE all --concurrency 4`.

The file has seconds since the beginning, and whoever waits for a certain screen sets it. Nothing looks at it but the display
and what is published for `status`. Where a picture ends is marked, so that nobody takes half of one for the whole.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from rich.live import Live

from nccid_fetch.cli import display, publishing, status
from nccid_fetch.cli.main import main

FRAME_END = "\x1b[?2026l"
"""Ends a picture on terminals that show whole ones only; to all others it means nothing."""


def _marked(refresh: Callable[[Live], None]) -> Callable[[Live], None]:
    def wrapped(live: Live) -> None:
        refresh(live)
        live.console.file.write(FRAME_END)
        live.console.file.flush()

    return wrapped


if __name__ == "__main__":
    clock = Path(sys.argv.pop(1))
    for module in (display, publishing):
        vars(module)["time"] = SimpleNamespace(monotonic=lambda: float(clock.read_text()))
    assert vars(status)["PLAIN_SECONDS"] > 1  # It is loaded, and keeps what it has.
    display.PLAIN_SECONDS = 1
    setattr(Live, "refresh", _marked(Live.refresh))  # noqa: B010 - to a type checker it is no place for another.
    main()
