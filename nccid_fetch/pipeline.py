"""The flow, from listing to journal, in one group of tasks.

::

    listing ── Page ──► plan ── Decision ──► queue ── Fetch, Check ──► workers ── Ending ──► committer
    one per shard       journal and disk,    bounded                   request, stage,       publish,
                        by the page                                    verify                record, by the batch

The queue is what holds the listing back while the workers are behind: memory is bounded by settings, whatever the
size of the bucket. A bad object becomes a `Failed` outcome, and the run goes on; anything else that is
raised ends all tasks. Whatever ends the run, what was verified by then is put in place and recorded.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .adaptive import AdaptiveLimit, GivenLimit
from .commit import Committer, Ending
from .decisions import Nesting, refute
from .diagnosis import destination_error
from .errors import DestinationFullError, EndpointError, ListingDeniedError, ObjectError, Reason, decisive
from .events import Adopted, Failed, Fetched, LimitSet, ListingEnded, Report
from .hours import keep_hours
from .keys import is_folder_marker
from .listing import Stream
from .model import Check, Decision, Fetch, PartState, Refuse, RemoteObject, Skip
from .planning import Planner
from .tasks import loud
from .transfer import Tools, check, fetch
from .warehouse import part_of

QUEUE_OBJECTS = 2000
DENIED_MAX = 32
"""A part of which so many objects are denied, and none came, is given up."""
EXHAUSTED_MAX = 16
"""When so many objects in a row used up their attempts, it is not the objects."""
MISMATCHED_MAX = 16
"""When so many objects are not what their ETags say, and none ever was, it is not the objects."""

Pages = Mapping[tuple[str, ...], AsyncGenerator[Stream, None]]
"""Streams of pages, as they come, and which parts they are of. A page has objects of one part only, in key order."""


@dataclass(slots=True)
class _Breaker:
    """What workers learn together: which parts are closed to them, and whether the endpoint is still there."""

    denied: dict[str, int] = field(default_factory=dict)
    came: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    exhausted_in_a_row: int = 0
    mismatched: int = 0
    has_proof: bool = False

    def succeeded(self, part: str) -> None:
        self.came.add(part)
        self.exhausted_in_a_row = 0
        self.has_proof = True

    def failed(self, part: str, error: ObjectError, report: Report) -> None:
        if error.reason is Reason.RETRIES_EXHAUSTED:
            self.exhausted_in_a_row += 1
            if self.exhausted_in_a_row >= EXHAUSTED_MAX:
                raise EndpointError(
                    f"{self.exhausted_in_a_row} objects in a row used up their attempts; the last: {error}",
                    hint="check the network, then run the same command again; what was verified stays",
                )
            return
        self.exhausted_in_a_row = 0
        if error.reason is Reason.DIGEST_MISMATCH:
            self.mismatched += 1
            if self.mismatched >= MISMATCHED_MAX and not self.has_proof:
                raise EndpointError(
                    f"of {self.mismatched} objects none is what its ETag says, and none ever was; the last: {error}",
                    hint="if this server's ETags are no MD5s, --verify size goes by the length alone; else something on "
                    "the way changes what it sends",
                )
        if error.reason is Reason.DENIED and part not in self.came:
            self.denied[part] = self.denied.get(part, 0) + 1
            if self.denied[part] >= DENIED_MAX and part not in self.given_up:
                self.given_up.add(part)
                report(
                    ListingEnded(
                        part,
                        PartState.DENIED,
                        f"it can be listed, but its objects may not be read; of the last, the server said: {error}",
                    )
                )


@dataclass(slots=True)
class _Account:
    """What was dealt out has to come to an end. A run that lost an object must not look like one that has them all."""

    dealt: int = 0
    passed_over: int = 0

    def settle(self, ended: int) -> None:
        """Compare with how many objects ended.

        Raises:
            RuntimeError: They are not as many: a defect of ours.
        """
        if ended + self.passed_over != self.dealt:
            raise RuntimeError(f"{self.dealt} objects were dealt out, and {ended + self.passed_over} came to an end")


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
        if isinstance(self._rule, AdaptiveLimit) and began <= tools.waited_at:
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


async def run(pages: Pages, planner: Planner, tools: Tools, committer: Committer) -> None:
    """Bring the destination in line with the pages, once.

    Args:
        pages: What is in the bucket, or is wanted of it.
        planner: Decides what each object needs.
        tools: What a transfer needs.
        committer: Puts in place and records what reached its end.

    Raises:
        RunError: The run cannot go on. A part whose listing breaks is reported as failed, and does not raise.
    """
    committing = asyncio.create_task(loud(committer.run), name="committer")
    causes: list[BaseException] = []
    account = _Account()
    try:
        await _flow(pages, planner, tools, committer, committing=committing, account=account)
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
    account.settle(committer.ended)


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
    *,
    committing: "asyncio.Task[None]",
    account: _Account,
) -> None:
    """Let listings, workers and committer work, until all is dealt with or one of them fails."""
    queue: asyncio.Queue[Decision | None] = asyncio.Queue(QUEUE_OBJECTS)
    breaker = _Breaker()
    limit = _Limit(tools)

    async def deal(decisions: Sequence[Decision]) -> bool:
        for decision in decisions:
            if isinstance(decision, Skip):
                breaker.has_proof = True  # An earlier run had it.
                continue
            account.dealt += 1
            match decision:
                case Fetch() | Check():
                    await queue.put(decision)  # Waits while the workers are behind: this is the back-pressure.
                case Refuse(remote, reason, message):
                    await committer.put(Ending(Failed(remote, reason, message)))
        return not decisions or part_of(decisions[0].remote.key, tools.group) not in breaker.given_up

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(committer, committing), name="watch")
        hours = group.create_task(keep_hours(tools.settings.window, tools.governor, tools.clock), name="hours")
        async with asyncio.TaskGroup() as workers:
            for number in range(tools.settings.concurrency_max):
                work = loud(_work, queue, breaker, tools, committer, account=account, limit=limit)
                workers.create_task(work, name=f"worker-{number}")
            async with asyncio.TaskGroup() as producers:
                for parts, streams in pages.items():
                    producers.create_task(loud(_produce, parts, streams, planner, deal), name=f"listing-{parts}")
            for _ in range(tools.settings.concurrency_max):
                await queue.put(None)
        watch.cancel()
        hours.cancel()


async def plan_all(pages: Pages, planner: Planner) -> None:
    """Plan all pages, and leave it at that. The decisions are in the planner's reports."""

    async def leave(decisions: Sequence[Decision]) -> bool:  # noqa: ARG001 - others deal with them.
        return True

    try:
        async with asyncio.TaskGroup() as producers:
            for parts, streams in pages.items():
                producers.create_task(loud(_produce, parts, streams, planner, leave), name=f"listing-{parts}")
    except BaseExceptionGroup as group:
        raise decisive(group) from group


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
    deal: Callable[[Sequence[Decision]], Awaitable[bool]],
) -> None:
    """Plan streams side by side, page by page, deal the decisions out, and say once how the listing of parts ended.

    When the decisions about a part are no more wanted, each of its streams ends with the page that it has got.
    """
    listed: Counter[str] = Counter()
    given_up = False
    breaks: list[ListingDeniedError | EndpointError] = []

    async def produce(stream: Stream) -> None:
        nonlocal given_up
        nesting = Nesting()
        try:
            async with aclosing(stream):
                async for page in stream:
                    listed.update(_counted(page, planner.group))
                    decisions = await planner.plan(page, nesting)
                    if not await deal(decisions) and len(parts) == 1:
                        given_up = True
                        return
        except (ListingDeniedError, EndpointError) as error:
            breaks.append(error)

    async with aclosing(streams), asyncio.TaskGroup() as group:
        async for stream in streams:
            group.create_task(loud(produce, stream), name=f"listing-{parts}")
    if given_up:
        return
    denied = any(isinstance(error, ListingDeniedError) for error in breaks)
    for part in parts:
        if denied:
            state = PartState.FAILED if listed else PartState.DENIED
            end = ListingEnded(part, state, "the credentials may not list it", denied=True)
        elif breaks:
            end = ListingEnded(part, PartState.FAILED, str(breaks[0]))
        else:
            state = PartState.COMPLETE if part in listed else PartState.EMPTY
            end = ListingEnded(part, state, await planner.missing(part, listed[part]))
        planner.report(end)


def _counted(page: Sequence[RemoteObject], group: str) -> dict[str, int]:
    """Return how many objects a page has, by their part, which is one. A marker of a folder is none."""
    count = len(page) - sum(is_folder_marker(remote.key, remote.size) for remote in page if not remote.size)
    return {part_of(page[0].key, group): count} if count else {}


async def _work(
    queue: "asyncio.Queue[Decision | None]",
    breaker: _Breaker,
    tools: Tools,
    committer: Committer,
    *,
    account: _Account,
    limit: _Limit,
) -> None:
    """Do what is queued, one object after another, until the end mark."""
    while (decision := await queue.get()) is not None:
        remote = decision.remote
        part = part_of(remote.key, tools.group)
        await tools.slots.acquire()
        began = tools.clock.now()
        try:
            if part in breaker.given_up:
                account.passed_over += 1
                continue
            ending = await _carry_out(decision, tools)
        except ObjectError as error:
            breaker.failed(part, error, tools.report)
            ending = Ending(Failed(remote, error.reason, str(error)))
        except OSError as error:
            raise destination_error(error, tools.destination.dest) from error
        else:
            breaker.succeeded(part)
            if not limit.is_at_rest and isinstance(decision, Fetch):
                limit.fetched(remote.size, began)
        finally:
            tools.slots.release()
        await committer.put(ending)


async def _carry_out(decision: Decision, tools: Tools) -> Ending:
    if isinstance(decision, Check):
        adopted_by = await check(decision, tools)
        if adopted_by is not None:
            return Ending(Adopted(decision.remote, adopted_by))
        decision = refute(decision, tools.settings.existing)
    if isinstance(decision, Refuse):
        return Ending(Failed(decision.remote, decision.reason, decision.message))
    assert isinstance(decision, Fetch)
    staged, verified_by = await fetch(decision.remote, tools)
    return Ending(Fetched(decision.remote, verified_by), decision, staged)
