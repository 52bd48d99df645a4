"""One contract for both readers and the listing, on two servers that others wrote: moto and `rclone serve s3`.

Where rclone is not S3, the test says so, and shows what keeps the caller safe all the same.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import TypeVar

import pytest

from nccid_fetch import warehouse
from nccid_fetch.demo.server import DemoServer
from nccid_fetch.demo.synthetic import SyntheticObject
from nccid_fetch.errors import AccessError, ObjectError, Reason, RefusedError, TransientError
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.protocol import CHUNK_BYTES, WHOLE_BYTES_MAX, Reader
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session

from .catalogue import fault
from .conftest import run
from .servers.rclone import RcloneS3

T = TypeVar("T")
BUCKET = warehouse.BUCKET
LARGE = "training/ct/large.dcm"
SMALL = "training/ct/small.dcm"
EMPTY = "training/ct/empty.dcm"
ODD_NAMES = [
    "a b",
    " ",
    "a+b",
    "a%b",
    "a%20b",
    "a%2Fb",
    "\u00e9",  # é in one character,
    "e\u0301",  # and in two.
    "a\\b",
    "a~b",
    "a#b",
    "a?b",
    "a?versionId=1",
    "a&b=c",
    "a;b",
    "a'b",
    'a"b',
    "a<b>&amp;",
    "a:b@c,d$e!f*g(h)",
    "[a]{b}|c^d`e",
    "🩻",
    "...",
    "..a",
    ".hidden",
    "x" * 255,
    "/".join(["long" * 60] * 4),
]
ODD = [f"training/odd/{name}" for name in ODD_NAMES]
MANY = [f"training/many/Covid{number:05}.json" for number in range(2001)]


def content(key: str) -> bytes:
    """What every server has under a key."""
    if key == LARGE:
        return bytes(range(256)) * ((WHOLE_BYTES_MAX + CHUNK_BYTES) // 256) + b"tail"
    return b"" if key == EMPTY else key.encode()


@dataclass(frozen=True)
class Server:
    endpoint_url: str
    environment: dict[str, str]
    is_s3: bool
    """Whether it obeys If-Match and Range."""


@pytest.fixture(scope="module", params=["moto", "rclone"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = [LARGE, SMALL, EMPTY, *ODD, *MANY]
    if request.param == "moto":
        with DemoServer() as moto:
            moto.load(SyntheticObject(key, content(key)) for key in keys)
            yield Server(moto.endpoint_url, moto.environment, is_s3=True)
        return
    base = tmp_path_factory.mktemp("rclone")
    for key in keys:
        path = base / "data" / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(key))
    with RcloneS3(base / "data", Path(base / "log")) as rclone:
        yield Server(rclone.endpoint_url, rclone.environment, is_s3=False)


def fast(session: Session) -> Reader:
    return FastReader(session, connections=4)


@pytest.fixture(params=[fast, ReferenceReader], ids=["fast", "reference"])
def make(request: pytest.FixtureRequest) -> Callable[[Session], Reader]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def talk(scenario: Callable[[Session], Awaitable[T]]) -> T:
    """Run a scenario in a session with the server that the environment names."""

    async def go() -> T:
        async with open_session(Source(), connections=4, stall_seconds=30) as session:
            return await scenario(session)

    return run(go())


def remote(key: str, etag: str | None = None) -> RemoteObject:
    """An object as a truthful listing has it, or with another ETag."""
    body = content(key)
    return RemoteObject(key, len(body), ETag(etag or md5(body).hexdigest()), 0)


async def read(reader: Reader, wanted: RemoteObject, start: int = 0) -> tuple[ETag, int | None, list[bytes]]:
    """The ETag, the promised length, and the chunks."""
    async with reader.get(wanted, start) as body:
        return body.etag, body.length, [bytes(chunk) async for chunk in body.chunks()]


def got(
    make: Callable[[Session], Reader], wanted: RemoteObject, start: int = 0
) -> tuple[ETag, int | None, list[bytes]]:
    return talk(lambda session: read(make(session), wanted, start))


# Bodies


def test_a_small_body_comes_whole_and_in_one_chunk(make: Callable[[Session], Reader]) -> None:
    wanted = remote(SMALL)
    assert got(make, wanted) == (wanted.etag, wanted.size, [content(SMALL)])


@fault(46)
def test_an_empty_body_is_a_body(make: Callable[[Session], Reader]) -> None:
    etag, length, chunks = got(make, remote(EMPTY))
    assert (etag, length, b"".join(chunks)) == (remote(EMPTY).etag, 0, b"")


def test_a_large_body_comes_in_chunks_of_a_bounded_size(make: Callable[[Session], Reader]) -> None:
    etag, length, chunks = got(make, remote(LARGE))
    assert b"".join(chunks) == content(LARGE)
    assert (etag, length) == (remote(LARGE).etag, remote(LARGE).size)
    assert len(chunks) > 1
    assert max(map(len, chunks)) <= 2 * CHUNK_BYTES


def test_odd_keys_are_read_byte_for_byte(make: Callable[[Session], Reader]) -> None:
    """All of them: what the fast reader cannot express, none of these servers can serve either."""

    async def scenario(session: Session) -> dict[str, bytes]:
        reader = make(session)
        assert all(reader.can_read(key) for key in ODD)
        return {key: b"".join((await read(reader, remote(key)))[2]) for key in ODD}

    assert talk(scenario) == {key: content(key) for key in ODD}


def test_several_bodies_may_be_open_at_once(make: Callable[[Session], Reader]) -> None:
    async def scenario(session: Session) -> list[bytes]:
        reader = make(session)
        async with reader.get(remote(LARGE)) as one, reader.get(remote(SMALL)) as two:
            return [b"".join([bytes(chunk) async for chunk in body.chunks()]) for body in (two, one)]

    assert talk(scenario) == [content(SMALL), content(LARGE)]


def test_a_body_that_is_left_half_read_harms_no_other(make: Callable[[Session], Reader]) -> None:
    async def scenario(session: Session) -> list[bytes]:
        reader = make(session)
        for _ in range(6):  # More than there are connections.
            async with reader.get(remote(LARGE)) as body:
                await anext(aiter(body.chunks()))
        return (await read(reader, remote(SMALL)))[2]

    assert talk(scenario) == [content(SMALL)]


# Ranges


def test_a_body_is_resumed_where_it_broke_off(server: Server, make: Callable[[Session], Reader]) -> None:
    """rclone answers a range with 200 and Content-Range: the fast reader passes that on to the reference reader."""
    wanted, start = remote(LARGE), CHUNK_BYTES + 3
    if make is fast and not server.is_s3:
        with pytest.raises(RefusedError, match="refused it"):
            got(make, wanted, start)
        return
    etag, length, chunks = got(make, wanted, start)
    assert (etag, length) == (wanted.etag, wanted.size - start)
    assert b"".join(chunks) == content(LARGE)[start:]


def test_the_last_byte_can_be_had_alone() -> None:
    wanted = remote(SMALL)
    assert got(ReferenceReader, wanted, wanted.size - 1)[1:] == (1, [content(SMALL)[-1:]])


# Other versions, and none


def test_an_object_that_was_replaced_since_it_was_listed_is_not_taken(
    server: Server, make: Callable[[Session], Reader]
) -> None:
    """rclone ignores If-Match and sends the new version; but its ETag tells the caller, who compares it."""
    wanted = remote(SMALL, etag="0" * 32)
    if server.is_s3 and make is fast:
        with pytest.raises(RefusedError):  # The other reader reads the document that says so.
            got(make, wanted)
    elif server.is_s3:
        with pytest.raises(ObjectError) as caught:
            got(make, wanted)
        assert caught.value.reason is Reason.CHANGED
    else:
        etag, _, _ = got(make, wanted)
        assert etag == md5(content(SMALL)).hexdigest() != wanted.etag


def test_a_resumed_object_that_was_replaced_is_not_taken_for_the_rest_of_the_old_one(
    server: Server, make: Callable[[Session], Reader]
) -> None:
    wanted = remote(SMALL, etag="0" * 32)
    if make is fast:
        with pytest.raises(RefusedError):
            got(make, wanted, 3)
    elif server.is_s3:
        with pytest.raises(ObjectError) as caught:
            got(make, wanted, 3)
        assert caught.value.reason is Reason.CHANGED
    else:
        assert got(make, wanted, 3)[0] != wanted.etag


def test_a_key_that_is_no_longer_there_is_gone(make: Callable[[Session], Reader]) -> None:
    """The fast reader may leave it to the reference reader to say so."""
    with pytest.raises((RefusedError, ObjectError)) as caught:
        got(make, remote("training/ct/gone.dcm"))
    if make is fast:
        assert isinstance(caught.value, RefusedError)
    else:
        assert isinstance(caught.value, ObjectError)
        assert caught.value.reason is Reason.GONE


# Credentials


@pytest.mark.parametrize("server", ["rclone"], indirect=True)  # moto takes any.
@pytest.mark.parametrize(
    ("variable", "says"),
    [("AWS_SECRET_ACCESS_KEY", "secret key does not fit"), ("AWS_ACCESS_KEY_ID", "access key is not known")],
)
def test_wrong_credentials_are_an_access_error(monkeypatch: pytest.MonkeyPatch, variable: str, says: str) -> None:
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(AccessError, match=says):
        talk(lambda session: Lister(session).page("training/ct/"))
    with pytest.raises(AccessError, match=says):
        got(ReferenceReader, remote(SMALL))
    with pytest.raises((RefusedError, TransientError)):
        got(fast, remote(SMALL))


# Listings


async def listed(session: Session, prefix: str) -> tuple[list[RemoteObject], list[int]]:
    """Every object below a prefix, and how many each page had."""
    objects: list[RemoteObject] = []
    sizes: list[int] = []
    token: str | None = None
    while True:
        page = await Lister(session).page(prefix, token=token)
        objects += page.objects
        sizes.append(len(page.objects))
        token = page.token
        if token is None:
            return objects, sizes


@fault(50, 51)
def test_odd_keys_are_listed_as_they_are_in_byte_order() -> None:
    objects, _ = talk(lambda session: listed(session, "training/odd/"))
    assert [found.key for found in objects] == sorted(ODD, key=str.encode)


def test_what_is_listed_is_what_a_reader_gets(make: Callable[[Session], Reader]) -> None:
    async def scenario(session: Session) -> list[tuple[RemoteObject, ETag, int | None, bytes]]:
        objects, _ = await listed(session, "training/ct/")
        reader = make(session)
        answers = [(found, *(await read(reader, found))) for found in objects]
        return [(found, etag, length, b"".join(chunks)) for found, etag, length, chunks in answers]

    answers = talk(scenario)
    assert [found.key for found, *_ in answers] == [EMPTY, LARGE, SMALL]
    for found, etag, length, body in answers:
        assert (etag, length, body) == (found.etag, found.size, content(found.key))


def test_etags_are_listed_bare_and_are_the_md5_of_the_body() -> None:
    """rclone leaves the quotes off, S3 has them; neither reaches the caller."""
    objects, _ = talk(lambda session: listed(session, "training/ct/"))
    assert {found.key: found.etag for found in objects} == {
        key: md5(content(key)).hexdigest() for key in (EMPTY, LARGE, SMALL)
    }


def test_times_are_whole_milliseconds_of_this_century() -> None:
    objects, _ = talk(lambda session: listed(session, "training/ct/"))
    assert all(found.modified_ns > 10**18 and found.modified_ns % 10**6 == 0 for found in objects)


def test_a_listing_of_thousands_comes_in_pages_of_a_thousand() -> None:
    objects, sizes = talk(lambda session: listed(session, "training/many/"))
    assert [found.key for found in objects] == MANY
    assert sizes == [1000, 1000, 1]


def test_a_listing_can_begin_after_a_key() -> None:
    page = talk(lambda session: Lister(session).page("training/many/", start_after=MANY[-4]))
    assert [found.key for found in page.objects] == MANY[-3:]


def test_a_delimiter_gathers_what_follows_it() -> None:
    page = talk(lambda session: Lister(session).page("training/", delimiter="/"))
    assert page.objects == []
    assert page.prefixes == ["training/ct/", "training/many/", "training/odd/"]


def test_one_key_can_be_asked_for() -> None:
    page = talk(lambda session: Lister(session).page(SMALL, max_keys=1))
    assert [found.key for found in page.objects] == [SMALL]


def test_a_prefix_below_which_there_is_nothing_lists_as_empty() -> None:
    page = talk(lambda session: Lister(session).page("training/xray/"))
    assert (page.objects, page.prefixes, page.token) == ([], [], None)


# Facts


def test_moto_says_how_an_object_is_encrypted_and_rclone_nothing(server: Server) -> None:
    facts = talk(lambda session: ReferenceReader(session).facts(remote(SMALL)))
    assert facts.encryption == ("AES256" if server.is_s3 else None)
    assert not facts.etag_is_opaque
