"""The door. What scripts ask most often is answered before anything is loaded."""

import gc
import os
import sys

from nccid_fetch import __version__

COLLECT_AFTER_OBJECTS = 50_000
"""What is loaded is hundreds of thousands of small objects and no garbage, and so is a page of a listing. By default each
page would start collections, which cost a seventh of a run that has nothing to fetch."""


def main() -> None:
    """Run the command line and exit."""
    _open_what_is_closed()
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"nccid-fetch {__version__}")
        sys.exit()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    from .signals import ENDING, end_at_once, going_to, outlive_questions  # noqa: PLC0415

    outlive_questions()
    with going_to(end_at_once, ENDING):
        from .commands import run  # noqa: PLC0415 - typer takes longer to load than all else here.

        run(arguments)


def _open_what_is_closed() -> None:
    """Let a standard stream that is closed, as by `2>&-`, lead nowhere: else the next file to be opened would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as the process.
