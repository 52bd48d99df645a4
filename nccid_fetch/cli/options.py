"""Which options a command takes, and the values that they make."""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import typer

from nccid_fetch import warehouse
from nccid_fetch.settings import Durability, Existing, OnFailure, Settings, Source, Transport, Verify
from nccid_fetch.timetable import Timetable, Window

from . import flags

OptionGroup = dict[str, tuple[Any, Any]]
"""Options that belong together: parameter, type and default."""

SOURCE: OptionGroup = {
    "bucket": (flags.Bucket, warehouse.BUCKET),
    "group": (flags.Group, warehouse.GROUPS[0]),
    "profile": (flags.Profile, None),
    "region": (flags.Region, None),
    "endpoint_url": (flags.EndpointUrl, None),
    "no_sign_request": (flags.NoSignRequest, False),
    "allow_http": (flags.AllowHttp, False),
}
PATIENCE: OptionGroup = {"retry_for": (flags.RetryFor, "15m")}
SELECT: OptionGroup = PATIENCE | {
    "dest": (flags.Dest, Path("nccid-data")),
    "include": (flags.Include, None),
    "exclude": (flags.Exclude, None),
    "existing": (flags.ExistingFiles, Existing.CHECK),
    "strict": (flags.Strict, False),
    "verify": (flags.VerifyBy, Verify.MD5),
    "require_verified": (flags.RequireVerified, False),
    "max_bytes": (flags.MaxBytes, None),
    "max_patients": (flags.MaxPatients, None),
    "on_failure": (flags.FailurePolicy, OnFailure.CONTINUE),
}
"""What decides which objects come, and the exit code: `plan` has it, and foresees a run by it."""
FETCH: OptionGroup = SELECT | {
    "concurrency": (flags.Concurrency, 64),
    "bwlimit": (flags.BwLimit, None),
    "window": (flags.Hours, None),
    "dry_run": (flags.DryRun, False),
    "durability": (flags.DurableBy, Durability.BATCH),
    "transport": (flags.TransportChoice, Transport.AUTO),
    "attempts": (flags.Attempts, 8),
    "stall": (flags.Stall, "30s"),
    "group_readable": (flags.GroupReadable, False),
    "max_duration": (flags.MaxDuration, None),
}

RECORDS: OptionGroup = {"metrics": (flags.MetricsFile, None), "on_finish": (flags.OnFinish, None)}
"""What only a run has; what every command has is in OUTPUT."""

DURATIONS = ("stall", "retry_for", "max_duration")
"""Options that are written with a unit, and become seconds."""


OUTPUT: OptionGroup = {
    "format_": (flags.OutputFormat, flags.Format.AUTO),
    "verbose": (flags.Verbose, False),
    "debug": (flags.Debug, False),
    "log_file": (flags.LogFile, None),
    "log_format": (flags.LogFormatChoice, flags.LogFormat.TEXT),
    "events": (flags.Events, None),
    "version": (flags.Version, False),
    "config": (flags.ConfigFile, None),
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
            command(values)  # With typer's own `context`: which command it is, and what was given.

        called.__doc__ = command.__doc__
        called.__name__ = command.__name__
        called.__annotations__ = {name: kind for name, (kind, _) in accepted.items()} | {"context": typer.Context}
        called.__signature__ = Signature(  # type: ignore[attr-defined]
            [
                Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context),
                *(
                    Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=default)
                    for name, (kind, default) in accepted.items()
                ),
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
    for name, kind in (("bwlimit", Timetable), ("window", Window)):
        if named.get(name) is not None:
            named[name] = kind(named[name])
    return Settings(**named, parts=tuple(parts))
