"""What an endpoint and its answers mean for a run: values in, findings out.

=====================================================  ====================================================
What was heard                                         Then
=====================================================  ====================================================
an error that ends a run                               problem, with the error's exit code and its words
a clock off by 15 minutes; by one minute               problem, as S3 refuses that; note
credentials that end within 12 hours and stay as such  note: a night does not fit
no part may be listed, or none has anything in it      problem (4)
a part may be listed, and its first object not read    problem (4), as a run over it ends so; archived: note
a part may not be listed, and others may               note: NCCID grants access part by part
a part's listing breaks                                problem (5)
the proxy refuses, or cannot be reached                problem (5) of the proxy
=====================================================  ====================================================
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from .. import warehouse
from ..errors import (
    ClockError,
    CredentialsError,
    NoSuchBucketError,
    ProxyError,
    RunError,
    UntrustedError,
    WrongRegionError,
)
from ..settings import Source, is_loopback
from ..store.identity import Identity
from ..store.reasons import ORIGINS
from ..store.strict import shown_proxy
from ..store.witness import Answered, Encryption
from .findings import Access, Area, Finding, Part, State, again

CLOCK_SECONDS_MAX = 900.0
"""What S3 refuses."""
CLOCK_SECONDS_NOTED = 60.0
NIGHT_SECONDS = 12 * 3600.0
_VARIABLES = "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"
_CREDENTIALS_FILE = '"${AWS_SHARED_CREDENTIALS_FILE:-$HOME/.aws/credentials}"'
_ROLES = {"assume-role", "assume-role-with-web-identity", "container-role", "iam-role"}
_SET_CLOCK = "sudo timedatectl set-ntp true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An endpoint, as far as it is known without asking it.

    Attributes:
        url: The bucket's address.
        region: The region that signatures name.
        region_origin: Where that was set.
        proxy: The proxy on the way there, or None.
    """

    url: str
    region: str
    region_origin: str
    proxy: str | None = None

    @property
    def host(self) -> str:
        """The host that is asked."""
        return urlsplit(self.url).netloc

    @property
    def is_encrypted(self) -> bool:
        """Whether it is spoken to by TLS."""
        return self.url.startswith("https:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who types the commands, and what for.

    Attributes:
        source: Where from.
        dest: Where to.
        method: How the credentials are had, in botocore's word; None if that is not known.
        profile: The profile that is read.
        url: The bucket's address; empty if it is not known.
    """

    source: Source
    dest: Path
    method: str | None = None
    profile: str | None = None
    url: str = ""


def of_error(error: RunError, asker: Asker) -> Finding:
    """Return what an error comes to that would end a run."""

    def problem(area: Area, what: str, command: str, hint: str | None = None) -> Finding:
        return Finding(area, what, State.PROBLEM, error.message, hint or error.hint, command, error.exit_code)

    source, dest, host = asker.source, asker.dest, urlsplit(asker.url).netloc
    cause = error.__cause__
    if isinstance(error, ClockError):
        return problem(Area.SOURCE, "clock", _SET_CLOCK)
    if isinstance(error, CredentialsError) or isinstance(cause, CredentialsError):
        told = error if isinstance(error, CredentialsError) else cause
        assert isinstance(told, CredentialsError)
        hint, command = _renewal(asker, are_wrong=told.are_wrong)
        if (asker.method is None or asker.method in _ROLES) and told.hint:
            hint = told.hint  # It knows better.
        return problem(Area.CREDENTIALS, "credentials", command, hint)
    if isinstance(error, NoSuchBucketError):
        bucket = warehouse.BUCKET if source.bucket != warehouse.BUCKET else source.bucket
        return problem(Area.SOURCE, "bucket", again(source, dest, "doctor", bucket=bucket, endpoint_url=None))
    if isinstance(error, WrongRegionError):
        return problem(Area.SOURCE, "region", again(source, dest, "doctor", region=error.region))
    if isinstance(cause, UntrustedError):
        shown = f"openssl s_client -connect {_with_port(host)} -showcerts </dev/null"
        return problem(
            Area.SOURCE, "certificate", shown, "if it is your own network's: export AWS_CA_BUNDLE=/path/to/its-ca.pem"
        )
    if isinstance(cause, ProxyError):
        return problem(Area.SOURCE, "proxy", "env | grep -i _proxy | sed 's|//[^@/]*@|//...@|'")
    return problem(Area.SOURCE, "endpoint", f"curl --head --max-time 20 {shlex.quote(asker.url)}")


def _with_port(host: str) -> str:
    return host if urlsplit(f"//{host}").port else f"{host}:443"


def _renewal(asker: Asker, *, are_wrong: bool) -> tuple[str, str]:
    """Return how other credentials are had, in words and as a command: that depends on where these come from."""
    named = "" if asker.profile in {None, "default"} else f" --profile {shlex.quote(str(asker.profile))}"
    match asker.method:
        case "sso":
            return "sign in again", f"aws sso login{named}"
        case "custom-process":
            return (
                "run the profile's credential_process by hand to see why",
                f"aws configure get credential_process{named}",
            )
        case method if method in _ROLES:
            return (
                "see who you are, and ask for the role where you were given it",
                f"aws sts get-caller-identity{named}",
            )
        case "env" if are_wrong:
            fresh = again(asker.source, asker.dest, "doctor", profile="nccid")
            return (
                "variables come before any profile that is not named: put the right key into one, and name it",
                f"aws configure --profile nccid && {fresh}",
            )
        case "env":
            return (
                "no variable renews itself: export new ones, or unset them and let a profile do it",
                f"unset {_VARIABLES}",
            )
        case "shared-credentials-file" | "config-file" if not are_wrong:
            return "put new ones in their place, with the new session token", f"${{EDITOR:-vi}} {_CREDENTIALS_FILE}"
        case "shared-credentials-file" | "config-file":
            return "give the profile the right keys, or choose another --profile", f"aws configure{named}"
        case _:
            return "put the keys that you were given into a profile, and name it (--profile)", (
                f"aws configure{named or ' --profile nccid'}"
            )


def of_place(place: Place, encryption: Encryption | None, quickest: Answered | None) -> Iterator[Finding]:
    """Yield what is to be said of an endpoint.

    Args:
        place: The endpoint.
        encryption: How it is spoken to, if that is known.
        quickest: The answer that came soonest; None if none came, which is then said as an error.
    """
    by_proxy = ""
    if place.proxy:
        by_proxy = f", by way of the proxy {shown_proxy(place.proxy)}"
    if quickest is not None:
        milliseconds = quickest.round_trip_seconds * 1000
        yield _well("endpoint", f"{place.host} answers within {milliseconds:,.0f} ms{by_proxy}")
    elif by_proxy:
        yield _well("proxy", f"requests go{by_proxy.removeprefix(',')}")
    yield _well("region", f"{place.region} ({place.region_origin})")
    if encryption is not None:
        yield _well("encryption", f"{encryption.version}, with a certificate by {encryption.issuer}")
    elif not place.is_encrypted and not is_loopback(urlsplit(place.url).hostname or ""):
        yield Finding(Area.SOURCE, "encryption", State.NOTE, "none: anyone on the way there could read the data")
    if quickest is not None and quickest.offset_seconds is not None:
        yield of_clock(quickest.offset_seconds)


def of_clock(offset_seconds: float) -> Finding:
    """Return what a clock means that is ahead of the server's by so many seconds."""
    off = abs(offset_seconds)
    told = f"this machine's clock is {off:,.0f} s {'ahead of' if offset_seconds > 0 else 'behind'} the server's"
    if off >= CLOCK_SECONDS_MAX:
        hint = "set the clock (NTP): S3 refuses what is off by 15 minutes"
        return Finding(Area.SOURCE, "clock", State.PROBLEM, told, hint, _SET_CLOCK, 4)
    if off >= CLOCK_SECONDS_NOTED:
        return Finding(Area.SOURCE, "clock", State.NOTE, told, "set the clock (NTP)", _SET_CLOCK)
    return _well("clock", "it is the server's, to the second or two" if off < 2 else told)


def of_identity(identity: Identity | None, now: datetime, asker: Asker) -> Iterator[Finding]:
    """Yield who the credentials are.

    Args:
        identity: Whose they are; None where requests are not signed.
        now: The time.
        asker: Who asks.
    """
    if identity is None:
        yield Finding(Area.CREDENTIALS, "credentials", State.OK, "none are used (--no-sign-request)")
        return
    origin = ORIGINS.get(identity.method, identity.method)
    of_profile = f", profile {identity.profile}" if identity.profile else ""
    yield Finding(Area.CREDENTIALS, "origin", State.OK, f"{origin}{of_profile}")
    kind = "temporary" if identity.is_temporary else "long-lived"
    account = f", of account {identity.account}" if identity.account else ""
    yield Finding(Area.CREDENTIALS, "key", State.OK, f"{identity.key}, {kind}{account}")
    if identity.expires is None:
        return
    left = (identity.expires - now).total_seconds()
    told = f"they end at {identity.expires:%Y-%m-%d %H:%M %Z}, in {left / 3600:,.1f} hours"
    if identity.renews:
        yield Finding(Area.CREDENTIALS, "expiry", State.OK, f"{told}, and are fetched anew before that")
    elif left < NIGHT_SECONDS:
        hint, command = _renewal(asker, are_wrong=False)
        yield Finding(
            Area.CREDENTIALS,
            "expiry",
            State.NOTE,
            f"{told}: a night does not fit, and nothing renews them",
            hint,
            command,
        )
    else:
        yield Finding(Area.CREDENTIALS, "expiry", State.OK, told)


def of_parts(parts: Sequence[Part], asker: Asker) -> Iterator[Finding]:
    """Yield what the parts' answers mean together. What broke a listing is said by whoever met it."""
    source, dest = asker.source, asker.dest
    usable = [part for part in parts if part.listed is Access.GRANTED]
    denied = ", ".join(part.name for part in parts if part.listed is Access.DENIED)
    unknown = any(part.listed is Access.UNKNOWN for part in parts)
    if denied and usable:
        yield Finding(
            Area.CREDENTIALS,
            "parts",
            State.NOTE,
            f"the credentials may not list {denied}",
            "NCCID gives access part by part: ask for more if you should have it; all fetches what is granted",
            again(source, dest, "all"),
        )
    elif denied:
        yield Finding(
            Area.CREDENTIALS,
            "parts",
            State.PROBLEM,
            "the credentials may list no part",
            "choose another --profile, or ask NCCID for access: it is granted part by part",
            "aws configure list-profiles",
            4,
        )
    elif not usable and not unknown:
        yield Finding(
            Area.CREDENTIALS,
            "parts",
            State.PROBLEM,
            f"group {source.group} of {source.bucket} has nothing in it",
            "check --group and --bucket",
            again(source, dest, "doctor", group=warehouse.GROUPS[0], bucket=warehouse.BUCKET),
            4,
        )
    for part in usable:
        if part.read is Access.ARCHIVED:
            yield Finding(
                Area.CREDENTIALS,
                part.name,
                State.NOTE,
                f"the first object of {part.name}: {part.message}",
                "ask NCCID to restore it, if others are archived as well",
                again(source, dest, "plan"),
            )
        elif part.read is Access.DENIED:
            yield Finding(
                Area.CREDENTIALS,
                part.name,
                State.PROBLEM,
                f"{part.name} may be listed, but its first object may not be read: {part.message}",
                "ask NCCID for the right to read it, or fetch the others by name",
                _of_the_others(usable, asker),
                4,
            )


def _of_the_others(usable: Sequence[Part], asker: Asker) -> str:
    """Return the command that fetches what may be read."""
    others = [part.name for part in usable if part.read is not Access.DENIED]
    if not others:
        return "aws configure list-profiles"
    return again(asker.source, asker.dest, "get").replace("get", f"get {' '.join(others)}", 1)


def _well(what: str, found: str) -> Finding:
    return Finding(Area.SOURCE, what, State.OK, found)
