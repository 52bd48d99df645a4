"""`config`: what every option is set to and where, and a file to start from."""

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

from nccid_fetch import warehouse
from nccid_fetch.errors import UsageError
from nccid_fetch.keys import printable

from . import awsfiles, options
from .configfile import reason, settable, takes, toml, usual_path
from .flags import Format
from .help import PANELS, Command, panel_of, place_of
from .origins import Origin, origin_of
from .output import print_json

_SCHEMA = "nccid-fetch/config/1"
_WIDTH = 78


class Setting(NamedTuple):
    """What an option is set to.

    Attributes:
        panel: What it is for.
        key: Its name.
        value: As it is written; None if nothing is, and that is the default.
        origin: Where it was written.
    """

    panel: str
    key: str
    value: Any
    origin: Origin


def show(values: options.Values) -> None:
    """Print every option's value and origin.

    Raises:
        UsageError: What they are set to could not be run with.
    """
    context: typer.Context = values["context"]
    source = options.source_of(values)
    options.settings_of(values)  # Refuses what a run would refuse.
    settings = [_with_aws(setting, source.profile) for setting in _settings(context)]
    for setting in settings:
        if setting.key == "endpoint-url" and setting.value is not None:
            source.check_endpoint(setting.value)  # It may have a password in it, wherever it stands.
    match Format(values["format_"]):
        case Format.JSON:
            print_json(_as_dict(values["config"], settings))
        case Format.AUTO | Format.HUMAN:
            for line in _table(values["config"], settings):
                print(printable(line))
        case Format.QUIET:
            pass  # It was checked, and that is all.


def print_example(values: options.Values) -> None:
    """Print a configuration file that has every option with its default, and sets none: defaults may get better."""
    example = "\n".join(_example(values["context"]))
    if Format(values["format_"]) is Format.JSON:
        print_json({"schema": "nccid-fetch/config-example/1", "example": example, "exit_code": 0})
    else:
        print(example)


def _settings(context: typer.Context) -> list[Setting]:
    """Ask typer anew for what was written, for what it keeps of it are values.

    Raises:
        UsageError: A variable for an option of another command is none of what it takes.
    """
    command = context.command
    assert isinstance(command, Command)
    given, _, _ = command.make_parser(context).parse_args(list(command.arguments))
    settings = []
    for key, parameter in _ordered(context):
        value, source = parameter.consume_value(context, given)
        origin = origin_of(parameter, source, context)
        try:
            written = _written(parameter, value, context)
        except typer.BadParameter as error:
            hint = f"{key} {takes(parameter, context)}"
            raise UsageError(f"{origin.name}: {reason(error.message)}", hint=hint) from None
        settings.append(Setting(panel_of(parameter), key, written, origin))
    return settings


def _ordered(context: typer.Context) -> list[tuple[str, Any]]:
    found = settable(context.find_root().command).items()
    return sorted(found, key=lambda item: place_of(panel_of(item[1]), PANELS))


def _written(parameter: Any, value: Any, context: typer.Context) -> Any:  # noqa: ANN401 - typer exports no types.
    """Return a value as it is written: true or false, a list of texts, a text, or None for nothing."""
    if parameter.is_flag:
        return parameter.process_value(context, value)  # A variable says it in words.
    if parameter.multiple:
        return list(value or ())
    return None if value is None else str(getattr(value, "value", value))


def _with_aws(setting: Setting, profile: str | None) -> Setting:
    """Return a setting as AWS's own variables and files have it, where ours say nothing."""
    if setting.value is not None:
        return setting
    found = awsfiles.said(setting.key, profile)
    if found is not None:
        return setting._replace(
            value=found.value, origin=Origin("file" if "/" in found.place else "variable", found.place)
        )
    return setting._replace(value=warehouse.REGION) if setting.key == "region" else setting


def _as_dict(path: Any, settings: list[Setting]) -> dict[str, Any]:  # noqa: ANN401 - a path, or None.
    told = {
        key: {"value": value, "from": origin.kind} | ({"name": origin.name} if origin.name else {})
        for _, key, value, origin in settings
    }
    return {
        "schema": _SCHEMA,
        "file": None if path is None else str(path),
        "options": told,
        "exit_code": 0,
    }


def _table(path: Any, settings: list[Setting]) -> Iterator[str]:  # noqa: ANN401 - as above.
    yield f"Configuration file: {path or f'none ({usual_path()} is not there)'}"
    keys = max(len(setting.key) for setting in settings)
    texts = [_shown(setting.value) for setting in settings]
    values = min(max(map(len, texts)), _WIDTH // 2)
    panel = ""
    for setting, text in zip(settings, texts, strict=True):
        if setting.panel != panel:
            panel = setting.panel
            yield from ("", panel)
        # The file is named above; AWS's own are others.
        known = setting.origin == ("file", str(path)) or not setting.origin.name
        origin = setting.origin.kind if known else setting.origin.name
        yield f"  {setting.key:<{keys}}  {text:<{values}}  {origin}"


def _shown(value: Any) -> str:  # noqa: ANN401 - as above.
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return " ".join(value)
    return toml(value) if isinstance(value, bool) else str(value)


def _example(context: typer.Context) -> Iterator[str]:
    yield "# What nccid-fetch does where neither a flag nor a variable says otherwise. Every"
    yield "# option stands here with its default; take away the # before what is to differ."
    yield "#"
    yield f"# It is read from {usual_path()},"
    yield "# or from where --config or NCCID_FETCH_CONFIG says. Nobody but its owner may be"
    yield "# able to write it: chmod go-w FILE"
    panel = ""
    for key, parameter in _ordered(context):
        if panel_of(parameter) != panel:
            panel = panel_of(parameter)
            yield from ("", f"### {panel}")
        yield ""
        yield from textwrap.wrap(parameter.help, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        yield _example_line(key, parameter, context)


def _example_line(key: str, parameter: Any, context: typer.Context) -> str:  # noqa: ANN401 - typer exports no types.
    default = _written(parameter, parameter.default, context)
    if default is None:
        return f'#{key} = "{parameter.display_type_rich(context)}"'
    return f"#{key} = {toml(parameter.default if isinstance(parameter.default, int) else default)}"
