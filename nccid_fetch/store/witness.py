"""What the answers of an endpoint tell beside what was asked: how soon they came, and what time it is there; and its certificate."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Any
from urllib.parse import urlsplit

from .answers import time_of
from .session import Session
from .strict import resolved

_HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that came. Times are seconds since the epoch, by this machine's clock but for the last.

    Attributes:
        sent: When its request was sent.
        received: When its head was here.
        date: What the server said that the time was; whole seconds, rounded down. None if it did not.
    """

    sent: float
    received: float
    date: float | None = None

    @property
    def round_trip_seconds(self) -> float:
        """How long it took."""
        return self.received - self.sent

    @property
    def offset_seconds(self) -> float | None:
        """How far this machine's clock is ahead of the server's, give or take half a second and half the round trip."""
        return None if self.date is None else (self.sent + self.received) / 2 - (self.date + 0.5)


class Witness:
    """Sends a session's own requests, and notes the answers.

    Args:
        session: The session; from now on it sends by way of this.
        now: This machine's clock.

    Attributes:
        answers: All that came so far.
    """

    def __init__(self, session: Session, now: Callable[[], float] = time) -> None:
        self.answers: list[Answered] = []
        self._http = session.http
        self._now = now
        session.http = self  # type: ignore[assignment]

    async def send(self, request: Any) -> Any:  # noqa: ANN401 - botocore has no types.
        """Send a request, as the client does that stood here before."""
        sent = self._now()
        response = await self._http.send(request)
        self.answers.append(Answered(sent, self._now(), _seconds(response.headers.get("date"))))
        return response

    @property
    def quickest(self) -> Answered | None:
        """The answer that came soonest after its request: it says most about the clock, and about the way there."""
        return min(self.answers, key=lambda answer: (answer.date is None, answer.round_trip_seconds), default=None)


def _seconds(date: str | None) -> float | None:
    time = time_of(date)
    return None if time is None else time.timestamp()


@dataclass(frozen=True, slots=True)
class Encryption:
    """How an endpoint is spoken to.

    Attributes:
        version: The version of TLS.
        issuer: Who signed its certificate.
    """

    version: str
    issuer: str


async def encryption_of(session: Session) -> Encryption | None:
    """Shake hands with the endpoint once and say nothing; None where that is not to be had, or a proxy is between.

    What is wrong with a certificate is found, and told, by whoever asks for something.
    """
    parts = urlsplit(session.address.url)
    if parts.scheme != "https" or session.proxy:
        return None
    with suppress(OSError):
        context = ssl.create_default_context(cafile=session.certificates)
        host = parts.hostname or ""
        _, writer = await asyncio.open_connection(
            resolved(host), parts.port or _HTTPS_PORT, ssl=context, server_hostname=host
        )
        try:
            connection = writer.get_extra_info("ssl_object")
            return Encryption(str(connection.version()), _issuer(connection.getpeercert()))
        finally:
            writer.transport.abort()
    return None


def _issuer(certificate: dict[str, Any]) -> str:
    names = {name: value for relative in certificate.get("issuer", ()) for name, value in relative}
    return str(names.get("organizationName") or names.get("commonName") or "nobody that is named")
