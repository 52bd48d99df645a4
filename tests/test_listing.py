"""A listing is whole, in order and of what was asked for, or it is an error: never a short one that looks complete."""

import asyncio
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nccid_fetch import warehouse
from nccid_fetch.clock import Clock
from nccid_fetch.errors import (
    AccessError,
    EndpointError,
    ListingDeniedError,
    ListingError,
    NccidFetchError,
    RedirectRefusedError,
    TransientError,
    UnreachableError,
)
from nccid_fetch.events import Event, ListingRetrying, Report
from nccid_fetch.governor import Governor
from nccid_fetch.listing import EMPTY_PAGES_MAX, FIRST_THROTTLED_SECONDS_MAX, Listing, survey
from nccid_fetch.model import ETag, PartState, RemoteObject
from nccid_fetch.retry import THROTTLED_SECONDS_MAX
from nccid_fetch.settings import RETRY_FOR_SECONDS, Source
from nccid_fetch.store import pages
from nccid_fetch.store.pages import Lister, parse_page
from nccid_fetch.store.session import open_session

from .catalogue import fault
from .conftest import run
from .servers.scripted import (
    Action,
    Body,
    Cut,
    Do,
    Drop,
    Endless,
    Exchange,
    Honest,
    Page,
    Redirect,
    ScriptedS3,
    Stall,
    Status,
)

BUCKET = warehouse.BUCKET
PREFIX = "training/ct/"
KEYS = [f"{PREFIX}{name}.dcm" for name in "abcdefg"]
COMPLETE = "<IsTruncated>false</IsTruncated>"
OBJECT_FIELDS = {"LastModified": "2021-03-01T12:00:00.000Z", "ETag": "&quot;e&quot;", "Size": "1"}


def contents(key: str, **fields: str | None) -> str:
    """One entry of a listing; a field given as None is left out."""
    entry = {"Key": key, **OBJECT_FIELDS, **fields}
    return f"<Contents>{''.join(f'<{k}>{v}</{k}>' for k, v in entry.items() if v is not None)}</Contents>"


def xml(*entries: str, name: str = f"<Name>{BUCKET}</Name>", head: str = COMPLETE) -> bytes:
    """A listing of these entries, honest in all that is not given."""
    namespace = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f"<ListBucketResult {namespace}>{name}{head}{''.join(entries)}</ListBucketResult>".encode()


def parsed(body: bytes, **options: Any) -> list[str]:
    return [found.key for found in parse_page(body, bucket=BUCKET, prefix=PREFIX, **options).objects]


class SmallPages(Lister):
    """Asks for two keys at a time, so that a short listing has several pages."""

    async def page(self, prefix: str, **options: Any) -> pages.Page:
        if options["delimiter"] is None:
            options["max_keys"] = min(2, options["max_keys"])
        return await super().page(prefix, **options)


@dataclass
class Sleeper:
    """Time that passes only when somebody sleeps."""

    pauses: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def now(self) -> float:
        return sum(self.pauses)

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.sleep, lambda: 0.0)


@asynccontextmanager
async def listing_of(
    endpoint_url: str,
    time: Sleeper | None = None,
    *,
    stall_seconds: float = 30.0,
    report: Report = lambda _: None,
) -> AsyncIterator[Listing]:
    time = time or Sleeper()
    governor = Governor(time.clock)
    source = Source(endpoint_url=endpoint_url)
    async with open_session(source, connections=4, stall_seconds=stall_seconds, governor=governor) as session:
        yield Listing(SmallPages(session), 3, report, time.clock)


def listed(s3: ScriptedS3, prefix: str = PREFIX, time: Sleeper | None = None, stall_seconds: float = 30.0) -> list[str]:
    """Every key that a listing gives until it ends well."""

    async def go() -> list[str]:
        async with listing_of(s3.endpoint_url, time, stall_seconds=stall_seconds) as listing:
            return [found.key async for page in listing.pages(prefix) for found in page.objects]

    return run(go())


def surveyed(s3: ScriptedS3, *asked: str) -> dict[str, PartState | None]:
    async def go() -> dict[str, PartState | None]:
        async with listing_of(s3.endpoint_url) as listing:
            return await survey(listing, "training", asked)

    return run(go())


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for key in KEYS:
            server.put(key, key.encode())
        yield server


# What a page says


def test_an_entry_becomes_an_object_with_a_bare_etag_and_utc_nanoseconds() -> None:
    page = parse_page(xml(contents(f"{PREFIX}a", Size="7")), bucket=BUCKET, prefix=PREFIX)
    moment = int(datetime(2021, 3, 1, 12, tzinfo=UTC).timestamp()) * 10**9
    assert page == pages.Page([RemoteObject(f"{PREFIX}a", 7, ETag("e"), moment)], [], None)


def test_milliseconds_of_a_time_are_kept_and_what_is_finer_is_dropped() -> None:
    body = xml(contents(f"{PREFIX}a", LastModified="2021-03-01T12:00:00.1239Z"))
    assert parse_page(body, bucket=BUCKET, prefix=PREFIX).objects[0].modified_ns % 10**9 == 123_000_000


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        ("0001-01-01T00:00:00.000Z", -((1 << 63) // 10**6) * 10**6),
        ("9999-12-31T23:59:59.999Z", (1 << 63) // 10**6 * 10**6),
        ("1700-01-01T00:00:00.000Z", -8520336000 * 10**9),
        ("2199-12-31T23:59:59.999Z", 7258118399999 * 10**6),
    ],
)
def test_a_time_that_the_journal_cannot_hold_becomes_the_nearest_that_it_can(time: str, moment: int) -> None:
    body = xml(contents(f"{PREFIX}a", LastModified=time))
    assert parse_page(body, bucket=BUCKET, prefix=PREFIX).objects[0].modified_ns == moment


def test_a_page_without_a_namespace_is_read_as_well() -> None:
    bare = re.sub(rb' xmlns="[^"]*"', b"", xml(contents(f"{PREFIX}a")))
    assert parsed(bare) == [f"{PREFIX}a"]


def test_a_key_that_looks_like_a_namespace_is_left_alone() -> None:
    key = f'{PREFIX}a xmlns="x" b'
    bare = re.sub(rb' xmlns="http[^"]*"', b"", xml(contents(key)))
    assert parsed(bare) == [key]


def test_an_empty_listing_is_a_listing() -> None:
    assert parsed(xml()) == []


def test_a_token_counts_only_where_more_is_promised() -> None:
    tail = "<NextContinuationToken>t</NextContinuationToken>"
    more = xml(head=f"<IsTruncated>true</IsTruncated>{tail}")
    assert parse_page(more, bucket=BUCKET, prefix=PREFIX).token == "t"
    assert parse_page(xml(head=COMPLETE + tail), bucket=BUCKET, prefix=PREFIX).token is None


@fault(50, 51)
def test_without_an_echo_of_the_encoding_nothing_is_decoded() -> None:
    assert parsed(xml(contents(f"{PREFIX}a%2Fb+c"))) == [f"{PREFIX}a%2Fb+c"]


@fault(51)
def test_with_an_echo_of_the_encoding_keys_and_prefixes_are_decoded_once() -> None:
    head = COMPLETE + "<EncodingType>url</EncodingType><Prefix>training%2Fct%2F</Prefix>"
    entries = [contents("training/ct/%01%0A"), contents("training/ct/%252F"), contents("training/ct/%2B+%C3%A9")]
    folder = "<CommonPrefixes><Prefix>training/ct/x+y/</Prefix></CommonPrefixes>"
    page = parse_page(xml(*entries, folder, head=head), bucket=BUCKET, prefix=PREFIX, delimiter="/")
    assert [found.key for found in page.objects] == [f"{PREFIX}\x01\n", f"{PREFIX}%2F", f"{PREFIX}+ é"]
    assert page.prefixes == [f"{PREFIX}x y/"]


@fault(50, 51)
@given(names=st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=5))
def test_whatever_s3_encodes_comes_back_as_it_was(names: set[str]) -> None:
    """Also: the byte order that S3 lists in is the order of Python's text, which is what is checked."""
    from .servers.scripted import _url  # noqa: PLC0415 - S3's own way to encode, told apart from ours.

    keys = sorted((PREFIX + name for name in names), key=str.encode)
    head = f"{COMPLETE}<EncodingType>url</EncodingType>"
    assert parsed(xml(*(contents(_url(key)) for key in keys), head=head)) == keys


# What is no page


LAUGHS = (
    f'<!DOCTYPE l [<!ENTITY a "{"ha" * 20}"><!ENTITY b "{"&a;" * 20}"><!ENTITY c "{"&b;" * 20}">]>'
    f"<ListBucketResult><Name>{BUCKET}</Name>{COMPLETE}<Prefix>&c;</Prefix></ListBucketResult>"
)
NONSENSE: dict[str, tuple[bytes, str]] = {
    "nothing at all": (b"", "not XML"),
    "an HTML page with a document type": (b"<!DOCTYPE html><html><body>Log in</body></html>", "document type"),
    "an HTML page that happens to be XML": (b"<html><body>Log in</body></html>", "is a <html>"),
    "an HTML page that is not XML": (b"<html><br></html>", "not XML"),
    "JSON": (b'{"Contents": []}', "not XML"),
    "another answer of S3's": (b"<ListAllMyBucketsResult/>", "is a <ListAllMyBucketsResult>"),
    "an error with status 200": (b"<Error><Code>InternalError</Code></Error>", "is a <Error>"),
    "a root in two namespaces": (b'<x:ListBucketResult xmlns:x="http://x" xmlns="http://y"/>', "{http://x}"),
    "another bucket": (xml(name="<Name>other</Name>"), "bucket 'other'"),
    "no bucket": (xml(name=""), "bucket 'None'"),
    "another prefix": (xml(head=f"{COMPLETE}<Prefix>training/mri/</Prefix>"), "prefix 'training/mri/'"),
    "billions of laughs": (LAUGHS.encode(), "document type"),
    "billions of laughs in UTF-16": (LAUGHS.encode("utf-16"), "document type"),
    "XML that breaks off": (xml(contents(f"{PREFIX}a"))[:-20], "not XML"),
    "an encoding that is unknown": (b'<?xml version="1.0" encoding="none"?><html/>', "not XML"),
    "an encoding of several bytes": (b'<?xml version="1.0" encoding="gb2312"?><html/>', "not XML"),
    "a size that no file can have": (xml(contents(f"{PREFIX}a", Size=str(1 << 63))), "cannot be read"),
    "no word on whether it is complete": (xml(head=""), "whether it is complete"),
    "an odd word on whether it is complete": (xml(head="<IsTruncated>1</IsTruncated>"), "whether it is complete"),
    "cut short without a token": (xml(head="<IsTruncated>true</IsTruncated>"), "without a token"),
    "cut short with an empty token": (
        xml(head="<IsTruncated>true</IsTruncated><NextContinuationToken/>"),
        "without a token",
    ),
    "keys that fall": (xml(contents(f"{PREFIX}b"), contents(f"{PREFIX}a")), "runs backwards"),
    "a key twice": (xml(contents(f"{PREFIX}a"), contents(f"{PREFIX}a")), "repeats itself"),
    "a last key outside the prefix": (xml(contents(f"{PREFIX}a"), contents("training/cu/a")), "not below its prefix"),
    "a key outside the prefix": (xml(contents("training/ct-metadata/a")), "not below its prefix"),
    "no key": (xml(contents("", Key=None)), "cannot be read"),
    "an empty key": (xml(contents("")), "not below its prefix"),
    "no ETag": (xml(contents(f"{PREFIX}a", ETag=None)), "cannot be read"),
    "no size": (xml(contents(f"{PREFIX}a", Size=None)), "cannot be read"),
    "a size below zero": (xml(contents(f"{PREFIX}a", Size="-1")), "cannot be read"),
    "a size in words": (xml(contents(f"{PREFIX}a", Size="one")), "cannot be read"),
    "a time without a zone": (xml(contents(f"{PREFIX}a", LastModified="2021-03-01T12:00:00")), "cannot be read"),
    "a time in words": (xml(contents(f"{PREFIX}a", LastModified="noon")), "cannot be read"),
    "folders that nobody asked for": (
        xml(f"<CommonPrefixes><Prefix>{PREFIX}x/</Prefix></CommonPrefixes>"),
        "folders that were not asked for",
    ),
}


@fault(22, 52, 54, 59, 121)
@pytest.mark.parametrize(("body", "says"), NONSENSE.values(), ids=NONSENSE)
def test_anything_but_a_whole_listing_of_the_prefix_is_an_error(body: bytes, says: str) -> None:
    with pytest.raises(ListingError, match=re.escape(says)):
        parsed(body)


def test_a_folder_outside_the_prefix_is_an_error() -> None:
    folder = "<CommonPrefixes><Prefix>validation/</Prefix></CommonPrefixes>"
    with pytest.raises(ListingError, match="not below its prefix"):
        parsed(xml(folder), delimiter="/")


@fault(115)
@pytest.mark.parametrize(
    "body", [xml(name="<Name>\u202ebucket\u009b2J</Name>"), '<Result xmlns="\u202ebucket\u009b2J"/>'.encode()]
)
def test_what_a_server_says_reaches_the_message_escaped(body: bytes) -> None:
    with pytest.raises(ListingError) as caught:
        parsed(body)
    assert caught.value.message.isprintable()
    assert "\\u202e" in caught.value.message


# The fast way to read a page, and the slow one


def _entry(style: str, key: str, moment: str, size: str, between: str = "") -> str:
    """An entry as S3, moto, rclone and MinIO write it."""
    owner = "<Owner><ID>02d6</ID><DisplayName>x</DisplayName></Owner>" if style == "minio" else ""
    etag = {"aws": "&quot;{}&quot;", "moto": '"{}"', "rclone": "{}", "minio": "&#34;{}&#34;"}[style].format("0f" * 16)
    checksum = "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"
    fields = (
        f"<Contents><Key>{key}</Key><LastModified>{moment}</LastModified><ETag>{etag}</ETag>"
        f"{checksum if style == 'aws' else ''}<Size>{size}</Size>{owner}<StorageClass>STANDARD</StorageClass></Contents>"
    )
    between = between or ("\n    " if style == "rclone" else "")
    return fields.replace("><", f">{between}<") + between


COMMON = {"key": "a.dcm", "moment": "2021-03-01T12:00:00.000Z", "size": "123456", "between": ""}
ODD = {
    "key": (
        *(
            "/%2B+%C3%A9",
            "%C3",
            "d e",
            "d+e",
            "e&amp;f",
            "\u00e9",
            "g%0Ah",
            "h\x01",
            "\x7f",
            "i]]>",
            "i\tj",
            "k\rl",
            "m<n",
        ),
        *("~'$@\\^`{|}", "<Wrap>", "&#65;"),
    ),
    "moment": (
        *("2020-02-30T12:00:00Z", "1969-12-31T23:59:59.9999Z", "2021-03-01T12:00:00.5+01:00", "2021-03-01T24:00:00Z"),
        *(
            "2021-12-31T23:59:59.1239999Z",
            "2021-03-01T23:59:60Z",
            "2021-03-01T12:60:00Z",
            "noon",
            "2021-03-01T12:00:00",
        ),
        *("0001-01-01T00:00:00Z", "1699-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
    ),
    "size": ("0", "007", "9" * 18, "9" * 30, "-1", " 5", "1_0", "", "x"),
    "between": ("\n", "\r\n\t", "\f", "x"),
}


def _usually(common: str, odd: Sequence[str]) -> st.SearchStrategy[str]:
    """Oddities that are rare enough to be met alone: the first of two hides the second."""
    return st.sampled_from([common] * 3 * len(odd) + list(odd))


ENTRIES = st.builds(
    _entry,
    st.sampled_from(["aws", "moto", "rclone", "minio"]),
    **{field: _usually(COMMON[field], odd) for field, odd in ODD.items()},
)
SNIPPETS = (
    *(
        "<!-- c -->",
        "<![CDATA[x]]>",
        "<?pi x?>",
        "<?pi <Contents>?>",
        "]]>",
        "&amp;",
        "&#65;",
        "&none;",
        "<",
        ">",
        "\x01",
    ),
    *("<Contents/>", "<Contents>", "</Contents>", '<Contents regular="">', "<Wrap>", "</Wrap>", '<Wrap xmlns="x">'),
    *("<Key>training/ct/z</Key>", "<Size>3</Size>", "<Owner/>", "\n", "\r\n", "\f", "\xa0", "\u00e9", "\0", "W/", '"'),
    *("<CommonPrefixes><Prefix>training/ct/p/</Prefix>", "</CommonPrefixes>", ' xmlns="x"', "</ListBucketResult>"),
    *("<EncodingType>url</EncodingType>", "<Prefix>training/ct/</Prefix>", "<IsTruncated>true</IsTruncated>"),
)
HEADS = (
    *(
        "",
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        '<?xml version="1.0" encoding="utf-8"?>',
        '<?xml version="1.0"?>',
    ),
    *('<?xml version="1.0" encoding="none"?>', '<?xml version="1.0" encoding="gb2312"?>'),
    *('<?xml version="1.0" encoding="cp037"?>', '<?xml version="1.0" encoding="latin-1"?>', "\ufeff", " "),
)


def _outcome(read: Callable[[], pages.Page]) -> pages.Page | str:
    try:
        return read()
    except ListingError as error:
        return f"{error} ({error.hint})"


def _agree(body: bytes, delimiter: str | None = None) -> None:
    slow = _outcome(lambda: pages._page(body, None, BUCKET, PREFIX, delimiter))
    assert _outcome(lambda: parse_page(body, bucket=BUCKET, prefix=PREFIX, delimiter=delimiter)) == slow


@given(
    head=_usually(HEADS[0], HEADS[1:]),
    encoded=st.booleans(),
    entries=st.lists(ENTRIES, max_size=4),
    tampering=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(SNIPPETS), st.integers(0, 40)), max_size=2),
    cut=st.none() | st.none() | st.none() | st.integers(0, 10**6),
    at_tags=st.booleans(),
    codec=_usually("utf-8", ["utf-16", "latin-1", "cp037"]),
    delimiter=st.sampled_from([None, "/"]),
)
@settings(max_examples=400)
def test_the_fast_way_to_read_a_page_and_the_slow_one_agree_on_everything(
    *,
    head: str,
    encoded: bool,
    entries: list[str],
    tampering: list[tuple[int, str, int]],
    cut: int | None,
    at_tags: bool,
    codec: str,
    delimiter: str | None,
) -> None:
    """On objects, on prefixes, and on every word of what is refused: documents whole, tampered with and cut short."""
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    rising = [entry.replace("<Key>", f"<Key>{PREFIX}{number}") for number, entry in enumerate(entries)]
    text = head + xml(*rising, head=COMPLETE + encoding).decode()
    for place, snippet, gone in tampering:
        places = [found.start() for found in re.finditer("<", text)] if at_tags else range(len(text))
        start = [*places, len(text)][place % (len(places) + 1)]
        text = text[:start] + snippet + text[start + (0 if at_tags else gone) :]
    body = text.encode(codec, "xmlcharrefreplace")[: cut and cut % (len(text) + 1)]
    _agree(body, delimiter)


@pytest.mark.parametrize(("field", "odd"), [(field, odd) for field, values in ODD.items() for odd in values])
def test_both_ways_take_or_refuse_the_same_oddities(field: str, odd: str) -> None:
    entry = _entry("aws", **(COMMON | {field: odd})).replace("<Key>", f"<Key>{PREFIX}")
    _agree(xml(entry))
    _agree(xml(entry, head=f"{COMPLETE}<EncodingType>url</EncodingType>"))


WRAPPED = {
    "in an element": "<Wrap>{}</Wrap>",
    "in an element, beside an empty one": "<Contents/><Wrap>{}</Wrap>",
    "in an instruction": "<?pi {}?>",
    "in an instruction, beside an empty one": "<?pi {}?><Contents/>",
    "in a comment": "<!--{}-->",
    "in literal text": "<![CDATA[{}]]>",
    "in an entry": "<Contents>{}</Contents>",
    "in another namespace": '<Wrap xmlns="x">{}</Wrap>',
    "in two places": "{}<KeyCount>2</KeyCount>{}",
    "beside an odd one": "{}<Contents><Size>1</Size></Contents>",
    "after the end": "</ListBucketResult>{}",
}


@pytest.mark.parametrize("wrapping", WRAPPED.values(), ids=WRAPPED)
def test_entries_count_only_where_entries_belong(wrapping: str) -> None:
    body = xml(wrapping.replace("{}", contents(f"{PREFIX}a"), 1).replace("{}", contents(f"{PREFIX}b")))
    _agree(body)


@pytest.mark.parametrize("style", ["aws", "moto", "rclone", "minio"])
def test_pages_of_every_server_we_know_are_read_the_fast_way(style: str) -> None:
    entries = [_entry(style, f"{PREFIX}{name}", "2021-03-01T12:00:00.123Z", "7") for name in "abc"]
    lifted = pages._lift(xml(*entries))
    assert lifted is not None
    assert b"Key" not in lifted[0]
    assert lifted[1].keys == [f"{PREFIX}{name}" for name in "abc"]


# Page after page


def test_pages_follow_each_other_until_all_is_listed(s3: ScriptedS3) -> None:
    assert listed(s3) == KEYS
    assert len(s3.requests) == 4


@fault(50, 51)
def test_keys_with_all_that_encoding_is_for_arrive_as_they_are(s3: ScriptedS3) -> None:
    odd = [f"{PREFIX}{name}" for name in ("a b", "a+b", "a%2Bb", "a%2Fb", "\x01", "é", "e\u0301", "&<>", "🩻")]
    for key in odd:
        s3.put(key, b"")
    assert listed(s3) == sorted(KEYS + odd)


def test_a_part_that_is_empty_lists_as_empty(s3: ScriptedS3) -> None:
    assert listed(s3, "training/mri/") == []


def test_a_listing_that_ends_in_nonsense_is_an_error_and_not_an_end(s3: ScriptedS3) -> None:
    s3.script("list", Page(b"<html/>"), after=2, count=None)
    with pytest.raises(ListingError, match=r"127\.0\.0\.1:\d+: the answer to a listing is a <html>") as caught:
        listed(s3)
    assert "captive portal" in str(caught.value.hint)


@fault(54)
def test_a_page_that_names_no_token_to_go_on_with_is_an_error_and_not_an_end(s3: ScriptedS3) -> None:
    s3.script("list", Page(lambda page: re.sub(rb"<NextC.*?</NextContinuationToken>", b"", page)), after=1, count=None)
    with pytest.raises(ListingError, match="without a token"):
        listed(s3)


@fault(53, 59)
def test_a_page_that_goes_back_to_keys_of_the_page_before_is_an_error(s3: ScriptedS3) -> None:
    s3.script("list", Page(lambda page: page.replace(b"c.dcm", b"a.dcm").replace(b"d.dcm", b"b.dcm")), after=1)
    with pytest.raises(ListingError, match="goes back to a key"):
        listed(s3)


@fault(53)
def test_the_last_key_of_a_page_must_not_open_the_next(s3: ScriptedS3) -> None:
    s3.script("list", Page(lambda page: page.replace(b"c.dcm", b"b.dcm")), after=1)
    with pytest.raises(ListingError, match="goes back to a key"):
        listed(s3)


@fault(53)
def test_the_same_token_twice_running_is_an_error(s3: ScriptedS3) -> None:
    token = b"<NextContinuationToken>" + urlsafe_b64encode(KEYS[1].encode())
    s3.script("list", Page(lambda page: re.sub(rb"<NextContinuationToken>[^<]*", token, page)), count=None)
    with pytest.raises(ListingError, match="does not move on"):
        listed(s3)


class Deserted(Lister):
    """Answers with page upon page that hold nothing, and at the end an object."""

    def __init__(self, empty: int) -> None:
        self.empty = empty

    async def page(self, prefix: str, **options: Any) -> pages.Page:
        number = int(options["token"] or 0)
        if number < self.empty:
            return pages.Page([], [], str(number + 1))
        return pages.Page([RemoteObject(f"{prefix}a", 1, ETag("e"), 0)], [], None)


@fault(53)
@pytest.mark.parametrize("empty", [EMPTY_PAGES_MAX, EMPTY_PAGES_MAX + 1])
def test_empty_pages_are_passed_over_but_not_for_ever(empty: int) -> None:
    async def go() -> list[str]:
        return [found.key async for page in Listing(Deserted(empty), 1).pages(PREFIX) for found in page.objects]

    if empty <= EMPTY_PAGES_MAX:
        assert run(go()) == [f"{PREFIX}a"]
    else:
        with pytest.raises(ListingError, match="does not move on"):
            run(go())


@fault(121)
def test_an_answer_without_end_is_dropped_at_a_bound(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", 2 << 20)
    s3.script("list", Endless(), count=None)
    with pytest.raises(ListingError, match="more than 2 MiB"):
        listed(s3)


# Patience


PASSING: dict[str, Action] = {
    "503": Status(503, "ServiceUnavailable"),
    "500": Status(500, "InternalError"),
    "502 in HTML": Body(b"<html>Bad Gateway</html>", status=502),
    "a request timeout": Status(400, "RequestTimeout"),
    "a body that breaks off": Cut(200),
    "a body that breaks off by reset": Cut(200, reset=True),
    "an HTML page": Body(b"<html>Back in a minute.</html>"),
    "an error with 200": Page(b"<Error><Code>InternalError</Code></Error>"),
    "nothing": Page(b""),
    "half a page under its own length": Page(lambda page: page[: len(page) // 2]),
    "a page without a token": Page(lambda page: re.sub(rb"<NextC.*?</NextContinuationToken>|false", b"true", page)),
}


@fault(15, 52, 54)
@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("after", [0, 2], ids=["first page", "third page"])
def test_a_page_that_did_not_come_whole_is_asked_for_again_and_none_is_lost(
    s3: ScriptedS3, trouble: Action, after: int
) -> None:
    time = Sleeper()
    s3.script("list", trouble, after=after, count=2)
    assert listed(s3, time=time) == KEYS
    assert time.pauses == [0.1, 0.2]
    assert len({str(seen.query) for seen in s3.requests}) == 4


@fault(23)
def test_a_header_that_is_not_utf8_is_nothing_to_a_listing(s3: ScriptedS3) -> None:
    time = Sleeper()
    s3.script("list", WithHeader("x-amz-meta-name", "\xe9"))
    assert listed(s3, time=time) == KEYS
    assert time.pauses == []


@dataclass(frozen=True)
class WithHeader:
    """The truth, under one header more."""

    name: str
    value: str

    async def tell(self, exchange: Exchange) -> None:
        honest = exchange.honest()
        await exchange.send(replace(honest, headers=honest.headers | {self.name: self.value}))


@fault(53)
def test_pages_that_lead_to_each_other_in_turn_are_an_error_and_no_endless_listing(s3: ScriptedS3) -> None:
    """A page, the next, and the first again: to look at two tokens at a time would not notice."""
    tokens = [urlsafe_b64encode(KEYS[number].encode()) for number in (1, 3)]
    for number in range(8):
        turn = re.compile(rb"<NextContinuationToken>[^<]*"), b"<NextContinuationToken>" + tokens[number % 2]
        s3.script("list", Page(lambda page, turn=turn: turn[0].sub(turn[1], page)))  # type: ignore[misc]
    s3.script("list", Page(b"<html>It goes on.</html>"), count=None)
    with pytest.raises(ListingError, match="goes back to a key"):
        listed(s3)
    assert len(s3.requests) <= 4


@pytest.mark.parametrize("after_bytes", [0, 200])
def test_a_page_that_stalls_is_asked_for_again(s3: ScriptedS3, after_bytes: int) -> None:
    s3.script("list", Stall(after_bytes), after=1)
    assert listed(s3, stall_seconds=0.4) == KEYS


def test_a_connection_that_ends_unanswered_is_tried_again(s3: ScriptedS3) -> None:
    s3.script("list", Drop(), count=2)
    assert listed(s3) == KEYS


def test_being_told_to_slow_down_is_obeyed_to_the_second(s3: ScriptedS3) -> None:
    time = Sleeper()
    s3.script("list", Status(503, "SlowDown", headers={"Retry-After": "7"}), after=1)
    assert listed(s3, time=time) == KEYS
    assert time.pauses == [7.1]


def test_being_told_to_slow_down_is_no_attempt_but_does_not_go_on_for_ever(s3: ScriptedS3) -> None:
    time = Sleeper()
    s3.script("list", Status(503, "SlowDown", headers={"Retry-After": "100"}), count=None)
    with pytest.raises(EndpointError, match="asks to slow down"):
        listed(s3, time=time)
    assert len(time.pauses) > 3
    assert THROTTLED_SECONDS_MAX < time.now() < THROTTLED_SECONDS_MAX + 130


def test_when_no_attempt_is_left_the_endpoint_is_to_blame(s3: ScriptedS3) -> None:
    time = Sleeper()
    s3.script("list", Status(500, "InternalError"), after=1, count=None)
    with pytest.raises(EndpointError, match="500 InternalError") as caught:
        listed(s3, time=time)
    assert caught.value.exit_code == 5
    assert (time.pauses, len(s3.requests)) == ([0.1, 0.2], 4)


def test_every_page_has_all_its_attempts(s3: ScriptedS3) -> None:
    for page in range(4):
        s3.script("list", Status(500, "InternalError"), after=page, count=2)
    assert listed(s3) == KEYS


# Refusals


def test_a_prefix_that_may_not_be_listed_is_denied_at_once(s3: ScriptedS3) -> None:
    time = Sleeper()
    s3.allow_list = lambda prefix, delimiter: False
    with pytest.raises(ListingDeniedError):
        listed(s3, time=time)
    assert time.pauses == []


@fault(33)
def test_a_right_that_ends_in_the_middle_of_a_listing_is_a_denial_and_not_an_end(s3: ScriptedS3) -> None:
    s3.script("list", Status(403, "AccessDenied"), after=1)
    with pytest.raises(ListingDeniedError):
        listed(s3)


@fault(16)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_other_host_hears_nothing(s3: ScriptedS3, status: int) -> None:
    with ScriptedS3() as other:
        s3.script("list", Redirect(f"{other.endpoint_url}/{BUCKET}?list-type=2&prefix={PREFIX}", status), count=None)
        with pytest.raises(RedirectRefusedError, match=f"redirect .{status}."):
            listed(s3)
        assert other.requests == []
    assert len(s3.requests) == 3, "it may come of a proxy in passing"


WRONG_REGION: dict[str, Action] = {
    "301 with a header": Status(301, "PermanentRedirect", headers={"x-amz-bucket-region": "us-east-1"}),
    "400 with a header": Status(400, "AuthorizationHeaderMalformed", headers={"x-amz-bucket-region": "us-east-1"}),
    "400 with an element": Body(
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>us-east-1</Region></Error>", status=400
    ),
}


@pytest.mark.parametrize("answer", WRONG_REGION.values(), ids=WRONG_REGION)
def test_a_wrong_region_is_named_with_the_option_that_mends_it(s3: ScriptedS3, answer: Action) -> None:
    s3.script("list", answer)
    with pytest.raises(EndpointError, match="region us-east-1") as caught:
        listed(s3)
    assert caught.value.hint == "add --region us-east-1"
    assert len(s3.requests) == 1


CREDENTIALS = {
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "the access key is not known to the server",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "InvalidToken": "the session token is not valid",
}


@pytest.mark.parametrize(("code", "sentence"), CREDENTIALS.items())
def test_credentials_at_fault_are_told_in_one_sentence(s3: ScriptedS3, code: str, sentence: str) -> None:
    s3.script("list", Status(403, code), after=1, count=None)
    with pytest.raises(AccessError, match=sentence) as caught:
        listed(s3)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("minutes", "says"), [(-20, "20 minutes ahead of"), (20, "20 minutes behind")])
def test_a_clock_too_far_off_is_told_by_how_much(s3: ScriptedS3, minutes: int, says: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    s3.script("list", Status(403, "RequestTimeTooSkewed", headers={"Date": date}))
    with pytest.raises(AccessError, match=f"this machine's clock is {says} the server's"):
        listed(s3)


def test_a_bucket_that_is_not_there_is_an_access_error(s3: ScriptedS3) -> None:
    s3.script("list", Status(404, "NoSuchBucket"))
    with pytest.raises(AccessError, match="no such bucket"):
        listed(s3)


def test_a_server_that_does_not_know_listings_is_an_endpoint_error(s3: ScriptedS3) -> None:
    s3.script("list", Status(501, "NotImplemented"), count=None)
    with pytest.raises(EndpointError, match="501 NotImplemented"):
        listed(s3)


# An endpoint that is not there


def deaf() -> str:
    """An address at which nobody listens any more."""
    with ScriptedS3() as server:
        return server.endpoint_url


@fault(9)
def test_an_endpoint_that_is_not_there_is_waited_for_in_a_listing_that_goes_on() -> None:
    async def go(time: Sleeper) -> None:
        async with listing_of(deaf(), time) as listing:
            async for _ in listing.pages(PREFIX):
                pass

    time = Sleeper()
    with pytest.raises(EndpointError, match="cannot be reached") as caught:
        run(go(time))
    assert isinstance(caught.value.__cause__, UnreachableError)
    assert time.now() == pytest.approx(RETRY_FOR_SECONDS)


def test_an_endpoint_that_is_not_there_is_not_waited_for_before_a_run() -> None:
    async def go(time: Sleeper) -> None:
        async with listing_of(deaf(), time) as listing:
            await survey(listing, "training", ())

    time = Sleeper()
    with pytest.raises(EndpointError, match="cannot be reached"):
        run(go(time))
    assert time.pauses == []


# Which parts there are


@pytest.fixture
def warehouse_s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for part in ("ct", "ct-metadata", "data", "unknown"):
            server.put(f"training/{part}/Covid1/a", b"")
        yield server


def parts_only(*granted: str) -> Callable[[str, str], bool]:
    """The rights of NCCID's readers: list below a part, and nothing above it."""
    return lambda prefix, delimiter: any(prefix.startswith(f"training/{part}/") for part in granted)


def test_one_listing_of_the_group_shows_all_parts_also_undocumented_ones(warehouse_s3: ScriptedS3) -> None:
    found = surveyed(warehouse_s3)
    assert {part for part, state in found.items() if state is None} == {"ct", "ct-metadata", "data", "unknown"}
    absent = {part for part, state in found.items() if state is PartState.ABSENT}
    assert absent == {"mri", "mri-metadata", "xray", "xray-metadata"}
    asked = {seen.query["prefix"] for seen in warehouse_s3.requests[1:]}
    assert asked == {f"training/{part}/" for part in (*absent, "unknown-metadata")}, (
        "what it does not show is asked for"
    )


def test_without_the_right_to_list_the_group_each_part_is_asked_for_one_key(warehouse_s3: ScriptedS3) -> None:
    warehouse_s3.allow_list = parts_only("ct", "data", "mri")
    found = surveyed(warehouse_s3)
    assert {part for part, state in found.items() if state is None} == {"ct", "data", "mri"}
    assert {state for part, state in found.items() if part not in {"ct", "data", "mri"}} == {PartState.DENIED}
    assert set(found) == set(warehouse.PARTS)
    known = (*warehouse.PARTS, *warehouse.OTHER_PARTS)
    assert [seen.query["max-keys"] for seen in warehouse_s3.requests[1:]] == ["1"] * len(known)


def test_a_right_to_ct_is_none_to_ct_metadata(warehouse_s3: ScriptedS3) -> None:
    warehouse_s3.allow_list = parts_only("ct")
    assert surveyed(warehouse_s3, "ct", "ct-metadata") == {"ct": None, "ct-metadata": PartState.DENIED}


@pytest.mark.parametrize("granted", [True, False], ids=["may list the group", "may list parts"])
def test_of_parts_asked_for_by_name_only_those_are_told(warehouse_s3: ScriptedS3, granted: bool) -> None:  # noqa: FBT001
    if not granted:
        warehouse_s3.allow_list = parts_only("ct", "mri")
    absent = PartState.ABSENT if granted else None
    assert surveyed(warehouse_s3, "ct", "mri") == {"ct": None, "mri": absent}


def test_credentials_at_fault_end_a_survey(warehouse_s3: ScriptedS3) -> None:
    warehouse_s3.script("list", Status(400, "ExpiredToken"))
    with pytest.raises(AccessError):
        surveyed(warehouse_s3)


# What is asked


@pytest.mark.parametrize("granted", [True, False], ids=["may list the group", "may list parts"])
def test_a_whole_run_asks_for_prefixes_that_end_in_a_slash_and_for_nothing_else(
    warehouse_s3: ScriptedS3,
    granted: bool,  # noqa: FBT001
) -> None:
    """No HeadBucket, no GetBucketLocation, no versions: readers may not call them."""
    if not granted:
        warehouse_s3.allow_list = parts_only("ct", "ct-metadata", "data")
    for part in surveyed(warehouse_s3):
        with suppress(ListingDeniedError):
            listed(warehouse_s3, f"training/{part}/")
    for seen in warehouse_s3.requests:
        assert (seen.method, seen.path_raw, seen.operation) == ("GET", f"/{BUCKET}", "list")
        assert seen.query["list-type"] == "2"
        assert seen.query["prefix"].endswith("/")
        assert seen.query.keys() <= {
            "list-type", "prefix", "encoding-type", "max-keys", "delimiter", "continuation-token"
        }  # fmt: skip
        assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")


def test_a_listing_may_begin_after_a_key(s3: ScriptedS3) -> None:
    async def go() -> pages.Page:
        async with listing_of(s3.endpoint_url) as listing:
            return await listing.lister.page(PREFIX, start_after=KEYS[4], delimiter="/", max_keys=1000)

    assert [found.key for found in run(go()).objects] == KEYS[5:]


# What happens meanwhile


@fault(56)
def test_an_object_that_is_put_behind_the_place_reached_is_listed(s3: ScriptedS3) -> None:
    new = f"{PREFIX}z.dcm"
    s3.script("list", Do(lambda: s3.put(new, b"")), after=1)
    assert listed(s3) == [*KEYS, new]


def test_a_listing_that_is_given_up_ends_at_once(s3: ScriptedS3) -> None:
    async def go() -> None:
        async with listing_of(s3.endpoint_url) as listing:
            asking = asyncio.ensure_future(listing.first(PREFIX))
            s3.script("list", Do(lambda: asking.get_loop().call_soon_threadsafe(asking.cancel), Stall()), count=None)
            with pytest.raises(asyncio.CancelledError):
                await asking

    run(go())


@pytest.mark.parametrize("error", [TransientError("x"), UnreachableError("x")])
def test_no_error_that_only_a_retry_loop_understands_leaves_a_listing(error: NccidFetchError) -> None:
    class Broken(Lister):
        def __init__(self) -> None:
            pass

        async def page(self, prefix: str, **options: Any) -> pages.Page:
            raise error

    async def go() -> None:
        await Listing(Broken(), 2, clock=Sleeper().clock).first(PREFIX)

    with pytest.raises(EndpointError):
        run(go())


class EverySecond:
    """Tells every second request to slow down."""

    def __init__(self) -> None:
        self.asked = 0

    async def tell(self, exchange: Exchange) -> None:
        self.asked += 1
        answer: Action = Status(503, "SlowDown") if self.asked % 2 else Honest()
        await answer.tell(exchange)


@fault(14)
def test_a_listing_that_is_told_to_slow_down_at_every_second_page_is_whole(s3: ScriptedS3) -> None:
    s3.script("list", EverySecond(), count=None)
    assert listed(s3) == KEYS


@fault(57)
def test_a_listing_whose_token_has_become_too_old_goes_on_after_its_last_key(s3: ScriptedS3) -> None:
    s3.script("list", Status(400, "InvalidArgument"), after=2)
    assert listed(s3) == KEYS
    refused, again = s3.requests[2:4]
    assert "continuation-token" in refused.query
    assert (again.query.get("continuation-token"), again.query["start-after"]) == (None, KEYS[3])


def test_pages_that_have_to_be_asked_for_again_are_reported() -> None:
    """A listing that waits in silence looks like one that hangs."""
    told: list[Event] = []
    time = Sleeper()
    with ScriptedS3() as s3:
        s3.put("training/data/a", b"a")
        s3.script("list", Status(503, "SlowDown", headers={"Retry-After": "7"}))
        s3.script("list", Status(500, "InternalError"))

        async def scenario() -> None:
            async with listing_of(s3.endpoint_url, time, report=told.append) as listing:
                assert [page async for page in listing.pages("training/data/")]

        run(scenario())
    assert [(event.prefix, event.throttled) for event in told if isinstance(event, ListingRetrying)] == [
        ("training/data/", True),
        ("training/data/", False),
    ]


def test_a_run_that_has_not_begun_is_not_told_to_slow_down_for_long() -> None:
    time = Sleeper()
    with ScriptedS3() as s3:
        s3.script("list", Status(503, "SlowDown"), count=None)

        async def scenario() -> None:
            async with listing_of(s3.endpoint_url, time) as listing:
                await listing.first("training/")

        with pytest.raises(EndpointError, match="asks to slow down"):
            run(scenario())
    assert time.now() < 2 * FIRST_THROTTLED_SECONDS_MAX
