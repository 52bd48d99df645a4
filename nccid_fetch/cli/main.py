"""The door. What scripts ask most often is answered before anything is loaded."""

import errno
import gc
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from nccid_fetch import __version__

COLLECT_AFTER_OBJECTS = 50_000
"""What is loaded is hundreds of thousands of small objects and no garbage, and so is a page of a listing. By default each
page would start collections, which cost a seventh of a run that has nothing to fetch."""
_UTF8_MODE = [b"-X", b"utf8"]


def main() -> None:
    """Run the command line and exit."""
    _open_what_is_closed()
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"nccid-fetch {__version__}")
        sys.exit()
    _speak_utf8()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    from nccid_fetch.machine import save_memory  # noqa: PLC0415

    from .signals import ENDING, end_unbegun, going_to, hear_of_cpu_time, outlive_questions  # noqa: PLC0415

    outlive_questions()
    hear_of_cpu_time()
    save_memory()
    try:
        with going_to(end_unbegun, ENDING), _limits_told():
            from .commands import run  # noqa: PLC0415 - typer takes longer to load than all else here.

            run(arguments)
    finally:
        _let_go_of_a_lost_terminal()


def _let_go_of_a_lost_terminal() -> None:
    """Drop what a terminal that is gone can no longer show. Python would try again at its end, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:
            continue  # It is closed.
        except OSError as error:
            if error.errno == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _limits_told() -> Iterator[None]:
    """Say which limit it was where not even all could be loaded."""
    try:
        yield
    except (ImportError, MemoryError, OSError) as error:
        from nccid_fetch.machine import limit_of  # noqa: PLC0415

        if (refused := limit_of(error)) is None:
            raise
        sys.stderr.write(f"error: {refused.message}\nhint: {refused.hint}\n")
        sys.exit(refused.exit_code)


def _open_what_is_closed() -> None:
    """Let a standard stream that is closed, as by `2>&-`, lead nowhere: else the next file to be opened would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as the process.


def _speak_utf8() -> None:
    """Let all text be UTF-8 on its way in and out, under any locale and PYTHONIOENCODING; what is not UTF-8 keeps its bytes.

    Python chooses the encoding of names, arguments and variables once, as it starts. So where the locale's is another, it is
    started again in its UTF-8 mode, in the same process and with the same arguments.
    """
    if sys.getfilesystemencoding() != "utf-8":
        _start_again()
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "surrogateescape"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _start_again() -> NoReturn:
    """Start Python again in its UTF-8 mode. Only the interpreter's own options change, so what we start inherits nothing of it."""
    given = _given_arguments()
    with suppress(OSError):
        if sys.executable and given[1:3] != _UTF8_MODE:  # Else a program that is no Python would be started for ever.
            os.execv(sys.executable, [given[0], *_UTF8_MODE, *given[1:]])  # noqa: S606 - the arguments that we were given.
    sys.stderr.write(
        "error: Python takes names for text of another encoding than UTF-8\nhint: run it with PYTHONUTF8=1\n"
    )
    sys.exit(2)


def _given_arguments() -> list[bytes]:
    """Return the command line as the system has it: from `sys.orig_argv`, GB18030 does not give back every byte."""
    with suppress(OSError):
        return Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    return [os.fsencode(argument) for argument in sys.orig_argv]
