"""The reference reader, over aioboto3: every key, every header, and the last word on what went wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from ..bandwidth import Bandwidth
from ..errors import NccidFetchError, ObjectError, RangeIgnoredError, Reason, TransientError
from ..keys import printable
from ..model import Chunk, ETag, RemoteObject
from . import pace
from .answers import object_error
from .pace import Pace
from .protocol import CHUNK_BYTES, WHOLE_BYTES_MAX, Body, Facts
from .session import Session
from .strict import LIMITED_AHEAD_BYTES, LIMITED_READ_BYTES, failure_of

_BUSY = {408, 429, 500, 502, 503, 504}
"""What a server answers that is in trouble: then it is not asked in another way at once."""


class ReferenceReader:
    """Reads objects with aioboto3's client.

    Args:
        session: The open session.
    """

    honours_ranges = False  # It asks when something went wrong: then simple is better than quick.

    def __init__(self, session: Session) -> None:
        self._session = session

    def can_read(self, key: str) -> bool:  # noqa: ARG002 - the protocol asks.
        """Every key can be read."""
        return True

    @asynccontextmanager
    async def get(self, remote: RemoteObject, start: int = 0, stop: int | None = None) -> AsyncIterator[Body]:
        """Open an object's body; see `Reader.get`."""
        is_part = start > 0 or stop is not None
        options = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if is_part else {}
        if remote.etag.md5 is None:
            options["ChecksumMode"] = "ENABLED"
        length = (remote.size if stop is None else stop) - start
        bandwidth = self._session.bandwidth
        whole_max = WHOLE_BYTES_MAX if bandwidth is None else bandwidth.piece(WHOLE_BYTES_MAX)
        taken = length
        if bandwidth is not None and length > whole_max:
            taken = min(length, bandwidth.piece(CHUNK_BYTES) + LIMITED_AHEAD_BYTES)
        response = await self._call("get_object", remote, taken, **options)
        stream = response["Body"]
        where = self._session.where
        try:
            status = response["ResponseMetadata"]["HTTPStatusCode"]
            if is_part and not str(response.get("ContentRange", "")).startswith(f"bytes {start}-"):
                raise RangeIgnoredError(f"{where} ignored a range")
            if status != 200 and not (is_part and status == 206):  # rclone sends a range with 200.
                raise TransientError(f"{where} answered {status}, which is no answer of S3's")
            # What resumes a body comes in small chunks however little it is: on a line that goes on breaking, each is kept.
            whole = not start and response.get("ContentLength", length) <= whole_max
            yield _ReferenceBody(
                response, stream, where, expected=length, whole=whole, bandwidth=bandwidth, taken=taken
            )
        finally:
            stream.close()

    async def facts(self, remote: RemoteObject) -> Facts:
        """Ask for what only headers tell. Raises as `get` does."""
        response = await self._head(remote, ChecksumMode="ENABLED")
        if ETag.parse(response["ETag"]) != remote.etag:
            raise ObjectError(Reason.CHANGED, "it was replaced after it was listed; a rerun fetches the new version")
        return Facts.of(response["ResponseMetadata"]["HTTPHeaders"])

    async def part_sizes(self, remote: RemoteObject, *, each: bool = False) -> list[int] | None:
        """Ask how many bytes each part of a multipart upload has.

        Args:
            remote: The object.
            each: Ask for every part. Else parts that can be of one size, as every uploader makes them, are taken to
                be, after one request.

        Returns:
            Bytes per part, or None if the server does not know.
        """
        count = remote.etag.parts
        if count is None:
            return None
        first = await self._part_size(remote, 1)
        if first is None:
            return None
        rest = remote.size - first * (count - 1)
        if 0 < rest <= first and not each:
            return [first] * (count - 1) + [rest]
        sizes = [first]
        for number in range(2, count + 1):
            size = await self._part_size(remote, number)
            if size is None:
                return None
            sizes.append(size)
        return sizes if sum(sizes) == remote.size else None

    async def _part_size(self, remote: RemoteObject, number: int) -> int | None:
        response = await self._head(remote, PartNumber=number)
        if response.get("PartsCount", remote.etag.parts) != remote.etag.parts:
            return None
        size = response.get("ContentLength")
        # A server that does not know parts answers with the whole object.
        if size is None or (size == remote.size and remote.etag.parts != 1):
            return None
        return int(size)

    async def _head(
        self,
        remote: RemoteObject,
        **options: Any,  # noqa: ANN401 - botocore has no types.
    ) -> dict[str, Any]:
        """Ask for headers alone, or for as much by GET where that is refused.

        An answer to HEAD has no document that says why, and may be anybody's; that to a GET has one if it is S3's.
        """
        try:
            response = await self._call("head_object", remote, **options)
        except _HeadRefusedError:
            response = await self._call("get_object", remote, **options)
            response["Body"].close()
        if not response.get("ETag"):
            raise TransientError(f"{self._session.where} answered without an ETag, which is no answer of S3's")
        return response

    async def _call(
        self,
        operation: str,
        remote: RemoteObject,
        size: int = 0,
        **options: Any,  # noqa: ANN401 - botocore has no types.
    ) -> dict[str, Any]:
        async with self._session.request(size):
            return await self._send(operation, remote, options)

    async def _send(self, operation: str, remote: RemoteObject, options: dict[str, Any]) -> dict[str, Any]:
        session = self._session
        await session.credentials()  # So that a refresh that fails is a CredentialsError.
        try:
            response: dict[str, Any] = await getattr(session.client, operation)(
                Bucket=session.source.bucket, Key=remote.key, IfMatch=remote.etag.header, **options
            )
        except ClientError as error:
            raise _refused(error, session.where) from None  # It has the server's words, which may quote the request.
        except BotoCoreError as error:
            raise failure_of(error, session.endpoint, session.proxy_name) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(f"{session.where} broke off: {printable(type(error).__name__)}") from error
        return response


class _HeadRefusedError(TransientError):
    """A HEAD was refused, and nothing tells by whom."""


class _ReferenceBody:
    def __init__(
        self,
        response: dict[str, Any],
        stream: Any,  # noqa: ANN401 - aiobotocore has no types.
        where: str,
        *,
        expected: int,
        whole: bool,
        bandwidth: Bandwidth | None = None,
        taken: int = 0,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self.etag = ETag.parse(response.get("ETag", ""))
        self.length: int | None = response.get("ContentLength")
        self.facts = Facts.of(response["ResponseMetadata"]["HTTPHeaders"])
        self._stream, self._where = stream, where
        self._now, self._waited = now, 0.0
        self._bandwidth, self._taken = bandwidth, taken
        self._expected = expected if self.length is None else self.length
        self._wanted = self._expected if whole else CHUNK_BYTES

    async def chunks(self) -> AsyncIterator[Chunk]:
        buffer = bytearray()
        received = 0
        speed = Pace()
        try:
            # Not by iteration: aiobotocore's yields a kibibyte at a time, and each would be a hop to a thread.
            while chunk := await self._read(await self._allowed(received)):
                received += len(chunk)
                if speed.is_too_slow(self._waited, received):
                    raise TransientError(
                        f"{self._where} sent a body at less than {pace.SLOW_BYTES_PER_SECOND:g} bytes a second"
                    )
                buffer += chunk
                if len(buffer) >= self._wanted or received > self._expected:
                    yield bytes(buffer)
                    buffer.clear()
        except (aiohttp.ClientError, BotoCoreError, TimeoutError, OSError) as error:
            raise TransientError(f"{self._where} broke off after {received} bytes") from error
        if buffer:
            yield bytes(buffer)

    async def _allowed(self, received: int) -> int:
        """Return how many bytes may be read now, and take from the bandwidth first what will then have come.

        While nobody reads, nobody sends, but for what the system receives ahead.
        """
        if self._bandwidth is None or received >= self._expected:
            return CHUNK_BYTES
        if received + LIMITED_AHEAD_BYTES >= self._taken < self._expected:
            piece = self._bandwidth.piece(min(CHUNK_BYTES, self._expected - self._taken))
            await self._bandwidth.take(piece)
            self._taken += piece
        return LIMITED_READ_BYTES

    async def _read(self, size: int) -> bytes:
        """Return some bytes, none at the end; keep account of how long the network was waited for, and nothing else."""
        began = self._now()
        chunk: bytes = await self._stream.read(size)
        self._waited += self._now() - began
        return chunk


def _refused(error: ClientError, where: str) -> NccidFetchError:
    metadata = error.response.get("ResponseMetadata", {})
    told = error.response.get("Error", {})
    status, headers = metadata.get("HTTPStatusCode", 0), metadata.get("HTTPHeaders", {})
    if error.operation_name == "HeadObject" and status not in _BUSY:
        return _HeadRefusedError(f"{where} refused a HEAD ({status})")
    code = told.get("Code", "")
    if region := told.get("Region"):
        headers = {"x-amz-bucket-region": region, **headers}
    # Without a document of S3's (see `strict`), botocore gives the status for a code.
    return object_error(status, "" if code.isdigit() else code[:64], headers, where, told.get("Message") or "")
