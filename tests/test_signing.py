"""Our signatures are botocore's, for every key and for every kind of credentials."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.store.signing import Signer

NOW = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)
LASTING = ReadOnlyCredentials("AKIATEST", "secret/with+signs", None)
TEMPORARY = ReadOnlyCredentials("ASIATEST", "another", "a-token==")


def botocores(url: str, headers: dict[str, str], credentials: ReadOnlyCredentials, now: datetime) -> str:
    """The signature that botocore makes of a request."""
    auth = S3SigV4Auth(credentials, "s3", "eu-west-2")
    time = now.strftime("%Y%m%dT%H%M%SZ")
    request = AWSRequest(method="GET", url=url, headers={k: v for k, v in headers.items() if k != "authorization"})
    request.context["timestamp"] = time
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return str(auth.signature(text, request))


@pytest.mark.parametrize("credentials", [LASTING, TEMPORARY], ids=["lasting", "temporary"])
@given(
    key=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40),
    etag=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40),
    start=st.none() | st.integers(0, 1 << 40),
)
def test_a_signature_is_that_of_botocore(
    credentials: ReadOnlyCredentials, key: str, etag: str, start: int | None
) -> None:
    url = f"https://bucket.s3.eu-west-2.amazonaws.com/{quote(key, safe='/-_.~')}"
    extra = {"if-match": f'"{etag}"'} | ({} if start is None else {"range": f"bytes={start}-"})
    signer = Signer("bucket.s3.eu-west-2.amazonaws.com", "eu-west-2")
    headers = signer.headers(urlsplit(url).path, extra, credentials, NOW.timestamp())
    assert headers["authorization"].endswith(f"Signature={botocores(url, headers, credentials, NOW)}")
    assert headers.items() >= extra.items()


def test_a_port_that_is_not_the_schemes_own_is_signed() -> None:
    url = "http://127.0.0.1:9000/bucket/training/ct/Covid0000/a.dcm"
    headers = Signer("127.0.0.1:9000", "eu-west-2").headers(urlsplit(url).path, {}, LASTING, NOW.timestamp())
    assert headers["authorization"].endswith(botocores(url, headers, LASTING, NOW))


def test_the_key_of_the_day_is_made_anew_with_the_day_and_with_the_credentials() -> None:
    url = "https://example.org/bucket/a"
    signer = Signer("example.org", "eu-west-2")
    for now in (NOW, NOW + timedelta(seconds=1)):
        for credentials in (LASTING, TEMPORARY, LASTING):
            headers = signer.headers("/bucket/a", {}, credentials, now.timestamp())
            assert headers["authorization"].endswith(botocores(url, headers, credentials, now))
