"""One contract for both readers and the listing, on three servers that others wrote: moto, `rclone serve s3` and MinIO's code.

The last one, which `juicefs gateway` brings, verifies signatures over http and https, in path style and where the bucket
has a host of its own. Where a server is not S3, the test says so, and shows what keeps the caller safe all the same.

With TESTS_CEPH=1 it runs on Ceph's gateway as well: see `servers.ceph`. `make contract-ceph` does so.
"""

import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path
from typing import TypeVar, get_args

import pytest

from nccid_fetch import warehouse
from nccid_fetch.demo.server import DemoServer
from nccid_fetch.demo.synthetic import SyntheticObject
from nccid_fetch.errors import AccessError, ObjectError, Reason, RefusedError, TransientError
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import PAGE_KEYS, Lister
from nccid_fetch.store.protocol import CHUNK_BYTES, WHOLE_BYTES_MAX, Reader
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session

from .catalogue import fault
from .conftest import run
from .servers.ceph import CephS3
from .servers.juicefs import JuiceFS, Scheme, Style, needs_linux
from .servers.rclone import RcloneS3
from .servers.writing import Writer

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
FEW = MANY[:21]
"""For servers that take their time to store an object."""
PARTED = "training/parted/odd.dcm"
PARTS = [bytes([number]) * size for number, size in enumerate((5 << 20, (5 << 20) + 7, (6 << 20) + 1, 13), 1)]
SUMMED = "training/parted/summed.dcm"


def content(key: str) -> bytes:
    """What every server has under a key."""
    if key == PARTED:
        return b"".join(PARTS)
    if key == LARGE:
        return bytes(range(256)) * ((WHOLE_BYTES_MAX + CHUNK_BYTES) // 256) + b"tail"
    return b"" if key == EMPTY else key.encode()


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as its tests see it.

    Attributes:
        environment: What leads a client there.
        is_s3: Whether it obeys If-Match and Range.
        many: The keys of a listing that comes in pages.
        page_keys: How many of them a page has.
        has_parts: Whether it has an object of several parts.
        encryption: How it says that objects are encrypted.
    """

    environment: dict[str, str]
    is_s3: bool
    many: list[str]
    page_keys: int = 1000
    has_parts: bool = False
    encryption: str | None = None


ALWAYS = [LARGE, SMALL, EMPTY, *ODD]


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    with DemoServer() as server:
        server.load(SyntheticObject(key, content(key)) for key in [*ALWAYS, *MANY])
        yield Server(environment=server.environment, is_s3=True, many=MANY, encryption="AES256")


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("rclone")
    for key in [*ALWAYS, *MANY]:
        path = base / "data" / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(key))
    with RcloneS3(base / "data", Path(base / "log")) as server:
        yield Server(environment=server.environment, is_s3=False, many=MANY)


@pytest.fixture(scope="module")
def juicefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JuiceFS]:
    with JuiceFS(tmp_path_factory.mktemp("juicefs"), BUCKET) as server:
        fill(server.writing)
        yield server


def fill(writing: Callable[[], AbstractContextManager[Writer]]) -> None:
    """Store what the tests want on a server that takes objects by S3 alone."""
    with writing() as writer:
        writer.put(BUCKET, [(key, content(key)) for key in [*ALWAYS, *FEW]])
        told = b64encode(sha256(content(SUMMED)).digest()).decode()
        writer.put(BUCKET, [(SUMMED, content(SUMMED))], ChecksumSHA256=told)
        writer.put_in_parts(BUCKET, PARTED, PARTS)


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephS3]:
    with CephS3(tmp_path_factory.mktemp("ceph"), BUCKET) as server:
        fill(server.writing)
        yield server


CELLS: dict[str, tuple[str, Scheme, Style]] = {
    f"{name}-{scheme}-{style}": (name, scheme, style)
    for name in ("juicefs", *(["ceph"] if os.environ.get("TESTS_CEPH") else []))
    for scheme in get_args(Scheme)
    for style in get_args(Style)
}


on_cells = [pytest.param(name, marks=needs_linux) for name in CELLS]


@pytest.fixture(scope="module", params=["moto", "rclone", *on_cells])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param not in CELLS:
        found: Server = request.getfixturevalue(request.param)
        return found
    name, scheme, style = CELLS[request.param]
    there: JuiceFS | CephS3 = request.getfixturevalue(name)
    return Server(
        environment=there.environment(scheme, style),
        is_s3=True,
        many=FEW,
        page_keys=10,
        has_parts=True,
    )


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


@fault(127)
@pytest.mark.parametrize("server", ["rclone", *on_cells], indirect=True)  # moto takes any.
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


async def listed(session: Session, prefix: str, page_keys: int = PAGE_KEYS) -> tuple[list[RemoteObject], list[int]]:
    """Every object below a prefix, and how many each page had."""
    objects: list[RemoteObject] = []
    sizes: list[int] = []
    token: str | None = None
    while True:
        page = await Lister(session).page(prefix, token=token, max_keys=page_keys)
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


def test_a_listing_of_many_comes_in_pages(server: Server) -> None:
    objects, sizes = talk(lambda session: listed(session, "training/many/", server.page_keys))
    assert [found.key for found in objects] == server.many
    assert sizes == [server.page_keys, server.page_keys, 1]


def test_a_listing_can_begin_after_a_key(server: Server) -> None:
    page = talk(lambda session: Lister(session).page("training/many/", start_after=server.many[-4]))
    assert [found.key for found in page.objects] == server.many[-3:]


def test_a_delimiter_gathers_what_follows_it(server: Server) -> None:
    page = talk(lambda session: Lister(session).page("training/", delimiter="/"))
    assert page.objects == []
    parted = ["training/parted/"] if server.has_parts else []
    assert page.prefixes == ["training/ct/", "training/many/", "training/odd/", *parted]


def test_one_key_can_be_asked_for() -> None:
    page = talk(lambda session: Lister(session).page(SMALL, max_keys=1))
    assert [found.key for found in page.objects] == [SMALL]


def test_a_prefix_below_which_there_is_nothing_lists_as_empty() -> None:
    page = talk(lambda session: Lister(session).page("training/xray/"))
    assert (page.objects, page.prefixes, page.token) == ([], [], None)


# Facts


def test_moto_says_how_an_object_is_encrypted_and_the_others_nothing(server: Server) -> None:
    facts = talk(lambda session: ReferenceReader(session).facts(remote(SMALL)))
    assert facts.encryption == server.encryption
    assert not facts.etag_is_opaque


# Objects of several parts, and checksums that were stored


@fault(42, 127)
@pytest.mark.parametrize("server", on_cells, indirect=True)
def test_parts_of_odd_sizes_that_cannot_be_asked_for_are_not_made_up(make: Callable[[Session], Reader]) -> None:
    """The first part is answered with the whole object, any other refused. So there is no proof, and no wrong one either."""
    wanted = remote(PARTED, etag=f"{md5(b''.join(md5(part).digest() for part in PARTS)).hexdigest()}-{len(PARTS)}")

    async def scenario(session: Session) -> tuple[ETag, int | None, bytes, list[int] | None]:
        objects, _ = await listed(session, PARTED)
        assert [(found.etag, found.size) for found in objects] == [(wanted.etag, wanted.size)]
        etag, length, chunks = await read(make(session), wanted, 5)
        return etag, length, b"".join(chunks), await ReferenceReader(session).part_sizes(wanted)

    assert talk(scenario) == (wanted.etag, wanted.size - 5, content(PARTED)[5:], None)


@fault(44, 127)
@pytest.mark.parametrize("server", on_cells, indirect=True)
def test_a_checksum_that_was_stored_and_is_not_told_leaves_the_etag_to_prove_the_body() -> None:
    facts = talk(lambda session: ReferenceReader(session).facts(remote(SUMMED)))
    assert facts.checksum is None
    assert got(ReferenceReader, remote(SUMMED))[0].md5 == md5(content(SUMMED)).hexdigest()
