"""What an S3 server's refusals mean: status and code in, our error out. One table for every client."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ..errors import (
    ClockError,
    CredentialsError,
    EndpointError,
    ListingDeniedError,
    NccidFetchError,
    NoSuchBucketError,
    ObjectError,
    Reason,
    RedirectRefusedError,
    ThrottledError,
    TokenRefusedError,
    TransientError,
    WrongRegionError,
)
from ..keys import printable

CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed": "the endpoint does not accept the signature's region or form",
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
THROTTLE_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9]{1,64})\s*</Code>")
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,32})\s*</Region>")


def code_of(body: bytes) -> str:
    """Return the error code of an S3 error document, or an empty text."""
    found = _CODE.search(body[:16384])
    return found[1].decode() if found else ""


def region_of(body: bytes) -> str:
    """Return the region that an S3 error document says the bucket is in, or an empty text."""
    found = _REGION.search(body[:16384])
    return found[1].decode() if found else ""


def run_error(status: int, code: str, headers: Mapping[str, str], where: str) -> NccidFetchError | None:
    """Return the error of an answer that is about the run, not about one object or prefix; else None.

    Args:
        status: HTTP status.
        code: S3's error code, if the answer had one.
        headers: The answer's headers, names in lower case.
        where: The endpoint, for the message.
    """
    if 300 <= status < 400 or code in {"PermanentRedirect", "TemporaryRedirect"}:
        return _redirect(status, headers, where)
    if code in {"RequestTimeTooSkewed", "RequestExpired"}:
        return ClockError(
            f"this machine's clock is {_clock_offset(headers)} the server's",
            hint="set the clock (NTP), then run the same command again",
        )
    if code == "AuthorizationHeaderMalformed":
        return _wrong_region(headers.get("x-amz-bucket-region"), where)
    if code in CREDENTIAL_CODES or status == 401:
        return CredentialsError(
            f"{CREDENTIAL_CODES.get(code, 'the server does not accept the credentials')} ({where})",
            hint="renew or choose credentials (--profile, AWS_PROFILE), then run the same command again",
            are_wrong=code not in EXPIRY_CODES,
        )
    if code == "NoSuchBucket":
        return NoSuchBucketError(f"there is no such bucket at {where}", hint="check --bucket and --endpoint-url")
    if status == 429 or code in THROTTLE_CODES or (status == 503 and "retry-after" in headers):
        return ThrottledError(f"{where} asks to slow down ({status} {code})", _retry_after(headers))
    if status >= 500 or status == 408 or code in {"RequestTimeout", "InternalError"}:
        return TransientError(f"{where} answered {status} {code}".rstrip())
    return None


def object_error(status: int, code: str, headers: Mapping[str, str], where: str, message: str = "") -> NccidFetchError:
    """Return the error that an answer to a GET or HEAD of one object stands for.

    Args:
        status: HTTP status.
        code: S3's error code, if the answer had one.
        headers: The answer's headers, names in lower case.
        where: The endpoint, for the message.
        message: What S3 said beside the code. It alone tells a key of KMS that may not be used from an object that may
            not be read.
    """
    if status == 412 or code == "PreconditionFailed":
        return ObjectError(Reason.CHANGED, "it was replaced after it was listed; a rerun fetches the new version")
    if status == 404 and code != "NoSuchBucket":
        return ObjectError(Reason.GONE, "it was deleted after it was listed")
    if code == "InvalidObjectState":
        return ObjectError(Reason.ARCHIVED, "it is archived and has to be restored in the bucket first")
    if code.startswith("KMS.") or (status == 403 and "kms:" in message.lower()):
        return ObjectError(
            Reason.DENIED, "it is encrypted, and the credentials may not use its key (KMS): they need kms:Decrypt"
        )
    error = run_error(status, code, headers, where)
    if error is not None:
        return error
    if status == 403:
        return ObjectError(Reason.DENIED, "the credentials may not read it")
    return TransientError(f"{where} answered {status} {code}".rstrip())


def listing_error(
    status: int, code: str, headers: Mapping[str, str], where: str, *, goes_on: bool = False
) -> NccidFetchError:
    """Return the error that an answer to a listing stands for.

    Args:
        status: HTTP status.
        code: S3's error code, if the answer had one.
        headers: The answer's headers, names in lower case.
        where: The endpoint, for the message.
        goes_on: Whether it was asked to go on from a token.
    """
    error = run_error(status, code, headers, where)
    if error is not None:
        return error
    if status == 403:
        return ListingDeniedError("the credentials may not list it")
    if goes_on and status == 400:
        return TokenRefusedError(f"{where} does not go on from its own token ({code})", hint="try again later")
    return EndpointError(f"{where} answered a listing with {status} {code}".rstrip(), hint="check --endpoint-url")


def _redirect(status: int, headers: Mapping[str, str], where: str) -> NccidFetchError:
    region = headers.get("x-amz-bucket-region")
    if region:
        return _wrong_region(region, where)
    return RedirectRefusedError(
        f"{where} answered with a redirect ({status}), which is not followed: another host would see the request",
        hint="check --endpoint-url, --region and any proxy between here and there",
    )


def _wrong_region(region: str | None, where: str) -> EndpointError:
    if region:
        return WrongRegionError(
            f"the bucket is in region {printable(region)}, and {where} was asked",
            hint=f"add --region {printable(region)}",
            region=printable(region),
        )
    return EndpointError(f"{where} expects another region in the signature", hint="check --region")


def _clock_offset(headers: Mapping[str, str]) -> str:
    try:
        offset = datetime.now(UTC) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return "too far from"
    seconds = offset.total_seconds()
    return f"{abs(seconds) / 60:.0f} minutes {'ahead of' if seconds > 0 else 'behind'}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None
