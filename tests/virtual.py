"""A run of the real thing in a world of its own: a bucket in memory, a clock that nobody waits for, one thread.

`nccid_fetch.operations.fetch` runs whole, with its listing, planning, workers, committer, journal and governor. What is
replaced is the network, by a bucket that answers at once or fails as its weather says; the threads of the disk, by doing
the work where it is asked for; and the loop's time, which jumps to whatever is due next. So a run takes milliseconds, and
the same seed gives the same run, call by call.
"""

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from nccid_fetch import clock, disk
from nccid_fetch.bandwidth import Bandwidth
from nccid_fetch.digests import multipart_etag
from nccid_fetch.errors import (
    NccidFetchError,
    ObjectError,
    Reason,
    RefusedError,
    ThrottledError,
)
from nccid_fetch.events import Report
from nccid_fetch.governor import Governor
from nccid_fetch.model import Chunk, ETag, RemoteObject
from nccid_fetch.store.pages import Page
from nccid_fetch.store.protocol import Facts

from . import oracle
from .faulty_disk import FaultyDisk
from .oracle import Run, Version, md5_hex
from .servers.scripted import MODIFIED

T = TypeVar("T")

WHOLE_BYTES_MAX = 4 << 10
CHUNK_BYTES = 3 << 10
RANGED_BYTES_MIN = 16 << 10
RANGE_BYTES = 5 << 10
BATCH_OBJECTS = 6
WAITING_OBJECTS = 16
RESERVE_BYTES = 4 << 10
"""The sizes of the real world, made small."""
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
"""When the world began: a Thursday, midnight in London."""
STEPS_MAX = 200_000
"""So many turns of the loop at one and the same moment are no work any more."""


class StuckError(AssertionError):
    """Everybody waits, and nothing is left that could happen; or somebody tries again for ever, without a pause."""


class _Skipping(selectors.DefaultSelector):
    """Waits for nothing: time jumps to what is due next."""

    now = 0.0
    steps = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise StuckError("the run waits for something that will not come")
        self.steps = 0 if timeout > 0 else self.steps + 1
        if self.steps > STEPS_MAX:
            self.steps = 0
            raise StuckError("the run goes round and round, and no time passes")
        self.now += max(timeout, 0.0)
        return []


class _NumberedTask(asyncio.Task[Any]):
    """A task that sets keep in the order in which tasks were made, so that groups cancel theirs in the same order."""

    _numbers = count()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*arguments, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a pause costs nothing.

    Args:
        began: What its time begins with, seconds.
    """

    def __init__(self, began: float = 0.0) -> None:
        self._skipping = _Skipping()
        self._skipping.now = began
        super().__init__(self._skipping)
        self.set_task_factory(lambda loop, coroutine, **options: _NumberedTask(coroutine, loop=loop, **options))

    def time(self) -> float:
        return self._skipping.now


class InlineDisk(disk.Disk):
    """Does blocking work at once, in the one thread there is; others get their turn before it and after it."""

    async def run(self, function: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        result = function()
        await asyncio.sleep(0)
        return result

    async def run_short(self, function: Callable[[], T], size: int) -> T:
        return await self.run(function)


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an object.

    Attributes:
        body: Its bytes.
        modified: When it was put.
        etag: Its ETag, in the look of its kind.
        part_sizes: How it was uploaded, if in parts.
        opaque: Whether its ETag is no digest, as under SSE-KMS.
    """

    body: bytes
    modified: datetime
    etag: ETag
    part_sizes: tuple[int, ...] = ()
    opaque: bool = False

    @property
    def version(self) -> Version:
        return Version(self.body, self.modified, self.etag)


class Weather:
    """What the network does. This one is fair: everything comes, at once."""

    async def listing(self, prefix: str) -> None:
        """Let a listing be asked for.

        Raises:
            NccidFetchError: It does not come.
        """

    async def get(self, key: str) -> None:
        """Let an object be asked for.

        Raises:
            NccidFetchError: It does not come.
        """

    async def head(self, key: str) -> None:
        """Let an object's headers be asked for.

        Raises:
            NccidFetchError: They do not come.
        """
        await self.get(key)

    def renew(self) -> bool:
        """Read the credentials anew, and say whether they are others.

        Raises:
            CredentialsError: There are none.
        """
        return False

    def body(self, key: str, chunks: list[bytes]) -> Iterator[Chunk | NccidFetchError]:
        """Return a body's chunks as they come, and the error that ends them, if one does."""
        yield from chunks


@dataclass
class VirtualBucket:
    """A bucket in memory.

    Attributes:
        now: What it has.
        ever: Every version of every object there ever was.
        gets: The key of each GET that was answered with a body.
        weather: What the network does.
        page_keys: Keys on a page of a listing.
    """

    now: dict[str, Stored] = field(default_factory=dict)
    ever: dict[str, list[Version]] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    weather: Weather = field(default_factory=Weather)
    page_keys: int = 1000
    endpoint_url: str = "http://localhost:9"
    _puts: int = 0

    def put(self, key: str, body: bytes, *, part_sizes: tuple[int, ...] = (), opaque: bool = False) -> None:
        """Store an object, or a new version of it; each is a second younger than the one before."""
        self._puts += 1
        etag = multipart_etag([body], part_sizes) if part_sizes else md5_hex(body)
        if opaque:
            etag = md5_hex(b"not the content: " + body)
        modified = MODIFIED + timedelta(seconds=self._puts)
        self.now[key] = Stored(body, modified, ETag(etag), part_sizes, opaque)
        self.ever.setdefault(key, []).append(self.now[key].version)

    def delete(self, key: str) -> None:
        """Delete an object."""
        del self.now[key]

    def stored(self, remote: RemoteObject) -> Stored:
        """Return the version that was asked for.

        Raises:
            ObjectError: It is not what the bucket has.
        """
        stored = self.now.get(remote.key)
        if stored is None:
            raise ObjectError(Reason.GONE, "404")
        if stored.etag != remote.etag:
            raise ObjectError(Reason.CHANGED, "412")
        return stored


class VirtualSession:
    """Stands in for `store.session.Session`."""

    def __init__(self, bucket: VirtualBucket, governor: Governor, bandwidth: Bandwidth | None) -> None:
        self.bucket = bucket
        self.governor = governor
        self.bandwidth = bandwidth
        self.endpoint = bucket.endpoint_url

    def request(self, size: int = 0) -> AbstractAsyncContextManager[None]:
        bandwidth = self.bandwidth
        return self.governor.request(self._renew, None if bandwidth is None else lambda: bandwidth.take(size))

    async def _renew(self) -> bool:
        await asyncio.sleep(0)
        return self.bucket.weather.renew()


class VirtualLister:
    """Stands in for `store.pages.Lister`."""

    def __init__(self, session: VirtualSession) -> None:
        self._session = session
        self._bucket = session.bucket

    async def page(
        self,
        prefix: str,
        *,
        token: str | None = None,
        start_after: str | None = None,
        delimiter: str | None = None,
        max_keys: int = 1000,
    ) -> Page:
        bucket = self._bucket
        async with self._session.request():
            await asyncio.sleep(0)
            await bucket.weather.listing(prefix)
        after, limit = token or start_after or "", min(max_keys, bucket.page_keys)
        objects: list[RemoteObject] = []
        prefixes: list[str] = []
        for key in sorted(bucket.now):
            folder, slash, _ = key[len(prefix) :].partition("/")
            common = f"{prefix}{folder}/" if delimiter and slash else None
            if not key.startswith(prefix) or key <= after or (common and (common in prefixes or after == common)):
                continue
            if common and after.startswith(common):
                continue
            if len(objects) + len(prefixes) == limit:
                return Page(objects, prefixes, max([entry.key for entry in objects[-1:]] + prefixes[-1:]))
            if common:
                prefixes.append(common)
            else:
                stored = bucket.now[key]
                objects.append(RemoteObject(key, len(stored.body), stored.etag, stored.version.modified_ns))
        return Page(objects, prefixes, None)


class VirtualReader:
    """Stands in for a reader: the reference reader, or the fast one, which has no words for a refusal."""

    def __init__(self, session: VirtualSession, *, fast: bool) -> None:
        self._session = session
        self._bucket = session.bucket
        self._fast = fast
        self.honours_ranges = fast

    def can_read(self, key: str) -> bool:
        return True

    @asynccontextmanager
    async def get(self, remote: RemoteObject, start: int = 0, stop: int | None = None) -> AsyncIterator[Any]:
        bucket = self._bucket
        size = (remote.size if stop is None else stop) - start
        stored = await (self._ask_fast(remote, size) if self._fast else self._ask(remote, bucket.weather.get, size))
        bucket.gets.append(remote.key)
        wanted = stored.body[start : len(stored.body) if stop is None else stop]
        step = CHUNK_BYTES if len(wanted) > WHOLE_BYTES_MAX else WHOLE_BYTES_MAX
        chunks = [wanted[offset : offset + step] for offset in range(0, len(wanted), step)]

        async def come() -> AsyncIterator[Chunk]:
            for chunk in bucket.weather.body(remote.key, chunks):
                await asyncio.sleep(0)
                if isinstance(chunk, NccidFetchError):
                    raise chunk
                yield chunk

        yield SimpleNamespace(
            etag=stored.etag, length=len(wanted), facts=_facts(stored), is_there=len(chunks) == 1, chunks=come
        )

    async def facts(self, remote: RemoteObject) -> Facts:
        return _facts(await self._ask(remote, self._bucket.weather.head))

    async def part_sizes(self, remote: RemoteObject, *, each: bool = False) -> list[int] | None:
        return list((await self._ask(remote, self._bucket.weather.head)).part_sizes) or None

    async def _ask(self, remote: RemoteObject, weather: Callable[[str], Awaitable[None]], size: int = 0) -> Stored:
        """Ask as the reference reader does."""
        async with self._session.request(size):
            await asyncio.sleep(0)
            await weather(remote.key)
            return self._bucket.stored(remote)

    async def _ask_fast(self, remote: RemoteObject, size: int) -> Stored:
        """Ask as the fast reader does: not while the run is held, and what it takes for itself is told to the governor."""
        governor = self._session.governor
        if self._session.bandwidth is not None:
            await self._session.bandwidth.take(size)
        if governor.is_held:
            raise RefusedError("the run is held")
        await asyncio.sleep(0)
        try:
            await self._bucket.weather.get(remote.key)
            stored = self._bucket.stored(remote)
        except ThrottledError as error:
            governor.slowed(error)
            raise
        except NccidFetchError as error:
            if isinstance(error, ObjectError) and error.reason is Reason.CHANGED:
                raise
            raise RefusedError("no") from error
        governor.answers += 1
        return stored


def _facts(stored: Stored) -> Facts:
    return Facts(encryption="aws:kms" if stored.opaque else "AES256")


class World:
    """A destination, a bucket and a clock that outlives runs.

    Attributes:
        dest: The destination.
        bucket: The bucket.
        seconds: The time, from the beginning of the world.
        boots: How often the machine was started.
        zone: Where the clock on the wall hangs.

    Args:
        seed: Of the world's chance.
    """

    def __init__(self, dest: Path, bucket: VirtualBucket, seed: int = 0) -> None:
        self.dest = dest
        self.bucket = bucket
        self.seconds = 0.0
        self.boots = 1
        self.zone: tzinfo = UTC
        self._chance = random.Random(seed)
        self._task: asyncio.Task[Run] | None = None

    def run(
        self,
        disk: FaultyDisk | None = None,
        report: Report | None = None,
        parts: Sequence[str] = (),
        *,
        dry: bool = False,
        **options: Any,
    ) -> Run:
        """Make one run to its end, or foresee it; what is no RunError is raised."""

        async def main() -> Run:
            loop = asyncio.get_running_loop()
            time = clock.Clock(now=loop.time, chance=self._chance.random, local=lambda: self.local(loop.time()))
            self._task = asyncio.create_task(
                oracle.fetching(
                    self.bucket, self.dest, *parts, clock=time, report=report, dry=dry, **({"concurrency": 3} | options)
                )
            )
            try:
                return await self._task
            finally:
                self.seconds = loop.time()

        disk = disk or FaultyDisk(self.dest)
        disk.chance = random.Random(self._chance.random())
        with disk.mounted(), self._replaced():
            return _run(main(), self.seconds)

    def local(self, seconds: float) -> datetime:
        """Return what the clock on the wall shows, seconds after the beginning of the world."""
        return (BEGAN + timedelta(seconds=seconds)).astimezone(self.zone)

    def cancel(self) -> None:
        """Ask the run to end, as a signal does."""
        assert self._task is not None
        self._task.cancel()

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        bucket = self.bucket

        @asynccontextmanager
        async def open_session(
            *_: Any, governor: Governor, bandwidth: Bandwidth | None = None, **__: Any
        ) -> AsyncIterator[VirtualSession]:
            yield VirtualSession(bucket, governor, bandwidth)

        world = self

        class Calendar(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return BEGAN + timedelta(seconds=world.seconds)

        with pytest.MonkeyPatch.context() as patch:
            for name, stand_in in {
                "operations.open_session": open_session,
                "operations.Lister": VirtualLister,
                "operations.ReferenceReader": lambda session: VirtualReader(session, fast=False),
                "operations._reader_for": lambda _: lambda session, *_: VirtualReader(session, fast=True),
                "operations.Disk": InlineDisk,
                "operations.boot_id": lambda: f"boot {world.boots}",
                "reserve.RESERVE_BYTES": RESERVE_BYTES,
                "destination.datetime": Calendar,
                "transfer.WHOLE_BYTES_MAX": WHOLE_BYTES_MAX,
                "transfer.RANGED_BYTES_MIN": RANGED_BYTES_MIN,
                "ranges.RANGE_BYTES": RANGE_BYTES,
                "commit.BATCH_OBJECTS": BATCH_OBJECTS,
                "commit.BACKLOG_OBJECTS": 2 * BATCH_OBJECTS,
                "admission.WAITING_OBJECTS": WAITING_OBJECTS,
            }.items():
                patch.setattr(f"nccid_fetch.{name}", stand_in)
            yield


def _run(coroutine: Coroutine[Any, Any, T], began: float) -> T:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(began)) as runner:
        return runner.run(coroutine)
