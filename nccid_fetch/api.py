"""nccid-fetch from Python: the command line's options as keyword arguments, typed values as results.

An option that is None is not given: its default holds.

Each function has an `_async` twin. The plain ones work in a notebook too, whose event loop is already running.
"""

import asyncio
import resource
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, get_type_hints

from . import operations
from .errors import RunError, UsageError
from .events import Event, PagePlanned, Report
from .machine import memory
from .model import Decision, RemoteObject
from .planfile import open_plan
from .settings import Concurrency, Durability, Existing, OnFailure, Settings, Source, Transport, Verify
from .summary import Summary, Tally
from .timetable import Timetable, Window
from .units import parse_size

T = TypeVar("T")


class SourceOptions(TypedDict, total=False):
    """Where from; see `Source`."""

    bucket: str | None
    group: str | None
    profile: str | None
    region: str | None
    endpoint_url: str | None
    no_sign_request: bool | None
    allow_http: bool | None


class PlanOptions(SourceOptions, total=False):
    """What a run would begin; see `Settings`. `retry_for` is in seconds, `max_bytes` may be a text like `500GB`."""

    include: str | Iterable[str] | None
    exclude: str | Iterable[str] | None
    existing: Existing | str | None
    strict: bool | None
    retry_for: float | None
    verify: Verify | str | None
    max_bytes: float | str | None
    max_patients: int | None
    on_failure: OnFailure | str | None
    require_verified: bool | None


class FetchOptions(PlanOptions, total=False):
    """How to fetch; see `Settings`.

    `stall` and `max_duration` are in seconds; `bwlimit` is a text, or bytes per second.
    """

    concurrency: Concurrency | None
    durability: Durability | str | None
    transport: Transport | str | None
    bwlimit: float | str | None
    window: str | None
    attempts: int | None
    stall: float | None
    max_duration: float | None
    group_readable: bool | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What `fetch` with the same arguments would do now.

    Attributes:
        decisions: One per object that it would begin or skip, in key order. They are all in memory: for a whole group of
            the warehouse rather have the command line write them to a file.
        summary: The numbers.
    """

    decisions: list[Decision]
    summary: Summary

    def __repr__(self) -> str:
        """Return what a notebook shows: the numbers, and no object."""
        return f"<Plan of {len(self.decisions):,} decisions: {self.summary!r}>"


async def fetch_async(
    *parts: str,
    dest: str | Path,
    plan: str | Path | None = None,
    report: Report | None = None,
    **options: Unpack[FetchOptions],
) -> Summary:
    """Bring a destination in line with the bucket; see `fetch`."""
    _known(options, FetchOptions)
    source, settings = _source(options), _settings(options, dest, parts)
    if parts and plan is not None:
        raise UsageError("parts and a plan do not go together", hint="the plan names its objects")
    command = "get" if parts or plan is not None else "all"
    tally = Tally()
    started = datetime.now(UTC)
    with ExitStack() as stack, _coded(tally, settings):
        opened = None if plan is None else open_plan(Path(plan), source)
        # In a thread: it may come through a pipe.
        plan_file = None if opened is None else await asyncio.to_thread(stack.enter_context, opened)
        await operations.fetch(source, settings, _both(tally, report), command=command, plan_file=plan_file)
    return _summary(command, source, settings, tally, started)


def fetch(
    *parts: str,
    dest: str | Path,
    plan: str | Path | None = None,
    report: Report | None = None,
    **options: Unpack[FetchOptions],
) -> Summary:
    """Bring a destination in line with the bucket.

    Args:
        *parts: The parts to fetch; none for all that the credentials allow.
        dest: The destination folder.
        plan: Carry out this plan, a file that `nccid-fetch plan --output` wrote, instead of listing.
        report: Called with every event, on the event loop; it must not block.
        **options: The command line's options, `-` written as `_`.

    Returns:
        The summary. Its `exit_code` is 0 if everything is in place; failed objects do not raise.

    Raises:
        RunError: The run could not begin or go on: UsageError, AccessError, EndpointError, DestinationError.
    """
    return _in_a_loop(fetch_async(*parts, dest=dest, plan=plan, report=report, **options))


async def plan_async(
    *parts: str, dest: str | Path, report: Report | None = None, **options: Unpack[PlanOptions]
) -> Plan:
    """List and decide, and write nothing; see `plan`."""
    _known(options, PlanOptions)
    source, settings = _source(options), _settings(options, dest, parts)
    tally = Tally()
    decisions: list[Decision] = []

    def collect(event: Event) -> None:
        if isinstance(event, PagePlanned) and event.begun:
            decisions.extend(event.decisions)
        _both(tally, report)(event)

    started = datetime.now(UTC)
    with _coded(tally, settings):
        await operations.plan(source, settings, collect)
    decisions.sort(key=lambda decision: decision.remote.key)  # Parts are listed side by side, and by the shard.
    return Plan(decisions, _summary("plan", source, settings, tally, started, planned=True))


def plan(*parts: str, dest: str | Path, report: Report | None = None, **options: Unpack[PlanOptions]) -> Plan:
    """List and decide, and write nothing. Arguments and errors are those of `fetch`."""
    return _in_a_loop(plan_async(*parts, dest=dest, report=report, **options))


class Warehouse:
    """The bucket, for looking at.

    As in::

        async for remote in Warehouse(profile="nccid").objects("data"):
            print(remote.key, remote.size)

    Args:
        **options: Where the warehouse is; see `Source`.
    """

    def __init__(self, **options: Unpack[SourceOptions]) -> None:
        _known(options, SourceOptions)
        self.source = _source(options)

    async def objects(self, prefix: str) -> AsyncGenerator[RemoteObject, None]:
        """Yield every object under a prefix of the group, in key order.

        Args:
            prefix: A part, or more: `data`, `ct/Covid0000`. It is taken to end in a slash. Empty for the whole
                group, which most credentials may list only part by part.

        Raises:
            ListingDeniedError: The credentials may not list it.
            RunError: The credentials or the endpoint are at fault.
        """
        below = prefix.strip("/")
        whole = f"{self.source.group}/{below}/" if below else f"{self.source.group}/"
        async with operations.open_listing(self.source) as listing:
            await listing.first(whole)  # Unlike `pages`, this does not wait for an endpoint that is not there.
            async for page in listing.pages(whole):
                for remote in page.objects:
                    yield remote


_SOURCE_FIELDS = {field.name for field in fields(Source)}


def _source(options: SourceOptions) -> Source:
    return Source(**{name: value for name, value in _given(options).items() if name in _SOURCE_FIELDS})


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _known(options: Mapping[str, object], kinds: type) -> None:
    """Refuse a misspelt option: left alone it would do nothing, and nobody would notice."""
    for name in options:
        if name not in get_type_hints(kinds):
            raise UsageError(f"there is no option {name!r}", hint=f"one of: {', '.join(sorted(get_type_hints(kinds)))}")


def _settings(options: PlanOptions | FetchOptions, dest: str | Path | None, parts: tuple[str, ...]) -> Settings:
    if dest is None or not str(dest):
        told = "dest is not given" if dest is None else "dest is empty"
        raise UsageError(told, hint="name a folder; the present one is '.'")
    chosen = {name: value for name, value in _given(options).items() if name not in _SOURCE_FIELDS}
    for name in {"stall", "retry_for", "max_duration"} & chosen.keys():
        chosen[f"{name}_seconds"] = chosen.pop(name)
    kinds = {
        "existing": Existing,
        "verify": Verify,
        "durability": Durability,
        "transport": Transport,
        "on_failure": OnFailure,
    }
    for name, kind in kinds.items():
        if name in chosen:
            try:
                chosen[name] = kind(chosen[name])
            except ValueError:
                raise UsageError(f"{name}={chosen[name]!r} is unknown", hint=f"one of: {', '.join(kind)}") from None
    for name, read in _TEXTS.items():
        if name in chosen:
            chosen[name] = read(chosen[name])
    for name in ("include", "exclude"):
        globs = chosen.get(name, ())
        chosen[name] = (globs,) if isinstance(globs, str) else tuple(globs)  # A text's letters are globs as well.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # Raising it is up to whoever owns the process.
    least = memory()
    return Settings(
        dest=Path(dest),
        parts=parts,
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        memory_bytes=None if least is None else least.left,
        **chosen,
    )


def _size(given: object) -> int:
    try:
        return parse_size(str(given))
    except ValueError as error:
        raise UsageError(f"max_bytes: {error}", hint="a number, or a text like '500GB'") from None


_TEXTS: dict[str, Callable[[Any], object]] = {
    "max_bytes": _size,
    "bwlimit": lambda given: Timetable(str(given)),
    "window": lambda given: Window(str(given)),
}
"""What is read from a text."""


def _summary(
    command: str, source: Source, settings: Settings, tally: Tally, started: datetime, *, planned: bool = False
) -> Summary:
    code = tally.exit_code(settings, planned=planned)
    return Summary(command, source, settings, tally, started, datetime.now(UTC), code, planned=planned)


@contextmanager
def _coded(tally: Tally, settings: Settings) -> Iterator[None]:
    """Let an error that ends a run have the exit code that the command line would end with."""
    try:
        yield
    except RunError as error:
        error.exit_code = tally.exit_code(settings, error)
        raise


def _both(tally: Tally, report: Report | None) -> Report:
    if report is None:
        return tally
    heard = report

    def listen(event: Event) -> None:
        tally(event)
        heard(event)

    return listen


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where a loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def cancellable() -> T:
        task = asyncio.ensure_future(work)
        running.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1, thread_name_prefix="nccid-fetch") as thread:
        outcome = thread.submit(asyncio.run, cancellable())
        try:
            return outcome.result()
        except KeyboardInterrupt:
            # A notebook's "stop" ends the run in order; left to itself the thread would go on to the end.
            loop, task = running.result()
            loop.call_soon_threadsafe(task.cancel)
            raise
