"""Where the value of an option came from, so that an error and `config` can say it."""

import os
import re
from typing import Any, NamedTuple

import typer

from nccid_fetch.errors import UsageError

from . import awsfiles
from .configfile import key_of

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")


class Origin(NamedTuple):
    """Where a value came from.

    Attributes:
        kind: `flag`, `variable`, `file` or `default`.
        name: The flag, the variable's name, or the file's path; empty for a default.
    """

    kind: str
    name: str = ""


def origin_of(parameter: Any, source: Any, context: typer.Context) -> Origin:  # noqa: ANN401 - typer exports no types.
    """Return where a parameter's value came from, by the source that typer names."""
    match source.name if source is not None else None:
        case "COMMANDLINE":
            return Origin("flag", f"--{key_of(parameter)}")
        case "ENVIRONMENT":
            return Origin("variable", next(name for name in parameter.envvar if os.environ.get(name)))
        case "DEFAULT_MAP":
            return Origin("file", str(context.params["config"]))
    return Origin("default")


def located(error: UsageError, context: typer.Context) -> UsageError:
    """Say of an error about an option where its value stands, unless that is the command line, where one sees it."""
    flag = _FLAG.search(error.message)
    for parameter in context.command.params:
        if flag and key_of(parameter) == flag[1]:
            origin = origin_of(parameter, context.get_parameter_source(parameter.name), context)
            place = origin.name if origin.kind in {"variable", "file"} else None
            if origin.kind == "default" and (said := awsfiles.said(flag[1], context.params.get("profile"))):
                place = said.place
            if place:
                error.hint = "; ".join(filter(None, (error.hint, f"it is set in {place}")))
    return error
