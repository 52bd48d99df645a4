"""One object, from decision to proof: request, stage, verify, with every attempt that takes.

An attempt covers the whole of it: request, body and digest. The first goes to the fast reader where there is
one; all further ones to the reference reader, which sees what the fast one cannot say. A body that broke
off after more than a few megabytes is resumed by a range under the same ETag; any other begins anew, in a new
staged file, so that no attempt can leave bytes to another.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from .attributes import stamp_of
from .bandwidth import Bandwidth
from .clock import REAL, Clock
from .destination import Adoption, Destination
from .digests import md5_of
from .disk import Disk
from .errors import (
    CredentialsError,
    DigestMismatchError,
    EndpointError,
    FileChangedError,
    ListingDeniedError,
    NccidFetchError,
    ObjectError,
    RangeIgnoredError,
    Reason,
    RefusedError,
    ShortBodyError,
    ThrottledError,
    TransientError,
    UnreachableError,
)
from .events import Hashed, Received, Report, Retrying
from .governor import HOLDS, Governor
from .keys import path_of
from .model import Check, RemoteObject, VerifiedBy, Why
from .proof import prove
from .ranges import RANGED_BYTES_MIN, check_body, receive_ranges
from .retry import Patience
from .settings import Settings, Verify
from .slots import Slots
from .staging import READ_BYTES, StagedFile, chunks_of
from .store.pages import Lister
from .store.protocol import WHOLE_BYTES_MAX, Facts, Reader
from .store.reference import ReferenceReader

HASHED_CHUNKS = 64
"""Of a large file that is hashed, every so many chunks are told, so that a display sees it go on."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every object needs, and what is replaced in tests: network, disk, clock, chance.

    Attributes:
        group: The group that keys begin with.
        lister: Asks for listings; here of single keys, to learn why one was denied.
        reader: Makes first attempts.
        reference: Makes all others, and has the last word.
        destination: Where files go.
        disk: Where blocking work is done.
        settings: How to fetch.
        slots: The places for objects in flight.
        report: Who wants to know.
        clock: Time and chance.
        governor: What the run's requests pass through.
        bandwidth: What the bytes are taken from; None where there is no limit.
    """

    group: str
    lister: Lister
    reader: Reader
    reference: ReferenceReader
    destination: Destination
    disk: Disk
    settings: Settings
    slots: Slots
    report: Report
    clock: Clock = REAL
    governor: Governor = field(default_factory=Governor)
    bandwidth: Bandwidth | None = None

    @property
    def waited_at(self) -> float:
        """When, on the clock, somebody last waited for what concerns all: while the run was held, or for bandwidth."""
        held = self.governor.last_held
        return held if self.bandwidth is None else max(held, self.bandwidth.waited_at)


async def fetch(remote: RemoteObject, tools: Tools) -> tuple[StagedFile, VerifiedBy]:
    """Download an object into a staged file and prove it.

    Returns:
        The staged file, sealed, and how it was proved.

    Raises:
        ObjectError: It did not arrive, after every attempt that made sense.
        RunError: The credentials or the endpoint are at fault.
        OSError: The disk is.
    """
    transfer = _Transfer(remote, tools)
    try:
        return await transfer.run()
    except asyncio.CancelledError:
        raise  # A thread may still be writing; what is staged goes when all threads have ended.
    except BaseException:
        await tools.disk.run(transfer.staged.discard)
        raise


class _Transfer:
    """The attempts at one object."""

    def __init__(self, remote: RemoteObject, tools: Tools) -> None:
        self.remote = remote
        self.tools = tools
        self.staged = self._new_staged()
        self.facts: Facts | None = None

    async def run(self) -> tuple[StagedFile, VerifiedBy]:
        tools = self.tools
        reader: Reader = tools.reader if tools.reader.can_read(self.remote.key) else tools.reference
        patience = _patience(tools)
        while True:
            holds_over = tools.governor.holds_over
            try:
                return self.staged, await self._attempt(reader)
            except RefusedError:
                reader = tools.reference
            except HOLDS as error:
                await self._keep_or_discard(error)
                reader = tools.reference
            except ObjectError as error:
                settled = await _settled(error, self.remote, tools, holds_over)
                if settled is not None:
                    raise settled from error
            except TransientError as error:
                await self._keep_or_discard(error)
                reader = tools.reference
                await _wait(error, self.remote, patience, tools)

    async def _attempt(self, reader: Reader) -> VerifiedBy:
        """Make one attempt, going on where the last one ended: within the body, or at its proof."""
        staged, tools = self.staged, self.tools
        if not staged.is_sealed:
            await self._receive(reader)
        if staged.md5 is None:
            return VerifiedBy.SIZE
        return await prove(
            self.remote, staged.md5, staged.chunks, facts=self.facts, reference=tools.reference, disk=tools.disk
        )

    async def _receive(self, reader: Reader) -> None:
        """Bring what is missing of the body, and seal the staged file."""
        remote, staged, tools = self.remote, self.staged, self.tools
        if reader.honours_ranges and remote.size - staged.size >= RANGED_BYTES_MIN:
            await receive_ranges(remote, staged, reader, slots=tools.slots, disk=tools.disk, report=tools.report)
            await tools.disk.run(lambda: staged.seal(remote.modified_ns))
            return
        start = staged.size
        if 0 < start == remote.size:  # An attempt broke off after the last byte: there is nothing to ask for.
            await tools.disk.run(lambda: staged.seal(remote.modified_ns))
            return
        async with reader.get(remote, start) as body:
            check_body(body, remote, remote.size - start)
            if not start:  # What an answer to a range says of checksums may be about that range.
                self.facts = body.facts
            async for chunk in body.chunks():
                received = len(chunk)
                if staged.size + received > remote.size:
                    raise ShortBodyError(f"the server sent more than the {remote.size} bytes it listed")
                tools.report(Received(received))
                if received == remote.size:
                    await tools.disk.run_short(
                        lambda whole=chunk: staged.append_and_seal(whole, remote.modified_ns),  # type: ignore[misc]
                        received,
                    )
                else:
                    await tools.disk.run(lambda part=chunk: staged.append(part))  # type: ignore[misc]
        if staged.size != remote.size:
            raise ShortBodyError(f"the body ended after {staged.size} of {remote.size} bytes")
        if not staged.is_sealed:
            await tools.disk.run(lambda: staged.seal(remote.modified_ns))

    async def _keep_or_discard(self, error: NccidFetchError) -> None:
        """Keep a whole body whose proof was interrupted, and what a large one brought before it broke off."""
        wrong = isinstance(error, DigestMismatchError | ShortBodyError | RangeIgnoredError)
        is_large = self.remote.size > WHOLE_BYTES_MAX
        if wrong or not (self.staged.is_sealed or (is_large and self.staged.size)):
            await self.tools.disk.run(self.staged.discard)
            self.staged = self._new_staged()

    def _new_staged(self) -> StagedFile:
        return self.tools.destination.staging.new(hashed=self.tools.settings.verify is Verify.MD5)


def _patience(tools: Tools) -> Patience:
    return Patience(tools.settings.attempts, tools.clock.chance)


async def _wait(error: TransientError, remote: RemoteObject, patience: Patience, tools: Tools) -> None:
    """Wait until it is time for another attempt.

    Raises:
        ObjectError: There is to be none.
    """
    pause = patience.after(error)
    if pause is None:
        raise ObjectError(
            error.reason, f"{error}, in {patience.attempts} attempt{'' if patience.attempts == 1 else 's'}"
        ) from error
    throttled = isinstance(error, ThrottledError)
    tools.report(Retrying(remote, patience.attempts + throttled, str(error), pause, throttled))
    await tools.clock.sleep(pause)


async def _settled(error: ObjectError, remote: RemoteObject, tools: Tools, holds_over: int) -> ObjectError | None:
    """Find out what a denial means: readers may not learn from a GET whether a key is still there.

    Args:
        error: The denial, or anything else that became of the object.
        remote: The object.
        tools: What a transfer needs.
        holds_over: How often the run had been held before it was asked for.

    Returns:
        What became of the object; None if it was denied for credentials that have expired, or may have been, as the run
        was held meanwhile: then it is to be asked for again. The answer to a HEAD has no word on why.
    """
    patience = _patience(tools)
    while error.reason is Reason.DENIED:
        try:
            page = await tools.lister.page(remote.key, max_keys=1)
        except UnreachableError:
            continue
        except CredentialsError:
            return None
        except (TransientError, EndpointError) as trouble:
            if tools.governor.has_ended:
                raise  # That is the end of the run, and says nothing of this object.
            pause = patience.after(trouble) if isinstance(trouble, TransientError) else None
            if pause is None:
                break
            await tools.clock.sleep(pause)
            continue
        except ListingDeniedError:
            return ObjectError(Reason.DENIED, f"{error}, or it is no longer there: they may not see which")
        if not any(found.key == remote.key for found in page.objects):
            return ObjectError(Reason.GONE, "it was deleted after it was listed")
        if holds_over != tools.governor.holds_over:
            return None
        break
    return error


async def check(decision: Check, tools: Tools) -> tuple[VerifiedBy, Adoption] | None:
    """Hash the file that is there, and adopt it if it is the object. One that changes meanwhile is hashed again.

    Returns:
        How it was proved, and what the file has; or None if it differs, or nothing can prove it: then it has to be fetched.
        What a record vouches for by its size is left as it is where nothing can prove it.

    Raises:
        ObjectError: It cannot be read, or changes each time that it is.
        RunError: The credentials or the endpoint are at fault.
    """
    patience = _patience(tools)
    while True:
        try:
            return await _checked(decision, tools, patience)
        except FileChangedError as error:
            await _wait(error, decision.remote, patience, tools)


async def _checked(decision: Check, tools: Tools, patience: Patience) -> tuple[VerifiedBy, Adoption] | None:
    """See `check`.

    Raises:
        FileChangedError: The file was changed while it was read.
    """
    remote, destination = decision.remote, tools.destination
    path = path_of(remote.key, tools.group)
    async with _opened(path, tools) as descriptor:
        stamp = await tools.disk.run(lambda: stamp_of(descriptor))
        if stamp.size != remote.size:
            return None  # It was replaced since it was looked at.
        chunks = _told(descriptor, tools.report)
        md5 = await tools.disk.run(lambda: md5_of(chunks))
        tools.report(Hashed(remote.size % (HASHED_CHUNKS * READ_BYTES)))
        while True:
            holds_over = tools.governor.holds_over
            try:
                verified_by = await prove(
                    remote,
                    md5,
                    lambda: chunks_of(descriptor),
                    facts=None,
                    reference=tools.reference,
                    disk=tools.disk,
                )
                break
            except DigestMismatchError:
                verified_by = None
                break
            except HOLDS:
                continue
            except ObjectError as error:
                settled = await _settled(error, remote, tools, holds_over)
                if settled is not None:
                    raise settled from error
            except TransientError as error:  # A server that hiccups is no reason to fetch what may be there.
                await _wait(error, remote, patience, tools)
        if verified_by is None or (verified_by is VerifiedBy.SIZE and decision.why is not Why.KNOWN_BY_SIZE):
            await tools.disk.run(lambda: destination.check_unchanged(descriptor, path, stamp))
            return None
        adoption = await tools.disk.run(lambda: destination.adopt(descriptor, path, stamp, remote.modified_ns))
    return verified_by, adoption


def _told(descriptor: int, report: Report) -> Iterator[bytes]:
    """Yield a file's bytes in a thread, and tell the loop of each full number of chunks."""
    loop = asyncio.get_running_loop()

    def chunks() -> Iterator[bytes]:
        for number, chunk in enumerate(chunks_of(descriptor), 1):
            yield chunk
            if number % HASHED_CHUNKS == 0 and len(chunk) == READ_BYTES:  # What is left is told when all is hashed.
                loop.call_soon_threadsafe(report, Hashed(HASHED_CHUNKS * READ_BYTES))

    return chunks()


@asynccontextmanager
async def _opened(path: tuple[str, ...], tools: Tools) -> AsyncIterator[int]:
    """Open a file of the tree for as long as it is looked at."""
    opened: list[int] = []

    def close() -> None:
        for descriptor in opened:
            with suppress(OSError):  # Of a file that is only read, its close has nothing to say.
                os.close(descriptor)

    try:
        await tools.disk.run(lambda: opened.append(tools.destination.open_file(path)))
        yield opened[0]
    except asyncio.CancelledError:
        # A thread may still be opening it or reading, and by then the number might be another file's.
        tools.disk.at_end(close)
        raise
    except BaseException:
        close()
        raise
    else:
        close()
