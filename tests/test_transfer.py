"""One object against every lie of the wire: whole and proved, or not at all; and what each lie costs."""

import asyncio
import gzip
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from nccid_fetch import operations, transfer
from nccid_fetch.clock import Clock
from nccid_fetch.destination import open_destination
from nccid_fetch.disk import Disk
from nccid_fetch.errors import AccessError, ObjectError, Reason, TransientError
from nccid_fetch.events import Event, Received, Retrying
from nccid_fetch.governor import Governor
from nccid_fetch.model import ETag, RemoteObject, VerifiedBy
from nccid_fetch.retry import MISMATCHES_MAX, THROTTLED_SECONDS_MAX
from nccid_fetch.settings import Settings, Source, Transport, Verify
from nccid_fetch.slots import Slots
from nccid_fetch.staging import StagedFile
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.protocol import Facts
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import open_session
from nccid_fetch.transfer import Tools

from .catalogue import fault
from .oracle import check_tree, fetch, files_of, md5_hex, records, remote_of, snapshot
from .servers.scripted import (
    Action,
    Body,
    Chunked,
    CorruptBody,
    Cut,
    Do,
    Drip,
    Drop,
    Endless,
    Exchange,
    IgnoreRange,
    ScriptedS3,
    Stall,
    Status,
)

KEY = "training/ct/Covid1/1.2/1.2.3/a.dcm"
DATA = bytes(range(256)) * 4
LARGE = bytes(range(251)) * ((9 << 20) // 251)
SHORTER = b"a new version, and a shorter one"
ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code></Error>'
BOTH = pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
MIB = 1 << 20


@dataclass
class Bench:
    """One object's transfer on its own, with the clock and chance in the test's hand."""

    s3: ScriptedS3
    dest: Path
    events: list[Event] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    now: Callable[[], float] = time.monotonic
    verified_by: VerifiedBy | None = None

    def fetch(
        self, remote: RemoteObject | None = None, *, tools: dict[str, Any] | None = None, **options: Any
    ) -> bytes:
        """Fetch it; return what was staged."""
        return asyncio.run(self._fetch(remote or remote_of(self.s3, KEY), tools or {}, options))

    def refusal(self, remote: RemoteObject | None = None, **options: Any) -> Reason:
        """Fetch it in vain; return why. Nothing may be left of it."""
        with pytest.raises(ObjectError) as caught:
            self.fetch(remote, **options)
        assert list((self.dest / ".nccid-fetch/staged").iterdir()) == []
        assert files_of(self.dest) == {}
        return caught.value.reason

    @property
    def retries(self) -> list[Retrying]:
        return [event for event in self.events if isinstance(event, Retrying)]

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each GET."""
        return [seen.headers.get("range") for seen in self.s3.requests if seen.operation == "get"]

    async def _fetch(self, remote: RemoteObject, tools: dict[str, Any], options: dict[str, Any]) -> bytes:
        async with self._tools(tools, options) as made:
            staged, self.verified_by = await transfer.fetch(remote, made)
            assert staged.is_sealed
            content = b"".join(staged.chunks())
            staged.discard()
            return content

    @asynccontextmanager
    async def _tools(self, tools: dict[str, Any], options: dict[str, Any]) -> AsyncIterator[Tools]:
        settings = Settings(dest=self.dest, concurrency=4, **options)
        source = Source(endpoint_url=self.s3.endpoint_url)

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        clock = Clock(lambda: self.now() + sum(self.pauses), pause, lambda: 0.5)
        governor = Governor(clock, retry_for_seconds=settings.retry_for_seconds)
        async with open_session(
            source, connections=4, stall_seconds=settings.stall_seconds, governor=governor
        ) as session:
            with open_destination(settings) as destination, Disk(2) as disk:
                reference = ReferenceReader(session)
                defaults: dict[str, Any] = {
                    "reader": operations._reader_for(settings.transport)(session, settings, reference),
                    "clock": clock,
                    "governor": governor,
                }
                yield Tools(
                    group="training",
                    lister=Lister(session),
                    reference=reference,
                    destination=destination,
                    disk=disk,
                    settings=settings,
                    slots=Slots(4),
                    report=self.events.append,
                    **(defaults | tools),
                )


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, DATA)
        yield server


@pytest.fixture
def bench(s3: ScriptedS3, tmp_path: Path) -> Bench:
    return Bench(s3, tmp_path / "dest")


# --- What is asked for ----------------------------------------------------------------------------


@fault(29)
@BOTH
def test_every_get_names_the_listed_version(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    s3.put(KEY, LARGE)
    s3.script("get", Cut(3 * MIB))
    s3.script("get", Cut(MIB))
    s3.script("get", CorruptBody())
    assert bench.fetch(transport=transport) == LARGE
    asked = [seen.headers.get("if-match") for seen in s3.requests if seen.operation == "get"]
    assert len(asked) == 4
    assert set(asked) == {f'"{md5_hex(LARGE)}"'}


@BOTH
def test_an_honest_object_costs_one_request_and_is_proved_by_its_md5(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    assert bench.fetch(transport=transport) == DATA
    assert bench.verified_by is VerifiedBy.MD5
    assert [seen.operation for seen in s3.requests] == ["get"]


@fault(46)
@BOTH
def test_an_object_without_bytes_becomes_a_file_without_bytes(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.put(KEY, b"")
    assert bench.fetch(transport=transport) == b""
    assert bench.verified_by is VerifiedBy.MD5
    assert bench.ranges == [None], "S3 answers 416 to any range of nothing"


@fault(50)
def test_a_key_with_a_control_character_is_fetched_like_any_other(bench: Bench, s3: ScriptedS3) -> None:
    key = "training/ct/a\nb.dcm"
    s3.put(key, DATA)
    assert bench.fetch(remote_of(s3, key), transport=Transport.FAST) == DATA
    assert s3.gets(key) == 1


# --- Bodies that break off ------------------------------------------------------------------------


@fault(1, 2)
@BOTH
@pytest.mark.parametrize(
    "cut",
    [Cut(after, reset=reset) for reset in (False, True) for after in (0, 1, len(DATA) // 2, len(DATA) - 1)],
    ids=lambda cut: f"{cut.after_bytes} bytes, {'RST' if cut.reset else 'FIN'}",
)
def test_a_body_that_is_cut_is_asked_for_again(bench: Bench, s3: ScriptedS3, transport: Transport, cut: Cut) -> None:
    s3.script("get", cut)
    assert bench.fetch(transport=transport) == DATA
    assert bench.ranges == [None, None]
    assert len(bench.retries) == len(bench.pauses) == 1


@BOTH
def test_a_connection_that_ends_without_an_answer_is_tried_again(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.script("get", Drop())
    assert bench.fetch(transport=transport) == DATA


@fault(7)
@BOTH
def test_a_stall_ends_the_attempt_and_not_the_object(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    s3.script("get", Stall(len(DATA) // 2))
    assert bench.fetch(transport=transport, stall_seconds=0.2) == DATA
    assert s3.gets() == 2


@fault(8)
@BOTH
@pytest.mark.parametrize("body", [DATA, bytes(8 << 20)], ids=["small", "large"])
def test_a_body_that_trickles_ends_the_attempt_and_not_the_object(
    bench: Bench, s3: ScriptedS3, transport: Transport, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps every stall timer quiet: the rate is what ends it."""
    s3.put(KEY, body)
    monkeypatch.setattr("nccid_fetch.store.pace.SLOW_SECONDS", 0.2)
    monkeypatch.setattr("nccid_fetch.store.pace.SLOW_BYTES_PER_SECOND", 1000)
    s3.script("get", Drip(1, every=0.05))
    assert bench.fetch(transport=transport) == body
    assert s3.gets() == 2


@fault(29, 30)
@BOTH
@pytest.mark.parametrize("if_match", ["honoured", "ignored"])
def test_a_shorter_version_after_a_cut_is_changed_and_never_a_mix(
    bench: Bench, s3: ScriptedS3, transport: Transport, if_match: str
) -> None:
    listed = remote_of(s3, KEY)
    s3.script("get", Cut(len(DATA) - 10))
    ignored = Body(SHORTER, etag=md5_hex(SHORTER))
    s3.script("get", ignored if if_match == "ignored" else Do(lambda: s3.put(KEY, SHORTER)))
    assert bench.refusal(listed, transport=transport) is Reason.CHANGED
    assert s3.gets() == 2


@fault(29)
@BOTH
def test_a_version_of_the_same_length_on_a_server_that_ignores_if_match_is_changed(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    other = DATA[::-1]
    s3.script("get", Body(other, etag=md5_hex(other)), count=None)
    assert bench.refusal(transport=transport) is Reason.CHANGED
    assert s3.gets() == 1


@fault(30)
def test_each_attempt_has_a_staged_file_of_its_own(bench: Bench, s3: ScriptedS3) -> None:
    s3.script("get", Body(DATA[: len(DATA) // 2], content_length=len(DATA)))
    s3.script("get", CorruptBody())
    names: list[str] = []

    class Noted(StagedFile):
        __slots__ = ()

        def append(self, chunk: bytes | memoryview) -> None:
            assert self.size == 0, "what another attempt wrote is still there"
            names.append(self.name)
            super().append(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nccid_fetch.staging.StagedFile", Noted)
        assert bench.fetch(transport=Transport.AIOBOTO3) == DATA
    assert len(set(names)) == len(names) >= 2


# --- Bodies that are not the object ---------------------------------------------------------------


@BOTH
def test_wrong_bytes_of_the_right_length_are_refused_after_three_of_them(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.script("get", CorruptBody(), count=None)
    assert bench.refusal(transport=transport) is Reason.DIGEST_MISMATCH
    assert s3.gets() == MISMATCHES_MAX


@BOTH
def test_wrong_bytes_once_are_mended_by_the_next_attempt(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    s3.script("get", CorruptBody())
    assert bench.fetch(transport=transport) == DATA
    assert s3.gets() == 2


LIES = {
    "short, and honest about it": Body(DATA[:100]),
    "short, under the right length": Body(DATA[:100], content_length=len(DATA)),
    "long": Body(DATA + b"more"),
    "nothing": Body(b""),
    "short, of unknown length": Body(DATA[:100], content_length=False),
    "long, of unknown length": Body(DATA + b"more", content_length=False),
    "another of that length, of unknown length": Body(DATA[::-1], content_length=False),
    "chunked, and another of that length": Chunked(DATA[::-1]),
    "chunked and short": Chunked(DATA[:100]),
    "chunked and long": Chunked(DATA + b"more"),
    "endless": Endless(),
    "an error with 200": Body(ERROR),
    "an error with 200, of the right length": Body(ERROR.ljust(len(DATA))),
}


@fault(3, 4, 5, 6)
@BOTH
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_told_once_is_mended_by_the_next_attempt(
    bench: Bench, s3: ScriptedS3, transport: Transport, lie: Action
) -> None:
    s3.script("get", lie)
    assert bench.fetch(transport=transport) == DATA
    assert s3.gets() <= 3


@fault(3, 4, 5, 6)
@BOTH
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_told_for_ever_is_never_a_file(bench: Bench, s3: ScriptedS3, transport: Transport, lie: Action) -> None:
    s3.script("get", lie, count=None)
    assert bench.refusal(transport=transport, attempts=3) in {
        Reason.SHORT_BODY,
        Reason.DIGEST_MISMATCH,
        Reason.RETRIES_EXHAUSTED,
    }


@fault(21)
@BOTH
def test_an_object_that_was_stored_compressed_stays_as_it_was_stored(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    stored = gzip.compress(DATA)
    s3.put(KEY, stored, headers={"content-encoding": "gzip"})
    assert bench.fetch(transport=transport) == stored
    assert bench.verified_by is VerifiedBy.MD5
    assert s3.requests[0].headers.get("accept-encoding", "identity") == "identity"


@fault(21)
@BOTH
@pytest.mark.parametrize("length", [True, False, len(DATA)], ids=["its own length", "no length", "the listed length"])
def test_a_body_that_a_proxy_compresses_on_the_way_is_never_a_file(
    bench: Bench, s3: ScriptedS3, transport: Transport, *, length: bool | int
) -> None:
    packed = Body(gzip.compress(DATA), headers={"Content-Encoding": "gzip"}, content_length=length)
    s3.script("get", packed, count=None)
    assert bench.refusal(transport=transport, attempts=2) in {Reason.SHORT_BODY, Reason.RETRIES_EXHAUSTED}


@fault(23)
@BOTH
@pytest.mark.parametrize("value", ["Jos\xe9", "\xff\xfe", "caf\xc3\xa9"], ids=["Latin-1", "garbage", "UTF-8"])
def test_a_header_that_is_no_ascii_keeps_no_object_away(
    bench: Bench, s3: ScriptedS3, transport: Transport, value: str
) -> None:
    s3.put(KEY, DATA, headers={"x-amz-meta-name": value})
    assert bench.fetch(transport=transport) == DATA
    assert bench.retries == []


@dataclass
class Flood:
    """A reader whose answers promise one length and have another: what no HTTP client should let through."""

    honours_ranges = False

    remote: RemoteObject
    promised: int | None = None
    chunks_max: int = 1 << 40
    chunk: bytes = bytes(300)
    sent: int = 0
    facts: Facts | None = None

    @property
    def etag(self) -> ETag:
        return self.remote.etag

    @property
    def length(self) -> int:
        return self.remote.size if self.promised is None else self.promised

    def can_read(self, key: str) -> bool:
        return True

    @asynccontextmanager
    async def get(self, remote: RemoteObject, start: int = 0) -> AsyncIterator["Flood"]:
        yield self

    async def chunks(self) -> AsyncIterator[bytes]:
        for _ in range(self.chunks_max):
            self.sent += len(self.chunk)
            yield self.chunk


@fault(5)
def test_no_more_bytes_are_staged_than_were_listed(bench: Bench, s3: ScriptedS3) -> None:
    flood = Flood(remote_of(s3, KEY))
    sizes: list[int] = []

    class Measured(StagedFile):
        __slots__ = ()

        def append(self, chunk: bytes | memoryview) -> None:
            super().append(chunk)
            sizes.append(self.size)
            assert self.size <= len(DATA)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nccid_fetch.staging.StagedFile", Measured)
        assert bench.fetch(tools={"reader": flood}) == DATA  # The second attempt asks an honest server.
    assert max(sizes) <= len(DATA)
    assert flood.sent <= len(DATA) + len(flood.chunk)


def test_a_body_that_promises_another_length_is_not_even_begun(bench: Bench, s3: ScriptedS3) -> None:
    flood = Flood(remote_of(s3, KEY), promised=1 << 40)
    assert bench.fetch(tools={"reader": flood}) == DATA
    assert flood.sent == 0


def test_a_body_that_ends_early_without_a_word_is_short_also_where_nothing_is_hashed(
    bench: Bench, s3: ScriptedS3
) -> None:
    flood = Flood(remote_of(s3, KEY), chunks_max=2)
    assert bench.fetch(tools={"reader": flood}, verify=Verify.SIZE) == DATA
    assert [event.message for event in bench.retries] == ["the body ended after 600 of 1024 bytes"]


@fault(20)
def test_a_body_that_breaks_off_after_its_last_byte_is_proved_and_not_asked_for_again(
    bench: Bench, s3: ScriptedS3
) -> None:
    """There is no range that begins at the end: S3 answers 416 to it, however often it is asked."""
    s3.put(KEY, LARGE)
    whole = Whole(remote_of(s3, KEY), body=LARGE)
    assert bench.fetch(tools={"reader": whole}) == LARGE
    assert bench.verified_by is VerifiedBy.MD5
    assert len(bench.retries) == 1
    assert s3.gets() == 0


@dataclass
class Whole(Flood):
    """A reader that gives all of a body and then says that it broke off."""

    body: bytes = b""

    async def chunks(self) -> AsyncIterator[bytes]:
        half = len(self.body) // 2
        yield self.body[:half]
        yield self.body[half:]
        raise TransientError("the connection was reset")


def test_with_verify_size_only_the_length_is_proved(bench: Bench, s3: ScriptedS3) -> None:
    s3.script("get", CorruptBody())
    assert bench.fetch(verify=Verify.SIZE) != DATA
    assert bench.verified_by is VerifiedBy.SIZE
    s3.script("get", Body(DATA[:-1]), count=None)
    assert bench.refusal(verify=Verify.SIZE, attempts=2) is Reason.SHORT_BODY


# --- Resuming what is large -----------------------------------------------------------------------


@fault(1)
@BOTH
def test_a_large_body_goes_on_from_where_it_broke(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    s3.put(KEY, LARGE)
    s3.script("get", Cut(5 * MIB))
    assert bench.fetch(transport=transport) == LARGE
    assert bench.verified_by is VerifiedBy.MD5
    whole, rest = bench.ranges
    assert whole is None
    start = _start(rest)
    assert 3 * MIB <= start <= 5 * MIB
    assert sum(event.size for event in bench.events if isinstance(event, Received)) == len(LARGE), "some came twice"


def test_a_large_body_goes_on_as_often_as_it_breaks(bench: Bench, s3: ScriptedS3) -> None:
    body = LARGE * 2
    s3.put(KEY, body)
    s3.script("get", Cut(2 * MIB + 17), count=3)
    assert bench.fetch() == body
    starts = [_start(asked) for asked in bench.ranges[1:]]
    assert starts == sorted(set(starts))
    assert len(starts) == 3


@fault(19)
def test_a_range_answered_with_the_whole_object_begins_anew(bench: Bench, s3: ScriptedS3) -> None:
    s3.put(KEY, LARGE)
    s3.script("get", Cut(3 * MIB))
    s3.script("get", IgnoreRange())
    assert bench.fetch() == LARGE
    assert [asked is None for asked in bench.ranges] == [True, False, True]


@fault(19)
def test_a_range_answered_with_another_range_begins_anew(bench: Bench, s3: ScriptedS3) -> None:
    s3.put(KEY, LARGE)
    s3.script("get", Cut(3 * MIB))
    wrong = {"Content-Range": f"bytes 0-{len(LARGE) - 1}/{len(LARGE)}"}
    s3.script("get", Body(LARGE, status=206, headers=wrong))
    assert bench.fetch() == LARGE
    assert [asked is None for asked in bench.ranges] == [True, False, True]


@fault(19)
def test_a_range_from_another_place_begins_anew_also_where_nothing_is_hashed(bench: Bench, s3: ScriptedS3) -> None:
    s3.put(KEY, LARGE)
    s3.script("get", Cut(3 * MIB))
    s3.script("get", _Elsewhere(LARGE))
    assert bench.fetch(verify=Verify.SIZE) == LARGE
    assert [asked is None for asked in bench.ranges] == [True, False, True]


@fault(29)
@pytest.mark.parametrize("if_match", ["honoured", "ignored"])
def test_a_large_object_replaced_before_it_goes_on_is_changed(bench: Bench, s3: ScriptedS3, if_match: str) -> None:
    s3.put(KEY, LARGE)
    listed = remote_of(s3, KEY)
    other = LARGE[::-1]
    s3.script("get", Cut(3 * MIB))
    ignored = _Tail(other, md5_hex(other))
    s3.script("get", ignored if if_match == "ignored" else Do(lambda: s3.put(KEY, other)))
    assert bench.refusal(listed) is Reason.CHANGED


def test_a_resumed_body_whose_end_is_wrong_begins_anew(bench: Bench, s3: ScriptedS3) -> None:
    """The digest is of the whole, so a wrong end costs the beginning as well."""
    s3.put(KEY, LARGE)
    s3.script("get", Cut(3 * MIB))
    s3.script("get", CorruptBody())
    assert bench.fetch() == LARGE
    assert [asked is None for asked in bench.ranges] == [True, False, True]


@fault(44)
@pytest.mark.parametrize("etag", ["0" * 32, "0" * 32 + "-2"], ids=["under KMS", "in parts"])
def test_a_checksum_that_comes_with_a_range_is_not_held_against_the_whole(
    bench: Bench, s3: ScriptedS3, etag: str
) -> None:
    of_whole, of_range = (
        {"x-amz-checksum-crc32": b64encode(value).decode(), "x-amz-checksum-type": "FULL_OBJECT"}
        for value in (crc32(LARGE).to_bytes(4, "big"), b"....")
    )
    s3.put(KEY, LARGE, etag=etag, headers=of_whole | {"x-amz-server-side-encryption": "aws:kms"})
    s3.script("get", Cut(3 * MIB))
    s3.script("get", _Tail(LARGE, etag, of_range))
    assert bench.fetch() == LARGE
    assert bench.verified_by is VerifiedBy.CHECKSUM
    assert [asked is None for asked in bench.ranges] == [True, False]


@dataclass(frozen=True)
class _Tail:
    """The end of a version, under its own ETag, from a server that does not look at If-Match."""

    body: bytes
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)

    async def tell(self, exchange: Exchange) -> None:
        start = _start(exchange.request.headers["range"])
        headers = {"Content-Range": f"bytes {start}-{len(self.body) - 1}/{len(self.body)}", **self.headers}
        await Body(self.body[start:], status=206, headers=headers, etag=self.etag).tell(exchange)


@dataclass(frozen=True)
class _Elsewhere:
    """As many bytes as were asked for, but from the beginning."""

    body: bytes

    async def tell(self, exchange: Exchange) -> None:
        part = self.body[: len(self.body) - _start(exchange.request.headers["range"])]
        headers = {"Content-Range": f"bytes 0-{len(part) - 1}/{len(self.body)}"}
        await Body(part, status=206, headers=headers).tell(exchange)


def _start(asked: str | None) -> int:
    assert asked is not None
    return int(asked.removeprefix("bytes=").removesuffix("-"))


# --- What servers say instead ---------------------------------------------------------------------


@fault(29)
@BOTH
def test_an_object_replaced_since_it_was_listed_is_changed(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    listed = remote_of(s3, KEY)
    s3.put(KEY, SHORTER)
    assert bench.refusal(listed, transport=transport) is Reason.CHANGED


@fault(31)
@BOTH
def test_an_object_deleted_since_it_was_listed_is_gone(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    listed = remote_of(s3, KEY)
    s3.delete(KEY)
    assert bench.refusal(listed, transport=transport) is Reason.GONE


@fault(32)
@BOTH
def test_a_denied_object_that_is_still_listed_is_denied(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    s3.allow_get = lambda key: False
    assert bench.refusal(transport=transport) is Reason.DENIED
    assert bench.pauses == [], "a denial is not tried again"


@fault(32)
@BOTH
def test_a_denied_object_that_is_no_longer_listed_is_gone(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    listed = remote_of(s3, KEY)
    s3.put(f"{KEY}.bak", DATA)  # Its name begins with the key: not to be mistaken for it.
    s3.delete(KEY)
    s3.hide_missing = True
    assert bench.refusal(listed, transport=transport) is Reason.GONE


@fault(32)
def test_a_denied_object_whose_listing_is_denied_too_is_said_to_be_denied_or_gone(bench: Bench, s3: ScriptedS3) -> None:
    s3.allow_get = lambda key: False
    s3.allow_list = lambda prefix, delimiter: False
    with pytest.raises(ObjectError, match="may not read it, or it is no longer there") as caught:
        bench.fetch()
    assert caught.value.reason is Reason.DENIED


@fault(31, 58)
@BOTH
def test_an_object_behind_a_delete_marker_is_gone_and_no_version_of_it_is_asked_for(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.script("get", Status(404, "NoSuchKey", headers={"x-amz-delete-marker": "true"}), count=None)
    assert bench.refusal(transport=transport) is Reason.GONE
    assert bench.pauses == []
    assert not any("versionId" in seen.query for seen in s3.requests)


@fault(58)
@BOTH
def test_an_object_of_a_bucket_with_versions_is_one_like_any_other(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.put(KEY, DATA, headers={"x-amz-version-id": "3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY"})
    assert bench.fetch(transport=transport) == DATA
    assert [seen.query for seen in s3.requests if seen.operation == "get"] in ([{}], [{"x-id": "GetObject"}])


@fault(34)
@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        Status(
            403, "AccessDenied", "User: arn:aws:iam::1:user/x is not authorized to perform: kms:Decrypt on resource"
        ),
        Status(400, "KMS.DisabledException", "arn:aws:kms:eu-west-2:1:key/2 is disabled."),
    ],
    ids=["no right to the key", "the key is disabled"],
)
def test_a_key_of_kms_that_may_not_be_used_is_named_and_not_tried_again(
    bench: Bench, s3: ScriptedS3, transport: Transport, answer: Action
) -> None:
    s3.script("get", answer, count=None)
    with pytest.raises(ObjectError, match=r"its key \(KMS\): they need kms:Decrypt") as caught:
        bench.fetch(transport=transport)
    assert caught.value.reason is Reason.DENIED
    assert bench.pauses == []


@fault(35)
@BOTH
@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_archived(bench: Bench, s3: ScriptedS3, transport: Transport, storage_class: str) -> None:
    s3.put(KEY, DATA, storage_class=storage_class)
    assert bench.refusal(transport=transport) is Reason.ARCHIVED
    assert bench.pauses == [], "it is not tried again"


@fault(35)
@BOTH
def test_an_archived_object_that_was_restored_arrives(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    """The listing goes on saying GLACIER."""
    restored = {"x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2022 00:00:00 GMT"'}
    s3.put(KEY, DATA, storage_class="GLACIER", headers=restored)
    assert bench.fetch(transport=transport) == DATA


@fault(36)
@BOTH
def test_an_object_in_an_archive_that_its_storage_class_does_not_tell_of_is_archived(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.put(KEY, DATA, storage_class="INTELLIGENT_TIERING")
    s3.script("get", Status(403, "InvalidObjectState"), count=None)
    assert bench.refusal(transport=transport) is Reason.ARCHIVED
    assert bench.pauses == []


@BOTH
def test_being_told_to_slow_down_is_no_attempt_and_waits_as_asked(
    bench: Bench, s3: ScriptedS3, transport: Transport
) -> None:
    s3.script("get", Status(503, "SlowDown", headers={"Retry-After": "7"}), count=5)
    assert bench.fetch(transport=transport, attempts=1) == DATA
    assert len(bench.retries) == 5
    assert all(event.throttled and event.pause_seconds >= 7 for event in bench.retries)
    assert bench.pauses == [event.pause_seconds for event in bench.retries]


@fault(13)
def test_being_told_to_slow_down_for_ever_ends(bench: Bench, s3: ScriptedS3) -> None:
    """Also where the run goes on, because others are answered."""
    s3.script("get", Status(503, "SlowDown"), count=None)
    refused = bench.refusal(transport=Transport.AIOBOTO3, retry_for_seconds=10 * THROTTLED_SECONDS_MAX)
    assert refused is Reason.RETRIES_EXHAUSTED
    assert THROTTLED_SECONDS_MAX < sum(bench.pauses) <= THROTTLED_SECONDS_MAX + 20


@fault(15)
@BOTH
@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_server_error_is_an_attempt(bench: Bench, s3: ScriptedS3, transport: Transport, status: int) -> None:
    s3.script("get", Status(status, "InternalError"), count=2 + (transport is Transport.FAST))
    assert bench.fetch(transport=transport, attempts=3) == DATA
    assert [event.throttled for event in bench.retries] == [False, False]


@fault(15)
@BOTH
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_page_of_a_proxy_is_an_attempt_whatever_it_looks_like(
    bench: Bench, s3: ScriptedS3, transport: Transport, status: int
) -> None:
    page = Body(b"<html><h1>Bad Gateway</h1>", status=status, headers={"Content-Type": "text/html"})
    s3.script("get", page, count=1 + (transport is Transport.FAST))
    assert bench.fetch(transport=transport, attempts=2) == DATA
    assert len(bench.retries) == 1


@fault(94)
@BOTH
def test_attempts_that_are_used_up_are_retries_exhausted(bench: Bench, s3: ScriptedS3, transport: Transport) -> None:
    s3.script("get", Status(500, "InternalError"), count=None)
    assert bench.refusal(transport=transport, attempts=4) is Reason.RETRIES_EXHAUSTED
    assert s3.gets() == 4 + (transport is Transport.FAST)
    assert len(bench.pauses) == 3


def test_pauses_grow(bench: Bench, s3: ScriptedS3) -> None:
    s3.script("get", Status(500, "InternalError"), count=5)
    bench.fetch(transport=Transport.AIOBOTO3)
    assert bench.pauses == sorted(set(bench.pauses))


@BOTH
def test_credentials_that_expire_end_the_run_and_leave_what_was_verified(
    s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    dest = tmp_path / "dest"
    for number in range(40):
        s3.put(f"training/data/Covid{number:02}/data_2020-01-01.json", b"%d" % number)
    s3.script("get", Status(400, "ExpiredToken"), after=25, count=None)
    run = fetch(s3, dest, "data", transport=transport, concurrency=4, retry_for_seconds=0.0)
    assert isinstance(run.error, AccessError)
    assert run.exit_code == 4
    present = check_tree(dest, snapshot(s3))
    assert len(present) == run.tally.fetched.objects >= 20
    assert set(records(dest)) == present
