"""The reference of the documentation's site: Markdown, made from the code while the site is built.

A page says `{generated} NAME`, and `docs/conf.py` puts in what the function of that name returns.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from enum import StrEnum
from inspect import cleandoc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nccid_fetch import journal as journal_module
from nccid_fetch.keys import STATE_FOLDER
from nccid_fetch.warehouse import BUCKET, GROUPS

from .docs import _help, commands


def command_line() -> str:
    """Return the reference of the command line: each command, then each option under what it is for."""
    told = (line for name, command in commands().items() for line in _command(name, command))
    return "\n".join(["## Commands", "", *told, "## Options", "", *_options_by_panel()])


def journal() -> str:
    """Return what the journal says of its tables, and the statements that make them."""
    about = cleandoc(str(journal_module.__doc__))
    with TemporaryDirectory() as folder:
        # A new one is asked, whichever module makes it.
        dest = Path(folder)
        (dest / STATE_FOLDER).mkdir()
        opened = journal_module.Journal.open(dest, bucket=BUCKET, group=GROUPS[0], endpoint="")
        assert opened is not None
        opened.close()
        with closing(sqlite3.connect(dest / STATE_FOLDER / "journal.sqlite")) as connection:
            made = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    statements = ";\n\n".join(made)
    return f"```text\n{about[about.index('Schema, ') :]}\n```\n\n```sql\n{statements};\n```\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = "".join(f" [{each.metavar}]" for each in command.params if not _flags(each))
    first, *rest = [
        text for text in f"{cleandoc(command.help)}\n\n{command.epilog or ''}".split("\n\n") if text.strip()
    ]
    yield from (f"### {name}", "", first, "", "```text", f"nccid-fetch {name}{arguments} [OPTIONS]", "```", "")
    for paragraph in rest:
        yield from ("```text", cleandoc(paragraph), "```", "") if "nccid-fetch " in paragraph else (paragraph, "")
    yield from ("Takes " + ", ".join(f"`{_flags(each)[0]}`" for each in command.params if _flags(each)) + ".", "")


def _options_by_panel() -> Iterator[str]:
    panels: dict[str, dict[str, tuple[Any, list[str]]]] = {}
    for name, command in commands().items():
        for parameter in command.params:
            if flags := _flags(parameter):
                panel = panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Of one command", {})
                panel.setdefault(flags[0], (parameter, []))[1].append(name)
    for title, panel in panels.items():
        yield from (f"### {title}", "", "| Option | Variable | Commands | |", "|---|---|---|---|")
        for flag, (parameter, users) in sorted(panel.items()):
            variables = parameter.envvar or []
            names = ", ".join(f"`{each}`" for each in ([variables] if isinstance(variables, str) else variables))
            yield f"| `{flag}{_value(parameter)}` | {names} | {', '.join(users)} | {_help(parameter)} |"
        yield ""


def _value(parameter: Any) -> str:
    choices = "|".join(type(parameter.default)) if isinstance(parameter.default, StrEnum) else ""
    value = parameter.metavar or choices or "TEXT"
    return "" if parameter.is_flag else " " + value.replace("|", "\\|")


def _flags(parameter: Any) -> list[str]:
    return [flag for flag in getattr(parameter, "opts", []) if flag.startswith("-")]
