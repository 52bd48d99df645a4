"""How the event loop touches the disk: through aiofiles, on threads of its own, in few large hops."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from aiofiles.os import wrap

T = TypeVar("T")

THREADS_MAX = 16
"""More would only wait: for the disk, or for the one interpreter between two system calls."""

HOP_FUNCTIONS_MAX = 64
HOP_BYTES = 512 << 10
"""Work on so many bytes is worth a hop of its own, and one on another core. In a longer one, what is done first would
wait for the rest, and its place in flight with it."""


def cores() -> int:
    """Return how many cores this process may use."""
    with suppress(AttributeError, OSError):  # macOS has no such call, and a sandbox may forbid it.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@wrap
def _call(function: Callable[[], T]) -> T:
    return function()


def _outcome(function: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits for this one.
        return None, error


class _Threads(ThreadPoolExecutor):
    """Threads that make do with fewer of them where the machine allows no more."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()  # Private, and the same in Python 3.11 to 3.14.
        except RuntimeError:
            if not self._threads:
                raise


class Disk:
    """Threads for blocking work.

    Args:
        threads: How many at once, at most; one, for what may only be used from one thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = _Threads(min(threads, THREADS_MAX), thread_name_prefix="disk")
        self._at_end: list[Callable[[], None]] = []
        self._short: deque[tuple[Callable[[], Any], int, asyncio.Future[Any]]] = deque()
        self._short_bytes = 0
        self._hopping = 0
        self._hops_max = max(1, min(threads, cores()))
        self._hops: set[asyncio.Task[None]] = set()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function in a thread and return what it returns."""
        result: T = await _call(function, executor=self._threads)
        return result

    async def run_short(self, function: Callable[[], T], size: int) -> T:
        """Run a short blocking function in a thread, in one hop with others that are due at the same time.

        A hop there and back costs more than to hash and write a small file.

        Args:
            function: What to run.
            size: About how many bytes it is about.
        """
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._short.append((function, size, outcome))
        self._short_bytes += size
        if not self._hopping or (self._hopping < self._hops_max and self._short_bytes >= HOP_BYTES):
            self._hopping += 1
            hop = asyncio.create_task(self._hop(), name="disk-hop")
            self._hops.add(hop)  # The loop alone would not keep it.
            hop.add_done_callback(self._hops.discard)
        return await outcome

    async def _hop(self) -> None:
        try:
            while self._short:
                batch = self._next_batch()
                try:
                    done = await self.run(lambda batch=batch: [_outcome(function) for function, _ in batch])  # type: ignore[misc]
                except Exception as ended:  # noqa: BLE001 - the threads have, and all of the batch have to know.
                    done = [(None, ended)] * len(batch)
                for (_, outcome), (result, error) in zip(batch, done, strict=True):
                    if outcome.done():
                        continue  # Whoever waited was cancelled.
                    if error is None:
                        outcome.set_result(result)
                    else:
                        outcome.set_exception(error)
        finally:
            self._hopping -= 1

    def _next_batch(self) -> list[tuple[Callable[[], Any], asyncio.Future[Any]]]:
        batch: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        stop = self._short_bytes - HOP_BYTES
        while self._short and self._short_bytes > stop and len(batch) < HOP_FUNCTIONS_MAX:
            function, size, outcome = self._short.popleft()
            batch.append((function, outcome))
            self._short_bytes -= size
        return batch

    def at_end(self, function: Callable[[], None]) -> None:
        """Call a function when all threads have ended: to take away what one of them may still be using."""
        self._at_end.append(function)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        for function in self._at_end:
            function()
