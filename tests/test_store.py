"""The session and the two readers: whom they talk to, with what rights, and what they make of every answer."""

import asyncio
import gzip
import hashlib
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

import nccid_fetch
from nccid_fetch import errors, warehouse
from nccid_fetch.errors import (
    AccessError,
    CredentialsError,
    EndpointError,
    ListingDeniedError,
    ListingError,
    NccidFetchError,
    ObjectError,
    RangeIgnoredError,
    Reason,
    RedirectedError,
    RefusedError,
    RunError,
    ThrottledError,
    TransientError,
    UnreachableError,
    UsageError,
)
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store import answers
from nccid_fetch.store.answers import ERROR_BYTES_MAX, Document, document_of, listing_error, object_error
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.protocol import Facts, Reader
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session

from .catalogue import fault
from .conftest import run
from .servers.scripted import (
    Action,
    Answer,
    Body,
    Chunked,
    Cut,
    Exchange,
    IgnoreRange,
    Operation,
    Page,
    Redirect,
    ScriptedS3,
    Stall,
    Status,
)

T = TypeVar("T")
BUCKET = warehouse.BUCKET
KEY = "training/ct/a.dcm"
DATA = bytes(range(256))
HERE = RemoteObject(KEY, len(DATA), ETag(hashlib.md5(DATA).hexdigest()), 0)
Make = Callable[[Session], Reader]


def fast(session: Session) -> Reader:
    return FastReader(session, connections=4)


NO: dict[Make, type[NccidFetchError]] = {fast: RefusedError, ReferenceReader: TransientError}
"""How each reader says that it did not get a body opened. Only the reference reader is asked to know why."""

both = pytest.mark.parametrize("make", [fast, ReferenceReader], ids=["fast", "reference"])


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.secrets |= {f"KEY{number}": "secret" for number in range(1, 32)}  # What `renewing` gives.
        server.put(KEY, DATA)
        yield server


@pytest.fixture
def other() -> Iterator[ScriptedS3]:
    """Another server, which would answer whatever it were asked."""
    with ScriptedS3() as server:
        server.put(KEY, DATA)
        yield server


def talk(
    scenario: Callable[[Session], Awaitable[T]],
    s3: ScriptedS3 | None = None,
    *,
    stall_seconds: float = 30.0,
    **source: Any,
) -> T:
    """Run a scenario in an open session, with a server or with whatever the environment names."""
    if s3 is not None:
        source["endpoint_url"] = s3.endpoint_url

    async def go() -> T:
        async with open_session(Source(**source), connections=4, stall_seconds=stall_seconds) as session:
            return await scenario(session)

    return run(go())


async def read(reader: Reader, remote: RemoteObject = HERE, start: int = 0) -> tuple[ETag, int | None, bytes]:
    """The ETag, the promised length, and the bytes."""
    async with reader.get(remote, start) as body:
        return body.etag, body.length, b"".join([bytes(chunk) async for chunk in body.chunks()])


def got(make: Make, s3: ScriptedS3, start: int = 0, **options: Any) -> tuple[ETag, int | None, bytes]:
    return talk(lambda session: read(make(session), start=start), s3, **options)


async def address(session: Session) -> tuple[str, str]:
    return session.address.url, session.address.region


# Redirects


def elsewhere(other: ScriptedS3) -> str:
    """The other server under the name of another host."""
    return f"http://localhost:{other.endpoint_url.rpartition(':')[2]}/{BUCKET}/{KEY}"


@fault(16)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_fast_reader_does_not_reach_the_host_that_a_redirect_names(
    s3: ScriptedS3, other: ScriptedS3, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It would send the session token there, in a header that no client knows to be one."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary")
    s3.script("get", Redirect(elsewhere(other), status), count=None)

    async def to_its_end(session: Session) -> int:
        """A reader turns away as soon as it has the status, and would not see what becomes of the request."""
        reader = FastReader(session, connections=1)
        reactor = next(reader._reactors)
        exchange, _ = await reader.exchange(HERE, 0, None)
        reactor.start(exchange)
        while not exchange.ended:
            await reactor.news(exchange)
        return exchange.status

    with pytest.raises(RefusedError):
        got(fast, s3)
    assert talk(to_its_end, s3) == status
    assert other.requests == []
    assert {seen.headers["x-amz-security-token"] for seen in s3.requests} == {"canary"}


@fault(16, 17)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("operation", ["get", "facts", "part_sizes"])
def test_the_reference_reader_refuses_every_redirect_even_to_the_same_host(
    s3: ScriptedS3, other: ScriptedS3, status: int, operation: str
) -> None:
    remote = HERE._replace(etag=ETag(f"{'0' * 32}-2"))
    kinds: tuple[Operation, ...] = ("get", "head")
    for kind in kinds:
        s3.script(kind, Redirect(f"{other.endpoint_url}/{BUCKET}/{KEY}", status), count=None)

    async def scenario(session: Session) -> None:
        reader = ReferenceReader(session)
        await (read(reader, remote) if operation == "get" else getattr(reader, operation)(remote))

    with pytest.raises(RedirectedError, match=rf"redirect \({status}\), which") as caught:
        talk(scenario, s3)
    assert caught.value.meaning.exit_code == 5, "if it befalls all objects"
    assert other.requests == []
    assert len(s3.requests) == (1 if operation == "get" else 2), "a HEAD has no document, so a GET is asked"


@pytest.mark.parametrize(
    "body", [b"<html><body>Log in<br></body></html>", b"", b"\xff\x00"], ids=["HTML", "none", "junk"]
)
def test_a_redirect_is_one_whatever_its_body_says(s3: ScriptedS3, other: ScriptedS3, body: bytes) -> None:
    s3.script("get", Body(body, status=302, headers={"Location": other.endpoint_url}))
    with pytest.raises(RedirectedError):
        got(ReferenceReader, s3)
    assert other.requests == []


WRONG_REGION: dict[str, Action] = {
    "301": Status(301, "PermanentRedirect", headers={"x-amz-bucket-region": "us-east-1"}),
    "400 with a header": Status(400, "AuthorizationHeaderMalformed", headers={"x-amz-bucket-region": "us-east-1"}),
    "400 with an element": Body(
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>us-east-1</Region></Error>", status=400
    ),
    "400 with a code": Status(400, "PermanentRedirect"),
}


@pytest.mark.parametrize("answer", WRONG_REGION.values(), ids=WRONG_REGION)
@fault(18)
def test_a_wrong_region_is_an_error_and_no_reason_to_ask_another_host(s3: ScriptedS3, answer: Action) -> None:
    """botocore would ask HeadBucket for the region, and send the request again to that region's host."""
    s3.script("get", answer)
    with pytest.raises((EndpointError, RedirectedError)):
        got(ReferenceReader, s3)
    assert [(seen.method, seen.key) for seen in s3.requests] == [("GET", KEY)]


@fault(121)
@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>AccessDenied</Code><Message>" + b"a" * ERROR_BYTES_MAX + b"</Message></Error>",
        b'<!DOCTYPE a [<!ENTITY e "AccessDenied">]><Error><Code>&e;</Code></Error>',
        "<!DOCTYPE a><Error><Code>AccessDenied</Code></Error>".encode("utf-16"),
    ],
    ids=["too long", "an entity", "a hidden declaration"],
)
def test_what_a_refusal_says_counts_only_if_s3_could_have_said_it(s3: ScriptedS3, body: bytes) -> None:
    s3.script("get", Body(body, status=400))
    with pytest.raises(TransientError, match=r"answered 400, without S3's error document$"):
        got(ReferenceReader, s3)


@fault(5, 121)
def test_a_refusal_without_end_is_not_read_to_its_end(s3: ScriptedS3) -> None:
    s3.script("get", EndlessRefusal())
    with pytest.raises(TransientError, match=r"answered 400, without S3's error document$"):
        got(ReferenceReader, s3)


@dataclass(frozen=True)
class EndlessRefusal:
    """Goes on until the client hangs up."""

    async def tell(self, exchange: Exchange) -> None:
        await exchange.head(Answer(400, {}), {"transfer-encoding": "chunked"})
        while True:
            await exchange.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def test_a_head_that_is_refused_does_not_lead_to_a_head_of_the_bucket(s3: ScriptedS3) -> None:
    s3.script("head", Status(400, "ExpiredToken"))
    s3.script("get", Status(400, "ExpiredToken"))
    with pytest.raises(CredentialsError, match="have expired"):
        talk(lambda session: ReferenceReader(session).facts(HERE), s3)
    assert [(seen.method, seen.key) for seen in s3.requests] == [("HEAD", KEY), ("GET", KEY)]


@fault(132)
def test_a_head_that_is_refused_says_nothing_and_a_get_is_asked_instead(s3: ScriptedS3) -> None:
    """No answer to a HEAD has a document, so that it may be that of anything on the way."""
    s3.put(KEY, DATA, parts=[100, 156], headers={"x-amz-server-side-encryption": "aws:kms"})
    statuses = (301, 304, 400, 401, 403, 404, 407, 412, 416, 418, 501)
    for status in statuses:
        s3.script("head", Status(status, ""), count=3)

    async def scenario(session: Session) -> list[tuple[Facts, list[int] | None]]:
        (found,) = (await Lister(session).page("training/")).objects
        reader = ReferenceReader(session)
        return [(await reader.facts(found), await reader.part_sizes(found, each=True)) for _ in statuses]

    assert talk(scenario, s3) == [(Facts("aws:kms"), [100, 156])] * len(statuses)


def test_a_server_in_trouble_over_a_head_is_not_asked_for_the_same_by_get_at_once(s3: ScriptedS3) -> None:
    statuses = (408, 429, 500, 502, 503, 504)
    for status in statuses:
        s3.script("head", Status(status, ""))

    async def scenario(session: Session) -> None:
        for _ in statuses:
            with pytest.raises(TransientError):
                await ReferenceReader(session).facts(HERE)

    talk(scenario, s3)
    assert [seen.method for seen in s3.requests] == ["HEAD"] * len(statuses)


# What is asked


@fault(29)
@both
def test_a_body_is_asked_for_under_the_etag_that_was_listed(s3: ScriptedS3, make: Make) -> None:
    assert got(make, s3) == (HERE.etag, HERE.size, DATA)
    (seen,) = s3.requests
    assert (seen.method, seen.key, seen.headers["if-match"]) == ("GET", KEY, f'"{HERE.etag}"')
    assert "range" not in seen.headers


@both
def test_a_body_is_resumed_under_the_etag_that_was_listed(s3: ScriptedS3, make: Make) -> None:
    assert got(make, s3, start=100) == (HERE.etag, HERE.size - 100, DATA[100:])
    (seen,) = s3.requests
    assert (seen.headers["if-match"], seen.headers["range"]) == (f'"{HERE.etag}"', "bytes=100-")


@fault(29)
@both
def test_an_object_that_was_replaced_is_changed(s3: ScriptedS3, make: Make) -> None:
    s3.put(KEY, DATA[::-1])
    with pytest.raises(RefusedError if make is fast else ObjectError) as caught:
        got(make, s3)
    assert getattr(caught.value, "reason", Reason.CHANGED) is Reason.CHANGED


def test_facts_and_part_sizes_are_asked_for_under_the_etag_that_was_listed(s3: ScriptedS3) -> None:
    async def scenario(session: Session) -> None:
        reader = ReferenceReader(session)
        for ask in (reader.facts, reader.part_sizes):
            with pytest.raises(ObjectError) as caught:
                await ask(HERE._replace(etag=ETag(f"{'0' * 32}-2")))
            assert caught.value.reason is Reason.CHANGED

    talk(scenario, s3)
    assert {seen.headers["if-match"] for seen in s3.requests} == {f'"{"0" * 32}-2"'}


@both
def test_every_request_is_signed_unless_that_is_not_wanted(s3: ScriptedS3, make: Make) -> None:
    s3.is_public = True
    got(make, s3)
    got(make, s3, no_sign_request=True)
    signed, unsigned = s3.requests
    assert signed.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")
    assert "authorization" not in unsigned.headers


def test_an_unsigned_listing_needs_no_credentials(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3.is_public = True
    page = talk(lambda session: Lister(session).page("training/"), s3, no_sign_request=True)
    assert [found.key for found in page.objects] == [KEY]
    assert "authorization" not in s3.requests[0].headers


@both
def test_an_endpoint_may_lie_below_a_path(s3: ScriptedS3, make: Make) -> None:
    with pytest.raises(NccidFetchError):
        talk(lambda session: read(make(session)), endpoint_url=f"{s3.endpoint_url}/gateway")
    assert s3.requests[0].path_raw == f"/gateway/{BUCKET}/{KEY}"


# Answers that lie


@fault(1, 2)
@both
@pytest.mark.parametrize(
    "trouble", [Cut(0), Cut(100), Cut(100, reset=True)], ids=["no body", "half a body", "half a body and a reset"]
)
def test_a_body_that_breaks_off_is_transient(s3: ScriptedS3, make: Make, trouble: Action) -> None:
    s3.script("get", trouble)
    with pytest.raises(TransientError):
        got(make, s3)


@both
@pytest.mark.parametrize(
    "trouble",
    [Status(500, "InternalError"), Status(503, "ServiceUnavailable"), Body(b"<html/>", status=503)],
    ids=["500", "503", "503 of a proxy"],
)
def test_a_server_that_has_trouble_is_transient(s3: ScriptedS3, make: Make, trouble: Action) -> None:
    s3.script("get", trouble)
    with pytest.raises(NO[make]) as caught:
        got(make, s3)
    assert not isinstance(caught.value, ThrottledError)


@fault(13)
@both
@pytest.mark.parametrize(
    ("trouble", "seconds"),
    [
        (Status(503, "SlowDown"), None),
        (Status(429, "TooManyRequests"), None),
        (Status(503, "ServiceUnavailable", headers={"Retry-After": "7"}), 7.0),
    ],
    ids=["SlowDown", "429", "Retry-After"],
)
def test_each_reader_hears_a_word_to_slow_down_itself(
    s3: ScriptedS3, make: Make, trouble: Action, seconds: float | None
) -> None:
    """To ask the other one what it means would be no way to heed it."""
    s3.script("get", trouble)
    with pytest.raises(ThrottledError) as caught:
        got(make, s3)
    assert caught.value.retry_after_seconds == seconds
    assert s3.gets() == 1


@both
@pytest.mark.parametrize("after_bytes", [0, 100])
def test_a_body_that_stalls_is_transient(s3: ScriptedS3, make: Make, after_bytes: int) -> None:
    s3.script("get", Stall(after_bytes))
    with pytest.raises(TransientError):
        got(make, s3, stall_seconds=0.3)


@fault(3, 4, 134)
@both
def test_a_body_that_does_not_say_how_long_it_is_is_read_and_promises_no_length(s3: ScriptedS3, make: Make) -> None:
    """The caller counts what came: a body that ends early does not have the length that was listed."""
    bodies = [DATA[:size] for size in (0, 1, 100, 256)] * 2
    for body in bodies[:4]:
        s3.script("get", Chunked(body))
    for body in bodies[4:]:
        s3.script("get", Body(body, content_length=False))

    async def scenario(session: Session) -> list[tuple[ETag, int | None, bytes]]:
        reader = make(session)
        return [await read(reader) for _ in bodies]

    assert talk(scenario, s3) == [(HERE.etag, None, body) for body in bodies]


@fault(1, 134)
@both
def test_a_body_in_chunks_that_breaks_off_is_transient(s3: ScriptedS3, make: Make) -> None:
    s3.script("get", CutChunks(DATA[:100]))
    with pytest.raises(TransientError):
        got(make, s3)


@dataclass(frozen=True)
class CutChunks:
    """A chunk, and no word that it was the last."""

    data: bytes

    async def tell(self, exchange: Exchange) -> None:
        await exchange.head(exchange.honest(), {"transfer-encoding": "chunked", "connection": "close"})
        await exchange.write(b"%x\r\n%b\r\n" % (len(self.data), self.data))
        exchange.writer.transport.abort()


@fault(132)
@both
def test_bytes_come_with_200_alone(s3: ScriptedS3, make: Make) -> None:
    statuses = (201, 203, 204, 206)
    for status in statuses:
        s3.script("get", Body(b"" if status == 204 else DATA, status=status, content_length=False))

    async def scenario(session: Session) -> None:
        reader = make(session)
        for _ in statuses:
            with pytest.raises(NO[make]):
                await read(reader)

    talk(scenario, s3)
    assert s3.gets() == len(statuses)


@fault(6)
@both
def test_an_error_document_that_comes_as_a_body_shows_by_its_length(s3: ScriptedS3, make: Make) -> None:
    document = b"<Error><Code>InternalError</Code></Error>"
    s3.script("get", Body(document))
    _, length, body = got(make, s3)
    assert (length, body) == (len(document), document)
    assert length != HERE.size


@fault(21, 113, 122, 123)
@both
def test_a_body_is_the_bytes_that_were_sent_whatever_its_headers_say_of_it(s3: ScriptedS3, make: Make) -> None:
    """Nothing is unpacked, so that nothing can explode; and no header says where a file goes or how it is to be."""
    packed = gzip.compress(bytes(1 << 20))
    headers = {
        "Content-Encoding": "gzip",
        "Content-Disposition": 'attachment; filename="../../.bashrc"',
        "x-amz-meta-mode": "0777",
        "x-amz-meta-symlink": "/etc/passwd",
    }
    s3.script("get", Body(packed, headers=headers))
    assert got(make, s3)[1:] == (len(packed), packed)
    assert "identity" in s3.requests[0].headers.get("accept-encoding", "identity")


@fault(122)
def test_a_listing_is_not_unpacked(s3: ScriptedS3) -> None:
    s3.script("list", Page(gzip.compress(bytes(64 << 20), 1)))
    with pytest.raises(ListingError):
        talk(lambda session: Lister(session).page("training/"), s3)


@both
def test_the_etag_of_the_answer_is_told_whatever_was_asked_for(s3: ScriptedS3, make: Make) -> None:
    s3.script("get", Body(DATA, etag="another"))
    assert got(make, s3)[0] == "another"


@both
def test_an_answer_without_an_etag_vouches_for_no_version(s3: ScriptedS3, make: Make) -> None:
    s3.script("get", Body(DATA, etag=None))
    assert got(make, s3)[0] == ""


@fault(23)
@both
def test_a_header_that_is_not_utf8_is_nothing_to_a_reader(s3: ScriptedS3, make: Make) -> None:
    s3.script("get", Body(DATA, headers={"x-amz-meta-name": "Jos\xe9"}))
    assert got(make, s3)[2] == DATA


@fault(23)
def test_a_header_that_is_not_utf8_keeps_no_facts_away(s3: ScriptedS3) -> None:
    s3.script("head", Body(b"", headers={"x-amz-meta-name": "Jos\xe9", "x-amz-server-side-encryption": "aws:kms"}))
    assert talk(lambda session: ReferenceReader(session).facts(HERE), s3) == Facts("aws:kms")


@fault(24)
@both
@pytest.mark.parametrize("times", [1, 8192], ids=["small", "large"])
def test_bodies_that_fail_or_are_given_up_leave_no_connection_in_use(s3: ScriptedS3, make: Make, times: int) -> None:
    """A pool of four, and four times six requests that end badly: with one place lost to each, the next would wait."""
    data = DATA * times
    remote = HERE._replace(size=len(data), etag=ETag(hashlib.md5(data).hexdigest()))
    troubles = (Stall(0), Stall(len(data) // 2), Cut(len(data) // 2), Body(data + b"more"))
    s3.put(KEY, data)

    async def scenario(session: Session) -> list[bytes]:
        reader = make(session)
        for storm in range(6):
            for trouble in troubles:
                s3.script("get", trouble)
            before = s3.gets()
            tasks = [asyncio.create_task(read(reader, remote)) for _ in troubles]
            if storm % 2:
                await asyncio.sleep(0)  # They have only just begun.
            else:
                await asyncio.to_thread(s3.wait_until, lambda: s3.gets() >= before + len(troubles))  # noqa: B023 - awaited here.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            s3._script.clear()
            await asyncio.to_thread(s3.wait_until, lambda: not s3.in_flight)
        async with asyncio.timeout(10):
            return [body for _, _, body in await asyncio.gather(*(read(reader, remote) for _ in range(4)))]

    assert talk(scenario, s3) == [data] * 4


RANGES: dict[str, Action] = {
    "the whole object": IgnoreRange(),
    "another range": Body(DATA, status=206, headers={"Content-Range": "bytes 0-255/256"}),
    "no word on the range": Body(DATA[100:], status=200),
}


@fault(19)
@pytest.mark.parametrize("answer", RANGES.values(), ids=RANGES)
@both
def test_a_range_that_is_answered_with_something_else_is_not_read(s3: ScriptedS3, make: Make, answer: Action) -> None:
    s3.script("get", answer)
    with pytest.raises((RangeIgnoredError, RefusedError)) as caught:
        got(make, s3, start=100)
    assert isinstance(caught.value, RefusedError if make is fast else RangeIgnoredError)


@fault(29)
@pytest.mark.parametrize("transport", ["fast", "aioboto3"])
def test_another_version_under_the_listed_length_does_not_arrive(
    s3: ScriptedS3, tmp_path: Path, transport: str
) -> None:
    """Even where nothing is hashed: the ETag of the answer is held against the listed one."""
    s3.script("get", Body(DATA[::-1], etag="0" * 32), count=None)
    summary = nccid_fetch.fetch(
        "ct", dest=tmp_path / "dest", endpoint_url=s3.endpoint_url, verify="size", transport=transport
    )
    assert [failure["reason"] for failure in summary.as_dict()["failures"]] == ["changed"]
    assert not (tmp_path / "dest" / "ct" / "a.dcm").exists()


# Refusals


REFUSALS: dict[str, tuple[Action, Reason]] = {
    "404": (Status(404, "NoSuchKey"), Reason.GONE),
    "403": (Status(403, "AccessDenied"), Reason.DENIED),
    "archived": (Status(403, "InvalidObjectState"), Reason.ARCHIVED),
    "412": (Status(412, "PreconditionFailed"), Reason.CHANGED),
}


@fault(31, 32, 35)
@pytest.mark.parametrize(("answer", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_the_reference_reader_says_why_an_object_was_refused(s3: ScriptedS3, answer: Action, reason: Reason) -> None:
    s3.script("get", answer)
    with pytest.raises(ObjectError) as caught:
        got(ReferenceReader, s3)
    assert caught.value.reason is reason


@pytest.mark.parametrize("answer", [Status(404, "NoSuchKey"), Status(403, "AccessDenied"), Status(401, "")])
def test_the_fast_reader_leaves_it_to_the_reference_reader_to_say_why(s3: ScriptedS3, answer: Action) -> None:
    s3.script("get", answer)
    with pytest.raises(RefusedError):
        got(fast, s3)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_credentials_at_fault_end_the_run_and_not_one_object(s3: ScriptedS3, code: str) -> None:
    s3.script("get", Status(403, code))
    with pytest.raises(AccessError):
        got(ReferenceReader, s3)


@both
def test_an_endpoint_that_is_not_there_is_transient(make: Make) -> None:
    with ScriptedS3() as server:
        gone = server.endpoint_url
    with pytest.raises(RefusedError if make is fast else UnreachableError):
        talk(lambda session: read(make(session)), endpoint_url=gone)


@pytest.mark.parametrize("answers", [0, 1])
def test_a_fast_reader_that_never_gets_along_with_a_server_is_given_up(s3: ScriptedS3, answers: int) -> None:
    """One that did once had a bad moment, and is asked again."""
    s3.script("get", Status(500, "InternalError"), after=answers, count=None)

    async def scenario(session: Session) -> bool:
        reader = FastReader(session, connections=4)
        for _ in range(12):
            with suppress(RefusedError):
                await read(reader)
        return reader.can_read(KEY)

    assert talk(scenario, s3) is bool(answers)


# Keys


@both
def test_every_key_that_s3_can_have_can_be_read(s3: ScriptedS3, make: Make) -> None:
    keys = [f"training/ct/{name}" for name in ("a//b", "a/", "./a", "../a", "\x01", "a\nb", "\x7f", "é ~+%2F?#")]
    for key in keys:
        s3.put(key, key.encode())

    async def scenario(session: Session) -> dict[str, bytes]:
        reader = make(session)
        page = await Lister(session).page("training/ct/")
        return {found.key: (await read(reader, found))[2] for found in page.objects}

    assert talk(scenario, s3) == {KEY: DATA} | {key: key.encode() for key in keys}


# Facts


FACTS: dict[str, tuple[Mapping[str, str], Facts]] = {
    "nothing": ({}, Facts()),
    "SSE-S3": ({"x-amz-server-side-encryption": "AES256"}, Facts("AES256")),
    "SSE-KMS": ({"x-amz-server-side-encryption": "aws:kms"}, Facts("aws:kms")),
    "SSE-C": ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, Facts(customer_key=True)),
    "of the full object": (
        {"x-amz-checksum-crc64nvme": "AAAA", "x-amz-checksum-type": "FULL_OBJECT"},
        Facts(checksum=("CRC64NVME", "AAAA")),
    ),
    "of an old upload": ({"x-amz-checksum-sha256": "BBBB"}, Facts(checksum=("SHA256", "BBBB"))),
    "of parts": ({"x-amz-checksum-crc32": "CCCC", "x-amz-checksum-type": "COMPOSITE"}, Facts()),
    "of three parts, untyped": ({"x-amz-checksum-sha256": "BBBB-3"}, Facts()),
    "of two kinds": ({"x-amz-checksum-sha1": "D", "x-amz-checksum-crc32c": "E"}, Facts(checksum=("CRC32C", "E"))),
    "of an upload in parts": (
        {"etag": f'"{"0" * 32}-3"', "x-amz-checksum-crc32": "C", "x-amz-checksum-type": "FULL_OBJECT"},
        Facts(checksum=("CRC32", "C")),
    ),
    "of an upload in parts, untyped": ({"etag": f'"{"0" * 32}-3"', "x-amz-checksum-crc32": "C"}, Facts()),
    "of an unknown kind": ({"x-amz-checksum-xxhash3": "F"}, Facts()),
}


@fault(44, 45)
@pytest.mark.parametrize(("headers", "facts"), FACTS.values(), ids=FACTS)
def test_a_checksum_counts_only_if_it_is_that_of_the_whole_object(headers: Mapping[str, str], facts: Facts) -> None:
    assert Facts.of(headers) == facts


@fault(43)
@pytest.mark.parametrize(
    ("facts", "opaque"),
    [
        (Facts(), False),
        (Facts("AES256"), False),
        (Facts("aws:kms"), True),
        (Facts("aws:kms:dsse"), True),
        (Facts("AES256", customer_key=True), True),
    ],
)
def test_under_kms_and_customer_keys_an_etag_proves_nothing(facts: Facts, opaque: bool) -> None:  # noqa: FBT001
    assert facts.etag_is_opaque is opaque


def test_a_multipart_object_brings_its_checksum_along_with_its_body(s3: ScriptedS3) -> None:
    checksum = {"x-amz-checksum-crc32": "CCCC", "x-amz-checksum-type": "FULL_OBJECT"}
    s3.put(KEY, DATA, parts=[128, 128], headers=checksum)

    async def scenario(session: Session) -> Facts | None:
        (found,) = (await Lister(session).page("training/")).objects
        async with ReferenceReader(session).get(found) as body:
            return body.facts

    assert talk(scenario, s3) == Facts("AES256", checksum=("CRC32", "CCCC"))


@fault(42)
@pytest.mark.parametrize(
    ("parts", "requests"),
    [([256], 1), ([128, 128], 1), ([100, 100, 56], 1), ([64] * 4, 1), ([1, 254, 1], 3)],
)
def test_the_sizes_of_parts_take_one_request_if_they_are_even_and_are_right_if_not(
    s3: ScriptedS3, parts: list[int], requests: int
) -> None:
    s3.put(KEY, DATA, parts=parts)

    async def scenario(session: Session) -> list[int] | None:
        (found,) = (await Lister(session).page("training/")).objects
        return await ReferenceReader(session).part_sizes(found)

    assert talk(scenario, s3) == parts
    assert sum(seen.method == "HEAD" for seen in s3.requests) == requests


@fault(42)
def test_parts_that_only_add_up_as_even_ones_would_are_told_when_each_is_asked_for(s3: ScriptedS3) -> None:
    s3.put(KEY, DATA, parts=[100, 50, 106])

    async def scenario(session: Session) -> list[list[int] | None]:
        (found,) = (await Lister(session).page("training/")).objects
        reader = ReferenceReader(session)
        return [await reader.part_sizes(found), await reader.part_sizes(found, each=True)]

    assert talk(scenario, s3) == [[100, 100, 56], [100, 50, 106]]


def test_a_server_that_knows_no_parts_leaves_their_sizes_unknown(s3: ScriptedS3) -> None:
    async def scenario(session: Session) -> list[list[int] | None]:
        reader = ReferenceReader(session)
        return [await reader.part_sizes(HERE), await reader.part_sizes(HERE._replace(etag=ETag(f"{'0' * 32}-2")))]

    s3.script("head", Body(b"", content_length=len(DATA), etag=f'"{"0" * 32}-2"'), count=None)
    assert talk(scenario, s3) == [None, None]


# Credentials


RENEWED = """#!{python}
import datetime, json, pathlib
count = pathlib.Path(__file__).with_suffix(".count")
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
expiration = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={life})
print(json.dumps({{"Version": 1, "AccessKeyId": f"KEY{{number}}", "SecretAccessKey": "secret",
                   "SessionToken": f"TOKEN{{number}}", "Expiration": expiration.isoformat()}}))
"""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes AWS's configuration file, which then is the only source of credentials."""

    def write(text: str) -> None:
        (tmp_path / "config").write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    return write


def renewing(tmp_path: Path, life: int) -> str:
    """A profile whose credentials live for so many seconds; each set has a number."""
    script = tmp_path / "renew.py"
    script.write_text(RENEWED.format(python=sys.executable, life=life))
    script.chmod(0o700)
    return f"[default]\ncredential_process = {script}\n"


def tokens(s3: ScriptedS3) -> list[str]:
    return [seen.headers["x-amz-security-token"] for seen in s3.requests]


@both
def test_credentials_that_are_about_to_expire_are_renewed_before_a_request(
    s3: ScriptedS3, tmp_path: Path, profile: Callable[[str], None], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.store.session.ASK_SECONDS", 0.0)
    profile(renewing(tmp_path, life=60))

    async def scenario(session: Session) -> None:
        await Lister(session).page("training/")
        await read(make(session))

    talk(scenario, s3)
    listing, body = tokens(s3)
    assert listing != body


@fault(38)
@both
def test_in_the_last_minutes_of_credentials_not_every_request_asks_for_others(
    s3: ScriptedS3, tmp_path: Path, profile: Callable[[str], None], make: Make
) -> None:
    profile(renewing(tmp_path, life=60))

    async def scenario(session: Session) -> None:
        reader = make(session)
        await asyncio.gather(*(read(reader) for _ in range(8)))

    talk(scenario, s3)
    assert len(set(tokens(s3))) == 1


@both
def test_credentials_that_last_are_asked_for_once(
    s3: ScriptedS3, tmp_path: Path, profile: Callable[[str], None], make: Make
) -> None:
    profile(renewing(tmp_path, life=7200))

    async def scenario(session: Session) -> None:
        reader = make(session)
        for _ in range(3):
            await read(reader)

    talk(scenario, s3)
    assert tokens(s3) == ["TOKEN1"] * 3


@pytest.mark.parametrize(
    "command",
    ["false", "no-such-program-here", "echo this is no JSON", "echo {}", "echo []"],
    ids=["fails", "does not exist", "prints no JSON", "prints another JSON", "prints no object"],
)
def test_credentials_from_a_process_that_gives_none_are_an_access_error(
    profile: Callable[[str], None], command: str
) -> None:
    profile(f"[default]\ncredential_process = {command}\n")
    with pytest.raises(AccessError, match="no usable AWS credentials"):
        talk(address)


@fault(38, 129)
@pytest.mark.parametrize("when", ["first", "renewed", "about to expire"])
def test_a_process_that_never_gives_credentials_does_not_hold_the_run_for_ever(
    tmp_path: Path, profile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    never = f"[default]\ncredential_process = /bin/cat {pipe}\n"
    monkeypatch.setattr("nccid_fetch.store.session.ASK_SECONDS", 0.0)
    profile(never if when == "first" else renewing(tmp_path, life=60))

    async def scenario(session: Session) -> str:
        before = await session.credentials()
        (tmp_path / "config").write_text(never)
        monkeypatch.setattr("nccid_fetch.store.session.PROVIDERS_SECONDS_MAX", 0.05)
        if when == "renewed":
            await session.renew()
        assert await session.credentials() is before
        return "they are still good"

    if when == "first":
        monkeypatch.setattr("nccid_fetch.store.session.PROVIDERS_SECONDS_MAX", 0.05)
    if when == "about to expire":
        assert talk(scenario) == "they are still good"
        return
    with pytest.raises(CredentialsError, match=r"none within 0.05 seconds|not read within 0.05 seconds"):
        talk(scenario)


def test_credentials_that_are_kept_until_long_after_they_expired_are_an_access_error(
    tmp_path: Path, profile: Callable[[str], None]
) -> None:
    profile(renewing(tmp_path, life=-60))
    with pytest.raises(AccessError, match="no usable AWS credentials"):
        talk(address)


@fault(38)
def test_while_whoever_gives_credentials_has_only_expired_ones_they_are_waited_for(
    s3: ScriptedS3, tmp_path: Path, profile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.store.session.ASK_SECONDS", 0.0)
    profile(renewing(tmp_path, life=60))

    async def scenario(session: Session) -> bool:
        before = await session.credentials()
        renewing(tmp_path, life=-60)
        with pytest.raises(CredentialsError, match="have expired"):
            await session.renew()
        assert await session.credentials() == before, "they are good for a minute"
        renewing(tmp_path, life=7200)
        return await session.renew()

    assert talk(scenario, s3)


ROLE = """[default]
role_arn = arn:aws:iam::000000000000:role/reader
source_profile = base
[profile base]
aws_access_key_id = AKIACANARY
aws_secret_access_key = canary/secret
aws_session_token = canary-token
"""


@fault(16, 116)
@pytest.mark.parametrize(
    "answer",
    [
        Redirect("http://localhost:1/", 307),
        Status(
            403, "SignatureDoesNotMatch", "The canonical string should have been: x-amz-security-token:canary-token"
        ),
    ],
    ids=["a redirect", "what was sent, quoted"],
)
def test_whoever_gives_credentials_is_asked_as_strictly_and_not_quoted(
    s3: ScriptedS3, other: ScriptedS3, profile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, answer: Action
) -> None:
    if isinstance(answer, Redirect):
        answer = Redirect(elsewhere(other), 307)
    profile(ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3.endpoint_url)
    s3.script("list", answer, count=None)
    with pytest.raises(AccessError) as caught:
        talk(address)
    assert {seen.headers["x-amz-security-token"] for seen in s3.requests} == {"canary-token"}
    assert other.requests == []
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@fault(116)
@pytest.mark.parametrize(
    "text",
    [
        "[default]\ncredential_process = {python} -c \"import sys; sys.exit('canary-secret')\"\n",
        "[default]\ncredential_process = echo canary-secret\n",
        "[default]\naws_access_key_id = A\naws_secret_access_key canary-secret\n",
        "aws_secret_access_key = canary-secret\n",
    ],
    ids=["a program that complains", "a program that prints no JSON", "a line without =", "no section"],
)
def test_what_cannot_be_read_as_credentials_is_not_quoted_for_it_may_be_some(
    profile: Callable[[str], None], text: str
) -> None:
    profile(text.replace("{python}", sys.executable))
    with pytest.raises(RunError) as caught:
        talk(address)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_session_of_sso_that_is_over_is_an_access_error(profile: Callable[[str], None]) -> None:
    profile(
        "[default]\nsso_start_url = https://example.org/start\nsso_region = eu-west-2\n"
        "sso_account_id = 1\nsso_role_name = reader\n"
    )
    with pytest.raises(AccessError, match="single sign-on") as caught:
        talk(address)
    assert caught.value.hint == "aws sso login"


def test_without_credentials_there_is_an_access_error_that_says_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessError, match="no usable AWS credentials") as caught:
        talk(address)
    assert "--profile" in str(caught.value.hint)


def test_half_a_pair_of_keys_is_an_access_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessError, match="AWS_SECRET_ACCESS_KEY"):
        talk(address)


@pytest.mark.parametrize("by", ["option", "AWS_PROFILE"])
def test_a_profile_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "AWS_PROFILE":
        monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        talk(address, profile="nobody" if by == "option" else None)


def test_a_configuration_that_is_none_is_a_usage_error(profile: Callable[[str], None]) -> None:
    profile("this is [no\nconfiguration")
    with pytest.raises(UsageError, match="configuration cannot be read"):
        talk(address)


# Region and endpoint


def test_the_warehouse_lies_in_london_unless_told_otherwise() -> None:
    assert talk(address) == (f"https://{BUCKET}.s3.eu-west-2.amazonaws.com", "eu-west-2")


def test_a_region_comes_from_option_variable_or_profile_in_this_order(
    profile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile("[default]\nregion = eu-west-3\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert talk(address)[1] == "eu-west-3"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert talk(address)[1] == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert talk(address) == (f"https://{BUCKET}.s3.eu-west-1.amazonaws.com", "eu-west-1")
    assert talk(address, region="us-west-2")[1] == "us-west-2"


def test_an_endpoint_comes_from_option_variable_or_profile_in_this_order(
    profile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile("[default]\nendpoint_url = https://d.example\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert talk(address)[0] == f"https://d.example/{BUCKET}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://c.example")
    assert talk(address)[0] == f"https://c.example/{BUCKET}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://b.example")
    assert talk(address)[0] == f"https://b.example/{BUCKET}"
    assert talk(address, endpoint_url="https://a.example")[0] == f"https://a.example/{BUCKET}"


def test_the_address_that_is_listed_is_the_one_that_bodies_come_from(s3: ScriptedS3) -> None:
    async def scenario(session: Session) -> None:
        await Lister(session).page("training/")
        await read(fast(session))
        await read(ReferenceReader(session))

    talk(scenario, s3)
    assert [seen.path_raw for seen in s3.requests] == [f"/{BUCKET}", f"/{BUCKET}/{KEY}", f"/{BUCKET}/{KEY}"]
    assert len({seen.headers["host"] for seen in s3.requests}) == 1


def test_opening_a_session_asks_nothing_of_the_endpoint(s3: ScriptedS3) -> None:
    talk(address, s3)
    assert s3.requests == []


@fault(119)
@pytest.mark.parametrize("by", ["option", "AWS_ENDPOINT_URL"])
def test_patients_data_do_not_travel_in_the_clear(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    url = "http://s3.example.org"
    if by == "AWS_ENDPOINT_URL":
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    options: dict[str, Any] = {"endpoint_url": url} if by == "option" else {}
    with pytest.raises(UsageError, match="not reached over https"):
        talk(address, **options)
    assert talk(address, allow_http=True, **options)[0] == f"{url}/{BUCKET}"


@fault(119)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "s3.localhost"])
def test_on_this_machine_they_may(host: str) -> None:
    assert talk(address, endpoint_url=f"http://{host}:9000")[0] == f"http://{host}:9000/{BUCKET}"


@pytest.mark.parametrize(
    "wrong",
    [{"region": "not a region"}, {"bucket": "not a bucket"}, {"endpoint_url": "https://"}, {"endpoint_url": "ftp://a"}],
    ids=str,
)
def test_what_no_client_can_be_made_of_is_a_usage_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        talk(address, **wrong)


def test_a_variable_that_is_no_endpoint_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(UsageError, match="endpoint"):
        talk(address)


@pytest.mark.parametrize("text", [None, "no certificate"], ids=["missing", "nonsense"])
def test_certificates_that_cannot_be_read_are_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with pytest.raises(UsageError, match=r"ca\.pem cannot be read"):
        talk(address)


def test_a_proxy_is_noticed_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxied(session: Session) -> bool:
        return session.proxy is not None

    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert talk(proxied)
    assert not talk(proxied, endpoint_url="https://inside.example")


@fault(59)
def test_a_directory_bucket_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(UsageError, match="is a directory bucket, whose listings have no order"):
        Source(bucket="images--euw2-az1--x-s3")


# Answers: the table


def word(error: NccidFetchError) -> str:
    """What kind of error it is: of an object's, the reason, and of credentials, whether waiting would be in vain."""
    if isinstance(error, ObjectError):
        return error.reason.value
    wrong = "Wrong" if isinstance(error, CredentialsError) and error.are_wrong else ""
    return wrong + type(error).__name__.removesuffix("Error")


ANSWERS: list[tuple[int, str, dict[str, str], str, str]] = [
    # Status, code, headers; what it means for an object, and for a listing.
    (412, "PreconditionFailed", {}, "changed", "Endpoint"),
    (404, "NoSuchKey", {}, "gone", "Endpoint"),
    (404, "NoSuchBucket", {}, "NoSuchBucket", "NoSuchBucket"),
    (403, "AccessDenied", {}, "denied", "ListingDenied"),
    (403, "InvalidObjectState", {}, "archived", "ListingDenied"),
    (400, "ExpiredToken", {}, "Credentials", "Credentials"),
    (403, "ExpiredTokenException", {}, "Credentials", "Credentials"),
    (400, "TokenRefreshRequired", {}, "Credentials", "Credentials"),
    (400, "InvalidToken", {}, "Credentials", "Credentials"),
    (403, "InvalidAccessKeyId", {}, "WrongCredentials", "WrongCredentials"),
    (403, "InvalidClientTokenId", {}, "WrongCredentials", "WrongCredentials"),
    (403, "UnrecognizedClientException", {}, "WrongCredentials", "WrongCredentials"),
    (403, "SignatureDoesNotMatch", {}, "WrongCredentials", "WrongCredentials"),
    (403, "RequestTimeTooSkewed", {}, "Clock", "Clock"),
    (403, "RequestExpired", {}, "Clock", "Clock"),
    (401, "Unauthorized", {}, "WrongCredentials", "WrongCredentials"),
    (301, "PermanentRedirect", {}, "Redirected", "RedirectRefused"),
    (301, "PermanentRedirect", {"x-amz-bucket-region": "a"}, "Redirected", "WrongRegion"),
    (400, "PermanentRedirect", {}, "Redirected", "RedirectRefused"),
    (307, "TemporaryRedirect", {}, "Redirected", "RedirectRefused"),
    (302, "", {}, "Redirected", "RedirectRefused"),
    (400, "AuthorizationHeaderMalformed", {}, "Endpoint", "Endpoint"),
    (400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "a"}, "WrongRegion", "WrongRegion"),
    (503, "SlowDown", {}, "Throttled", "Throttled"),
    (503, "", {"retry-after": "1"}, "Throttled", "Throttled"),
    (429, "", {}, "Throttled", "Throttled"),
    (400, "RequestLimitExceeded", {}, "Throttled", "Throttled"),
    (503, "ServiceUnavailable", {}, "Transient", "Transient"),
    (500, "InternalError", {}, "Transient", "Transient"),
    (502, "", {}, "Transient", "Transient"),
    (504, "", {}, "Transient", "Transient"),
    (408, "", {}, "Transient", "Transient"),
    (400, "RequestTimeout", {}, "Transient", "Transient"),
    (416, "InvalidRange", {}, "NotSupported", "Endpoint"),
    (400, "InvalidArgument", {}, "NotSupported", "Endpoint"),
    (405, "MethodNotAllowed", {}, "NotSupported", "Endpoint"),
    (501, "NotImplemented", {}, "NotSupported", "Transient"),
    # Without a document of S3's.
    *((status, "", {}, "Transient", "Transient") for status in (408, 500, 501, 502, 503, 504, 599)),
    *((status, "", {}, "Transient", "Listing") for status in (304, 400, 401, 403, 404, 407, 409, 412, 416, 418)),
    *((status, "", {}, "Transient", "Listing") for status in (204, 206, 425, 444, 451, 460, 499)),
]


@pytest.mark.parametrize(("status", "code", "headers", "of_object", "of_listing"), ANSWERS)
def test_what_an_answer_means(status: int, code: str, headers: dict[str, str], of_object: str, of_listing: str) -> None:
    assert word(object_error(status, code, headers, "host")) == of_object
    assert word(listing_error(status, code, headers, "host")) == of_listing


@fault(34)
@pytest.mark.parametrize(
    ("status", "code", "message", "names_the_key"),
    [
        (403, "AccessDenied", "... is not authorized to perform: kms:Decrypt on resource ...", True),
        (403, "AccessDenied", "The ciphertext refers to a customer master key; KMS:Decrypt", True),
        (400, "KMS.DisabledException", "", True),
        (400, "KMS.KMSInvalidStateException", "", True),
        (403, "AccessDenied", "Access Denied", False),
    ],
)
def test_a_key_that_may_not_be_used_is_told_from_an_object_that_may_not_be_read(
    status: int,
    code: str,
    message: str,
    names_the_key: bool,  # noqa: FBT001
) -> None:
    error = object_error(status, code, {}, "host", message)
    assert isinstance(error, ObjectError)
    assert error.reason is Reason.DENIED
    assert ("KMS" in str(error)) is names_the_key


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_run_error_says_one_sentence_and_a_next_step(answer: tuple[int, str, dict[str, str], str, str]) -> None:
    status, code, headers, *_ = answer
    for error in (object_error(status, code, headers, "host"), listing_error(status, code, headers, "host")):
        message = errors.message_of(error)
        assert message.isprintable()
        assert not message.endswith(".")
        assert not isinstance(error, errors.RunError) or error.hint


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-1", 0.0), ("Fri, 31 Dec 1999 23:59:59 GMT", None)]
)
def test_how_long_to_wait_is_taken_from_the_answer(header: str, seconds: float | None) -> None:
    error = object_error(503, "SlowDown", {"retry-after": header}, "host")
    assert isinstance(error, ThrottledError)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize("date", [None, "yesterday", ""])
def test_a_clock_without_a_date_to_hold_it_against_is_still_too_far_off(date: str | None) -> None:
    headers = {} if date is None else {"date": date}
    assert "clock is too far from the server's" in str(listing_error(403, "RequestTimeTooSkewed", headers, "host"))


@fault(40)
def test_a_clock_is_told_by_how_much_it_is_off() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=31), usegmt=True)
    assert "31 minutes behind" in str(object_error(403, "RequestTimeTooSkewed", {"date": date}, "host"))


TABLES = {
    name: table for name, table in vars(answers).items() if name.isupper() and isinstance(table, dict | set | frozenset)
}


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, table in TABLES.items() for code in sorted(table)])
def test_each_row_of_each_table_of_answers_makes_a_difference(
    monkeypatch: pytest.MonkeyPatch, name: str, code: str
) -> None:
    """A row that no answer comes to says something that is not so."""

    def meanings() -> list[tuple[str, str]]:
        told = [f(status, code, {}, "host") for f in (object_error, listing_error) for status in (200, 400, 403, 503)]
        return [(word(error), str(error)) for error in told]

    before, table = meanings(), TABLES[name]
    without = {row: table[row] for row in table if row != code} if isinstance(table, dict) else set(table) - {code}
    monkeypatch.setattr(answers, name, without)
    assert meanings() != before


def test_the_tables_of_answers_are_found() -> None:
    assert {"CREDENTIAL_CODES", "EXPIRY_CODES", "THROTTLE_CODES"} <= TABLES.keys()


DOCUMENTS: list[tuple[bytes, Document | None]] = [
    (b"<Error><Code>SlowDown</Code></Error>", Document("SlowDown")),
    (b"<Error>\n <Code> A </Code>\n <Region> eu-west-2 </Region></Error>", Document("A", "eu-west-2")),
    (b'\xef\xbb\xbf<?xml version="1.0"?>\n<Error><Code>A</Code></Error>\n', Document("A")),
    (b'\r\n<?xml version="1.0" encoding="UTF-8"?><Error><Code>A</Code></Error>', Document("A")),
    (b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>A</Code></Error>', Document("A")),
    (b'<e:Error xmlns:e="urn:s3"><e:Code>A</e:Code></e:Error>', Document("A")),
    (b"<Error><Code>KMS.DisabledException</Code></Error>", Document("KMS.DisabledException")),
    (b"<Error><Code>A</Code><Region>\x1b[2J</Region></Error>", None),
    (b"<Error><Code>A</Code><Region>../x</Region></Error>", Document("A")),
    (b"<Error><Code>a b</Code></Error>", None),
    (b"<Error><Code></Code></Error>", None),
    (b"<Error><Code>403</Code></Error>", None),
    (b"<Error><Message>no code</Message></Error>", None),
    (b"<Error><Detail><Code>AccessDenied</Code></Detail></Error>", None),
    (b"<Error><Code>AccessDenied</Code>", None),
    (b"<Error><Code>AccessDenied</Co", None),
    (b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>", None),
    (b"<html><body><Error><Code>AccessDenied</Code></Error></body></html>", None),
    (b"<html><Code>AccessDenied</Code></html>", None),
    (b"<p>Blocked. <Code>AccessDenied</Code></p>", None),
    (b"<!DOCTYPE html><Error><Code>AccessDenied</Code></Error>", None),
    (b"<html>503</html>", None),
    (b'{"Error": {"Code": "AccessDenied"}}', None),
    (b"AccessDenied", None),
    (b"", None),
    (b" ", None),
    (b'<?xml version="1.0" encoding="no-such"?><Error><Code>A</Code></Error>', None),
    (gzip.compress(b"<Error><Code>AccessDenied</Code></Error>", mtime=0), None),
    ("<Error><Code>AccessDenied</Code></Error>".encode("utf-16"), None),
    (b"<Error><Code>A</Code>" + b" " * ERROR_BYTES_MAX + b"</Error>", None),
    (b"\xff" * 20000 + b"<Error><Code>A</Code></Error>", None),
]


@fault(132)
@pytest.mark.parametrize(("body", "document"), DOCUMENTS)
def test_an_error_document_is_the_whole_answer_and_s3s(body: bytes, document: Document | None) -> None:
    assert document_of(body) == document


@fault(132)
@pytest.mark.parametrize("status", [401, 403, 404, 412])
def test_an_answer_without_such_a_document_denies_nothing(s3: ScriptedS3, status: int) -> None:
    bodies = [body for body, document in DOCUMENTS if document is None]
    for body in bodies:
        s3.script("get", Body(body, status=status))
        s3.script("list", Body(body, status=status))

    async def scenario(session: Session) -> None:
        for _ in bodies:
            with pytest.raises(TransientError, match="without S3's error document"):
                await read(ReferenceReader(session))
            with pytest.raises(ListingError, match="without S3's error document"):
                await Lister(session).page("training/ct/")

    talk(scenario, s3)
    assert len(s3.requests) == 2 * len(bodies)


def test_a_listing_that_is_denied_is_no_run_error() -> None:
    assert isinstance(listing_error(403, "AccessDenied", {}, "host"), ListingDeniedError)
