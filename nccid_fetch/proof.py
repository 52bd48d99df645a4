"""Proving that bytes on disk are an object: the strongest proof that the server's words allow.

=============== ============================================================ ==================
proof           when                                                         extra requests
=============== ============================================================ ==================
md5             the ETag is an MD5, and equal                                none
multipart_md5   the ETag is of a multipart upload, and equal when rebuilt    1, or 1 per part
                from the sizes of its parts: the server's, else usual ones
checksum        S3 stores a checksum of the whole object, and it is equal    1, or none
size            none of these: the right length, and said to be only that    1, or none
=============== ============================================================ ==================

An ETag that looks like an MD5 and differs is not corruption yet: under SSE-KMS and SSE-C it is something else
that looks the same. The response's headers decide, fetched once if the reader did not show them.
"""

from collections.abc import Callable, Iterator, Sequence

from .digests import checksum_text, multipart_etag, new_checksum, part_size_of, usual_part_sizes
from .disk import Disk
from .errors import (
    DigestMismatchError,
    NccidFetchError,
    NotSupportedError,
    ObjectError,
    Reason,
    ThrottledError,
    TransientError,
    UnreachableError,
)
from .model import RemoteObject, VerifiedBy
from .store.protocol import Facts
from .store.reference import ReferenceReader

_ASKED_AGAIN = (DigestMismatchError, ThrottledError, UnreachableError)
"""What is no refusal of parts: to guess their sizes meanwhile would cost more than to ask again."""


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
    # A GET shows checksums only where it asked for them; a HEAD always does.
    if facts is None or (facts.etag_is_opaque and facts.checksum is None):
        facts = await reference.facts(remote)
    if remote.etag.md5 is not None and not facts.etag_is_opaque:
        raise DigestMismatchError(f"its content has MD5 {md5}, and its ETag says {remote.etag}")
    if not facts.etag_is_opaque and await _has_parts(remote, chunks, reference, disk):
        return VerifiedBy.MULTIPART_MD5
    if facts.checksum is not None and await _has_checksum(*facts.checksum, chunks, disk):
        return VerifiedBy.CHECKSUM
    return VerifiedBy.SIZE


async def _has_parts(
    remote: RemoteObject, chunks: Callable[[], Iterator[bytes]], reference: ReferenceReader, disk: Disk
) -> bool:
    """Rebuild a multipart ETag. False if it is none, or neither the server's sizes of its parts nor usual ones give it.

    =====================================  =======================================================================
    The server                             Then
    =====================================  =======================================================================
    says the sizes of parts, and they fit  proved
    says each part's, and they do not fit  a mismatch
    knows no parts                         the usual sizes prove it, or leave it unproved: they are guesses
    denies them, or is in trouble          the same, but where they leave it unproved, that is raised: a denial may come of
                                           credentials that have expired, and settles nothing about the body
    =====================================  =======================================================================

    Raises:
        DigestMismatchError: The parts do not have it.
        NccidFetchError: The server could not be asked, and the usual sizes do not prove it.
    """
    if remote.etag.parts is None:
        return False

    trouble: NccidFetchError | None = None
    try:
        if await _has_known_parts(remote, chunks, reference, disk):
            return True
    except _ASKED_AGAIN:
        raise
    except NotSupportedError:
        pass
    except TransientError as error:
        trouble = error
    except ObjectError as error:
        if error.reason is not Reason.DENIED:
            raise
        trouble = error
    if await _has_usual_parts(remote, chunks, disk):
        return True
    if trouble is not None:
        raise trouble
    return False


async def _has_known_parts(
    remote: RemoteObject, chunks: Callable[[], Iterator[bytes]], reference: ReferenceReader, disk: Disk
) -> bool:
    """Rebuild a multipart ETag from what the server says of the parts. False if it does not know them.

    Raises:
        DigestMismatchError: The parts do not have it.
        NccidFetchError: The server could not be asked, or refused.
    """

    async def have_it(sizes: Sequence[int]) -> bool:
        return await disk.run(lambda: multipart_etag(chunks(), sizes)) == remote.etag.lower()

    sizes = await reference.part_sizes(remote)
    if sizes is None:
        return False
    if await have_it(sizes):
        return True
    # Sizes that merely add up are no proof of a fault: after 100 bytes, 50 and 106 do as 100 and 56 would.
    exact = await reference.part_sizes(remote, each=True)
    if exact is None or exact == sizes or not await have_it(exact):
        raise DigestMismatchError(f"its content does not have the multipart ETag {remote.etag}")
    return True


async def _has_usual_parts(remote: RemoteObject, chunks: Callable[[], Iterator[bytes]], disk: Disk) -> bool:
    """Rebuild a multipart ETag from part sizes that are in use."""
    sizes = usual_part_sizes(remote.size, remote.etag.parts or 0)
    return bool(sizes) and await disk.run(lambda: part_size_of(chunks(), remote.etag, sizes)) is not None


async def _has_checksum(algorithm: str, expected: str, chunks: Callable[[], Iterator[bytes]], disk: Disk) -> bool:
    """Compute a checksum. False if it cannot be computed here.

    Raises:
        DigestMismatchError: It is another one.
    """
    digest = new_checksum(algorithm)
    if digest is None:
        return False

    def compute() -> str:
        for chunk in chunks():
            digest.update(chunk)
        return checksum_text(digest)

    actual = await disk.run(compute)
    if actual != expected:
        raise DigestMismatchError(f"its content has {algorithm} {actual}, not {expected}")
    return True
