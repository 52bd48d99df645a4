"""`all`, `get` and `plan`: run, listen, sum up."""

import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, TextIO

import typer

from nccid_fetch import operations
from nccid_fetch.bandwidth import Bandwidth
from nccid_fetch.errors import AccessError, DestinationError, EndpointError, UsageError
from nccid_fetch.events import Event, PagePlanned, Report
from nccid_fetch.planfile import write_decision, write_header
from nccid_fetch.progress import Meter
from nccid_fetch.settings import Settings, Source
from nccid_fetch.summary import Summary, Tally

from . import options
from .audience import audience
from .closing import print_summary
from .display import line
from .flags import Format
from .output import note, note_outcome, print_json, rate_text
from .publishing import published
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
    plan_file: Path | None = values.get("plan")
    source, settings = options.source_of(values), options.settings_of(values, values.get("parts") or ())
    if values["dry_run"]:
        if plan_file is not None:
            raise UsageError("--dry-run and --plan do not go together", hint="the plan is what it says")
        for name in ("max_duration", "max_bytes", "max_patients"):
            if values[name] is not None and Format(values["format_"]) is not Format.QUIET:
                note(f"note: --dry-run shows all that is to be fetched, whatever --{name.replace('_', '-')} says")
        plan(command, values, records)
        return

    settings = _within_limits(settings, quiet=Format(values["format_"]) is Format.QUIET)
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
    """Let no more objects be in flight than files may be open for, and say so where that is less than was asked for."""
    limited = replace(settings, open_files=raise_descriptor_limit())
    if limited.concurrency_max < settings.concurrency_max and settings.concurrency != "auto" and not quiet:
        note(
            f"note: --concurrency {settings.concurrency_max} needs more open files than the {limited.open_files} that are "
            f"allowed here (ulimit -n): {limited.concurrency_max} objects at a time"
        )
    return limited


def plan(command: str, values: options.Values, records: Records) -> None:
    """Carry out `plan`. Raises as `fetch` does."""
    source, settings = options.source_of(values), options.settings_of(values, values.get("parts") or ())
    output: Path | None = values.get("output")
    with ExitStack() as stack:
        out = stack.enter_context(_written_whole(output)) if output is not None else None
        if out is not None:
            write_header(out, source)

        async def work(report: Report) -> None:
            also = report if out is None or output is None else _also_written(report, out, output)
            await operations.plan(source, settings, also)

        _run(command, values, records, source, settings, work=work, tally=Tally(), planned=True)


@contextmanager
def _written_whole(path: Path) -> Iterator[TextIO]:
    """Write a file that gets its name only if the command ends with 0: half a plan would be carried out as a whole.

    Raises:
        UsageError: It cannot be made there.
        DestinationError: It cannot be written to its end.
    """
    plain = not path.exists() or path.is_file()  # Not a pipe, and not /dev/null, which is to stay what it is.
    part = path.with_name(f".{path.name}.part") if plain else path
    # Where others may write as well, such as in /tmp, a file that waits under this name would be theirs to read.
    made = os.O_CREAT | os.O_EXCL if plain else os.O_TRUNC
    try:
        if plain:
            part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | made | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror}", hint="name another file") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            yield out
    except typer.Exit as end:
        if end.exit_code == 0 and plain:
            part.replace(path)
        raise
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        if plain:
            part.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> DestinationError:
    return DestinationError(f"--output {path} cannot be written: {error.strerror}", hint="make room there")


def _also_written(report: Report, out: TextIO, path: Path) -> Report:
    def listen(event: Event) -> None:
        if isinstance(event, PagePlanned):
            try:
                for decision in event.decisions:
                    write_decision(out, decision)
                out.flush()  # So that what cannot be written is found out before the summary says that all is well.
            except OSError as error:
                raise _unwritten(path, error) from error
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
) -> None:
    spoken = Format(values["format_"])
    meter = Meter(tally, monotonic)
    started = datetime.now(UTC)
    error: Exception | None = None

    async def followed_work() -> None:
        async with audience(values, tally, records, listeners) as report:
            await work(report)

    try:
        run(followed_work(), {STATE: lambda: note(line(meter.read())), **answers}, quiet=spoken is Format.QUIET)
    except UsageError:
        raise
    except Exception as caught:  # noqa: BLE001 - whatever it is, the summary comes first.
        error = caught
    if isinstance(error, EndpointError) and tally.misses_access(settings):
        error.exit_code = AccessError.exit_code  # What may not be had outranks what could not be reached.
    code = tally.exit_code(settings) if error is None else getattr(error, "exit_code", 1)
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
