"""What an examination comes to: findings, each with its state and the next step, and one exit code for all of them."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from ..settings import Source

_PRECEDENCE = (9, 4, 5)
"""Exit codes in the contract's order: where several apply, the first counts."""


class Area(StrEnum):
    """What a finding is about."""

    SOURCE = "source"
    CREDENTIALS = "credentials"
    DESTINATION = "destination"


class State(StrEnum):
    """How it is."""

    OK = "ok"
    NOTE = "note"
    """Good to know; a run works all the same."""
    PROBLEM = "problem"
    """In the way of a run."""


class Access(StrEnum):
    """Whether a part may be listed, or read."""

    GRANTED = "granted"
    DENIED = "denied"
    EMPTY = "empty"
    ABSENT = "absent"
    ARCHIVED = "archived"
    UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Part:
    """What the credentials may do with a part.

    Attributes:
        name: Its name.
        listed: Granted, denied, empty, absent, or unknown.
        read: Granted, denied, archived, or unknown, by the first object in it.
        message: Why it is not granted.
    """

    name: str
    listed: Access
    read: Access = Access.UNKNOWN
    message: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at.

    Attributes:
        area: What it is about.
        what: What was looked at, in a word or two.
        state: How it is.
        found: What was found, one sentence without a full stop.
        hint: What to do.
        command: What to type next.
        exit_code: What it stands for; 0 unless it is a problem.
    """

    area: Area
    what: str
    state: State
    found: str
    hint: str | None = None
    command: str | None = None
    exit_code: int = 0

    def __post_init__(self) -> None:
        """Hold every problem to its next step."""
        if self.state is State.PROBLEM:
            assert self.exit_code in _PRECEDENCE, self
            assert self.command, self
        else:
            assert not self.exit_code, self


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """All that was found.

    Attributes:
        source: Where from.
        dest: Where to.
        endpoint: The host that was asked; empty if none was found.
        parts: What may be done with each part.
        findings: All else, area by area.
    """

    source: Source
    dest: Path
    endpoint: str
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """What is in the way."""
        return [finding for finding in self.findings if finding.state is State.PROBLEM]

    @property
    def exit_code(self) -> int:
        """What a script is told."""
        codes = {finding.exit_code for finding in self.problems}
        return next((code for code in _PRECEDENCE if code in codes), 0)

    @property
    def verdict(self) -> str:
        """Whether a run will work, in a sentence without a full stop."""
        if not self.problems:
            count = sum(part.listed is Access.GRANTED for part in self.parts)
            return f"ready to fetch {count} part{'' if count == 1 else 's'}: {again(self.source, self.dest, 'all')}"
        whats = list(dict.fromkeys(finding.what for finding in self.problems))
        return f"not ready: {' and '.join(filter(None, [', '.join(whats[:-1]), whats[-1]]))}"

    def as_dict(self) -> dict[str, object]:
        """Return it for a script."""
        return {
            "schema": "nccid-fetch/doctor/1",
            "bucket": self.source.bucket,
            "group": self.source.group,
            "endpoint": self.endpoint,
            "dest": str(self.dest),
            "parts": {
                part.name: {"listed": str(part.listed), "read": str(part.read), "message": part.message}
                for part in self.parts
            },
            "findings": [
                {
                    "area": str(finding.area),
                    "what": finding.what,
                    "state": str(finding.state),
                    "found": finding.found,
                    "hint": finding.hint,
                    "command": finding.command,
                    "exit_code": finding.exit_code,
                }
                for finding in self.findings
            ],
            "exit_code": self.exit_code,
        }


def again(source: Source, dest: Path, command: str, **changed: str | None) -> str:
    """Return one of this tool's commands as it is typed for the same source and destination.

    Args:
        source: Where from.
        dest: Where to.
        command: The command's name.
        **changed: What is to be another than now: fields of the source.
    """
    return shlex.join(["nccid-fetch", command, *_options(replace(source, **changed)), "--dest", str(dest)])  # type: ignore[arg-type]


def _options(source: Source) -> Iterator[str]:
    """Yield the options that make this source of the default one."""
    plain = Source()
    for name in ("bucket", "group", "profile", "region", "endpoint_url"):
        value = getattr(source, name)
        if value is not None and value != getattr(plain, name):
            yield from (f"--{name.replace('_', '-')}", value)
    for name in ("no_sign_request", "allow_http"):
        if getattr(source, name):
            yield f"--{name.replace('_', '-')}"
