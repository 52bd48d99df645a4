"""Running a command's coroutine: event loop, signals, errors, exit codes."""

import asyncio
import os
import signal
import traceback
from collections.abc import Coroutine
from typing import Any

import uvloop

from nccid_fetch.errors import RunError

from .output import note, print_error

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRunError(RunError):
    """A signal ended the run: what was under way was dropped, what was verified is in place and recorded."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}; what was verified is in place",
            hint="run the same command again to go on",
        )
        self.exit_code = 128 + number


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on a fast event loop. The first signal ends it in order, the second at once.

    Raises:
        InterruptedRunError: A signal came.
        RunError: The run ended with an error.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_with_signals(main))
    except KeyboardInterrupt:
        raise InterruptedRunError(signal.SIGINT) from None


async def _with_signals(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main, name="main")
    caught: list[int] = []

    def stop(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not caught:
            raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    if caught:
        raise InterruptedRunError(caught[0])


def report_failure(error: Exception, *, debug: bool) -> int:
    """Say what went wrong; return the exit code."""
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            note(line)
    if isinstance(error, RunError):
        print_error(error)
        return error.exit_code
    note(f"error: this is a defect of nccid-fetch: {type(error).__name__}: {error}")
    note("hint: run it with --debug and report what it prints; what was verified is in place")
    return 1
