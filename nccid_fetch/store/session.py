"""One aioboto3 session: whose credentials, and which endpoint.

aioboto3 knows profiles, proxies, and where a bucket's address lies, and `providers` asks for credentials; nothing of
that is repeated here. What it would do by default and must not: ask HeadBucket for a
region, hold checksums of ranges against bodies, retry behind our back; and what `strict` is for.
"""

import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aioboto3
import aiobotocore.session
from aiobotocore.credentials import AioCredentials
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from .. import warehouse
from ..bandwidth import Bandwidth
from ..errors import CredentialsError, UsageError
from ..governor import Governor
from ..keys import printable
from ..settings import Source
from .address import Address
from .providers import Attempt, Provided, ask, certificates_of, configuration_error, set_up
from .strict import StrictConfig, StrictSession, shown_proxy

CONNECT_TIMEOUT_SECONDS = 10.0
_USER = re.compile(r"//\S*@")
"""The name and the password in a URL."""
EARLY_SECONDS = 900.0
"""Credentials are renewed when they have less left, as botocore does it."""
ASK_SECONDS = 10.0
"""Providers are asked for others once in so long: for a while they may have nothing newer."""
PROVIDERS_SECONDS_MIN = 10.0
PROVIDERS_SECONDS_MAX = 120.0
"""Providers are waited for as long as the run may still be held (`--retry-for`), and between these: a program may wait for
an answer that never comes."""


class Session:
    """Open access to one bucket.

    Attributes:
        source: What was asked for.
        client: The aioboto3 S3 client, for the reference reader.
        http: The HTTP client for signed requests of our own.
        address: The bucket's address, as AWS's endpoint rules have it.
        proxy: The proxy that requests to the bucket go through, or None.
        certificates: Path of the certificates to trust; see `providers.certificates_of`.
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
        current: "_Current | None",
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
        self._current = current

    @property
    def endpoint(self) -> str:
        """The host that is asked, for messages."""
        return self.address.host

    @property
    def proxy_name(self) -> str | None:
        """Host and port of the proxy, for messages; None without one."""
        return None if self.proxy is None else shown_proxy(self.proxy)

    @property
    def where(self) -> str:
        """The host that is asked, and the proxy on the way there, for messages about an answer: either may have given it."""
        return self.endpoint if self.proxy is None else f"{self.endpoint} (through the proxy {self.proxy_name})"

    @property
    def provided(self) -> Provided | None:
        """The present credentials, where they came from and when they end; None without any."""
        return None if self._current is None else self._current.provided

    async def credentials(self) -> ReadOnlyCredentials | None:
        """Return the present credentials, renewed if they end soon; None when requests are not signed.

        Raises:
            CredentialsError: They have ended, and there are no others.
        """
        return None if self._current is None else await self._current.get_frozen_credentials()

    async def renew(self) -> bool:
        """Read the credentials anew, from wherever they come: variables, files, single sign-on, roles, processes.

        Returns:
            Whether they are others than before.

        Raises:
            CredentialsError: There are none to be had.
        """
        if self._current is None:
            return False
        before, provided = self._current.provided, await _provided(self.source, self.governor)
        self._current.take(provided)
        return bool(provided.keys != before.keys)

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
    """Stands for the present credentials, for a client that keeps what it was given, and renews them before they end.

    They are renewed by one request at a time, and the others take what there is. A renewal that fails is tried again, and
    does not matter before they have ended.

    Args:
        provided: What they are now.
        ask: Asks the providers for others.
    """

    def __init__(self, provided: Provided, ask: Callable[[], Awaitable[Provided]]) -> None:
        self._ask = ask
        self.take(provided)

    def take(self, provided: Provided) -> None:
        """Stand for others from now on."""
        self.provided = provided
        self._due = monotonic() + ASK_SECONDS
        self._plain = AioCredentials(*provided.keys[:3], method=provided.method)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return what they are.

        Raises:
            CredentialsError: They have ended, and there are no others.
        """
        if self._left() < EARLY_SECONDS and monotonic() >= self._due:
            self._due = monotonic() + ASK_SECONDS
            before = self.provided
            with suppress(CredentialsError):
                provided = await self._ask()
                if self.provided is before:  # Else they were read again meanwhile.
                    self.take(provided)
        if self._left() <= 0:
            raise CredentialsError("the credentials have expired, and are read again")
        return self.provided.keys

    def _left(self) -> float:
        expires = self.provided.expires
        return inf if expires is None else (expires - datetime.now(UTC)).total_seconds()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever botocore wants of them.
        return getattr(self._plain, name)

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
    governor = governor or Governor()

    def prepared(attempt: Attempt) -> tuple[aiobotocore.session.AioSession, Provided | None]:
        core = core_of(source)
        core.full_config  # noqa: B018 - is read here and kept: a file may be a pipe, or on a disk that hangs.
        _check_certificates(certificates_of(core))
        return core, None if source.no_sign_request else attempt.credentials()

    try:
        core, provided = await ask(source, prepared, _patience(governor))
        session = aioboto3.Session(botocore_session=core)
        region = source.region or session.region_name or warehouse.REGION
    except (BotoCoreError, ValueError) as error:
        raise configuration_error(error, source) from None  # Not with its cause, which quotes a line.
    current = None
    if provided is not None:
        current = _Current(provided, lambda: _provided(source, governor))
        core.register_component("credential_provider", current)
    certificates = certificates_of(core)
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
                session.client(
                    "s3",
                    region_name=region,
                    endpoint_url=source.endpoint_url,
                    verify=certificates or True,
                    config=config,
                )
            )
            client.meta.events.register("before-call.s3", _stay_here)
            client.meta.events.register("before-call.s3", _leave_proof_to_us)
            address = await _locate(client, source.bucket)
        except (BotoCoreError, ValueError) as error:  # Not with its cause, which quotes AWS_ENDPOINT_URL whole.
            told = printable(_USER.sub("//...@", str(error)))
            raise UsageError(
                f"the S3 client cannot be set up: {told}", hint="check --endpoint-url, AWS_ENDPOINT_URL and --region"
            ) from None
        source.check_endpoint(client.meta.endpoint_url)  # It may have come from AWS_ENDPOINT_URL or a profile.
        proxies = get_environ_proxies(client.meta.endpoint_url)  # As the client itself: NO_PROXY is held against that.
        _check_proxies(proxies)
        http = await stack.enter_async_context(
            StrictSession(
                verify=certificates or True,
                proxies=proxies,
                timeout=(CONNECT_TIMEOUT_SECONDS, stall_seconds),
                max_pool_connections=connections,
            )
        )
        yield Session(
            source,
            client,
            http,
            current,
            address=address,
            proxy=proxies.get(address.scheme),
            certificates=get_cert_path(certificates or True),
            stall_seconds=stall_seconds,
            governor=governor,
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
            is_one = bool(parts.hostname) and parts.port != 0 and parts.scheme in {"http", "https"}
        except ValueError:
            is_one = False
        if not is_one:
            raise UsageError(
                f"the proxy for {scheme} is not the URL of an HTTP proxy",
                hint="check HTTPS_PROXY and HTTP_PROXY, for example http://host:3128",
            )


def _check_certificates(path: str | None) -> None:
    """Refuse certificates that cannot be read now: each client would say so later, in its own way."""
    if path:
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            raise UsageError(
                f"the certificates in {path} cannot be read: {error}",
                hint="check AWS_CA_BUNDLE, ca_bundle in ~/.aws/config, and REQUESTS_CA_BUNDLE",
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
    set_up(core, source)
    return core


async def _provided(source: Source, governor: Governor) -> Provided:
    """Ask the providers, within the time that the run has for it.

    Raises:
        CredentialsError: They have none.
    """
    try:
        return await ask(source, Attempt.credentials, _patience(governor))
    except BotoCoreError as error:  # The profile is gone, or its file is being written: that may mend itself.
        told = configuration_error(error, source)
        raise CredentialsError(f"no usable AWS credentials: {told.message}", told.hint) from None


def _patience(governor: Governor) -> float:
    """Return for how many seconds providers are waited for."""
    return min(PROVIDERS_SECONDS_MAX, max(PROVIDERS_SECONDS_MIN, governor.seconds_left))
