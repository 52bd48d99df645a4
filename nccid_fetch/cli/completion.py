"""Completion: the shells' scripts, which are typer's, and what there is to choose from.

A shell calls the program for every press of the tab key, so nothing is loaded for it that is not needed.
"""

import os
from enum import StrEnum

import typer

from nccid_fetch import warehouse

PROGRAM = "nccid-fetch"
VARIABLE = "_NCCID_FETCH_COMPLETE"
"""What a shell's script asks by; typer's own name for it."""


class Shell(StrEnum):
    """What can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def prepare() -> None:
    """Let typer answer if it is a shell that calls. It would do so by itself if it might also offer to edit ~/.bashrc."""
    if os.environ.get(VARIABLE):
        from typer._completion_classes import completion_init  # noqa: PLC0415 - typer offers no other door.

        completion_init()


def script(shell: Shell) -> str:
    """Return what a shell has to be told."""
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - for this alone.

    return get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)


def parts(context: typer.Context) -> list[str]:
    """Return the parts that are not on the command line already."""
    given = context.params.get("parts") or ()
    return [part for part in warehouse.PARTS if part not in given]


def prefixes() -> list[str]:
    """Return what a prefix can begin with."""
    return [f"{part}/" for part in warehouse.PARTS]


def groups() -> list[str]:
    """Return the groups."""
    return list(warehouse.GROUPS)


def profiles() -> list[str]:
    """Return the profiles in AWS's own files."""
    from .awsfiles import profiles as found  # noqa: PLC0415 - only when they are asked for.

    return found()
