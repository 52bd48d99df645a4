"""The flow, from listing to journal, in one group of tasks.

::

    listing ── Page ──► plan ── Decision ──► lanes ── what comes first ──► workers ── Ending ──► committer
    one per shard       journal and disk,    one per shard,                request, stage,       publish,
                        by the page          bounded                       verify                record, by the batch

The lanes are what puts objects in order (see `admission`), and what holds the listing back while the workers are behind: memory is
bounded by settings, whatever the size of the bucket. A run that is stopped (see `stopping`) ends as one that has come to its end:
nothing more is admitted, and what was is dealt with. A bad object becomes a `Failed` outcome, and the run goes on; anything else that is
raised ends all tasks. Whatever ends the run, what was verified by then is put in place and recorded.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from .adaptive import AdaptiveLimit, GivenLimit
from .admission import Admission, Budget, Due, Lanes, Nowhere, Patients
from .commit import Committer, Ending
from .decisions import Nesting, refute
from .diagnosis import destination_error
from .errors import (
    DestinationFullError,
    EndpointError,
    ListingDeniedError,
    ObjectError,
    decisive,
    message_of,
)
from .events import Adopted, Failed, Fetched, LimitSet, ListingEnded
from .failurelimits import FailureLimits
from .foresight import Foresight
from .hours import keep_hours
from .keys import is_folder_marker
from .listing import Stream
from .model import Check, Fetch, PartState, Refuse, RemoteObject, Skip
from .planning import Planner
from .settings import Settings
from .stopping import Brake
from .summary import Count
from .tasks import loud
from .transfer import Tools, check, fetch
from .warehouse import part_of

Pages = Mapping[tuple[str, ...], AsyncGenerator[Stream, None]]
"""Streams of pages, as they come, and which parts they are of. A page has objects of one part only, in key order."""


@dataclass(slots=True)
class _Account:
    """What was dealt out has to come to an end. A run that lost an object must not look like one that has them all."""

    passed_over: int = 0

    def settle(self, dealt: int, ended: int) -> None:
        """Compare how many objects were dealt out with how many ended, or were passed over.

        Raises:
            RuntimeError: They are not as many: a defect of ours.
        """
        if ended + self.passed_over != dealt:
            raise RuntimeError(f"{dealt} objects were dealt out, and {ended + self.passed_over} came to an end")


class _Limit:
    """Sets the limit of the slots by what workers see, and by what requests are told: `adaptive` says how."""

    def __init__(self, tools: Tools) -> None:
        asked = tools.settings.concurrency
        self._tools = tools
        self._of = None if asked == "auto" else asked
        self._rule = AdaptiveLimit() if asked == "auto" else GivenLimit(asked)
        self.is_at_rest = False
        self._apply()
        tools.governor.when_slowed = self._slowed

    def fetched(self, size: int, began: float) -> None:
        tools = self._tools
        if self._of is None and began <= tools.waited_at:
            self._rule.disturbed(tools.clock.now())
            return
        self._rule.finished(size, began, tools.clock.now(), tools.slots.in_flight)
        self._apply()

    def _slowed(self) -> None:
        self._rule.throttled(self._tools.clock.now())
        self._apply()

    def _apply(self) -> None:
        limit = min(self._rule.limit, self._tools.settings.concurrency_max)
        self.is_at_rest = self._rule.is_at_rest
        if limit != self._tools.slots.limit:
            self._tools.slots.limit = limit
            self._tools.report(LimitSet(limit, self._of))


async def run(pages: Pages, planner: Planner, tools: Tools, committer: Committer, brake: Brake) -> None:
    """Bring the destination in line with the pages, once, or until it is stopped.

    Args:
        pages: What is in the bucket, or is wanted of it.
        planner: Decides what each object needs.
        tools: What a transfer needs.
        committer: Puts in place and records what reached its end.
        brake: Stops it.

    Raises:
        RunError: The run cannot go on. A part whose listing breaks is reported as failed, and does not raise.
    """
    committing = asyncio.create_task(loud(committer.run), name="committer")
    causes: list[BaseException] = []
    account = _Account()
    lanes = Lanes(tools.group, brake)
    try:
        await _flow(pages, planner, tools, committer, brake, lanes=lanes, committing=committing, account=account)
    except BaseExceptionGroup as group:
        causes.append(group)
        if isinstance(decisive(group), DestinationFullError):
            await tools.disk.run(tools.destination.reserve.give_up)  # For the last batch, and for the journal.
    finally:
        committer.close()
        await _ended(committing)
        unplaced = committing.exception()
    if unplaced is not None:
        causes.append(unplaced)  # It counts also where something else had ended the run by then.
    elif tools.destination.has_run_out and not causes:
        causes.append(committer.full.result())
    if causes:
        whole = BaseExceptionGroup("the run ended", causes)
        raise decisive(whole) from whole
    if brake.is_halted:
        account.passed_over += lanes.waiting
    account.settle(lanes.admitted, committer.ended)


async def _ended(task: "asyncio.Task[None]") -> None:
    """Wait for a task to end, also through a cancellation, which then takes its effect."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # Seen; whoever cancelled comes first.
        raise cancelled


async def _flow(
    pages: Pages,
    planner: Planner,
    tools: Tools,
    committer: Committer,
    brake: Brake,
    *,
    lanes: Lanes,
    committing: "asyncio.Task[None]",
    account: _Account,
) -> None:
    """Let listings, workers and committer work, until all is dealt with, the run is stopped or one of them fails."""
    admission = _admission(lanes, tools.settings, brake, pages)
    limits = FailureLimits()
    limit = _Limit(tools)

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(committer, committing), name="watch")
        hours = group.create_task(keep_hours(tools.settings.window, tools.governor, tools.clock), name="hours")
        async with asyncio.TaskGroup() as workers:
            at_work = [
                workers.create_task(
                    loud(_work, lanes, limits, tools, committer, brake, account=account, limit=limit),
                    name=f"worker-{number}",
                )
                for number in range(tools.settings.concurrency_max)
            ]
            drop = group.create_task(_drop(at_work, brake), name="drop")
            await brake.unless_stopped(_list_all(pages, planner, admission, limits))
            lanes.close()
        drop.cancel()
        watch.cancel()
        hours.cancel()


def _admission(lanes: Lanes, settings: Settings, brake: Brake, pages: Pages) -> Admission:
    """Return what decides which objects come into the lanes."""
    if not settings.takes_whole_patients:
        return lanes
    return Patients(lanes, Budget(settings.max_patients, settings.max_bytes), brake, pages)


async def _drop(workers: Sequence["asyncio.Task[None]"], brake: Brake) -> None:
    """Let go what is still in flight when a run that was stopped has had its time to finish."""
    await brake.overdue.wait()
    for worker in workers:
        worker.cancel()


async def foresee(pages: Pages, planner: Planner, settings: Settings, brake: Brake, foresight: Foresight) -> None:
    """Plan all pages that a run would plan before it is stopped, and tell what it would begin.

    Args:
        pages: What is in the bucket, or is wanted of it.
        planner: Decides what each object needs, and reports to the foresight.
        settings: What may stop the run.
        brake: Stops it.
        foresight: Tells.

    Raises:
        RunError: The listing cannot go on.
    """
    lanes = Lanes(planner.group, brake)
    admission = _admission(lanes, settings, brake, pages) if foresight.may_stop else Nowhere()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(loud(_begin, lanes, foresight), name="foresight")
            await brake.unless_stopped(_list_all(pages, planner, admission, FailureLimits()))
            lanes.close()
    except BaseExceptionGroup as group:
        raise decisive(group) from group
    finally:
        foresight.end()


async def _begin(lanes: Lanes, foresight: Foresight) -> None:
    """Tell what comes to the workers of a run, in their order."""
    begun: list[Due] = []
    while (due := await lanes.take()) is not None:
        begun.append(due)
        if isinstance(due, Refuse) or not lanes.waiting:
            foresight.begin(begun)
            begun = []


async def _list_all(pages: Pages, planner: Planner, admission: Admission, limits: FailureLimits) -> None:
    """Plan all pages, each part's side by side with the others'."""
    async with asyncio.TaskGroup() as producers:
        for parts, streams in pages.items():
            work = loud(_produce, parts, streams, planner, admission, limits)
            producers.create_task(work, name=f"listing-{parts}")


async def _watch(committer: Committer, committing: "asyncio.Task[None]") -> None:
    """Let a committer that fails end the run, and one that has come to the end of the disk."""
    ends: list[asyncio.Future[Any]] = [committing, committer.full]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if committer.full.done():
        raise committer.full.result()
    committing.result()


async def _produce(
    parts: tuple[str, ...],
    streams: AsyncGenerator[Stream, None],
    planner: Planner,
    admission: Admission,
    limits: FailureLimits,
) -> None:
    """Plan streams side by side, page by page, have what is due admitted, and say once how the listing of parts ended.

    When a part was given up meanwhile, each of its streams ends with the page that it has got.
    """
    listed: dict[str, Count] = {}
    breaks: list[ListingDeniedError | EndpointError] = []

    def is_given_up() -> bool:
        return len(parts) == 1 and parts[0] in limits.given_up

    async def produce(stream: Stream) -> None:
        nesting = Nesting()
        admitting = admission.open(parts)
        try:
            async with aclosing(stream):
                async for page in stream:
                    _count(page, planner.group, listed)
                    decisions = await planner.plan(page, nesting)
                    due = [decision for decision in decisions if not isinstance(decision, Skip)]
                    limits.has_proof |= len(due) < len(decisions)  # An earlier run had it.
                    await admitting.admit(page[-1].key, due)
                    if is_given_up():
                        break
        except (ListingDeniedError, EndpointError) as error:
            breaks.append(error)
        await admitting.end()

    async with aclosing(streams), asyncio.TaskGroup() as group:
        async for stream in streams:
            group.create_task(loud(produce, stream), name=f"listing-{parts}")
    if is_given_up():
        return
    for part in parts:
        planner.report(await _end_of(part, listed, breaks, planner))


async def _end_of(
    part: str, listed: dict[str, Count], breaks: Sequence[ListingDeniedError | EndpointError], planner: Planner
) -> ListingEnded:
    """Say how a part's listing ended, given how many objects it had by part, and what broke it off."""
    if any(isinstance(error, ListingDeniedError) for error in breaks):
        state = PartState.FAILED if listed else PartState.DENIED
        return ListingEnded(part, state, "the credentials may not list it", denied=True)
    if breaks:
        return ListingEnded(part, PartState.FAILED, message_of(breaks[0]))
    count = listed.get(part, Count())
    doubt = await planner.missing(part, count.objects)
    await planner.note_listing(part, count, is_whole=doubt is None)
    return ListingEnded(part, PartState.COMPLETE if count.objects else PartState.EMPTY, doubt)


def _count(page: Sequence[RemoteObject], group: str, listed: dict[str, Count]) -> None:
    """Count the objects of a page, which are of one part. A marker of a folder is none."""
    objects = len(page) - sum(is_folder_marker(remote.key, remote.size) for remote in page if not remote.size)
    if objects:
        listed.setdefault(part_of(page[0].key, group), Count()).add(sum(remote.size for remote in page), objects)


async def _work(
    lanes: Lanes,
    limits: FailureLimits,
    tools: Tools,
    committer: Committer,
    brake: Brake,
    *,
    account: _Account,
    limit: _Limit,
) -> None:
    """Do what is due, one object after another, until there is no more."""
    while (decision := await lanes.take()) is not None:
        try:
            ending = await _deal_with(decision, limits, tools, brake, limit)
            if ending is not None:
                await committer.put(ending)
            else:
                account.passed_over += 1
        except asyncio.CancelledError:
            account.passed_over += 1  # Dropped, if it is not the run that is cancelled.
            raise


async def _deal_with(decision: Due, limits: FailureLimits, tools: Tools, brake: Brake, limit: _Limit) -> Ending | None:
    """Bring one object to its end; None if, when it had its place, its part was given up or the run was stopped."""
    remote = decision.remote
    part = part_of(remote.key, tools.group)
    await tools.slots.acquire()
    began = tools.clock.now()
    try:
        if part in limits.given_up or brake.is_halted:
            return None
        ending = await _carry_out(decision, tools)
    except ObjectError as error:
        limits.failed(part, error, tools.report)
        return Ending(Failed(remote, error.reason, str(error)))
    except OSError as error:
        raise destination_error(error, tools.destination.dest) from error
    finally:
        tools.slots.release()
    if not isinstance(ending.outcome, Failed):
        limits.succeeded(part)
        if not limit.is_at_rest and isinstance(decision, Fetch):
            limit.fetched(remote.size, began)
    return ending


async def _carry_out(decision: Due, tools: Tools) -> Ending:
    if isinstance(decision, Check):
        adopted = await check(decision, tools)
        if adopted is not None:
            return Ending(Adopted(decision.remote, adopted[0]), adoption=adopted[1])
        decision = refute(decision, tools.settings.existing)
    if isinstance(decision, Refuse):
        return Ending(Failed(decision.remote, decision.reason, decision.message))
    assert isinstance(decision, Fetch)
    staged, verified_by = await fetch(decision.remote, tools)
    return Ending(Fetched(decision.remote, verified_by), decision, staged)
