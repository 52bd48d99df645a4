"""The whole job with servers that verify signatures: by AWS's own names, and on MinIO's code in both styles.

No test here gives `--endpoint-url` but by AWS's variable, or none at all: then the names are AWS's own, over https on 443,
with an authority of ours, and a proxy that knows CONNECT leads them here.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nccid_fetch.warehouse import BUCKET

from .catalogue import fault
from .commandline import exit_code_of
from .servers import juicefs as minio
from .servers.juicefs import AWS_DOMAIN, JuiceFS, Scheme, Style, needs_linux
from .servers.scripted import ScriptedS3
from .servers.tls import Relay, make_certificates, server_context

BIG = "big-images"
BIG_KEY = "training/ct/Covid0001/big.dcm"
BIG_BYTES = bytes(range(256)) * (101 << 12) + b"tail"
"""Above 100 MiB."""
PARTS = [b"a" * (5 << 20), b"b" * ((5 << 20) + 1), b"c"]
OBJECTS = {
    "training/data/Covid0001/status_1.json": b"{}",
    "training/data/Covid0002/data_2.json": b'{"Pseudonym": "Covid0002"}',
    "training/ct/Covid0001/a b+c%2F~\u00e9=&?#'(1)!*.dcm": b"an image",
    "training/ct/Covid0001/empty.dcm": b"",
    "training/ct-metadata/Covid0001/x.json": b"{}",
    "training/xray-metadata/Covid0002/[a]{b}^.json": b"[]",
}
PARTED = "training/mri/Covid0003/parted.dcm"
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"

both_transports = pytest.mark.parametrize("transport", ["fast", "aioboto3"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JuiceFS]:
    with JuiceFS(tmp_path_factory.mktemp("juicefs"), BUCKET, BIG) as made:
        with made.writing() as writer:
            writer.put(BUCKET, OBJECTS.items())
            writer.put_in_parts(BUCKET, PARTED, PARTS)
            writer.put(BIG, [(BIG_KEY, BIG_BYTES)])
        yield made


@dataclass(frozen=True)
class Job:
    """The command line over a destination."""

    dest: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def among(self, environment: Mapping[str, str]) -> None:
        """Set variables of the environment."""
        for name, value in environment.items():
            self.monkeypatch.setenv(name, value)

    def run(self, command: str, *options: str) -> dict[str, Any]:
        """Run a command, which has to end well, and return what it says."""
        code = exit_code_of(command, "--dest", self.dest, "--format", "json", *options)
        out, err = self.capsys.readouterr()
        assert code == 0, out + err
        said: dict[str, Any] = json.loads(out)
        return said

    def whole(self, transport: str, object_gets: Callable[[], int]) -> None:
        """Run doctor, a first run, and a second one that gets nothing."""
        doctor = self.run("doctor")
        assert doctor["parts"]["ct"] == {"listed": "granted", "read": "granted", "message": ""}
        everything = OBJECTS | {PARTED: b"".join(PARTS)}
        first = self.run("all", "--transport", transport)
        assert first["fetched"] == {"objects": len(everything), "bytes": sum(map(len, everything.values()))}
        here = {
            f"training/{path.relative_to(self.dest)}": path.read_bytes()
            for path in self.dest.rglob("*")
            if path.is_file() and ".nccid-fetch" not in path.parts
        }
        assert here == everything
        gets = object_gets()
        assert gets >= len(everything)
        again = self.run("all", "--transport", transport)
        assert (again["skipped"], again["fetched"]["objects"]) == (first["listed"], 0)
        assert object_gets() == gets


@pytest.fixture
def job(dest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(dest, capsys, monkeypatch)


# MinIO's code


@fault(127)
@needs_linux
@both_transports
@pytest.mark.parametrize("cell", [("http", "path"), ("http", "virtual"), ("https", "virtual")], ids="-".join)
def test_the_whole_job_on_minio(server: JuiceFS, job: Job, cell: tuple[Scheme, Style], transport: str) -> None:
    job.among(server.environment(*cell))
    job.whole(transport, server.object_gets)


@fault(48, 127)
@needs_linux
@pytest.mark.parametrize(("transport", "cell"), [("fast", ("https", "virtual")), ("aioboto3", ("http", "path"))])
def test_an_object_above_100_mib_comes_whole_from_minio(
    server: JuiceFS, job: Job, transport: str, cell: tuple[Scheme, Style]
) -> None:
    job.among(server.environment(*cell))
    said = job.run("all", "--bucket", BIG, "--transport", transport)
    assert said["verified"]["md5"] == 1
    with (job.dest / BIG_KEY.removeprefix("training/")).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(BIG_BYTES).digest()


# AWS's own names


class Led(NamedTuple):
    """What AWS's name leads to."""

    port: int
    """That of a server that speaks TLS and has a certificate of the name."""
    certificates: Path
    keys: tuple[str, str]
    object_gets: Callable[[], int]


@pytest.fixture(params=["scripted", pytest.param("minio", marks=needs_linux)])
def led(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Led]:
    with ExitStack() as stack:
        if request.param == "minio":
            server: JuiceFS = request.getfixturevalue("server")
            keys = (minio.ACCESS_KEY, minio.SECRET_KEY)
            yield Led(server.port("https"), server.certificates, keys, server.object_gets)
            return
        s3 = stack.enter_context(ScriptedS3())
        for key, body in OBJECTS.items():
            s3.put(key, body)
        s3.put(PARTED, b"".join(PARTS), parts=list(map(len, PARTS)))
        make_certificates(tmp_path, f"{BUCKET}.{AWS_DOMAIN}")
        port = int(s3.endpoint_url.rpartition(":")[2])
        relay = stack.enter_context(Relay(port, tls=server_context(tmp_path)))
        yield Led(relay.port, tmp_path / "authority.pem", ("test", "test-secret"), s3.gets)
        assert {seen.headers["host"] for seen in s3.requests} == {f"{BUCKET}.{AWS_DOMAIN}"}
        assert {seen.path_raw for seen in s3.requests if seen.operation == "list"} == {"/"}


@fault(27, 120, 127)
@both_transports
def test_the_whole_job_by_awss_own_name(led: Led, job: Job, transport: str) -> None:
    with Relay(led.port, connect=CONNECTED) as proxy:
        job.among(
            {
                "AWS_ACCESS_KEY_ID": led.keys[0],
                "AWS_SECRET_ACCESS_KEY": led.keys[1],
                "AWS_CA_BUNDLE": str(led.certificates),
                "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}",
            }
        )
        assert not [name for name in os.environ if "ENDPOINT" in name]
        job.whole(transport, led.object_gets)
        asked = {head.split(b"\r\n", 1)[0] for head in proxy.heads}
        assert asked == {f"CONNECT {BUCKET}.{AWS_DOMAIN}:443 HTTP/1.1".encode()}
