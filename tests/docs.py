"""The command line as the documents speak of it."""

from typing import Any

import typer.main

from nccid_fetch.cli.commands import app


def commands() -> dict[str, Any]:
    """Return the commands of the command line by name."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
