"""`all`, `get` and `plan`: run, listen, sum up."""

import os
import shlex
import stat
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import typer

from nccid_fetch import operations
from nccid_fetch.errors import AccessError, DestinationError, EndpointError, UsageError
from nccid_fetch.events import (
    Committed,
    Event,
    Failed,
    Held,
    LimitSet,
    ListingRetrying,
    PagePlanned,
    Released,
    RemoteFound,
    Report,
    Retrying,
    RoomShort,
)
from nccid_fetch.planfile import write_decision, write_header
from nccid_fetch.settings import Settings, Source
from nccid_fetch.summary import Summary, Tally

from . import options
from .display import shown
from .options import Format
from .output import limit_text, note, note_hold, note_outcome, print_json, print_summary, size_text
from .publishing import published
from .runner import raise_descriptor_limit, run

Work = Callable[[Report], Coroutine[Any, Any, None]]


def fetch(command: str, values: options.Values) -> None:
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
        plan(command, values)
        return

    settings = _within_limits(settings, quiet=Format(values["format_"]) is Format.QUIET)

    async def work(report: Report) -> None:
        await operations.fetch(source, settings, report, command=command, plan_file=plan_file)

    tally = Tally()
    with published(command, source, settings, tally) as publish:
        _run(command, values, source, settings, work, tally=tally, listeners=(publish,), planned=False)


def _within_limits(settings: Settings, *, quiet: bool) -> Settings:
    """Let no more objects be in flight than files may be open for, and say so where that is less than was asked for."""
    limited = replace(settings, open_files=raise_descriptor_limit())
    if limited.concurrency_max < settings.concurrency_max and settings.concurrency != "auto" and not quiet:
        note(
            f"note: --concurrency {settings.concurrency_max} needs more open files than the {limited.open_files} that are "
            f"allowed here (ulimit -n): {limited.concurrency_max} objects at a time"
        )
    return limited


def _warn_if_open(settings: Settings, *, quiet: bool) -> None:
    """Say so if a folder that is there lets in whom one of our own making would not.

    Not for the main thread: a disk that hangs must not keep it from hearing signals.
    """
    if quiet:
        return
    try:
        mode = stat.S_IMODE(settings.dest.stat().st_mode)
    except OSError:
        return  # It is made with the right mode, or refused with a better reason.
    if mode & 0o777 & ~settings.folder_mode:
        note(
            f"note: {settings.dest} is open to other users (mode {mode & 0o777:o}); to keep patients' data from them: "
            f"chmod {settings.folder_mode:o} {shlex.quote(str(settings.dest))}"
        )


def plan(command: str, values: options.Values) -> None:
    """Carry out `plan`. Raises as `fetch` does."""
    source, settings = options.source_of(values), options.settings_of(values, values.get("parts") or ())
    output: Path | None = values.get("output")
    with ExitStack() as stack:
        out = stack.enter_context(_written_whole(output)) if output is not None else None
        if out is not None:
            write_header(out, source)

        async def work(report: Report) -> None:
            await operations.plan(source, settings, _also_written(report, out))

        _run(command, values, source, settings, work, tally=Tally(), planned=True)


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
        raise DestinationError(
            f"--output {path} cannot be written: {error.strerror}", hint="make room there"
        ) from error
    finally:
        if plain:
            part.unlink(missing_ok=True)


def _also_written(report: Report, out: TextIO | None) -> Report:
    def listen(event: Event) -> None:
        if out is not None and isinstance(event, PagePlanned):
            for decision in event.decisions:
                write_decision(out, decision)
        report(event)

    return listen


def _run(
    command: str,
    values: options.Values,
    source: Source,
    settings: Settings,
    work: Work,
    *,
    tally: Tally,
    listeners: Sequence[Report] = (),
    planned: bool,
) -> None:
    spoken = Format(values["format_"])
    quiet = spoken in {Format.QUIET, Format.JSON}
    report = _also_told(tally) if values["verbose"] else tally
    if spoken is not Format.QUIET:
        report = _warned(report)
    report = _all_told(report, listeners)
    started = datetime.now(UTC)
    error: Exception | None = None

    async def shown_work() -> None:
        _warn_if_open(settings, quiet=planned or spoken is Format.QUIET)
        async with shown(tally, quiet=quiet):
            await work(report)

    try:
        run(shown_work())
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
    if spoken is Format.JSON:
        print_json(summary.as_dict())
    elif spoken is not Format.QUIET and tally.listed.objects:
        print_summary(summary)
    note_outcome(summary, quiet=spoken is Format.QUIET, raised=error is not None)
    if error is not None:
        raise error
    raise typer.Exit(code)


def _all_told(report: Report, listeners: Sequence[Report]) -> Report:
    """Let others hear what happens, too."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)
        report(event)

    return listen


def _warned(report: Report) -> Report:
    """Say on stderr what may go wrong with the destination, as soon as it is known."""

    def listen(event: Event) -> None:
        match event:
            case RoomShort(needed_bytes, needed_files, free_bytes, free_files):
                files = "" if free_files is None else f" and {free_files:,} files"
                note(
                    f"warning: what is planned so far takes {size_text(needed_bytes)} in {needed_files:,} files, and"
                    f" {size_text(free_bytes)}{files} are free; the run goes on until there is no more room"
                )
            case RemoteFound(name):
                note(f"note: the destination is on {name}, where locks may not hold: start no second run over it")
        report(event)

    return listen


def _also_told(report: Report) -> Report:
    """Name every retry, every wait and every failure on stderr as it happens."""

    def listen(event: Event) -> None:
        match event:
            case Retrying(remote, attempt, message, pause):
                note(f"retry: {remote.key}: attempt {attempt}: {message}; next in {pause:.1f}s")
            case ListingRetrying(prefix, message, pause):
                note(f"retry: the listing of {prefix}: {message}; next in {pause:.1f}s")
            case Held() | Released():
                note_hold(event)
            case LimitSet() if event.of is not None and (told := limit_text(event)):
                note(told)
            case Committed(outcomes):
                for outcome in outcomes:
                    if isinstance(outcome, Failed):
                        note(f"{outcome.reason}: {outcome.remote.key}: {outcome.message}")
        report(event)

    return listen
