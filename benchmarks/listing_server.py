"""Answers ListObjectsV2, fast enough not to be what is measured, as slowly as it is told to.

nginx serves bodies and hands listings on to this. It knows prefix, delimiter, start-after, continuation tokens,
max-keys and both encodings; each entry is rendered once, and a page is two bisections and a join. Keys that are
only listed need not be stored: a million of them are made of their numbers.

    python -m benchmarks.listing_server CATALOGUE [--pause SECONDS]     # prints the port, serves until stdin ends
"""

import argparse
import asyncio
import json
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = 1_600_000_000
"""When every object was last modified, in seconds since the epoch: the files that nginx serves have this mtime."""
_MODIFIED_TEXT = "2020-09-13T12:26:40.000Z"
_MAX_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it. The key is of letters, digits and `/-_.~`, which no encoding changes."""

    key: str
    size: int
    md5: str

    def render(self) -> str:
        """Return it as S3 writes it."""
        return (
            f"<Contents><Key>{self.key}</Key><LastModified>{_MODIFIED_TEXT}</LastModified>"
            f"<ETag>&quot;{self.md5}&quot;</ETag><Size>{self.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )


class Stored(Sequence[Entry]):
    """Objects that there are, in the order of their keys."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.key)
        self._rendered = [entry.render() for entry in self._entries]

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        """Return an object, or several."""
        return self._entries[at]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._entries)

    def render(self, start: int, end: int) -> str:
        """Return a run of them as S3 writes them."""
        return "".join(self._rendered[start:end])


class Virtual(Sequence[Entry]):
    """Objects that are only listed, made of their numbers: patients, a study each, and series of 500 images.

    Args:
        prefix: What all keys begin with, ending in a slash.
        count: How many there are.
        patients: Over how many patients they are spread, evenly.
        size: What each is said to have, in bytes.
    """

    SERIES = 500

    def __init__(self, prefix: str, count: int, patients: int, size: int) -> None:
        self._prefix, self._count, self._size = prefix, count, size
        self._each = -(-count // patients)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        """Return an object, or several. The numbers are of fixed width, so their order is that of the keys."""
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(self._count))]
        if not 0 <= at < self._count:
            raise IndexError(at)
        patient, number = divmod(at, self._each)
        key = (
            f"{self._prefix}Covid{patient:04}/{study_uid(patient)}/{series_uid(patient, number // self.SERIES)}/"
            f"{at:032x}{number:028}.dcm"
        )
        return Entry(key, self._size, f"{at:032x}")

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def render(self, start: int, end: int) -> str:
        """Return a run of them as S3 writes them."""
        return "".join(self[number].render() for number in range(start, end))


def study_uid(patient: int) -> str:
    """Return a UID of the usual length."""
    return f"1.2.826.0.1.3680043.9.3218.{patient:016}.1"


def series_uid(patient: int, series: int) -> str:
    """Return a UID of the usual length, in the order of its numbers."""
    return f"1.2.826.0.1.3680043.9.3218.{patient:016}.2.{series:04}"


class Catalogue:
    """A bucket's listing.

    Args:
        bucket: Its name.
        entries: Its objects.
    """

    def __init__(self, bucket: str, entries: Stored | Virtual) -> None:
        self._bucket, self._entries = bucket, entries

    def answer(self, query: dict[str, str]) -> str:
        """Return the answer to ListObjectsV2.

        Args:
            query: The parameters of the request, decoded.
        """
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        most = min(int(query.get("max-keys", _MAX_KEYS)), _MAX_KEYS)
        start = bisect_left(self._entries, prefix, key=_key)
        if token := query.get("continuation-token"):
            start = max(start, self._after(urlsafe_b64decode(token).decode(), delimiter))
        elif after := query.get("start-after"):
            start = max(start, bisect_right(self._entries, after, key=_key))
        end = bisect_left(self._entries, _successor(prefix), key=_key) if prefix else len(self._entries)
        if delimiter:
            body, count, last, cut = self._grouped(start, end, prefix, delimiter, most)
        else:
            stop = min(start + most, end)
            body, count, cut = self._entries.render(start, stop), stop - start, stop < end
            last = self._entries[stop - 1].key if cut else ""
        said = (lambda text: quote(text, safe="/")) if query.get("encoding-type") == "url" else escape
        return "".join(
            (
                '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
                f"<Name>{self._bucket}</Name><Prefix>{said(prefix)}</Prefix>",
                f"<KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>",
                f"<Delimiter>{said(delimiter)}</Delimiter>" if delimiter else "",
                "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else "",
                f"<IsTruncated>{'true' if cut else 'false'}</IsTruncated>",
                f"<NextContinuationToken>{urlsafe_b64encode(last.encode()).decode()}</NextContinuationToken>"
                if cut
                else "",
                body,
                "</ListBucketResult>",
            )
        )

    def _after(self, last: str, delimiter: str) -> int:
        """Return where the page goes on that ended with this key, or with all that is in this folder."""
        if delimiter and last.endswith(delimiter):
            return bisect_left(self._entries, _successor(last), key=_key)
        return bisect_right(self._entries, last, key=_key)

    def _grouped(self, at: int, end: int, prefix: str, delimiter: str, most: int) -> tuple[str, int, str, bool]:
        """Return a page with folders: the body, how many it has, the last of them, and whether there are more."""
        body: list[str] = []
        last = ""
        while at < end and len(body) < most:
            key = self._entries[at].key
            found = key.find(delimiter, len(prefix))
            if found < 0:
                last = key
                body.append(self._entries.render(at, at + 1))
                at += 1
            else:
                last = key[: found + len(delimiter)]
                body.append(f"<CommonPrefixes><Prefix>{last}</Prefix></CommonPrefixes>")
                at = bisect_left(self._entries, _successor(last), lo=at, key=_key)
        return "".join(body), len(body), last, at < end


def _key(entry: Entry) -> str:
    return entry.key


def _successor(prefix: str) -> str:
    """Return the least text that comes after everything that begins with this."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def load(path: Path, bucket: str) -> Catalogue:
    """Read a catalogue: a line of JSON for virtual keys, or a line for each object that there is."""
    lines = path.read_text().splitlines()
    if lines and lines[0].startswith("{"):
        return Catalogue(bucket, Virtual(**json.loads(lines[0])))
    return Catalogue(bucket, Stored([Entry(key, int(size), md5) for key, size, md5 in map(str.split, lines)]))


async def _serve(catalogue: Catalogue, pause: float) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                query = parse_qs(urlsplit(head.split(" ", 2)[1]).query, keep_blank_values=True)
                if pause:
                    await asyncio.sleep(pause)
                body = catalogue.answer({name: values[0] for name, values in query.items()}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="before every page")
    chosen = parser.parse_args()
    asyncio.run(_serve(load(chosen.catalogue, chosen.bucket), chosen.pause))


if __name__ == "__main__":
    main()
