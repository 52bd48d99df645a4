"""Signing GETs by AWS Signature Version 4, at a few microseconds each.

botocore signs any request, at many times the cost; one test holds both to the same signatures. The key that
signs is good for a day and is kept; what is left for a request are two digests.

Source: *Signature Version 4 signing process*, AWS documentation.
"""

import hashlib
import hmac
from functools import lru_cache
from time import gmtime, strftime

from botocore.credentials import ReadOnlyCredentials

_NO_BODY = hashlib.sha256(b"").hexdigest()


class Signer:
    """Signs GETs to one host.

    Args:
        host: The host, with its port if that is not the scheme's own.
        region: The region that signatures name.
    """

    def __init__(self, host: str, region: str) -> None:
        self._host = host
        self._region = region
        self._kept: tuple[tuple[str, str], hmac.HMAC] | None = None

    def headers(
        self, target: str, extra: dict[str, str], credentials: ReadOnlyCredentials, now: float
    ) -> dict[str, str]:
        """Return the headers that sign a GET.

        Args:
            target: The path as it is sent, and the query if there is one: see `Address`, which encodes and orders both.
            extra: Further headers to sign: names in lower case, values of printable ASCII without blanks at either end.
            credentials: Whose signature it is.
            now: The time, in seconds since the epoch.

        Returns:
            All headers to send, those in `extra` among them, except `host`.
        """
        time = _text(int(now))
        signed = {"x-amz-content-sha256": _NO_BODY, "x-amz-date": time, **extra}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted([*signed, "host"])
        lines = "".join(f"{name}:{self._host if name == 'host' else signed[name]}\n" for name in names)
        listed = ";".join(names)
        path, _, query = target.partition("?")
        request = f"GET\n{path}\n{query}\n{lines}\n{listed}\n{_NO_BODY}"
        scope = f"{time[:8]}/{self._region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}"
        signature = self._keyed(credentials.secret_key, time[:8])
        signature.update(text.encode())
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={listed}, Signature={signature.hexdigest()}"
        )
        return signed

    def _keyed(self, secret: str, day: str) -> hmac.HMAC:
        """Return a new HMAC with the key of a day.

        A copy, because `hmac.digest` lets other threads in each time, which costs more than it does.
        """
        if self._kept is None or self._kept[0] != (secret, day):
            key = f"AWS4{secret}".encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._kept = (secret, day), hmac.new(key, digestmod="sha256")
        return self._kept[1].copy()


@lru_cache(maxsize=4)
def _text(second: int) -> str:
    return strftime("%Y%m%dT%H%M%SZ", gmtime(second))
