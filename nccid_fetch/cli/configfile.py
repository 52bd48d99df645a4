"""The configuration file: TOML whose keys are the options' names.

It is flat, for options and commands share names (`plan`, `verify`), so that a table for a command could not be told from an
option; who needs other values for one command has another file, and `--config`. What is in it becomes typer's `default_map`,
so that typer itself gives a flag precedence over a variable, and a variable over the file.

Every value goes through the option's own reader, also where this command has no such option: a file is right or wrong as a whole.
"""

import json
import os
import shlex
import stat
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import typer

from nccid_fetch.errors import UsageError
from nccid_fetch.streams import open_input

NOT_IN_FILES = ("config", "help", "version")
_BYTES_MAX = 1 << 20
"""No line of it is long, and each option is there once. A device may have no end."""
_EXAMPLE = "nccid-fetch config --example shows every key"
_WORDS = {"Input should": "it has to", "valid integer": "whole number", "a valid boolean": "true or false"}


def usual_path() -> Path:
    """Return where the file is looked for unless another one is named."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117 - the standard has a relative one ignored.
        base = os.path.expanduser("~/.config")  # noqa: PTH111 - which raises nothing where there is no home.
    return Path(base, "nccid-fetch", "config.toml")


def apply(context: typer.Context, named: Path | None) -> Path | None:
    """Let a configuration file say what is asked for where neither a flag nor a variable does.

    Args:
        context: The command's.
        named: The file that was asked for, which has to be there; None for the usual one, if it is.

    Returns:
        The file that was read, if any was.

    Raises:
        UsageError: It cannot be read, or says what cannot be.
    """
    if context.resilient_parsing:  # Completion: nothing is run.
        return None
    path = named or usual_path()
    if named is None and not os.path.lexists(path):
        return None
    root = context.find_root().command
    known = settable(root)
    own = {parameter.name: parameter for parameter in context.command.params}
    defaults = {}
    for key, value in _read(path).items():
        parameter = known.get(key)
        if parameter is None:
            raise _unknown(path, key, value, known)
        if any("\0" in item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)):
            raise UsageError(f"{path}: {key} has a NUL character", hint="leave it out: no name has one")
        read = _checked(path, key, value, parameter, context)
        # The demo has a --dest that only a flag can set.
        if is_settable(own.get(parameter.name, parameter)):
            defaults[parameter.name] = read
    context.default_map = defaults
    return path


def is_settable(parameter: Any) -> bool:  # noqa: ANN401 - typer exports no type for it.
    """Return whether an option can be given as a variable and in a file."""
    return bool(parameter.envvar) and key_of(parameter) not in NOT_IN_FILES


def key_of(parameter: Any) -> str:  # noqa: ANN401 - as above.
    """Return an option's name as it stands in a file: the flag without its dashes."""
    return str(max(parameter.opts, key=len)).lstrip("-")


def settable(root: Any) -> dict[str, Any]:  # noqa: ANN401 - as above.
    """Return what can be set, by key, of all commands; in the order of the commands."""
    found = (parameter for command in root.commands.values() for parameter in command.params if is_settable(parameter))
    by_key: dict[str, Any] = {}
    for parameter in found:
        by_key.setdefault(key_of(parameter), parameter)
    return by_key


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - only where there is a file.

    try:
        with open_input(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            # It says where patients' data goes, and can name a command to run.
            if stat.S_ISREG(mode) and mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UsageError(
                    f"{path} may be changed by others than its owner (mode {stat.S_IMODE(mode):o})",
                    hint=f"chmod go-w {shlex.quote(str(path))}",
                )
            text = file.read(_BYTES_MAX + 1)
        if len(text) > _BYTES_MAX:
            raise UsageError(f"{path} is too long for a configuration file", hint=_EXAMPLE)
        return tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not TOML: it is not UTF-8", hint="save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # A number may be too long for Python, and brackets too deep.
        raise UsageError(
            f"{path} is not TOML: {error}", hint=f"texts are quoted, and nothing is said twice; {_EXAMPLE}"
        ) from None
    except OSError as error:
        raise UsageError(
            f"the configuration file {path} cannot be read: {error.strerror}",
            hint="name another one with --config, or /dev/null for none",
        ) from None


def _unknown(path: Path, key: str, value: object, known: Mapping[str, Any]) -> UsageError:
    from difflib import get_close_matches  # noqa: PLC0415 - only where something is wrong.

    if key in NOT_IN_FILES:
        return UsageError(f"{path}: {key} cannot be set in a file", hint=f"give --{key} on the command line")
    if isinstance(value, dict):
        return UsageError(
            f"{path}: [{key}] is a table, and the file has none", hint=f"options stand at the top; {_EXAMPLE}"
        )
    near = get_close_matches(key.replace("_", "-").lower(), known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"{path}: there is no option {key!r}", hint=f"{guess}{_EXAMPLE}")


def _checked(path: Path, key: str, value: object, parameter: Any, context: typer.Context) -> object:  # noqa: ANN401
    """Return a value as typer takes it.

    Raises:
        UsageError: It is of another kind than the option, or the option's own reader refuses it.
    """
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {key} = {toml(value)} is neither true nor false", hint=f"write {key} = true")
        return value
    if parameter.multiple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{path}: {key} = {toml(value)} is no list of texts", hint=f'write {key} = ["..."]')
        return value
    if isinstance(value, bool | list | dict):
        raise UsageError(
            f"{path}: {key} = {toml(value)} is neither a text nor a number", hint=f"{key} {takes(parameter, context)}"
        )
    text = value.isoformat() if isinstance(value, date | datetime | time) else str(value)
    if (parameter.metavar or "").startswith(("DIR", "FILE")) and text.startswith("~/"):  # As a shell does for a flag.
        text = os.path.expanduser(text)  # noqa: PTH111 - as above.
    try:
        parameter.process_value(context, text)
    except typer.BadParameter as error:
        raise UsageError(f"{path}: {key}: {reason(error.message)}", hint=f"{key} {takes(parameter, context)}") from None
    return text


def reason(message: str) -> str:
    """Return why a value was refused, without the words of the library that typer has values checked by."""
    message = message.removeprefix("Value error, ").partition(", unable to ")[0].rstrip(".")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def takes(parameter: Any, context: typer.Context) -> str:  # noqa: ANN401 - as above.
    """Return what would be right: the kind of value, and the default as an example."""
    if getattr(parameter, "is_flag", False):
        return "takes true or false"
    default = getattr(parameter.default, "value", parameter.default)
    kind = parameter.display_type_rich(context).strip("<>")
    return f"takes {kind}" if default is None else f"takes {kind}, such as {default}"


def toml(value: object) -> str:
    """Return a value as it would stand in the file."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case date() | datetime() | time():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{key} = {toml(item)}' for key, item in value.items())}}}"
    return json.dumps(str(value), ensure_ascii=False)  # A TOML text is written as a JSON one.
