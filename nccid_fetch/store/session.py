"""One aioboto3 session: whose credentials, which endpoint, and an HTTP client that refuses redirects.

aioboto3 knows profiles, SSO, assumed roles, `credential_process`, proxies, certificates and where a bucket's
address lies; nothing of that is repeated here. What it would do by default and must not: follow a redirect
to another host and send the session token there, ask HeadBucket for a region, retry behind our back.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aioboto3
import aiobotocore.session
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, NoCredentialsError, ProfileNotFound
from botocore.utils import get_environ_proxies

from .. import warehouse
from ..errors import AccessError, UsageError
from ..settings import Source
from .answers import run_error

CONNECT_TIMEOUT_SECONDS = 10.0


class StrictSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP client, but every redirect is an error instead of another request."""

    async def _get_session(self, proxy_url: str | None) -> Any:  # noqa: ANN401 - stands in for aiohttp's.
        session = await super()._get_session(proxy_url)
        return _WithoutRedirects(session)

    async def send(self, request: AWSPreparedRequest) -> Any:  # noqa: ANN401 - an AioAWSResponse, untyped.
        """Send a signed request.

        Raises:
            RedirectRefusedError: The answer points elsewhere.
        """
        response = await super().send(request)
        if 300 <= response.status_code < 400 and response.status_code != 304:
            response.raw.close()
            error = run_error(response.status_code, "", response.headers, urlsplit(request.url).netloc)
            if error is not None:
                raise error
        return response


class _WithoutRedirects:
    """An aiohttp session whose requests end at the first answer."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - aiohttp's, or one of these already.
        self._session = session

    def request(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passes on what it is given.
        return self._session.request(*arguments, **options, allow_redirects=False)


class Session:
    """Open access to one bucket.

    Attributes:
        source: What was asked for.
        client: The aioboto3 S3 client, for the reference reader.
        http: The HTTP client for signed requests of our own.
        base_url: The bucket's address, without a trailing slash, as AWS's endpoint rules have it.
        region: The region that signatures name.
        proxied: Whether requests to the bucket go through a proxy.
        ca_bundle: Path of the certificates to trust (`AWS_CA_BUNDLE`), if set.
        stall_seconds: A read that waits longer fails.
    """

    def __init__(
        self,
        source: Source,
        client: Any,  # noqa: ANN401 - aioboto3 has no types.
        http: StrictSession,
        credentials: Any,  # noqa: ANN401 - botocore has no types.
        *,
        base_url: str,
        proxied: bool,
        ca_bundle: str | None,
        stall_seconds: float,
    ) -> None:
        self.source = source
        self.client = client
        self.http = http
        self.base_url = base_url
        self.region: str = client.meta.region_name
        self.proxied = proxied
        self.ca_bundle = ca_bundle
        self.stall_seconds = stall_seconds
        self._credentials = credentials

    @property
    def endpoint(self) -> str:
        """The host that is asked, for messages."""
        return urlsplit(self.base_url).netloc

    async def credentials(self) -> ReadOnlyCredentials | None:
        """Return the present credentials, refreshed if they are due; None when requests are not signed.

        Raises:
            AccessError: They cannot be refreshed.
        """
        if self._credentials is None:
            return None
        try:
            return await self._credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise _no_credentials(error) from error

    @property
    def credentials_expire(self) -> bool:
        """Whether the credentials are temporary ones that the session refreshes."""
        return hasattr(self._credentials, "refresh_needed")

    async def sign(self, request: AWSRequest) -> AWSPreparedRequest:
        """Return a request signed for S3, or as it is when requests are not signed."""
        credentials = await self.credentials()
        if credentials is not None:
            S3SigV4Auth(credentials, "s3", self.region).add_auth(request)
        return request.prepare()


@asynccontextmanager
async def open_session(source: Source, *, connections: int, stall_seconds: float) -> AsyncIterator[Session]:
    """Open a session: find credentials, region and endpoint. Asks nothing of the endpoint itself.

    Args:
        source: Bucket, group, profile, region, endpoint.
        connections: The most connections that may be open at once.
        stall_seconds: A read that waits longer fails.

    Raises:
        AccessError: There are no credentials.
        UsageError: The profile or the endpoint is not one.
    """
    core = aiobotocore.session.AioSession()
    # boto3 reads AWS_DEFAULT_REGION alone; the AWS CLI v2, and our contract, know AWS_REGION as well.
    core.session_var_map["region"] = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
    try:
        session = aioboto3.Session(botocore_session=core, profile_name=source.profile)
        region = source.region or session.region_name or warehouse.REGION
        credentials = None if source.no_sign_request else await _load_credentials(core)
    except ProfileNotFound as error:
        raise UsageError(str(error), hint="aws configure list-profiles shows the known ones") from error
    config = AioConfig(
        http_session_cls=StrictSession,
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
            # A presigned URL is the public way to learn where AWS's rules place a bucket.
            located = await client.generate_presigned_url("list_objects_v2", Params={"Bucket": source.bucket})
        except (BotoCoreError, ValueError) as error:
            raise UsageError(
                f"the S3 client cannot be set up: {error}", hint="check --endpoint-url and --region"
            ) from error
        base_url = located.partition("?")[0].rstrip("/")
        source.check_endpoint(base_url)  # It may have come from AWS_ENDPOINT_URL or a profile.
        proxies = get_environ_proxies(base_url)
        ca_bundle = core.get_config_variable("ca_bundle")
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
            base_url=base_url,
            proxied=bool(proxies),
            ca_bundle=ca_bundle,
            stall_seconds=stall_seconds,
        )


async def _load_credentials(core: aiobotocore.session.AioSession) -> Any:  # noqa: ANN401 - botocore has no types.
    try:
        credentials = await core.get_credentials()
    except ProfileNotFound:
        raise
    except BotoCoreError as error:
        raise _no_credentials(error) from error
    if credentials is None:
        raise _no_credentials(NoCredentialsError())
    return credentials


def _no_credentials(error: BotoCoreError) -> AccessError:
    return AccessError(
        f"no usable AWS credentials: {error}",
        hint="choose a profile with --profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
