"""A large object by several ranges at once: whole and right in whatever order they come, and no place is lost."""

import asyncio
import os
import random
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch import ranges
from nccid_fetch.digests import checksum_text, new_checksum
from nccid_fetch.disk import Disk
from nccid_fetch.errors import NccidFetchError, ObjectError, Reason, RefusedError, ShortBodyError, TransientError
from nccid_fetch.events import Event, Received
from nccid_fetch.model import ETag, RemoteObject, VerifiedBy
from nccid_fetch.settings import Transport, Verify
from nccid_fetch.slots import Slots
from nccid_fetch.staging import StagedFile, Staging
from nccid_fetch.store.protocol import Facts

from .catalogue import fault
from .conftest import run
from .oracle import check_tree, fetch, md5_hex, snapshot
from .servers.scripted import Action, Body, CorruptBody, Cut, Do, IgnoreRange, Redirect, ScriptedS3, Status
from .test_transfer import KEY, Bench

T = TypeVar("T")
KIB = 1 << 10
RANGE = 16 * KIB
DATA = random.Random(3).randbytes(10 * RANGE + 77)
FIRST, SECOND, THIRD = 0, RANGE, 2 * RANGE


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large object is one of 64 KiB here."""
    monkeypatch.setattr("nccid_fetch.transfer.RANGED_BYTES_MIN", 4 * RANGE)
    monkeypatch.setattr("nccid_fetch.ranges.RANGE_BYTES", RANGE)
    for module in ("transfer", "store.fast", "store.reference"):
        monkeypatch.setattr(f"nccid_fetch.{module}.WHOLE_BYTES_MAX", 4 * KIB)
    for module in ("store.fast", "store.reference"):
        monkeypatch.setattr(f"nccid_fetch.{module}.CHUNK_BYTES", 2 * KIB)


# --- With a reader in the test's hand -------------------------------------------------------------


@dataclass
class Lane:
    """A range that was asked for, and the body it gets; each chunk, and the end, wait until the test lets it go."""

    etag: ETag
    start: int
    length: int
    data: bytes
    piece: int
    facts: Facts | None = None
    turn: asyncio.Future[None] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), self.piece):
            await self._turn()
            yield self.data[at : at + self.piece]
        await self._turn()

    async def _turn(self) -> None:
        self.turn = asyncio.get_running_loop().create_future()
        await self.turn

    def go(self, error: Exception | None = None) -> None:
        """Let the next chunk, or the end, or an error come."""
        assert self.turn is not None
        turn, self.turn = self.turn, None
        turn.set_result(None) if error is None else turn.set_exception(error)


@dataclass
class Wire:
    """A reader whose ranges come when the test says so."""

    data: bytes
    piece: int = RANGE
    bend: Callable[[Lane], None] = lambda _: None
    honours_ranges = True
    lanes: dict[int, Lane] = field(default_factory=dict)
    in_flight: int = 0
    in_flight_max: int = 0

    def can_read(self, key: str) -> bool:
        return True

    @asynccontextmanager
    async def get(self, remote: RemoteObject, start: int = 0, stop: int | None = None) -> AsyncIterator[Lane]:
        body = self.data[start:stop]
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            lane = self.lanes[start] = Lane(remote.etag, start, len(body), body, self.piece)
            self.bend(lane)
            yield lane
        finally:
            self.in_flight -= 1

    @property
    def waiting(self) -> list[Lane]:
        return [lane for lane in self.lanes.values() if lane.turn is not None and not lane.turn.done()]


class NoThreads(Disk):
    """Does everything at once, so that only ranges come in this order or that."""

    async def run(self, function: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return function()


@dataclass
class Scene:
    """An object on its way in: the caller holds one place."""

    wire: Wire
    staged: StagedFile
    slots: Slots
    disk: Disk
    task: asyncio.Task[None]
    events: list[Event]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let everything go on until something holds."""
        while not holds():
            assert not self.task.done(), "it is over"
            await self.disk.run(int)  # A turn of the loop, and of a thread.

    async def whole(self, *starts: int) -> None:
        """Let whole ranges come, one after the other."""
        for start in starts:
            await self.until(lambda start=start: start in self.wire.lanes)  # type: ignore[misc]
            lane = self.wire.lanes[start]
            for _ in range(ceil(len(lane.data) / lane.piece) + 1):
                await self.until(lambda lane=lane: lane.turn is not None)  # type: ignore[misc]
                lane.go()

    async def counted(self, size: int) -> None:
        await self.until(lambda: self.staged.size == size)


def staging(
    wire: Wire,
    play: Callable[[Scene], Awaitable[T]],
    *,
    limit: int = 4,
    taken: int = 1,
    hashed: bool = True,
    disk: type[Disk] = Disk,
) -> T:
    """Play a scene; at its end every place but those taken before is free."""
    remote = RemoteObject(KEY, len(wire.data), ETag(md5_hex(wire.data)), 0)

    async def main(folder: str) -> T:
        folder_fd = os.open(folder, os.O_RDONLY)
        place = Staging(folder_fd, 0o600)
        slots = Slots(limit)
        slots.in_flight = taken
        events: list[Event] = []
        try:
            with disk(8) as opened:
                staged = place.new(hashed=hashed)
                task = asyncio.create_task(
                    ranges.receive_ranges(remote, staged, wire, slots=slots, disk=opened, report=events.append)
                )
                result = await play(Scene(wire, staged, slots, opened, task, events))
                assert task.done()
                assert (slots.in_flight, wire.in_flight) == (taken, 0)
                if staged.size:
                    content = b"".join(staged.chunks())
                    assert content == wire.data[: staged.size], "what is kept is what counts, and is right"
                    assert staged.md5 == (md5_hex(content) if hashed else None)
                return result
        finally:
            place.clear()
            os.close(folder_fd)

    with tempfile.TemporaryDirectory() as folder:
        return run(main(folder))


@given(
    size=st.integers(1, 12 * RANGE),
    piece=st.integers(RANGE // 5, 2 * RANGE),
    limit=st.integers(1, 12),
    chance=st.randoms(use_true_random=False),
    hashed=st.booleans(),
)
def test_ranges_that_come_in_any_order_are_the_object(
    size: int, piece: int, limit: int, chance: random.Random, *, hashed: bool
) -> None:
    wire = Wire(random.Random(size).randbytes(size), piece)

    async def play(scene: Scene) -> None:
        while not scene.task.done():
            await asyncio.sleep(0)
            if wire.waiting:
                chance.choice(wire.waiting).go()
        await scene.task
        assert scene.staged.size == size
        assert sum(event.size for event in scene.events if isinstance(event, Received)) == size
        assert wire.in_flight_max <= min(limit, ranges.RANGES_MAX)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nccid_fetch.ranges.RANGE_BYTES", RANGE)
        staging(wire, play, limit=limit, hashed=hashed, disk=NoThreads)


@pytest.mark.parametrize(
    ("limit", "taken", "at_once"),
    [(64, 1, 8), (4, 1, 4), (4, 3, 2), (1, 1, 1), (4, 4, 1), (64, 13, 4), (64, 16, 1), (64, 40, 1)],
)
def test_as_many_ranges_are_in_flight_as_there_are_places_and_as_are_worth_it(
    limit: int, taken: int, at_once: int
) -> None:
    """Eight of one object at most; sixteen objects in flight fill a network without any."""

    async def play(scene: Scene) -> None:
        while not scene.task.done():
            for _ in range(30):  # As many ranges as may be in flight are.
                await asyncio.sleep(0)
            if scene.wire.waiting:
                scene.wire.waiting[0].go()
        assert scene.wire.in_flight_max == at_once

    staging(Wire(DATA), play, limit=limit, taken=taken, disk=NoThreads)


def test_the_file_is_made_once_and_before_any_range_is_asked_for() -> None:
    """Two threads with the first two chunks would both make it, and the second would fail."""
    opened: list[bool] = []
    scenes: list[Scene] = []

    async def play(scene: Scene) -> None:
        scenes.append(scene)
        await scene.whole(*range(0, len(DATA), RANGE))
        await scene.task

    staging(Wire(DATA, bend=lambda _: opened.append(scenes[0].staged._fd >= 0)), play)
    assert all(opened)


def test_an_object_of_absurd_size_takes_no_memory_before_its_first_answer() -> None:
    """A listing or a plan may say anything."""

    class Refusal(Wire):
        @asynccontextmanager
        async def get(self, remote: RemoteObject, start: int = 0, stop: int | None = None) -> AsyncIterator[Lane]:
            raise ObjectError(Reason.CHANGED, "another version")
            yield

    async def receive(folder: str) -> int:
        folder_fd = os.open(folder, os.O_RDONLY)
        remote = RemoteObject(KEY, 100_000 * RANGE, ETag(md5_hex(b"")), 0)
        tracemalloc.start()
        try:
            with Disk(1) as disk:
                staged = Staging(folder_fd, 0o600).new(hashed=True)
                with pytest.raises(ObjectError, match="another version"):
                    await ranges.receive_ranges(
                        remote, staged, Refusal(b""), slots=Slots(4), disk=disk, report=lambda _: None
                    )
                await disk.run(staged.discard)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            os.close(folder_fd)

    with tempfile.TemporaryDirectory() as folder:
        assert run(receive(folder)) < 1 << 20


def another_version(lane: Lane) -> None:
    lane.etag = ETag("0" * 32)


def no_version(lane: Lane) -> None:
    lane.etag = ETag("")


def another_length(lane: Lane) -> None:
    lane.length -= 1


def too_short(lane: Lane) -> None:
    lane.data = lane.data[:-1]


def too_long(lane: Lane) -> None:
    lane.data += b"!"
    lane.piece = len(lane.data)


def refused(lane: Lane) -> None:
    raise RefusedError("no")


FAULTS: dict[str, tuple[Callable[[Lane], None], type[NccidFetchError]]] = {
    "another version": (another_version, ObjectError),
    "no version": (no_version, TransientError),
    "another length": (another_length, ShortBodyError),
    "too short": (too_short, ShortBodyError),
    "too long": (too_long, ShortBodyError),
    "refused": (refused, RefusedError),
}


@pytest.mark.parametrize(("fault", "error"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_one_range_is_an_error_and_no_byte_of_it_counts(
    fault: Callable[[Lane], None], error: type[NccidFetchError]
) -> None:
    async def play(scene: Scene) -> None:
        await scene.whole(FIRST, SECOND)
        while not scene.task.done():
            await scene.disk.run(int)
            if scene.wire.waiting:
                scene.wire.waiting[0].go()
        with pytest.raises(error):
            await scene.task
        assert scene.staged.size <= THIRD

    staging(Wire(DATA, bend=lambda lane: fault(lane) if lane.start == THIRD else None), play, limit=1)


def test_a_range_that_is_too_long_is_not_written_over_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, int]] = []
    write_at = StagedFile.write_at

    def noted(staged: StagedFile, offset: int, chunk: bytes) -> None:
        written.append((offset, offset + len(chunk)))
        write_at(staged, offset, chunk)

    monkeypatch.setattr(StagedFile, "write_at", noted)

    async def play(scene: Scene) -> None:
        await scene.whole(FIRST)
        await scene.until(lambda: SECOND in scene.wire.lanes and scene.wire.lanes[SECOND].turn is not None)
        scene.wire.lanes[SECOND].go()
        with pytest.raises(ShortBodyError, match="more than"):
            await asyncio.wait_for(scene.task, 60)  # It does not wait for more of what is too long already.

    staging(Wire(DATA, bend=lambda lane: too_long(lane) if lane.start == SECOND else None), play, limit=1)
    assert written == [(FIRST, SECOND)]


@fault(83)
def test_what_came_beyond_a_gap_is_cut_off() -> None:
    async def play(scene: Scene) -> None:
        await scene.whole(FIRST, THIRD)
        await scene.counted(RANGE)
        scene.wire.lanes[SECOND].go(TransientError("cut"))
        with pytest.raises(TransientError, match="cut"):
            await scene.task
        assert scene.staged.size == RANGE

    staging(Wire(DATA), play)


@pytest.mark.parametrize("hashed", [True, False])
def test_after_a_failure_the_rest_is_appended_to_what_counts(*, hashed: bool) -> None:
    async def play(scene: Scene) -> None:
        await scene.whole(FIRST, THIRD)
        await scene.counted(RANGE)
        scene.wire.lanes[SECOND].go(TransientError("cut"))
        with pytest.raises(TransientError, match="cut"):
            await scene.task
        await scene.disk.run(lambda: scene.staged.append(DATA[RANGE:]))
        assert scene.staged.size == len(DATA)

    staging(Wire(DATA), play, hashed=hashed)


def test_a_disk_that_fails_is_the_disks_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: StagedFile, offset: int, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StagedFile, "write_at", full)

    async def play(scene: Scene) -> None:
        await scene.until(lambda: FIRST in scene.wire.lanes and scene.wire.lanes[FIRST].turn is not None)
        scene.wire.lanes[FIRST].go()
        with pytest.raises(OSError, match="No space"):
            await scene.task

    staging(Wire(DATA), play)


class Gate:
    """A thread stands before it, in the middle of writing a chunk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.was_open: list[bool] = []
        write_at = StagedFile.write_at

        def held(staged: StagedFile, offset: int, chunk: bytes) -> None:
            self.reached.set()
            assert self.open.wait(60)
            self.was_open.append(staged._fd >= 0)
            write_at(staged, offset, chunk)

        monkeypatch.setattr(StagedFile, "write_at", held)

    async def begin(self, scene: Scene) -> None:
        """Let the first chunk of the first range come, as far as the gate."""
        await scene.until(lambda: len(scene.wire.waiting) == 4)
        scene.wire.lanes[FIRST].go()
        await scene.until(self.reached.is_set)

    async def end(self, scene: Scene) -> None:
        for _ in range(20):
            await scene.disk.run(int)
        assert not scene.task.done(), "nobody goes on while a thread writes"
        self.open.set()


def test_a_cancellation_waits_for_the_thread_that_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def play(scene: Scene) -> None:
        await gate.begin(scene)
        scene.task.cancel()
        await gate.end(scene)
        with pytest.raises(asyncio.CancelledError):
            await scene.task

    staging(Wire(DATA), play)
    assert gate.was_open == [True]


def test_a_failure_waits_for_the_thread_that_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def play(scene: Scene) -> None:
        await gate.begin(scene)
        scene.wire.lanes[SECOND].go(TransientError("cut"))
        await gate.end(scene)
        with pytest.raises(TransientError, match="cut"):
            await scene.task

    staging(Wire(DATA), play)
    assert gate.was_open == [True]


def test_a_cancellation_that_comes_while_a_failure_waits_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the worker would go on to another attempt, and the run would not end."""
    gate = Gate(monkeypatch)

    async def play(scene: Scene) -> None:
        await gate.begin(scene)
        scene.wire.lanes[SECOND].go(TransientError("cut"))
        for _ in range(20):
            await scene.disk.run(int)
        scene.task.cancel()
        await gate.end(scene)
        with pytest.raises(asyncio.CancelledError):
            await scene.task

    staging(Wire(DATA), play)


def test_a_place_is_given_back_by_a_range_that_is_cancelled_before_it_begins() -> None:
    """One range fails; in the same turn another ends, and opens a third for a place that has fallen free."""

    async def play(scene: Scene) -> None:
        await scene.until(lambda: len(scene.wire.waiting) == 2)
        first, second = scene.wire.lanes[FIRST], scene.wire.lanes[SECOND]
        second.go()
        await scene.until(lambda: second.turn is not None)
        scene.slots.limit = 8
        first.go(TransientError("cut"))
        second.go()
        with pytest.raises(TransientError, match="cut"):
            await scene.task
        assert len(scene.wire.lanes) == 2 + (THIRD in scene.wire.lanes)

    staging(Wire(DATA), play, limit=2)


# --- Over the wire --------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ScriptedS3(), tmp_path / "dest")


@pytest.fixture
def s3(bench: Bench) -> Iterator[ScriptedS3]:
    with bench.s3 as server:
        server.put(KEY, DATA)
        yield server


def spans(bench: Bench) -> list[tuple[int, int | None] | None]:
    """What each GET asked for: the first byte and that after the last, or all."""
    found: list[tuple[int, int | None] | None] = []
    for asked in bench.ranges:
        first, _, last = (asked or "").removeprefix("bytes=").partition("-")
        found.append((int(first), int(last) + 1 if last else None) if asked else None)
    return found


EVEN = [(start, min(start + RANGE, len(DATA))) for start in range(0, len(DATA), RANGE)]


@pytest.mark.parametrize("verify", Verify)
def test_a_large_object_comes_by_ranges_at_once_and_is_proved(bench: Bench, s3: ScriptedS3, verify: Verify) -> None:
    together = threading.Barrier(4)
    s3.script("get", Do(lambda: together.wait(60)), count=4)  # None of them is answered before all four are there.
    assert bench.fetch(transport=Transport.FAST, verify=verify) == DATA
    assert bench.verified_by is (VerifiedBy.MD5 if verify is Verify.MD5 else VerifiedBy.SIZE)
    assert sorted(spans(bench), key=lambda span: span or (0, 0)) == EVEN
    assert sum(event.size for event in bench.events if isinstance(event, Received)) == len(DATA)
    assert {seen.headers["if-match"] for seen in s3.requests} == {f'"{md5_hex(DATA)}"'}


@pytest.mark.parametrize("size", [4 * RANGE - 1, 4 * RANGE])
def test_a_smaller_object_comes_in_one_piece(bench: Bench, s3: ScriptedS3, size: int) -> None:
    s3.put(KEY, DATA[:size])
    assert bench.fetch(transport=Transport.FAST) == DATA[:size]
    assert (spans(bench) == [None]) is (size < 4 * RANGE)


def test_the_reference_reader_is_never_asked_for_several_ranges(bench: Bench, s3: ScriptedS3) -> None:
    assert bench.fetch(transport=Transport.AIOBOTO3) == DATA
    assert spans(bench) == [None]


@pytest.mark.parametrize("fault", [Cut(100), Cut(0, reset=True), Status(503, "SlowDown"), Status(403, "AccessDenied")])
def test_after_a_range_that_failed_the_rest_is_asked_for_from_where_the_bytes_reach(
    bench: Bench, s3: ScriptedS3, fault: Action
) -> None:
    s3.script("get", fault, after=6)
    assert bench.fetch(transport=Transport.FAST) == DATA
    assert bench.verified_by is VerifiedBy.MD5
    last = spans(bench)[-1]
    assert last is None or (last[1] is None and last[0] % RANGE == 0)


LIES: dict[str, Action] = {
    "another length": Body(DATA[:RANGE], status=206, content_length=len(DATA)),
    "a shorter range": Body(DATA[:100], status=206),
    "wrong bytes": CorruptBody(),
    "no version": Body(DATA[:RANGE], status=206, etag=None),
    "another range": Body(DATA[:RANGE], status=206, headers={"Content-Range": f"bytes 1-{RANGE}/{len(DATA)}"}),
    "the whole object": IgnoreRange(),
    "an error document": Body(b"<Error/>".ljust(RANGE), status=206),
}


@fault(1, 3, 4, 5, 6, 19)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("after", [0, 5])
def test_a_lie_about_one_range_is_never_a_byte_of_the_file(
    bench: Bench, s3: ScriptedS3, lie: Action, after: int
) -> None:
    s3.script("get", lie, after=after)
    assert bench.fetch(transport=Transport.FAST) == DATA
    assert bench.verified_by is VerifiedBy.MD5


@fault(135)
@pytest.mark.usefixtures("no_pauses")
def test_a_redirect_of_one_range_is_the_objects_failure_and_leads_nowhere(
    bench: Bench, s3: ScriptedS3, dest: Path
) -> None:
    with ScriptedS3() as other:
        s3.script("get", Redirect(other.endpoint_url), count=None, after=3)
        result = fetch(s3, dest)
        assert (result.exit_code, result.reasons) == (1, {KEY: "retries_exhausted"})
        assert other.requests == []
    assert check_tree(dest, snapshot(s3)) == set()


@fault(29)
def test_an_object_that_is_replaced_between_two_ranges_does_not_arrive(bench: Bench, s3: ScriptedS3) -> None:
    s3.script("get", Do(lambda: s3.put(KEY, DATA[::-1])), after=5)
    assert bench.refusal(transport=Transport.FAST) == "changed"


@fault(29)
def test_nor_does_it_where_the_server_ignores_if_match_and_nothing_is_hashed(bench: Bench, s3: ScriptedS3) -> None:
    s3.script("get", Body(DATA[:RANGE], status=206, etag="0" * 32), after=3, count=None)
    assert bench.refusal(transport=Transport.FAST, verify=Verify.SIZE) in {"changed", "retries_exhausted"}


@fault(19)
def test_a_server_that_ignores_ranges_is_asked_for_no_more_of_them(s3: ScriptedS3, dest: Path) -> None:
    for number in range(3):
        s3.put(f"training/ct/{number}.dcm", DATA + bytes(number))
    s3.delete(KEY)
    s3.script("get", IgnoreRange(), count=None)
    assert fetch(s3, dest, concurrency=1).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))
    assert sum("range" in seen.headers for seen in s3.requests) == 1


@fault(44)
def test_ranges_show_no_checksum_of_the_object_so_it_is_asked_for(bench: Bench, s3: ScriptedS3) -> None:
    digest = new_checksum("CRC32")
    assert digest is not None
    digest.update(DATA)
    checksum = {"x-amz-checksum-crc32": checksum_text(digest), "x-amz-checksum-type": "FULL_OBJECT"}
    s3.put(KEY, DATA, etag=f"{'0' * 32}-3", headers=checksum)
    assert bench.fetch(transport=Transport.FAST) == DATA
    assert bench.verified_by is VerifiedBy.CHECKSUM


@pytest.mark.parametrize("seed", range(4))
def test_a_run_of_large_objects_over_a_bad_line_comes_to_the_right_tree(
    s3: ScriptedS3, dest: Path, seed: int, no_pauses: None
) -> None:
    chance = random.Random(seed)
    for number in range(6):
        s3.put(f"training/ct/{number}.dcm", chance.randbytes(chance.randrange(1, 12 * RANGE)))
    for _ in range(12):
        fault = chance.choice([Cut(chance.randrange(RANGE)), *LIES.values(), Status(500, "InternalError")])
        s3.script("get", fault, after=chance.randrange(4))
    assert fetch(s3, dest, concurrency=6).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))
