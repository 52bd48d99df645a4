"""Who the credentials are and where the region was set, as far as this machine knows: nobody is asked."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.session import AioSession

from ..settings import Source
from .session import Session, core_of

_SHOWN_CHARACTERS = 4
_DECLARED = {
    "sso_session": "sso",
    "sso_start_url": "sso",
    "credential_process": "custom-process",
    "role_arn": "assume-role",
    "aws_access_key_id": "shared-credentials-file",
}
"""What in a profile says how its credentials are had, in botocore's words for it. The first of them counts here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose credentials they are.

    Attributes:
        method: Where they came from, in botocore's word: `env`, `shared-credentials-file`, `sso`, `assume-role`, ...
        profile: The profile that they are of; None for those that are of none.
        key: The access key's id, all but its ends left out.
        account: The number of the account, where the key's id tells it.
        is_temporary: Whether a session token goes with them.
        renews: Whether they are fetched anew by themselves before they end.
        expires: When they end, if that is known.
    """

    method: str
    profile: str | None = None
    key: str = ""
    account: str | None = None
    is_temporary: bool = False
    renews: bool = False
    expires: datetime | None = None


async def identity_of(session: Session) -> Identity | None:
    """Return whose credentials a session has; None where requests are not signed.

    Raises:
        CredentialsError: They cannot be had any more.
    """
    present = await session.credentials()
    if present is None:
        return None
    provided = session.provided
    assert provided is not None
    method = provided.method
    return Identity(
        method=method,
        profile=profile_of(session.source) if method != "env" else None,
        key=shortened(present.access_key),
        account=account_of(present.access_key) if is_aws(session.endpoint) else None,
        is_temporary=bool(present.token),
        renews=provided.expires is not None and method != "env",  # Variables of a process stay as they are.
        expires=provided.expires,
    )


def shortened(key: str) -> str:
    """Return an access key's id without its middle, and nothing of one that would not be hidden by that.

    >>> shortened("AKIAIOSFODNN7EXAMPLE")
    'AKIA...MPLE'
    """
    return f"{key[:_SHOWN_CHARACTERS]}...{key[-_SHOWN_CHARACTERS:]}" if len(key) >= 4 * _SHOWN_CHARACTERS else "..."


def account_of(key: str) -> str | None:
    """Return the number of the account that an AWS access key belongs to, which the key's id has in it.

    Those that were made before 2019 or so have something else there, and a zero before it.

    >>> account_of("ASIAQNZGKIQY56JQ7WML")
    '029608264753'

    Source: Tal Be'ery, *A short note on AWS KEY ID* (2023).
    """
    try:
        encoded = int.from_bytes(base64.b32decode(key[4:20])[:6])
    except (binascii.Error, ValueError):
        return None
    return f"{encoded >> 7 & (1 << 40) - 1:012}" if len(key) == 20 and encoded >> 47 else None


def is_aws(endpoint: str) -> bool:
    """Say whether an endpoint is AWS's own, whose access keys have a form."""
    host = urlsplit(f"//{endpoint}").hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def profile_of(source: Source) -> str | None:
    """Return the profile that AWS's files are read for."""
    return core_of(source).profile or "default"


def method_of(source: Source) -> str | None:
    """Return how the profile says that credentials are had, in botocore's word; None if it does not."""
    core = core_of(source)
    profile: dict[str, Any] = core.full_config["profiles"].get(core.profile or "default", {})
    return next((method for name, method in _DECLARED.items() if name in profile), None)


def region_origin(source: Source) -> str:
    """Return where the region was set."""
    if source.region:
        return "--region"
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        core = AioSession(profile=source.profile)
        core.session_var_map["region"] = (None, [name], None, None)
        if core.get_config_variable("region"):
            return name
    plain = AioSession(profile=source.profile)
    return f"profile {plain.profile or 'default'}" if plain.get_scoped_config().get("region") else "the default"
