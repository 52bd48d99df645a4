"""What AWS's own variables and files say, read without an SDK: for showing and completing, never for asking S3.

What a run really uses, aioboto3 finds out. Loading it takes longer than a shell waits for a completion.
"""

import os
from configparser import Error, RawConfigParser
from pathlib import Path
from typing import NamedTuple

_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))


class Said(NamedTuple):
    """A value, and the variable or file that it stands in."""

    value: str
    place: str


def profiles() -> list[str]:
    """Return the names of the profiles, sorted."""
    return sorted({name for path in _paths() for name in _sections(path)})


def said(option: str, profile: str | None) -> Said | None:
    """Return what is used for an option that we were told nothing about, if AWS's variables or files say it.

    Args:
        option: `profile`, `region` or `endpoint-url`; they say nothing about others.
        profile: The profile that we were told to use.
    """
    chosen = _variable("AWS_DEFAULT_PROFILE", "AWS_PROFILE")  # In botocore's order.
    profile = profile or (chosen.value if chosen else None)
    match option:
        case "profile":
            return chosen
        case "region":
            return _variable("AWS_REGION", "AWS_DEFAULT_REGION") or _setting(profile, "region")
        case "endpoint-url" if not _ignores_endpoints(profile):
            return _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or _endpoint_setting(profile)
    return None


def _variable(*names: str) -> Said | None:
    return next((Said(os.environ[name], name) for name in names if os.environ.get(name)), None)


def _ignores_endpoints(profile: str | None) -> bool:
    name = "ignore_configured_endpoint_urls"
    said = _variable(f"AWS_{name.upper()}") or _setting(profile, name)
    return said is not None and said.value.lower() == "true"


def _setting(profile: str | None, key: str) -> Said | None:
    for path in reversed(_paths()):  # What the credentials file says as well counts.
        section = _sections(path).get(profile or "default", {})
        if key in section:
            return Said(section[key], str(path))
    return None


def _endpoint_setting(profile: str | None) -> Said | None:
    """Return the endpoint of the profile's service S3, else of the profile."""
    services = _setting(profile, "services")
    if services is not None:
        lines = _parser(Path(services.place)).get(f"services {services.value}", "s3", fallback="").splitlines()
        named = dict(_halves(line) for line in lines)
        if "endpoint_url" in named:
            return Said(named["endpoint_url"], services.place)
    return _setting(profile, "endpoint_url")


def _halves(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip()


def _paths() -> list[Path]:
    named = (os.path.expandvars(os.environ.get(name) or usual) for name, usual in _FILES)
    return [Path(os.path.expanduser(path)) for path in named]  # noqa: PTH111


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """Return the profiles of a file by name."""
    parser = _parser(path)
    found = {}
    for section in parser.sections():
        kind, _, name = section.partition(" ")
        if kind == "profile" and name:
            found[name.strip("\"' ")] = dict(parser[section])
        elif not name:
            found[section] = dict(parser[section])
    return found


def _parser(path: Path) -> RawConfigParser:
    """Read a file; one that is not there, may not be read, or is a pipe that may never end, has nothing in it."""
    parser = RawConfigParser(strict=False, default_section="")
    try:
        if path.is_file():
            parser.read(path, encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError):
        return RawConfigParser()
    return parser
