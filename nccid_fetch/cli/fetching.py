"""`all`, `get` and `plan`: run, listen, sum up."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from signal import SIGPIPE
from time import monotonic
from types import MappingProxyType
from typing import Any

import typer

from nccid_fetch import operations
from nccid_fetch.bandwidth import Bandwidth
from nccid_fetch.errors import DestinationError, RunError, UsageError
from nccid_fetch.events import Event, PagePlanned, Report
from nccid_fetch.machine import check, check_open_files, memory
from nccid_fetch.model import PartState
from nccid_fetch.planfile import PlanFile, open_plan, write_decision, write_header, write_incomplete
from nccid_fetch.progress import Meter
from nccid_fetch.settings import OPEN_FILES_BESIDE, Settings, Source
from nccid_fetch.streams import STDOUT, descriptor_of
from nccid_fetch.summary import Summary, Tally
from nccid_fetch.units import size_text

from . import options
from .audience import audience
from .closing import print_summary
from .display import line
from .flags import Format
from .output import note, note_outcome, print_json, rate_text
from .publishing import published
from .records.files import Output, output
from .records.keeping import Records
from .runner import raise_descriptor_limit, run
from .signals import STATE, TOGGLE

Work = Callable[[Report], Coroutine[Any, Any, None]]


def fetch(command: str, values: options.Values, records: Records) -> None:
    """Carry out `all` or `get`, or what they would do with `--dry-run`.

    Raises:
        typer.Exit: With the exit code, where no error is raised.
        RunError: The run could not begin or go on.
    """
    path = values.get("plan")
    source = options.source_of(values)
    # Read to its end before anything else is done: it may come through a pipe, and be no plan.
    with nullcontext() if path is None else open_plan(path, source) as plan_file:
        if not values["dry_run"]:
            _fetch(command, values, records, source, plan_file)
            return
        if values["max_duration"] is not None and not _is_quiet(values):
            note("note: --dry-run does not know how long a run takes: it shows what comes without --max-duration")
        plan(command, values, records, plan_file)


def _fetch(command: str, values: options.Values, records: Records, source: Source, plan_file: PlanFile | None) -> None:
    settings = options.settings_of(values, values.get("parts") or ())
    settings = _within_limits(settings, quiet=_is_quiet(values))
    bandwidth = None if settings.bwlimit is None else Bandwidth(settings.bwlimit)

    async def work(report: Report) -> None:
        await operations.fetch(source, settings, report, command=command, plan_file=plan_file, bandwidth=bandwidth)

    tally = Tally()
    toggle = {TOGGLE: lambda: _toggle(bandwidth)}
    with published(command, source, settings, tally) as publish:
        _run(
            command,
            values,
            records,
            source,
            settings,
            work=work,
            tally=tally,
            listeners=(publish,),
            answers=toggle,
            planned=False,
        )


def _toggle(bandwidth: Bandwidth | None) -> None:
    """Turn --bwlimit off, or on again, and say so."""
    if bandwidth is None:
        note("SIGUSR2: there is no --bwlimit to turn off")
        return
    bandwidth.toggle()
    told = "off until the next SIGUSR2" if bandwidth.is_off else f"on again; now it is {rate_text(bandwidth.rate)}"
    note(f"SIGUSR2: --bwlimit is {told}")


def _within_limits(settings: Settings, *, quiet: bool) -> Settings:
    """Let no more objects be in flight than open files and memory suffice for; say so if that is less than was asked for."""
    by_files = replace(settings, open_files=raise_descriptor_limit())
    check_open_files(by_files.open_files, OPEN_FILES_BESIDE)
    check(by_files.open_files)
    limited, least = by_files, memory()
    if least is not None:
        limited = replace(by_files, memory_bytes=least.left)
    if limited.concurrency_max < settings.concurrency_max and settings.concurrency != "auto" and not quiet:
        if least is not None and limited.concurrency_max < by_files.concurrency_max:
            note(
                f"note: --concurrency {settings.concurrency_max} needs more than the {size_text(max(least.left, 0))} of "
                f"{least.name} that are left here: {limited.concurrency_max} objects at a time"
            )
        else:
            note(
                f"note: --concurrency {settings.concurrency_max} needs more open files than the {by_files.open_files} that "
                f"are allowed here (ulimit -n): {limited.concurrency_max} objects at a time"
            )
    return limited


def plan(command: str, values: options.Values, records: Records, plan_file: PlanFile | None = None) -> None:
    """Carry out `plan`, or foresee what `all` or `get` does. Raises as `fetch` does."""
    source, settings = options.source_of(values), options.settings_of(values, values.get("parts") or ())
    path = values.get("output")
    tally = Tally()
    with nullcontext() if path is None else output("--output", path) as out:

        async def work(report: Report) -> None:
            if out is not None:
                write_header(out.text, source)
            told = report if out is None else _also_written(report, out)
            await operations.plan(source, settings, told, plan_file=plan_file)

        def keep() -> None:
            if out is not None and _is_whole(tally):
                out.keep()

        try:
            _run(command, values, records, source, settings, work=work, tally=tally, planned=True, keep=keep)
        except BrokenPipeError:
            if path is None or descriptor_of(path, STDOUT) == STDOUT:
                raise
            note(f"note: the reader of --output {path} has gone away; it did not get the whole plan")
            raise typer.Exit(128 + SIGPIPE) from None
        except (typer.Exit, RunError) as end:
            if out is not None and not out.has_failed:
                _tell_output(out, tally, has_failed=isinstance(end, RunError), quiet=_is_quiet(values))
            raise


def _is_quiet(values: options.Values) -> bool:
    return Format(values["format_"]) is Format.QUIET


def _is_whole(tally: Tally) -> bool:
    """Say whether there is a plan of all that may be listed: half a plan would be carried out as a whole."""
    return bool(tally.listed.objects) and not (tally.listing_failed or tally.denied_later)


def _tell_output(out: Output, tally: Tally, *, has_failed: bool, quiet: bool) -> None:
    """Say in a sentence what of the plan was written, where that is not all that was asked for.

    =====================================  =====================================================================
    The plan                               What is said
    =====================================  =====================================================================
    is of every part                       nothing
    lacks parts that are denied or absent  a note names them
    is not whole                           an error: a file was not written, and a pipe got a part of it
    =====================================  =====================================================================
    """
    if has_failed or not _is_whole(tally):
        broken = [name for name, part in tally.parts.items() if part.state is PartState.FAILED]
        why = f"the listing of {', '.join(broken)} broke off" if broken else "it could not be made"
        if out.is_plain:
            note(f"error: --output {out.path} was not written: {why}")
            return
        with suppress(BrokenPipeError, DestinationError):
            write_incomplete(out.text, why)
            out.flush()
        note(f"error: --output {out.path} did not get the whole plan: {why}")
        return
    missing = [f"{name} is {part.state}" for name, part in tally.parts.items() if not part.listed.objects]
    if missing and not quiet:
        there = [name for name, part in tally.parts.items() if part.listed.objects]
        note(f"note: --output {out.path} has the plan of {', '.join(there)}; {', '.join(missing)}")


def _also_written(report: Report, out: Output) -> Report:
    def listen(event: Event) -> None:
        if isinstance(event, PagePlanned) and event.begun:
            for decision in event.decisions:
                write_decision(out.text, decision)
            out.flush()  # So that what cannot be written is found out before the summary says that all is well.
        report(event)

    return listen


def _run(
    command: str,
    values: options.Values,
    records: Records,
    source: Source,
    settings: Settings,
    *,
    work: Work,
    tally: Tally,
    listeners: Sequence[Report] = (),
    answers: Mapping[int, Callable[[], None]] = MappingProxyType({}),
    planned: bool,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Run some work, listened to; sum up; raise its error, or typer.Exit with the exit code.

    Args:
        command: What was called.
        values: What was asked for.
        records: What is kept of it.
        source: Where from.
        settings: How.
        work: The work.
        tally: Gets the numbers.
        listeners: Who else is to hear of it.
        answers: What is done for signals that end nothing.
        planned: Whether nothing is carried out.
        keep: Called when the work has come to its end, before the summary.
    """
    spoken = Format(values["format_"])
    meter = Meter(tally, monotonic)
    started = datetime.now(UTC)
    error: Exception | None = None

    async def followed_work() -> None:
        async with audience(values, tally, records, listeners) as report:
            await work(report)

    try:
        run(followed_work(), {STATE: lambda: note(line(meter.read())), **answers}, quiet=spoken is Format.QUIET)
        keep()
    except (UsageError, BrokenPipeError):
        raise
    except Exception as caught:  # noqa: BLE001 - whatever it is, the summary comes first.
        error = caught
    code = tally.exit_code(settings, error, planned=planned)
    if isinstance(error, RunError):
        error.exit_code = code
    if code == UsageError.exit_code:
        raise UsageError(
            "no key matches --include and --exclude", hint="patterns begin with the part: --include 'ct/Covid0000/*'"
        )
    summary = Summary(command, source, settings, tally, started, datetime.now(UTC), code, planned)
    records.summary = summary
    with records.stdout():
        if spoken is Format.JSON:
            print_json(summary.as_dict())
        elif spoken is not Format.QUIET and tally.listed.objects:
            print_summary(summary)
    note_outcome(summary, quiet=spoken is Format.QUIET, raised=error is not None)
    if error is not None:
        raise error
    raise typer.Exit(code)
