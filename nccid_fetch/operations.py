"""What the commands and the Python functions do: open what is needed, in the right order, and run the flow.

Nothing is written before everything that can be wrong with options, destination, credentials and endpoint has
been looked at.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing, suppress
from itertools import groupby, islice

from . import warehouse
from .bandwidth import Bandwidth
from .clock import REAL, Clock
from .commit import Committer
from .destination import Destination, open_destination
from .diagnosis import check_dest, destination_error, space_of
from .disk import THREADS_MAX, Disk
from .durability import boot_id
from .errors import AccessError, DestinationFullError, UsageError
from .events import DestinationOpened, LastListed, PartsKnown, PlaceNoted, RemoteFound, Report, RoomFound
from .foresight import Foresight
from .governor import Governor
from .journal import Journal
from .listing import Listing, ShardedListing, Stream, survey
from .machine import check_open_files, limits_told
from .model import PartState
from .pipeline import Pages, foresee, run
from .planfile import PlanFile
from .planning import Planner
from .room import Room
from .settings import OPEN_FILES_BESIDE, RETRY_FOR_SECONDS, Settings, Source, Transport
from .shards import SHARDS_MAX
from .slots import Slots
from .stopping import Brake
from .store.pages import PAGE_KEYS, Lister
from .store.protocol import Reader
from .store.reference import ReferenceReader
from .store.session import Session, open_session
from .transfer import Tools
from .tree import open_tree

LISTING_CONNECTIONS = SHARDS_MAX
LISTING_ATTEMPTS = 8


async def fetch(
    source: Source,
    settings: Settings,
    report: Report,
    *,
    command: str = "get",
    plan_file: PlanFile | None = None,
    clock: Clock = REAL,
    bandwidth: Bandwidth | None = None,
) -> None:
    """Bring a destination in line with the bucket, or with a plan of it.

    Args:
        source: Where from.
        settings: Where to, and how.
        report: Who wants to know; the numbers are all in its events.
        command: What the run is noted as in the journal.
        plan_file: Carry this plan out instead of listing.
        clock: Time and chance.
        bandwidth: The limit, for a caller who wants to turn it off and on; None for one made from the settings.

    Raises:
        RunError: The run could not begin or go on. What was verified by then is in place.
    """
    room = Room(report)
    brake = Brake(settings, room, clock)
    if bandwidth is None and settings.bwlimit is not None:
        bandwidth = Bandwidth(settings.bwlimit, clock)
    if bandwidth is not None:
        bandwidth.report = room
    try:
        with limits_told():
            async with brake.watching_time():
                await _fetch(
                    source,
                    settings,
                    room,
                    brake,
                    command=command,
                    plan_file=plan_file,
                    clock=clock,
                    bandwidth=bandwidth,
                )
    except DestinationFullError as error:
        raise room.told(error) from error.__cause__


async def _fetch(
    source: Source,
    settings: Settings,
    report: Room,
    brake: Brake,
    *,
    command: str,
    plan_file: PlanFile | None,
    clock: Clock,
    bandwidth: Bandwidth | None,
) -> None:
    """Do what `fetch` does, but for the last word on a disk that is full."""
    check_open_files(settings.open_files, OPEN_FILES_BESIDE)
    reader_for = _reader_for(settings.transport)
    check_dest(settings.dest)
    asked = _asked(settings, plan_file)
    governor = Governor(clock, retry_for_seconds=settings.retry_for_seconds, report=report)
    async with AsyncExitStack() as stack:
        journal = Journal.open(settings.dest, bucket=source.bucket, group=source.group, boot=boot_id())
        if journal is not None:
            stack.enter_context(closing(journal))
        opening = open_session(
            source,
            connections=settings.concurrency_max + LISTING_CONNECTIONS,
            stall_seconds=settings.stall_seconds,
            governor=governor,
            bandwidth=bandwidth,
        )
        session = await brake.unless_stopped(stack.enter_async_context(opening))
        if session is None:
            return
        listing = Listing(Lister(session), LISTING_ATTEMPTS, report, clock)
        surveyed = _parts(listing, source, asked, report, planned=plan_file is not None)
        parts = await brake.unless_stopped(surveyed)
        if parts is None:
            return
        destination = stack.enter_context(open_destination(settings))
        if journal is None:
            journal = Journal.open(
                settings.dest, bucket=source.bucket, group=source.group, endpoint=session.endpoint, boot=boot_id()
            )
            assert journal is not None
            stack.enter_context(closing(journal))
        _make_ready(destination, journal, settings, report)
        stack.callback(_clear_quietly, destination)
        if plan_file is None and settings.wants_all:
            report(LastListed({part: listed for part, listed in journal.listed().items() if part in parts}))
        lists = plan_file is None
        prefixes = [warehouse.part_prefix(source.group, part) for part in parts if lists]
        stack.enter_context(journal.run(command, prefixes, settings.durability))
        disk = stack.enter_context(Disk(min(settings.concurrency_max + 2, THREADS_MAX)))
        journal_thread = stack.enter_context(Disk(1))
        planner = Planner(
            source.group,
            settings,
            destination,
            journal,
            disk,
            journal_thread,
            report,
            lists=lists,
            endpoint=session.endpoint,
        )
        reference = ReferenceReader(session)
        slots = Slots(settings.concurrency_max)
        tools = Tools(
            group=source.group,
            lister=listing.lister,
            reader=reader_for(session, settings, reference),
            reference=reference,
            destination=destination,
            disk=disk,
            settings=settings,
            slots=slots,
            report=report,
            clock=clock,
            governor=governor,
            bandwidth=bandwidth,
        )
        committer = Committer(
            group=source.group,
            destination=destination,
            journal=journal,
            disk=disk,
            journal_thread=journal_thread,
            report=report,
            durability=settings.durability,
            when_failed=brake.failed,
            in_flight=lambda: slots.in_flight,
        )
        await run(_pages(listing, source, settings, parts, plan_file), planner, tools, committer, brake)


async def plan(
    source: Source, settings: Settings, report: Report, *, plan_file: PlanFile | None = None, clock: Clock = REAL
) -> None:
    """List and decide, and write nothing: foresee what `fetch` with the same arguments does. The decisions are in the events.

    ======================================  =============================================================================
    Options                                 What is foreseen of them
    ======================================  =============================================================================
    parts, `--include`, `--exclude`,        the same decisions, by the same planner
    `--existing`, `--require-verified`,
    `--plan`
    `--max-patients`, `--max-bytes`         the same patients are begun; what the run leaves is told as not begun
    `--on-failure stop`                     the run ends with the first object that is refused; one that fails is not
                                            foreseen
    `--strict`, `--verify`                  the same exit code
    `--max-duration`, `--window`            nothing: how long a run takes is not known
    all others                              they change how objects come, and not which
    ======================================  =============================================================================

    What a server or a file turns out to be cannot be foreseen. An object that is to be checked is adopted where its file
    is equal, else fetched, or refused with `--existing keep`. One that is to be fetched or checked may fail, or may have no
    digest to be proved by. A disk may be full, or may not be written.

    Args:
        source: Where from.
        settings: Where to, and how.
        report: Who wants to know.
        plan_file: Foresee what carrying out this plan does.
        clock: Time and chance.

    Raises:
        RunError: As `fetch` does.
    """
    check_dest(settings.dest)
    asked = _asked(settings, plan_file)
    brake = Brake(settings, report, clock)
    foresight = Foresight(source.group, settings, report, brake)
    async with AsyncExitStack() as stack:
        stack.enter_context(limits_told())
        journal = Journal.open(settings.dest, bucket=source.bucket, group=source.group, boot=boot_id())
        if journal is not None:
            stack.enter_context(closing(journal))
        session = await stack.enter_async_context(
            open_session(
                source,
                connections=LISTING_CONNECTIONS,
                stall_seconds=settings.stall_seconds,
                governor=Governor(clock, retry_for_seconds=settings.retry_for_seconds, report=report),
            )
        )
        listing = Listing(Lister(session), LISTING_ATTEMPTS, report, clock)
        parts = await _parts(listing, source, asked, report, planned=plan_file is not None)
        with suppress(OSError):  # A plan needs no room, and says how much there is if it can.
            report(RoomFound(*space_of(settings.dest)))
        tree = stack.enter_context(open_tree(settings.dest))
        planner = Planner(
            source.group,
            settings,
            tree,
            journal,
            stack.enter_context(Disk(THREADS_MAX)),
            stack.enter_context(Disk(1)),
            foresight,
            lists=plan_file is None,
        )
        await foresee(_pages(listing, source, settings, parts, plan_file), planner, settings, brake, foresight)


def _asked(settings: Settings, plan_file: PlanFile | None) -> tuple[str, ...]:
    """Return which parts were asked for, by name or by a plan; none for all.

    Raises:
        UsageError: The plan has nothing in it.
    """
    if plan_file is None:
        return settings.parts
    if not plan_file.parts:
        raise UsageError(f"{plan_file.name} is a plan of nothing", hint="leave at least one object in it")
    return plan_file.parts


def _pages(
    listing: Listing, source: Source, settings: Settings, parts: tuple[str, ...], plan_file: PlanFile | None
) -> Pages:
    """Return the objects to decide about: those that a plan names, or all that these parts have."""
    if plan_file is not None:
        return {parts: _alone(_planned(plan_file, source, parts, sort=settings.takes_whole_patients))}
    if settings.takes_whole_patients:
        return _all_listed_in_order(listing, source, parts)
    return _all_listed(listing, source, parts)


def _make_ready(destination: Destination, journal: Journal, settings: Settings, report: Room) -> None:
    """Clear what an earlier run left behind, keep room back, and say what is known of the place.

    Raises:
        DestinationError: It cannot be worked in.
    """
    try:
        destination.staging.clear()
        report.free = space_of(settings.dest)
        notes = list(destination.notes())
    except OSError as error:
        raise destination_error(error, settings.dest) from error
    report(RoomFound(*report.free))
    destination.reserve.take()
    destination.distrusts_cache = journal.distrusts_cache
    report(DestinationOpened())
    if journal.remote is not None:
        report(RemoteFound(journal.remote))
    for message in notes:
        report(PlaceNoted(message))


def _clear_quietly(destination: Destination) -> None:
    """Clear staged files at the end of a run. What cannot be removed now, the next run removes."""
    with suppress(OSError):
        destination.staging.clear()


@asynccontextmanager
async def open_listing(
    source: Source,
    *,
    stall_seconds: float = 30.0,
    retry_for_seconds: float = RETRY_FOR_SECONDS,
    report: Report = lambda _: None,
) -> AsyncIterator[Listing]:
    """Open a session that only lists."""
    governor = Governor(retry_for_seconds=retry_for_seconds, report=report)
    opening = open_session(source, connections=LISTING_CONNECTIONS, stall_seconds=stall_seconds, governor=governor)
    with limits_told():
        async with opening as session:
            yield Listing(Lister(session), LISTING_ATTEMPTS, report)


async def _parts(
    listing: Listing, source: Source, asked: Sequence[str], report: Report, *, planned: bool = False
) -> tuple[str, ...]:
    """Find out which parts can be listed, and report the others; none is an error."""
    states = await survey(listing, source.group, asked)
    if planned:  # What a plan names and is there no more is gone, and said object by object.
        states = {part: None if state is PartState.ABSENT else state for part, state in states.items()}
    closed = {part: state for part, state in states.items() if state is not None}
    report(PartsKnown(tuple(states), closed, named=bool(asked)))
    if len(closed) == len(states):
        told = ", ".join(f"{part} is {state}" for part, state in closed.items())
        if PartState.DENIED in closed.values():
            raise AccessError(
                f"nothing of what was asked for may be listed: {told}",
                hint="check --profile; NCCID grants access part by part, and a bucket whose requester pays is not supported",
            )
        raise AccessError(
            f"nothing of what was asked for is in group {source.group} of {source.bucket}: {told}",
            hint="check --group and --bucket",
        )
    return tuple(part for part, state in states.items() if state is None)


def _reader_for(transport: Transport) -> Callable[[Session, Settings, ReferenceReader], Reader]:
    """Choose who makes first attempts.

    Raises:
        UsageError: libcurl is asked for, and is not there.
    """
    if transport is not Transport.AIOBOTO3:
        try:
            from .store.fast import FastReader  # noqa: PLC0415 - loads a library that the other transport does not need.
        except ImportError as error:
            if transport is Transport.FAST:
                raise UsageError(
                    f"--transport fast needs pycurl, which cannot be loaded: {error}",
                    hint="install pycurl, or leave it to --transport auto",
                ) from error
        else:
            return lambda session, settings, _: FastReader(
                session, connections=settings.concurrency_max, is_required=transport is Transport.FAST
            )
    return lambda _, __, reference: reference


def _all_listed(listing: Listing, source: Source, parts: Sequence[str]) -> Pages:
    sharded = ShardedListing(listing)
    return {(part,): sharded.streams(warehouse.part_prefix(source.group, part)) for part in parts}


def _all_listed_in_order(listing: Listing, source: Source, parts: Sequence[str]) -> Pages:
    return {(part,): _alone(_objects(listing, warehouse.part_prefix(source.group, part))) for part in parts}


async def _objects(listing: Listing, prefix: str) -> Stream:
    """Yield a part's objects, page after page: keys rise from its beginning to its end."""
    async with aclosing(listing.pages(prefix)) as pages:
        async for page in pages:
            if page.objects:
                yield page.objects


async def _alone(stream: Stream) -> AsyncGenerator[Stream, None]:
    yield stream


async def _planned(plan_file: PlanFile, source: Source, parts: Sequence[str], *, sort: bool) -> Stream:
    """Yield a plan's objects of these parts as pages, each of one part. It may be larger than memory.

    Args:
        plan_file: The plan.
        source: What it is to be of.
        parts: What is wanted of it.
        sort: Whether to put it in order, patient by patient, in place of the order that it has.
    """
    by_part = groupby(plan_file.remotes(sort=sort), lambda remote: warehouse.part_of(remote.key, source.group))
    for part, objects in by_part:
        while part in parts and (page := list(islice(objects, PAGE_KEYS))):
            yield page
