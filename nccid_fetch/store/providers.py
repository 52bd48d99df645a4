"""Credentials from AWS's own chain of providers: variables, files, single sign-on, roles, containers, programs.

botocore's synchronous providers are asked, from the beginning each time, in a thread that can be left behind. So no
provider holds up the event loop, the run or the end of the process. None can prompt: there is no terminal for a program
and no prompter for an MFA code. What a provider raises is a reason, of any type (`reasons`).
"""

import os
import shlex
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleProvider, ProcessProvider, ReadOnlyCredentials
from botocore.exceptions import ConfigParseError, ProfileNotFound
from botocore.httpsession import get_cert_path
from botocore.utils import JSONFileCache

from .. import warehouse
from ..doctor.in_time import in_time
from ..errors import CredentialsError, RunError, UsageError
from ..keys import printable
from ..settings import Source
from .programs import Programs
from .reasons import CHOOSE, Asked, CodeWantedError, check, expired, late, reason_of, unusable

T = TypeVar("T")

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 20.0
"""For STS and single sign-on; botocore's own 60, five times over, are more than a run waits."""


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
        self._asked = Asked(None, source.profile or "default")

    def credentials(self) -> Provided:
        """Return the first credentials that a provider has.

        Raises:
            CredentialsError: None has any that can be used.
            ConfigParseError: The configuration cannot be read.
            ProfileNotFound: It has no such profile.
        """
        core = _Core(self._source)
        try:
            profile = core.profile or "default"
            for provider in self._providers(core):
                self._asked = Asked(provider.METHOD, profile, core.full_config.get("profiles", {}))
                found = provider.load()
                if found is not None:
                    return self._provided(found)
        except (CredentialsError, ConfigParseError, ProfileNotFound):
            raise
        except Exception as error:  # noqa: BLE001 - all that a provider raises is a reason.
            raise reason_of(error, self._asked) from None
        raise unusable(*_nothing(core, self._asked))

    def late(self, seconds: float) -> CredentialsError:
        """Return what an attempt comes to that has taken too long."""
        return late(self._asked, seconds)

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
        check(keys.access_key, keys.secret_key, keys.token, method)
        if expires is not None and expires <= datetime.now(UTC):
            raise expired(self._asked)
        return Provided(keys, method, expires)


class _Core(botocore.session.Session):  # type: ignore[misc]
    """A botocore session, which has read nothing yet. Its clients are the providers' own: STS and single sign-on."""

    def __init__(self, source: Source) -> None:
        super().__init__(profile=source.profile)
        set_up(self, source)
        self.set_default_client_config(Config(connect_timeout=CONNECT_SECONDS, read_timeout=ANSWER_SECONDS))

    def create_client(self, service_name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - botocore has no types.
        """Return a client that verifies certificates: with the name of an empty file, botocore's own would verify none."""
        if options.get("aws_access_key_id") is not None:
            check(
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
        return unusable(
            f"{printable(path)} cannot be read", "correct it: sections, and lines of a name, `=` and a value"
        )
    return UsageError(f"AWS's configuration cannot be read: {printable(str(error))}", hint="check ~/.aws/config")


def _path(core: Any, name: str) -> str:  # noqa: ANN401 - botocore has no types.
    return os.path.expanduser(os.path.expandvars(str(core.get_config_variable(name))))  # noqa: PTH111 - as botocore does.


def _refuse_to_prompt(_: str) -> str:
    raise CodeWantedError


_FILES = {"AWS_CONFIG_FILE": "config_file", "AWS_SHARED_CREDENTIALS_FILE": "credentials_file"}


def _nothing(core: _Core, asked: Asked) -> tuple[str, str]:
    """Say what there is in place of credentials."""
    for name in reversed(_FILES.values()):
        path = _path(core, name)
        with suppress(OSError):
            kind = os.stat(path).st_mode  # noqa: PTH116
            if stat.S_ISDIR(kind) or stat.S_ISFIFO(kind):  # botocore reads neither, and says nothing.
                what = "a folder" if stat.S_ISDIR(kind) else "a pipe"
                return f"{printable(path)} is {what}, and no file", CHOOSE
        if os.path.exists(path) and not os.access(path, os.R_OK):  # noqa: PTH110
            return f"{printable(path)} may not be read", f"check the rights of {shlex.quote(path)}"
    if "login_session" in asked.profiles.get(asked.profile, {}):
        exported = f"aws configure export-credentials{asked.named} --format env"
        return "`aws login` is not known here", f'eval "$({exported})"'
    return "there are none in variables, files, a container or this machine's role", CHOOSE
