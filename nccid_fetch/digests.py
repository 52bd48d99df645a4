"""Digests that prove content: MD5, the MD5 of MD5s of a multipart upload, and S3's checksums."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol


class Digest(Protocol):
    """What `hashlib` makes, and what is made here in its shape."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """Return the digest of all bytes taken."""


def new_md5() -> "hashlib._Hash":
    """Return an MD5. It proves that a transfer is intact, not that nobody forged it, so FIPS mode permits it."""
    return hashlib.md5(usedforsecurity=False)


def md5_of(chunks: Iterable[bytes]) -> str:
    """Return the MD5 of bytes that come in pieces, in hex."""
    digest = new_md5()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


class _Crc:
    """A running CRC in the shape of a digest: big-endian bytes, as S3 states them."""

    def __init__(self, update: Callable[[bytes, int], int], width_bytes: int) -> None:
        self._update, self._width_bytes, self._value = update, width_bytes, 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = self._update(bytes(data), self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width_bytes, "big")


def _checksums() -> Mapping[str, Callable[[], Digest]]:
    known: dict[str, Callable[[], Digest]] = {
        "SHA256": lambda: hashlib.sha256(usedforsecurity=False),
        "SHA1": lambda: hashlib.sha1(usedforsecurity=False),
        "CRC32": lambda: _Crc(zlib.crc32, 4),
    }
    try:
        from awscrt import checksums  # noqa: PLC0415 - an extra, and slow to import.
    except ImportError:
        return known
    known["CRC64NVME"] = lambda: _Crc(checksums.crc64nvme, 8)
    known["CRC32C"] = lambda: _Crc(checksums.crc32c, 4)
    return known


def new_checksum(algorithm: str) -> Digest | None:
    """Return a running checksum by S3's name for it (`CRC64NVME`), or None if it cannot be computed here."""
    factory = _checksums().get(algorithm.upper())
    return factory() if factory else None


def checksum_text(digest: Digest) -> str:
    """Return a checksum as S3's headers have it, in base 64."""
    return base64.b64encode(digest.digest()).decode()


def multipart_etag(chunks: Iterable[bytes], part_sizes: Sequence[int]) -> str:
    """Return the ETag that S3 gives an object uploaded in parts of these sizes, `<md5 of md5s>-<parts>`.

    Args:
        chunks: The object's bytes, in order, in pieces of any size.
        part_sizes: Bytes per part; they add up to the object's size.
    """
    outer = new_md5()
    source = filter(len, chunks)
    chunk = memoryview(b"")
    for size in part_sizes:
        inner = new_md5()
        missing = size
        while missing:
            if not chunk:
                chunk = memoryview(next(source, b""))
                if not chunk:
                    break
            inner.update(chunk[:missing])
            taken = min(missing, len(chunk))
            chunk, missing = chunk[taken:], missing - taken
        outer.update(inner.digest())
    return f"{outer.hexdigest()}-{len(part_sizes)}"


MIB, MB = 1 << 20, 10**6
_USUAL_NUMBERS = (5, 8, 16, 64, 10, 15, 25, 32, 50, 100, 128, 200, 250, 256, 500, 512, 1000, 1024)
USUAL_PART_BYTES = tuple(number * unit for unit in (MIB, MB) for number in _USUAL_NUMBERS)
"""What uploaders take by default, the most frequent first."""
PART_SIZES_MAX = 32
"""How many are tried: each costs an MD5 of the whole object."""


def usual_part_sizes(size: int, count: int) -> list[int]:
    """Return the part sizes that an upload of so many bytes in so many parts may have had, the likeliest first.

    All parts but the last are of one size, and the last is no larger:

    ===============================  ====================================================================
    Parts                            Sizes that are tried
    ===============================  ====================================================================
    1                                the object's
    more, but no size gives as many  none
    more                             the usual ones, one that divides it evenly, then multiples of a MiB
                                     and of 10^6 bytes, the roundest first: as far as size and count allow
    ===============================  ====================================================================

    Args:
        size: Bytes of the object.
        count: The number of parts, as its ETag has it.
    """
    if count == 1:
        return [max(size, 1)]
    if count < 1:
        return []
    least, most = -(-size // count), (size - 1) // (count - 1)
    found = dict.fromkeys(usual for usual in USUAL_PART_BYTES if least <= usual <= most)
    if 0 < least <= most:
        found[least] = None
    step = 1 << 10
    while step and len(found) < PART_SIZES_MAX:
        for unit in (step * MIB, step * MB):
            first = -(-least // unit) * unit
            found |= dict.fromkeys(range(max(first, unit), most + 1, unit)[:PART_SIZES_MAX])
        step >>= 1
    return list(found)[:PART_SIZES_MAX]


def part_size_of(chunks: Iterable[bytes], etag: str, sizes: Sequence[int]) -> int | None:
    """Return the part size that gives bytes their multipart ETag, or None if none of these does. They are read once.

    Args:
        chunks: The object's bytes, in order, in pieces of any size.
        etag: The ETag.
        sizes: The part sizes to try.
    """
    tried = [_Parts(size) for size in sizes]
    for chunk in chunks:
        for parts in tried:
            parts.update(memoryview(chunk))
    return next((parts.size for parts in tried if parts.etag() == etag.lower()), None)


class _Parts:
    """A running multipart ETag of parts of one size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._outer, self._inner = new_md5(), new_md5()
        self._count, self._missing = 0, size

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        while data:
            if not self._missing:
                self._end()
            piece = data[: self._missing]
            self._inner.update(piece)
            self._missing -= len(piece)
            data = data[len(piece) :]

    def _end(self) -> None:
        self._outer.update(self._inner.digest())
        self._count += 1
        self._inner, self._missing = new_md5(), self.size

    def etag(self) -> str:
        """Return the ETag of all bytes taken."""
        self._end()
        return f"{self._outer.hexdigest()}-{self._count}"
