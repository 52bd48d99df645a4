"""No encoding comes from the environment: names and text are the same bytes in every locale, and below every folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from nccid_fetch.cli import main as door
from nccid_fetch.keys import STATE_FOLDER

from .catalogue import fault
from .commandline import exit_code_of
from .processes import TEST_CREDENTIALS, environment
from .servers.scripted import ScriptedS3
from .servers.tls import Relay, self_signed

NO_UTF8 = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale that every system has, and that Python takes for ASCII."""
STREAMS = {"PYTHONIOENCODING": "latin-1:strict"}
FOLDER = b"caf\xe9 \xe4\xb8\xad"
"""A name that is no UTF-8, and one that is."""
NAMES = ("Covid0000/a.json", "Covid\u00e9/a\u0301.json", "Covid\u4e2d/\U0001f600")
OLD = b"not of the bucket"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + FOLDER))
    folder.mkdir()
    return folder


def stock(s3: ScriptedS3) -> None:
    for name in NAMES:
        s3.put(f"training/data/{name}", name.encode())


def said(here: Path, s3: ScriptedS3, settings: dict[str, str], *arguments: str) -> tuple[int, bytes, bytes]:
    """Run the command line in a process with this environment; return exit code, stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "nccid_fetch", *arguments],
        env=environment(**TEST_CREDENTIALS, AWS_ENDPOINT_URL=s3.endpoint_url, **settings),
        cwd=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def names_below(folder: Path) -> set[bytes]:
    """The names of files as the disk has them, without the state folder."""
    top = os.fsencode(folder)
    return {
        os.path.relpath(os.path.join(above, name), top)  # noqa: PTH118 - bytes have no Path.
        for above, _, names in os.walk(top)
        if STATE_FOLDER.encode() not in above.split(b"/")
        for name in names
    }


@fault(144)
@pytest.mark.parametrize("settings", [NO_UTF8, STREAMS], ids=["locale", "streams"])
def test_a_run_writes_and_says_the_same_in_every_locale(here: Path, settings: dict[str, str]) -> None:
    with ScriptedS3() as s3:
        stock(s3)
        code, out, err = said(
            here,
            s3,
            settings,
            *(
                "get",
                "data",
                "--dest",
                str(here / "dest"),
                "--include",
                "data/Covid*/*",
                "--include",
                "data/\u00e9",
                "-v",
            ),
            *("--log-file", str(here / "l\u00f6g"), "--events", str(here / "events"), "--format", "json"),
            *("--on-finish", 'cat > "$NCCID_FETCH_DEST/../told \u00e9"'),
        )
    assert (code, b"Traceback" in err) == (0, False), err
    assert json.loads(out)["dest"] == str(here / "dest")
    assert names_below(here / "dest") == {f"data/{name}".encode() for name in NAMES}
    assert {b"l\xc3\xb6g", b"told \xc3\xa9", b"events"} <= set(os.listdir(os.fsencode(here)))  # noqa: PTH208
    assert "--include data/Covid*/* data/\u00e9" in (here / "l\u00f6g").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in (here / "events").read_text(encoding="utf-8").splitlines()]
    fetched = {line["key"] for line in lines if line["event"] == "fetched"}
    assert fetched == {f"training/data/{name}" for name in NAMES}


@fault(144)
@pytest.mark.parametrize("settings", [NO_UTF8, STREAMS], ids=["locale", "streams"])
def test_what_is_listed_is_utf8_on_stdout_in_every_locale(here: Path, settings: dict[str, str]) -> None:
    with ScriptedS3() as s3:
        stock(s3)
        code, out, _ = said(here, s3, settings, "ls", "data/Covid\u00e9")
        assert (code, "training/data/Covid\u00e9/".encode() in out) == (0, True)
        code, out, err = said(here, s3, settings, "config", "--dest", str(here))
        assert (code, b"caf\\udce9 \xe4\xb8\xad" in out) == (0, True), err


@fault(144)
def test_below_a_folder_that_is_no_utf8_every_command_works(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedS3() as s3:
        stock(s3)
        dest, plan = here / "dest", here / "plan.jsonl"
        for arguments in (
            ("plan", "data", "--output", plan),
            ("get", "--plan", plan, "--metrics", here / "m.prom"),
            ("status",),
            ("status", "--format", "json"),
            ("doctor",),
            ("doctor", "--format", "json"),
            ("all", "--dry-run"),
        ):
            source = () if arguments[0] == "status" else ("--endpoint-url", s3.endpoint_url)
            assert exit_code_of(*arguments, "--dest", dest, *source) == 0, capsys.readouterr().err
    assert names_below(dest) == {f"data/{name}".encode() for name in NAMES}


@fault(144)
@pytest.mark.parametrize("transport", ["fast", "aioboto3"])
def test_certificates_are_found_below_a_folder_that_is_no_utf8(
    here: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    certificate = self_signed(here)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    with ScriptedS3() as s3, Relay(urlsplit(s3.endpoint_url).port or 0, tls=certificate.context) as relay:
        stock(s3)
        asked = ("get", "data", "--dest", here / "dest", "--endpoint-url", f"https://127.0.0.1:{relay.port}")
        assert exit_code_of(*asked, "--transport", transport) == 0


API = """
import os, sys
from pathlib import Path
import nccid_fetch

assert sys.getfilesystemencoding() != "utf-8"
dest, url = Path(sys.argv[1]), sys.argv[2]
assert nccid_fetch.fetch("data", dest=dest, endpoint_url=url).exit_code == 0
mine = os.fsencode(dest) + "/data/Covid\\u00e9/a\\u0301.json".encode()
other = os.fsencode(dest) + "/data/Covid\\u4e2d/\\U0001f600".encode()
open(mine, "wb").write(b"not of the bucket")
os.utime(other, ns=(1, 1))
again = nccid_fetch.fetch("data", dest=dest, endpoint_url=url)
assert (again.exit_code, again.tally.fetched.objects, again.tally.adopted.objects) == (0, 1, 1), again
assert os.stat(other).st_mtime > 1
"""


@fault(144)
def test_python_that_takes_names_for_another_encoding_fetches_adopts_and_sets_aside_the_same_names(here: Path) -> None:
    """A process of another program cannot be started again: so names of the tree are bytes at every step."""
    with ScriptedS3() as s3:
        stock(s3)
        ended = subprocess.run(
            [sys.executable, "-c", API, str(here / "dest"), s3.endpoint_url],
            env=environment(**TEST_CREDENTIALS, **NO_UTF8),
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert names_below(here / "dest") == {f"data/{name}".encode() for name in NAMES}
    assert (here / "dest/data/Covid\u00e9/a\u0301.json").read_bytes() == NAMES[1].encode()
    (aside,) = (here / "dest" / STATE_FOLDER / "quarantine").iterdir()
    assert (aside / "data/Covid\u00e9/a\u0301.json").read_bytes() == OLD


@fault(144)
def test_keys_that_are_no_utf8_are_refused_by_name_and_never_taken_for_each_other(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """S3 has none. A server that does lists them by their bytes: after all that is UTF-8."""
    refused = ("training/data/\udcfe", "training/data/\udcff/a")
    with ScriptedS3() as s3:
        for key in ("training/data/\U0001f600", *refused):
            s3.put(key, key.encode("utf-8", "surrogateescape"))
        asked = ("get", "data", "--dest", here / "dest", "--endpoint-url", s3.endpoint_url, "--format", "json")
        assert exit_code_of(*asked) == 1
        failures = json.loads(capsys.readouterr().out)["failures"]
        assert exit_code_of("ls", "data/\udcff", "--endpoint-url", s3.endpoint_url) == 0
    assert sorted((failure["key"], failure["reason"]) for failure in failures) == [
        (key, "unsafe_key") for key in refused
    ]
    assert names_below(here / "dest") == {"data/\U0001f600".encode()}


# How Python is started again.


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is started in the place of this process; nothing is."""
    calls: list[Any] = []

    def execv(*given: Any) -> None:
        calls.append(given)
        raise OSError

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "gb18030")
    return calls


@fault(144)
def test_python_is_started_again_with_the_very_bytes_that_it_was_given(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GB18030, for one, reads two texts as the same and writes back one of them."""
    monkeypatch.setattr(sys, "orig_argv", ["other"])
    given = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    with pytest.raises(SystemExit):
        door.main()
    assert started == [(sys.executable, [given[0], b"-X", b"utf8", *given[1:]])]


@fault(144)
@pytest.mark.parametrize("executable", ["", sys.executable])
def test_what_cannot_be_started_again_says_so_and_is_not_started_for_ever(
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    executable: str,
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    if executable:
        monkeypatch.setattr(door, "_given_arguments", lambda: [b"frozen", b"-X", b"utf8", b"all"])
    with pytest.raises(SystemExit) as end:
        door.main()
    assert (end.value.code, "PYTHONUTF8=1" in capsys.readouterr().err) == (2, True)
    assert not started
