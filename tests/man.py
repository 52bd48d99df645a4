"""The manual page, made from the command line itself. `python -m tests.reference` writes it, a test compares it.

There are generators for click's commands, but typer brings a click of its own, which they do not know.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from nccid_fetch import __version__
from nccid_fetch.cli.commands import app
from nccid_fetch.cli.help import EVERY_OPTION, EXIT_CODES, PANELS, panel_of, place_of

PAGE = Path(__file__).parent.parent / "docs" / "man" / "nccid-fetch.1"
ENVIRONMENT = (
    ("NCCID_FETCH_OPTION", "Any option: its name in capitals, with _ for -. A list of globs is set apart by blanks."),
    ("NCCID_FETCH_CONFIG", "The configuration file; it has to be there. /dev/null is none."),
    ("NCCID_DATA_DIR", "The destination folder, if NCCID_FETCH_DEST is not set."),
    (
        "AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, ...",
        "AWS's own variables and files work as with the AWS CLI.",
    ),
    ("HTTPS_PROXY, NO_PROXY", "The proxy, and what is reached without it."),
    ("NO_COLOR", "No colours."),
)
FILES = (
    (
        "$XDG_CONFIG_HOME/nccid-fetch/config.toml, else ~/.config/nccid-fetch/config.toml",
        "Options as TOML, if it is there. Only its owner may be able to write it. Paths are as on the command line.",
    ),
    ("DEST/.nccid-fetch/", "The journal, staged files, and what was set aside. It can be deleted when no run goes on."),
)


def page() -> str:
    """Return the manual page."""
    return "".join(f"{line}\n" for line in _lines(typer.main.get_command(app)))


def escaped(text: str) -> str:
    """Return a text as roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _lines(root: Any) -> Iterator[str]:
    yield '.\\" Written by make docs.'
    yield f'.TH NCCID\\-FETCH 1 "" "nccid\\-fetch {__version__}" "User Commands"'
    yield from (".SH NAME", "nccid\\-fetch \\- fetch the National COVID\\-19 Chest Imaging Database")
    yield ".SH SYNOPSIS"
    for name, command in root.commands.items():
        yield from (".PP", f"\\fBnccid\\-fetch {escaped(name)}\\fR {escaped(arguments(command))}")
    yield from (".SH DESCRIPTION", escaped(root.help), ".PP", escaped(EVERY_OPTION))
    yield ".SH COMMANDS"
    for name, command in root.commands.items():
        yield from _command(name, command)
    yield ".SH OPTIONS"
    yield from _options(root)
    for heading, rows in (("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {heading}"
        for term, told in rows:
            yield from _item(term, told)
    yield ".SH EXAMPLES"
    yield from _examples(root.epilog)
    yield from (".SH SEE ALSO", "\\fBaws\\fR(1)")


def arguments(command: Any) -> str:
    """Return what a command takes, in its order."""
    words = [_argument(parameter) for parameter in command.params if _is_argument(parameter)]
    return " ".join(["[OPTION]...", *words])


def _argument(parameter: Any) -> str:
    name = parameter.metavar if parameter.required else f"[{parameter.metavar}]"
    return name if parameter.nargs == 1 else f"{name}..."


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _command(name: str, command: Any) -> Iterator[str]:
    yield f".SS nccid\\-fetch {escaped(name)}"
    for number, paragraph in enumerate(inspect.cleandoc(command.help).split("\n\n")):
        if number:
            yield ".PP"
        yield escaped(" ".join(paragraph.split()))
    for parameter in command.params:
        if _is_argument(parameter):
            yield from _item(parameter.metavar, parameter.help)
    yield from _examples(command.epilog)


def _examples(epilog: str) -> Iterator[str]:
    yield from (".PP", ".nf", ".RS 4", *map(escaped, inspect.cleandoc(epilog).splitlines()), ".RE", ".fi")


def _options(root: Any) -> Iterator[str]:
    """Write each option once, with the commands that have it."""
    owners: dict[tuple[str, str], tuple[Any, Any, list[str]]] = {}
    for name, command in root.commands.items():
        context = typer.Context(command)
        for parameter in command.params:
            if not _is_argument(parameter):
                found = owners.setdefault((parameter.opts[0], parameter.help), (parameter, context, []))
                found[2].append(name)
    panel = ""
    for parameter, context, names in sorted(owners.values(), key=lambda owned: place_of(panel_of(owned[0]), PANELS)):
        if panel_of(parameter) != panel:
            panel = panel_of(parameter)
            yield f".SS {escaped(panel)}"
        value = "" if parameter.is_flag else parameter.display_type_rich(context).strip("<>")
        used = "every command" if len(names) == len(root.commands) else ", ".join(names)
        yield from _item(" ".join([", ".join(parameter.opts), value]).strip(), f"{_told(parameter)} ({used})")


def _told(parameter: Any) -> str:
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    default = getattr(default, "value", default)
    told = " ".join(parameter.help.split())
    return told if default in {None, False, ""} else f"{told} Default: {default}."


def _item(term: str, told: str) -> Iterator[str]:
    yield from (".TP", f"\\fB{escaped(term)}\\fR", escaped(told))
