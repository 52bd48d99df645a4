"""Running a command's coroutine: event loop, signals, errors, exit codes."""

import asyncio
import gc
import logging
import os
import resource
import signal
import traceback
from collections.abc import Coroutine
from typing import Any

import uvloop

from nccid_fetch.errors import RunError

from .output import note, print_error

_DESCRIPTORS = 8192
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
    _raise_descriptor_limit()
    for library in ("botocore", "aiobotocore"):
        # What they warn of, with tracebacks and requests in it, comes back to us as errors and is said once, in our words.
        logging.getLogger(library).setLevel(logging.CRITICAL)
    gc.freeze()  # What was loaded stays to the end: no collection need look through it,
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_with_signals(main))
    except KeyboardInterrupt:
        raise InterruptedRunError(signal.SIGINT) from None
    finally:
        gc.freeze()  # nor the last ones, of which Python makes several as it ends.


async def _with_signals(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main, name="main")
    caught: list[int] = []

    def stop(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        task.cancel()

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP.
    for number in heard:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not caught:
            raise
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
    if caught:
        raise InterruptedRunError(caught[0])


def _raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: every object in flight has a socket and a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
