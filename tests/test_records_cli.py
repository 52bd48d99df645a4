"""Records as whoever asked for them finds them after a command, however it ended."""

import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nccid_fetch.cli.output import note

from .catalogue import fault
from .commandline import exit_code_of
from .docs import commands
from .processes import Child
from .servers.scripted import Do, Hold, Page, ScriptedS3, Status

SCRIPT = Path(sys.executable).parent / "nccid-fetch"
KEY = "training/ct/Covid0000/1/2/a.dcm"
Cli = Callable[..., "Ended"]


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, b"image")
        server.put("training/data/Covid0000/data_2020-04-01.json", b"{}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        yield server


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process; what other programs write there counts as well."""
    monkeypatch.setattr("nccid_fetch.operations.LISTING_ATTEMPTS", 2)

    def run(*arguments: object) -> Ended:
        return Ended(exit_code_of(*arguments), *capfd.readouterr())

    return run


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where records go."""
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


ARGUMENTS = {"get": ["ct"], "completion": ["bash"]}
"""What commands need."""


def messages(path: Path) -> list[str]:
    """A log in text, without times and processes."""
    return [" ".join(line.split()[2:]) for line in path.read_text().splitlines()]


def exit_code_in(path: Path) -> float:
    families = {family.name: family.samples for family in text_string_to_metric_families(path.read_text())}
    return families["nccid_fetch_exit_code"][0].value


# The log.


@pytest.mark.usefixtures("no_pauses")
def test_the_log_has_what_was_asked_for_what_happened_and_how_it_ended(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    s3.script("get", Status(404, "NoSuchKey"), key=KEY, count=None)
    s3.script("get", Status(500, "InternalError"), key="training/data/Covid0000/data_2020-04-01.json", count=2)
    s3.put("training/mri/Covid0000/1/2/b.dcm", b"image")
    s3.allow_list = lambda prefix, _: prefix.startswith(("training/ct/", "training/data/"))
    ended = cli("get", "ct", "data", "mri", "--dest", kept / "dest", "--log-file", kept / "log", "--format", "quiet")
    assert ended.code == 4
    told = messages(kept / "log")
    assert told[0].startswith("info nccid-fetch ")
    assert told[0].endswith(f"begins: get ct data mri --dest {kept}/dest --format quiet --log-file {kept}/log")
    assert told[1] == f"info from nccid-data-warehouse-prod/training to {kept}/dest"
    assert "info parts: ct, data, mri (denied)" in told
    assert "info the listing of ct ended: complete" in told
    assert [line for line in told if line.startswith("info retry: training/data/")]
    assert [line for line in told if line.startswith(f"error gone: {KEY}: ")]
    assert [line for line in told if line.startswith("error mri is denied")]
    assert re.match(
        r"info ended with 4 after \d+s: listed 2 objects \(7 B\), fetched 1 object \(2 B\), adopted 0 ", told[-1]
    )
    assert told[-1].endswith("refused 0, failed 1")


def test_a_log_in_json_has_the_same_as_facts(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    s3.script("get", Status(404, "NoSuchKey"), key=KEY, count=None)
    arguments = ("--log-file", kept / "log", "--log-format", "json", "--on-finish", "true secret")
    assert cli("all", "--dest", kept / "dest", *arguments).code == 1
    begun, *between, ended = lines(kept / "log")
    assert (begun["command"], begun["group"], begun["options"]["--dest"]) == ("all", "training", str(kept / "dest"))
    assert begun["options"]["--on-finish"] == "(given)", "it may have the address of a chat in it"
    assert [(line["key"], line["reason"]) for line in between if "reason" in line] == [(KEY, "gone")]
    assert (ended["exit_code"], ended["fetched"], ended["failed"]) == (1, {"objects": 1, "bytes": 2}, {"objects": 1})


def test_options_of_the_environment_are_in_the_log_as_well(
    cli: Cli, s3: ScriptedS3, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCID_FETCH_LOG_FILE", str(kept / "log"))
    monkeypatch.setenv("NCCID_FETCH_STRICT", "1")
    assert cli("all", "--dest", kept / "dest").code == 0
    assert messages(kept / "log")[0].endswith(f"all --dest {kept}/dest --strict --log-file {kept}/log")


def test_what_is_refused_before_anything_else_is_in_the_log(cli: Cli, kept: Path) -> None:
    assert cli("all", "--dest", "/", "--log-file", kept / "log").code == 2
    assert messages(kept / "log")[-3:-1] == [
        "error --dest / is the whole file system",
        "error hint: name a folder of its own for the data",
    ]
    assert messages(kept / "log")[-1].startswith("info ended with 2")


def test_every_note_on_stderr_is_in_the_log_once(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    s3.script("get", Status(404, "NoSuchKey"), key=KEY, count=None)
    (kept / "dest").mkdir(mode=0o755)
    ended = cli("get", "ct", "unknown", "--dest", kept / "dest", "--log-file", kept / "log", "-v")
    told = messages(kept / "log")
    said = ended.err.splitlines()
    assert len(said) > 2
    for line in said:
        bare = line.removeprefix("note: ").removeprefix("error: ")
        assert [entry.partition(" ")[2] for entry in told].count(bare) == 1, line


def test_a_defect_leaves_its_traceback_in_the_log_and_not_on_stderr(
    cli: Cli, s3: ScriptedS3, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("nccid_fetch.operations.open_destination", broken)
    ended = cli("all", "--dest", kept / "dest", "--log-file", kept / "log")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    told = messages(kept / "log")
    assert "error Traceback (most recent call last):" in told
    assert "error ZeroDivisionError: of all things" in told
    assert told[-1].startswith("info ended with 1")


@fault(115)
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_key_forges_a_line_of_the_log(cli: Cli, s3: ScriptedS3, kept: Path, form: str) -> None:
    s3.put("training/data/../\x1b[2J\n2026-11-22T19:00:00.000Z 1 error forged", b"{}")
    arguments = ("--log-file", kept / "log", "--log-format", form, "-v", "--events", kept / "events")
    assert cli("all", "--dest", kept / "dest", *arguments).code == 1
    for path in (kept / "log", kept / "events"):
        raw = path.read_text()
        assert not {c for c in raw if not c.isprintable()} - {"\n"}
        assert not [line for line in raw.splitlines() if line.startswith("2026-11-22T19:00:00.000Z 1 error")]
        assert r"[2J" in raw


@fault(116)
@pytest.mark.parametrize("password", ["hunter2", "@hunter2", "/hunter2", "a@b/hunter2"])
def test_a_password_in_an_endpoint_is_in_no_record(cli: Cli, kept: Path, password: str) -> None:
    records = ("--log-file", kept / "log", "--events", kept / "events", "--metrics", kept / "m.prom")
    url = f"http://name:{password}@127.0.0.1:1"
    assert cli("all", "--dest", kept / "dest", "--endpoint-url", url, *records).code == 2
    assert "***@127.0.0.1:1" in (kept / "log").read_text()
    assert not [path for path in kept.iterdir() if "hunter2" in path.read_text()]


# What cannot be written.


@pytest.mark.parametrize("option", ["--log-file", "--events", "--metrics"])
def test_a_record_that_cannot_be_begun_is_2_and_nothing_else_happens(
    cli: Cli, s3: ScriptedS3, kept: Path, option: str
) -> None:
    ended = cli("all", "--dest", kept / "dest", option, "/nowhere/file", "--on-finish", f"touch {kept}/finished")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[0] == f"error: {option} /nowhere/file cannot be written: No such file or directory"
    assert not list(kept.iterdir())
    assert not s3.requests


@fault(70)
def test_a_record_that_cannot_be_gone_on_with_is_a_warning_and_never_the_end(
    cli: Cli, s3: ScriptedS3, kept: Path
) -> None:
    ended = cli("get", "ct", "--dest", kept / "dest", "--log-file", "/dev/full", "--events", "/dev/full")
    assert ended.code == 0
    assert sorted(ended.err.splitlines()) == [
        f"warning: {option} /dev/full cannot be written: No space left on device; the run goes on without it"
        for option in ("--events", "--log-file")
    ]
    assert (kept / "dest/ct/Covid0000/1/2/a.dcm").read_bytes() == b"image"


def test_a_line_to_stderr_is_written_in_one_piece_so_that_lines_of_several_threads_do_not_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=pieces.append, flush=lambda: None))
    note("warning: a record cannot be written")
    assert pieces == ["warning: a record cannot be written\n"]


def test_a_reader_of_the_log_that_looks_away_does_not_hold_up_the_end_of_the_process(kept: Path) -> None:
    os.mkfifo(kept / "log")
    reader = os.open(kept / "log", os.O_RDONLY | os.O_NONBLOCK)
    code = """
import sys
from pathlib import Path
from nccid_fetch.cli.flags import LogFormat
from nccid_fetch.cli.records.log import Log
log = Log(Path(sys.argv[1]), LogFormat.TEXT, on_failure=print)
log.write("info", "x" * 1_000_000)
sys.stdin.read()
log.close(0.0)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(kept / "log")], stdin=subprocess.PIPE)
    select.select([reader], [], [])  # It is in the middle of it.
    try:
        writer.communicate(timeout=60)
    finally:
        writer.kill()
        os.close(reader)
    assert writer.returncode == 0


def test_metrics_that_cannot_be_gone_on_with_are_a_warning_too(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    gone = kept / "gone"
    gone.mkdir()
    s3.script("get", Do(lambda: (gone / "m.prom").unlink() or gone.rmdir()), key=KEY)  # type: ignore[func-returns-value]
    ended = cli("get", "ct", "--dest", kept / "dest", "--metrics", gone / "m.prom")
    assert ended.code == 0
    (warning,) = ended.err.splitlines()
    assert warning.startswith(f"warning: --metrics {gone}/m.prom cannot be written: No such file or directory")


# Events.


def test_events_on_stdout_leave_room_for_nothing_else_there(s3: ScriptedS3, kept: Path) -> None:
    def events_of(*arguments: str) -> tuple[list[dict[str, Any]], str]:
        command = [str(SCRIPT), "get", "ct", "data", "--dest", str(kept / "dest"), "--events", "-", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    human, err = events_of()
    assert [line["key"] for line in human if line["event"] == "fetched" and line["key"] == KEY]
    assert human[-1]["summary"]["fetched"]["objects"] == 2
    assert "fetched   2 objects, 7 B" in err
    spoken, err = events_of("--format", "json")
    assert spoken[-1]["summary"]["skipped"]["objects"] == 2
    assert err == ""


def test_a_reader_of_events_that_goes_away_does_not_end_the_run(s3: ScriptedS3, kept: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()
    s3.script("get", Do(reached.set, Hold(go_on)), key=KEY)
    command = [str(SCRIPT), "all", "--dest", str(kept / "dest"), "--events", "-", "--format", "quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert reached.wait(110)
        run.stdout.close()
        go_on.set()
        said = run.stderr.read()
    assert run.returncode == 0
    assert said == "warning: --events - cannot be written: nobody reads it any more; the run goes on without it\n"
    assert (kept / "dest/ct/Covid0000/1/2/a.dcm").exists()


@pytest.mark.parametrize("name", sorted(commands().keys() - {"all", "get", "plan"}))
def test_a_command_with_data_of_its_own_on_stdout_has_no_events_there(cli: Cli, name: str) -> None:
    ended = cli(name, "--events", "-", *ARGUMENTS.get(name, ()))
    assert (ended.code, ended.out) == (2, "")
    assert "--events -" in ended.err


def test_a_command_that_is_no_run_has_a_beginning_and_an_end(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    assert cli("ls", "ct", "--events", kept / "events", "--log-file", kept / "log").code == 0
    begun, ended = lines(kept / "events")
    assert (begun["command"], ended["exit_code"], ended["summary"]) == ("ls", 0, None)
    assert messages(kept / "log")[-1] == "info ended with 0"


# One JSON object on stdout.


@pytest.mark.parametrize("name", sorted(commands()))
def test_with_json_there_is_one_object_on_stdout_even_where_the_command_is_at_fault(
    cli: Cli, kept: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("nccid_fetch.cli.records.keeping.Records.open", broken)
    ended = cli(name, "--format", "json", *ARGUMENTS.get(name, ()))
    told = json.loads(ended.out)
    assert (ended.code, told["command"], told["exit_code"]) == (1, name, 1)
    assert told["schema"] == "nccid-fetch/ended/1"


@pytest.mark.parametrize("code", [0, 1, 4, 5, 9])
@pytest.mark.parametrize("command", [["all"], ["get", "ct"], ["plan"], ["ls"], ["ls", "--summary"]], ids=" ".join)
def test_with_json_there_is_one_object_with_the_exit_code(
    cli: Cli, s3: ScriptedS3, kept: Path, command: list[str], code: int
) -> None:
    match code:
        case 1:
            s3.script("get", Status(404, "NoSuchKey"), key=KEY, count=None)
        case 4:
            s3.allow_list = lambda *_: False
        case 5:
            s3.script("list", Page(b"<html/>"), key="training/ct/", count=None)
    arguments = ["--output", "/dev/full"] if command == ["plan"] and code == 9 else []
    dest = [] if command[0] == "ls" else ["--dest", str(kept / "dest")]
    ended = cli(*command, "--format", "json", *arguments, *dest)
    told = json.loads(ended.out)
    assert told["exit_code"] == ended.code
    if code in {0, 4, 5} or (code == 1 and command[0] in {"all", "get"}) or arguments:
        assert ended.code == code


@fault(87)
@pytest.mark.parametrize("command", [["ls", "ct"], ["plan", "ct"]], ids=" ".join)
def test_with_json_there_is_one_object_after_a_signal(s3: ScriptedS3, kept: Path, command: list[str]) -> None:
    reached, never = threading.Event(), threading.Event()
    s3.script("list", Do(reached.set, Hold(never)), count=None)
    run = subprocess.Popen([SCRIPT, *command, "--format", "json"], stdout=subprocess.PIPE, text=True, cwd=kept)
    assert reached.wait(110)
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=110)
    never.set()
    assert run.returncode == json.loads(out)["exit_code"] == 143


# When it is over.


def test_on_finish_reads_the_summary_and_knows_how_it_ended(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    s3.script("get", Status(404, "NoSuchKey"), key=KEY, count=None)
    tell = f'cat > {kept}/told; env | grep ^NCCID_FETCH_ | sort > {kept}/variables; echo "a word"'
    ended = cli("all", "--dest", kept / "dest", "--on-finish", tell)
    assert ended.code == 1
    assert (kept / "told").read_text().startswith(ended.out), "what a person was shown"
    assert ended.err.endswith("a word\n")
    assert "a word" not in ended.out
    assert (kept / "variables").read_text().splitlines() == [
        "NCCID_FETCH_BUCKET=nccid-data-warehouse-prod",
        "NCCID_FETCH_COMMAND=all",
        f"NCCID_FETCH_DEST={kept}/dest",
        "NCCID_FETCH_EXIT_CODE=1",
        "NCCID_FETCH_GROUP=training",
    ]


def test_on_finish_is_told_why_a_run_could_not_go_on(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    s3.script("list", Page(b"<html/>"), count=None)
    ended = cli("all", "--dest", kept / "dest", "--on-finish", f"cat > {kept}/told")
    assert ended.code == 5
    assert (kept / "told").read_text() == f"nccid-fetch all ended with 5\n{ended.err}"


def test_on_finish_reads_json_where_json_is_spoken(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    ended = cli("all", "--dest", kept / "dest", "--format", "json", "--on-finish", f"cat > {kept}/told")
    assert (kept / "told").read_text() == ended.out


def test_on_finish_is_run_in_silence_too_and_after_a_defect(
    cli: Cli, s3: ScriptedS3, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.operations.open_destination", lambda *_: 1 / 0)
    tell = f"cat > {kept}/told"
    assert cli("all", "--dest", kept / "dest", "--format", "quiet", "--on-finish", tell).code == 1
    assert "this is a defect of nccid-fetch: ZeroDivisionError" in (kept / "told").read_text()


def test_that_on_finish_fails_is_a_warning_and_changes_nothing(cli: Cli, s3: ScriptedS3, kept: Path) -> None:
    for number, (command, warning) in enumerate(
        {
            "exit 3": "ended with 3",
            "kill -9 $$": "ended by SIGKILL",
            "\0": "could not be started: embedded null byte",
        }.items()
    ):
        ended = cli("get", "ct", "--dest", kept / str(number), "--on-finish", command)
        assert (ended.code, ended.err) == (0, f"warning: --on-finish {warning}\n")


def test_on_finish_that_takes_too_long_is_ended_with_all_that_it_started(
    cli: Cli, s3: ScriptedS3, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.cli.records.finish.FINISH_SECONDS", 0.05)
    for name in ("open", "held"):
        os.mkfifo(kept / name)
    reader, held = os.open(kept / "open", os.O_RDONLY | os.O_NONBLOCK), os.open(kept / "held", os.O_RDWR)
    ended = cli("get", "ct", "--dest", kept / "dest", "--on-finish", f"(exec 4> {kept}/open; cat {kept}/held) & wait")
    assert ended.code == 0
    assert ended.err == "warning: --on-finish was ended: it took longer than 0.05 seconds\n"
    assert select.select([reader], [], [], 20)[0], "somebody still has it open"
    assert os.read(reader, 1) == b""
    for descriptor in (reader, held):
        os.close(descriptor)


def test_on_finish_does_not_run_itself(cli: Cli, s3: ScriptedS3, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCID_FETCH_ON_FINISH", f"env > {kept}/variables")
    assert cli("get", "ct", "--dest", kept / "dest").code == 0
    assert "NCCID_FETCH_ON_FINISH" not in (kept / "variables").read_text()
    (kept / "variables").unlink()
    assert cli("all", "--dest", "/").code == 2
    assert not (kept / "variables").exists(), "a wrong command line is seen by whoever wrote it"


@fault(86, 87)
@pytest.mark.parametrize("ends", ["in order", "left"])
def test_all_records_come_to_their_end_after_a_signal(s3: ScriptedS3, kept: Path, ends: str) -> None:
    """Also where the run hangs and is left: then all that is said has a second."""
    pipe = kept / "pipe"
    os.mkfifo(pipe)
    os.mkfifo(kept / "told")
    told: list[str] = []
    listener = threading.Thread(target=lambda: told.append((kept / "told").read_text()), daemon=True)
    listener.start()
    records = ("--log-file", "log", "--events", "events", "--metrics", "m.prom")
    options = [str(kept / word) if "--" not in word else word for word in records]
    reached, never = threading.Event(), threading.Event()
    s3.script("get", Do(reached.set, Hold(never)), key=KEY, count=None)
    tell = f'{{ echo "$NCCID_FETCH_EXIT_CODE"; cat; }} > {kept}/told'
    child = Child(
        s3, kept / "dest", *options, "--on-finish", tell, fate="-" if ends == "in order" else f"look:1:{pipe}"
    )
    if ends == "in order":
        assert reached.wait(60)
        child.signal(signal.SIGTERM)
        code, summary, _ = child.said()
    else:
        with pipe.open("wb"):  # It hangs where it reads from this, until it ends.
            child.signal(signal.SIGTERM)
            code, summary, _ = child.said()
    never.set()
    assert code == summary["exit_code"] == 143
    assert messages(kept / "log")[-1].startswith("info ended with 143 after ")
    assert lines(kept / "events")[-1]["exit_code"] == 143
    assert exit_code_in(kept / "m.prom") == 143
    listener.join(60)
    said, _, read = told[0].partition("\n")
    assert said == "143"
    assert json.loads(read) == summary


def test_a_wrong_command_line_is_the_end_of_its_metrics_too(cli: Cli, kept: Path) -> None:
    """Else they would say for ever that it goes on."""
    assert cli("all", "--dest", "/", "--metrics", kept / "m.prom").code == 2
    assert exit_code_in(kept / "m.prom") == 2
    assert stat.S_IMODE((kept / "m.prom").stat().st_mode) == 0o644
