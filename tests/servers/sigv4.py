"""What a server makes of a signature: AWS Signature Version 4 for S3, from the side that holds the secret.

It shares nothing with the signer of the package, nor with botocore's. The request is taken as it came over the wire and is
encoded once more, as servers do, so that a client that signs one text and sends another is found out.

Source: *Authenticating Requests: Using the Authorization Header*, Amazon S3 API Reference.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

SKEW_MAX = timedelta(minutes=15)
_FORM = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>.+)/(?P<day>[0-9]{8})/(?P<region>[^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=(?P<names>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_BODIES = ("UNSIGNED-PAYLOAD", hashlib.sha256(b"").hexdigest())
"""What a request without a body may say of it."""


class Refusal(NamedTuple):
    """Why a request is refused: an error of S3's."""

    status: int
    code: str
    message: str


def verify(
    method: str,
    target: str,
    headers: Mapping[str, str],
    secrets: Mapping[str, str],
    *,
    region: str,
    now: datetime | None,
) -> Refusal | None:
    """Return why a signed request is refused; None if its signature is right.

    Args:
        method: The method.
        target: Path and query as they came.
        headers: The headers, names in lower case.
        secrets: The secret of each access key.
        region: The region that has to be signed.
        now: The time; None to take a signature of any.
    """
    form = _FORM.fullmatch(headers.get("authorization", ""))
    if form is None:
        return Refusal(400, "InvalidArgument", "Unsupported Authorization Type")
    if form["region"] != region:
        return Refusal(
            400, "AuthorizationHeaderMalformed", f"the region '{form['region']}' is wrong; expecting '{region}'"
        )
    try:
        signed_at = datetime.strptime(headers.get("x-amz-date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return Refusal(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    if now is not None and abs(now - signed_at) > SKEW_MAX:
        return Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and ours is too large.")
    if headers.get("x-amz-content-sha256") not in _BODIES:
        return Refusal(400, "XAmzContentSHA256Mismatch", "x-amz-content-sha256 is not that of the body")
    if form["key"] not in secrets:
        return Refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    names = form["names"].split(";")
    if unsigned := {"host", *(name for name in headers if name.startswith("x-amz-"))} - {*names}:
        return Refusal(403, "AccessDenied", f"There were headers which were not signed: {', '.join(sorted(unsigned))}")
    scope = f"{form['day']}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical_request(method, target, headers, names).encode()).hexdigest()
    key = f"AWS4{secrets[form['key']]}".encode()
    for word in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"):
        key = hmac.digest(key, word.encode(), "sha256")
    if key.hex() != form["signature"] or not headers["x-amz-date"].startswith(form["day"]):
        return Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
    return None


def canonical_request(method: str, target: str, headers: Mapping[str, str], names: list[str]) -> str:
    """Return the text that stands for a request in its signature.

    Args:
        method: The method.
        target: Path and query as they came.
        headers: The headers, names in lower case.
        names: Those that are signed.
    """
    path, _, query = target.partition("?")
    pairs = sorted(
        (_encoded(name, ""), _encoded(value, ""))
        for name, _, value in (p.partition("=") for p in query.split("&") if p)
    )
    return "\n".join(
        [
            method,
            _encoded(path, "/"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            headers.get("x-amz-content-sha256", ""),
        ]
    )


def _encoded(text: str, safe: str) -> str:
    """Encode what is encoded already, in the one way in which it is signed."""
    return quote(unquote_to_bytes(text.encode("latin-1")), safe=f"{safe}-_.~")
