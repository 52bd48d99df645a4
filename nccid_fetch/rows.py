"""How the journal keeps what a record says, and gets it back: `journal` says what its columns mean."""

import re

from .model import ETag, VerifiedBy

MS = 1_000_000
"""Nanoseconds."""
PROOFS = {int(proof): proof for proof in VerifiedBy}
INTEGER_MAX = (1 << 63) - 1
"""The largest number that SQLite keeps."""
_AS_BYTES = re.compile(r"[0-9a-f]{32}")


def own_time(modified_ns: int, mtime_ns: int) -> int | None:
    """Return a file's mtime as it is kept: not at all where it is what is kept of the object's time, or SQLite cannot keep it."""
    return None if mtime_ns == modified_ns // MS * MS or abs(mtime_ns) > INTEGER_MAX else mtime_ns


def prefix_of(key: str) -> str:
    """Return a key's folder, with its slash."""
    return key[: key.rfind("/") + 1]


def stored_etag(etag: ETag) -> bytes | str:
    """Return an ETag as it is kept: of 32 hex digits, 16 bytes."""
    return bytes.fromhex(etag) if _AS_BYTES.fullmatch(etag) else str(etag)


def loaded_etag(stored: bytes | str) -> ETag:
    """Return the ETag that was kept."""
    return ETag(stored.hex() if isinstance(stored, bytes) else stored)
