"""libcurl's transfers in a thread of their own: many sockets, one wait, and results handed to the event loop in bunches.

A hop between two threads costs more than reading a small object, so nothing hops by itself: commands and results
wait in a list for the other side's next turn, and one wake-up carries all of them. libcurl works outside
Python's lock, so that several reactors use several cores.
"""

import asyncio
import mmap
import os
import re
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import pycurl

from . import pace
from .pace import Pace

_IDLE_SECONDS = 60.0
_LOOKS_PER_STALL = 8
_STATUS = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})")
_LENGTH = re.compile(r"[0-9]{1,18}")
_PAUSE = int(pycurl.WRITEFUNC_PAUSE)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_INTERESTS = {pycurl.POLL_IN: _READ, pycurl.POLL_OUT: _WRITE, pycurl.POLL_INOUT: _READ | _WRITE}


class Exchange:
    """A request and what came of it. The reactor's thread fills it, the event loop empties it.

    Every attribute is written by one of the two alone, and the body passes through a deque, so that no lock is needed.
    It is received into buffers that are used again and again: fresh memory for each body would cost more than TLS.

    Attributes:
        status: The answer's HTTP status; 0 while there is none.
        headers: The answer's headers, names in lower case.
        length: The answer's Content-Length, or -1.
        is_whole: Whether the body is handed over in one piece.
        failure: What libcurl says went wrong, once it has.
        ended: Whether all of the answer is there, or nothing more of it will come.
        is_to_wait: Whether what comes next is held up until it is resumed.

    Args:
        url: The URL.
        headers: The request's headers, as they are sent.
        whole: A body of exactly this length is handed over when all of it is there; any other by the chunk.
        room: Bytes of a chunk, at least; no more than one waits to be taken.
        buffers: Where memory for the body comes from.
        by_the_chunk: Whether nothing more is received after a chunk until it is resumed; else another one is, meanwhile.
    """

    __slots__ = (
        *(
            "_body",
            "_by_the_chunk",
            "_buffer",
            "_buffers",
            "_filled",
            "_full",
            "_handed_over",
            "_lines",
            "_pace",
            "_paused_at",
            "_paused_seconds",
            "_began",
            "_room",
            "_whole",
            "abandoned",
            "curl",
            "ended",
            "failure",
            "headers",
            "is_paused",
            "is_to_wait",
            "is_whole",
        ),
        *("length", "note", "request_headers", "status", "touched", "url"),
    )

    def __init__(
        self,
        url: str,
        headers: Sequence[str],
        *,
        whole: int,
        room: int,
        buffers: "Buffers",
        by_the_chunk: bool = False,
    ) -> None:
        self.url, self.request_headers = url, headers
        self._room = self._full = room
        self.status, self.length = 0, -1
        self.headers: dict[str, str] = {}
        self.failure: str | None = None
        self.ended = self.abandoned = self.is_paused = self.is_to_wait = self.is_whole = False
        self._by_the_chunk = by_the_chunk
        self.curl: Any = None
        self.touched = self._began = self._paused_at = self._paused_seconds = 0.0
        self._pace = Pace()
        self.note: Callable[[Exchange], None] = lambda _: None
        self._whole = whole
        self._lines: list[bytes] = []
        self._body: deque[memoryview] = deque()
        self._buffers = buffers
        self._buffer: memoryview | None = None
        self._filled = self._handed_over = 0

    @property
    def has_chunk(self) -> bool:
        """Whether a chunk waits to be taken."""
        return bool(self._body)

    def take(self) -> memoryview | None:
        """Return the chunk that waits, if one does: the beginning of a buffer. For the event loop."""
        return self._body.popleft() if self._body else None

    def begin(self, curl: Any, note: Callable[["Exchange"], None]) -> None:  # noqa: ANN401 - pycurl has no types.
        """Let a handle fill this exchange. This and what follows is for the reactor's thread."""
        self.curl, self.note = curl, note
        self.touched = self._began = monotonic()
        curl.setopt(pycurl.URL, self.url)
        curl.setopt(pycurl.HTTPHEADER, self.request_headers)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def unpause(self, now: float) -> None:
        """Let the sender go on; the time that it was held up is not its own."""
        self.is_paused = False
        self.touched = now
        self._paused_seconds += now - self._paused_at

    def trickles(self, now: float) -> bool:
        """Take note of how much has come, and say whether that is too little."""
        waited = (self._paused_at if self.is_paused else now) - self._began - self._paused_seconds
        return self._pace.is_too_slow(waited, self._handed_over + self._filled)

    def end(self, failure: str | None) -> None:
        """Note that nothing more will come."""
        self.failure, self.curl = failure, None
        self._hand_over()
        self.ended = True
        self.note(self)

    def _on_header(self, line: bytes) -> None:
        self.touched = monotonic()
        if self.status:  # A trailer of a chunked body.
            return
        if line.strip():
            self._lines.append(line)
            return
        (first, *lines), self._lines = self._lines or [b""], []
        found = _STATUS.match(first)
        if found is None or found[1][:1] == b"1":  # 100 Continue and its like: the answer is still to come.
            return
        for text in lines:
            name, _, value = text.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()
        digits = self.headers.get("content-length", "")
        self.length = int(digits) if _LENGTH.fullmatch(digits) else -1
        self.is_whole = self.length == self._whole
        self._full = sys.maxsize if self.is_whole else self._room
        self.status = int(found[1])
        if not self.is_whole:
            self.note(self)

    def _on_body(self, data: bytes) -> int | None:
        """Take the next bytes. It is called for every 16 KiB, as TLS brings them, so each step in it counts."""
        if self._body or self.is_to_wait:
            self.is_paused, self._paused_at = True, monotonic()
            return _PAUSE
        self.touched = monotonic()
        if self._buffer is None:
            self._buffer = self._buffers.lend()
        begin, end = self._filled, self._filled + len(data)
        if end > self.length and self.is_whole:
            return -1  # It is more than was promised: chunked, say, whatever Content-Length said.
        self._buffer[begin:end] = data
        self._filled = end
        if end >= self._full:
            self._hand_over()
            self.note(self)
        return None

    def _hand_over(self) -> None:
        if self._buffer is not None:
            self._body.append(self._buffer[: self._filled])
            self._handed_over += self._filled
            self._buffer, self._filled = None, 0
            self.is_to_wait = self._by_the_chunk


class Buffers:
    """Memory that bodies are received into, lent to one at a time. For any thread.

    Args:
        size: Bytes of each; those that are not used take no memory.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[memoryview] = []

    def lend(self) -> memoryview:
        """Return a buffer, the one that was used last if there is one: it is still in the processor's cache."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, self._size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give_back(self, chunk: memoryview) -> None:
        """Take a buffer back, by the chunk at its beginning that nobody looks at any more."""
        self._free.append(memoryview(chunk.obj))


class Reactor:
    """A thread that drives transfers.

    Args:
        loop: The event loop that results go to.
        new_handle: Makes a handle with everything set that requests share.
        connections: Idle connections to keep.
        stall_seconds: A transfer of which no byte came for so long is given up.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        new_handle: Callable[[], Any],
        *,
        connections: int,
        stall_seconds: float,
    ) -> None:
        self._stall_seconds = stall_seconds
        self._next_look = 0.0
        self._loop = loop
        self._new_handle = new_handle
        self._commands: deque[Callable[[], None]] = deque()
        self._news: deque[Exchange] = deque()
        self._told = False
        self._error: BaseException | None = None
        self._waiters: dict[Exchange, asyncio.Future[None]] = {}
        self._running: dict[Any, Exchange] = {}
        self._idle: list[Any] = []
        self._asleep = self._stopping = self._wake_is_due = False
        self._due: float | None = None
        self._watched: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._selector.register(self._wake_reader, _READ)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._thread = threading.Thread(target=self._run, name="reactor", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # No more threads may be started.
            self._close_descriptors()
            raise

    # In the event loop.

    def start(self, exchange: Exchange) -> None:
        """Send a request."""
        self._tell(lambda: self._begin(exchange))

    async def news(self, exchange: Exchange) -> None:
        """Wait until there is more of an exchange than there was: its headers, some of its body, or its end."""
        if self._error is not None:
            raise self._error
        waiter = self._waiters[exchange] = self._loop.create_future()
        try:
            await waiter
        finally:
            del self._waiters[exchange]

    def resume(self, exchange: Exchange) -> None:
        """Let a sender go on that may have been held up, now that what it sent was taken."""
        self._tell(lambda: self._unpause(exchange))

    def abandon(self, exchange: Exchange) -> None:
        """Give an exchange up, unless it has ended."""
        if not exchange.ended:
            exchange.abandoned = True
            self._tell(lambda: self._drop(exchange))

    def close(self) -> None:
        """Give everything up and end the thread."""
        self._commands.append(self._stop)
        self._wake()
        self._thread.join()
        self._fail(RuntimeError("the session is closed"))
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _tell(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        if not self._wake_is_due:
            self._wake_is_due = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Wake the thread, once for all commands of one turn of the loop."""
        self._wake_is_due = False
        if self._asleep:
            self._asleep = False
            os.write(self._wake_writer, b"!")

    def _deliver(self) -> None:
        self._told = False  # First: what is noted from here on is either seen below, or told anew.
        while self._news:
            waiter = self._waiters.get(self._news.popleft())
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """End everybody who waits, for the thread has ended."""
        self._error = error
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(error)

    # In the reactor's thread.

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - whoever waits would wait for ever.
            self._loop.call_soon_threadsafe(self._fail, error)
        for exchange in list(self._running.values()):
            self._drop(exchange)
        self._multi.close()

    def _work(self) -> None:
        while not self._stopping:
            self._wait()
            while self._commands:
                self._commands.popleft()()
            self._harvest()
            self._end_stalled()
            if self._news and not self._told:  # Last, so that nobody's news wait until the next turn has waited.
                self._told = True
                self._loop.call_soon_threadsafe(self._deliver)

    def _wait(self) -> None:
        """Wait for sockets, for libcurl's timer, or for a command, and let libcurl work."""
        self._asleep = True
        now = monotonic()
        pause = self._next_look - now if self._running else _IDLE_SECONDS
        pause = max(0.0, pause if self._due is None else min(pause, self._due - now))
        ready = self._selector.select(0.0 if self._commands or self._stopping else pause)
        self._asleep = False
        for key, mask in ready:
            if key.fd == self._wake_reader:
                os.read(self._wake_reader, 1024)
            else:
                bits = (pycurl.CSELECT_IN if mask & _READ else 0) | (pycurl.CSELECT_OUT if mask & _WRITE else 0)
                self._multi.socket_action(key.fd, bits)
        if self._due is not None and self._due <= monotonic():
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _end_stalled(self) -> None:
        """Give up what stalls or trickles. A sender that is held up does neither."""
        now = monotonic()
        if now < self._next_look:
            return
        self._next_look = now + min(self._stall_seconds, pace.SLOW_SECONDS) / _LOOKS_PER_STALL
        for curl, exchange in list(self._running.items()):
            if not exchange.is_paused and now - exchange.touched > self._stall_seconds:
                self._end(curl, f"no byte came for {self._stall_seconds:g} seconds")
            elif exchange.trickles(now):
                self._end(curl, f"it came at less than {pace.SLOW_BYTES_PER_SECOND:g} bytes a second")

    def _harvest(self) -> None:
        """Note which transfers have ended, and hand the news over."""
        more = 1
        while more:
            more, good, bad = self._multi.info_read()
            for curl in good:
                self._end(curl, None)
            for curl, _, message in bad:
                self._end(curl, message)

    def _begin(self, exchange: Exchange) -> None:
        if exchange.abandoned:
            return
        curl = self._idle.pop() if self._idle else self._new_handle()
        try:
            exchange.begin(curl, self._news.append)
            self._multi.add_handle(curl)
        except (ValueError, pycurl.error) as error:  # A header that is not ASCII, say, is no fault of the others.
            self._idle.append(curl)
            exchange.end(str(error))
        else:
            self._running[curl] = exchange

    def _unpause(self, exchange: Exchange) -> None:
        exchange.is_to_wait = False
        if exchange.is_paused:
            exchange.unpause(monotonic())
            if exchange.curl is not None:
                with suppress(pycurl.error):  # It has ended meanwhile, and is harvested like any other.
                    exchange.curl.pause(pycurl.PAUSE_CONT)

    def _drop(self, exchange: Exchange) -> None:
        if exchange.curl is not None:
            self._end(exchange.curl, "given up")

    def _end(self, curl: Any, failure: str | None) -> None:  # noqa: ANN401 - pycurl has no types.
        self._multi.remove_handle(curl)
        self._idle.append(curl)
        self._running.pop(curl).end(failure)

    def _stop(self) -> None:
        self._stopping = True

    def _watch(self, interest: int, fd: int, _multi: Any, _data: Any) -> None:  # noqa: ANN401 - pycurl has no types.
        """Watch a socket as libcurl asks."""
        if interest == pycurl.POLL_REMOVE:
            self._watched.discard(fd)
            self._selector.unregister(fd)
        elif fd in self._watched:
            self._selector.modify(fd, _INTERESTS[interest])
        else:
            self._watched.add(fd)
            self._selector.register(fd, _INTERESTS[interest])

    def _set_timer(self, milliseconds: int) -> None:
        self._due = None if milliseconds < 0 else monotonic() + milliseconds / 1000
