"""Proving that bytes on disk are an object: the strongest proof that the server's words allow.

=============== ============================================================ ==================
proof           when                                                         extra requests
=============== ============================================================ ==================
md5             the ETag is an MD5, and equal                                none
multipart_md5   the ETag is of a multipart upload, and equal when rebuilt    1, or 1 per part
checksum        S3 stores a checksum of the whole object, and it is equal    1, or none
size            none of these: the right length, and said to be only that    1, or none
=============== ============================================================ ==================

An ETag that looks like an MD5 and differs is not corruption yet: under SSE-KMS and SSE-C it is something else
that looks the same. The response's headers decide, fetched once if the reader did not show them.
"""

from collections.abc import Callable, Iterator

from .digests import checksum_text, multipart_etag, new_checksum
from .disk import Disk
from .errors import DigestMismatchError
from .model import RemoteObject, VerifiedBy
from .store.protocol import Facts
from .store.reference import ReferenceReader


async def prove(
    remote: RemoteObject,
    md5: str,
    chunks: Callable[[], Iterator[bytes]],
    *,
    facts: Facts | None,
    reference: ReferenceReader,
    disk: Disk,
) -> VerifiedBy:
    """Prove bytes of the right length.

    Args:
        remote: The object.
        md5: The MD5 of the bytes, in hex.
        chunks: Reads the bytes again, from the beginning; called in a thread.
        facts: What the response's headers told, if they are known.
        reference: Who to ask for headers and parts.
        disk: Where blocking work is done.

    Returns:
        How the bytes were proved; SIZE if there is nothing to hold them against.

    Raises:
        DigestMismatchError: They are not the object.
        NccidFetchError: The server could not be asked.
    """
    if remote.etag.md5 == md5:
        return VerifiedBy.MD5
    facts = facts or await reference.facts(remote)
    if remote.etag.md5 is not None and not facts.etag_is_opaque:
        raise DigestMismatchError(f"its content has MD5 {md5}, and its ETag says {remote.etag}")
    if remote.etag.parts is not None and not facts.etag_is_opaque:
        sizes = await reference.part_sizes(remote)
        if sizes is not None:
            rebuilt = await disk.run(lambda: multipart_etag(chunks(), sizes))
            if rebuilt != remote.etag:
                raise DigestMismatchError(f"its content has the multipart ETag {rebuilt}, not {remote.etag}")
            return VerifiedBy.MULTIPART_MD5
    if facts.checksum is not None:
        algorithm, expected = facts.checksum
        actual = await disk.run(lambda: _checksum(algorithm, chunks))
        if actual is not None:
            if actual != expected:
                raise DigestMismatchError(f"its content has {algorithm} {actual}, not {expected}")
            return VerifiedBy.CHECKSUM
    return VerifiedBy.SIZE


def _checksum(algorithm: str, chunks: Callable[[], Iterator[bytes]]) -> str | None:
    digest = new_checksum(algorithm)
    if digest is None:
        return None
    for chunk in chunks():
        digest.update(chunk)
    return checksum_text(digest)
