"""How the event loop touches the disk: through aiofiles, on threads of its own, in few large hops."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from aiofiles.os import wrap

T = TypeVar("T")

THREADS_MAX = 16
"""More would only wait: for the disk, or for the one interpreter between two system calls."""


@wrap
def _call(function: Callable[[], T]) -> T:
    return function()


class Disk:
    """Threads for blocking work.

    Args:
        threads: How many at once, at most; one, for what may only be used from one thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(min(threads, THREADS_MAX), thread_name_prefix="disk")
        self._at_end: list[Callable[[], None]] = []

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function in a thread and return what it returns."""
        result: T = await _call(function, executor=self._threads)
        return result

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
