"""The fast reader's wire: whatever a server sends, the bytes are right and in order, and nobody waits for ever."""

import asyncio
import hashlib
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from nccid_fetch import warehouse
from nccid_fetch.bandwidth import Bandwidth
from nccid_fetch.errors import NccidFetchError, RefusedError, TransientError
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store import fast
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.reactor import Buffers, Exchange, Reactor
from nccid_fetch.store.session import open_session
from nccid_fetch.store.signing import Signer
from nccid_fetch.timetable import Timetable

from .catalogue import fault
from .conftest import run
from .servers.scripted import Exchange as Served
from .servers.scripted import Hold, Redirect, ScriptedS3, Stall, _HangUp
from .servers.tls import Certificate, Relay, self_signed

T = TypeVar("T")
BUCKET = warehouse.BUCKET
KEY = "training/ct/a.dcm"
KIB = 1 << 10
WHOLE, CHUNK = 8 * KIB, 4 * KIB
BUFFER = 16 * KIB
SMALL = b"forty-two bytes of an object, say, no more"
OTHER = b"another body, longer than that"
LARGE = random.Random(1).randbytes(100 * CHUNK + 5)


@pytest.fixture(autouse=True)
def small_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nccid_fetch.store.fast.WHOLE_BYTES_MAX", WHOLE)
    monkeypatch.setattr("nccid_fetch.store.fast.CHUNK_BYTES", CHUNK)
    monkeypatch.setattr("nccid_fetch.store.fast._BUFFER_BYTES", BUFFER)


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, SMALL)
        yield server


def remote(body: bytes, key: str = KEY) -> RemoteObject:
    return RemoteObject(key, len(body), ETag(hashlib.md5(body).hexdigest()), 0)


def talk(
    scenario: Callable[[FastReader], Awaitable[T]],
    server: ScriptedS3 | str,
    *,
    stall_seconds: float = 30.0,
    **source: Any,
) -> T:
    """Run a scenario with a fast reader."""
    url = server if isinstance(server, str) else server.endpoint_url

    async def go() -> T:
        source_ = Source(endpoint_url=url, **source)
        async with open_session(source_, connections=4, stall_seconds=stall_seconds) as session:
            return await scenario(FastReader(session, connections=4))

    return run(go())


async def chunks(reader: FastReader, wanted: RemoteObject, start: int = 0, stop: int | None = None) -> list[bytes]:
    async with reader.get(wanted, start, stop) as body:
        return [bytes(chunk) async for chunk in body.chunks()]


async def read(reader: FastReader, wanted: RemoteObject, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(await chunks(reader, wanted, start, stop))


def got(server: ScriptedS3 | str, body: bytes = SMALL, **options: Any) -> bytes:
    return talk(lambda reader: read(reader, remote(body)), server, **options)


@dataclass(frozen=True)
class Raw:
    """Bytes, as they are; then the connection ends, unless it is kept."""

    data: bytes
    keeps: bool = False

    async def tell(self, exchange: Served) -> None:
        exchange.writer.write(self.data)
        await exchange.writer.drain()
        if not self.keeps:
            raise _HangUp


def answer(*lines: str, body: bytes = SMALL, first: str = "HTTP/1.1 200 OK") -> Raw:
    """An answer with an ETag, and with a length unless a line says how it is framed."""
    framed = any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines)
    length = [] if framed else [f"Content-Length: {len(body)}"]
    head = [first, f'ETag: "{remote(SMALL).etag}"', *length, *lines, "", ""]
    return Raw("\r\n".join(head).encode("latin-1") + body)


# --- Bodies ---------------------------------------------------------------------------------------


def test_bodies_of_every_size_come_right_and_in_order_however_many_at_once(s3: ScriptedS3) -> None:
    chance = random.Random(7)
    edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, WHOLE - 1, WHOLE, WHOLE + 1, 3 * CHUNK, 9 * CHUNK + 3]
    bodies = [chance.randbytes(size) for size in [*edges, *(chance.randrange(3 * WHOLE) for _ in range(190))]]
    for number, body in enumerate(bodies):
        s3.put(f"training/ct/{number}", body)

    async def scenario(reader: FastReader) -> list[list[bytes]]:
        wanted = [remote(body, f"training/ct/{number}") for number, body in enumerate(bodies)]
        return await asyncio.gather(*(chunks(reader, one) for one in wanted))

    for body, pieces in zip(bodies, talk(scenario, s3), strict=True):
        assert b"".join(pieces) == body
        assert len(pieces) <= 1 or len(body) > WHOLE
        assert max(map(len, pieces), default=0) <= max(WHOLE, CHUNK + BUFFER)


@fault(91)
def test_a_reader_that_does_not_take_holds_the_sender_up(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is, no more waits than a chunk and a buffer; and what waited comes in order."""
    body = random.Random(2).randbytes(8 << 20)
    s3.put(KEY, body)
    waiting: list[int] = []
    on_body = Exchange._on_body

    def noted(exchange: Exchange, data: bytes) -> int | None:
        answered = on_body(exchange, data)
        waiting.append(sum(map(len, exchange._body)) + exchange._filled)
        return answered

    monkeypatch.setattr(Exchange, "_on_body", noted)

    async def scenario(reader: FastReader) -> bytes:
        pieces = []
        async with reader.get(remote(body)) as opened:
            async for chunk in opened.chunks():
                pieces.append(bytes(chunk))
                if len(pieces) < 6:
                    while not opened._exchange.is_paused:
                        await asyncio.to_thread(int)
        return b"".join(pieces)

    assert talk(scenario, s3) == body
    assert max(waiting) <= CHUNK + BUFFER


def test_bodies_that_follow_each_other_are_received_into_the_same_memory(s3: ScriptedS3) -> None:
    large = random.Random(3).randbytes(6 * CHUNK)
    s3.put("training/ct/large", large)

    async def scenario(reader: FastReader) -> list[memoryview]:
        for _ in range(5):
            assert await read(reader, remote(SMALL)) == SMALL
        assert len(reader.buffers._free) == 1
        assert await read(reader, remote(large, "training/ct/large")) == large
        return reader.buffers._free

    assert len(talk(scenario, s3)) <= 3, "one that is looked at, one that waits, and one that is being filled"


@pytest.mark.parametrize("ends", ["given up", "closed"])
def test_memory_that_somebody_may_still_look_at_is_not_used_again(s3: ScriptedS3, ends: str) -> None:
    """A thread may be writing a chunk to disk when whoever waits for that is cancelled."""

    async def scenario(reader: FastReader) -> None:
        with pytest.raises(RuntimeError, match="given up") if ends == "given up" else nullcontext():
            async with reader.get(remote(SMALL)) as body:
                pieces = body.chunks()
                held = await anext(pieces)
                if ends == "given up":
                    raise RuntimeError("given up")
                await pieces.aclose()  # type: ignore[attr-defined]
        assert reader.buffers._free == []
        assert await read(reader, remote(OTHER, "training/ct/other")) == OTHER
        assert bytes(held) == SMALL

    s3.put("training/ct/other", OTHER)
    talk(scenario, s3)


@fault(10, 38)
def test_while_the_run_is_held_nothing_is_sent_past_the_governor(s3: ScriptedS3) -> None:
    async def scenario(reader: FastReader) -> None:
        reader.session.governor.is_held = True
        with pytest.raises(RefusedError, match="the run is held"):
            async with reader.get(remote(SMALL)):
                pass

    talk(scenario, s3)
    assert s3.gets() == 0


@fault(10, 38)
def test_what_comes_to_be_held_while_a_request_is_made_ready_is_not_sent(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(reader: FastReader) -> None:
        async def credentials() -> None:
            reader.session.governor.is_held = True

        monkeypatch.setattr(reader.session, "credentials", credentials)
        with pytest.raises(RefusedError, match="the run is held"):
            async with reader.get(remote(SMALL)):
                pass

    talk(scenario, s3)
    assert s3.gets() == 0


@pytest.mark.parametrize("by_the_chunk", [True, False])
def test_after_a_chunk_of_what_is_limited_nothing_is_received_until_it_is_resumed(by_the_chunk: bool) -> None:  # noqa: FBT001
    """Also where the chunk was taken before more came; without a limit, the next one may come meanwhile."""
    exchange = Exchange("", [], whole=-2, room=4, buffers=Buffers(64), by_the_chunk=by_the_chunk)
    for line in (b"HTTP/1.1 200 OK\r\n", b"Content-Length: 9\r\n", b"\r\n"):
        exchange._on_header(line)
    assert exchange._on_body(b"1234") is None
    assert bytes(exchange.take() or b"") == b"1234"
    assert (exchange._on_body(b"5") is not None) is exchange.is_paused is by_the_chunk


def test_of_a_body_that_is_limited_no_more_is_received_than_was_taken(s3: ScriptedS3) -> None:
    """The sender is held up on its socket; and whoever waits for the bandwidth neither stalls nor trickles."""
    large = bytes(4 << 20)
    s3.put(KEY, large)

    async def go() -> int:
        bandwidth = Bandwidth(Timetable("64K"))
        source = Source(endpoint_url=s3.endpoint_url)
        async with open_session(source, connections=4, stall_seconds=30.0, bandwidth=bandwidth) as session:
            reader = FastReader(session, connections=4)
            async with reader.get(remote(large)) as body:
                opened, exchange = body.chunks(), body._exchange
                received = len(await anext(opened))
                bandwidth.owe(1 << 40)
                following = asyncio.ensure_future(anext(opened))
                while not exchange.is_paused:
                    await asyncio.to_thread(int)
                exchange.touched = -1e9  # An age ago.
                for one in [next(reader._reactors) for _ in range(fast._REACTORS_MAX)]:
                    one._next_look = 0.0
                    one._tell(lambda: None)
                for _ in range(50):
                    await asyncio.to_thread(int)
                assert exchange.failure is None
                assert exchange._handed_over + exchange._filled == received
                following.cancel()
        return received

    assert run(go()) <= (64 << 10) + (128 << 10)


@fault(99)
def test_who_takes_slowly_does_not_stall(s3: ScriptedS3) -> None:
    s3.put(KEY, bytes(8 << 20))

    async def scenario(reader: FastReader) -> int:
        async with reader.get(remote(bytes(8 << 20))) as body:
            opened, exchange = body.chunks(), body._exchange
            size = len(await anext(opened))
            while not exchange.is_paused:
                await asyncio.to_thread(int)
            exchange.touched = -1e9  # An age ago.
            for one in [next(reader._reactors) for _ in range(fast._REACTORS_MAX)]:
                one._next_look = 0.0
                one._tell(lambda: None)
            for _ in range(50):
                await asyncio.to_thread(int)
            return size + sum([len(chunk) async for chunk in opened])

    assert talk(scenario, s3) == 8 << 20


@fault(7)
@pytest.mark.parametrize("stall", [Stall(0), Stall(20), Hold(threading.Event())], ids=["no body", "half", "no headers"])
def test_a_stall_ends_that_exchange_alone(s3: ScriptedS3, stall: Any) -> None:
    s3.script("get", stall)

    async def scenario(reader: FastReader) -> bytes:
        stalled = asyncio.create_task(read(reader, remote(SMALL)))
        while not s3.requests:
            await asyncio.to_thread(int)
        others = [await read(reader, remote(SMALL)) for _ in range(3)]
        with pytest.raises((RefusedError, TransientError), match=r"no byte came for 0\.3 seconds"):
            await stalled
        return b"".join([*others, await read(reader, remote(SMALL))])

    assert talk(scenario, s3, stall_seconds=0.3) == SMALL * 4


# --- Giving up ------------------------------------------------------------------------------------


async def before_it_starts(reader: FastReader) -> None:
    task = asyncio.create_task(read(reader, remote(LARGE)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def before_the_headers(reader: FastReader) -> None:
    task = asyncio.create_task(read(reader, remote(LARGE, "training/ct/held")))
    one = next(reader._reactors)
    while not one._running:
        await asyncio.to_thread(int)
        one = next(reader._reactors)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def in_its_middle(reader: FastReader) -> None:
    async with reader.get(remote(LARGE)) as body:
        await anext(body.chunks())


async def while_it_is_held_up(reader: FastReader) -> None:
    async with reader.get(remote(LARGE)) as body:
        while not body._exchange.is_paused:
            await asyncio.to_thread(int)


async def unread(reader: FastReader) -> None:
    async with reader.get(remote(LARGE)):
        pass


async def at_its_end(reader: FastReader) -> None:
    async with reader.get(remote(LARGE)) as body:
        assert b"".join([bytes(chunk) async for chunk in body.chunks()]) == LARGE


MOMENTS = [before_it_starts, before_the_headers, in_its_middle, while_it_is_held_up, unread, at_its_end]


@pytest.mark.parametrize("give_up", MOMENTS)
def test_what_is_given_up_leaves_nobody_waiting_and_harms_no_other(
    s3: ScriptedS3, give_up: Callable[[FastReader], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those at work meanwhile, nor those that come after and get its handle."""
    monkeypatch.setattr("nccid_fetch.store.fast.cores", lambda: 2)
    never = threading.Event()
    s3.put(KEY, LARGE)
    s3.put("training/ct/held", LARGE)
    s3.script("get", Hold(never), key="training/ct/held", count=None)

    async def scenario(reader: FastReader) -> None:
        for _ in range(3):
            async with reader.get(remote(LARGE)) as other:
                await give_up(reader)
                assert b"".join([bytes(chunk) async for chunk in other.chunks()]) == LARGE
            assert await read(reader, remote(LARGE)) == LARGE
        one = next(reader._reactors)
        one._tell(lambda: None)
        while one._running or one._commands:
            await asyncio.to_thread(int)
        assert one._waiters == {}

    try:
        talk(scenario, s3)
    finally:
        never.set()


@fault(92)
def test_a_reactor_that_dies_ends_everybody_who_waits(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nccid_fetch.store.fast.cores", lambda: 2)
    never = threading.Event()
    s3.script("get", Hold(never), count=None)

    def die() -> None:
        raise RuntimeError("a defect")

    async def scenario(reader: FastReader) -> list[BaseException | bytes]:
        tasks = [asyncio.create_task(read(reader, remote(SMALL))) for _ in range(3)]
        one = next(reader._reactors)
        while len(one._waiters) < 3 or len(one._running) < 3:
            await asyncio.to_thread(int)
        one._tell(die)
        late = asyncio.create_task(read(reader, remote(SMALL)))
        return await asyncio.gather(*tasks, late, return_exceptions=True)

    try:
        ends = talk(scenario, s3)
    finally:
        never.set()
    assert [str(end) for end in ends] == ["a defect"] * 4


def test_a_reactor_that_closes_ends_everybody_who_waits(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nccid_fetch.store.fast.cores", lambda: 2)
    never = threading.Event()
    s3.script("get", Hold(never), count=None)

    async def go() -> list[BaseException | bytes]:
        async with open_session(Source(endpoint_url=s3.endpoint_url), connections=4, stall_seconds=30) as session:
            reader = FastReader(session, connections=4)
            tasks = [asyncio.create_task(read(reader, remote(SMALL))) for _ in range(3)]
            one = next(reader._reactors)
            while len(one._waiters) < 3:
                await asyncio.to_thread(int)
        assert not one._thread.is_alive()
        tasks.append(asyncio.create_task(read(reader, remote(SMALL))))
        return await asyncio.gather(*tasks, return_exceptions=True)

    try:
        ends = run(go())
    finally:
        never.set()
    assert [str(end) for end in ends] == ["the session is closed"] * 4


def test_a_reactor_never_rests_while_there_is_news_that_nobody_was_told(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What commands bring about, such as the bytes that come when a sender goes on, is told in the same turn."""
    monkeypatch.setattr("nccid_fetch.store.fast.cores", lambda: 2)
    wait, kept = Reactor._wait, []

    def noted(self: Reactor) -> None:
        kept.append(bool(self._news) and not self._told)
        wait(self)

    monkeypatch.setattr(Reactor, "_wait", noted)
    s3.put(KEY, LARGE)

    async def scenario(reader: FastReader) -> None:
        for _ in range(3):
            await while_it_is_held_up(reader)
        assert await read(reader, remote(LARGE)) == LARGE

    talk(scenario, s3)
    assert kept
    assert not any(kept)


def test_a_request_that_cannot_be_expressed_fails_alone(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nccid_fetch.store.fast.cores", lambda: 2)

    async def scenario(reader: FastReader) -> bytes:
        one = next(reader._reactors)
        odd = Exchange(s3.endpoint_url, ["x: \u201c"], whole=1, room=1, buffers=reader.buffers)
        one.start(odd)
        while not odd.ended:
            await one.news(odd)
        assert odd.failure
        return await read(reader, remote(SMALL))

    assert talk(scenario, s3) == SMALL


# --- Answers --------------------------------------------------------------------------------------


RIGHT: dict[str, Raw] = {
    "plain": answer(),
    "informed before": Raw(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nETag: no\r\n\r\n" + answer().data
    ),
    "Latin-1": answer("x-amz-meta-name: Jos\xe9"),
    "100 KB of headers": answer(*(f"x-amz-meta-{number}: {'x' * 1000}" for number in range(100))),
    "folded": answer("x-amz-meta-long: one", " Content-Length: 3"),
    "a name in capitals": answer(f"CONTENT-LENGTH: {len(SMALL)}"),
    "blanks": answer(f"content-length:   {len(SMALL)}   "),
}


@pytest.mark.parametrize("told", RIGHT.values(), ids=RIGHT)
def test_an_answer_may_look_like_this(s3: ScriptedS3, told: Raw) -> None:
    s3.script("get", told)
    assert got(s3) == SMALL


CHUNKED = b"2a\r\n" + SMALL + b"\r\n0\r\n"
WRONG: dict[str, Raw] = {
    "until the end": Raw(answer("transfer-encoding: identity").data),
    "chunked": answer("Transfer-Encoding: chunked", body=CHUNKED + b"\r\n"),
    "chunked, with a trailer of a length": answer(
        "Transfer-Encoding: chunked", body=CHUNKED + b"Content-Length: 42\r\nETag: x\r\n\r\n"
    ),
    "a length beyond all": answer(f"Content-Length: {'9' * 5000}"),
    "a length below all": answer("Content-Length: -42"),
    "a length of other digits": answer("Content-Length: \xb2"),
    "no HTTP": Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "nothing": Raw(b""),
    "half a header": Raw(answer().data[:40]),
    "a header without a colon": answer("no colon here"),
    "too little": answer(f"Content-Length: {len(SMALL)}", body=SMALL[:-1]),
    "a redirect": answer("Location: /elsewhere", first="HTTP/1.1 302 Found"),
    "no content": answer(first="HTTP/1.1 204 No Content"),
    "a part that nobody asked for": answer("Content-Range: bytes 0-41/42", first="HTTP/1.1 206 Partial Content"),
}


@pytest.mark.parametrize("told", WRONG.values(), ids=WRONG)
def test_an_answer_that_is_none_is_no_body_and_no_crash(
    s3: ScriptedS3, told: Raw, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.script("get", told, count=None)

    async def scenario(reader: FastReader) -> None:
        with suppress(RefusedError, TransientError):
            async with reader.get(remote(SMALL)) as body:
                data = b"".join([bytes(chunk) async for chunk in body.chunks()])
                assert body.length != len(data)
        s3._script.clear()
        assert await read(reader, remote(SMALL)) == SMALL

    talk(scenario, s3)
    assert "Traceback" not in capfd.readouterr().err


def test_a_body_that_is_longer_than_its_length_says_is_cut_short_and_fills_no_memory(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunked, a body has no end, whatever Content-Length says."""
    received: list[int] = []
    end = Exchange.end

    def noted(exchange: Exchange, failure: str | None) -> None:
        received.append(exchange._filled)
        end(exchange, failure)

    monkeypatch.setattr(Exchange, "end", noted)
    body = b"".join(b"400\r\n" + bytes(KIB) + b"\r\n" for _ in range(1000))
    s3.script("get", answer("Transfer-Encoding: chunked", f"Content-Length: {len(SMALL)}", body=body))
    with pytest.raises((RefusedError, TransientError)):
        got(s3)
    assert received
    assert max(received) <= len(SMALL)


@fault(26)
def test_a_connection_that_the_server_closes_between_two_requests_is_made_anew(s3: ScriptedS3) -> None:
    s3.script("get", answer(), count=None)  # Each answer is the last on its connection, without saying so.

    async def scenario(reader: FastReader) -> bytes:
        return b"".join([await read(reader, remote(SMALL)) for _ in range(5)])

    assert talk(scenario, s3) == SMALL * 5


@fault(16)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_redirect_is_followed_not_even_to_another_port_of_the_same_host(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, status: int, host: str
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary")
    with ScriptedS3() as other:
        other.put(KEY, SMALL)
        s3.script("get", Redirect(f"{other.endpoint_url.replace('127.0.0.1', host)}/{BUCKET}/{KEY}", status))
        with pytest.raises(RefusedError):
            got(s3)
        assert other.requests == []


# --- Requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ["a\nx-evil: 1", "a\r\n\r\nGET / HTTP/1.1", "a b", " a", "", "a\x00b", "\xe9", "a\tb"])
def test_an_etag_that_is_not_fit_for_a_header_is_not_sent(s3: ScriptedS3, etag: str) -> None:
    with pytest.raises(RefusedError, match="cannot be sent"):
        talk(lambda reader: read(reader, remote(SMALL)._replace(etag=ETag(etag))), s3)
    assert s3.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "a//b",
        "a/",
        "/",
        "./a",
        "../a",
        "a/../../b",
        ".",
        "..",
        "%2e%2e",
        "a%00",
        "\x01\x7f",
        "é",
        "a?b#c",
        "a\\b",
        "{}[]",
        "*",
    ],
)
def test_a_key_is_asked_for_as_it_is(s3: ScriptedS3, name: str) -> None:
    key = f"training/ct/{name}"
    s3.put(key, SMALL)
    assert talk(lambda reader: read(reader, remote(SMALL, key)), s3) == SMALL
    assert [seen.key for seen in s3.requests] == [key]


@pytest.mark.parametrize(("port", "scheme"), [(80, "http"), (8080, "http")])
def test_the_host_that_is_sent_is_the_one_that_was_signed(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, port: int, scheme: str
) -> None:
    """Also with the scheme's own port, which clients like to leave out. The proxy sees the request as it is sent."""
    monkeypatch.setenv("HTTP_PROXY", s3.endpoint_url)
    assert got(f"{scheme}://s3.localhost:{port}") == SMALL
    (seen,) = s3.requests
    sent = {name: seen.headers[name] for name in ("if-match",)}
    at = datetime.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    @dataclass
    class Credentials:
        access_key: str = "test"
        secret_key: str = "test-secret"
        token: str | None = None

    signed = Signer(seen.headers["host"], "eu-west-2").headers(f"/{BUCKET}/{KEY}", sent, Credentials(), at.timestamp())
    assert seen.headers["authorization"] == signed["authorization"]


# --- Proxies and certificates ---------------------------------------------------------------------


def port_of(s3: ScriptedS3) -> int:
    return int(s3.endpoint_url.rpartition(":")[2])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls(s3: ScriptedS3, certificate: Certificate) -> Iterator[Relay]:
    """The scripted server behind TLS."""
    with Relay(port_of(s3), tls=certificate.context) as relay:
        yield relay


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_aws_ca_bundle_is_trusted(tls: Relay) -> None:
    assert got(f"https://127.0.0.1:{tls.port}") == SMALL


def test_a_certificate_that_nobody_knows_is_refused_and_nothing_is_sent(tls: Relay, s3: ScriptedS3) -> None:
    with pytest.raises(RefusedError, match="certificate"):
        got(f"https://127.0.0.1:{tls.port}")
    assert s3.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_is_refused(tls: Relay, s3: ScriptedS3) -> None:
    with pytest.raises(RefusedError, match=r"certificate|host name"):
        got(f"https://localhost:{tls.port}")
    assert s3.requests == []


TUNNEL = b'HTTP/1.1 200 Connection established\r\nETag: "proxy"\r\nX-Proxy: yes\r\n\r\n'


@fault(27)
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_behind_a_proxy_the_answer_is_the_objects_and_the_credentials_stay_in_the_tunnel(
    tls: Relay, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary")

    async def scenario(reader: FastReader) -> tuple[str, bytes]:
        async with reader.get(remote(SMALL)) as body:
            assert "x-proxy" not in body._exchange.headers
            return body.etag, b"".join([bytes(chunk) async for chunk in body.chunks()])

    with Relay(tls.port, connect=TUNNEL) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert talk(scenario, f"https://127.0.0.1:{tls.port}") == (remote(SMALL).etag, SMALL)
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{tls.port} ".encode())
    assert b"canary" not in head
    assert b"authorization" not in head.lower()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "412 Precondition Failed"])
def test_what_a_proxy_refuses_was_not_refused_by_the_server(
    tls: Relay, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """A 412 of the object's would mean that it was replaced."""
    with Relay(tls.port, connect=f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(RefusedError):
            got(f"https://127.0.0.1:{tls.port}")
    assert tls.connections == 0


@fault(27)
@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [("", False), ("127.0.0.1", True), ("*", True), ("elsewhere.example", False), ("127.0.0.0/8", False)],
)
def test_no_proxy_is_obeyed_as_the_reference_reader_obeys_it(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, no_proxy: str, *, direct: bool
) -> None:
    """libcurl has rules of its own: it knows networks, say."""
    with Relay(port_of(s3)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        with suppress(NccidFetchError):
            got(s3)
        assert (proxy.connections == 0) is direct
    assert len(s3.requests) == 1


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
def test_no_other_proxy_of_the_environment_is_used(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert got(s3) == SMALL
