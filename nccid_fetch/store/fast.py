"""The fast reader, over libcurl: TLS and HTTP outside Python's lock, one hop per small object.

It sends what was signed and takes what comes, and never has the last word: whatever it is refused, the reference
reader is asked at once, and says why. Redirects are not followed.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from itertools import cycle, islice
from math import ceil
from time import time
from types import TracebackType
from typing import Any, Self

import pycurl

from ..bandwidth import Bandwidth
from ..disk import cores
from ..errors import EndpointError, RefusedError, ThrottledError, TransientError
from ..keys import printable
from ..model import Chunk, ETag, RemoteObject
from .answers import Document, document_of, run_error
from .protocol import CHUNK_BYTES, WHOLE_BYTES_MAX, Facts
from .reactor import Buffers, Exchange, Reactor
from .session import CONNECT_TIMEOUT_SECONDS, Session
from .signing import Signer
from .strict import LIMITED_AHEAD_BYTES, receive_little

_SENDABLE = re.compile(r"[!-~]+")
"""What an ETag has to be to stand in a header."""
_FAILURES_MAX = 8
"""A reader of which so many first requests fail and none succeeds does not get along with this server at all: it
may, say, not accept a certificate that the AWS CLI accepts. Objects then go straight to the reference reader."""
_SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_..., which pycurl has no name for: a proxy's answer is not the object's.
_SLOW_DOWN = {429, 503}
_REACTORS_MAX = 4
_BUFFER_BYTES = 128 << 10


class FastReader:
    """Reads objects with libcurl, in a running event loop and until its session closes.

    Args:
        session: The open session.
        connections: Connections to keep open.
        is_required: Whether no other reader reads what this one cannot.
    """

    def __init__(self, session: Session, *, connections: int, is_required: bool = False) -> None:
        self.session = session
        self._is_required = is_required
        self._address = session.address
        self._origin = session.address.origin
        self._signer = Signer(session.address.host, session.address.region)
        count = max(1, min(_REACTORS_MAX, cores() // 2))  # The other half hashes and writes.
        loop = asyncio.get_running_loop()
        self._reactors = cycle(
            [
                Reactor(
                    loop,
                    lambda: _new_handle(session),
                    connections=ceil(connections / count),
                    stall_seconds=session.stall_seconds,
                )
                for _ in range(count)
            ]
        )
        for reactor in islice(self._reactors, count):
            session.at_close(reactor.close)
        self.buffers = Buffers(max(WHOLE_BYTES_MAX, CHUNK_BYTES + _BUFFER_BYTES))
        self.honours_ranges = True
        self.has_given = False
        self.failures = 0
        self.last_failure = ""

    def can_read(self, key: str) -> bool:  # noqa: ARG002 - the protocol asks.
        """Every key can be read, but for a server that this reader does not get along with.

        Where the endpoint was gone or busy, what failed may have failed for that.

        Raises:
            EndpointError: There is such a server, and this reader is required.
        """
        works = self.has_given or self.failures < _FAILURES_MAX or self.session.governor.had_trouble
        if self._is_required and not works:
            raise EndpointError(
                f"libcurl gets nothing from {self.session.where}: {self.last_failure}",
                hint="--transport auto reads with aioboto3 where libcurl does not work",
            )
        return works

    def get(self, remote: RemoteObject, start: int = 0, stop: int | None = None) -> "_FastBody":
        """Open an object's body; see `Reader.get`. A refusal is left to the reference reader to explain."""
        return _FastBody(self, next(self._reactors), remote, start, stop)

    async def exchange(self, remote: RemoteObject, start: int, stop: int | None) -> tuple[Exchange, int]:
        """Return a signed request for an object's bytes from `start` to before `stop`, or to the end.

        With it comes how many of them were taken from the bandwidth, where there is a limit.
        """
        if not _SENDABLE.fullmatch(remote.etag):
            raise RefusedError("its ETag cannot be sent")
        extra = {"if-match": remote.etag.header}
        if start or stop is not None:
            extra["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if remote.etag.md5 is None:
            extra["x-amz-checksum-mode"] = "ENABLED"
        target = self._address.object(remote.key)
        length = (remote.size if stop is None else stop) - start
        whole_max, room, taken, bandwidth = WHOLE_BYTES_MAX, CHUNK_BYTES, 0, self.session.bandwidth
        if bandwidth is not None:
            whole_max, room = bandwidth.piece(whole_max), bandwidth.piece(room)
            taken = length if length <= whole_max else min(length, room + LIMITED_AHEAD_BYTES)
            await bandwidth.take(taken)
        credentials = await self.session.credentials()
        headers = extra if credentials is None else self._signer.headers(target, extra, credentials, time())
        headers["host"] = self._address.host  # As it was signed.
        exchange = Exchange(
            self._origin + target,
            [f"{name}: {value}" for name, value in headers.items()],
            whole=length if length <= whole_max else -2,  # No length that an answer can have.
            room=room,
            buffers=self.buffers,
            by_the_chunk=bandwidth is not None,
        )
        return exchange, taken


class _FastBody:
    """An answer to a GET: a body while it is open, and the context that opens and closes it."""

    etag: ETag
    length: int | None
    facts: Facts | None

    def __init__(
        self, reader: FastReader, reactor: Reactor, remote: RemoteObject, start: int, stop: int | None
    ) -> None:
        self._reader, self._reactor, self._remote = reader, reactor, remote
        self._start, self._stop = start, stop
        self._exchange: Exchange

    async def __aenter__(self) -> Self:
        exchange, self._taken = await self._reader.exchange(self._remote, self._start, self._stop)
        if self._reader.session.governor.is_held:  # Only now: it may have come to be so meanwhile.
            raise RefusedError("the run is held, and one request at a time is enough")
        self._exchange = exchange
        self._reactor.start(exchange)
        try:
            while not (exchange.ended or (exchange.status and not exchange.is_whole)):
                await self._reactor.news(exchange)
            if exchange.status in _SLOW_DOWN:
                await self._slow_down(exchange)
            self._judge(exchange)
        except BaseException:
            self._reactor.abandon(exchange)
            raise
        self.etag = ETag.parse(exchange.headers.get("etag", ""))
        self.length = None if exchange.length < 0 else exchange.length
        asked = (self._remote.size if self._stop is None else self._stop) - self._start
        self._expected = asked if self.length is None else self.length
        self.facts = Facts.of(exchange.headers)
        self._reader.session.governor.answers += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reactor.abandon(self._exchange)

    async def _slow_down(self, exchange: Exchange) -> None:
        """Take a word to slow down as one: to ask once more what it means would be no way to heed it.

        Raises:
            ThrottledError: It is one.
            EndpointError: Nothing else was heard for too long.
        """
        while not (exchange.ended or exchange.has_chunk):
            await self._reactor.news(exchange)
        session = self._reader.session
        code, _ = document_of(bytes(exchange.take() or b"")) or Document("")
        error = run_error(exchange.status, code, exchange.headers, session.where)
        if isinstance(error, ThrottledError):
            session.governor.slowed(error)
            raise error

    def _judge(self, exchange: Exchange) -> None:
        """Take the answer, or leave it to the reference reader.

        Raises:
            RefusedError: It is no answer that bytes can be taken from.
        """
        reader, status = self._reader, exchange.status
        endpoint = reader.session.endpoint
        if not status or status >= 500:
            reader.failures += 1
            reader.last_failure = printable(str(status or exchange.failure))
            raise RefusedError(f"{endpoint} did not give it: {status or exchange.failure}")
        is_part = self._start > 0 or self._stop is not None
        if status != (206 if is_part else 200):
            reader.honours_ranges &= not (is_part and status == 200)
            raise RefusedError(f"{endpoint} refused it ({status})")
        if is_part and not exchange.headers.get("content-range", "").startswith(f"bytes {self._start}-"):
            raise RefusedError(f"{endpoint} ignored a range")
        reader.has_given = True

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the bytes in order; see `Body.chunks`."""
        exchange, bandwidth = self._exchange, self._reader.session.bandwidth
        received = 0
        while True:
            while not (exchange.ended or exchange.has_chunk):
                await self._reactor.news(exchange)
            chunk = exchange.take()
            if chunk is None:
                break
            received += len(chunk)
            if bandwidth is None:
                self._reactor.resume(exchange)
            if not (exchange.is_whole and exchange.failure):
                yield chunk
            # Only here: where it is not asked for another one, a thread may still be at work on this.
            self._reader.buffers.give_back(chunk)
            if bandwidth is not None:
                await self._take_ahead(received, bandwidth)
                self._reactor.resume(exchange)
        if exchange.failure:
            raise TransientError(f"{self._reader.session.endpoint} broke off a body: {exchange.failure}")

    async def _take_ahead(self, received: int, bandwidth: Bandwidth) -> None:
        """Take from the bandwidth what comes next, and what came over and above: libcurl counts by the packet.

        What the system receives ahead is on the line from the beginning, as if it had come.
        """
        come = max(received, min(self._expected, received + LIMITED_AHEAD_BYTES))
        if come < self._taken:
            return
        piece = bandwidth.piece(min(CHUNK_BYTES, max(0, self._expected - come)))
        over, self._taken = come - self._taken, come + piece
        if piece:
            await bandwidth.take(over + piece)
        else:
            bandwidth.owe(over)


def _new_handle(session: Session) -> Any:  # noqa: ANN401 - pycurl has no types.
    """Return a handle with everything set that requests share."""
    curl = pycurl.Curl()
    for option, value in (
        (pycurl.NOSIGNAL, 1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.PATH_AS_IS, 1),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.CAINFO, os.fsencode(session.certificates)),  # Of text, pycurl takes ASCII alone.
        (pycurl.PROXY, session.proxy or ""),  # Empty for none, whatever libcurl would find in the environment,
        (pycurl.NOPROXY, ""),  # and whatever it would make of NO_PROXY, which was obeyed in the choice.
        (_SUPPRESS_CONNECT_HEADERS, 1),
        (pycurl.USERAGENT, "nccid-fetch"),
        (pycurl.CONNECTTIMEOUT_MS, int(CONNECT_TIMEOUT_SECONDS * 1000)),
        (pycurl.TCP_NODELAY, 1),
        (pycurl.BUFFERSIZE, _BUFFER_BYTES),
    ):
        curl.setopt(option, value)
    if session.bandwidth is not None:
        curl.setopt(pycurl.SOCKOPTFUNCTION, _keep_small)
    return curl


def _keep_small(descriptor: int, _: int) -> int:
    with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as connection:
        receive_little(connection)
    return int(pycurl.SOCKOPT_OK)
