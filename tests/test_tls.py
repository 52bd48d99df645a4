"""Who is at the other end: TLS is asked for, is verified, and nothing in the environment turns that off."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch.errors import NccidFetchError
from nccid_fetch.governor import Governor
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session
from nccid_fetch.warehouse import BUCKET

from .catalogue import fault
from .conftest import run
from .servers.scripted import Operation, Redirect, ScriptedS3
from .servers.tls import Certificate, Relay, self_signed

KEY = "training/ct/a.dcm"
DATA = b"an image"
HERE = RemoteObject(KEY, len(DATA), ETag(hashlib.md5(DATA).hexdigest()), 0)
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def by_fast(session: Session) -> bytes:
    async with FastReader(session, connections=1).get(HERE) as body:
        return b"".join([bytes(chunk) async for chunk in body.chunks()])


async def by_reference(session: Session) -> bytes:
    async with ReferenceReader(session).get(HERE) as body:
        return b"".join([bytes(chunk) async for chunk in body.chunks()])


async def by_listing(session: Session) -> bytes:
    page = await Lister(session).page("training/ct/")
    return DATA if [entry.key for entry in page.objects] == [KEY] else b""


Way = Callable[[Session], Awaitable[bytes]]
every_way = pytest.mark.parametrize("way", [by_fast, by_reference, by_listing])


def asked(way: Way, port: int, host: str = "127.0.0.1", **source: Any) -> bytes:
    async def go() -> bytes:
        wanted = Source(endpoint_url=f"https://{host}:{port}", **source)
        async with open_session(wanted, connections=1, stall_seconds=30.0) as session:
            return await way(session)

    return run(go())


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, DATA)
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls(s3: ScriptedS3, certificate: Certificate) -> Iterator[Relay]:
    """The scripted server behind a certificate that nobody knows."""
    with Relay(int(s3.endpoint_url.rpartition(":")[2]), tls=certificate.context) as relay:
        yield relay


@pytest.fixture(params=["direct", "proxied"])
def through(request: pytest.FixtureRequest, tls: Relay, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The way there: straight, or through a proxy, where aiobotocore by itself verifies nothing."""
    if request.param == "direct":
        yield
        return
    with Relay(tls.port, connect=CONNECTED) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        yield
        assert proxy.heads, "the proxy was asked"


@fault(22, 120)
@pytest.mark.usefixtures("through")
@every_way
@pytest.mark.parametrize("variables", [(), ("AWS_CA_BUNDLE",), ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")], ids=str)
def test_a_certificate_that_nobody_knows_is_refused_and_nothing_is_sent(
    tls: Relay, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, way: Way, variables: tuple[str, ...]
) -> None:
    """To some clients, a variable that is empty turns verification off."""
    for name in variables:
        monkeypatch.setenv(name, "")
    with pytest.raises(NccidFetchError, match="certificate"):
        asked(way, tls.port)
    assert s3.requests == []


@fault(22, 120)
@pytest.mark.usefixtures("through")
@every_way
def test_a_certificate_of_aws_ca_bundle_is_trusted_for_its_own_host_alone(
    tls: Relay, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, certificate: Certificate, way: Way
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    assert asked(way, tls.port) == DATA
    before = len(s3.requests)
    with pytest.raises(NccidFetchError, match=r"certificate|host name"):
        asked(way, tls.port, host="localhost")
    assert len(s3.requests) == before


@fault(17)
@every_way
def test_a_redirect_from_https_to_http_is_not_followed(
    tls: Relay, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, certificate: Certificate, way: Way
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    with ScriptedS3() as other:
        other.put(KEY, DATA)
        operations: tuple[Operation, ...] = ("get", "list")
        for operation in operations:
            s3.script(operation, Redirect(f"{other.endpoint_url}/{BUCKET}/{KEY}", 307), count=None)
        with pytest.raises(NccidFetchError):
            asked(way, tls.port)
        assert other.requests == []
    assert len(s3.requests) == 1


@fault(131)
@pytest.mark.parametrize(
    ("variables", "config", "is_trusted"),
    [
        ({"REQUESTS_CA_BUNDLE": "{ca}"}, "", True),
        ({"REQUESTS_CA_BUNDLE": "~/ca.pem"}, "", True),
        ({"AWS_CA_BUNDLE": "~/ca.pem"}, "", True),
        ({}, "ca_bundle = ~/ca.pem", True),
        ({"REQUESTS_CA_BUNDLE": "{other}"}, "ca_bundle = ~/ca.pem", True),
        ({"AWS_CA_BUNDLE": "{other}", "REQUESTS_CA_BUNDLE": "{ca}"}, "ca_bundle = ~/ca.pem", False),
        ({"REQUESTS_CA_BUNDLE": "{ca}"}, "ca_bundle = {other}", False),
        ({"AWS_CA_BUNDLE": "", "REQUESTS_CA_BUNDLE": "{ca}"}, "", True),
    ],
    ids=str,
)
def test_certificates_are_named_as_for_the_aws_cli(  # noqa: PLR0917 - fixtures, and a row.
    tls: Relay,
    monkeypatch: pytest.MonkeyPatch,
    scrubbed_environment: Path,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
    variables: dict[str, str],
    config: str,
    *,
    is_trusted: bool,
) -> None:
    """AWS_CA_BUNDLE, then ca_bundle, then REQUESTS_CA_BUNDLE; a tilde is the home folder in each."""
    names = {"ca": certificate.path, "other": self_signed(tmp_path_factory.mktemp("other")).path}
    (scrubbed_environment / "ca.pem").write_bytes(certificate.path.read_bytes())
    (scrubbed_environment / "config").write_text(f"[default]\n{config.format(**names)}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(scrubbed_environment / "config"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(**names))

    async def go() -> list[bytes]:
        told = []
        wanted = Source(endpoint_url=f"https://127.0.0.1:{tls.port}")
        async with open_session(wanted, connections=1, stall_seconds=30.0) as session:
            for way in (by_fast, by_reference, by_listing):
                session.governor = Governor()
                with suppress(NccidFetchError):
                    told.append(await way(session))
        return told

    assert run(go()) == [DATA] * (3 if is_trusted else 0)
