"""Writing without waiting: whoever has something to write hands it over, and a thread does the rest.

A disk that hangs, or a reader that looks away, holds up neither the event loop nor the end of a command. What it costs is
what it should: lines of the record, counted, and never objects.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from nccid_fetch.cli.signals import leave_to_main_thread

T = TypeVar("T", str, bytes)

BYTES_MAX = 16 << 20
"""So much memory may be held by what waits. As events, that is some 80,000 objects: minutes of a night."""


class Outlet(Generic[T]):
    """Has the text that it is given written, in order, by a thread of its own.

    Attributes:
        error: What kept it from writing; nothing is written after that.

    Args:
        name: What the thread is called.
        write: Writes one text. Called in the thread; what it raises as an OSError is its last word.
        gap: Makes a text to be written in the place of so many others that found no room.
        on_failure: Called once, in the thread, with what `write` raised.
        bytes_max: How much may wait. One text may, of any size.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[T], object],
        *,
        gap: Callable[[int], T],
        on_failure: Callable[[OSError], object],
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self.error: OSError | None = None
        self._write: Callable[[T], object] = write
        self._gap: Callable[[int], T] = gap
        self._on_failure = on_failure
        self._bytes_max = bytes_max
        self._waiting: deque[T] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)  # The process may end without it.
        self._thread.start()

    def put(self, text: T) -> None:
        """Hand a text over. Never waits: what finds no room is counted, and the number written in its place."""
        with self._changed:
            if self._is_closed or self.error is not None:
                return
            if self._lost and self._append(self._gap(self._lost)):
                self._lost = 0
            if self._lost or not self._append(text):
                self._lost += 1

    def close(self, seconds: float) -> bool:
        """Have the rest written, within so many seconds; return whether it was."""
        with self._changed:
            if self._lost and self.error is None:
                self._waiting.append(self._gap(self._lost))
            self._is_closed = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _append(self, text: T) -> bool:
        size = sys.getsizeof(text)
        if self._waiting and self._waiting_bytes + size > self._bytes_max:
            return False
        self._waiting.append(text)
        self._waiting_bytes += size
        self._changed.notify()
        return True

    def _next(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return None
            text = self._waiting.popleft()
            self._waiting_bytes -= sys.getsizeof(text)
            return text

    def _run(self) -> None:
        leave_to_main_thread()
        while (text := self._next()) is not None:
            try:
                self._write(text)
            except OSError as error:
                with self._changed:
                    self.error = error
                    self._waiting.clear()
                self._on_failure(error)
                return
