"""How the event loop touches the disk: through aiofiles, on threads of its own, in few large hops."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from aiofiles.os import wrap

T = TypeVar("T")

THREADS_MAX = 16
"""More would only wait: for the disk, or for the one interpreter between two system calls."""

SHORT_HOPS_MAX = 1
SHORT_BATCH_MAX = 64


@wrap
def _call(function: Callable[[], T]) -> T:
    return function()


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # noqa: BLE001 - handed to whoever waits for this one.
        return None, error


class Disk:
    """Threads for blocking work.

    Args:
        threads: How many at once, at most; one, for what may only be used from one thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(min(threads, THREADS_MAX), thread_name_prefix="disk")
        self._at_end: list[Callable[[], None]] = []
        self._short: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._hopping = 0
        self._hops: set[asyncio.Task[None]] = set()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function in a thread and return what it returns."""
        result: T = await _call(function, executor=self._threads)
        return result

    async def run_short(self, function: Callable[[], T]) -> T:
        """Run a short blocking function in a thread, in one hop with others that are due at the same time.

        A hop there and back costs more than to hash and write a small file.
        """
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._short.append((function, outcome))
        if self._hopping < SHORT_HOPS_MAX:
            self._hopping += 1
            hop = asyncio.create_task(self._hop(), name="disk-hop")
            self._hops.add(hop)  # The loop alone would not keep it.
            hop.add_done_callback(self._hops.discard)
        return await outcome

    async def _hop(self) -> None:
        try:
            while self._short:
                batch = [self._short.popleft() for _ in range(min(len(self._short), SHORT_BATCH_MAX))]
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
