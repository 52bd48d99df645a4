"""Signatures: ours are botocore's, and AWS's own examples come out; the scripted server takes those, and no other.

Three implementations that share nothing: the package's signer, botocore's, and the server's side in `servers.sigv4`.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.store.address import Address
from nccid_fetch.store.signing import Signer

from .catalogue import fault
from .servers.sigv4 import canonical_request, verify

NOW = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)
LASTING = ReadOnlyCredentials("AKIATEST", "secret/with+signs", None)
TEMPORARY = ReadOnlyCredentials("ASIATEST", "another", "a-token==")
SECRETS = {found.access_key: found.secret_key for found in (LASTING, TEMPORARY)}

printable = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
tokens = st.none() | st.text(printable, min_size=1, max_size=40)
hosts = st.sampled_from(
    ["s3.eu-west-2.amazonaws.com", "s3.cn-north-1.amazonaws.com.cn", "localhost", "127.0.0.1", "[::1]"]
)
ports = st.sampled_from(["", ":80", ":443", ":9000"])
regions = st.sampled_from(["eu-west-2", "us-east-1", "cn-north-1"])


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    """Buckets in either style, on any port."""
    scheme, host, port = draw(st.sampled_from(["http", "https"])), draw(hosts), draw(ports)
    folder = draw(st.sampled_from(["", "/bucket", "/bucket.with.dots", "/gateway/bucket"]))
    named = f"bucket.{host}" if not folder and not host.startswith("[") else host
    return Address.of(f"{scheme}://{named}{port}{folder}", draw(regions))


def botocores(
    url: str, headers: Mapping[str, str], credentials: ReadOnlyCredentials, now: datetime, region: str
) -> str:
    """The Authorization that botocore makes of a request."""
    auth = S3SigV4Auth(credentials, "s3", region)
    sent = {name: value for name, value in headers.items() if name != "authorization"}
    request = AWSRequest(method="GET", url=url, headers=sent)
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(text, request))
    return str(request.headers["Authorization"])


@fault(127)
@given(
    address=addresses(),
    key=texts,
    query=st.none() | st.dictionaries(texts.filter(bool), texts, max_size=4),
    extra=st.fixed_dictionaries(
        {"if-match": st.text(printable, min_size=1, max_size=20).map('"{}"'.format)},
        optional={"range": st.integers(0, 1 << 40).map("bytes={}-".format)},
    ),
    token=tokens,
)
def test_a_signature_is_that_of_botocore_and_the_server_takes_it(
    address: Address, key: str, query: dict[str, str] | None, extra: dict[str, str], token: str | None
) -> None:
    credentials = ReadOnlyCredentials("AKIATEST", "secret/with+signs", token)
    target = address.object(key) if query is None else address.listing(query)
    headers = Signer(address.host, address.region).headers(target, extra, credentials, NOW.timestamp())
    expected = botocores(address.origin + target, headers, credentials, NOW, address.region)
    assert headers["authorization"] == expected
    assert headers.items() >= extra.items()
    assert verify("GET", target, {"host": address.host, **headers}, SECRETS, region=address.region, now=NOW) is None


def test_the_key_of_the_day_is_made_again_with_the_day_and_with_the_credentials() -> None:
    url = "https://example.org/bucket/a"
    signer = Signer("example.org", "eu-west-2")
    for now in (NOW, NOW + timedelta(seconds=1)):
        for credentials in (LASTING, TEMPORARY, LASTING):
            headers = signer.headers("/bucket/a", {}, credentials, now.timestamp())
            assert headers["authorization"] == botocores(url, headers, credentials, now, "eu-west-2")


# AWS's own examples


class Example(NamedTuple):
    """A GET of *Signature Calculations for the Authorization Header*, Amazon S3 API Reference."""

    target: str
    signature: str
    extra: Mapping[str, str] = {}


EXAMPLES = {
    "GET object": Example(
        "/test.txt",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        {"range": "bytes=0-9"},
    ),
    "GET bucket lifecycle": Example("/?lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    "GET bucket (list objects)": Example(
        "/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    ),
}
EXAMPLE_AT = datetime(2013, 5, 24, tzinfo=UTC)
EXAMPLE_KEYS = ReadOnlyCredentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None)


@fault(127)
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_awss_own_examples_come_out(example: Example) -> None:
    host = "examplebucket.s3.amazonaws.com"
    signer = Signer(host, "us-east-1")
    headers = signer.headers(example.target, dict(example.extra), EXAMPLE_KEYS, EXAMPLE_AT.timestamp())
    assert headers["authorization"].endswith(f"Signature={example.signature}")
    expected = botocores(f"https://{host}{example.target}", headers, EXAMPLE_KEYS, EXAMPLE_AT, "us-east-1")
    assert headers["authorization"] == expected
    secrets = {EXAMPLE_KEYS.access_key: EXAMPLE_KEYS.secret_key}
    sent = {"host": host, **headers}
    for target in {example.target, example.target.removesuffix("=")}:  # It says "?lifecycle" on the wire.
        assert verify("GET", target, sent, secrets, region="us-east-1", now=EXAMPLE_AT) is None


def test_a_listing_is_asked_for_as_in_awss_example() -> None:
    address = Address.of("https://examplebucket.s3.amazonaws.com", "us-east-1")
    assert address.listing({"prefix": "J", "max-keys": "2"}) == EXAMPLES["GET bucket (list objects)"].target
    assert address.object("test.txt") == EXAMPLES["GET object"].target


# The server's side


def signed_by_botocore(
    url: str, headers: Mapping[str, str], credentials: ReadOnlyCredentials
) -> tuple[str, dict[str, str]]:
    """The target and the headers of a GET that botocore signed now, as they go over the wire."""
    request = AWSRequest(method="GET", url=url, headers=dict(headers))
    S3SigV4Auth(credentials, "s3", "eu-west-2").add_auth(request)
    parts = urlsplit(url)
    sent = {name.lower(): value for name, value in request.headers.items()}
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), {"host": parts.netloc, **sent}


def refusal(target: str, headers: Mapping[str, str]) -> str | None:
    found = verify("GET", target, headers, SECRETS, region="eu-west-2", now=datetime.now(UTC))
    return None if found is None else found.code


@fault(127)
@given(key=texts, query=st.dictionaries(texts.filter(bool), texts, max_size=3), meta=st.text(printable), token=tokens)
def test_the_scripted_server_takes_what_botocore_signs_and_nothing_that_was_changed_on_the_way(
    key: str, query: dict[str, str], meta: str, token: str | None
) -> None:
    credentials = ReadOnlyCredentials("AKIATEST", "secret/with+signs", token)
    written = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items())
    url = f"https://bucket.s3.example.org/{quote(key, safe='/-_.~')}?{written}"
    target, headers = signed_by_botocore(url, {"x-amz-meta-note": meta, "range": "bytes=0-"}, credentials)
    assert refusal(target, headers) is None
    path, _, asked = target.partition("?")
    changed: list[tuple[str, Mapping[str, str]]] = [
        (f"{path}a?{asked}", headers),
        (f"{path}?{asked}&a=b", headers),
        (target, headers | {"host": "bucket.s3.example.com"}),
        (target, headers | {"range": "bytes=1-"}),
        (target, headers | {"x-amz-meta-note": f"{meta}a"}),
    ]
    assert [refusal(*each) for each in changed] == ["SignatureDoesNotMatch"] * len(changed)


@fault(127)
def test_a_signature_over_an_empty_path_is_refused() -> None:
    """The fault that no server of ours saw: botocore signs the URL as it is given, and every client sends a slash."""
    target, headers = signed_by_botocore("https://bucket.s3.example.org?list-type=2", {}, LASTING)
    assert target == "/?list-type=2"
    assert refusal(target, headers) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda sent: sent | {"authorization": "AWS AKIATEST:signature"}, "InvalidArgument"),
        (lambda sent: sent | {"x-amz-security-token": "another's"}, "AccessDenied"),
        (lambda sent: sent | {"x-amz-date": "20130524T000000Z"}, "RequestTimeTooSkewed"),
        (lambda sent: sent | {"x-amz-date": "yesterday"}, "AccessDenied"),
        (lambda sent: sent | {"x-amz-content-sha256": "0" * 64}, "XAmzContentSHA256Mismatch"),
        (
            lambda sent: sent | {"authorization": sent["authorization"].replace("AKIATEST", "AKIA")},
            "InvalidAccessKeyId",
        ),
        (
            lambda sent: sent | {"authorization": sent["authorization"].replace("eu-west-2", "us-east-1")},
            "AuthorizationHeaderMalformed",
        ),
        (
            lambda sent: sent | {"authorization": sent["authorization"].replace("host;", "")},
            "AccessDenied",
        ),
    ],
)
def test_each_way_to_be_wrong_has_the_code_of_s3(change: Callable[[dict[str, str]], dict[str, str]], code: str) -> None:
    target, headers = signed_by_botocore("https://bucket.s3.example.org/a", {}, LASTING)
    assert refusal(target, headers) is None
    assert refusal(target, change(headers)) == code


def test_what_is_signed_is_what_came_encoded_once() -> None:
    """A server decodes a path and encodes it in its own way, so that "a+b" and "a%2Bb" are one key."""
    headers = {"host": "h", "x-amz-content-sha256": "hash"}
    for target in ("/a+b%7E?b=1&a=%2f", "/a%2Bb~?a=/&b=1"):
        assert canonical_request("GET", target, headers, ["host"]).split("\n") == [
            *("GET", "/a%2Bb~", "a=%2F&b=1", "host:h", "", "host", "hash")
        ]
