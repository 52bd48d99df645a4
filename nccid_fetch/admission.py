"""Admission: what is begun next, of all that has been planned and waits.

::

    one stream of a listing ──► its lane ──┐
    one stream of a listing ──► its lane ──┼──► the lane whose first object comes first ──► workers
    one stream of a listing ──► its lane ──┘

Each stream has a lane, in which what it planned waits by the page. A worker takes what comes first of what waits in any
of them: by the phase of its part, and within a phase by patient. It never waits while anything does, so order is had where it costs
nothing: a lane that has run empty for a moment holds up nobody. A lane that is full holds back its own stream alone; all of them
together hold about as much as is asked for here, and a page each.

Where the run may end at a patient's edge (`--max-patients`, `--max-bytes`), the streams do not go straight to lanes. Each
part is one stream then, and `Patients` merges them: what a patient has in all parts is gathered, then begun as a whole or
not at all.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import groupby
from typing import Protocol

from .events import Stopped, StoppedBy
from .model import Check, Fetch, Refuse
from .stopping import Brake
from .warehouse import below_part, part_of, patient_of, phase_of

WAITING_OBJECTS = 2000
"""So many objects may wait in all lanes together, besides a page each."""
GATHERED_OBJECTS_MAX = 50_000
"""Of a patient with more of them the rest is not gathered: it is begun, and the rest comes as it comes."""

Due = Fetch | Check | Refuse
"""What a worker has to do something about."""
Parts = tuple[str, ...]


class Intake(Protocol):
    """The way of one stream of pages to the workers, for what was planned of it."""

    async def admit(self, last_key: str, due: Sequence[Due]) -> None:
        """Hand over what is due of a page. Waits while enough is waiting already: this is the back-pressure.

        Args:
            last_key: The page's last key.
            due: What is to be done about its objects; not in any case all in key order.
        """

    async def end(self) -> None:
        """Say that no more will come."""


class Admission(Protocol):
    """Where streams go."""

    def open(self, parts: Parts) -> Intake:
        """Open the way for a stream of these parts."""


class Nowhere:
    """Where streams go that are planned, and left at that."""

    def open(self, parts: Parts) -> Intake:  # noqa: ARG002
        """Return this, which takes everything."""
        return self

    async def admit(self, last_key: str, due: Sequence[Due]) -> None:
        """Leave it at that."""

    async def end(self) -> None:
        """Leave it at that."""


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits of one stream; see `Intake`.

    Attributes:
        number: Tells it from others whose first objects are the same.
        due: What waits, in its order.
        phase: The phase of all of it.
    """

    lanes: "Lanes"
    number: int
    due: deque[Due]
    has_room: asyncio.Event
    phase: int = 0

    @property
    def head(self) -> "tuple[int, str, int, _Lane]":
        """Where its first object stands among those of others."""
        return self.phase, below_part(self.due[0].remote.key), self.number, self

    async def admit(self, last_key: str, due: Sequence[Due]) -> None:  # noqa: ARG002 - for those who merge.
        lanes = self.lanes
        if due:
            lanes.add(self, due)
        while len(self.due) > lanes.share:
            self.has_room.clear()
            await self.has_room.wait()

    async def end(self) -> None:
        self.lanes.open_lanes -= 1


class Lanes:
    """All lanes, and who waits for what comes into them.

    Attributes:
        admitted: How many objects ever came into a lane.
        open_lanes: How many lanes something may still come into.
        group: The group that keys begin with.

    Args:
        group: The group.
        brake: When it halts the run, nothing is taken any more.
    """

    def __init__(self, group: str, brake: Brake) -> None:
        self.admitted = 0
        self.open_lanes = 0
        self.group = group
        self._brake = brake
        self._lanes_made = 0
        self._heads: list[tuple[int, str, int, _Lane]] = []
        self._idle: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    def open(self, parts: Parts = ()) -> _Lane:  # noqa: ARG002 - for those who merge.
        """Open a lane for a stream."""
        self.open_lanes += 1
        self._lanes_made += 1
        return _Lane(self, self._lanes_made, deque(), asyncio.Event())

    @property
    def share(self) -> int:
        """How many objects may wait in each lane before its next page is asked for."""
        return WAITING_OBJECTS // max(self.open_lanes, 1)

    @property
    def waiting(self) -> int:
        """How many objects wait now."""
        return sum(len(lane.due) for *_, lane in self._heads)

    def add(self, lane: _Lane, due: Sequence[Due]) -> None:
        """Put more at a lane's end."""
        was_empty = not lane.due
        lane.due.extend(due)
        self.admitted += len(due)
        if was_empty:
            lane.phase = phase_of(part_of(due[0].remote.key, self.group))
            heappush(self._heads, lane.head)
        self._wake(len(due))

    async def take(self) -> Due | None:
        """Return what comes first, as soon as anything is there; None at the end, or when the run is stopped."""
        while not self._heads and not self._is_closed:
            turn = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            await turn
        if not self._heads or self._brake.is_halted:
            return None
        lane = self._heads[0][-1]
        due = lane.due.popleft()
        if lane.due:
            heapreplace(self._heads, lane.head)
        else:
            heappop(self._heads)
        if len(lane.due) <= self.share:
            lane.has_room.set()
        return due

    def close(self) -> None:
        """Let whoever takes come to the end, once nothing waits any more."""
        self._is_closed = True
        self._wake(len(self._idle))

    def _wake(self, workers: int) -> None:
        while workers and self._idle:
            turn = self._idle.popleft()
            if not turn.done():  # Else whoever waited has gone.
                turn.set_result(None)
                workers -= 1


@dataclass(slots=True)
class Budget:
    """How much may be begun.

    Attributes:
        patients: So many patients; None for any number.
        bytes: So many bytes; None for any number.
        begun_patients: How many were begun.
        begun_bytes: How many bytes all that was begun brings.
    """

    patients: int | None
    bytes: int | None
    begun_patients: int = 0
    begun_bytes: int = 0

    def stops(self, *, is_patient: bool, size: int) -> Stopped | None:
        """Say whether, and why, the run ends before this is begun. Nobody asks where nothing is to be fetched.

        ============================  ========================  ========================
        What is next                  `--max-patients` ends it  `--max-bytes` ends it
        ============================  ========================  ========================
        a patient                     if so many were begun     if it would be too much
        an object of no patient       never                     if it would be too much
        ============================  ========================  ========================

        Args:
            is_patient: Whether it is a patient, and not an object at the top of a part.
            size: How many bytes are to be fetched of it.
        """
        if is_patient and self.patients is not None and self.begun_patients >= self.patients:
            number = f"{self.patients:,} patient{' was' if self.patients == 1 else 's were'} begun"
            return Stopped(StoppedBy.MAX_PATIENTS, f"{number}, and there are more")
        if self.bytes is None or self.begun_bytes + size <= self.bytes:
            return None
        what = "patient" if is_patient else "object"
        if self.begun_bytes:
            left = self.bytes - self.begun_bytes
            return Stopped(StoppedBy.MAX_BYTES, f"the next {what} needs {size:,} bytes, and {left:,} are left")
        return Stopped(
            StoppedBy.MAX_BYTES,
            f"not even the first {what} fits in: it needs {size:,} bytes, and {self.bytes:,} are allowed",
            hint=f"--max-bytes {size} lets it in",
        )

    def begin(self, *, is_patient: bool, size: int) -> None:
        """Count what is begun."""
        self.begun_patients += is_patient
        self.begun_bytes += size


class Patients:
    """Merges the streams of all parts by patient, and admits whole patients, in the order of their names, as long as they may be.

    A patient's turn is when every stream has listed past it, or has ended: also one that broke off, which its part is
    to be told as, and nothing else. To be merged, pages need to be in key order; one that is ahead of others waits for them,
    so that of all but one patient at a time no more than a page for each stream is held.

    A patient counts if anything of it is to be fetched: what is in place, or is only to be checked, is let
    through and counts nothing. So does what is at the top of a part and belongs to no patient, but for its bytes.

    Args:
        lanes: Where to.
        budget: How much.
        brake: Pulled when that is used up.
        streams: Whose streams are to be merged: each opens one.
    """

    def __init__(self, lanes: Lanes, budget: Budget, brake: Brake, streams: Collection[Parts]) -> None:
        self._lane = lanes.open()
        self._group = lanes.group
        self._budget = budget
        self._brake = brake
        self._positions = dict.fromkeys(streams, "")
        self._gathered: dict[str, list[Due]] = {}
        self._order: list[str] = []
        self._begun = ""
        self._moved = asyncio.Event()
        self._admitting = asyncio.Lock()

    def open(self, parts: Parts) -> "_Merged":
        """Open the one stream of these parts."""
        return _Merged(self, parts)

    async def add(self, parts: Parts, last_key: str, due: Sequence[Due]) -> None:
        """Gather what is due of a stream's next page, once the others have come as far as it has."""
        while self._positions[parts] > min(self._positions.values()):
            await self._moved.wait()
        for patient, of_patient in groupby(sorted(due, key=_below_part), key=_patient_of):
            if patient not in self._gathered:
                self._gathered[patient] = []
                heappush(self._order, patient)
            self._gathered[patient].extend(of_patient)
        self._positions[parts] = patient_of(last_key)
        await self._move()

    async def end(self, parts: Parts) -> None:
        """Wait for a stream no longer."""
        del self._positions[parts]
        await self._move()
        if not self._positions:
            await self._lane.end()

    async def _move(self) -> None:
        """Admit whoever's turn it is."""
        self._moved.set()
        self._moved = asyncio.Event()
        async with self._admitting:
            for patient in self._complete():
                await self._admit(patient)

    def _complete(self) -> Iterator[str]:
        while self._order and self._brake.stopped is None:
            patient = self._order[0]
            is_past = all(patient < position for position in self._positions.values())
            if not is_past and len(self._gathered[patient]) < GATHERED_OBJECTS_MAX:
                return
            yield heappop(self._order)

    async def _admit(self, patient: str) -> None:
        """Begin a patient, or stop the run before it."""
        due = sorted(self._gathered.pop(patient), key=self._turn)
        sizes = [one.remote.size for one in due if isinstance(one, Fetch)]
        if sizes:
            is_new = patient != self._begun
            is_patient, size = is_new and patient.endswith("/"), sum(sizes)
            if is_new and (stopped := self._budget.stops(is_patient=is_patient, size=size)) is not None:
                self._brake.stop(stopped, at_once=False)
                return
            self._budget.begin(is_patient=is_patient, size=size)
            self._begun = patient
        await self._lane.admit("", due)

    def _turn(self, due: Due) -> tuple[int, str]:
        return phase_of(part_of(due.remote.key, self._group)), due.remote.key


@dataclass(frozen=True, slots=True)
class _Merged:
    """One of the streams that are merged; see `Intake`."""

    patients: Patients
    parts: Parts

    async def admit(self, last_key: str, due: Sequence[Due]) -> None:
        await self.patients.add(self.parts, last_key, due)

    async def end(self) -> None:
        await self.patients.end(self.parts)


def _below_part(due: Due) -> str:
    return below_part(due.remote.key)


def _patient_of(due: Due) -> str:
    return patient_of(due.remote.key)
