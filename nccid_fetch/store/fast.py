"""The fast reader, over obstore: TLS, HTTP and signatures outside Python, one call per small object.

What it cannot do, the reference reader does: keys that its paths cannot express, headers, and saying why a
request was refused. It follows redirects, and nothing turns that off; so it is given a proxy that does not
exist, with the endpoint's own host exempt from it: a redirect to any other host ends there, unsent.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, GenericError, PreconditionError
from obstore.store import S3Store

from ..errors import ObjectError, Reason, RefusedError, TransientError
from ..model import Chunk, ETag, RemoteObject
from .protocol import CHUNK_BYTES, WHOLE_BYTES_MAX, Body, Facts
from .session import CONNECT_TIMEOUT_SECONDS, Session

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, S3Credential

_NOWHERE = "http://127.0.0.1:0"
_INEXPRESSIBLE = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")
_FAILURES_MAX = 8
"""A reader of which so many first requests fail and none succeeds does not get along with this server at all: it
may, say, not accept a certificate that the AWS CLI accepts. Objects then go straight to the reference reader."""
_FRESH = timedelta(minutes=4)
"""How long the store keeps temporary credentials before it asks the session again."""


class FastReader:
    """Reads objects with obstore.

    Args:
        session: The open session.
        connections: Connections to keep open.
    """

    def __init__(self, session: Session, *, connections: int) -> None:
        self._endpoint = session.endpoint
        self._answered = False
        self._failures = 0
        address = urlsplit(session.base_url)
        path_style = address.path.strip("/") != ""
        options: ClientConfig = {
            "allow_http": address.scheme == "http",
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_SECONDS),
            "read_timeout": timedelta(seconds=session.stall_seconds),
            "timeout": timedelta(days=1),  # Of a whole body, however large; a stall ends it sooner.
            "pool_max_idle_per_host": str(connections),
            "user_agent": "nccid-fetch",
        }
        if not session.proxied:
            options["proxy_url"] = _NOWHERE
            options["proxy_excludes"] = address.hostname or ""
        if session.ca_bundle:
            options["root_certificate"] = Path(session.ca_bundle).read_bytes()

        async def credentials() -> "S3Credential":
            frozen = await session.credentials()
            if frozen is None:
                raise RefusedError("requests are not signed")
            expires_at = datetime.now(UTC) + _FRESH if session.credentials_expire else None
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": expires_at,
            }

        signing = {"skip_signature": True} if session.source.no_sign_request else {"credential_provider": credentials}
        self._store = S3Store(
            session.source.bucket,
            endpoint=session.base_url.removesuffix(f"/{session.source.bucket}"),  # A gateway may lie below a path.
            virtual_hosted_style_request=not path_style,
            region=session.region,
            client_options=options,
            retry_config={"max_retries": 0},  # The retry loop is ours: it covers the body as well.
            **signing,
        )

    def can_read(self, key: str) -> bool:
        """Say whether obstore's paths can express a key: no control character, no empty or dot segment."""
        if not self._answered and self._failures >= _FAILURES_MAX:
            return False
        return _INEXPRESSIBLE.search(key) is None

    @asynccontextmanager
    async def get(self, remote: RemoteObject, start: int = 0) -> AsyncIterator[Body]:
        """Open an object's body; see `Reader.get`. A refusal is left to the reference reader to explain."""
        options: GetOptions = {"if_match": remote.etag.header}
        if start:
            options["range"] = {"offset": start}
        try:
            result = await obstore.get_async(self._store, remote.key, options=options)
        except PreconditionError as error:
            raise ObjectError(
                Reason.CHANGED, "it was replaced after it was listed; a rerun fetches the new version"
            ) from error
        except GenericError as error:
            self._failures += 1
            raise RefusedError(f"{self._endpoint} did not give it") from error
        except (BaseError, OSError) as error:
            raise RefusedError(f"{self._endpoint} refused it") from error
        self._answered = True
        yield _FastBody(result, self._endpoint)


class _FastBody:
    facts: Facts | None = None

    def __init__(self, result: "GetResult", endpoint: str) -> None:
        self.etag = ETag.parse(result.meta["e_tag"] or "")
        start, stop = result.range
        self.length = stop - start
        self._result, self._endpoint = result, endpoint

    async def chunks(self) -> AsyncIterator[Chunk]:
        try:
            if self.length <= WHOLE_BYTES_MAX:
                yield memoryview(await self._result.bytes_async())
            else:
                async for chunk in self._result.stream(min_chunk_size=CHUNK_BYTES):
                    yield memoryview(chunk)
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._endpoint} broke off a body") from error
