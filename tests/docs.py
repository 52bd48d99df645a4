"""The parts of README.md that are taken from the code. `python -m tests.docs` rewrites them, a test compares them."""

import re
from pathlib import Path
from typing import Any

import typer.main

from nccid_fetch.cli.commands import app

README = Path(__file__).parent.parent / "README.md"
_MARKS = re.compile(r"(?<=<!-- options: written by make docs -->\n).*?(?=<!-- /options -->)", re.DOTALL)


def commands() -> dict[str, Any]:
    """Return the commands of the command line by name."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def options_table() -> str:
    """Return a table of all options: which commands have them, and what they do."""
    rows: dict[str, tuple[list[str], str]] = {}
    for name, command in commands().items():
        for parameter in command.params:
            flags = [flag for flag in getattr(parameter, "opts", []) if flag.startswith("-")]
            if flags and flags[0] != "--help":
                users, _ = rows.setdefault(flags[0], ([], _help(parameter)))
                users.append(name)
    lines = ["| Option | Commands | |", "|---|---|---|"]
    lines += [f"| `{flag}` | {', '.join(users)} | {text} |" for flag, (users, text) in sorted(rows.items())]
    return "\n" + "\n".join(lines) + "\n\n"


def _help(parameter: Any) -> str:
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    told = (
        "" if default in {None, False, ""} or callable(default) else f" Default: {getattr(default, 'value', default)}."
    )
    return str(parameter.help).replace("|", "\\|") + told


def with_options(readme: str) -> str:
    """Return the README with its options as they are now."""
    return _MARKS.sub(lambda _: options_table(), readme)


if __name__ == "__main__":
    README.write_text(with_options(README.read_text()))
