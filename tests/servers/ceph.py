"""An S3 server that others wrote and that verifies signatures: Ceph's gateway, over one monitor and one disk in memory.

It is not among the packages of development: `make contract-ceph` runs the contract suite on it where the system has it, as
Debian does (`apt-get install radosgw ceph-mon ceph-osd ceph-common`). It needs no root. It differs from S3 in this: it
keeps no checksums, and says nothing of encryption.
"""

import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
import uuid
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from .juicefs import Scheme, Style, end
from .tls import make_certificates
from .writing import Writer, writing

ACCESS_KEY = "ceph-reader"
SECRET_KEY = "ceph/secret+key"
SECONDS_MAX = 120.0
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
HOW_TO_GET_IT = "Debian has it: apt-get install radosgw ceph-mon ceph-osd ceph-common"
_KEYS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "client.rgw": ("mon", "allow rwx", "osd", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
}
_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.sock
log file = {folder}/$name.log
pid file = {folder}/$name.pid
public addr = 127.0.0.1
cluster addr = 127.0.0.1
mon data = {folder}/mon
mon data avail crit = 1
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} ssl_certificate={folder}/leaf.pem \
ssl_private_key={folder}/leaf.key
rgw dns name = localhost
"""


def missing() -> list[str]:
    """Return the programs that the system lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class CephS3:
    """A cluster of one, running while the context lasts.

    Args:
        folder: Where it keeps everything. Its path has to be short: sockets are in it.
        buckets: The buckets to make.
    """

    def __init__(self, folder: Path, *buckets: str) -> None:
        self.folder = folder
        self._buckets = buckets
        self._stack = ExitStack()
        self._ports: dict[Scheme, int] = {}

    def __enter__(self) -> Self:
        if lacking := missing():
            raise FileNotFoundError(f"this system has no {', '.join(lacking)}. {HOW_TO_GET_IT}")
        with ExitStack() as stack:
            held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
            v2, v1, http, https = (each.getsockname()[1] for each in held)
            for each in held:
                each.close()
            self._ports = {"http": http, "https": https}
            make_certificates(self.folder, *(f"{bucket}.localhost" for bucket in self._buckets))
            fsid, disk = str(uuid.uuid4()), str(uuid.uuid4())
            config = _CONFIG.format(folder=self.folder, fsid=fsid, v2=v2, v1=v1, http=http, https=https)
            (self.folder / "ceph.conf").write_text(config)
            for name in ("mon", "osd"):
                (self.folder / name).mkdir()
            keyring = self.folder / "keyring"
            for number, (name, rights) in enumerate(_KEYS.items()):
                caps = [
                    word
                    for kind, right in zip(rights[::2], rights[1::2], strict=True)
                    for word in ("--cap", kind, right)
                ]
                create = [] if number else ["--create-keyring"]
                self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *caps)
            addresses = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
            monmap = self.folder / "monmap"
            self._run("monmaptool", "--create", "--addv", "a", addresses, "--fsid", fsid, monmap)
            self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
            self._start(stack, "ceph-mon", "-i", "a", "-f")
            self._run("ceph", "--connect-timeout", "60", "osd", "new", disk, "0")
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
            self._start(stack, "ceph-osd", "-i", "0", "-f")
            reader = [
                "--uid=reader",
                "--display-name=reader",
                f"--access-key={ACCESS_KEY}",
                f"--secret-key={SECRET_KEY}",
            ]
            self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *reader)
            gateway = self._start(stack, "radosgw", "-n", "client.rgw", "-f")
            self._wait_for(gateway)
            with self.writing() as writer:
                for bucket in self._buckets:
                    writer.make(bucket)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

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
            "AWS_CA_BUNDLE": str(self.folder / "authority.pem"),
        }

    def writing(self) -> AbstractContextManager[Writer]:
        """Open a client that may write."""
        return writing(self.endpoint_url("http", "path"), ACCESS_KEY, SECRET_KEY)

    def _command(self, program: str, words: tuple[object, ...]) -> list[str]:
        config = [] if program in {"ceph-authtool", "monmaptool"} else ["-c", str(self.folder / "ceph.conf")]
        return [program, *config, *map(str, words)]

    def _run(self, program: str, *words: object) -> None:
        done = subprocess.run(
            self._command(program, words),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS_MAX,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr}")

    def _start(self, stack: ExitStack, program: str, *words: object) -> "subprocess.Popen[bytes]":
        log = stack.enter_context((self.folder / f"{program}.out").open("wb"))
        process = subprocess.Popen(
            self._command(program, words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
        )
        stack.callback(end, process)
        return process

    def _wait_for(self, gateway: "subprocess.Popen[bytes]") -> None:
        context = ssl.create_default_context(cafile=self.folder / "authority.pem")
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            with (
                suppress(OSError),
                urllib.request.urlopen(self.endpoint_url("https", "path"), timeout=5, context=context),
            ):
                return
            with suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"radosgw ended with {gateway.wait(0.1)}: {self.folder / 'client.rgw.log'}")
        raise TimeoutError(f"radosgw was not ready within {SECONDS_MAX} s: {self.folder / 'client.rgw.log'}")
