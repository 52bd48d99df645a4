"""Credentials from AWS's own chain of providers: variables, files, single sign-on, roles, containers, programs.

botocore's synchronous providers are asked, from the beginning each time, in a thread that can be left behind. So no
provider holds up the event loop, the run or the end of the process. None can prompt: there is no terminal for a program
and no prompter for an MFA code. What a provider raises is a reason, whatever its type:

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

import os
import re
import shlex
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleProvider, ProcessProvider, ReadOnlyCredentials
from botocore.exceptions import (
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    ConnectionError,  # noqa: A004 - botocore's own.
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError
from botocore.utils import JSONFileCache

from .. import warehouse
from ..doctor.in_time import in_time
from ..errors import CredentialsError, RunError, UsageError
from ..keys import printable
from ..settings import Source
from .programs import ProgramError, Programs

T = TypeVar("T")

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 20.0
"""For STS and single sign-on; botocore's own 60, five times over, are more than a run waits."""
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
_CHOOSE = "choose a profile with --profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@dataclass(frozen=True, slots=True)
class Provided:
    """Credentials as they are now.

    Attributes:
        keys: What requests are signed with.
        method: Where they came from, in botocore's word.
        expires: When they end, if that is known.
    """

    keys: ReadOnlyCredentials
    method: str
    expires: datetime | None = None


async def ask(source: Source, work: Callable[["Attempt"], T], seconds: float) -> T:
    """Do work that AWS's configuration and providers may hold up, in a thread of its own.

    Args:
        source: Profile and region.
        work: What to do with the attempt.
        seconds: How long to wait for it.

    Raises:
        CredentialsError: It took longer. What it started is ended.
    """
    attempt = Attempt(source)
    try:
        return await in_time(lambda: work(attempt), seconds)
    except TimeoutError:
        raise attempt.late(seconds) from None
    finally:
        attempt.programs.end()


class Attempt:
    """One attempt to get credentials. Blocks.

    Attributes:
        programs: What it started.

    Args:
        source: Profile and region.
    """

    def __init__(self, source: Source) -> None:
        self.programs = Programs()
        self._source = source
        self._method: str | None = None
        self._profile = source.profile or "default"

    def credentials(self) -> Provided:
        """Return the first credentials that a provider has.

        Raises:
            CredentialsError: None has any that can be used.
            ConfigParseError: The configuration cannot be read.
            ProfileNotFound: It has no such profile.
        """
        core = _Core(self._source)
        try:
            self._profile = core.profile or "default"
            for provider in self._providers(core):
                self._method = provider.METHOD
                found = provider.load()
                if found is not None:
                    return self._provided(found)
        except CredentialsError:
            raise
        except (ConfigParseError, ProfileNotFound):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a provider raises is a reason.
            raise self._reason(error, core) from None
        raise _unusable(*_nothing(core, self._profile))

    def late(self, seconds: float) -> CredentialsError:
        """Return what an attempt comes to that has taken too long."""
        match self._method:
            case None:
                files = " and ".join(_FILES)
                return _unusable(
                    f"AWS's files were not read within {seconds:g} seconds",
                    f"see whether what {files} name is a pipe, or on a disk that does not answer",
                )
            case "custom-process":
                why = "run the profile's credential_process by hand to see why"
            case _:
                why = "check the network on the way to it"
        return _unusable(
            f"{self._name} gave none within {seconds:g} seconds; {why}", f"{why}; --retry-for says how long it has"
        )

    @property
    def _name(self) -> str:
        return ORIGINS.get(str(self._method), str(self._method))

    def _providers(self, core: "_Core") -> list[Any]:
        """Return botocore's providers, none of which can prompt or leave a program behind."""
        providers: list[Any] = core.get_component("credential_provider").providers

        def of_process(profile: str) -> ProcessProvider:
            return ProcessProvider(profile, load_config=lambda: core.full_config, popen=self.programs.start)

        for provider in providers:
            if isinstance(provider, ProcessProvider):
                provider._popen = self.programs.start  # noqa: SLF001 - botocore offers no other way.
            elif isinstance(provider, AssumeRoleProvider):
                provider.cache = _CliCache()
                provider._prompter = _refuse_to_prompt  # noqa: SLF001
                provider._profile_provider_builder._create_process_provider = of_process  # noqa: SLF001 - the source profile's.
        return providers

    def _provided(self, found: Any) -> Provided:  # noqa: ANN401 - botocore has no types.
        found._advisory_refresh_timeout = 0  # noqa: SLF001 - what was fetched just now is not fetched again.
        keys = found.get_frozen_credentials()
        method = str(found.method)
        expires = getattr(found, "_expiry_time", None)
        _check(keys.access_key, keys.secret_key, keys.token, method)
        if expires is not None and expires <= datetime.now(UTC):
            raise _expired(self._name)
        return Provided(keys, method, expires)

    def _reason(self, error: Exception, core: "_Core") -> CredentialsError:
        """Say why there are no credentials, without repeating what may hold some."""
        named = _named(self._profile)
        match error:
            case _CodeWantedError():
                return _unusable(
                    f"the role of profile {printable(self._profile)} wants an MFA code, and nobody is asked for one here",
                    f"`aws sts get-caller-identity{named}` asks for the code, and what it is given is used here",
                )
            case Exception() if _is_about_login(error):
                login = f"aws sso login{_named(_signing_on(core, self._profile))}"
                return _unusable("the login of single sign-on has expired, or there is none", login)
            case InvalidConfigError() | ConfigNotFound() | PartialCredentialsError():  # They quote names, no values.
                return _unusable(printable(str(error)), "correct the profile, or choose another one with --profile")
            case RuntimeError() if "expired" in str(error):
                return _expired(self._name)
        return (
            self._reason_of_program(error)
            or self._reason_of_host(error)
            or _unusable(f"what {self._name} gave cannot be used ({type(error).__name__})", _see(named))
        )

    def _reason_of_program(self, error: Exception) -> CredentialsError | None:
        """Say what is wrong with a program or a file; None if it is neither."""
        named = _named(self._profile)
        match error:
            case ProgramError():
                return _unusable(
                    f"credential_process {error}; run its command by hand to see why",
                    f"see what `aws configure get credential_process{named}` says",
                )
            case CredentialRetrievalError() if self._method == "custom-process":
                lacks = str(error.kwargs.get("error_msg", "")).startswith("Missing required key")
                what = "lacks AccessKeyId or SecretAccessKey" if lacks else 'has no "Version": 1'
                return _unusable(f"what credential_process printed {what}", "correct what the program prints")
            case KeyError():
                return _unusable(f"what {self._name} gave lacks {printable(str(error)[:64])}", _see(named))
            case OSError() if error.strerror:
                where = f" {printable(str(error.filename))}" if error.filename else ""
                return _unusable(f"{self._name}:{where} {error.strerror}", _CHOOSE)
        return None

    def _reason_of_host(self, error: Exception) -> CredentialsError | None:
        """Say what is wrong with a host that was asked; None if none was."""
        named = _named(self._profile)
        match error:
            case ClientError():
                code = printable(str(error.response.get("Error", {}).get("Code", "Unknown"))[:64])
                if not code.isdecimal():
                    return _unusable(f"{error.operation_name} was refused: {code}", _see(named))
                return _unusable(f"{error.operation_name} was answered with {code}, and not as AWS does", _LATER)
            case ResponseParserError():
                return _unusable(f"what was asked for {self._name} did not answer as AWS does", _LATER)
            case HTTPClientError() | ConnectionError():
                return self._unreached(error)
            case CredentialRetrievalError():
                return _unusable(f"{self._name} gave none", _see(named))
            case ValueError() if "Auth token value" in str(error):
                told = "AWS_CONTAINER_AUTHORIZATION_TOKEN, or the file that is named for it, has a line end in it"
                return _unusable(told, "set it again without one")
            case ValueError() if str(error).startswith("Unsupported host"):  # botocore's words, and the host.
                return _unusable(printable(str(error)), "check AWS_CONTAINER_CREDENTIALS_FULL_URI")
        return None

    def _unreached(self, error: HTTPClientError | ConnectionError) -> CredentialsError:
        """Say what could not be reached. Not in botocore's words, which may hold a proxy's password."""
        host = urlsplit(str(error.kwargs.get("endpoint_url", ""))).hostname
        where = f" at {printable(host)}" if host else ""
        if isinstance(error, SSLError):
            return _unusable(
                f"{self._name} needs a host{where} whose certificate is not trusted",
                "if it is your own network's, AWS_CA_BUNDLE names the file of those to trust",
            )
        return _unusable(f"{self._name} cannot be had: no answer{where}", "check the network and the proxy")


class _Core(botocore.session.Session):  # type: ignore[misc]
    """A botocore session, which has read nothing yet. Its clients are the providers' own: STS and single sign-on."""

    def __init__(self, source: Source) -> None:
        super().__init__(profile=source.profile)
        set_up(self, source)
        self.set_default_client_config(Config(connect_timeout=CONNECT_SECONDS, read_timeout=ANSWER_SECONDS))

    def create_client(self, service_name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - botocore has no types.
        """Return a client that verifies certificates: with the name of an empty file, botocore's own would verify none."""
        if options.get("aws_access_key_id") is not None:
            _check(
                options["aws_access_key_id"],
                options.get("aws_secret_access_key"),
                options.get("aws_session_token"),
                None,
            )
        options["verify"] = get_cert_path(certificates_of(self) or True)
        return super().create_client(service_name, *arguments, **options)


class _CliCache(JSONFileCache):  # type: ignore[misc]
    """What the AWS CLI keeps of the roles that it assumed. It is read, and never written."""

    def __init__(self) -> None:
        super().__init__(os.path.join(os.path.expanduser("~"), ".aws", "cli", "cache"))  # noqa: PTH111, PTH118 - a text, as there.

    def __contains__(self, key: object) -> bool:
        try:
            kept = self[key]["Credentials"]
            return all(isinstance(kept[name], str) for name in ("AccessKeyId", "SecretAccessKey", "Expiration"))
        except (KeyError, TypeError):  # There is none, or it is damaged.
            return False

    def __setitem__(self, key: object, value: object) -> None:
        """Keep nothing."""


def set_up(core: Any, source: Source) -> None:  # noqa: ANN401 - botocore has no types.
    """Have a botocore session of either kind read settings as the AWS CLI does."""
    # boto3 reads AWS_DEFAULT_REGION alone; the AWS CLI v2, and our contract, know AWS_REGION as well.
    core.session_var_map["region"] = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
    core.session_var_map["requests_ca_bundle"] = (None, "REQUESTS_CA_BUNDLE", None, None)
    # STS and single sign-on have no region of their own.
    core.set_config_variable("region", source.region or core.get_config_variable("region") or warehouse.REGION)


def certificates_of(core: Any) -> str | None:  # noqa: ANN401 - botocore has no types.
    """Return the path of the certificates to trust: of AWS_CA_BUNDLE, ca_bundle or REQUESTS_CA_BUNDLE, as the AWS CLI has it.

    An empty one names nothing. None stands for botocore's own.
    """
    named = core.get_config_variable("ca_bundle") or core.get_config_variable("requests_ca_bundle")
    return os.path.expanduser(str(named)) if named else None  # noqa: PTH111 - as urllib3 does; Path fails without a home.


def configuration_error(error: Exception, source: Source) -> RunError:
    """Return what a configuration comes to that cannot be read, without a line of it.

    Args:
        error: What botocore raised.
        source: Profile and region.
    """
    if isinstance(error, ProfileNotFound):
        return UsageError(printable(str(error)), hint="aws configure list-profiles shows the known ones")
    path = str(error.kwargs["path"]) if isinstance(error, ConfigParseError) else None
    if path is not None and path == _path(botocore.session.Session(profile=source.profile), "credentials_file"):
        return _unusable(
            f"{printable(path)} cannot be read", "correct it: sections, and lines of a name, `=` and a value"
        )
    return UsageError(f"AWS's configuration cannot be read: {printable(str(error))}", hint="check ~/.aws/config")


def _path(core: Any, name: str) -> str:  # noqa: ANN401 - botocore has no types.
    return os.path.expanduser(os.path.expandvars(str(core.get_config_variable(name))))  # noqa: PTH111 - as botocore does.


class _CodeWantedError(Exception):
    """A provider wants an MFA code."""


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


def _refuse_to_prompt(_: str) -> str:
    raise _CodeWantedError


def _check(access: object, secret: object, token: object, method: str | None) -> None:
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
        raise _unusable(f"the {name} {fault} ({place})", hint)


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


def _expired(name: str) -> CredentialsError:
    return _unusable(f"those of {name} have expired", "renew them, and see whether this machine's clock is right")


_FILES = {"AWS_CONFIG_FILE": "config_file", "AWS_SHARED_CREDENTIALS_FILE": "credentials_file"}


def _nothing(core: _Core, profile: str) -> tuple[str, str]:
    """Say what there is in place of credentials."""
    for name in reversed(_FILES.values()):
        path = _path(core, name)
        with suppress(OSError):
            kind = os.stat(path).st_mode  # noqa: PTH116
            if stat.S_ISDIR(kind) or stat.S_ISFIFO(kind):  # botocore reads neither, and says nothing.
                what = "a folder" if stat.S_ISDIR(kind) else "a pipe"
                return f"{printable(path)} is {what}, and no file", _CHOOSE
        if os.path.exists(path) and not os.access(path, os.R_OK):  # noqa: PTH110
            return f"{printable(path)} may not be read", f"check the rights of {shlex.quote(path)}"
    if "login_session" in core.full_config.get("profiles", {}).get(profile, {}):
        exported = f"aws configure export-credentials{_named(profile)} --format env"
        return "`aws login` is not known here", f'eval "$({exported})"'
    return "there are none in variables, files, a container or this machine's role", _CHOOSE


def _signing_on(core: _Core, profile: str) -> str:
    """Return the profile that signs on: of roles that are assumed from one another, the last one's."""
    profiles = core.full_config.get("profiles", {})
    seen: list[str] = []
    while profile not in seen and not any(name.startswith("sso_") for name in profiles.get(profile, {})):
        seen.append(profile)
        profile = profiles.get(profile, {}).get("source_profile", profile)
    return profile


def _named(profile: str) -> str:
    return "" if profile == "default" else f" --profile {shlex.quote(profile)}"


def _see(named: str) -> str:
    return f"see what `aws sts get-caller-identity{named}` says, or choose another --profile"


def _unusable(why: str, hint: str) -> CredentialsError:
    return CredentialsError(f"no usable AWS credentials: {why}", hint)
