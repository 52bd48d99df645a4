"""What the flow needs of a store: read a body, and ask for what listings do not say.

Two readers keep this protocol, and one suite of tests holds both to it: `fast`, and `reference`, which
can express every key and shows every header. Everything above sees objects and our errors only: no
client's exception, no response, no quoted ETag passes this line. The bucket is never written to.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from ..model import Chunk, ETag, RemoteObject

WHOLE_BYTES_MAX = 1 << 20
"""A body up to this size comes as one chunk; a larger one in chunks of about CHUNK_BYTES."""
CHUNK_BYTES = 512 << 10
"""Times the objects in flight, this is what a run holds in memory of its bodies."""
_CHECKSUMS = ("crc64nvme", "crc32c", "crc32", "sha256", "sha1")


@dataclass(frozen=True, slots=True)
class Facts:
    """What only a response's headers tell about an object.

    Attributes:
        encryption: `x-amz-server-side-encryption`, if any.
        customer_key: Encrypted with a key that the uploader holds (SSE-C).
        checksum: Algorithm and base-64 value of a checksum of the full object, if S3 stores one.
    """

    encryption: str | None = None
    customer_key: bool = False
    checksum: tuple[str, str] | None = None

    @property
    def etag_is_opaque(self) -> bool:
        """Under SSE-KMS and SSE-C an ETag has the look of an MD5 and is none."""
        return self.customer_key or (self.encryption or "").startswith("aws:kms")

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Facts":
        """Return what an answer's headers tell; their names are in lower case."""
        checksum = None
        # Some servers give a part's checksum, or one of checksums, for that of an object that was uploaded in parts.
        unless_said = "COMPOSITE" if ETag.parse(headers.get("etag", "")).parts else "FULL_OBJECT"
        if headers.get("x-amz-checksum-type", unless_said) == "FULL_OBJECT":
            for name in _CHECKSUMS:
                value = headers.get(f"x-amz-checksum-{name}")
                if value and "-" not in value:  # "-3" marks a checksum of three parts' checksums.
                    checksum = (name.upper(), value)
                    break
        return cls(
            encryption=headers.get("x-amz-server-side-encryption"),
            customer_key="x-amz-server-side-encryption-customer-algorithm" in headers,
            checksum=checksum,
        )


class Body(Protocol):
    """An answer to a GET, while it is open.

    Attributes:
        etag: The version that is being sent.
        length: Bytes that this answer promises; None if it does not say, as one in chunks does not.
        facts: What its headers tell, if this reader shows them.
    """

    @property
    def etag(self) -> ETag: ...  # noqa: D102
    @property
    def length(self) -> int | None: ...  # noqa: D102
    @property
    def facts(self) -> Facts | None: ...  # noqa: D102

    def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the bytes in order, each chunk until the next is asked for: its memory may then be used again.

        Raises:
            TransientError: The body broke off, stalled, or trickled for a minute (`pace`).
        """
        ...


class Reader(Protocol):
    """One way to read objects.

    Attributes:
        honours_ranges: Whether it is worth asking it for several ranges of an object at once.
    """

    honours_ranges: bool

    def can_read(self, key: str) -> bool:
        """Say whether this reader can express a key."""
        ...

    def get(self, remote: RemoteObject, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Body]:
        """Open an object's body, provided that it still has the ETag it was listed with.

        Args:
            remote: The object as listed.
            start: The first byte wanted; more than 0 resumes a broken body.
            stop: The first byte that is not wanted any more; None for all to the end.

        Raises:
            RefusedError: From the fast reader, whatever the cause: the reference reader is to be asked at once.
            TransientError: Worth another attempt. RangeIgnoredError if `start` or `stop` was not honoured.
            ObjectError: It changed, is gone, denied or archived, in S3's own words.
            RunError: The credentials or the endpoint are at fault, not the object.
        """
        ...
