"""Options as typer knows them, each written once, and the values that they make."""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nccid_fetch import __version__, warehouse
from nccid_fetch.settings import CONCURRENCY_MAX, Durability, Existing, Settings, Source, Transport, Verify

_SOURCE = "Where from"
_FETCH = "What and how"
_OUTPUT = "Output"


class Format(StrEnum):
    """How to speak."""

    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


def _duration(text: str) -> float:
    """Return seconds, from `30`, `30s`, `15m` or `8h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", str(text).strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is not a time like 30s, 15m or 8h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _concurrency(text: str | int) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto") from None


def _folder(text: str | Path) -> Path:
    """Return a path; not for an empty text, which is `--dest "$UNSET"` and would mean the current folder."""
    if not str(text):
        raise typer.BadParameter("an empty path names no folder")
    return Path(text)


def _env(name: str, *others: str) -> str | list[str]:
    own = f"NCCID_FETCH_{name}"
    return [own, *others] if others else own  # typer's messages show even a list of one as Python writes it.


Bucket = Annotated[str, typer.Option("--bucket", envvar=_env("BUCKET"), help="The bucket.", rich_help_panel=_SOURCE)]
Group = Annotated[
    str,
    typer.Option("--group", envvar=_env("GROUP"), help=f"{' or '.join(warehouse.GROUPS)}.", rich_help_panel=_SOURCE),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        envvar=_env("PROFILE"),
        help="The AWS profile to use.",
        show_default="what AWS's variables and files say",
        rich_help_panel=_SOURCE,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        envvar=_env("REGION"),
        help="The bucket's region.",
        show_default=f"what AWS's variables and files say, else {warehouse.REGION}",
        rich_help_panel=_SOURCE,
    ),
]
EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        envvar=_env("ENDPOINT_URL"),
        help="Another S3 server than AWS's.",
        show_default="what AWS's variables and files say",
        rich_help_panel=_SOURCE,
    ),
]
NoSignRequest = Annotated[
    bool,
    typer.Option(
        "--no-sign-request",
        envvar=_env("NO_SIGN_REQUEST"),
        help="Ask without credentials.",
        rich_help_panel=_SOURCE,
    ),
]
AllowHttp = Annotated[
    bool,
    typer.Option(
        "--allow-http",
        envvar=_env("ALLOW_HTTP"),
        help="Permit an endpoint without TLS beyond this machine.",
        rich_help_panel=_SOURCE,
    ),
]
Dest = Annotated[
    Path,
    typer.Option(
        "--dest",
        envvar=_env("DEST", "NCCID_DATA_DIR"),
        parser=_folder,
        metavar="<path>",
        help="The destination folder.",
        rich_help_panel=_FETCH,
    ),
]
Concurrency = Annotated[
    int,  # Or "auto": typer takes no unions, and leaves it to the parser.
    typer.Option(
        "--concurrency",
        envvar=_env("CONCURRENCY"),
        parser=_concurrency,
        metavar="N|auto",
        help=f"Objects in flight, 1 to {CONCURRENCY_MAX}; auto finds out how many are worth it.",
        rich_help_panel=_FETCH,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", envvar=_env("DRY_RUN"), help="List and decide, download nothing.", rich_help_panel=_FETCH
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        envvar=_env("INCLUDE"),
        help="Only keys that match, below the group: 'ct/Covid0*'. Repeatable.",
        rich_help_panel=_FETCH,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        envvar=_env("EXCLUDE"),
        help="No keys that match; wins over --include. Repeatable.",
        rich_help_panel=_FETCH,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan", envvar=_env("PLAN"), help="Carry out a plan made by 'plan --output'.", rich_help_panel=_FETCH
    ),
]
VerifyBy = Annotated[
    Verify,
    typer.Option(
        "--verify",
        envvar=_env("VERIFY"),
        help="Prove downloads by their digest, or by their size alone.",
        rich_help_panel=_FETCH,
    ),
]
RequireVerified = Annotated[
    bool,
    typer.Option(
        "--require-verified",
        envvar=_env("REQUIRE_VERIFIED"),
        help="End with 3 if an object is known by its size alone.",
        rich_help_panel=_FETCH,
    ),
]
ExistingFiles = Annotated[
    Existing,
    typer.Option(
        "--existing",
        envvar=_env("EXISTING"),
        help="Files that no record vouches for and that differ: set them aside, keep them, or replace them.",
        rich_help_panel=_FETCH,
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", envvar=_env("STRICT"), help="A denied part is an error.", rich_help_panel=_FETCH),
]
DurableBy = Annotated[
    Durability,
    typer.Option(
        "--durability",
        envvar=_env("DURABILITY"),
        help="Flush to disk about a thousand objects at a time, each file by itself, or none: "
        "then what was fetched is hashed again after a restart of the machine.",
        rich_help_panel=_FETCH,
    ),
]
TransportChoice = Annotated[
    Transport,
    typer.Option(
        "--transport",
        envvar=_env("TRANSPORT"),
        help="Which client reads objects; auto takes the fast one wherever it is safe.",
        rich_help_panel=_FETCH,
    ),
]
Attempts = Annotated[
    int,
    typer.Option("--attempts", envvar=_env("ATTEMPTS"), help="Attempts per object.", rich_help_panel=_FETCH),
]
Stall = Annotated[
    float,
    typer.Option(
        "--stall",
        envvar=_env("STALL"),
        parser=_duration,
        metavar="TIME",
        help="An attempt ends when no byte came for so long.",
        rich_help_panel=_FETCH,
    ),
]
RetryFor = Annotated[
    float,
    typer.Option(
        "--retry-for",
        envvar=_env("RETRY_FOR"),
        parser=_duration,
        metavar="TIME",
        help="How long to wait for an endpoint that is gone, or for credentials that have expired.",
        rich_help_panel=_SOURCE,
    ),
]
GroupReadable = Annotated[
    bool,
    typer.Option(
        "--group-readable",
        envvar=_env("GROUP_READABLE"),
        help="Files 0640 and folders 0750 instead of 0600 and 0700.",
        rich_help_panel=_FETCH,
    ),
]
OutputFormat = Annotated[
    Format,
    typer.Option(
        "--format",
        envvar=_env("FORMAT"),
        help="auto is human; json prints one object at the end; quiet prints errors only.",
        rich_help_panel=_OUTPUT,
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", envvar=_env("DEBUG"), help="Show a traceback with an error.", rich_help_panel=_OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", envvar=_env("VERBOSE"), help="Name every retry and every failure as it happens.", rich_help_panel=_OUTPUT
    ),
]
Parts = Annotated[list[str] | None, typer.Argument(metavar="PART", help="Parts of the group; none for all.")]
PlanOutput = Annotated[
    Path | None,
    typer.Option(
        "--output", envvar=_env("OUTPUT"), help="Write the plan to a file, as JSON lines.", rich_help_panel=_OUTPUT
    ),
]
Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="A prefix below the group: ct/Covid0000")]
OnlySummary = Annotated[
    bool,
    typer.Option("--summary", envvar=_env("SUMMARY"), help="Objects and bytes per part.", rich_help_panel=_OUTPUT),
]
Serve = Annotated[bool, typer.Option("--serve", help="Keep the server up, and print what points a client at it.")]

DemoDest = Annotated[
    Path | None,
    typer.Option(
        "--dest",
        parser=_folder,
        metavar="<path>",
        help="Where to put the files.",
        show_default="a folder that is removed afterwards",
    ),
]

OptionGroup = dict[str, tuple[Any, Any]]
"""Options that belong together: parameter, type and default."""

SOURCE: OptionGroup = {
    "bucket": (Bucket, warehouse.BUCKET),
    "group": (Group, warehouse.GROUPS[0]),
    "profile": (Profile, None),
    "region": (Region, None),
    "endpoint_url": (EndpointUrl, None),
    "no_sign_request": (NoSignRequest, False),
    "allow_http": (AllowHttp, False),
}
PATIENCE: OptionGroup = {"retry_for": (RetryFor, "15m")}
SELECT: OptionGroup = PATIENCE | {
    "dest": (Dest, Path("nccid-data")),
    "include": (Include, None),
    "exclude": (Exclude, None),
    "existing": (ExistingFiles, Existing.CHECK),
    "strict": (Strict, False),
}
FETCH: OptionGroup = SELECT | {
    "concurrency": (Concurrency, 64),
    "dry_run": (DryRun, False),
    "verify": (VerifyBy, Verify.MD5),
    "require_verified": (RequireVerified, False),
    "durability": (DurableBy, Durability.BATCH),
    "transport": (TransportChoice, Transport.AUTO),
    "attempts": (Attempts, 8),
    "stall": (Stall, "30s"),
    "group_readable": (GroupReadable, False),
}

DURATIONS = ("stall", "retry_for")
"""Options that are written with a unit, and become seconds."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nccid-fetch {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
]
OUTPUT: OptionGroup = {
    "format_": (OutputFormat, Format.AUTO),
    "verbose": (Verbose, False),
    "debug": (Debug, False),
    "version": (Version, False),
}

Values = dict[str, Any]
Command = Callable[[Values], None]


def takes(*groups: OptionGroup) -> Callable[[Command], Callable[..., None]]:
    """Make a function of one dictionary a command with the options of these groups.

    typer reads a function's signature; so this writes one, and every option is written once for all commands.
    """
    accepted = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Command) -> Callable[..., None]:
        def called(**values: Any) -> None:  # noqa: ANN401 - what typer made of the command line.
            command(values)

        called.__doc__ = command.__doc__
        called.__name__ = command.__name__
        called.__annotations__ = {name: kind for name, (kind, _) in accepted.items()}
        called.__signature__ = Signature(  # type: ignore[attr-defined]
            [
                Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=default)
                for name, (kind, default) in accepted.items()
            ]
        )
        return called

    return decorate


def source_of(values: Values) -> Source:
    """Return where to fetch from."""
    return Source(**{name: values[name] for name in SOURCE})


def settings_of(values: Values, parts: Sequence[str] = ()) -> Settings:
    """Return how to fetch. Options that a command does not have keep their defaults."""
    named = {name: values[name] for name in FETCH if name in values and name not in {"dry_run", *DURATIONS}}
    named |= {f"{name}_seconds": values[name] for name in DURATIONS if name in values}
    named["include"] = tuple(named["include"] or ())
    named["exclude"] = tuple(named["exclude"] or ())
    return Settings(**named, parts=tuple(parts))
