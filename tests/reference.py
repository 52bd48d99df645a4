"""The reference, made from the code: `python -m tests.reference` writes the pages that are read without the site, too; tests compare them.

Of the others a page says `{generated} NAME`, and `docs/conf.py` puts in what the function of that name returns.
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
from nccid_fetch.cli.help import PANELS, panel_of
from nccid_fetch.keys import STATE_FOLDER
from nccid_fetch.warehouse import BUCKET, GROUPS

from . import man
from .docs import commands

COMMAND_LINE = Path(__file__).parent.parent / "docs" / "reference" / "command-line.md"
_CONFIG = "`config` takes all that `all` takes, to show what would apply."
_MARK = "<!-- From here on written by make docs. -->\n"


def command_line() -> str:
    """Return the page about the command line as it has to be now."""
    above, _, _ = COMMAND_LINE.read_text().partition(_MARK)
    return f"{above}{_MARK}\n{_command_line().rstrip()}\n"


def _command_line() -> str:
    """Return each command, then each option under what it is for."""
    told = (line for name, command in commands().items() for line in _command(name, command))
    return "\n".join(["## Commands", "", *told, "## Options", "", _CONFIG, "", *_options_by_panel()])


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
    yield from (f"### {name}", "", f"`nccid-fetch {name} {man.arguments(command)}`", "")
    for paragraph in cleandoc(command.help).split("\n\n"):
        yield from (" ".join(paragraph.split()), "")
    yield from ("```text", cleandoc(command.epilog), "```", "")


def _options_by_panel() -> Iterator[str]:
    panels: dict[str, dict[str, tuple[Any, list[str]]]] = {title: {} for title in PANELS}
    for name, command in commands().items():
        for parameter in command.params:
            if flags := _flags(parameter):
                panels[panel_of(parameter)].setdefault(flags[0], (parameter, []))[1].append(name)
    for title, panel in panels.items():
        yield from (f"### {title}", "", "| Option | Commands | |", "|---|---|---|")
        for _, (parameter, users) in sorted(panel.items()):
            taken = f"`{', '.join(_flags(parameter))}{_value(parameter)}`"
            yield f"| {taken} | {_users(users)} | {_told(parameter)}{_variables(parameter)} |"
        yield ""


def variable(flag: str) -> str:
    """Return the variable that an option has by the rule."""
    return f"NCCID_FETCH_{flag.lstrip('-').replace('-', '_').upper()}"


def _variables(parameter: Any) -> str:
    """Say what an option's variables are where they are not those of the rule."""
    found = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
    if not found:
        return " Only as a flag."
    others = [f"`{name}`" for name in found if name != variable(_flags(parameter)[0])]
    return f" As a variable also {', '.join(others)}." if others else ""


def _users(names: list[str]) -> str:
    if len(names) == len(commands()):
        return "every command"
    return ", ".join(name for name in names if name != "config" or len(names) == 1)  # `config` takes what `all` takes.


def _value(parameter: Any) -> str:
    choices = "|".join(type(parameter.default)) if isinstance(parameter.default, StrEnum) else ""
    value = parameter.metavar or choices or "TEXT"
    return "" if parameter.is_flag else " " + value.replace("|", "\\|")


def _flags(parameter: Any) -> list[str]:
    return [flag for flag in getattr(parameter, "opts", []) if flag.startswith("-")]


def _told(parameter: Any) -> str:
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    told = (
        "" if default in {None, False, ""} or callable(default) else f" Default: {getattr(default, 'value', default)}."
    )
    return str(parameter.help).replace("|", "\\|") + told


if __name__ == "__main__":
    COMMAND_LINE.write_text(command_line())
    man.PAGE.write_text(man.page())
