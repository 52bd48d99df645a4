"""Everything that can be chosen, as frozen values that check themselves.

The command line and the Python functions build these; nothing below them reads the environment.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from . import warehouse
from .adaptive import LIMIT_MAX
from .errors import UsageError
from .timetable import Timetable, Window

CONCURRENCY_MAX = 1024
OPEN_FILES_PER_OBJECT = 3
"""Its staged file, its connection, and one that another reader keeps open for the next."""
OPEN_FILES_BESIDE = 48
"""The journal, folders, connections for listings, pipes of the event loop and of the reactors."""
MEMORY_PER_OBJECT = 2 << 20
"""Its chunks, what its connection has received, and what its reader keeps of it."""
MEMORY_BESIDE = 96 << 20
"""Libraries, pages of listings, what waits to be fetched, and threads."""
RETRY_FOR_SECONDS = 900.0
Concurrency = int | Literal["auto"]
"""A number, or as many as prove to be worth it."""


class Verify(StrEnum):
    """What a downloaded body is held against."""

    MD5 = "md5"
    SIZE = "size"


class Existing(StrEnum):
    """What happens to a file that no record vouches for."""

    CHECK = "check"
    KEEP = "keep"
    REPLACE = "replace"


class Durability(StrEnum):
    """When what was fetched is proof against a power failure."""

    BATCH = "batch"
    """Before it is recorded, about a thousand objects at a time."""
    FILE = "file"
    """Before it is recorded, each object by itself and without waiting for others."""
    NONE = "none"
    """When the system gets round to it. Until then it is hashed again after a power failure."""


class OnFailure(StrEnum):
    """What a failed or refused object means for the others."""

    CONTINUE = "continue"
    STOP = "stop"


class Transport(StrEnum):
    """Which client reads bodies.

    ============  =========================================  =============================================
    Transport     Makes the first attempt at an object       Where libcurl does not work
    ============  =========================================  =============================================
    `auto`        libcurl                                    aioboto3 reads instead
    `fast`        libcurl                                    the run ends: 2 if it is not there, 5 if it
                                                             gets nothing from the endpoint
    `aioboto3`    aioboto3                                   libcurl is not used
    ============  =========================================  =============================================

    What the first attempt is refused, aioboto3 asks for again: it knows why.
    """

    AUTO = "auto"
    FAST = "fast"
    AIOBOTO3 = "aioboto3"


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the warehouse is and who asks.

    Attributes:
        bucket: The bucket's name.
        group: `training` or `validation`.
        profile: The AWS profile; None for what AWS's own variables and files say.
        region: The AWS region; None for what they say, and `eu-west-2` if they say nothing.
        endpoint_url: Another S3 server; None for AWS, or what AWS's variables and files say.
        no_sign_request: Ask without credentials.
        allow_http: Permit an endpoint without TLS that is not on this machine.
    """

    bucket: str = warehouse.BUCKET
    group: str = warehouse.GROUPS[0]
    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    no_sign_request: bool = False
    allow_http: bool = False

    def __post_init__(self) -> None:
        """Refuse what no S3 server could mean."""
        if self.group not in warehouse.GROUPS:
            raise UsageError(f"--group {self.group!r} is unknown", hint=f"one of: {', '.join(warehouse.GROUPS)}")
        check_bucket(self.bucket)
        if self.endpoint_url is not None:
            self.check_endpoint(self.endpoint_url)

    def check_endpoint(self, url: str) -> None:
        """Refuse an endpoint that is no URL, or that would send patients' data in the clear.

        Raises:
            UsageError: Always about `--endpoint-url`, wherever it was set.
        """
        if "@" in url:  # First: the sentences below show the URL.
            raise UsageError("--endpoint-url has a name or a password in it", hint="credentials go into a profile")
        try:
            parts = urlsplit(url)
            host = parts.hostname if parts.scheme in {"http", "https"} and parts.port != 0 else None
        except ValueError:  # Half an IPv6 address, or a port that is none.
            host = None
        if not host:
            raise UsageError(f"--endpoint-url {url!r} is not an http(s) URL", hint="for example https://s3.example.org")
        if parts.scheme == "http" and not self.allow_http and not is_loopback(host):
            raise UsageError(
                f"--endpoint-url {host} is not reached over https, so anyone on the way could read the data",
                hint="use https://, or add --allow-http if you accept that",
            )


def check_bucket(name: str) -> None:
    """Refuse what is not the name of a general-purpose bucket.

    Raises:
        UsageError: Naming what it is instead, where the name tells.
    """
    if name.startswith("arn:"):
        what = next((what for word, what in _ARNS.items() if word in name), "a resource")
        raise UsageError(f"--bucket {name!r} is the ARN of {what}", hint=_GENERAL)
    if not _BUCKET.fullmatch(name):
        raise UsageError(
            f"--bucket {name!r} is not a bucket's name", hint="give the name alone, without s3:// or a path"
        )
    for ending, what in _ENDINGS.items():
        if name.endswith(ending):
            raise UsageError(f"{name} is {what}", hint=_GENERAL)


_BUCKET = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,255}")
"""What botocore takes for one, but for dots alone, which are not a folder's name either."""
_GENERAL = "name a general-purpose bucket"
_LAMBDA = "an Object Lambda access point, whose bodies are made as they are asked for"
_OUTPOSTS = "an access point of S3 on Outposts, which is not the bucket itself"
_ARNS = {
    ":s3-object-lambda:": _LAMBDA,
    ":s3-outposts:": _OUTPOSTS,
    ":accesspoint": "an access point, which is not the bucket itself",
}
_ENDINGS = {
    "--x-s3": "a directory bucket, whose listings have no order and whose ETags are no digests",
    "--ol-s3": _LAMBDA,
    "--op-s3": _OUTPOSTS,
    "--table-s3": "a table bucket, whose objects cannot be listed",
}
"""Reserved endings of names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one run fetches.

    Attributes:
        dest: The destination folder.
        parts: What was asked for; empty for every part that the credentials allow.
        concurrency: Objects in flight; `auto` to find out.
        include: Globs on the key below the group; a key must match one, if there are any.
        exclude: Globs that win over `include`.
        verify: Hold bodies against their MD5, or against their size alone.
        existing: What to do with files that no record vouches for.
        durability: When what was fetched is proof against a power failure.
        transport: Which client reads bodies.
        bwlimit: How many bytes a second may come, and when; None for any number.
        window: The hours in which anything is asked for; None for all.
        attempts: Attempts per object. Being told to slow down is not one.
        stall_seconds: An attempt ends when no byte came for so long.
        retry_for_seconds: How long a run waits for an endpoint that is gone, or for credentials that have expired.
        max_duration_seconds: Nothing is begun when the run has taken so long; None for any time.
        max_bytes: No patient is begun that would bring more bytes than these in all; None for any number.
        max_patients: No more patients are begun than so many; None for any number.
        on_failure: What a failed or refused object means for the others.
        strict: A denied part ends the run with 4.
        require_verified: Objects known by size alone end the run with 3.
        open_files: How many files this process may have open; fewer objects are in flight where that allows no more.
        memory_bytes: How much memory this process may still take, if that is limited; the same.
        group_readable: Files 0640 and folders 0750 instead of 0600 and 0700.
    """

    dest: Path
    parts: tuple[str, ...] = ()
    concurrency: Concurrency = 64
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    verify: Verify = Verify.MD5
    existing: Existing = Existing.CHECK
    durability: Durability = Durability.BATCH
    transport: Transport = Transport.AUTO
    bwlimit: Timetable | None = None
    window: Window | None = None
    attempts: int = 8
    stall_seconds: float = 30.0
    retry_for_seconds: float = RETRY_FOR_SECONDS
    max_duration_seconds: float | None = None
    max_bytes: int | None = None
    max_patients: int | None = None
    on_failure: OnFailure = OnFailure.CONTINUE
    strict: bool = False
    require_verified: bool = False
    open_files: int | None = None
    memory_bytes: int | None = None
    group_readable: bool = False

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if self.concurrency != "auto" and (
            not isinstance(self.concurrency, int) or not 1 <= self.concurrency <= CONCURRENCY_MAX
        ):
            raise UsageError(
                f"--concurrency {self.concurrency} is out of range", hint=f"1 to {CONCURRENCY_MAX}, or auto"
            )
        if self.attempts < 1:
            raise UsageError(f"--attempts {self.attempts} is out of range", hint="1 or more")
        if self.stall_seconds <= 0:
            raise UsageError(f"--stall {self.stall_seconds:g}s is out of range", hint="more than 0s")
        if self.retry_for_seconds < 0:
            raise UsageError(f"--retry-for {self.retry_for_seconds:g}s is out of range", hint="0s or more")
        if self.max_duration_seconds is not None and not 0 < self.max_duration_seconds < inf:
            raise UsageError(f"--max-duration {self.max_duration_seconds:g}s is out of range", hint="more than 0s")
        for option, most in {"--max-bytes": self.max_bytes, "--max-patients": self.max_patients}.items():
            if most is not None and most < 1:
                raise UsageError(f"{option} {most} is out of range", hint="1 or more")
        for part in self.parts:
            check_part(part)

    @property
    def concurrency_max(self) -> int:
        """Objects in flight, at most."""
        most = LIMIT_MAX if self.concurrency == "auto" else self.concurrency
        if self.open_files is not None:
            most = min(most, (self.open_files - OPEN_FILES_BESIDE) // OPEN_FILES_PER_OBJECT)
        if self.memory_bytes is not None:
            most = min(most, (self.memory_bytes - MEMORY_BESIDE) // MEMORY_PER_OBJECT)
        return max(1, most)

    @property
    def takes_whole_patients(self) -> bool:
        """Whether the run may end at a patient's edge, and so takes one patient after the other."""
        return self.max_bytes is not None or self.max_patients is not None

    @property
    def wants_all(self) -> bool:
        """Whether the run is about all that its parts have."""
        return not (self.include or self.exclude or self.takes_whole_patients)

    @property
    def file_mode(self) -> int:
        """The mode of files, whatever the umask."""
        return 0o640 if self.group_readable else 0o600

    @property
    def folder_mode(self) -> int:
        """The mode of folders, whatever the umask."""
        return 0o750 if self.group_readable else 0o700


def check_part(part: str) -> None:
    """Refuse what is not a documented part, nor one of those the loader files under `unknown`.

    Raises:
        UsageError: Naming the part and the known ones.
    """
    known = (*warehouse.PARTS, "unknown", "unknown-metadata")
    if part not in known:
        raise UsageError(f"there is no part {part!r}", hint=f"one of: {', '.join(sorted(known))}")
