"""Every option and argument as typer knows it, each written once."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import typer

from nccid_fetch import __version__, warehouse
from nccid_fetch.settings import CONCURRENCY_MAX, Durability, Existing, OnFailure, Transport, Verify
from nccid_fetch.units import parse_duration, parse_size

from . import completion, configfile, help  # noqa: A004 - what this tool's help looks like.

T = TypeVar("T")

_FROM = help.WHERE_FROM
_WHAT = help.WHAT
_TO = help.WHERE_TO
_SURE = help.HOW_SURE
_PACE = help.HOW_FAST
_TROUBLE = help.TROUBLE
_TELL = help.TELLS
_GENERAL = help.GENERAL


class Format(StrEnum):
    """How to speak."""

    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


class LogFormat(StrEnum):
    """How a log file is written."""

    TEXT = "text"
    JSON = "json"


def _read(parse: Callable[[str], T]) -> Callable[[Any], T]:
    """Make a parser for typer of one that raises ValueError. A value that is none of a text is a default, and stays."""

    def read(given: Any) -> T:  # noqa: ANN401 - a text, or a default.
        try:
            return parse(given) if isinstance(given, str) else cast("T", given)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return read


def _concurrency(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor auto") from None


def _path(text: str) -> Path:
    """Return a path; not for an empty text, which is `--dest "$UNSET"` and would mean the current folder."""
    if not text:
        raise ValueError("an empty path names nothing")
    return Path(text)


def _option(
    flag: str,
    panel: str,
    told: str,
    *,
    short: str | None = None,
    also: Sequence[str] = (),
    **more: Any,  # noqa: ANN401 - as typer takes them.
) -> Any:  # noqa: ANN401 - typer's.
    """Return an option that can be given as a variable and in the configuration file, too.

    Args:
        flag: As it is written on the command line.
        short: The same in one letter, if it has one.
        panel: What it is for; the heading that it stands under in the help.
        told: What it does.
        also: Other variables than its own.
        **more: What typer takes.
    """
    own = "NCCID_FETCH_" + flag.lstrip("-").upper().replace("-", "_")
    if "parser" in more:
        more["parser"] = _read(more["parser"])
    flags = [flag] if short is None else [flag, short]
    # The help says once that there are variables, and not at each option.
    return typer.Option(*flags, envvar=[own, *also], show_envvar=False, help=told, rich_help_panel=panel, **more)


_AWS_SAYS = "what AWS's variables and files say"

Bucket = Annotated[str, _option("--bucket", _FROM, "The bucket.", metavar="NAME")]
Group = Annotated[
    str,
    _option(
        "--group",
        _FROM,
        "The first folder of the bucket.",
        metavar="|".join(warehouse.GROUPS),
        autocompletion=completion.groups,
    ),
]
Profile = Annotated[
    str | None,
    _option(
        "--profile",
        _FROM,
        "The AWS profile to use.",
        metavar="NAME",
        show_default=_AWS_SAYS,
        autocompletion=completion.profiles,
    ),
]
Region = Annotated[
    str | None,
    _option(
        "--region",
        _FROM,
        "The bucket's region.",
        metavar="NAME",
        show_default=f"{_AWS_SAYS}, else {warehouse.REGION}",
    ),
]
EndpointUrl = Annotated[
    str | None, _option("--endpoint-url", _FROM, "Another S3 server than AWS's.", metavar="URL", show_default=_AWS_SAYS)
]
NoSignRequest = Annotated[bool, _option("--no-sign-request", _FROM, "Ask without credentials.")]
AllowHttp = Annotated[bool, _option("--allow-http", _FROM, "Permit an endpoint without TLS beyond this machine.")]

Include = Annotated[
    list[str] | None,
    _option("--include", _WHAT, "Only keys that match, below the group: 'ct/Covid0*'. Repeatable.", metavar="GLOB"),
]
Exclude = Annotated[
    list[str] | None,
    _option("--exclude", _WHAT, "No keys that match; wins over --include. Repeatable.", metavar="GLOB"),
]
PlanFile = Annotated[
    Path | None,
    _option("--plan", _WHAT, "Carry out a plan made by 'plan --output'; - for stdin.", parser=_path, metavar="FILE|-"),
]
DryRun = Annotated[bool, _option("--dry-run", _WHAT, "Show what the same command would do, download nothing.")]
Strict = Annotated[bool, _option("--strict", _WHAT, "A denied part is an error.")]

Dest = Annotated[
    Path,
    _option("--dest", _TO, "The destination folder.", also=["NCCID_DATA_DIR"], parser=_path, metavar="DIR"),
]
ExistingFiles = Annotated[
    Existing,
    _option(
        "--existing",
        _TO,
        "Files that no record vouches for and that differ: set them aside, keep them, or replace them.",
    ),
]
GroupReadable = Annotated[
    bool, _option("--group-readable", _TO, "Files 0640 and folders 0750 instead of 0600 and 0700.")
]

VerifyBy = Annotated[Verify, _option("--verify", _SURE, "Prove downloads by their digest, or by their size alone.")]
RequireVerified = Annotated[
    bool, _option("--require-verified", _SURE, "End with 3 if an object is known by its size alone.")
]
DurableBy = Annotated[
    Durability,
    _option(
        "--durability",
        _SURE,
        "Flush to disk about a thousand objects at a time, each file by itself, or none: "
        "then what was fetched is hashed again after a restart of the machine.",
    ),
]

Concurrency = Annotated[
    int,  # Or "auto": typer takes no unions, and leaves it to the parser.
    _option(
        "--concurrency",
        _PACE,
        f"Objects in flight, 1 to {CONCURRENCY_MAX}; auto finds out how many are worth it.",
        parser=_concurrency,
        metavar="N|auto",
    ),
]
BwLimit = Annotated[
    str | None,
    _option(
        "--bwlimit",
        _PACE,
        "So many bytes a second at most: 20M, 5MB/s, off, or by the hour: '08:00,5M 19:00,off', 'Mon-08:00,5M Fri-19:00,off'.",
        show_default="off",
        metavar="RATE|TIMETABLE",
    ),
]
Hours = Annotated[
    str | None,
    _option(
        "--window",
        _PACE,
        "Ask for nothing outside of these hours, and go on by itself within: 19:00-07:00, '22:00-06:00,Sat-00:00-24:00'.",
        show_default="all hours",
        metavar="HH:MM-HH:MM",
    ),
]
TransportChoice = Annotated[
    Transport,
    _option(
        "--transport",
        _PACE,
        "Client that reads objects: fast is libcurl, auto is libcurl or, where that does not work, aioboto3.",
    ),
]
MaxDuration = Annotated[
    float | None,
    _option("--max-duration", _PACE, "Begin nothing more after so long: 8h.", parser=parse_duration, metavar="TIME"),
]
MaxBytes = Annotated[
    int | None,
    _option(
        "--max-bytes",
        _PACE,
        "Fetch patient by patient, and stop before one that would bring more: 500GB.",
        parser=parse_size,
        metavar="SIZE",
    ),
]
MaxPatients = Annotated[
    int | None, _option("--max-patients", _PACE, "Fetch patient by patient, and stop after so many.", metavar="N")
]

Attempts = Annotated[int, _option("--attempts", _TROUBLE, "Attempts per object.", metavar="N")]
Stall = Annotated[
    float,
    _option(
        "--stall", _TROUBLE, "An attempt ends when no byte came for so long.", parser=parse_duration, metavar="TIME"
    ),
]
RetryFor = Annotated[
    float,
    _option(
        "--retry-for",
        _TROUBLE,
        "How long to wait for an endpoint that is gone, or for credentials that have expired.",
        parser=parse_duration,
        metavar="TIME",
    ),
]
FailurePolicy = Annotated[
    OnFailure,
    _option("--on-failure", _TROUBLE, "Go on past objects that fail or are refused, or stop at the first one."),
]

OutputFormat = Annotated[
    Format, _option("--format", _TELL, "auto is human; json prints one object at the end; quiet prints errors only.")
]
Verbose = Annotated[bool, _option("--verbose", _TELL, "Name every retry and every failure as it happens.", short="-v")]
Debug = Annotated[bool, _option("--debug", _TELL, "Show a traceback with an error.")]
LogFile = Annotated[
    Path | None,
    _option(
        "--log-file",
        _TELL,
        "Write down all that happens, for whom stderr tells too little.",
        parser=_path,
        metavar="FILE",
    ),
]
LogFormatChoice = Annotated[
    LogFormat, _option("--log-format", _TELL, "Write the log as lines of text, or as one JSON object per line.")
]
Events = Annotated[
    Path | None,
    _option(
        "--events", _TELL, "Write every event as a JSON object per line; - for stdout.", parser=_path, metavar="FILE|-"
    ),
]
MetricsFile = Annotated[
    Path | None,
    _option(
        "--metrics",
        _TELL,
        "Keep a file of numbers for Prometheus' node exporter: NAME.prom.",
        parser=_path,
        metavar="FILE",
    ),
]
OnFinish = Annotated[
    str | None,
    _option(
        "--on-finish",
        _TELL,
        "Run this in a shell when the run is over, however it ended, with the summary on stdin.",
        metavar="CMD",
    ),
]
PlanOutput = Annotated[
    Path | None,
    _option("--output", _TELL, "Write the plan as JSON lines; - for stdout.", parser=_path, metavar="FILE|-"),
]
Watch = Annotated[
    bool, _option("--watch", _TELL, "Follow a run from another terminal until it ends; wait for one if there is none.")
]
OnlySummary = Annotated[bool, _option("--summary", _TELL, "Objects and bytes per part.")]

Parts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PART", help=f"Parts of the group: {', '.join(warehouse.PARTS)}.", autocompletion=completion.parts
    ),
]
Prefix = Annotated[
    str,
    typer.Argument(metavar="PREFIX", help="A prefix below the group: ct/Covid0000", autocompletion=completion.prefixes),
]
Serve = Annotated[
    bool,
    typer.Option("--serve", help="Keep the server up, and print what points a client at it.", rich_help_panel=_GENERAL),
]
DemoDest = Annotated[
    Path | None,
    typer.Option(
        "--dest",
        parser=_read(_path),
        metavar="DIR",
        help="Where to put the files.",
        rich_help_panel=_TO,
        show_default="a folder that is removed afterwards",
    ),
]

Example = Annotated[
    bool,
    typer.Option(
        "--example",
        help="Print a configuration file to start from: every option, with its default.",
        rich_help_panel=_TELL,
    ),
]
ShellName = Annotated[completion.Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nccid-fetch {__version__}")
        raise typer.Exit


ConfigFile = Annotated[
    Path | None,
    _option(
        "--config",
        _GENERAL,
        "Options as TOML; - for stdin.",
        parser=_path,
        metavar="FILE|-",
        callback=configfile.apply,
        is_eager=True,  # Before what it is to speak for is asked for.
        show_default="nccid-fetch/config.toml in $XDG_CONFIG_HOME, else in ~/.config, if it is there",
    ),
]
Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_version, is_eager=True, help="Print the version and exit.", rich_help_panel=_GENERAL
    ),
]
