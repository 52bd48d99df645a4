"""One aioboto3 session: whose credentials, and which endpoint.

aioboto3 knows profiles, SSO, assumed roles, `credential_process`, proxies, certificates and where a bucket's
address lies; nothing of that is repeated here. What it would do by default and must not: ask HeadBucket for a
region, hold checksums of ranges against bodies, retry behind our back; and what `strict` is for.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aioboto3
import aiobotocore.session
from aiobotocore.credentials import AioProcessProvider
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ProfileNotFound,
)
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from .. import warehouse
from ..bandwidth import Bandwidth
from ..errors import CredentialsError, UsageError
from ..governor import Governor
from ..keys import printable
from ..settings import Source
from . import programs
from .address import Address
from .strict import StrictConfig, StrictSession

CONNECT_TIMEOUT_SECONDS = 10.0
ASK_SECONDS = 10.0
"""Whoever gives credentials is asked whether they are due once in so long. botocore would ask for each request in their last
minutes, one after the other, where nothing newer is had."""
RENEWAL_SECONDS = 120.0
"""Whoever gives credentials has so long: a program may wait for somebody who is not there, and the run with it, for ever."""
_CREDENTIAL_FAILURES = (
    *(BotoCoreError, ClientError, OSError, ValueError),
    *(AttributeError, LookupError, RuntimeError, TypeError),
)
"""What comes of a provider's answer, of STS, of a `credential_process` that is not there, or prints no JSON, or another
one. botocore says with a RuntimeError that what it was given has expired."""


class Session:
    """Open access to one bucket.

    Attributes:
        source: What was asked for.
        client: The aioboto3 S3 client, for the reference reader.
        http: The HTTP client for signed requests of our own.
        address: The bucket's address, as AWS's endpoint rules have it.
        proxy: The proxy that requests to the bucket go through, or None.
        certificates: Path of the certificates to trust: those of `AWS_CA_BUNDLE`, else botocore's.
        stall_seconds: A read that waits longer fails.
        governor: What every request passes through.
        bandwidth: What the bytes of every answer are taken from; None where there is no limit.
        at_close: Takes a function to call when the session closes.
    """

    def __init__(
        self,
        source: Source,
        client: Any,  # noqa: ANN401 - aioboto3 has no types.
        http: StrictSession,
        credentials: "_Current | None",
        *,
        address: Address,
        proxy: str | None,
        certificates: str,
        stall_seconds: float,
        governor: Governor,
        bandwidth: Bandwidth | None,
        at_close: Callable[[Callable[[], None]], object],
    ) -> None:
        self.source = source
        self.client = client
        self.http = http
        self.address = address
        self.proxy = proxy
        self.certificates = certificates
        self.stall_seconds = stall_seconds
        self.governor = governor
        self.bandwidth = bandwidth
        self.at_close = at_close
        self._credentials = credentials

    @property
    def endpoint(self) -> str:
        """The host that is asked, for messages."""
        return self.address.host

    @property
    def provided(self) -> Any:  # noqa: ANN401 - botocore has no types.
        """The credentials as botocore has them, which know where they came from and when they end; None without any."""
        return self._credentials

    async def credentials(self) -> ReadOnlyCredentials | None:
        """Return the present credentials, refreshed if they are due; None when requests are not signed.

        Raises:
            CredentialsError: They cannot be refreshed. Whoever asks next gets those that there are, which may still be good.
        """
        if self._credentials is None:
            return None
        try:
            return await self._credentials.get_frozen_credentials()
        except _CREDENTIAL_FAILURES as error:
            raise _no_credentials(error) from None

    async def renew(self) -> bool:
        """Read the credentials anew, from wherever they come: variables, files, single sign-on, roles, processes.

        Returns:
            Whether they are others than before.

        Raises:
            CredentialsError: There are none to be had.
        """
        if self._credentials is None:
            return False
        try:
            async with asyncio.timeout(RENEWAL_SECONDS):
                fresh = await _load_credentials(core_of(self.source))
                after = await fresh.get_frozen_credentials()
        except _CREDENTIAL_FAILURES as error:
            raise _no_credentials(error) from None
        return self._credentials.take(fresh, after)

    def request(self, size: int = 0) -> AbstractAsyncContextManager[None]:
        """Return what a request is sent in: it waits while the run is held, and for bandwidth. See `Governor.request`.

        Args:
            size: Bytes to take before it is sent.
        """
        bandwidth = self.bandwidth
        ready = None if bandwidth is None else lambda: bandwidth.take(size)
        return self.governor.request(self.renew, ready)

    async def sign(self, request: AWSRequest) -> AWSPreparedRequest:
        """Return a request signed for S3, or as it is when requests are not signed."""
        credentials = await self.credentials()
        if credentials is not None:
            S3SigV4Auth(credentials, "s3", self.address.region).add_auth(request)
        return request.prepare()


class _Current:
    """Stands for the present credentials, for a client that keeps what it was given.

    Args:
        present: botocore's credentials, which refresh themselves if they can.
        last: What they are now.
    """

    def __init__(self, present: Any, last: ReadOnlyCredentials) -> None:  # noqa: ANN401 - botocore has no types.
        self._last = last
        self.take(present, last)

    def take(self, present: Any, last: ReadOnlyCredentials) -> bool:  # noqa: ANN401 - as above.
        """Stand for others from now on, and say whether they are others."""
        before, self._present, self._last = self._last, present, last
        self._due = monotonic() + ASK_SECONDS
        return bool(before != last)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return what they are; whoever gives them is asked by one request at a time, and the others take what there is."""
        if monotonic() >= self._due:
            self._due = monotonic() + ASK_SECONDS
            present = self._present
            async with asyncio.timeout(RENEWAL_SECONDS):
                last = await present.get_frozen_credentials()
            if present is self._present:
                self._last = last
        return self._last

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever botocore wants of them.
        return getattr(self._present, name)

    async def load_credentials(self) -> "_Current":
        """Be botocore's provider of credentials as well."""
        return self


@asynccontextmanager
async def open_session(
    source: Source,
    *,
    connections: int,
    stall_seconds: float,
    governor: Governor | None = None,
    bandwidth: Bandwidth | None = None,
) -> AsyncIterator[Session]:
    """Open a session: find credentials, region and endpoint. Asks nothing of the endpoint itself.

    Args:
        source: Bucket, group, profile, region, endpoint.
        connections: The most connections that may be open at once.
        stall_seconds: A read that waits longer fails.
        governor: What every request passes through.
        bandwidth: What the bytes of every answer are taken from; None for no limit.

    Raises:
        AccessError: There are no credentials.
        UsageError: The profile or the endpoint is not one.
    """
    try:
        core = core_of(source)
        session = aioboto3.Session(botocore_session=core)
        region = source.region or session.region_name or warehouse.REGION
        credentials = None
        if not source.no_sign_request:
            async with asyncio.timeout(RENEWAL_SECONDS):
                found = await _load_credentials(core_of(source))  # Not by this one, which would keep them.
                credentials = _Current(found, await found.get_frozen_credentials())
            core.register_component("credential_provider", credentials)
    except ProfileNotFound as error:
        raise UsageError(str(error), hint="aws configure list-profiles shows the known ones") from error
    except TimeoutError as error:
        raise _no_credentials(error) from None
    except BotoCoreError as error:
        # Not with its cause, which quotes the line that it could not read.
        raise UsageError(f"AWS's configuration cannot be read: {error}", hint="check ~/.aws/config") from None
    ca_bundle = core.get_config_variable("ca_bundle")
    _check_certificates(ca_bundle)
    config = StrictConfig(
        is_limited=bandwidth is not None,
        signature_version=UNSIGNED if source.no_sign_request else "s3v4",
        retries={"total_max_attempts": 1},  # The retry loop is ours: it covers the body as well.
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=stall_seconds,
        max_pool_connections=connections,
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
    )
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(
                session.client("s3", region_name=region, endpoint_url=source.endpoint_url, config=config)
            )
            client.meta.events.register("before-call.s3", _stay_here)
            client.meta.events.register("before-call.s3", _leave_proof_to_us)
            address = await _locate(client, source.bucket)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(
                f"the S3 client cannot be set up: {error}", hint="check --endpoint-url and --region"
            ) from error
        source.check_endpoint(address.url)  # It may have come from AWS_ENDPOINT_URL or a profile.
        proxies = get_environ_proxies(address.url)
        _check_proxies(proxies)
        http = await stack.enter_async_context(
            StrictSession(
                verify=ca_bundle or True,
                proxies=proxies,
                timeout=(CONNECT_TIMEOUT_SECONDS, stall_seconds),
                max_pool_connections=connections,
            )
        )
        yield Session(
            source,
            client,
            http,
            credentials,
            address=address,
            proxy=proxies.get(address.scheme),
            certificates=get_cert_path(ca_bundle or True),
            stall_seconds=stall_seconds,
            governor=governor or Governor(),
            bandwidth=bandwidth,
            at_close=stack.callback,
        )


class _Located(Exception):  # noqa: N818 - the way out of a request that is not sent, not a fault.
    """Carries the request that was about to be signed."""

    def __init__(self, request: AWSRequest) -> None:
        super().__init__()
        self.request = request


async def _locate(client: Any, bucket: str) -> Address:  # noqa: ANN401 - aioboto3 has no types.
    """Return a bucket's address as AWS's rules have it, by way of a request that is stopped before it is signed.

    A presigned URL would do, but names the global endpoint where the client itself asks the region's. The region of
    signatures is the rules' as well: for `aws-global` it is us-east-1.
    """

    def stop(request: AWSRequest, **_: Any) -> None:  # noqa: ANN401 - botocore has no types.
        raise _Located(request)

    client.meta.events.register("before-sign.s3", stop)
    try:
        await client.list_objects_v2(Bucket=bucket)
    except _Located as located:
        signing = located.request.context.get("signing", {})
        return Address.of(located.request.url, signing.get("region") or client.meta.region_name)
    finally:
        client.meta.events.unregister("before-sign.s3", stop)
    raise AssertionError("the request was sent")


def _check_proxies(proxies: dict[str, str]) -> None:
    """Refuse a proxy that is no URL now: each client would say so later, and show it with its password."""
    for scheme, url in proxies.items():
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            is_one = bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one:
            raise UsageError(
                f"the proxy for {scheme} is not a URL",
                hint="check HTTPS_PROXY and HTTP_PROXY, for example http://host:3128",
            )


def _check_certificates(path: str | None) -> None:
    """Refuse certificates that cannot be read now: each client would say so later, in its own way."""
    if path:
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            raise UsageError(
                f"the certificates in {path} cannot be read: {error}", hint="check AWS_CA_BUNDLE and REQUESTS_CA_BUNDLE"
            ) from error


def _stay_here(params: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - botocore has no types.
    """Mark a request as redirected once already, which is how botocore is told not to redirect it.

    It would take an error for a wrong region, ask HeadBucket, and send the request again to another host.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _leave_proof_to_us(params: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - botocore has no types.
    """Let botocore hold no checksum against a body: it takes one that comes with a range for that of the range.

    S3 sends that of the whole object there, or of its parts, so that no body could be resumed. `proof` knows which count.
    """
    params["context"].get("checksum", {}).pop("response_algorithms", None)


def core_of(source: Source) -> aiobotocore.session.AioSession:
    """Return a botocore session, which has read nothing yet."""
    core = aiobotocore.session.AioSession(profile=source.profile)
    # boto3 reads AWS_DEFAULT_REGION alone; the AWS CLI v2, and our contract, know AWS_REGION as well.
    core.session_var_map["region"] = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
    core.set_default_client_config(StrictConfig())  # Also for those whom providers of credentials ask: STS, SSO.
    # They have no region of their own.
    core.set_config_variable("region", source.region or core.get_config_variable("region") or warehouse.REGION)
    return core


async def _load_credentials(core: aiobotocore.session.AioSession) -> Any:  # noqa: ANN401 - botocore has no types.
    try:
        for provider in core.get_component("credential_provider").providers:
            if isinstance(provider, AioProcessProvider):
                provider._popen = programs.start  # noqa: SLF001 - its own starts what nobody ends.
        credentials = await core.get_credentials()
        if credentials is not None:
            await credentials.get_frozen_credentials()  # Temporary ones are fetched now, or cannot be.
    except (ProfileNotFound, ConfigParseError):
        raise
    except _CREDENTIAL_FAILURES as error:
        raise _no_credentials(error) from None
    if credentials is None:
        raise _no_credentials(NoCredentialsError())
    return credentials


def _no_credentials(error: Exception) -> CredentialsError:
    """Say why there are no credentials, without repeating what may hold some.

    A program's complaint may have its output in it, and STS quotes a request that it does not accept, headers and all.
    """
    if isinstance(error, TimeoutError) and error.errno is None:  # Ours; one of the system's has a number.
        why = f"none came within {RENEWAL_SECONDS:g} seconds; run the profile's credential_process by hand to see why"
    elif isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "Unknown"))
        why = f"{error.operation_name} was refused: {printable(code[:64])}"
    elif isinstance(error, CredentialRetrievalError):
        provider = error.kwargs["provider"]
        why = (
            "credential_process gave none; run its command by hand to see why"
            if provider == "custom-process"
            else f"{printable(str(provider))} gave none"
        )
    elif type(error) is HTTPClientError:
        why = "whoever gives them cannot be asked; check the proxy"  # What it complains of may be the proxy's password.
    else:
        why = printable(str(error))
    return CredentialsError(
        f"no usable AWS credentials: {why}",
        hint="choose a profile with --profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
