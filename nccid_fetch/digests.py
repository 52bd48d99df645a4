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
