"""One page of a listing: ask strictly, parse once, believe nothing that is not S3's answer.

The usual paginators take an HTML page for an empty listing, and a page that is cut short for the last one.
A bulk download that ends there looks complete and is not. So here the root element, the bucket, the echoed
prefix and encoding, the truncation flag and the order of the keys are all checked.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from operator import add, lt
from typing import cast
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

import aiohttp
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError

from ..errors import ListingError, TransientError
from ..keys import printable
from ..model import ETag, RemoteObject
from .answers import PORTAL_HINT, Document, document_of, listing_error
from .session import Session
from .strict import failure_of

PAGE_KEYS = 1000
PAGE_BYTES_MAX = 16 << 20
"""A page of 1,000 keys of S3's greatest length, percent-encoded, is far below."""
_NAMESPACE = re.compile(rb'(<ListBucketResult\b[^>]*?)\sxmlns="[^"]*"')
"""Of the root alone: without `encoding-type`, a key may hold the same text."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to ListObjectsV2.

    Attributes:
        objects: At most 1,000 objects, keys strictly rising in byte order.
        prefixes: What stands before the delimiter, if one was asked for.
        token: The continuation token, or None on the last page.
    """

    objects: list[RemoteObject]
    prefixes: list[str]
    token: str | None


class Lister:
    """Asks for pages.

    Args:
        session: The open session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._expected = 0  # Bytes of a page: what the longest so far had.

    async def page(
        self,
        prefix: str,
        *,
        token: str | None = None,
        start_after: str | None = None,
        delimiter: str | None = None,
        max_keys: int = PAGE_KEYS,
    ) -> Page:
        """Ask for one page.

        Args:
            prefix: What the keys begin with.
            token: The continuation token of the page before.
            start_after: The key that all keys of the page come after.
            delimiter: Group what follows the next occurrence of it.
            max_keys: The most keys wanted.

        Raises:
            ListingDeniedError: The credentials may not list this prefix.
            ListingError: The answer is not a listing of this prefix.
            TokenRefusedError: The server does not go on from this token.
            TransientError: Worth another attempt.
            RunError: The credentials or the endpoint are at fault.
        """
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url", "max-keys": str(max_keys)}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["continuation-token"] = token
        elif start_after:
            query["start-after"] = start_after
        address = self._session.address
        url = address.origin + address.listing(query)
        bandwidth, expected = self._session.bandwidth, self._expected if max_keys == PAGE_KEYS else 0
        async with self._session.request(expected):
            status, headers, body = await self._ask(url)
            if bandwidth is not None:
                bandwidth.owe(len(body) - expected)
                self._expected = max(len(body), self._expected)
            if status != 200:
                code, region = document_of(body) or Document("")
                if region:
                    headers = {"x-amz-bucket-region": region, **headers}
                raise listing_error(status, code, headers, self._session.where, goes_on=token is not None)
        try:
            return parse_page(body, bucket=self._session.source.bucket, prefix=prefix, delimiter=delimiter)
        except ListingError as error:
            raise ListingError(f"{self._session.where}: {error.message}", error.hint) from error

    async def _ask(self, url: str) -> tuple[int, dict[str, str], bytes]:
        request = await self._session.sign(AWSRequest(method="GET", url=url))
        request.stream_output = True
        session = self._session
        try:
            response = await session.http.send(request)
            try:
                body = await _read(response.raw.content, session.where)
            finally:
                response.raw.release()
        except BotoCoreError as error:
            raise failure_of(error, session.endpoint, session.proxy_name, of="a listing") from error
        return response.status_code, response.headers, body


async def _read(stream: aiohttp.StreamReader, where: str) -> bytes:
    body = bytearray()
    try:
        async for chunk in stream.iter_any():
            body += chunk
            if len(body) > PAGE_BYTES_MAX:
                raise ListingError(f"{where} answered a listing with more than {PAGE_BYTES_MAX >> 20} MiB")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"{where} broke off a listing") from error
    return bytes(body)


def parse_page(body: bytes, *, bucket: str, prefix: str, delimiter: str | None = None) -> Page:
    """Parse a ListObjectsV2 answer.

    Args:
        body: The XML.
        bucket: The bucket that was asked.
        prefix: The prefix that was asked for.
        delimiter: The delimiter that was asked for.

    Raises:
        ListingError: It is anything but a whole listing of that prefix, in byte order.
    """
    lifted = _lift(body)
    if lifted is not None:
        with suppress(ListingError):  # What is wrong is found again, and said, by the slow way.
            return _page(*lifted, bucket, prefix, delimiter)
    return _page(body, None, bucket, prefix, delimiter)


_unquoted = partial(unquote_plus, errors="surrogateescape")
"""A key that is not UTF-8 keeps its bytes, and is refused by name: not taken for another one."""


def _page(body: bytes, columns: "_Columns | None", bucket: str, prefix: str, delimiter: str | None) -> Page:
    root = _root(body, bucket)
    decode = _unquoted if root.findtext("EncodingType") == "url" else str
    echoed = root.findtext("Prefix")
    if echoed is not None and prefix not in {echoed, decode(echoed)}:
        raise ListingError(f"the listing is of prefix {printable(echoed[:80])!r}")
    truncated = root.findtext("IsTruncated")
    if truncated not in {"true", "false"}:
        raise ListingError("the listing does not say whether it is complete")
    token = root.findtext("NextContinuationToken") if truncated == "true" else None
    if truncated == "true" and not token:
        raise ListingError("the listing is cut short without a token to go on with")
    try:
        if columns is None:
            objects = [_object(entry, decode) for entry in root.iterfind("Contents")]
        else:
            objects = _objects(root, columns, decode)
        prefixes = [decode(entry.findtext("Prefix") or "") for entry in root.iterfind("CommonPrefixes")]
    except (KeyError, ValueError, TypeError) as error:
        raise ListingError(f"the listing has an entry that cannot be read ({printable(str(error)[:80])})") from None
    _check_keys([entry.key for entry in objects], prefix)
    if prefixes and delimiter is None:
        raise ListingError("the listing has folders that were not asked for")
    for name in prefixes:
        if not name.startswith(prefix):
            raise ListingError(f"the listing has {printable(name[:80])!r}, which is not below its prefix")
    return Page(objects, prefixes, token)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The fields of a page's entries, as text, field by field."""

    keys: list[str]
    days: list[str]
    minutes: list[str]
    seconds: list[str]
    etags: list[str]
    sizes: list[str]


_S = r"[ \t\r\n]*+"
_ENTRY = re.compile(
    rf"<Contents>{_S}"
    rf"<Key>([^<]++)</Key>{_S}"
    rf"<LastModified>((?:1[7-9]|2[01])[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}})T([01][0-9]:[0-5][0-9]|2[0-3]:[0-5][0-9]):([0-5][0-9](?:\.[0-9]++)?+)Z"
    rf"</LastModified>{_S}"
    rf"<ETag>(?:&quot;|&#34;|\")?+([0-9A-Za-z-]*+)(?:&quot;|&#34;|\")?+</ETag>{_S}"
    rf"(?:<ChecksumAlgorithm>[0-9A-Z]*+</ChecksumAlgorithm>{_S}|<ChecksumType>[A-Z_]*+</ChecksumType>{_S})*+"
    rf"<Size>([0-9]{{1,18}}+)</Size>{_S}"
    rf"(?:<Owner>{_S}<ID>[0-9A-Za-z-]*+</ID>{_S}(?:<DisplayName>[0-9A-Za-z._-]*+</DisplayName>{_S})?+</Owner>{_S})?+"
    rf"(?:<StorageClass>[A-Z_]*+</StorageClass>{_S})?+"
    rf"</Contents>{_S}"
)
"""An entry as servers write it: plain ASCII, its fields in S3's order, each once, its numbers far within 64 bits."""
_GROUPS = _ENTRY.groups + 1


def _lift(body: bytes) -> tuple[bytes, _Columns] | None:
    """Lift a page's entries out of its document, if they stand there as servers write them, one after the other.

    ElementTree costs four times as much. What is left is well-formed exactly where the whole was, and has one empty
    entry where all of them stood: whether that is where entries belong, `_objects` sees.

    Returns:
        The document without them, and their fields; None if a single byte of them is not as expected.
    """
    if not body.isascii():
        return None  # In every encoding that the parser takes, ASCII is what it seems to be.
    pieces = _ENTRY.split(body.decode())
    if len(pieces) == 1 or any(pieces[_GROUPS:-1:_GROUPS]) or "<?" in pieces[0][1:] or "<?" in pieces[-1]:
        return None
    keys = "".join(pieces[1::_GROUPS])
    if "&" in keys or ">" in keys or not keys.isprintable():
        return None
    rest = f"{pieces[0]}<Contents/>{pieces[-1]}".encode()
    return rest, _Columns(*(pieces[number::_GROUPS] for number in range(1, _GROUPS)))


def _objects(root: ET.Element, columns: _Columns, decode: Callable[[str], str]) -> list[RemoteObject]:
    """Return what was lifted out of a document, if all entries stood where entries belong."""
    if not len(root.findall("Contents")) == len(root.findall(".//Contents")) == 1:
        raise ValueError("an entry elsewhere")
    keys = columns.keys
    if decode is not str:
        keys = [decode(key) if "%" in key or "+" in key else key for key in keys]
    clock = map(add, map(_of_minute, columns.minutes), map(_of_second, columns.seconds))
    times = map(add, map(_of_day, columns.days), clock)
    return list(map(_NEW, zip(keys, map(int, columns.sizes), map(ETag, columns.etags), times, strict=True)))


_NEW = cast("Callable[[tuple[str, int, ETag, int]], RemoteObject]", partial(tuple.__new__, RemoteObject))
"""`RemoteObject._make`, at half the price."""


def _root(body: bytes, bucket: str) -> ET.Element:
    """Return the root of a document that is a listing of this bucket."""
    if b"<!" in body or b"\0" in body:
        # No listing has a declaration, and entities can be made to explode. In data, "<" is always escaped.
        # Nor is there a NUL, except in UTF-16, which would hide a declaration from this search.
        raise ListingError("the answer to a listing is not S3's: it has a document type or a comment")
    try:
        root = ET.fromstring(_NAMESPACE.sub(rb"\1", body, count=1))  # noqa: S314 - no declarations, see above.
    except (ET.ParseError, ValueError, LookupError) as error:  # Of an encoding that the parser does not know.
        raise ListingError(f"the answer to a listing is not XML ({printable(str(error)[:80])})", PORTAL_HINT) from None
    if root.tag != "ListBucketResult":
        raise ListingError(f"the answer to a listing is a <{printable(root.tag[:40])}>", PORTAL_HINT)
    if root.findtext("Name") != bucket:
        raise ListingError(f"the listing is of bucket {printable(str(root.findtext('Name'))[:80])!r}", PORTAL_HINT)
    return root


def _object(entry: ET.Element, decode: Callable[[str], str]) -> RemoteObject:
    fields = {field.tag: field.text or "" for field in entry}
    size = int(fields["Size"])
    if not 0 <= size <= _NUMBER_MAX:
        raise ValueError(f"size {size}")
    return RemoteObject(decode(fields["Key"]), size, ETag.parse(fields["ETag"]), _nanoseconds(fields["LastModified"]))


def _nanoseconds(text: str) -> int:
    """Return an ISO 8601 time as nanoseconds since the epoch, in whole milliseconds: no server gives finer ones.

    Rounded down, so that a file never looks newer than its object to `aws s3 sync`. A time that 64 bits cannot hold, as
    the year 1 of a server that knows none, becomes the nearest one that they can.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"time {text!r} without a zone")
    milliseconds = (time - _EPOCH) // _MILLISECOND
    return min(max(milliseconds, -_MILLISECONDS_MAX), _MILLISECONDS_MAX) * 1_000_000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_NUMBER_MAX = (1 << 63) - 1
"""SQLite's and the file system's."""
_MILLISECONDS_MAX = _NUMBER_MAX // 1_000_000


def _remembered(form: str) -> Callable[[str], int]:
    return lru_cache(maxsize=4096)(lambda text: _nanoseconds(form.format(text)))


# Millions of times have few days, minutes and seconds, so that a small memory knows nearly all of them.
_of_day, _of_minute, _of_second = map(_remembered, ("{}T00:00Z", "1970-01-01T{}Z", "1970-01-01T00:00:{}Z"))


def _check_keys(keys: list[str], prefix: str) -> None:
    """Check that keys are below the prefix and strictly rising, as S3 orders them: by their UTF-8 bytes.

    Python orders text by code point, which is the same order but for keys that are not UTF-8.
    """
    if all(map(lt, ["", *keys], keys)) and all(key.startswith(prefix) for key in (*keys[:1], *keys[-1:])):
        return  # What lies between two keys that begin with the prefix begins with it too.
    before = b""
    for key in keys:
        if not key.startswith(prefix):
            raise ListingError(f"the listing has {printable(key[:80])!r}, which is not below its prefix")
        raw = key.encode("utf-8", "surrogateescape")
        if raw <= before:
            raise ListingError(f"the listing runs backwards or repeats itself at {printable(key[:80])!r}")
        before = raw
