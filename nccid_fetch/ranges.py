"""A large object by several ranges at once, where places are free: one stream seldom fills a network.

Ranges arrive in any order and are written where they belong; they are hashed in order, as far as the bytes
reach without a gap. When a range fails, what reaches so far is kept, and the next attempt goes on from there.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from typing import TypeVar

from .disk import Disk
from .errors import ObjectError, Reason, ShortBodyError, TransientError
from .events import Received, Report
from .model import RemoteObject
from .slots import Slots
from .staging import StagedFile
from .store.protocol import Body, Reader
from .tasks import loud

T = TypeVar("T")

RANGED_BYTES_MIN = 32 << 20
"""A smaller object comes in one piece: most objects of a run do, and there are enough of them to fill a network."""
RANGE_BYTES = 8 << 20
RANGES_MAX = 8
"""How many ranges of one object are asked for at once."""
BUSY_OBJECTS = 16
"""So many streams fill a network; with as many in flight, an object is not worth a second one."""


async def receive_ranges(
    remote: RemoteObject, staged: StagedFile, reader: Reader, *, slots: Slots, disk: Disk, report: Report
) -> None:
    """Bring what is missing of a large object.

    The caller holds one place for it; more are taken as long as they are free. The answers' headers are not handed
    on: that of a range shows no checksum of the object.

    Args:
        remote: The object.
        staged: Where its bytes go. It ends with as many as reach without a gap, whatever happens.
        reader: Who to ask.
        slots: The places for objects in flight.
        disk: Where blocking work is done.
        report: Who wants to know of bytes that come in.

    Raises:
        NccidFetchError: As `Reader.get` does, and where an answer is not what was listed.
        OSError: The disk failed.
    """
    await _Ranges(remote, staged, reader, slots=slots, disk=disk, report=report).receive()


class _Ranges:
    def __init__(
        self, remote: RemoteObject, staged: StagedFile, reader: Reader, *, slots: Slots, disk: Disk, report: Report
    ) -> None:
        self._remote, self._staged, self._reader = remote, staged, reader
        self._slots, self._disk, self._report = slots, disk, report
        # One by one, and not all at once: a listing or a plan may say that an object has 10^18 bytes.
        self._missing = staged.size
        self._landed: defaultdict[int, asyncio.Future[None]] = defaultdict(asyncio.get_running_loop().create_future)
        self._lanes = 1

    async def receive(self) -> None:
        await self._disk.run(self._staged.open)
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(loud(self._lane, group))
                await self._take_in()
        except BaseExceptionGroup as group_error:
            if task.cancelling() > cancellations:  # A group that was ending already forgets it.
                raise asyncio.CancelledError from group_error
            raise _first(group_error) from group_error
        finally:
            await self._disk.run(self._staged.cut)

    async def _lane(self, group: asyncio.TaskGroup) -> None:
        """Bring one range after another, and open further lanes while there are places for them."""
        while self._missing < self._remote.size:
            start, stop = self._missing, self._stop_of(self._missing)
            self._missing = stop
            while self._missing < self._remote.size and self._lanes < RANGES_MAX and self._has_place():
                self._lanes += 1
                # A task that is cancelled before its first step runs no `finally` of its own.
                group.create_task(loud(self._lane, group)).add_done_callback(self._leave)
            await self._bring(start, stop)
            self._landed[stop].set_result(None)

    def _stop_of(self, start: int) -> int:
        return min(start + RANGE_BYTES, self._remote.size)

    def _leave(self, _: asyncio.Task[None]) -> None:
        self._lanes -= 1
        self._slots.release()

    def _has_place(self) -> bool:
        return self._slots.in_flight < BUSY_OBJECTS and self._slots.try_acquire()

    async def _bring(self, start: int, stop: int) -> None:
        remote, staged = self._remote, self._staged
        async with self._reader.get(remote, start, stop) as body:
            check_body(body, remote, stop - start)
            async for chunk in body.chunks():
                offset, start = start, start + len(chunk)
                if start > stop:
                    raise ShortBodyError(f"the server sent more than the {stop - offset} bytes that were asked for")
                self._report(Received(len(chunk)))
                await _to_its_end(self._disk.run(lambda: staged.write_at(offset, chunk)))  # noqa: B023 - awaited here.
        if start != stop:
            raise ShortBodyError(f"a range ended {stop - start} bytes early")

    async def _take_in(self) -> None:
        """Hash what has landed, in order."""
        for start in range(self._staged.size, self._remote.size, RANGE_BYTES):
            stop = self._stop_of(start)
            await self._landed[stop]
            del self._landed[stop]
            await _to_its_end(self._disk.run(lambda: self._staged.take_in(stop)))  # noqa: B023 - awaited here.


def check_body(body: Body, remote: RemoteObject, length: int) -> None:
    """Refuse a body that is not the version that was listed, or promises another length.

    One that promises none is counted as it comes: the listing has the length that it is held against.

    Raises:
        ObjectError: It is another version.
        TransientError: The answer does not say which, or promises another length.
    """
    if not body.etag:
        raise TransientError("the server does not say which version it sent")
    if body.etag != remote.etag:
        raise ObjectError(Reason.CHANGED, "it was replaced after it was listed; a rerun fetches the new version")
    if body.length is not None and body.length != length:
        raise ShortBodyError(
            f"the server promised {remote.size - length + body.length} bytes, and listed {remote.size}"
        )


def _first(group: BaseExceptionGroup) -> BaseException:
    """Return the error that came first; the others were cancelled by it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await work in a thread to its end, also through a cancellation: nobody may close a file that it writes to."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()  # Seen: whoever cancelled has the reason.
        raise
