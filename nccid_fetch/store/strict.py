"""aiobotocore's HTTP client, as strict as patients' data and session tokens want it.

What it would do by default and must not: follow a redirect to another host and send the session token there, take any
certificate for any host, read an error to its end however long it is, fail at a header that is no UTF-8.
"""

import re
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import (
    ClientConnectorCertificateError,
    ClientHttpProxyError,
    ClientResponseError,
    ClientTimeout,
    ThreadedResolver,
)
from aiohttp.abc import ResolveResult
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import (
    BotoCoreError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)

from ..errors import ProxyError, TransientError, UnreachableError, UntrustedError
from ..keys import printable
from .answers import ERROR_BYTES_MAX, document_of

_USED = re.compile(
    rb"date|etag|location|retry-after|content-(?:length|range|type|encoding)|"
    rb"x-amz-(?:bucket-region|request-id|id-2|checksum-.*|server-side-encryption.*)",
    re.IGNORECASE,
)
"""The headers of an answer that something here reads."""
_PARTS_COUNT = re.compile(rb"x-amz-mp-parts-count", re.IGNORECASE)
_LIMITED_RECEIVE_BYTES = 128 << 10
LIMITED_AHEAD_BYTES = 2 * _LIMITED_RECEIVE_BYTES
"""What the system receives of a body before it is asked for, all the same: Linux allots twice what it is told to."""
LIMITED_READ_BYTES = 32 << 10
"""aiohttp reads ahead twice what was ever asked for at once, and by itself half a mebibyte."""


class StrictSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP client, but sure of whom it talks to, and with no more than it was asked for.

    A redirect is an answer like any other, and no reason to ask elsewhere. A certificate is always verified, and is the
    host's: aiobotocore leaves the host's name to a urllib3 that it does not use, verifies nothing behind a proxy, and
    nothing either where the name of a CA bundle is empty. What an error says is read up to a bound. A header that is no
    UTF-8, such as a name with an accent in an object's metadata, is no reason to fail.
    """

    def __init__(self, *, verify: str | bool | None = True, **options: Any) -> None:  # noqa: ANN401 - aiobotocore's.
        super().__init__(verify=verify or True, **options)

    def _get_ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._get_ssl_context()
        context.check_hostname = True
        return context

    def _create_connector(self, proxy_url: str | None) -> Any:  # noqa: ANN401, ARG002 - aiohttp's.
        self._connector_args["resolver"] = _Resolver()  # Here, because it wants a running loop.
        return super()._create_connector(None)  # As without a proxy; which one it is, each request says.

    async def _get_session(self, proxy_url: str | None) -> Any:  # noqa: ANN401 - stands in for aiohttp's.
        session = await super()._get_session(proxy_url)
        return _Strict(session)

    async def send(self, request: AWSPreparedRequest) -> Any:  # noqa: ANN401 - botocore has no types.
        """Send a request. Of a refusal, which botocore would read to its end and parse, little is left."""
        response = await super().send(request)
        if request.stream_output and response.status_code >= 300:
            response.raw = _Refusal(response.raw)
        return response


class LimitedSession(StrictSession):
    """The same for a run whose bandwidth is limited: of what is not asked for yet, as little comes as can be."""

    async def _get_session(self, proxy_url: str | None) -> Any:  # noqa: ANN401 - stands in for aiohttp's.
        return _Limited(await super()._get_session(proxy_url))


def receive_little(connection: Any) -> None:  # noqa: ANN401 - a socket, or what uvloop has in its place.
    """Let the system receive little of what nobody has taken: it would be some MiB for each connection, in no time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LIMITED_RECEIVE_BYTES)


def resolved(host: str) -> str:
    """Return the name to look up for a host: what lies below `localhost` is this machine.

    So RFC 6761 has it, and libcurl; many systems find no such name, or ask the network for it.
    """
    return "localhost" if host.endswith(".localhost") else host


class _Resolver(ThreadedResolver):
    """aiohttp's, for which a bucket below `localhost` is on this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. They keep its own name, which is what its certificate has to be of."""
        found = await super().resolve(resolved(host), port, family)
        for each in found:
            each["hostname"] = host
        return found


class _Refusal:
    """An answer that is an error: as much of its body as an error document of S3's can have."""

    def __init__(self, raw: Any) -> None:  # noqa: ANN401 - aiohttp's.
        self._raw = raw

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - passes on what it is asked.
        return getattr(self._raw, name)

    async def read(self) -> bytes:
        """Return the body if it is an error document of S3's, else nothing: botocore takes other documents for one."""
        body = bytearray()
        try:
            async for chunk in self._raw.content.iter_any():
                body += chunk
                if len(body) > ERROR_BYTES_MAX:
                    body.clear()
                    break
        finally:
            self._raw.close()
        return bytes(body) if document_of(bytes(body)) else b""


class _Strict:
    """An aiohttp session whose requests end at the first answer."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - aiohttp's, or one of these already.
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passes on what it is given.
        if options.get("proxy"):
            options["timeout"] = _with_proxy(self._session.timeout)
        return _Answer(await self._session.request(*arguments, **options, allow_redirects=False))


def _with_proxy(timeout: ClientTimeout) -> ClientTimeout:
    """Limit how long a proxy may take to connect as well: aiohttp would wait for its answer to CONNECT for ever."""
    connect = None if timeout.sock_connect is None else 2 * timeout.sock_connect
    return ClientTimeout(connect=connect, sock_connect=timeout.sock_connect, sock_read=timeout.sock_read)


class _Limited:
    """A session that reads hardly more of a body than it is asked for."""

    def __init__(self, session: _Strict) -> None:
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passes on what it is given.
        answer = await self._session.request(*arguments, **options, read_bufsize=LIMITED_READ_BYTES)
        if (connection := answer.connection) is not None:  # None where all of it has come already.
            receive_little(connection.transport.get_extra_info("socket"))
        return answer


class _Answer:
    """An aiohttp response with the headers that are used, in UTF-8.

    aiobotocore takes UTF-8 for granted: other bytes are escaped. botocore reads every header that it knows, and fails at a
    number or a time that is none, with the connection still in use: what is not used is left out.
    """

    def __init__(self, response: Any) -> None:  # noqa: ANN401 - aiohttp's.
        self._response = response

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (name, value.decode(errors="backslashreplace").encode())
            for name, value in self._response.raw_headers
            if _USED.fullmatch(name) or (_PARTS_COUNT.fullmatch(name) and value.isdigit())
        ]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the response has.
        return getattr(self._response, name)


class StrictConfig(AioConfig):  # type: ignore[misc]
    """A configuration with the strict client. Merged with another one, aiobotocore's would forget its client.

    Args:
        is_limited: Whether the run's bandwidth is limited.
        options: botocore's.
    """

    def __init__(self, *, is_limited: bool = False, **options: Any) -> None:  # noqa: ANN401 - botocore has no types.
        super().__init__(http_session_cls=LimitedSession if is_limited else StrictSession, **options)
        self._is_limited = is_limited

    def merge(self, other_config: Any) -> "StrictConfig":  # noqa: ANN401 - botocore has no types.
        """Return this configuration with another one's options over its own."""
        options = self._user_provided_options | other_config._user_provided_options  # noqa: SLF001
        return StrictConfig(is_limited=self._is_limited or getattr(other_config, "_is_limited", False), **options)


def shown_proxy(url: str) -> str:
    """Return a proxy's host and port: no user and no password.

    >>> shown_proxy("http://user:secret@proxy.example:3128/")
    'proxy.example:3128'
    """
    parts = urlsplit(url if "://" in url else f"//{url}")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return printable(f"{host}{'' if parts.port is None else f':{parts.port}'}")


def failure_of(error: BotoCoreError, endpoint: str, proxy: str | None, *, of: str = "") -> TransientError:
    """Return what a request comes to that was not answered.

    ============================================  ==========================================================
    What happened                                 Then
    ============================================  ==========================================================
    a certificate is not trusted                  UntrustedError: it may be a captive portal's
    the proxy answered, and does not connect      ProxyError with its status
    no connection, with or without a proxy        ProxyError, UnreachableError: nothing was sent
    a connection ended, or its answer is no HTTP  TransientError, which names the proxy
    ============================================  ==========================================================

    A client's own words are not repeated where there is a proxy: they may quote its address with its password.

    Args:
        error: What the client raised.
        endpoint: The host that was asked.
        proxy: The proxy on the way there, as `shown_proxy` has it; None for none.
        of: What was asked for, for the message.
    """
    cause = error.kwargs.get("error")
    if isinstance(cause, ClientConnectorCertificateError):
        why = printable(getattr(cause.certificate_error, "verify_message", "") or "it cannot be verified").rstrip(".")
        return UntrustedError(
            f"{endpoint} shows a certificate that is not trusted ({why}); if it is your own network's, AWS_CA_BUNDLE "
            "names the file of those to trust"
        )
    if isinstance(cause, ClientHttpProxyError):
        told = f"{cause.status} {printable(cause.message[:80])}".rstrip()
        return ProxyError(f"the proxy {proxy} does not connect to {endpoint}: it answered {told}", has_answered=True)
    if isinstance(error, ProxyConnectionError):
        return ProxyError(f"the proxy {proxy} cannot be reached")
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, SSLError)):
        if proxy is not None:
            return ProxyError(f"{endpoint} cannot be reached through the proxy {proxy}")
        return UnreachableError(f"{endpoint} cannot be reached")
    where = endpoint if proxy is None else f"{endpoint} (through the proxy {proxy})"
    if isinstance(cause, ClientResponseError):
        return TransientError(f"{where} sent an answer that is not HTTP")
    return TransientError(f"{where} broke off{of and f' {of}'}: {printable(type(error).__name__)}")
