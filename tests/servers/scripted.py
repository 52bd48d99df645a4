"""A scripted S3 server: honest unless told otherwise, and able to tell every lie of the fault catalogue.

The fault model: whatever a network, a proxy or S3 itself can put on the wire, to a reader who lists,
gets and heads the objects of one bucket. Bodies are cut, stalled, dripped, swapped, padded or corrupted;
pages of a listing are rewritten; requests are refused, redirected, dropped or held; objects change
between two requests. What only a writer would meet is not here.

Signatures are verified, always, before anything else: in path style, and where the bucket has a host of its own. A request
whose signature is wrong, or that has none, is refused as S3 refuses it, and fails the test unless that expects it.

Each lie is a value with one method, `tell`; the truth, `Honest`, is one of them. A script is an ordered
list of lines, and a line sees only the requests that the lines above it let by::

    with ScriptedS3() as s3:
        s3.put("training/data/a.json", b"{}")
        s3.script("get", Cut(1), count=2)
        s3.script("list", Status(503, "SlowDown", headers={"Retry-After": "1"}), after=1)
"""

import asyncio
import re
import socket
import struct
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BadBase64
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from hashlib import md5
from http import HTTPStatus
from itertools import accumulate, islice, takewhile
from types import EllipsisType, TracebackType
from typing import Literal, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes
from xml.sax.saxutils import escape

from .sigv4 import Refusal, verify

Operation = Literal["list", "get", "head"]
T = TypeVar("T")

MODIFIED = datetime(2021, 3, 1, 12, tzinfo=UTC)
REGION = "eu-west-2"
SECRETS = {"test": "test-secret"}
"""The access keys of the tests, and their secrets."""
ENDLESS_BYTES = 64 * 1024 * 1024
_ACCEPTING_TURNS = 10
"""Turns of the loop after which what was accepted has got as far as `_serve`, with some to spare."""
_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")
_ORIGIN = re.compile(r"\Ahttps?://[^/]*")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_BEYOND = "\U0010ffff"
"""Appended to a common prefix, this sorts after every key below it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived: `path_raw` still percent-encoded, header names in lower case.

    `key` is the object's; a listing has its prefix there. `bucket` is that of the path or, where it has a host of its own,
    of that.
    """

    method: str
    target: str
    path_raw: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    operation: Operation


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has not been sent: header names in lower case, Content-Length left to the sending."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Listed(NamedTuple):
    """A row of a listing, as `ScriptedS3.virtual` supplies it."""

    key: str
    size: int
    etag: str
    modified: datetime
    storage_class: str = "STANDARD"


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    etag: str
    modified: datetime
    storage_class: str
    headers: dict[str, str]
    parts: tuple[int, ...]


class _HangUp(Exception):  # noqa: N818 - A way to end a connection, not a fault.
    """Ends the connection, with FIN or with RST."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


# --- Actions --------------------------------------------------------------------------------------


class Action(Protocol):
    """What a request gets instead of, or along with, the truth."""

    async def tell(self, exchange: "Exchange") -> None:
        """Answer the request of this exchange."""


@dataclass(frozen=True, slots=True)
class Honest:
    """The truth."""

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.send(exchange.honest())


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends in the middle of the body: by FIN, or by RST."""

    after_bytes: int
    reset: bool = False

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.begin(exchange.honest(), self.after_bytes)
        raise _HangUp(reset=self.reset)


@dataclass(frozen=True, slots=True)
class Stall:
    """So much of the body, then nothing, until the client leaves or the server stops."""

    after_bytes: int = 0

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.begin(exchange.honest(), self.after_bytes)
        await exchange.silence()


@dataclass(frozen=True, slots=True)
class Drip:
    """The body a few bytes at a time, `every` seconds; after the first of them all wait for the gate."""

    bytes_per_chunk: int
    gate: threading.Event | None = None
    every: float = 0.0

    async def tell(self, exchange: "Exchange") -> None:
        answer = exchange.honest()
        await exchange.begin(answer, self.bytes_per_chunk)
        if self.gate is not None:
            await exchange.wait(self.gate)
        for start in range(self.bytes_per_chunk, len(answer.body), self.bytes_per_chunk):
            await asyncio.sleep(self.every)
            await exchange.write(answer.body[start : start + self.bytes_per_chunk])


@dataclass(frozen=True, slots=True)
class Body:
    """Any bytes at all, under the headers of the honest answer.

    Attributes:
        data: The bytes.
        status: The status; with 206 the honest answer's Content-Range stays.
        headers: Headers added to the honest ones, or replacing them.
        content_length: True for the real length, False for none, or the length to claim. Unless it is
            the real one the connection is closed after the body.
        etag: Left alone by default, replaced by a string, left out by None.
    """

    data: bytes
    status: int = 200
    headers: Mapping[str, str] | None = None
    content_length: bool | int = True
    etag: str | EllipsisType | None = ...

    async def tell(self, exchange: "Exchange") -> None:
        headers = exchange.honest(ranged=self.status == 206).headers | _lower(self.headers)
        if self.etag is None:
            headers.pop("etag", None)
        elif isinstance(self.etag, str):
            headers["etag"] = f'"{self.etag}"'
        promise = len(self.data) if self.content_length is True else self.content_length
        framing = {} if promise is False else {"content-length": str(promise)}
        kept = promise is not False and promise == len(self.data)
        await exchange.head(Answer(self.status, headers), framing if kept else framing | {"connection": "close"})
        await exchange.write(self.data)
        if not kept:
            raise _HangUp


@dataclass(frozen=True, slots=True)
class Chunked:
    """Any bytes at all, chunked and properly ended, as a proxy passes on a body that it lost the rest of."""

    data: bytes

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.head(exchange.honest(), {"transfer-encoding": "chunked"})
        await exchange.write(_chunk(self.data) if self.data else b"")
        await exchange.write(_chunk(b""))


@dataclass(frozen=True, slots=True)
class Endless:
    """A chunked body without end; the server gives up at 64 MiB, in the middle."""

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.head(exchange.honest(), {"transfer-encoding": "chunked"})
        chunk = bytes(64 * 1024)
        for _ in range(ENDLESS_BYTES // len(chunk)):
            await exchange.write(_chunk(chunk))
        raise _HangUp


@dataclass(frozen=True, slots=True)
class Status:
    """An error in S3's own form."""

    status: int
    code: str
    message: str = ""
    headers: Mapping[str, str] | None = None

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.send(_error(self.status, self.code, self.message, self.headers))


@dataclass(frozen=True, slots=True)
class NoParts:
    """The truth, but for requests of a part, which get something else: the whole object, unless told otherwise."""

    instead: Action | None = None

    async def tell(self, exchange: "Exchange") -> None:
        if "partNumber" not in exchange.request.query:
            await exchange.send(exchange.honest())
        elif self.instead is not None:
            await self.instead.tell(exchange)
        else:
            await exchange.send(exchange.honest(ranged=False))


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sends the client elsewhere, to exactly this URL."""

    location: str
    status: int = 307

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.send(_error(self.status, "TemporaryRedirect", "Elsewhere.", {"location": self.location}))


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing rewritten, or made up altogether."""

    xml: bytes | Callable[[bytes], bytes]

    async def tell(self, exchange: "Exchange") -> None:
        honest = exchange.honest()
        await exchange.send(replace(honest, body=self.xml(honest.body) if callable(self.xml) else self.xml))


@dataclass(frozen=True, slots=True)
class Do:
    """Something happens between the request and its answer: an object is replaced, or deleted."""

    callback: Callable[[], object]
    then: Action | None = None

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.run(self.callback)
        await (self.then or Honest()).tell(exchange)


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection ends without an answer."""

    async def tell(self, exchange: "Exchange") -> None:
        raise _HangUp


@dataclass(frozen=True, slots=True)
class Hold:
    """The truth, but not before the event."""

    event: threading.Event

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.wait(self.event)
        await Honest().tell(exchange)


@dataclass(frozen=True, slots=True)
class CorruptBody:
    """One byte of the body, that in the middle, is wrong."""

    async def tell(self, exchange: "Exchange") -> None:
        honest = exchange.honest()
        body = bytearray(honest.body)
        body[len(body) // 2] ^= 1
        await exchange.send(replace(honest, body=bytes(body)))


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """The whole object with 200, whatever range was asked for."""

    async def tell(self, exchange: "Exchange") -> None:
        await exchange.send(exchange.honest(ranged=False))


# --- The wire -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the connection on which it is answered: the verbs that actions are made of."""

    server: "ScriptedS3"
    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def honest(self, *, ranged: bool = True) -> Answer:
        """Work out the true answer as things stand now; without `ranged`, as if no range were asked for."""
        return self.server.honest(self.request, ranged=ranged)

    async def send(self, answer: Answer) -> None:
        """Send a whole answer; the connection stays open."""
        await self.begin(answer, len(answer.body))

    async def begin(self, answer: Answer, body_bytes: int) -> None:
        """Send the head, which promises the whole body, and the first bytes of the body."""
        await self.head(answer, {"content-length": str(len(answer.body))})
        await self.write(answer.body[:body_bytes])

    async def head(self, answer: Answer, framing: dict[str, str]) -> None:
        """Send the status line and the headers. The framing yields to what the answer itself says."""
        headers = {
            "date": format_datetime(datetime.now(UTC), usegmt=True),
            "server": "AmazonS3",
            "x-amz-request-id": "SCRIPTED",
            **framing,
            **answer.headers,
        }
        lines = [f"HTTP/1.1 {answer.status} {_reason(answer.status)}", *(f"{k}: {v}" for k, v in headers.items())]
        await self._flush("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def write(self, data: bytes) -> None:
        """Send a piece of a body; nothing, if the request was HEAD."""
        if self.request.method != "HEAD":
            await self._flush(data)

    async def _flush(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def silence(self) -> None:
        """Say nothing until the client leaves."""
        await self.reader.read()
        raise _HangUp

    async def wait(self, event: threading.Event) -> None:
        """Wait for an event of the test's thread."""
        while not await self.run(lambda: event.wait(0.05)):
            pass

    async def run(self, callback: Callable[[], T]) -> T:
        """Run what may block beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.server.threads, callback)


# --- The server -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """A line of the script: what it waits for, and how often it still speaks."""

    operation: Operation
    action: Action
    key: str | None
    after: int
    count: int | None

    def speaks(self, request: Request) -> bool:
        """Count a request that has come this far, and claim it or let it by."""
        if request.operation != self.operation or self.key not in (None, request.key) or self.count == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        if self.count is not None:
            self.count -= 1
        return True


class ScriptedS3:
    """A bucket on 127.0.0.1, by its path or by its host, served by a thread of its own while the context lasts.

    Args:
        bucket: The only bucket there is.
        requests_max: How many requests are remembered, the last ones; all, if it is None.

    Attributes:
        secrets: The secret of each access key that there is.
        region: The region that signatures have to name.
        has_clock: Whether a signature has to be of the present; not where a test moves a client's clock.
        is_public: Whether requests without a signature are answered.
        expects_refusals: Whether a test means to be refused for its signature; else its context ends with an error.
        hide_missing: Answer 403 in place of 404, as S3 does to whoever may not list.
        allow_list: Whether a listing (prefix, delimiter) is granted.
        allow_get: Whether GET and HEAD of a key are granted.
        virtual: Supplies listings in place of the stored objects: called with (start_after, prefix, limit),
            it returns up to `limit` rows (key, size, etag, modified) that follow `start_after` in byte order.
        virtual_body: Supplies the bodies of those: called with a key, it returns body and time, or None for no such key.
        threads: Where actions do what may block.
    """

    def __init__(self, bucket: str = "nccid-data-warehouse-prod", *, requests_max: int | None = None) -> None:
        self.bucket = bucket
        self.secrets = dict(SECRETS)
        self.region = REGION
        self.has_clock = True
        self.is_public = False
        self.expects_refusals = False
        self.hide_missing = False
        self.allow_list: Callable[[str, str], bool] = lambda prefix, delimiter: True
        self.allow_get: Callable[[str], bool] = lambda key: True
        self.virtual: Callable[[str, str, int], list[tuple[str, int, str, datetime]]] | None = None
        self.virtual_body: Callable[[str], tuple[bytes, datetime] | None] | None = None
        self.threads = ThreadPoolExecutor(256, "scripted-s3")
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        self._order: list[str] | None = None
        self._script: list[_Line] = []
        self._requests: deque[Request] = deque(maxlen=requests_max)
        self._in_flight = 0
        self._in_flight_max = 0
        self._failures: list[Exception] = []
        self._connections: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="scripted-s3", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._server: asyncio.Server
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        if self._failures and error is None:
            raise self._failures[0]  # A callback of the test went wrong.

    def stop(self) -> None:
        """End all connections and the thread, as the end of the context does; a test may do it earlier."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self.threads.shutdown()

    def leave(self) -> None:
        """Be gone: every connection ends and nobody listens, until `come_back`. Not to be called on the server's loop."""
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()

    def come_back(self) -> None:
        """Listen again, at the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    # What a test arranges.

    def put(
        self,
        key: str,
        body: bytes,
        *,
        etag: str | None = None,
        modified: datetime = MODIFIED,
        storage_class: str = "STANDARD",
        headers: Mapping[str, str] | None = None,
        parts: list[int] | None = None,
    ) -> None:
        """Store an object, or replace it. With `parts`, the sizes of its parts, it was uploaded in those."""
        assert parts is None or sum(parts) == len(body), "the parts make up the body"
        with self._lock:
            self._objects[key] = _Object(
                body, etag or _etag(body, parts), modified, storage_class, _lower(headers), tuple(parts or ())
            )
            self._order = None

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._lock:
            del self._objects[key]
            self._order = None

    def script(
        self, operation: Operation, action: Action, *, key: str | None = None, after: int = 0, count: int | None = 1
    ) -> None:
        """Add a line to the script.

        Args:
            operation: Which requests it is about.
            action: What they get.
            key: Only those of this key, or listings of this prefix.
            after: How many of them it lets by first.
            count: How many get the action; None for all that follow.
        """
        with self._lock:
            self._script.append(_Line(operation, action, key, after, count))

    # What a test sees.

    @property
    def endpoint_url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order of their arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def in_flight_max(self) -> int:
        """The most requests that were being answered at one time."""
        with self._lock:
            return self._in_flight_max

    @property
    def in_flight(self) -> int:
        """How many requests are being answered."""
        with self._lock:
            return self._in_flight

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look until something is so of what is seen here, for a minute at most; in a thread beside the loop."""
        pause = threading.Event()
        assert any(condition() or pause.wait(0.01) for _ in range(6000)), "it did not come to that"

    def gets(self, key: str | None = None) -> int:
        """Count the GETs of objects, or of one object."""
        return sum(seen.operation == "get" and key in (None, seen.key) for seen in self.requests)

    # The truth.

    def honest(self, request: Request, *, ranged: bool = True) -> Answer:
        """Answer as S3 would; without `ranged`, as if no range and no part were asked for."""
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if request.bucket != self.bucket:
            return _error(404, "NoSuchBucket", "The specified bucket does not exist")
        if request.operation == "list":
            return self._list(request.query)
        if not request.key:
            return Answer(200, {"x-amz-bucket-region": REGION})
        return self._object(request, ranged=ranged)

    def _object(self, request: Request, *, ranged: bool) -> Answer:
        with self._lock:
            found = self._objects.get(request.key)
        if found is None and self.virtual_body is not None and (made := self.virtual_body(request.key)) is not None:
            found = _Object(made[0], _etag(made[0], None), made[1], "STANDARD", {}, ())
        if not self.allow_get(request.key) or (found is None and self.hide_missing):
            return _error(403, "AccessDenied", "Access Denied")
        if found is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        restored = 'ongoing-request="false"' in found.headers.get("x-amz-restore", "")
        if request.operation == "get" and found.storage_class in _ARCHIVED and not restored:
            return _error(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
        if request.headers.get("if-match", "*").strip('"') not in ("*", found.etag):
            return _error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        headers = {
            "accept-ranges": "bytes",
            "content-type": "binary/octet-stream",
            "etag": f'"{found.etag}"',
            "last-modified": format_datetime(found.modified, usegmt=True),
            "x-amz-server-side-encryption": "AES256",
        }
        if found.storage_class != "STANDARD":
            headers["x-amz-storage-class"] = found.storage_class
        span = _span(request, found) if ranged else None
        if isinstance(span, Answer):
            return span
        whole = span is None
        asked = whole and request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"
        headers |= {k: v for k, v in found.headers.items() if asked or not k.startswith("x-amz-checksum-")}
        if span is None:
            return Answer(200, headers, found.body)
        if "partNumber" in request.query and found.parts:
            headers["x-amz-mp-parts-count"] = str(len(found.parts))
        headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{len(found.body)}"
        return Answer(206, headers, found.body[span.start : span.stop])

    def _list(self, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        if query.get("list-type") != "2":
            return _error(501, "NotImplemented", "Only ListObjectsV2 is spoken here.")
        if not self.allow_list(prefix, delimiter):
            return _error(403, "AccessDenied", "Access Denied")
        after, token = query.get("start-after", ""), query.get("continuation-token")
        if token is not None:
            try:
                after = urlsafe_b64decode(token).decode("utf-8", "surrogateescape")
            except BadBase64:
                return _error(400, "InvalidArgument", "The continuation token provided is incorrect")
        limit = min(int(query.get("max-keys", "1000")), 1000)
        rows, last, more = self._page(after, prefix, delimiter, limit)
        encoded = query.get("encoding-type") == "url"
        text = _url if encoded else escape
        head = {
            "Name": escape(self.bucket),
            "Prefix": text(prefix),
            "Delimiter": text(delimiter) or None,
            "StartAfter": text(query.get("start-after", "")) or None,
            "ContinuationToken": token,
            "NextContinuationToken": urlsafe_b64encode(_bytes(last)).decode() if more else None,
            "KeyCount": len(rows),
            "MaxKeys": limit,
            "EncodingType": "url" if encoded else None,
            "IsTruncated": "true" if more else "false",
        }
        body = "".join(
            [
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
                *(f"<{name}>{value}</{name}>" for name, value in head.items() if value is not None),
                *(_contents(row, text) for row in rows if isinstance(row, Listed)),
                *(
                    f"<CommonPrefixes><Prefix>{text(row)}</Prefix></CommonPrefixes>"
                    for row in rows
                    if isinstance(row, str)
                ),
                "</ListBucketResult>",
            ]
        )
        return Answer(200, {"content-type": "application/xml"}, _xml(body))

    def _page(self, after: str, prefix: str, delimiter: str, limit: int) -> tuple[list[Listed | str], str, bool]:
        """Gather a page: objects and common prefixes, the place to go on from, and whether more follow it."""
        rows: list[Listed | str] = []
        while found := self._rows(after, prefix, limit + 1 - len(rows)):
            for row in found:
                if len(rows) == limit:
                    return rows, after, limit > 0
                folder, slash, _ = row.key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if slash:
                    rows.append(prefix + folder + slash)
                    after = prefix + folder + slash + _BEYOND
                    break  # Ask again, for what follows the folder.
                rows.append(row)
                after = row.key
        return rows, after, False

    def _rows(self, after: str, prefix: str, limit: int) -> list[Listed]:
        if self.virtual is not None:
            return [Listed(*row) for row in self.virtual(after, prefix, limit)]
        with self._lock:
            if self._order is None:
                self._order = sorted(self._objects, key=_bytes)
            start = max(
                bisect_right(self._order, _bytes(after), key=_bytes),
                bisect_left(self._order, _bytes(prefix), key=_bytes),
            )
            keys = takewhile(lambda key: key.startswith(prefix), islice(self._order, start, start + limit))
            return [
                Listed(key, len(found.body), found.etag, found.modified, found.storage_class)
                for key in keys
                for found in [self._objects[key]]
            ]

    # The thread.

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._listen()
        self._ready.set()
        await self._stop.wait()
        self._server.close()
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)
        ending = dict(self._connections)
        for task, writer in ending.items():
            writer.transport.abort()
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in ending if task is not None), return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=1024 * 1024, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _leave(self) -> None:
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other, until a side hangs up."""
        task = asyncio.current_task()
        self._connections[task] = writer
        writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until all is with the kernel.
        try:
            while (request := await _read(reader, self.bucket)) is not None:
                action = self._arrived(request)
                try:
                    await action.tell(Exchange(self, request, reader, writer))
                finally:
                    with self._lock:
                        self._in_flight -= 1
        except _HangUp as end:
            if end.reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except (ConnectionError, asyncio.CancelledError):
            pass  # The client left, or the server stops; with the end of this coroutine all is said.
        except Exception as error:  # noqa: BLE001 - Raised again when the context ends.
            self._failures.append(error)
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            del self._connections[task]

    def _arrived(self, request: Request) -> Action:
        with self._lock:
            self._requests.append(request)
            self._in_flight += 1
            self._in_flight_max = max(self._in_flight_max, self._in_flight)
            if (refusal := self._refusal(request)) is not None:
                if not self.expects_refusals:
                    self._failures.append(AssertionError(f"{request.method} {request.target}: {refusal.message}"))
                return Status(*refusal)
            return next((line.action for line in self._script if line.speaks(request)), Honest())

    def _refusal(self, request: Request) -> Refusal | None:
        """Return why a request is refused for its signature; None if it is not.

        A POST is no reader's: it is for a service that gives credentials, which a script plays.
        """
        if request.method == "POST":
            return None
        if "authorization" not in request.headers:
            return None if self.is_public else Refusal(403, "AccessDenied", "Access Denied: it is not signed")
        return verify(
            request.method,
            request.target,
            request.headers,
            self.secrets,
            region=self.region,
            now=datetime.now(UTC) if self.has_clock else None,
        )


# --- Small words ----------------------------------------------------------------------------------


async def _read(reader: asyncio.StreamReader, bucket: str) -> Request | None:
    """Read the head of a request; None when the client has left. Readers' requests have no body."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    target = _ORIGIN.sub("", target)  # It stands there where this is asked as a proxy.
    path, _, query = target.partition("?")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("host", "").startswith(f"{bucket}."):
        asked, key = bucket, path[1:]
    else:
        asked, _, key = path[1:].partition("/")
    options = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    operation: Operation = "head" if method == "HEAD" else "get" if key else "list"
    decoded = unquote_to_bytes(key.encode("latin-1")).decode("utf-8", "surrogateescape")
    prefix = options.get("prefix", "")
    return Request(method, target, path, asked, prefix if operation == "list" else decoded, options, headers, operation)


def _span(request: Request, found: _Object) -> range | Answer | None:
    """Find the bytes that are asked for: some of them, all (None), or none that exist (the error)."""
    size = len(found.body)
    if (part := request.query.get("partNumber")) is not None:
        bounds = [0, *accumulate(found.parts or (size,))]
        if not 1 <= int(part) < len(bounds):
            return _error(416, "InvalidPartNumber", "The requested partnumber is not satisfiable")
        span = range(bounds[int(part) - 1], bounds[int(part)])
        return span or None
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or asked[1] + asked[2] == "":
        return None
    start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
    stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
    return range(start, stop) or _error(416, "InvalidRange", "The requested range is not satisfiable")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = (
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message><RequestId>SCRIPTED</RequestId></Error>"
    )
    return Answer(status, {"content-type": "application/xml", **_lower(headers)}, _xml(body))


def _contents(row: Listed, text: Callable[[str], str]) -> str:
    return (
        f"<Contents><Key>{text(row.key)}</Key><LastModified>{_listed_time(row.modified)}</LastModified>"
        f"<ETag>&quot;{escape(row.etag)}&quot;</ETag><Size>{row.size}</Size>"
        f"<StorageClass>{row.storage_class}</StorageClass></Contents>"
    )


@lru_cache(maxsize=1024)
def _listed_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _etag(body: bytes, parts: list[int] | None) -> str:
    if parts is None:
        return md5(body, usedforsecurity=False).hexdigest()
    stops = accumulate(parts)
    each = b"".join(
        md5(body[stop - size : stop], usedforsecurity=False).digest() for size, stop in zip(parts, stops, strict=True)
    )
    return f"{md5(each, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _url(text: str) -> str:
    """Encode as S3 does under encoding-type=url: a space becomes a plus sign, a slash stays."""
    return quote_plus(_bytes(text), safe="/")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _xml(body: str) -> bytes:
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + _bytes(body)


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
