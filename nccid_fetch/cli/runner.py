"""Running a command's coroutine: threads, signals, errors, exit codes.

The event loop has a thread of its own, and the main thread waits: for the end, or for a signal. So whatever a disk, another thread
or the loop itself is doing, a signal is heard, and a run that cannot be brought to its end within seconds is left where it is.
Nothing is lost by that: nothing has its name or is recorded before it is proved.
"""

import asyncio
import gc
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from signal import SIGXCPU, Signals
from time import monotonic
from types import MappingProxyType
from typing import Any

import uvloop

from nccid_fetch.errors import LimitError, RunError
from nccid_fetch.machine import check, limit_of

from . import strays
from .output import note, print_error
from .signals import CPU_TIME_USED, QUESTIONS, end_at_once, exit_code_of, going_to, leave, leave_to_main_thread

GRACE_SECONDS = 4.0
"""How long a run may take to end in order: with its last words, five seconds in all. What sends SIGTERM sends SIGKILL soon after."""
LAST_WORDS_SECONDS = 1.0
"""How long a run that is left may then take for its summary. Where that goes may be what hangs, and a thread of the run be in the
middle of writing to it: no signal would be heard any more."""
_DESCRIPTORS = 8192


class InterruptedRunError(RunError):
    """A signal ended the run: what was under way was dropped, what was verified is in place and recorded.

    Attributes:
        is_left: The run did not end within its time and is still going on in its thread; see `report_failure`.
    """

    def __init__(self, number: int, *, is_left: bool = False) -> None:
        late = f", without waiting for what did not end within {GRACE_SECONDS:g} seconds" if is_left else ""
        why = f": {CPU_TIME_USED}" if number == SIGXCPU else ""
        super().__init__(
            f"stopped by {Signals(number).name}{why}{late}; what was verified is in place",
            hint="run the same command again to go on",
        )
        self.exit_code = exit_code_of(number)
        self.is_left = is_left


def run(
    main: Coroutine[Any, Any, None],
    answers: Mapping[int, Callable[[], None]] = MappingProxyType({}),
    *,
    quiet: bool = False,
) -> None:
    """Run a coroutine to its end on a fast event loop. The first signal ends it in order, the second the process at once.

    Args:
        main: The coroutine.
        answers: What is done, on its event loop, for signals that end nothing.
        quiet: Say nothing of what does not end it.

    Raises:
        InterruptedRunError: A signal came.
        LimitError: The machine allows too little for a run.
        RunError: The run ended with an error.
    """
    try:
        check(raise_descriptor_limit())
    except LimitError:
        main.close()  # Python warns of one that was never begun.
        raise
    news: SimpleQueue[int | None] = SimpleQueue()  # Signals, and None when the run is over.
    gc.freeze()  # What was loaded stays to the end: no collection need look through it,
    with strays.caught(quiet=quiet), going_to(news.put):
        thread = _RunThread(main, at_end=lambda: news.put(None))
        thread.start()
        while (number := news.get()) in QUESTIONS:
            thread.call(answers.get(number, _say_nothing))
        if number is not None:
            thread.cancel()
            ends = monotonic() + GRACE_SECONDS
            try:
                # SIGXCPU comes again every second.
                while (second := news.get(timeout=max(0.0, ends - monotonic()))) in {*QUESTIONS, SIGXCPU}:
                    pass
            except Empty:
                _end_after_last_words(number)
                raise InterruptedRunError(number, is_left=True) from None
            if second is not None:
                end_at_once(second)
    thread.join()
    gc.freeze()  # nor the last ones, of which Python makes several as it ends.
    if number is not None:
        raise InterruptedRunError(number) from thread.error
    if thread.error is not None:
        raise thread.error


def _say_nothing() -> None:
    """Answer nothing."""


def _end_after_last_words(number: int) -> None:
    """Give the process a moment to say what there is to say, and then end it as a signal does."""
    last = threading.Timer(LAST_WORDS_SECONDS, end_at_once, (number,))
    last.daemon = True
    try:
        last.start()
    except RuntimeError:  # No more threads may be started.
        end_at_once(number)


class _RunThread(threading.Thread):
    """Runs a coroutine.

    Attributes:
        error: What it ended with, if not well.

    Args:
        main: The coroutine.
        at_end: Called when it is over, in this thread.
    """

    def __init__(self, main: Coroutine[Any, Any, None], at_end: Callable[[], None]) -> None:
        super().__init__(name="run", daemon=True)  # The process may end without it.
        self.error: BaseException | None = None
        self._main = main
        self._at_end = at_end
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Run it to its end."""
        leave_to_main_thread()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread.
            self.error = error
        finally:
            self._at_end()

    def cancel(self) -> None:
        """End it in order, from another thread, once it has begun."""
        with suppress(RuntimeError):  # It is over already.
            if self._begun.wait(timeout=GRACE_SECONDS):  # Else something hangs before it.
                assert self._loop is not None
                assert self._task is not None
                self._loop.call_soon_threadsafe(self._task.cancel)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on its event loop, from another thread, if it has begun and is not over."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(strays.on_loop_exception)
        self._loop, self._task = loop, asyncio.current_task()
        self._begun.set()
        await self._main


def raise_descriptor_limit() -> int | None:
    """Allow as many open files as the system lets us, and return how many that is; None for any number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return None if soft == resource.RLIM_INFINITY else soft


def report_failure(error: Exception, *, debug: bool, at_end: Callable[[int], object] = lambda _: None) -> int:
    """Say what went wrong; return the exit code. Ends the process where a run was left that would hold up its end.

    Args:
        error: What went wrong.
        debug: Show a traceback as well.
        at_end: Called with the exit code before the process is ended here.
    """
    error = limit_of(error) or error
    if debug:
        hint = f"hint: {getattr(error, 'hint', None)}"  # It comes once, at the end.
        for line in "".join(traceback.format_exception(error)).splitlines():
            if line != hint:
                note(line)
    if isinstance(error, RunError):
        print_error(error)
        if isinstance(error, InterruptedRunError) and error.is_left:
            at_end(error.exit_code)
            sys.stdout.flush()
            leave(error.exit_code)
        return error.exit_code
    note(f"error: this is a defect of nccid-fetch: {type(error).__name__}: {error}")
    note("hint: run it with --debug and report what it prints; what was verified is in place")
    return 1
