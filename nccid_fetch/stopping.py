"""The brake of a run: what ends it early because the user said so, and in good order.

==================  ============================================  ===================================================
Option              Stops the run when                            What is in flight then
==================  ============================================  ===================================================
`--max-duration`    so much time has passed since its beginning   has a minute to finish, then it is dropped
`--max-patients`    one patient more would be begun               finishes, with all else of patients who were begun
`--max-bytes`       the next patient would bring too many bytes   the same
`--on-failure`      the first object failed or was refused        finishes
==================  ============================================  ===================================================

Stopped is stopped: no listing goes on, nothing else is begun, and what is verified is put in place and recorded. The
first reason is the one that is told.

The minute is enough for any object of the warehouse: one of 15 MB needs 250 kB/s for it. It is never longer than the run was to
take, and never extended, whatever holds the run up then: whoever sets `--max-duration` has a job scheduler, or people who come to
work, waiting behind it. What is dropped costs the next run one object for each that was in flight.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from .clock import REAL, Clock
from .events import Failed, Report, Stopped, StoppedBy
from .settings import OnFailure, Settings
from .tasks import loud

T = TypeVar("T")

GRACE_SECONDS_MAX = 60.0


class Brake:
    """Stops a run.

    Attributes:
        stopped: Why the run is to end; None while it goes on.
        is_halted: Whether what waits for a worker is left, too.
        overdue: Set when what is in flight has had its time as well.

    Args:
        settings: When to stop.
        report: Who wants to know.
        clock: Time.
    """

    def __init__(self, settings: Settings, report: Report = lambda _: None, clock: Clock = REAL) -> None:
        self.stopped: Stopped | None = None
        self.is_halted = False
        self.overdue = asyncio.Event()
        self._settings = settings
        self._report = report
        self._clock = clock
        self._work: asyncio.Timeout | None = None

    def stop(self, stopped: Stopped, *, at_once: bool = True) -> None:
        """Let no listing go on.

        Args:
            stopped: Why.
            at_once: Whether what waits for a worker is to be left; else only what has not been admitted is.
        """
        self.is_halted |= at_once
        if self.stopped is None:
            self.stopped = stopped
            if self._work is not None:
                self._work.reschedule(0.0)
            self._report(stopped)

    def failed(self, failure: Failed) -> None:
        """Take note of an object that failed or was refused: both is a failure, as it is to DataLad's option of this name."""
        if self._settings.on_failure is OnFailure.STOP:
            self.stop(
                Stopped(
                    StoppedBy.ON_FAILURE,
                    f"{failure.remote.key} did not arrive: {failure.reason}: {failure.message}",
                    hint="run the same command again to try once more; --on-failure continue goes on past what fails",
                )
            )

    @asynccontextmanager
    async def watching_time(self) -> AsyncIterator[None]:
        """Stop the run when its time is over, while the block lasts."""
        if self._settings.max_duration_seconds is None:
            yield
            return
        timer = asyncio.create_task(loud(self._watch, self._settings.max_duration_seconds), name="timer")
        try:
            yield
        finally:
            timer.cancel()
            await asyncio.wait([timer])
        if not timer.cancelled():
            timer.result()  # A defect in it must not pass for a run that had time.

    async def _watch(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.stop(Stopped(StoppedBy.MAX_DURATION, "the time that it gives the run is over"))
        await self._clock.sleep(min(seconds, GRACE_SECONDS_MAX))
        self.overdue.set()

    async def unless_stopped(self, work: Awaitable[T]) -> T | None:
        """Do some work, and drop it as soon as the run is stopped: then return None. One piece of work at a time."""
        try:
            async with asyncio.timeout(None if self.stopped is None else 0.0) as self._work:
                return await work
        except TimeoutError:
            if self.stopped is None:
                raise
            return None
        finally:
            self._work = None
