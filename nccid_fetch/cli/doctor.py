"""`doctor`: examine, and show what was found and what to type next."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import typer

from nccid_fetch.doctor.examination import examine
from nccid_fetch.doctor.findings import Area, Examination, Finding, State
from nccid_fetch.keys import printable
from nccid_fetch.settings import Source

from . import options
from .flags import Format
from .output import note, print_json
from .runner import raise_descriptor_limit, run

_WIDTH_MAX = 110
_MARKS = {State.OK: "ok", State.NOTE: "note", State.PROBLEM: "PROBLEM"}
"""Words, so that they are seen without colour, and read out as well."""
_COLOURS = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "red"}


def show(values: options.Values) -> None:
    """Carry out `doctor`.

    Raises:
        typer.Exit: With the exit code.
        RunError: Nothing could be examined.
    """
    source, spoken = options.source_of(values), Format(values["format_"])
    found: list[Examination] = []

    async def work() -> None:
        found.append(await examine(source, values["dest"], open_files=raise_descriptor_limit()))

    run(work())
    (examination,) = found
    if spoken is Format.JSON:
        print_json(examination.as_dict())
    elif spoken is Format.QUIET:
        _note_problems(examination)
    else:
        is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        for line in page(examination, width=_width()):
            typer.echo(line, color=False if is_plain else None)
    raise typer.Exit(examination.exit_code)


def _note_problems(examination: Examination) -> None:
    for problem in examination.problems:
        note(f"error: {problem.what}: {problem.found}")
        note(f"hint: {f'{problem.hint}: ' if problem.hint else ''}{problem.command}")


def _width() -> int | None:
    """Return how wide lines may be; None where nobody sees their ends."""
    return min(_WIDTH_MAX, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def page(examination: Examination, width: int | None) -> Iterator[str]:
    """Yield the lines of all that was found.

    Args:
        examination: What was found.
        width: Where to break them; None for nowhere.
    """
    at = f" at {examination.endpoint}" if examination.endpoint else ""
    yield f"{_whence(examination.source)}{printable(at)} -> {_shown(examination.dest)}"
    if examination.parts:
        yield ""
        rows = [("part", "listed", "read"), *((part.name, part.listed, part.read) for part in examination.parts)]
        widths = [max(len(printable(str(row[column]))) for row in rows) for column in range(3)]
        for row in rows:
            yield "  ".join(printable(str(cell)).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    what_width = max(len(finding.what) for finding in examination.findings)
    for area in Area:
        findings = [finding for finding in examination.findings if finding.area is area]
        if findings:
            yield from ("", str(area))
        for finding in findings:
            yield from _lines(finding, what_width, width)
    yield ""
    yield printable(f"{examination.verdict[0].upper()}{examination.verdict[1:]}")


def _whence(source: Source) -> str:
    return printable(f"{source.bucket}/{source.group}")


def _shown(dest: Path) -> str:
    return printable(str(dest))


def _lines(finding: Finding, what_width: int, width: int | None) -> Iterator[str]:
    mark = typer.style(f"{_MARKS[finding.state]:<7}", fg=_COLOURS[finding.state])
    indent = " " * (2 + 7 + 2 + what_width + 2)
    first, *more = _broken(printable(finding.found), len(indent), width)
    yield f"  {mark}  {printable(finding.what):<{what_width}}  {first}"
    yield from (f"{indent}{line}" for line in more)
    if finding.hint:
        first, *more = _broken(f"hint: {printable(finding.hint)}", len(indent), width)
        yield from (f"{indent}{line}" for line in (first, *(f"      {line}" for line in more)))
    if finding.command:
        yield f"{indent}next: {printable(finding.command)}"  # In one piece, to be copied.


def _broken(text: str, taken: int, width: int | None) -> list[str]:
    if width is None or width - taken < 30:
        return [text]
    return textwrap.wrap(text, width - taken - 6, break_long_words=False, break_on_hyphens=False)
