"""Where a bucket is: AWS's endpoint rules for names as they are used, asked offline, and what is signed for each.

The listing, the fast reader's GET and the reference reader's GET are built by three signers. Each is held against
the server's side of SigV4 (`servers.sigv4`), as it would go over the wire.
"""

import doctest
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth

from nccid_fetch import warehouse
from nccid_fetch.errors import UsageError
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store import address
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.protocol import Reader
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session

from .catalogue import fault
from .conftest import run
from .servers.scripted import ScriptedS3
from .servers.sigv4 import canonical_request, verify

BUCKET = warehouse.BUCKET
KEY = "training/ct/Covid0001/a b+c%~é=&?#.dcm"
ENCODED = "training/ct/Covid0001/a%20b%2Bc%25~%C3%A9%3D%26%3F%23.dcm"
REMOTE = RemoteObject(KEY, 1, ETag("0" * 32), 0)


class Sent(NamedTuple):
    """A request as it would go over the wire."""

    url: str
    headers: dict[str, str]

    @property
    def target(self) -> str:
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")  # As every HTTP client sends it.

    @property
    def canonical(self) -> list[str]:
        """The lines that a server makes of it."""
        return canonical_request("GET", self.target, self.headers, ["host"]).split("\n")

    def is_refused(self, region: str) -> object:
        return verify("GET", self.target, self.headers, {"test": "test-secret"}, region=region, now=datetime.now(UTC))


class Unsent(Exception):  # noqa: N818 - the way out of a request, not a fault.
    """Carries a request out of the client that was about to send it."""


def taken(request: Any) -> Sent:
    """A prepared request with the Host header that the client adds."""
    parts = urlsplit(request.url)
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
    }
    return Sent(request.url, {"host": parts.netloc.lower(), **headers})


def requests(**source: Any) -> tuple[Session, Sent, Sent, Sent]:
    """The session, and what it would send: a listing, an object's GET by the fast reader and by the reference reader."""

    async def send(request: Any) -> None:
        raise Unsent(taken(request))

    async def unsent(asking: Any) -> Sent:
        with pytest.raises(Unsent) as caught:
            await asking
        sent: Sent = caught.value.args[0]
        return sent

    async def go() -> tuple[Session, Sent, Sent, Sent]:
        async with open_session(Source(**source), connections=1, stall_seconds=30) as session:
            session.http.send = send  # type: ignore[method-assign]
            listing = await unsent(Lister(session).page("training/"))
            exchange, _ = await FastReader(session, connections=1).exchange(REMOTE, 0, None)
            lines = dict(line.split(": ", 1) for line in exchange.request_headers)

            def before_send(request: Any, **_: Any) -> None:
                raise Unsent(taken(request))

            session.client.meta.events.register("before-send.s3", before_send)
            by_reference = await unsent(ReferenceReader(session).get(REMOTE).__aenter__())
            return session, listing, Sent(exchange.url, lines), by_reference

    return run(go())


class Place(NamedTuple):
    """What is chosen, and where the bucket is then."""

    host: str
    before: str = ""
    """What stands before the slash of a key."""
    region: str = "eu-west-2"
    """That of the signature."""
    source: Mapping[str, Any] = {}
    environment: Mapping[str, str] = {}


DOTS = "images.of.patients"
FIPS = {"AWS_USE_FIPS_ENDPOINT": "true"}
DUAL_STACK = {"AWS_USE_DUALSTACK_ENDPOINT": "true"}
PLACES = {
    "regional": Place(f"{BUCKET}.s3.eu-west-2.amazonaws.com"),
    "us-east-1": Place(f"{BUCKET}.s3.amazonaws.com", region="us-east-1", source={"region": "us-east-1"}),
    "global": Place(f"{BUCKET}.s3.amazonaws.com", region="us-east-1", source={"region": "aws-global"}),
    "FIPS": Place(
        f"{BUCKET}.s3-fips.us-east-2.amazonaws.com",
        region="us-east-2",
        source={"region": "us-east-2"},
        environment=FIPS,
    ),
    "FIPS by the region": Place(
        f"{BUCKET}.s3-fips.us-east-1.amazonaws.com", region="us-east-1", source={"region": "fips-us-east-1"}
    ),
    "dual-stack": Place(f"{BUCKET}.s3.dualstack.eu-west-2.amazonaws.com", environment=DUAL_STACK),
    "FIPS and dual-stack": Place(
        f"{BUCKET}.s3-fips.dualstack.us-west-2.amazonaws.com",
        region="us-west-2",
        source={"region": "us-west-2"},
        environment=FIPS | DUAL_STACK,
    ),
    "China": Place(f"{BUCKET}.s3.cn-north-1.amazonaws.com.cn", region="cn-north-1", source={"region": "cn-north-1"}),
    "GovCloud": Place(
        f"{BUCKET}.s3.us-gov-west-1.amazonaws.com", region="us-gov-west-1", source={"region": "us-gov-west-1"}
    ),
    "GovCloud, FIPS": Place(
        f"{BUCKET}.s3-fips.us-gov-east-1.amazonaws.com",
        region="us-gov-east-1",
        source={"region": "us-gov-east-1"},
        environment=FIPS,
    ),
    "a name with dots, which no certificate of AWS's covers": Place(
        "s3.eu-west-2.amazonaws.com", f"/{DOTS}", source={"bucket": DOTS}
    ),
    "an endpoint": Place("s3.example.org", f"/{BUCKET}", source={"endpoint_url": "https://s3.example.org"}),
    "an endpoint in capitals, with the scheme's own port and a slash": Place(
        "s3.example.org", f"/{BUCKET}", source={"endpoint_url": "https://S3.Example.org:443/"}
    ),
    "an endpoint in a folder": Place(
        "example.org:8443", f"/gateway/{BUCKET}", source={"endpoint_url": "https://example.org:8443/gateway/"}
    ),
    "an endpoint by its IPv6 address": Place("[::1]:9000", f"/{BUCKET}", source={"endpoint_url": "http://[::1]:9000"}),
    "an endpoint of AWS's variable": Place(
        "127.0.0.1:9000", f"/{BUCKET}", environment={"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000"}
    ),
}


@fault(127, 18)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_is_signed_is_what_is_sent(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    """The second line of a canonical request is the path: that of a listing is never empty."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    by_botocore: list[str] = []
    canonical = S3SigV4Auth.canonical_request

    def noted(self: S3SigV4Auth, request: Any) -> str:
        by_botocore.append(str(canonical(self, request)))
        return by_botocore[-1]

    monkeypatch.setattr(S3SigV4Auth, "canonical_request", noted)
    session, listing, by_fast, by_reference = requests(**place.source)
    scheme = "http" if "'http://" in repr(place) else "https"
    query = "encoding-type=url&list-type=2&max-keys=1000&prefix=training%2F"
    assert listing.url == f"{scheme}://{place.host}{place.before or '/'}?{query}"
    assert by_fast.url == f"{scheme}://{place.host}{place.before}/{ENCODED}"
    assert by_reference.target == f"{place.before}/{ENCODED}"
    assert urlsplit(by_reference.url).netloc.lower().removesuffix(":443") == place.host
    assert by_botocore[0].split("\n")[:3] == listing.canonical[:3] == ["GET", place.before or "/", query]
    assert by_fast.canonical[:3] == ["GET", f"{place.before}/{ENCODED}", ""]
    assert listing.headers["host"] == by_fast.headers["host"] == session.endpoint == place.host
    assert [sent.is_refused(place.region) for sent in (listing, by_fast, by_reference)] == [None, None, None]


@fault(127)
@pytest.mark.parametrize(
    ("text", "endpoint_url", "url"),
    [
        ("virtual", "http://localhost:9000", f"http://{BUCKET}.localhost:9000"),
        ("virtual", "https://s3.example.org", f"https://{BUCKET}.s3.example.org"),
        ("auto", "https://s3.example.org", f"https://s3.example.org/{BUCKET}"),
        ("path", None, f"https://s3.eu-west-2.amazonaws.com/{BUCKET}"),
        ("virtual", None, f"https://{BUCKET}.s3.eu-west-2.amazonaws.com"),
        ("virtual", "http://127.0.0.1:9000", f"http://127.0.0.1:9000/{BUCKET}"),  # An address has no names below it.
    ],
)
def test_the_addressing_style_of_awss_configuration_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, endpoint_url: str | None, url: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = {text}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    session, listing, by_fast, by_reference = requests(endpoint_url=endpoint_url)
    assert session.address.url == url
    assert by_fast.url == by_reference.url == f"{url}/{ENCODED}"
    assert [sent.is_refused("eu-west-2") for sent in (listing, by_fast, by_reference)] == [None, None, None]


@fault(127, 119)
@pytest.mark.parametrize("make", [lambda session: FastReader(session, connections=1), ReferenceReader])
def test_a_host_below_localhost_is_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Session], Reader]
) -> None:
    """For which plain http is allowed, so that no name server is asked where it is."""
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    looked_up: list[str] = []
    getaddrinfo = socket.getaddrinfo

    def noted(host: str, *arguments: Any, **options: Any) -> Any:
        looked_up.append(host)
        return getaddrinfo(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    with ScriptedS3() as s3:
        s3.put(KEY, b"body")

        async def go() -> bytes:
            source = Source(endpoint_url=s3.endpoint_url.replace("127.0.0.1", "localhost"))
            async with open_session(source, connections=1, stall_seconds=30) as session:
                (found,) = (await Lister(session).page("training/")).objects
                async with make(session).get(found) as body:
                    return b"".join([bytes(chunk) async for chunk in body.chunks()])

        assert run(go()) == b"body"
        assert f"{BUCKET}.localhost" not in looked_up
        assert [seen.path_raw for seen in s3.requests] == ["/", f"/{ENCODED}"]
        assert {seen.headers["host"].partition(":")[0] for seen in s3.requests} == {f"{BUCKET}.localhost"}


REFUSED = {
    "arn:aws:s3:eu-west-2:123456789012:accesspoint/images": "is the ARN of an access point",
    "arn:aws:s3:eu-west-2:123456789012:accesspoint:images": "is the ARN of an access point",
    "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/images": "is the ARN of an access point",
    "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap": "is the ARN of an access point",
    "arn:aws:s3-object-lambda:eu-west-2:123456789012:accesspoint/images": "is the ARN of an Object Lambda access point",
    "arn:aws:s3-outposts:eu-west-2:123456789012:outpost/op-01/accesspoint/images": "an access point of S3 on Outposts",
    "arn:aws:s3:::images": "is the ARN of a resource",
    "images-1a2b3c--ol-s3": "is an Object Lambda access point",
    "images-o01ac5d28a6a232904e8xz5w8ijx1qzlbp3i3kuse10--op-s3": "an access point of S3 on Outposts",
    "images--table-s3": "is a table bucket",
    "images--euw2-az1--x-s3": "is a directory bucket",
    "s3://images": "is not a bucket's name",
    "images/training": "is not a bucket's name",
    "images?": "is not a bucket's name",
    "images\n": "is not a bucket's name",
    "k\u00f6ln": "is not a bucket's name",
    "..": "is not a bucket's name",
    "": "is not a bucket's name",
}


@fault(127, 59)
@pytest.mark.parametrize(("name", "says"), REFUSED.items())
def test_what_is_no_general_purpose_bucket_is_refused_by_name(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Source(bucket=name)
    assert caught.value.hint


def test_the_examples_are_true() -> None:
    assert doctest.testmod(address).failed == 0
