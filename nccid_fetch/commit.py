"""Ends of objects, in batches: names, durability and the journal cost once per batch, not once per object."""

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .destination import Adoption, Destination, NoRoomError, Placement
from .diagnosis import destination_error
from .disk import Disk
from .durability import FlushError
from .errors import DestinationError, DestinationFullError, ObjectError, Reason
from .events import Adopted, Committed, Committing, Failed, Fetched, Outcome, PlaceNoted, Report
from .journal import Journal
from .keys import path_of
from .model import Fetch, Record
from .settings import Durability
from .staging import StagedFile

BATCH_OBJECTS = 1000
BATCH_BYTES = 1 << 30
BATCH_SECONDS = 1.0
BACKLOG_OBJECTS = 2 * BATCH_OBJECTS
_FOREIGN = "files that are right belong to another user: they are used as they are, with the modes and times that their owner gave them"


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of an object, and the staged file that is to get its name, or what the adopted file has, if there is one."""

    outcome: Outcome
    fetch: Fetch | None = None
    staged: StagedFile | None = None
    adoption: Adoption | None = None

    @property
    def mtime_ns(self) -> int | None:
        """The mtime of the file that is in place; None where it may be what it was given."""
        has_it = self.adoption or self.staged
        return None if has_it is None else has_it.mtime_ns


class Committer:
    """Puts batches in place and records them. `run` works until `close`; workers `put`.

    Attributes:
        ended: How many objects it has reported as ended.

    Args:
        group: The group that keys begin with.
        destination: Where files go.
        journal: Where they are recorded.
        disk: Where blocking work is done.
        journal_thread: The one thread that uses the journal.
        report: Who wants to know.
        durability: With `file`, nothing waits for others to be put in place with.
        when_failed: Called with each object that did not arrive as soon as that is known, and once more when it is recorded.
        in_flight: Returns how many objects are in flight, which is told with each batch.

    Attributes:
        full: Done when the disk is full: the run is to end. What is verified by then still gets the room kept back.
    """

    def __init__(
        self,
        *,
        group: str,
        destination: Destination,
        journal: Journal,
        disk: Disk,
        journal_thread: Disk,
        report: Report,
        durability: Durability = Durability.BATCH,
        when_failed: Callable[[Failed], None] = lambda _: None,
        in_flight: Callable[[], int] = lambda: 0,
    ) -> None:
        self.ended = 0
        self._group = group
        self._destination = destination
        self._journal = journal
        self._disk = disk
        self._journal_thread = journal_thread
        self._report = report
        self._in_flight = in_flight
        self._waits = durability is not Durability.FILE
        self._when_failed = when_failed
        self.full: asyncio.Future[DestinationError] = asyncio.get_running_loop().create_future()
        self._pending: list[Ending] = []
        self._pending_bytes = 0
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._has_foreign = False

    async def put(self, ending: Ending) -> None:
        """Hand over an object that reached its end. Waits while the disk is far behind."""
        if isinstance(ending.outcome, Failed):
            self._when_failed(ending.outcome)
        while len(self._pending) >= BACKLOG_OBJECTS and not self._closing:
            self._room.clear()
            await self._room.wait()
        self._pending.append(ending)
        self._pending_bytes += ending.staged.size if ending.staged else 0
        self._some.set()
        if len(self._pending) >= BATCH_OBJECTS or self._pending_bytes >= BATCH_BYTES:
            self._enough.set()

    def close(self) -> None:
        """Ask `run` to put the rest in place and end."""
        self._closing = True
        self._some.set()
        self._enough.set()
        self._room.set()

    async def run(self) -> None:
        """Commit batches until closed and empty.

        Raises:
            DestinationError: The file system failed.
        """
        while True:
            await self._some.wait()
            if self._waits:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BATCH_SECONDS):
                        await self._enough.wait()
            batch, self._pending, self._pending_bytes = self._pending, [], 0
            self._room.set()
            if not self._closing:
                self._some.clear()
                self._enough.clear()
            if batch:
                try:
                    await self._commit(batch)
                except FlushError as error:
                    await self._disk.run(self._destination.reserve.give_up)
                    with suppress(DestinationError):  # Of a disk that is broken nothing more can be expected.
                        await self._journal_thread.run(self._journal.note_failed_flush)
                    raise destination_error(error, self._destination.dest) from error
                except OSError as error:
                    raise destination_error(error, self._destination.dest) from error
            elif self._closing:
                return

    async def _commit(self, batch: Sequence[Ending]) -> None:
        placements = [
            Placement(path_of(ending.outcome.remote.key, self._group), ending.staged, ending.fetch.replaces)
            for ending in batch
            if ending.staged is not None and ending.fetch is not None
        ]
        adopted = [path_of(e.outcome.remote.key, self._group) for e in batch if isinstance(e.outcome, Adopted)]

        def put_in_place() -> list[ObjectError | None]:
            self._destination.flush_adopted(adopted)
            return self._destination.publish(placements)

        self._report(Committing(len(batch), self._in_flight()))
        refusals = iter(await self._disk.run(put_in_place))
        ended = [
            (_final(ending, refusal), ending.mtime_ns)
            for ending in batch
            # What finds no room is left over, as all else is that is still to come.
            if not isinstance(refusal := None if ending.staged is None else next(refusals), NoRoomError)
        ]
        outcomes = [outcome for outcome, _ in ended]
        for outcome in outcomes:
            if isinstance(outcome, Failed):  # Be it only now, as its name was taken.
                self._when_failed(outcome)
        placed = [(o.remote.key, _record(o, mtime_ns)) for o, mtime_ns in ended if not isinstance(o, Failed)]
        failed = [(o.remote.key, o.reason, o.message) for o in outcomes if isinstance(o, Failed)]
        await self._record(placed, failed)
        self._report(Committed(outcomes))
        if not self._has_foreign and any(ending.adoption and ending.adoption.as_it_is for ending in batch):
            self._has_foreign = True
            self._report(PlaceNoted(_FOREIGN))
        self.ended += len(outcomes)
        if self._destination.reserve.is_given_up and not self.full.done():
            error = self._destination.filled_up or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.full.set_result(await self._disk.run(lambda: destination_error(error, self._destination.dest)))

    async def _record(self, placed: Sequence[tuple[str, Record]], failed: Sequence[tuple[str, Reason, str]]) -> None:
        """Tell the journal; where there is no room for that, with the room that was kept back."""
        try:
            await self._journal_thread.run(lambda: self._journal.commit(placed, failed))
        except DestinationFullError:
            if not await self._disk.run(self._destination.reserve.give_up):
                raise
            await self._journal_thread.run(lambda: self._journal.commit(placed, failed))


def _final(ending: Ending, refusal: ObjectError | None) -> Outcome:
    return ending.outcome if refusal is None else Failed(ending.outcome.remote, refusal.reason, str(refusal))


def _record(outcome: Fetched | Adopted, mtime_ns: int | None) -> Record:
    remote = outcome.remote
    return Record(remote.size, remote.etag, remote.modified_ns, outcome.verified_by, mtime_ns=mtime_ns)
