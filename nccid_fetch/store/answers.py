"""What an S3 server's refusals mean: status and code in, our error out. One table for every client.

S3 says why it refuses a GET in an XML document, `<Error>` with a `<Code>`. An answer without one is not S3's, but that of a
proxy, a portal or a load balancer on the way. It says nothing of objects, rights or credentials, with any status.

====================================  ================================  ==========================================
Answer                                To a GET of an object             To a listing
====================================  ================================  ==========================================
S3's, about credentials, clock,       ends the run (4)                  ends the run (4)
bucket
S3's, 412 / 404 / archived / 403      changed / gone / archived /       5 / 5 / denied / denied
                                      denied
S3's, any other 4xx                   another attempt                   5
a redirect                            another attempt, then a failure   another attempt, then 5
asks to slow down; 5xx; 408           another attempt                   another attempt, then 5
any other without a document          another attempt, then a failure   another attempt, then 5
====================================  ================================  ==========================================
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from xml.etree import ElementTree as ET

from ..errors import (
    ClockError,
    CredentialsError,
    EndpointError,
    ListingDeniedError,
    ListingError,
    NccidFetchError,
    NoSuchBucketError,
    NotSupportedError,
    ObjectError,
    Reason,
    RedirectedError,
    RedirectRefusedError,
    ThrottledError,
    TokenRefusedError,
    TransientError,
    WrongRegionError,
)

ERROR_BYTES_MAX = 64 << 10
"""S3's error documents are below one KiB."""
CREDENTIAL_CODES = {
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "InvalidAccessKeyId": "the access key is not known to the server",
    "InvalidClientTokenId": "the access key is not known to the server",
    "InvalidToken": "the session token is not valid",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "TokenRefreshRequired": "the credentials have expired",
    "UnrecognizedClientException": "the access key is not known to the server",
}
EXPIRY_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
"""Those of them that a renewal mends, sooner or later."""
CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired"}
REDIRECT_CODES = {"PermanentRedirect", "TemporaryRedirect"}
THROTTLE_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
TRANSIENT_CODES = {"InternalError", "RequestTimeout"}
PORTAL_HINT = "is there a captive portal or a proxy between here and the endpoint?"
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{0,63}")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_NOT_MODIFIED = 304


class Document(NamedTuple):
    """What S3 says in an error document.

    Attributes:
        code: Its code, never empty.
        region: The region that it says the bucket is in; empty if it names none.
    """

    code: str
    region: str = ""


def document_of(body: bytes) -> Document | None:
    """Return what an S3 error document says; None for a body that is none, such as an HTML page."""
    if len(body) > ERROR_BYTES_MAX or b"<!" in body or b"\0" in body:  # As in `pages`: entities can explode.
        return None
    try:
        root = ET.fromstring(body.strip())  # noqa: S314 - no declarations, see above.
    except (
        ET.ParseError,
        ValueError,
        LookupError,
    ):  # Not well-formed, or in an encoding that the parser does not know.
        return None
    if _name(root) != "Error":
        return None
    fields = {_name(field): (field.text or "").strip() for field in root}
    if not _CODE.fullmatch(fields.get("Code", "")):
        return None
    region = fields.get("Region", "")
    return Document(fields["Code"], region if _REGION.fullmatch(region) else "")


def _name(element: ET.Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def run_error(status: int, code: str, headers: Mapping[str, str], where: str) -> NccidFetchError | None:
    """Return the error of an answer that is about the run, not about one object or prefix; else None.

    Args:
        status: HTTP status.
        code: The code of S3's error document; empty where there was none.
        headers: The answer's headers, names in lower case.
        where: The endpoint, for the message.
    """
    if code in CLOCK_CODES:
        return ClockError(
            f"this machine's clock is {_clock_offset(headers)} the server's",
            hint="set the clock (NTP), then run the same command again",
        )
    if code == "AuthorizationHeaderMalformed":
        return _wrong_region(_region(headers), where)
    if code in CREDENTIAL_CODES or (code and status == 401):
        return CredentialsError(
            f"{CREDENTIAL_CODES.get(code, 'the server does not accept the credentials')} ({where})",
            hint="renew or choose credentials (--profile, AWS_PROFILE), then run the same command again",
            are_wrong=code not in EXPIRY_CODES,
        )
    if code == "NoSuchBucket":
        return NoSuchBucketError(f"there is no such bucket at {where}", hint="check --bucket and --endpoint-url")
    if status == 429 or code in THROTTLE_CODES or (status == 503 and "retry-after" in headers):
        return ThrottledError(f"{where} asks to slow down ({_told(status, code)})", _retry_after(headers))
    if status >= 500 or status == 408 or code in TRANSIENT_CODES:
        return TransientError(f"{where} answered {_told(status, code)}")
    return None


def object_error(status: int, code: str, headers: Mapping[str, str], where: str, message: str = "") -> NccidFetchError:
    """Return the error that an answer to a GET of one object stands for.

    Args:
        status: HTTP status.
        code: The code of S3's error document; empty where there was none.
        headers: The answer's headers, names in lower case.
        where: The endpoint, for the message.
        message: What S3 said beside the code. It alone tells a key of KMS that may not be used from an object that may
            not be read.
    """
    if _is_redirect(status, code):
        return RedirectedError(_redirect(status, headers, where))
    if code and (status == 412 or code == "PreconditionFailed"):
        return ObjectError(Reason.CHANGED, "it was replaced after it was listed; a rerun fetches the new version")
    if code and status == 404 and code != "NoSuchBucket":
        return ObjectError(Reason.GONE, "it was deleted after it was listed")
    if code == "InvalidObjectState":
        return ObjectError(Reason.ARCHIVED, "it is archived and has to be restored in the bucket first")
    if code.startswith("KMS.") or (code and status == 403 and "kms:" in message.lower()):
        return ObjectError(
            Reason.DENIED, "it is encrypted, and the credentials may not use its key (KMS): they need kms:Decrypt"
        )
    error = None if code == "NotImplemented" else run_error(status, code, headers, where)
    if error is not None:
        return error
    if code and status == 403:
        return ObjectError(Reason.DENIED, "the credentials may not read it")
    kind = NotSupportedError if code else TransientError
    return kind(f"{where} answered {_told(status, code)}")


def listing_error(
    status: int, code: str, headers: Mapping[str, str], where: str, *, goes_on: bool = False
) -> NccidFetchError:
    """Return the error that an answer to a listing stands for.

    Args:
        status: HTTP status.
        code: The code of S3's error document; empty where there was none.
        headers: The answer's headers, names in lower case.
        where: The endpoint, for the message.
        goes_on: Whether it was asked to go on from a token.
    """
    if _is_redirect(status, code):
        return _redirect(status, headers, where)
    error = run_error(status, code, headers, where)
    if error is not None:
        return error
    if not code:
        return ListingError(f"{where} answered a listing with {_told(status, code)}", PORTAL_HINT)
    if status == 403:
        return ListingDeniedError("the credentials may not list it")
    if goes_on and status == 400:
        return TokenRefusedError(f"{where} does not go on from its own token ({code})", hint="try again later")
    return EndpointError(f"{where} answered a listing with {_told(status, code)}", hint="check --endpoint-url")


def _told(status: int, code: str) -> str:
    return f"{status} {code}" if code else f"{status}, without S3's error document"


def _is_redirect(status: int, code: str) -> bool:
    return (300 <= status < 400 and status != _NOT_MODIFIED) or code in REDIRECT_CODES


def _redirect(status: int, headers: Mapping[str, str], where: str) -> RedirectRefusedError:
    if region := _region(headers):
        return _other_region(region, where)
    return RedirectRefusedError(
        f"{where} answered with a redirect ({status}), which is not followed: another host would see the request",
        hint="is the region right? check --region, --endpoint-url and any proxy between here and there",
    )


def _region(headers: Mapping[str, str]) -> str | None:
    """Return the region that an answer names, if it can be one: the next step shows it as a command."""
    region = headers.get("x-amz-bucket-region", "")
    return region if _REGION.fullmatch(region) else None


def _wrong_region(region: str | None, where: str) -> EndpointError:
    if region:
        return _other_region(region, where)
    return EndpointError(f"{where} expects another region in the signature", hint="check --region")


def _other_region(region: str, where: str) -> WrongRegionError:
    return WrongRegionError(
        f"the bucket is in region {region}, and {where} was asked",
        hint=f"add --region {region}",
        region=region,
    )


def _clock_offset(headers: Mapping[str, str]) -> str:
    time = time_of(headers.get("date"))
    if time is None:
        return "too far from"
    seconds = (datetime.now(UTC) - time).total_seconds()
    return f"{abs(seconds) / 60:.0f} minutes {'ahead of' if seconds > 0 else 'behind'}"


def time_of(date: str | None) -> datetime | None:
    """Return the time that a `Date` header has; None if it has none that can be read."""
    try:
        time = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)  # -0000: UTC, from an unknown zone.


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None
