"""The command line as a real process: what the tests of kills and signals, and the long runs, start and end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from .servers.scripted import ScriptedS3

BATCH = 7
"""Objects to a commit, so few that every kill finds some staged, some in place and some recorded."""
_SCRUBBED = ("AWS_", "BOTO_", "NCCID_", "XDG_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
TEST_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without anybody's credentials, proxies or settings, and with some of a test's.

    Args:
        settings: What else the process gets; test credentials, if this is empty.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_SCRUBBED) and name.lower() not in _PROXIES
    }
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "AWS_EC2_METADATA_DISABLED": "true"}
    return kept | nothing | path | (settings or TEST_CREDENTIALS)


class Child:
    """The command line, running; `pid` is known before its first request.

    Args:
        s3: The server it fetches from.
        dest: Where to.
        options: Further options of `all`.
        fate: Where it kills itself, or hangs; see `victim`.
        batch: Objects to a commit.
        settings: Its environment; see `environment`.
        open_files: How many files it may have open.
    """

    def __init__(
        self,
        s3: ScriptedS3,
        dest: Path,
        *options: str,
        fate: str = "-",
        batch: int = BATCH,
        settings: dict[str, str] | None = None,
        open_files: int | None = None,
    ) -> None:
        limit = [] if open_files is None else ["/bin/sh", "-c", f'ulimit -n {open_files}; exec "$@"', "limited"]
        self.process = subprocess.Popen(
            [
                *limit,
                *(sys.executable, "-m", "tests.victim", str(batch), fate),
                *("all", "--dest", str(dest), "--endpoint-url", s3.endpoint_url),
                *("--format", "json", "--concurrency", "8", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**(settings or {})),
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self, timeout: float = 60.0) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return exit code and summary, which is empty where it was killed."""
        code, summary, _ = self.said(timeout)
        return code, summary

    def said(self, timeout: float = 60.0) -> tuple[int, dict[str, Any], str]:
        """Wait for its end; return exit code, summary and what it wrote to stderr. One that does not end is killed."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert "Traceback" not in err, err
        return self.process.returncode, json.loads(out) if out else {}, err
