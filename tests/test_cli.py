"""The command line, as a shell sees it: exit codes, stdout, stderr, and what is on disk afterwards."""

import gc
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nccid_fetch
from nccid_fetch.journal import Journal
from nccid_fetch.store.pages import PAGE_KEYS
from nccid_fetch.warehouse import BUCKET, PARTS

from .catalogue import fault
from .commandline import exit_code_of
from .docs import commands
from .servers.scripted import Do, Drop, Hold, Page, Redirect, ScriptedS3, Status

SCRIPT = Path(sys.executable).parent / "nccid-fetch"
COMMANDS = ("all", "get", "plan", "ls", "doctor", "status", "demo")
SUMMARY_FIELDS = [
    *("schema", "command", "bucket", "group", "dest", "started", "ended", "duration_seconds"),
    *("listed", "fetched", "adopted", "skipped", "refused", "failed", "verified", "parts", "failures", "exit_code"),
]
OBJECTS = {
    "training/ct/Covid0/1/2/a.dcm": b"image one",
    "training/ct/Covid0/1/2/b.dcm": b"image two",
    "training/ct-metadata/Covid0/1/2/a.json": b"{}",
    "training/data/Covid0/data_2020-04-01.json": b'{"Age": 50}',
    "training/mri/Covid1/1/2/c.dcm": b"image three",
    "training/mri-metadata/Covid1/1/2/c.json": b"{}",
    "training/xray/Covid2/1/2/d.dcm": b"image four",
    "training/xray-metadata/Covid2/1/2/d.json": b"{}",
}
GRANTED = ("training/ct/", "training/ct-metadata/", "training/data/")
ANSI = re.compile(r"\x1b")


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value, end = json.JSONDecoder().raw_decode(self.out)
        assert self.out[end:] == "\n"
        assert isinstance(value, dict)
        return value


Cli = Callable[..., Finished]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process, where warnings are errors and no listing is asked for again and again."""
    monkeypatch.setattr("nccid_fetch.operations.LISTING_ATTEMPTS", 2)

    def run(*arguments: object) -> Finished:
        return Finished(exit_code_of(*arguments), *capsys.readouterr())

    return run


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    """A server with something in every part; the environment leads there."""
    with ScriptedS3() as server:
        for key, body in OBJECTS.items():
            server.put(key, body)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        yield server


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "work" / "nccid"


def process(*arguments: object, **options: Any) -> Finished:
    """Run a command line as a process."""
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=110, check=False, **options
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def files(dest: Path) -> dict[str, bytes]:
    """The tree without the state folder: path below DEST, content."""
    return {
        str(path.relative_to(dest)): path.read_bytes()
        for path in sorted(dest.rglob("*"))
        if path.is_file() and ".nccid-fetch" not in path.parts
    }


def expected(*prefixes: str) -> dict[str, bytes]:
    return {key.removeprefix("training/"): body for key, body in OBJECTS.items() if key.startswith(prefixes)}


def never(*_: object) -> float:
    raise AssertionError


def grant_ct_and_data(s3: ScriptedS3) -> None:
    """What an NCCID reader may be granted: `training/ct/*`, which does not cover `training/ct`, nor `training/`."""
    s3.allow_list = lambda prefix, _: prefix.startswith(GRANTED)
    s3.allow_get = lambda key: key.startswith(GRANTED)


def nothing_granted(s3: ScriptedS3) -> None:
    s3.allow_list = lambda *_: False


# Bad input: the exit code, one sentence, nothing written.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fetch"], "'fetch'"),
        (["all", "--nonsense"], "--nonsense"),
        (["all", "ct"], "ct"),
        (["get"], "get takes the names of parts"),
        (["get", "ct", "--plan", "p.jsonl"], "get takes the names of parts"),
        (["get", "cat"], "no part 'cat'"),
        (["plan", "ct", "cat"], "no part 'cat'"),
        (["all", "--concurrency", "many"], "--concurrency"),
        (["all", "--concurrency", "0"], "--concurrency"),
        (["all", "--concurrency", "1025"], "--concurrency"),
        (["all", "--concurrency", ""], "--concurrency"),
        (["all", "--attempts", "0"], "--attempts"),
        (["all", "--stall", "soon"], "--stall"),
        (["all", "--stall", "0s"], "--stall"),
        (["plan", "--retry-for", "soon"], "--retry-for"),
        (["all", "--retry-for", "-1s"], "--retry-for"),
        (["all", "--max-duration", "soon"], "--max-duration"),
        (["all", "--max-duration", "0s"], "--max-duration"),
        (["all", "--max-bytes", "all"], "--max-bytes"),
        (["all", "--max-bytes", "0"], "--max-bytes"),
        (["all", "--max-patients", "0"], "--max-patients"),
        (["all", "--on-failure", "ignore"], "--on-failure"),
        (["all", "--verify", "sha1"], "--verify"),
        (["all", "--existing", "eat"], "--existing"),
        (["all", "--transport", "pigeon"], "--transport"),
        (["all", "--bwlimit", "08:00,fast"], "--bwlimit: 'fast' is not a rate"),
        (["all", "--window", "07:00-07:00"], "--window: in 07:00-07:00 there is no time"),
        (["all", "--format", "xml"], "--format"),
        (["all", "--group", "test"], "--group"),
        (["all", "--bucket", "s3://bucket/training"], "--bucket"),
        (["all", "--bucket", ""], "--bucket"),
        (["all", "--endpoint-url", "s3.example.org"], "--endpoint-url"),
        (["all", "--endpoint-url", "http://s3.example.org"], "not reached over https"),
        (["all", "--profile", "nobody"], "nobody"),
        (["get", "--plan", "/nowhere/plan.jsonl"], "/nowhere/plan.jsonl"),
        (["plan", "--output", "/nowhere/plan.jsonl"], "/nowhere/plan.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("spoken", ["human", "json", "quiet"])
def test_what_is_wrong_with_the_command_line_is_2_and_one_sentence(
    cli: Cli, dest: Path, arguments: list[str], named: str, spoken: str
) -> None:
    further = ["--dest", str(dest), "--format", spoken] if arguments[0] != "fetch" else []
    ended = cli(arguments[0], *(further if "--format" not in arguments else further[:2]), *arguments[1:])
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.errors) == 1
    assert named in ended.errors[0]
    assert not dest.parent.exists()


@pytest.mark.parametrize(
    "command",
    [["all"], ["get", "ct"], ["plan"], ["ls"], ["ls", "ct"], ["ls", "--summary"]],
    ids=" ".join,
)
def test_no_credentials_is_4(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.chdir(tmp_path)
    ended = cli(*command)
    assert (ended.code, ended.out) == (4, "")
    assert len(ended.errors) == 1
    assert "credentials" in ended.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["all"], ["get", "ct"], ["plan"], ["ls"], ["ls", "ct"]], ids=" ".join)
def test_an_endpoint_that_is_not_there_is_5_at_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nccid_fetch.retry.backoff_seconds", never)  # No pause: it is not asked twice.
    with closing(socket.socket()) as deaf:  # Bound, so that nobody else gets the port, and not listening.
        deaf.bind(("127.0.0.1", 0))
        host, port = deaf.getsockname()
        ended = cli(*command, "--endpoint-url", f"http://{host}:{port}")
    assert (ended.code, ended.out) == (5, "")
    assert len(ended.errors) == 1
    assert f"{host}:{port} cannot be reached" in ended.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["all"], ["get", "ct"], ["plan"], ["demo"]], ids=" ".join)
def test_an_empty_dest_is_2_and_not_the_current_folder(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """What a script's `--dest "$UNSET"` comes to."""
    monkeypatch.chdir(tmp_path)
    ended = cli(*command, "--dest", "")
    assert (ended.code, ended.out, len(ended.errors)) == (2, "", 1)
    assert "--dest" in ended.errors[0]
    assert "[" not in ended.errors[0]
    assert not list(tmp_path.iterdir())
    assert not s3.requests


def test_a_dest_that_is_a_file_is_2_and_the_file_stays(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for dest in (file, file / "below"):
        ended = cli("all", "--dest", dest)
        assert (ended.code, ended.out, len(ended.errors)) == (2, "", 1)
    assert file.read_text() == "mine"
    assert not s3.requests


@fault(114)
def test_the_root_of_the_file_system_is_no_dest(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.symlink_to("/")
    for dest in ("/", "//", "/..", root):
        ended = cli("all", "--dest", dest)
        assert (ended.code, ended.out, len(ended.errors)) == (2, "", 1)
    assert not Path("/.nccid-fetch").exists()
    assert not s3.requests


def test_a_dest_that_may_not_be_written_is_9_before_anything_is_asked(s3: ScriptedS3, tmp_path: Path) -> None:
    readonly = tmp_path / "readonly"
    readonly.mkdir(mode=0o500)
    # No mode stops root; a read-only mount does, in a mount namespace of its own.
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"', str(readonly)]
    before = mounted if os.geteuid() == 0 else []
    if before and subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("running as root, and no file system can be mounted here")
    for dest in (readonly, readonly / "new"):
        command = [*before, str(SCRIPT), "all", "--dest", str(dest)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
        assert (done.returncode, done.stdout) == (9, "")
        assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
            f"error: {readonly} may not be written"
        ]
    assert not s3.requests


@pytest.mark.parametrize("other", [["--group", "validation"], ["--bucket", "another-bucket"]], ids=" ".join)
def test_a_dest_of_another_bucket_or_group_is_2_and_stays_as_it_is(
    cli: Cli, s3: ScriptedS3, dest: Path, other: list[str]
) -> None:
    assert cli("get", "ct", "--dest", dest).code == 0
    before, asked = files(dest), len(s3.requests)
    for command in (["all"], ["get", "data"], ["plan"], ["all", "--dry-run"]):
        ended = cli(*command, "--dest", dest, *other)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.errors) == 1
        assert f"belongs to group training of bucket {BUCKET}" in ended.errors[0]
    assert files(dest) == before
    assert len(s3.requests) == asked
    assert cli("get", "ct", "--dest", dest).code == 0


def test_no_command_at_all_shows_help_and_is_2(cli: Cli) -> None:
    ended = cli()
    assert ended.code == 2
    assert "Usage: nccid-fetch" in ended.out


@pytest.mark.parametrize("content", ["", "{}\n", "no JSON\n", '{"schema": "nccid-fetch/plan/1", "bucket": "other"}\n'])
def test_a_file_that_is_no_plan_of_this_bucket_is_2(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, dest: Path, content: str
) -> None:
    file = tmp_path / "plan.jsonl"
    file.write_text(content)
    ended = cli("get", "--plan", file, "--dest", dest)
    assert (ended.code, ended.out, len(ended.errors)) == (2, "", 1)
    assert not dest.exists()
    assert not s3.requests


# What is printed, and where.


def test_json_is_one_object_with_the_fields_of_the_contract_in_order(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    summary = cli("all", "--dest", dest, "--format", "json").json
    assert list(summary) == SUMMARY_FIELDS
    total = {"objects": len(OBJECTS), "bytes": sum(map(len, OBJECTS.values()))}
    nothing = {"objects": 0, "bytes": 0}
    assert summary["schema"] == "nccid-fetch/summary/1"
    assert (summary["command"], summary["bucket"], summary["group"]) == ("all", BUCKET, "training")
    assert summary["dest"] == str(dest)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", summary["started"])
    assert summary["started"] <= summary["ended"]
    assert summary["duration_seconds"] >= 0
    assert (summary["listed"], summary["fetched"]) == (total, total)
    assert (summary["adopted"], summary["skipped"]) == (nothing, nothing)
    assert (summary["refused"], summary["failed"]) == ({"objects": 0}, {"objects": 0})
    assert list(summary["verified"].items()) == [
        ("md5", len(OBJECTS)),
        ("multipart_md5", 0),
        ("checksum", 0),
        ("size", 0),
    ]
    assert list(summary["parts"]) == list(PARTS)
    assert summary["parts"]["data"] == {"state": "complete", "listed": {"objects": 1, "bytes": 11}}
    assert (summary["failures"], summary["exit_code"]) == ([], 0)


def _exit_1(s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/../outside.json", b"{}")


def _exit_4(s3: ScriptedS3, dest: Path) -> None:
    nothing_granted(s3)


def _exit_5(s3: ScriptedS3, dest: Path) -> None:
    s3.script("list", Page(b"<html>Welcome to the hotel</html>"), key="training/xray/", count=None)


@pytest.mark.parametrize(("code", "arrange"), [(1, _exit_1), (4, _exit_4), (5, _exit_5)])
def test_json_is_printed_whatever_the_exit_code(
    cli: Cli, s3: ScriptedS3, dest: Path, code: int, arrange: Callable[[ScriptedS3, Path], None]
) -> None:
    arrange(s3, dest)
    ended = cli("all", "--dest", dest, "--format", "json")
    assert ended.code == code
    assert list(ended.json) == SUMMARY_FIELDS
    assert ended.json["exit_code"] == code


def test_json_is_printed_when_another_run_holds_the_destination(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    assert cli("get", "ct", "--dest", dest).code == 0
    journal = Journal.open(dest, bucket=BUCKET, group="training")
    assert journal is not None
    with closing(journal):
        ended = process("all", "--dest", dest, "--format", "json")
    assert ended.code == 75
    assert ended.json["exit_code"] == 75
    assert ended.errors == [f"error: another run holds {dest}"]
    assert files(dest) == expected("training/ct/")


def test_a_failure_is_named_with_its_reason(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/../outside.json", b"{}")
    s3.script("get", Status(404, "NoSuchKey"), key="training/ct/Covid0/1/2/a.dcm", count=None)
    ended = cli("all", "--dest", dest, "--format", "json")
    assert ended.code == 1
    assert {(failed["key"], failed["reason"]) for failed in ended.json["failures"]} == {
        ("training/data/../outside.json", "unsafe_key"),
        ("training/ct/Covid0/1/2/a.dcm", "gone"),
    }
    assert (ended.json["refused"], ended.json["failed"]) == ({"objects": 1}, {"objects": 1})
    human = cli("all", "--dest", dest)
    assert human.code == 1
    assert "unsafe_key: training/data/../outside.json" in human.out


def test_quiet_says_nothing_when_all_is_well(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    grant_ct_and_data(s3)
    for command in (["all"], ["all"], ["plan"], ["all", "--dry-run"]):
        assert cli(*command, "--dest", dest, "--format", "quiet") == Finished(0, "", "")
    assert cli("ls", "ct/none", "--format", "quiet") == Finished(0, "", "")


def test_what_an_earlier_run_knew_by_size_alone_is_counted(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/Covid0001/status_2021-01-02.json", b"{}", etag="of another kind")
    assert cli("get", "data", "--dest", dest).code == 0
    ended = cli("get", "data", "--dest", dest, "--require-verified", "--format", "quiet")
    assert (ended.code, ended.errors) == (3, ["error: 1 object could be proved by size alone"])


@pytest.mark.parametrize(
    ("code", "command", "arrange"),
    [
        (1, ["all"], _exit_1),
        (3, ["all", "--verify", "size", "--require-verified"], lambda *_: None),
        (4, ["all"], _exit_4),
        (4, ["get", "ct", "mri"], lambda s3, _: grant_ct_and_data(s3)),
        (5, ["all"], _exit_5),
    ],
    ids=["1", "3", "4", "4 of a named part", "5"],
)
def test_quiet_says_in_one_line_why_a_run_did_not_end_well(
    cli: Cli, s3: ScriptedS3, dest: Path, *, code: int, command: list[str], arrange: Callable[[ScriptedS3, Path], None]
) -> None:
    arrange(s3, dest)
    ended = cli(*command, "--dest", dest, "--format", "quiet")
    assert (ended.code, ended.out) == (code, "")
    assert len(ended.errors) == 1


def test_stdout_has_the_summary_and_stderr_what_did_not_come(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    grant_ct_and_data(s3)
    ended = process("all", "--dest", dest)
    assert ended.code == 0
    assert f"Fetched {BUCKET}/training -> {dest}" in ended.out
    assert "fetched   4 objects, 31 B" in ended.out
    assert "note" not in ended.out
    assert ended.err.splitlines() == [
        f"note: {part} is denied: the credentials may not list it"
        for part in ("mri-metadata", "xray-metadata", "mri", "xray")
    ]
    again = cli("all", "--dest", dest)
    assert "fetched   0 objects, 0 B\nskipped   4 objects, 31 B (recorded and unchanged)\n" in again.out


@pytest.mark.parametrize("code", [4, 5])
def test_a_traceback_is_shown_with_debug_alone(cli: Cli, s3: ScriptedS3, dest: Path, code: int) -> None:
    nothing_granted(s3)
    if code == 5:
        s3.script("list", Redirect("http://elsewhere.example/"), count=None)
    plain, debug = cli("all", "--dest", dest), cli("all", "--dest", dest, "--debug")
    assert (plain.code, debug.code) == (code, code)
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert len(plain.errors) == len(debug.errors) == 1


def test_a_defect_of_ours_is_named_as_one(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("nccid_fetch.operations.open_destination", broken)
    ended = cli("all", "--dest", dest)
    assert ended.code == 1
    assert ended.errors == ["error: this is a defect of nccid-fetch: ZeroDivisionError: of all things"]
    assert "Traceback" not in ended.err
    assert not dest.exists()


def test_output_that_is_no_terminal_has_no_ansi(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/../outside.json", b"{}")
    for command in (["ls"], ["--help"], ["all", "--help"], ["all", "--nonsense"]):
        ended = cli(*command)
        assert not ANSI.search(ended.out + ended.err)
    ended = process("all", "--dest", dest, "-v")
    assert not ANSI.search(ended.out + ended.err)


def _on_a_terminal(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Run a process whose stderr is a terminal: exit code, stdout, what the terminal got."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def watch() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.extend(data)
        except OSError:
            pass  # How Linux says that the other side of a terminal was closed.

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [str(SCRIPT), *map(str, arguments)]
    settings = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=settings)
    os.close(theirs)
    out, _ = done.communicate(timeout=110)
    watcher.join()
    os.close(ours)
    return done.returncode, out.decode(), shown.decode()


def test_a_terminal_gets_a_live_block_and_stdout_none_of_it(s3: ScriptedS3, dest: Path) -> None:
    code, out, shown = _on_a_terminal("all", "--dest", dest)
    assert code == 0
    assert "xray-metadata" in shown
    assert f"{len(OBJECTS)} of {len(OBJECTS)} objects" in shown
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", shown), "the bars have colours"
    assert not ANSI.search(out)


def test_no_color_is_honoured(s3: ScriptedS3, dest: Path) -> None:
    code, _, shown = _on_a_terminal("all", "--dest", dest, NO_COLOR="1")
    assert code == 0
    assert "xray-metadata" in shown
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9][0-9;]*m", shown)


def test_a_quiet_terminal_gets_nothing(s3: ScriptedS3, dest: Path) -> None:
    assert _on_a_terminal("all", "--dest", dest, "--format", "quiet") == (0, "", "")


# Where options come from.


def test_version(cli: Cli) -> None:
    assert cli("--version") == Finished(0, f"nccid-fetch {nccid_fetch.__version__}\n", "")


def test_the_version_is_said_before_anything_is_loaded_and_in_the_same_words_as_after(cli: Cli) -> None:
    assert cli("--version") == cli("ls", "--version")
    code = (
        "import sys, atexit; sys.argv = ['nccid-fetch', '--version']\n"
        "atexit.register(lambda: print({'asyncio', 'rich', 'typer', 'nccid_fetch.settings'} & set(sys.modules)))\n"
        "from nccid_fetch.cli.main import main; main()"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == f"nccid-fetch {nccid_fetch.__version__}\nset()\n"


def test_help_loads_nothing_that_only_a_run_needs() -> None:
    code = (
        "import sys, atexit; sys.argv = ['nccid-fetch', '--help']\n"
        "atexit.register(lambda: print({'asyncio', 'aiohttp', 'botocore', 'obstore'} & set(sys.modules)))\n"
        "from nccid_fetch.cli.main import main; main()"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.endswith("set()\n")


def test_the_objects_of_a_page_start_no_collection_of_garbage(cli: Cli) -> None:
    """Of every object there are some ten small ones; the collector would go through all that a run has in memory."""
    before = gc.get_threshold()
    try:
        cli("ls", "--help")
        assert gc.get_threshold()[0] >= 10 * PAGE_KEYS
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_only_options_that_are_accepted(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.code == 0
    options = re.findall(r"^  (?:-[a-z], )?(--[a-z-]+) ?(\S*)", shown.out, re.MULTILINE)
    assert {"--help", "--format", "--debug", "--verbose"} <= {name for name, _ in options}
    given = [word for name, kind in options for word in ([name, os.devnull] if kind else [name])]
    assert cli(command, *given, "--help").code == 0
    assert cli(command, *given, "--nonsense", "--help").code == 2  # So an option that does not exist would be seen.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_can_be_given_in_the_environment(command: str) -> None:
    """All but those of the demo itself, which is not to fill the folder that a shell is set up for."""
    own = {"--version"} | ({"--serve", "--dest"} if command == "demo" else set())
    for parameter in commands()[command].params:
        if parameter.param_type_name == "option" and parameter.opts[0] not in own:
            assert parameter.envvar[0] == f"NCCID_FETCH_{parameter.opts[0][2:].upper().replace('-', '_')}"


def test_dest_comes_from_the_flag_then_our_variable_then_nccids_then_the_current_folder(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def dest_of(*arguments: object) -> str:
        return str(cli("plan", "ct", "--format", "json", *arguments).json["dest"])

    assert dest_of() == "nccid-data"
    monkeypatch.setenv("NCCID_DATA_DIR", str(tmp_path / "nccids"))
    assert dest_of() == str(tmp_path / "nccids")
    monkeypatch.setenv("NCCID_FETCH_DEST", str(tmp_path / "ours"))
    assert dest_of() == str(tmp_path / "ours")
    assert dest_of("--dest", tmp_path / "flag") == str(tmp_path / "flag")


def test_options_come_from_the_environment_and_flags_beat_it(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DEST": str(dest), "FORMAT": "json", "INCLUDE": "ct/* data/*", "DRY_RUN": "1"}.items():
        monkeypatch.setenv(f"NCCID_FETCH_{name}", value)
    summary = cli("all").json
    assert summary["planned"]["fetch"]["objects"] == 3
    assert cli("all", "--include", "data/*").json["planned"]["fetch"]["objects"] == 1
    assert cli("all", "--format", "quiet") == Finished(0, "", "")
    monkeypatch.setenv("NCCID_FETCH_CONCURRENCY", "0")
    assert cli("all").code == 2
    assert cli("all", "--concurrency", "1").code == 0
    monkeypatch.setenv("NCCID_FETCH_CONCURRENCY", "auto")
    assert cli("all").code == 0


def test_include_and_exclude_choose_by_the_key_below_the_group(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    ended = cli("all", "--dest", dest, "--include", "ct*", "--include", "data/*", "--exclude", "*/b.dcm")
    assert ended.code == 0
    kept = expected("training/ct", "training/data/")
    del kept["ct/Covid0/1/2/b.dcm"]
    assert files(dest) == kept


# Access, part by part.


@fault(33)
def test_limited_credentials_get_exactly_their_parts_and_0_with_a_note(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    grant_ct_and_data(s3)
    ended = cli("all", "--dest", dest, "--format", "json")
    assert ended.code == 0
    assert files(dest) == expected(*GRANTED)
    assert {part for part, fate in ended.json["parts"].items() if fate["state"] == "complete"} == {
        "ct",
        "ct-metadata",
        "data",
    }
    assert {part for part, fate in ended.json["parts"].items() if fate["state"] == "denied"} == {
        *("mri", "mri-metadata", "xray", "xray-metadata")
    }
    assert ended.err.count("note: ") == 4
    assert not ended.errors
    assert {seen.query["prefix"][-1] for seen in s3.requests if seen.operation == "list"} == {"/"}


@fault(55)
def test_a_part_that_lists_less_than_is_in_place_is_a_warning_and_not_an_error(
    cli: Cli, s3: ScriptedS3, dest: Path
) -> None:
    assert cli("all", "--dest", dest).code == 0
    for key in ("training/ct/Covid0/1/2/b.dcm", "training/mri/Covid1/1/2/c.dcm"):
        s3.delete(key)
    s3.put("training/mri/", b"")
    end = cli("all", "--dest", dest)
    assert end.code == 0
    assert "warning: ct: its listing counts 1, and 2 of its objects are in place" in end.err
    assert "note: mri is empty: its listing counts 0, and 1 of its objects are in place" in end.err
    assert files(dest) == expected("training/")
    assert cli("all", "--dest", dest, "--format", "quiet").err == ""


@fault(33)
def test_strict_makes_a_denied_part_4(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    grant_ct_and_data(s3)
    ended = cli("all", "--dest", dest, "--strict")
    assert ended.code == 4
    assert ended.errors
    assert files(dest) == expected(*GRANTED)


@fault(33)
def test_a_named_part_that_is_denied_is_4_and_the_rest_is_in_place(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    grant_ct_and_data(s3)
    ended = cli("get", "ct", "mri", "--dest", dest)
    assert ended.code == 4
    assert ended.errors == [
        "error: mri is denied: the credentials may not list it; choose another --profile, or ask NCCID for access"
    ]
    assert files(dest) == expected("training/ct/")


@fault(33)
@pytest.mark.parametrize(
    "command", [["all"], ["get", "mri"], ["plan"], ["all", "--dry-run"], ["ls"], ["ls", "mri"]], ids=" ".join
)
def test_nothing_granted_is_4_and_nothing_is_written(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    nothing_granted(s3)
    monkeypatch.chdir(tmp_path)
    ended = cli(*command)
    assert (ended.code, ended.out, len(ended.errors)) == (4, "", 1)
    assert not list(tmp_path.iterdir())


def test_parts_without_objects_are_4_when_they_are_all_that_was_asked_for(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    ended = cli("get", "unknown", "--dest", dest)
    assert (ended.code, len(ended.errors)) == (4, 1)


# Hostile text and secrets.

HOSTILE = [
    "training/data/Covid1/\x1b]52;c;aGVsbG8=\x07.json",
    "training/data/Covid1/zero\u200bwidth\u2066isolate\u2028line.json",
    "training/data/Covid1/\x1b[31mred\x07.json",
    "training/data/Covid1/line\nerror: forged.json",
    "training/data/Covid1/\x9b2J\x7f.json",
    "training/data/Covid1/\u202egnp.json",
    "training/data/Covid1/carriage\rreturn.json",
    "training/\x1b]0;part\x07/a.json",
    "training/data/../\x1b]0;refused\x07.json",
]


@fault(115)
@pytest.mark.parametrize(
    "command",
    [
        *(["all"], ["all", "-v"], ["all", "-v", "--debug"], ["all", "--format", "json"], ["all", "--dry-run"]),
        *(["plan"], ["plan", "--format", "json"], ["ls"], ["ls", "data"], ["ls", "--format", "json"]),
        *(["ls", "--summary"], ["ls", "--summary", "--format", "json"]),
    ],
    ids=" ".join,
)
def test_no_key_can_speak_to_a_terminal(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in HOSTILE:
        s3.put(key, b"{}")
    s3.script("get", Status(500, "InternalError", "\x1b[2J\r\nerror: forged"), key=HOSTILE[3])
    s3.script("get", Status(400, "\x1b[2J\nerror: forged"), key=HOSTILE[1])
    s3.script("get", Status(404, "NoSuchKey"), key=HOSTILE[2], count=None)
    ended = cli(*command)
    assert ended.code in {0, 1}
    raw = {c for c in ended.out + ended.err if not c.isprintable()} - {"\n"}
    assert not raw
    assert not ended.errors


@fault(115)
def test_a_hostile_key_is_shown_escaped(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    for key in HOSTILE:
        s3.put(key, b"{}")
    assert r"data/Covid1/\x1b[31mred\x07.json" in cli("ls").out
    assert r"unsafe_key: training/data/../\x1b]0;refused\x07.json" in cli("all", "--dest", dest).out


@fault(16, 116)
@pytest.mark.parametrize(
    ("operation", "lie", "transport"),
    [
        ("list", Status(403, "SignatureDoesNotMatch", "StringToSign: Signature=0"), "auto"),
        ("list", Status(400, "ExpiredToken"), "auto"),
        ("list", Page(b"<html>"), "auto"),
        ("list", Redirect("http://elsewhere.example/?X-Amz-Signature=0"), "auto"),
        *(
            ("get", lie, transport)
            for lie in (Status(403, "AccessDenied"), Drop(), Redirect("http://elsewhere.example/"))
            for transport in ("fast", "aioboto3")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_no_secret_is_ever_shown(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, *, operation: Any, lie: Any, transport: str
) -> None:
    """Not in tracebacks either, nor what our libraries log; so a process of its own, with all that it prints."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary/secret/key")
    s3.secrets["test"] = "canary/secret/key"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-session-token")
    s3.script(operation, lie, key="training/" if operation == "list" else None, count=None)
    ended = process("get", "ct", "--dest", dest, "--debug", "-v", "--attempts", "1", "--transport", transport)
    assert ended.code in {1, 4, 5}
    assert any("x-amz-security-token" in seen.headers for seen in s3.requests), "the canary was in the mine"
    for secret in ("canary/secret", "canary-session", "Signature="):
        assert secret not in ended.out + ended.err


# ls, plan, dry runs.


def test_ls_lists_what_is_there_in_key_order(cli: Cli, s3: ScriptedS3) -> None:
    ended = cli("ls", "ct")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "2021-03-01T12:00:00Z             9  training/ct/Covid0/1/2/a.dcm",
        "2021-03-01T12:00:00Z             9  training/ct/Covid0/1/2/b.dcm",
    ]
    assert cli("ls", "/ct/Covid0/").out == ended.out
    assert len(cli("ls").out.splitlines()) == len(cli("ls", "/").out.splitlines()) == len(OBJECTS)


def test_ls_json_is_one_object(cli: Cli, s3: ScriptedS3) -> None:
    listing = cli("ls", "ct", "--format", "json").json
    assert list(listing) == ["schema", "bucket", "group", "objects", "exit_code"]
    assert (listing["schema"], listing["exit_code"]) == ("nccid-fetch/ls/1", 0)
    assert [entry["key"] for entry in listing["objects"]] == [key for key in OBJECTS if key.startswith("training/ct/")]
    assert listing["objects"][0].keys() == {"key", "size", "etag", "modified"}
    assert cli("ls", "ct/none", "--format", "json").json["objects"] == []


def test_ls_summary_counts_per_part(cli: Cli, s3: ScriptedS3) -> None:
    human = cli("ls", "--summary").out
    assert re.search(r"^ct +2 +18 B$", human, re.MULTILINE)
    assert re.search(r"^all +8 +\d+ B$", human, re.MULTILINE)
    totals = cli("ls", "--summary", "--format", "json").json
    assert totals["parts"]["ct"] == {"objects": 2, "bytes": 18}
    assert totals["total"]["objects"] == len(OBJECTS)
    assert totals["exit_code"] == 0


@pytest.mark.parametrize("kind", [[], ["--summary"]], ids=["ls", "ls --summary"])
def test_ls_json_tells_its_exit_code_unless_it_is_2(
    cli: Cli, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, kind: list[str]
) -> None:
    nothing_granted(s3)
    denied = cli("ls", *kind, "--format", "json")
    assert (denied.code, denied.json["exit_code"]) == (4, 4)
    s3.allow_list = lambda *_: True
    s3.script("list", Page(b"<html>"), key="training/mri/", count=None)
    broken = cli("ls", *kind, "--format", "json")
    assert (broken.code, broken.json["exit_code"]) == (5, 5)
    assert len(broken.errors) == 1
    wrong = cli("ls", *kind, "--format", "json", "--profile", "nobody")
    assert (wrong.code, wrong.out) == (2, "")


def test_ls_of_nothing_says_so(cli: Cli, s3: ScriptedS3) -> None:
    assert cli("ls", "ctt") == Finished(0, "", "note: there are no objects\n")


def test_ls_into_a_pipe_that_closes_ends_without_a_word(s3: ScriptedS3) -> None:
    with subprocess.Popen([SCRIPT, "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ls:
        assert ls.stdout is not None
        ls.stdout.close()
        assert ls.stderr is not None
        assert ls.stderr.read() == ""
    assert ls.returncode == 128 + signal.SIGPIPE


def test_no_room_for_what_goes_to_stdout_is_no_defect() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [str(SCRIPT), "config", "--format", "json"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == 9
    assert ended.stderr.startswith("error: stdout cannot be written: No space left on device\nhint: make room")


def test_a_plan_is_written_and_carried_out(cli: Cli, s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    planned = cli("plan", "ct", "data", "--dest", dest, "--output", file, "--format", "json")
    assert planned.code == 0
    assert planned.json["planned"] == {
        "fetch": {"objects": 3, "bytes": 29},
        "check": {"objects": 0, "bytes": 0},
        "skip": {"objects": 0, "bytes": 0},
        "refuse": {"objects": 0, "bytes": 0},
    }
    assert list(planned.json) == [*SUMMARY_FIELDS[:9], "planned", *SUMMARY_FIELDS[9:]]
    assert not dest.exists()
    head, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert head == {"schema": "nccid-fetch/plan/1", "bucket": BUCKET, "group": "training"}
    assert {(line["action"], line["key"]) for line in lines} == {
        ("fetch", key) for key in OBJECTS if key.startswith(("training/ct/", "training/data/"))
    }

    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "b.dcm" not in line))
    carried_out = cli("get", "--plan", file, "--dest", dest, "--format", "json")
    assert carried_out.code == 0
    assert carried_out.json["fetched"]["objects"] == 2
    wanted = expected("training/ct/", "training/data/")
    del wanted["ct/Covid0/1/2/b.dcm"]
    assert files(dest) == wanted


@pytest.mark.parametrize("command", [["all", "--dry-run"], ["get", "ct", "--dry-run"], ["plan"]], ids=" ".join)
def test_a_dry_run_tells_and_writes_nothing(cli: Cli, s3: ScriptedS3, dest: Path, command: list[str]) -> None:
    ended = cli(*command, "--dest", dest)
    assert ended.code == 0
    assert "to fetch" in ended.out
    assert not dest.parent.exists()
    assert s3.gets() == 0


def test_a_dry_run_leaves_an_older_tree_as_it_is(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    assert cli("all", "--dest", dest).code == 0
    s3.put("training/ct/Covid0/1/2/a.dcm", b"another image")
    before, gets = files(dest), s3.gets()
    planned = cli("all", "--dest", dest, "--dry-run", "--format", "json").json["planned"]
    assert (planned["fetch"]["objects"], planned["skip"]["objects"]) == (1, len(OBJECTS) - 1)
    assert (files(dest), s3.gets()) == (before, gets)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=str,
)
def test_a_signal_ends_a_run_with_its_code_and_a_summary(
    s3: ScriptedS3, dest: Path, number: signal.Signals, code: int
) -> None:
    under_way, never = threading.Event(), threading.Event()
    s3.script("get", Do(under_way.set, then=Hold(never)), key="training/ct/Covid0/1/2/a.dcm", count=None)
    command = [str(SCRIPT), "all", "--dest", str(dest), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert under_way.wait(110)
        run.send_signal(number)
        ended = Finished(run.wait(110), *run.communicate())
    never.set()
    assert ended.code == code
    assert ended.json["exit_code"] == code
    assert ended.errors == [f"error: stopped by {number.name}; what was verified is in place"]


def test_a_plan_gets_its_name_only_when_it_is_whole(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    """Half a plan would be carried out as a whole one, and an old one is worth more than the beginning of a new one."""
    s3.put("training/ct/Covid0000/a", b"a")
    file = tmp_path / "plan.jsonl"
    file.write_text("an older plan")
    assert cli("plan", "ct", "--dest", tmp_path / "dest", "--output", file, "--profile", "nobody").code == 2
    s3.script("list", Page(b"<html/>"), key="training/ct/", count=None)
    assert cli("plan", "ct", "--dest", tmp_path / "dest", "--output", file).code == 5
    assert file.read_text() == "an older plan"
    assert list(tmp_path.iterdir()) == [file]


@fault(82, 118)
def test_a_plan_holds_pseudonyms_and_is_for_its_owner_alone(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    s3.put("training/ct/Covid0000/a", b"a")
    file = tmp_path / "plan.jsonl"
    assert cli("plan", "ct", "--dest", tmp_path / "dest", "--output", file).code == 0
    assert file.stat().st_mode & 0o777 == 0o600


@fault(112, 118)
@pytest.mark.parametrize("waiting", ["link", "open file"])
def test_what_waits_under_the_name_of_an_unfinished_plan_is_neither_followed_nor_written_into(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, waiting: str
) -> None:
    """As in /tmp, where others may write as well."""
    mine, file = tmp_path / "mine", tmp_path / "plan.jsonl"
    mine.write_text("precious")
    part = tmp_path / ".plan.jsonl.part"
    if waiting == "link":
        part.symlink_to(mine)
    else:
        part.touch()
        part.chmod(0o666)
    assert cli("plan", "ct", "--dest", tmp_path / "dest", "--output", file).code == 0
    assert mine.read_text() == "precious"
    assert file.lstat().st_mode == stat.S_IFREG | 0o600


@fault(82, 118)
@pytest.mark.parametrize(
    ("mode", "options", "advice"),
    [
        (0o755, [], "chmod 700"),
        (0o710, [], "chmod 700"),
        (0o777, ["--group-readable"], "chmod 750"),
        (0o750, ["--group-readable"], None),
        (0o700, [], None),
        (0o755, ["--format", "quiet"], None),
    ],
)
def test_a_folder_that_lets_others_in_is_noted_once_with_what_to_type(
    cli: Cli, s3: ScriptedS3, tmp_path: Path, *, mode: int, options: list[str], advice: str | None
) -> None:
    dest = tmp_path / "my data"
    dest.mkdir()
    dest.chmod(mode)
    ended = cli("get", "ct", "--dest", dest, *options)
    assert ended.code == 0
    told = f"note: {dest} is open to other users (mode {mode:o}); to keep patients' data from them: {advice} '{dest}'"
    assert [line for line in ended.err.splitlines() if "chmod" in line] == ([told] if advice else [])
    assert dest.stat().st_mode & 0o777 == mode, "whose folder it is decides"


@fault(86, 100)
def test_no_disk_that_hangs_can_keep_the_main_thread_from_hearing_a_signal(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []
    stat = Path.stat

    def noting(path: Path, **options: Any) -> os.stat_result:
        if path == dest:
            looked.append(threading.current_thread() is threading.main_thread())
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", noting)
    assert cli("get", "ct", "--dest", dest).code == 0
    assert looked
    assert not any(looked)


@fault(82)
def test_a_folder_of_our_own_making_is_not_noted(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    for _ in range(2):
        assert "chmod" not in cli("get", "ct", "--dest", dest).err


def test_a_device_stays_one_and_a_full_one_is_9(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    s3.put("training/ct/Covid0000/a", b"a")
    assert cli("plan", "ct", "--dest", tmp_path / "dest", "--output", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()
    assert cli("plan", "ct", "--dest", tmp_path / "dest", "--output", "/dev/full").code == 9


def test_a_filter_that_lets_nothing_through_is_2_with_an_example(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    s3.put("training/ct/Covid0000/a", b"a")
    ended = cli("all", "--dest", tmp_path / "dest", "--include", "Covid0000/*", "--format", "json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.errors == ["error: no key matches --include and --exclude"]


def test_what_may_not_be_had_outranks_what_cannot_be_reached(cli: Cli, s3: ScriptedS3, tmp_path: Path) -> None:
    """4 before 5; and a part of which objects are left over is stopped, however complete its listing was."""
    for number in range(40):
        s3.put(f"training/ct/Covid0000/{number:02}", b"a")
    s3.allow_list = lambda prefix, _: prefix.startswith("training/ct/")
    s3.script("get", Drop(), count=None)
    ended = cli(
        "get", "ct", "data", "--dest", tmp_path / "dest", "--attempts", "1", "--format", "json", "--concurrency", 1
    )
    assert ended.code == ended.json["exit_code"] == 4
    assert {part: told["state"] for part, told in ended.json["parts"].items()} == {"ct": "stopped", "data": "denied"}


@fault(116)
def test_credentials_in_an_endpoint_are_refused_and_not_shown(cli: Cli, tmp_path: Path) -> None:
    ended = cli("all", "--dest", tmp_path / "dest", "--endpoint-url", "http://name:hunter2@127.0.0.1:1")
    assert ended.code == 2
    assert "hunter2" not in ended.out + ended.err


# Runs that stop early.


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--max-patients", "1", "1 patient was begun, and there are more"),
        ("--max-bytes", "40", "the next patient needs 13 bytes, and 9 are left"),
        ("--max-duration", "1h", None),
    ],
)
@pytest.mark.parametrize("spoken", ["human", "json", "quiet"])
def test_a_run_that_stops_early_is_10_and_says_why_and_how_to_go_on(
    cli: Cli, s3: ScriptedS3, dest: Path, *, option: str, value: str, told: str | None, spoken: str
) -> None:
    ended = cli("all", "--dest", dest, option, value, "--format", spoken)
    assert ended.code == (10 if told else 0)
    if spoken == "json":
        assert ended.json["exit_code"] == ended.code
        assert ended.json.get("stopped") == ({"by": option, "message": told} if told else None)
    if spoken == "quiet" or told is None:
        assert "stopped by" not in ended.err
    else:
        note, hint = ended.err.splitlines()[-2:]
        assert note == f"note: stopped by {option}: {told}"
        assert hint == "hint: run the same command again to go on"
    if told:
        assert set(files(dest)) == {path.removeprefix("training/") for path in OBJECTS if "/Covid0/" in path}
    assert cli("all", "--dest", dest).code == 0
    assert files(dest) == expected("training/")


def test_a_run_that_the_first_failure_stops_is_1_and_names_it(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.script("get", Status(404, "NoSuchKey"), key="training/ct/Covid0/1/2/a.dcm", count=None)
    ended = cli("all", "--dest", dest, "--on-failure", "stop", "--concurrency", "1", "--format", "json")
    assert ended.code == 1
    assert [failed["key"] for failed in ended.json["failures"]] == ["training/ct/Covid0/1/2/a.dcm"]
    assert ended.json["stopped"]["by"] == "--on-failure"
    assert ended.errors[-1].startswith("error: stopped by --on-failure: training/ct/Covid0/1/2/a.dcm did not arrive")
    assert "hint: run the same command again to try once more" in ended.err


@fault(148)
@pytest.mark.parametrize("command", [["all", "--dry-run"], ["plan"]], ids=" ".join)
def test_a_dry_run_stops_where_the_run_stops(cli: Cli, s3: ScriptedS3, dest: Path, command: list[str]) -> None:
    ended = cli(*command, "--dest", dest, "--max-patients", "1", "--format", "json")
    assert (ended.code, ended.json["planned"]["fetch"]["objects"]) == (10, 4)
    assert ended.json["stopped"] == {"by": "--max-patients", "message": "1 patient was begun, and there are more"}
    assert "run the same command again" not in ended.err, "it would say the same again"
    run = cli("all", "--dest", dest, "--max-patients", "1", "--format", "json")
    assert (run.code, run.json["fetched"]) == (10, ended.json["planned"]["fetch"])


@fault(148)
def test_a_dry_run_does_not_know_how_long_a_run_takes(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    ended = cli("all", "--dest", dest, "--dry-run", "--max-duration", "1h", "--format", "json")
    assert (ended.code, ended.json["planned"]["fetch"]["objects"]) == (0, len(OBJECTS))
    note = "note: --dry-run does not know how long a run takes: it shows what comes without --max-duration"
    assert ended.err.splitlines()[0] == note


@fault(148)
def test_what_is_known_by_size_is_checked_by_the_run_that_a_dry_run_foresees(
    cli: Cli, s3: ScriptedS3, dest: Path
) -> None:
    assert cli("get", "data", "--dest", dest, "--verify", "size").code == 0
    planned = cli("get", "data", "--dest", dest, "--require-verified", "--dry-run", "--format", "json")
    assert (planned.code, planned.json["planned"]["check"]["objects"]) == (0, len(expected("training/data/")))
    assert cli("plan", "data", "--dest", dest, "--require-verified", "--format", "json").json["exit_code"] == 0
    run = cli("get", "data", "--dest", dest, "--require-verified", "--format", "json")
    assert (run.code, run.json["adopted"]["objects"]) == (0, len(expected("training/data/")))


@fault(148)
def test_what_is_known_by_size_alone_is_counted_also_where_it_was_there_before(
    cli: Cli, s3: ScriptedS3, dest: Path
) -> None:
    s3.put("training/data/Covid0000/data_2020-04-01.json", b"{}", etag="opaque")
    options = ("get", "data", "--include", "data/Covid0000/*", "--dest", dest, "--require-verified")
    for command in (options, (*options, "--dry-run"), options):  # Found out, recorded, and recorded.
        ended = cli(*command)
        assert (ended.code, ended.errors) == (3, ["error: 1 object could be proved by size alone"])


@fault(148)
def test_what_is_refused_is_1_in_a_dry_run_as_well_and_named(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/../escape", b"{}")
    plan = dest.parent / "plan.jsonl"
    dest.parent.mkdir()
    ended = cli("plan", "data", "--dest", dest, "--output", plan, "--format", "json")
    assert (ended.code, ended.json["refused"], ended.json["planned"]["refuse"]["objects"]) == (1, {"objects": 1}, 1)
    assert [failed["reason"] for failed in ended.json["failures"]] == ["unsafe_key"]
    assert plan.read_text().count('"action"') == 1 + len(expected("training/data/")), "it was written all the same"
    assert cli("get", "data", "--dest", dest).code == 1


@fault(148)
def test_a_plan_without_a_part_that_is_denied_is_written_and_says_so(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.allow_list = lambda prefix, _: not prefix.startswith(("training/mri/", "training/ct/")) and prefix != "training/"
    dest.parent.mkdir()
    plan = dest.parent / "plan.jsonl"
    ended = cli("plan", "data", "mri", "--dest", dest, "--output", plan)
    assert ended.code == 4
    assert f"note: --output {plan} has the plan of data; mri is denied" in ended.err.splitlines()
    assert cli("get", "--plan", plan, "--dest", dest).code == 0
    assert files(dest) == expected("training/data/")


@fault(148)
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_half_a_plan_gets_no_name_and_that_is_said(cli: Cli, s3: ScriptedS3, dest: Path, kind: str) -> None:
    s3.script("list", Status(500, "InternalError"), key="training/ct/", count=None)
    dest.parent.mkdir()
    plan, readers = dest.parent / "plan.jsonl", []
    if kind == "pipe":
        os.mkfifo(plan)
        readers.append(os.open(plan, os.O_RDONLY | os.O_NONBLOCK))
    ended = cli("plan", "data", "ct", "--dest", dest, "--output", plan)
    assert ended.code == 5
    told = "was not written" if kind == "file" else "did not get the whole plan"
    assert f"error: --output {plan} {told}: the listing of ct broke off" in ended.errors
    assert plan.exists() is (kind == "pipe")
    for reader in readers:
        half = dest.parent / "half.jsonl"
        half.write_bytes(os.read(reader, 1 << 16))
        os.close(reader)
        refused = cli("get", "--plan", half, "--dest", dest)
        assert (refused.code, refused.errors) == (
            2,
            [f"error: {half} is not a whole plan: the listing of ct broke off"],
        )
    assert not dest.exists()


@fault(148)
def test_a_dry_run_of_a_plan_says_what_is_left_of_it_to_do(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    dest.parent.mkdir()
    plan = dest.parent / "plan.jsonl"
    assert cli("plan", "data", "ct", "--dest", dest, "--output", plan).code == 0
    assert cli("get", "data", "--dest", dest).code == 0
    planned = cli("get", "--plan", plan, "--dest", dest, "--dry-run", "--format", "json").json["planned"]
    assert planned["fetch"]["objects"] == len(expected("training/ct/"))
    assert planned["skip"]["objects"] == len(expected("training/data/"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_leads_nowhere_and_no_file_takes_its_place(
    s3: ScriptedS3, dest: Path, closed: str
) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", str(SCRIPT), "get", "data", "--dest", str(dest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0
    assert ("Complete" in done.stdout) is (">&-" not in closed.split())
    assert files(dest) == expected("training/data/")
