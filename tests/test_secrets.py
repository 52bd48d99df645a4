"""Canaries: secrets that would be known anywhere, and a search for them wherever a run could have left them.

A run is a process of its own, with all that Python and the libraries print by themselves, in Python's development mode
and asyncio's debug mode, and with everything of ours turned on that talks.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .catalogue import fault
from .servers.scripted import Action, Drop, Operation, Redirect, ScriptedS3, Status
from .servers.tls import Relay, self_signed

CANARIES = {
    "access key": "AKIACANARYACCESSKEY0",
    "secret key": "canary/secret+key",
    "session token": "canary-session-token",
    "proxy's password": "canary-proxy-password",
}
QUOTED = f"x-amz-security-token:{CANARIES['session token']} {CANARIES['access key']} {CANARIES['secret key']}"
PROXY = "http://canary-user:canary-proxy-password@127.0.0.1:1"
MAIN = """
import sys
from nccid_fetch.cli.main import main
parts, *options = sys.argv[1:]
for part in parts.split(","):
    sys.argv = ["nccid-fetch", "get", part, *options]
    try:
        main()
    except SystemExit as end:
        print(part, "ended with", end.code)
"""
"""One run after the other in one process, which takes longer to start than they all take."""
DEFECT = """
from nccid_fetch.store.fast import FastReader
async def broken():
    raise ZeroDivisionError("of all things")
FastReader.exchange = lambda self, *_: broken()
"""
LEFT_BEHIND = """
import asyncio, logging, os, threading, warnings
from nccid_fetch import operations
whole, secret = operations.fetch, os.environ["AWS_SESSION_TOKEN"] + "\\x1b[2J"
def fail():
    raise ValueError(secret)
class Left:
    def __del__(self):
        fail()
async def later():
    fail()
async def leaky(*arguments, **options):
    loop = asyncio.get_running_loop()
    task = loop.create_task(later())
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Left()
    warnings.warn(secret, ResourceWarning)
    for name in ("botocore.auth", "aiobotocore.httpsession", "aiohttp.client", "asyncio", "urllib3.connectionpool"):
        logging.getLogger(name).critical(secret)
    await asyncio.sleep(0)
    del task
    loop.call_exception_handler({"message": "Unclosed connection", "client_connection": secret})
    await whole(*arguments, **options)
operations.fetch = leaky
"""


class Run(NamedTuple):
    """How runs ended, what they said, and where they may have left something."""

    codes: dict[str, int]
    said: str
    home: Path

    @property
    def code(self) -> int:
        (code,) = self.codes.values()
        return code


Go = Callable[..., Run]


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.secrets[CANARIES["access key"]] = CANARIES["secret key"]
        for number in range(3):
            server.put(f"training/ct/Covid0000/{number}", b"image")
        yield server


@pytest.fixture
def go(s3: ScriptedS3, tmp_path: Path) -> Go:
    def go(
        *arguments: str,
        parts: tuple[str, ...] = ("ct",),
        patch: str = "",
        endpoint: str | None = None,
        **variables: str,
    ) -> Run:
        home = tmp_path / "home"
        home.mkdir()
        environment = os.environ | {
            "HOME": str(home),
            "AWS_ENDPOINT_URL": endpoint or s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": CANARIES["access key"],
            "AWS_SECRET_ACCESS_KEY": CANARIES["secret key"],
            "AWS_SESSION_TOKEN": CANARIES["session token"],
            "PYTHONDEVMODE": "1",
            "PYTHONASYNCIODEBUG": "1",
            **variables,
        }
        command = [sys.executable, "-c", patch + MAIN, ",".join(parts), "--dest", str(home / "dest"), "--debug", "-v"]
        command += ["--attempts", "1", "--retry-for", "0s", *arguments]
        kept = {"--log-file": "log", "--events": "events", "--metrics": "run.prom"}
        command += [word for option, name in kept.items() for word in (option, str(home / name))]
        command += ["--on-finish", f"{{ env | grep ^NCCID_FETCH_; cat; }} >> {home}/told"]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
        said = (done.stdout + done.stderr).decode()
        codes = {part: int(code) for part, code in re.findall(r"^(\S+) ended with (\d+)$", said, re.MULTILINE)}
        assert set(codes) == set(parts), said
        assert {path.name for path in home.iterdir()} >= {*kept.values()}
        assert (home / "told").exists() == (codes.keys() != {part for part, code in codes.items() if code == 2})
        return Run(codes, said, home)

    return go


def leaks(run: Run) -> list[str]:
    """Name every secret that a run said or left on disk, and where."""
    places = {"what it said": run.said.encode()}
    places |= {str(path): path.read_bytes() for path in run.home.rglob("*") if path.is_file()}
    return [
        f"{name} in {place}"
        for name, secret in CANARIES.items()
        for place, text in places.items()
        if secret.encode() in text
    ]


LIES: dict[str, tuple[Operation, Action, int]] = {
    "ct": ("get", Status(403, "AccessDenied", QUOTED), 1),
    "ct-metadata": ("get", Status(403, "SignatureDoesNotMatch", QUOTED), 4),
    "mri": ("list", Status(403, "SignatureDoesNotMatch", QUOTED), 4),
    "mri-metadata": ("get", Status(400, "ExpiredToken", QUOTED), 4),
    "xray": ("get", Redirect(f"http://elsewhere.example/?{QUOTED}"), 1),
    "xray-metadata": ("get", Drop(), 1),
}
"""What the server answers in each part, and how a run ends by it."""


@fault(16, 116, 117)
@pytest.mark.parametrize("spoken", ["human", "json"])
def test_no_secret_is_left_by_a_run_that_goes_wrong(s3: ScriptedS3, go: Go, spoken: str) -> None:
    for part, (operation, action, _) in LIES.items():
        key = f"training/{part}/Covid0000/0"
        s3.put(key, b"image")
        s3.script(operation, action, key=key if operation == "get" else f"training/{part}/", count=None)
    run = go("--transport", "aioboto3", "--format", spoken, parts=tuple(LIES))
    assert all(CANARIES["session token"] in seen.headers["x-amz-security-token"] for seen in s3.requests)
    assert run.codes == {part: code for part, (_, _, code) in LIES.items()}
    assert leaks(run) == []


@fault(116)
def test_no_secret_is_left_by_a_defect(go: Go) -> None:
    run = go(patch=DEFECT)
    assert run.code == 1
    assert "ZeroDivisionError: of all things" in run.said
    assert "ZeroDivisionError: of all things" in (run.home / "log").read_text()
    assert leaks(run) == []


@fault(115, 116, 117)
def test_what_is_left_behind_in_tasks_threads_warnings_and_loggers_is_said_in_our_words_only(go: Go) -> None:
    run = go(patch=LEFT_BEHIND)
    assert run.code == 0
    assert (run.home / "dest" / ".nccid-fetch" / "journal.sqlite").exists()
    assert run.said.count("a ValueError came up") == 3
    assert "a ResourceWarning came up" in run.said
    assert leaks(run) == []
    assert "\x1b" not in run.said


@fault(27, 116)
@pytest.mark.parametrize(
    ("endpoint", "proxy"),
    [
        ("https://127.0.0.1:9", PROXY),
        ("http://s3.localhost:9", PROXY),
        ("https://127.0.0.1:9", PROXY.replace(":1", ":no-port")),
    ],
    ids=["deaf, to https", "deaf, to http", "no port"],
)
def test_the_password_of_a_proxy_is_not_shown(go: Go, endpoint: str, proxy: str) -> None:
    run = go(endpoint=endpoint, HTTPS_PROXY=proxy, HTTP_PROXY=proxy)
    assert run.code in {1, 2, 5}
    assert leaks(run) == []


@fault(22, 120)
def test_a_certificate_that_nobody_knows_is_5_and_named_as_what_it_is(s3: ScriptedS3, go: Go, tmp_path: Path) -> None:
    with Relay(int(s3.endpoint_url.rpartition(":")[2]), tls=self_signed(tmp_path).context) as relay:
        run = go(endpoint=f"https://127.0.0.1:{relay.port}")
    assert run.code == 5
    (error,) = [line for line in run.said.splitlines() if line.startswith("error:")]
    assert "shows a certificate that is not trusted (self-signed certificate)" in error
    assert "AWS_CA_BUNDLE" in error
    assert s3.requests == []
    assert leaks(run) == []
