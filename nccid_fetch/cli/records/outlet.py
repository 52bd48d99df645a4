"""Writing without waiting: whoever has something to write hands it over, and a thread does the rest.

A disk that hangs, or a reader that looks away, holds up neither the event loop nor the end of a command. What it costs is
what it should: lines of the record, counted, and never objects.
"""

import threading
from collections.abc import Callable
from queue import Full, Queue
from time import monotonic
from typing import Generic, TypeVar

from nccid_fetch.cli.signals import leave_to_main_thread

T = TypeVar("T")

ITEMS_MAX = 1000
"""So much may wait: pages, batches of a thousand objects, or lines of a log; some minutes of a night."""


class Outlet(Generic[T]):
    """Has what it is given written, in order, by a thread of its own.

    Attributes:
        error: What kept it from writing; nothing is written after that.

    Args:
        name: What the thread is called.
        write: Writes one thing. Called in the thread; what it raises as an OSError is its last word.
        gap: Makes something to be written in the place of so many others that found no room.
        on_failure: Called once, in the thread, with what `write` raised.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[T], None],
        *,
        gap: Callable[[int], T],
        on_failure: Callable[[OSError], object],
        items_max: int = ITEMS_MAX,
    ) -> None:
        self.error: OSError | None = None
        self._write = write
        self._gap = gap
        self._on_failure = on_failure
        self._waiting: Queue[T | None] = Queue(items_max)
        self._lock = threading.Lock()
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)  # The process may end without it.
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand something over. Never waits: what finds no room is counted, and the number written in its place."""
        with self._lock:
            try:
                if self._lost:
                    self._waiting.put_nowait(self._gap(self._lost))
                    self._lost = 0
                self._waiting.put_nowait(item)
            except Full:
                self._lost += 1

    def close(self, seconds: float) -> bool:
        """Have the rest written, within so many seconds; return whether it was."""
        until = monotonic() + seconds
        try:
            with self._lock:
                if self._lost:
                    self._waiting.put(self._gap(self._lost), timeout=seconds)
                self._waiting.put(None, timeout=max(until - monotonic(), 0.0))
        except Full:
            return False
        self._thread.join(max(until - monotonic(), 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        leave_to_main_thread()
        while (item := self._waiting.get()) is not None:
            try:
                self._write(item)
            except OSError as error:
                self.error = error
                break
        if self.error is not None:
            self._on_failure(self.error)
            while self._waiting.get() is not None:  # Nobody is to find it full.
                pass
