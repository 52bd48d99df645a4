"""Why a provider has no credentials, in words: what it raised in, a sentence and a next step out.

Nothing is repeated that may hold some: a program's output, a server's words, a header that could not be sent.

=================================================  ====================================================================
A provider                                         Then (`CredentialsError`; a configuration that is none: `UsageError`)
=================================================  ====================================================================
gives keys that can be sent                        they are used
gives a key with a blank or a line end, or none    which one it is, and where it comes from; never its value
gives keys that have expired                       that; the clock may be wrong
wants an MFA code                                  that, and how to give the AWS CLI one, whose answer is used here
has no single sign-on, or an expired one           `aws sso login`, with the profile that signs on
is refused by STS or SSO                           the code of the refusal; never its words, which may quote the request
cannot be reached                                  its host
does not answer in time                            for how long it was waited for; its programs are ended
raises anything else                               its name, and the type of what it raised
=================================================  ====================================================================
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from botocore.exceptions import (
    ClientError,
    ConfigNotFound,
    ConnectionError,  # noqa: A004 - botocore's own.
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    PartialCredentialsError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from ..errors import CredentialsError
from ..keys import printable
from .programs import ProgramError

ORIGINS = {
    "env": "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "shared-credentials-file": "AWS's credentials file",
    "config-file": "AWS's configuration file",
    "sso": "single sign-on",
    "login": "aws login",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity's role",
    "custom-process": "credential_process",
    "container-role": "this container's role",
    "iam-role": "this machine's role",
}
"""botocore's words for where credentials come from."""
_LATER = "try again later; a proxy or gateway may have answered in its place"
_SENDABLE = re.compile(r"[!-~]+")
_CACHE_KEY = re.compile(r"[0-9a-f]{40}")
_VARIABLES = {
    "access key": "AWS_ACCESS_KEY_ID",
    "secret key": "AWS_SECRET_ACCESS_KEY",
    "session token": "AWS_SESSION_TOKEN",
}
CHOOSE = "choose a profile with --profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@dataclass(frozen=True, slots=True)
class Asked:
    """Who was asked for credentials.

    Attributes:
        method: The provider, in botocore's word; None before the first.
        profile: The profile that they are for.
        profiles: What the configuration has of each.
    """

    method: str | None
    profile: str
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The provider, in our words."""
        return ORIGINS.get(str(self.method), str(self.method))

    @property
    def named(self) -> str:
        """The option that names the profile to the AWS CLI."""
        return _named(self.profile)


class CodeWantedError(Exception):
    """A provider wants an MFA code."""


def late(asked: Asked, seconds: float) -> CredentialsError:
    """Return what an attempt comes to that has taken too long."""
    match asked.method:
        case None:
            return unusable(
                f"AWS's files were not read within {seconds:g} seconds",
                "see whether what AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name is on a disk that does not answer",
            )
        case "custom-process":
            why = "run the profile's credential_process by hand to see why"
        case _:
            why = "check the network on the way to it"
    return unusable(f"{asked.name} gave none within {seconds:g} seconds", f"{why}; --retry-for says how long it has")


def reason_of(error: Exception, asked: Asked) -> CredentialsError:
    """Say why there are no credentials, without repeating what may hold some."""
    match error:
        case CodeWantedError():
            return unusable(
                f"the role of profile {printable(asked.profile)} wants an MFA code, which is not asked for here",
                f"`aws sts get-caller-identity{asked.named}` asks for the code, and what it is given is used here",
            )
        case Exception() if _is_about_login(error):
            login = f"aws sso login{_named(_signing_on(asked))}"
            return unusable("the login of single sign-on has expired, or there is none", login)
        case InvalidConfigError() | ConfigNotFound() | PartialCredentialsError():  # They quote names, no values.
            return unusable(printable(str(error)), "correct the profile, or choose another one with --profile")
        case RuntimeError() if "expired" in str(error):
            return expired(asked)
    return (
        _reason_of_program(error, asked)
        or _reason_of_host(error, asked)
        or unusable(f"what {asked.name} gave cannot be used ({type(error).__name__})", _see(asked))
    )


def _reason_of_program(error: Exception, asked: Asked) -> CredentialsError | None:
    """Say what is wrong with a program or a file; None if it is neither."""
    match error:
        case ProgramError():
            return unusable(
                f"credential_process {error}; run its command by hand to see why",
                f"see what `aws configure get credential_process{asked.named}` says",
            )
        case CredentialRetrievalError() if asked.method == "custom-process":
            lacks = str(error.kwargs.get("error_msg", "")).startswith("Missing required key")
            what = "lacks AccessKeyId or SecretAccessKey" if lacks else 'has no "Version": 1'
            return unusable(f"what credential_process printed {what}", "correct what the program prints")
        case ValueError() if asked.method == "custom-process":
            return unusable(
                "what credential_process printed is no JSON that can be used", "correct what the program prints"
            )
        case KeyError():
            return unusable(f"what {asked.name} gave lacks {printable(str(error)[:64])}", _see(asked))
        case OSError() if error.strerror:
            where = f" {printable(str(error.filename))}" if error.filename else ""
            return unusable(f"{asked.name}:{where} {error.strerror}", CHOOSE)
    return None


def _reason_of_host(error: Exception, asked: Asked) -> CredentialsError | None:
    """Say what is wrong with a host that was asked; None if none was."""
    match error:
        case ClientError():
            code = printable(str(error.response.get("Error", {}).get("Code", "Unknown"))[:64])
            if not code.isdecimal():
                return unusable(f"{error.operation_name} was refused: {code}", _see(asked))
            return unusable(f"{error.operation_name} was answered with {code}, and not as AWS does", _LATER)
        case ResponseParserError():
            return unusable(f"what was asked for {asked.name} did not answer as AWS does", _LATER)
        case HTTPClientError() | ConnectionError():
            return _unreached(error, asked)
        case CredentialRetrievalError():
            return unusable(f"{asked.name} gave none", _see(asked))
        case ValueError() if "Auth token value" in str(error):
            told = "AWS_CONTAINER_AUTHORIZATION_TOKEN, or the file that is named for it, has a line end in it"
            return unusable(told, "set it again without one")
        case ValueError() if str(error).startswith("Unsupported host"):  # botocore's words, and the host.
            return unusable(printable(str(error)), "check AWS_CONTAINER_CREDENTIALS_FULL_URI")
    return None


def _unreached(error: HTTPClientError | ConnectionError, asked: Asked) -> CredentialsError:
    """Say what could not be reached. Not in botocore's words, which may hold a proxy's password."""
    host = urlsplit(str(error.kwargs.get("endpoint_url", ""))).hostname
    where = f" at {printable(host)}" if host else ""
    if isinstance(error, SSLError):
        return unusable(
            f"{asked.name} needs a host{where} whose certificate is not trusted",
            "if it is your own network's, AWS_CA_BUNDLE names the file of those to trust",
        )
    return unusable(f"{asked.name} cannot be had: no answer{where}", "check the network and the proxy")


def check(access: object, secret: object, token: object, method: str | None) -> None:
    """Refuse keys that cannot be sent.

    Args:
        access: The access key.
        secret: The secret key, which is not sent itself, so that it need not be ASCII.
        token: The session token; none if it is empty.
        method: Where they came from; None for the keys that a role is assumed with.
    """
    for name, value in (("access key", access), ("secret key", secret), ("session token", token)):
        if name == "session token" and not value:
            continue
        fault = _fault(value, is_sent=name != "secret key")
        if fault is None:
            continue
        place = "the keys that the role is assumed with" if method is None else ORIGINS.get(method, method)
        if method == "env":
            place = _VARIABLES[name]
        hint = f"set the {name} again, without blanks and line ends" if value else f"set the {name}"
        raise unusable(f"the {name} {fault} ({place})", hint)


def _fault(value: object, *, is_sent: bool) -> str | None:
    if not value:
        return "is empty"
    if not isinstance(value, str):
        return "is no text"
    if any(line_end in value for line_end in "\r\n"):
        return "has a line end in it"
    if any(character.isspace() for character in value):
        return "has a blank in it"
    if not (_SENDABLE.fullmatch(value) if is_sent else value.isprintable()):
        return "has a character in it that cannot be sent"
    return None


def expired(asked: Asked) -> CredentialsError:
    """Return what credentials come to that have ended."""
    return unusable(f"those of {asked.name} have expired", "renew them, and see whether this machine's clock is right")


def _is_about_login(error: Exception) -> bool:
    """Say whether single sign-on has to be done again: it is over, was never done, or its file is damaged."""
    match error:
        case SSOError() | TokenRetrievalError():
            return True
        case ClientError(operation_name="GetRoleCredentials"):
            return bool(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 401)
        case KeyError():
            return _CACHE_KEY.fullmatch(str(error.args[0])) is not None if error.args else False
    return False


def _signing_on(asked: Asked) -> str:
    """Return the profile that signs on: of roles that are assumed from one another, the last one's."""
    profile, seen = asked.profile, list[str]()
    while profile not in seen and not any(name.startswith("sso_") for name in asked.profiles.get(profile, {})):
        seen.append(profile)
        profile = asked.profiles.get(profile, {}).get("source_profile", profile)
    return profile


def _named(profile: str) -> str:
    return "" if profile == "default" else f" --profile {shlex.quote(profile)}"


def _see(asked: Asked) -> str:
    return f"see what `aws sts get-caller-identity{asked.named}` says, or choose another --profile"


def unusable(why: str, hint: str) -> CredentialsError:
    """Return what keeps credentials from being used, in a sentence, with the next step."""
    return CredentialsError(f"no usable AWS credentials: {why}", hint)
