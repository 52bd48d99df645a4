"""How help is laid out: by what one wants to do, in plain text of 80 columns, with examples that can be copied.

typer's own layout draws boxes, which get in the way of copying, take a tenth of a second to load, and make the name of each
option's variable a line of its own. This is its plain one, in sections.
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

WHAT = "What to fetch"
WHERE_TO = "Where to"
WHERE_FROM = "Where from"
HOW_SURE = "How sure"
HOW_FAST = "How fast, and when"
TROUBLE = "When something goes wrong"
TELLS = "What it tells"
GENERAL = "In general"
PANELS = (WHAT, WHERE_TO, WHERE_FROM, HOW_SURE, HOW_FAST, TROUBLE, TELLS, GENERAL)
"""What options are for, in the order in which one asks; what else there is stands before them."""

FETCH = "Fetch"
LOOK_FIRST = "Look first"
AFTERWARDS = "Afterwards"
SET_UP = "Set up"
COMMAND_PANELS = (FETCH, LOOK_FIRST, AFTERWARDS, SET_UP)
"""What commands are for, in the order in which they are shown."""

EXIT_CODES = (
    ("0", "all that was asked for is in place and verified, or was already"),
    ("1", "some objects failed or were refused; they are named, and a rerun tries again"),
    ("2", "an option, a part, the configuration, or DEST cannot be right"),
    ("3", "--require-verified was not met"),
    ("4", "access: no or expired credentials, or nothing may be listed"),
    ("5", "the endpoint cannot be reached, or answers nonsense; rerun to go on"),
    ("9", "the destination is full, read-only or broken; what was verified stays"),
    ("10", "stopped by a limit that was set; rerun to go on"),
    ("75", "another run holds the destination"),
    ("129, 130, 143", "SIGHUP, SIGINT, SIGTERM; rerun to go on"),
)
"""In a line each, for the help and the manual page; the contract says more."""

EVERY_OPTION = (
    "Every option is a variable and a line of the configuration file as well: NCCID_FETCH_CONCURRENCY=64, "
    "concurrency = 64. A flag comes first, then the variable, then the file; 'nccid-fetch config' shows what applies."
)
READ_ON = "Exit codes: nccid-fetch --help. All of it on one page: man nccid-fetch."
_FIRST_COLUMN = 24
_TYPE = re.compile(r"<(.*)>")
_DEFAULT = re.compile(r"\[default: \((.*)\)\]")


class Command(TyperCommand):
    """A command whose epilog is examples, one a line.

    Attributes:
        arguments: What it was called with, for whoever asks where a value came from.
    """

    arguments: tuple[str, ...] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - here and below, typer exports no types.
        """Read the command line, and keep it. An error about it says which command it was for."""
        self.arguments = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined] # Of typer's errors, some.
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the options by what they are for."""
        _write_sections(formatter, _records(self.get_params(ctx), ctx), PANELS)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - as typer calls it.
        """Write examples, and what holds for every command."""
        _write_examples(formatter, self.epilog)
        for text in (EVERY_OPTION, READ_ON):
            formatter.write_paragraph()
            formatter.write_text(text)


class Group(TyperGroup):
    """The commands, by what they are for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write commands, and then options."""
        shown = [
            (getattr(command, "rich_help_panel", None) or SET_UP, (name, command.get_short_help_str(100)))
            for name, command in self.commands.items()
            if not command.hidden
        ]
        _write_sections(formatter, shown, COMMAND_PANELS)
        _write_sections(formatter, _records(self.get_params(ctx), ctx), PANELS)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - as typer calls it.
        """Write examples, the exit codes, and where to read on."""
        _write_examples(formatter, self.epilog)
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)
        for text in (EVERY_OPTION, "nccid-fetch COMMAND --help has the options; man nccid-fetch has all on one page."):
            formatter.write_paragraph()
            formatter.write_text(text)


def panel_of(parameter: Any) -> str:  # noqa: ANN401
    """Return the heading that a parameter stands under."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    if "--help" in parameter.opts:
        return GENERAL
    return parameter.rich_help_panel or "Options"


def place_of(panel: str, order: tuple[str, ...]) -> int:
    """Return where a panel stands among others; one that they do not name stands before them."""
    return order.index(panel) if panel in order else -1


def _records(parameters: Iterable[Any], context: Any) -> list[tuple[str, tuple[str, str]]]:  # noqa: ANN401
    found = ((parameter, parameter.get_help_record(context)) for parameter in parameters)
    return [(panel_of(parameter), _tidied(parameter, *record)) for parameter, record in found if record is not None]


def _tidied(parameter: Any, name: str, told: str) -> tuple[str, str]:  # noqa: ANN401
    """Return typer's words for a parameter without its brackets around types, and around a default that is in words."""
    if parameter.param_type_name == "argument":
        name = parameter.display_name_raw
    return _TYPE.sub(r"\1", name), _DEFAULT.sub(r"[default: \1]", told)


def _write_sections(formatter: Any, rows: list[tuple[str, tuple[str, str]]], order: tuple[str, ...]) -> None:  # noqa: ANN401
    """Write a section for each panel; the columns of all of them stand under each other."""
    width = max(len(first) for _, (first, _) in rows if len(first) <= _FIRST_COLUMN)
    panels = sorted({panel: None for panel, _ in rows}, key=lambda panel: place_of(panel, order))
    for panel in panels:
        with formatter.section(panel):
            formatter.write_dl(
                [(first.ljust(width), told) for owner, (first, told) in rows if owner == panel], col_max=width
            )


def _write_examples(formatter: Any, examples: str | None) -> None:  # noqa: ANN401
    if examples:
        with formatter.section("Examples"):
            for line in inspect.cleandoc(examples).splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
