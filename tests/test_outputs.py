"""What options write to: a plain file is made or replaced, all else is written through or refused, and stays what it is."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from errno import EBUSY
from pathlib import Path
from typing import NamedTuple

import pytest

from nccid_fetch.cli.flags import LogFormat
from nccid_fetch.cli.records import files, log
from nccid_fetch.cli.records.files import output, place_of
from nccid_fetch.cli.records.metrics import Metrics
from nccid_fetch.errors import DestinationError, UsageError
from nccid_fetch.streams import STDIN, STDOUT, descriptor_of

from .catalogue import fault
from .commandline import exit_code_of
from .servers.scripted import ScriptedS3

SCRIPT = Path(sys.executable).with_name("nccid-fetch")
KEY = "training/data/Covid0000/data_2020-04-01.json"
OPTIONS = ("--output", "--log-file", "--events", "--metrics")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, b"{}")
        server.put("training/mri/Covid0000/1/2/a.dcm", b"image")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        monkeypatch.setattr("nccid_fetch.operations.LISTING_ATTEMPTS", 1)
        yield server


class Target(NamedTuple):
    """What an option is given, and how to find out what came.

    Attributes:
        path: What it is given.
        read: Returns what was written; None where nothing can be read.
    """

    path: str
    read: Callable[[], bytes | None]


def _fails(error: OSError) -> None:
    pytest.fail(str(error))


def _nothing(folder: Path, _: ExitStack) -> Target:
    return Target(str(folder / "x.prom"), (folder / "x.prom").read_bytes)


def _file(folder: Path, stack: ExitStack) -> Target:
    (folder / "x.prom").write_text("")
    return _nothing(folder, stack)


def _link_to_a_file(folder: Path, _: ExitStack) -> Target:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/real.prom").write_text("")
    (folder / "x.prom").symlink_to("elsewhere/real.prom")
    return Target(str(folder / "x.prom"), (folder / "elsewhere/real.prom").read_bytes)


def _link_to_nowhere(folder: Path, _: ExitStack) -> Target:
    (folder / "elsewhere").mkdir()
    (folder / "x.prom").symlink_to("y.prom")
    (folder / "y.prom").symlink_to(folder / "elsewhere/real.prom")
    return Target(str(folder / "x.prom"), (folder / "elsewhere/real.prom").read_bytes)


def _link_into_no_folder(folder: Path, _: ExitStack) -> Target:
    (folder / "x.prom").symlink_to("elsewhere/real.prom")
    return Target(str(folder / "x.prom"), lambda: None)


def _link_in_a_circle(folder: Path, _: ExitStack) -> Target:
    (folder / "x.prom").symlink_to("x.prom")
    return Target(str(folder / "x.prom"), lambda: None)


def _folder(folder: Path, _: ExitStack) -> Target:
    (folder / "x.prom").mkdir()
    return Target(str(folder / "x.prom"), lambda: None)


def _socket(folder: Path, stack: ExitStack) -> Target:
    listening = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
    listening.bind(str(folder / "x.prom"))
    return Target(str(folder / "x.prom"), lambda: None)


def _device(_: Path, __: ExitStack) -> Target:
    return Target("/dev/null", lambda: None)


def _link_to_a_device(folder: Path, _: ExitStack) -> Target:
    (folder / "x.prom").symlink_to("/dev/null")
    return Target(str(folder / "x.prom"), lambda: None)


def _pipe(folder: Path, stack: ExitStack) -> Target:
    os.mkfifo(folder / "x.prom")
    reader = os.open(folder / "x.prom", os.O_RDONLY | os.O_NONBLOCK)
    stack.callback(os.close, reader)
    return Target(str(folder / "x.prom"), lambda: os.read(reader, 1 << 16))


def _link_to_a_pipe(folder: Path, stack: ExitStack) -> Target:
    (folder / "elsewhere").mkdir()
    target = _pipe(folder / "elsewhere", stack)
    (folder / "x.prom").symlink_to(target.path)
    return Target(str(folder / "x.prom"), target.read)


def _pipe_without_a_reader(folder: Path, _: ExitStack) -> Target:
    os.mkfifo(folder / "x.prom")
    return Target(str(folder / "x.prom"), lambda: None)


def _descriptor(name: str) -> Callable[[Path, ExitStack], Target]:
    def open_pipe(_: Path, stack: ExitStack) -> Target:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        return Target(name.format(writer), lambda: os.read(reader, 1 << 16))

    return open_pipe


def _descriptor_of_a_file(folder: Path, stack: ExitStack) -> Target:
    (folder / "x.prom").write_text("before\n")
    writer = os.open(folder / "x.prom", os.O_WRONLY)
    os.lseek(writer, 0, os.SEEK_END)
    stack.callback(os.close, writer)
    return Target(f"/dev/fd/{writer}", lambda: (folder / "x.prom").read_bytes().removeprefix(b"before\n"))


def _descriptor_for_reading(folder: Path, stack: ExitStack) -> Target:
    (folder / "x.prom").write_text("before\n")
    reader = os.open(folder / "x.prom", os.O_RDONLY)
    stack.callback(os.close, reader)
    return Target(f"/proc/self/fd/{reader}", lambda: None)


def _descriptor_that_is_closed(_: Path, __: ExitStack) -> Target:
    return Target("/dev/fd/987", lambda: None)


WRITTEN = {
    "nothing": _nothing,
    "file": _file,
    "link to a file": _link_to_a_file,
    "link to nowhere": _link_to_nowhere,
}
THROUGH = {
    "device": _device,
    "link to a device": _link_to_a_device,
    "pipe": _pipe,
    "link to a pipe": _link_to_a_pipe,
    "/dev/fd/N": _descriptor("/dev/fd/{}"),
    "/proc/self/fd/N": _descriptor("/proc/self/fd/{}"),
    "a file that is open": _descriptor_of_a_file,
}
"""Written through; but metrics, which are replaced every few seconds, are refused."""
REFUSED = {
    "link into no folder": _link_into_no_folder,
    "link in a circle": _link_in_a_circle,
    "folder": _folder,
    "socket": _socket,
    "pipe without a reader": _pipe_without_a_reader,
    "open for reading": _descriptor_for_reading,
    "closed": _descriptor_that_is_closed,
}


def _kinds(folder: Path, path: str) -> list[tuple[str, int, str | None]]:
    """Return what there is in a folder, and under a path: names, types, and where links lead."""
    found = [entry for entry in folder.rglob("*") if "dest" not in entry.parts]
    found += [Path(path)] if os.path.lexists(path) and not descriptor_of(Path(path), STDOUT) else []
    return [
        (str(entry), stat.S_IFMT(mode), str(entry.readlink()) if stat.S_ISLNK(mode) else None)
        for entry in sorted(found)
        if (mode := entry.lstat().st_mode) and not stat.S_ISREG(mode)
    ]


MARKS = {
    "--output": b"nccid-fetch/plan/1",
    "--log-file": b"ended with 0",
    "--events": b'"event":"ended"',
    "--metrics": b"nccid_fetch_exit_code",
}
"""What each option writes."""


@fault(147)
@pytest.mark.parametrize("options", [("--output", "--log-file", "--events"), ("--metrics",)], ids=" ".join)
@pytest.mark.parametrize("kind", [*WRITTEN, *THROUGH])
def test_what_options_write_to_is_written_through_and_stays_what_it_is(
    s3: ScriptedS3, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, options: tuple[str, ...]
) -> None:
    command = ["get"] if options == ("--metrics",) else ["plan"]
    with ExitStack() as stack:
        targets: dict[str, Target] = {}
        for option in options:
            folder = tmp_path / option
            folder.mkdir()
            targets[option] = (WRITTEN | THROUGH)[kind](folder, stack)
        before = [_kinds(tmp_path, target.path) for target in targets.values()]
        given = [word for option, target in targets.items() for word in (option, target.path)]
        code = exit_code_of(*command, "data", "--dest", tmp_path / "dest", *given)
        assert [_kinds(tmp_path, target.path) for target in targets.values()] == before
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        if command == ["get"] and kind in THROUGH:  # Metrics are replaced every few seconds.
            assert (code, len(errors)) == (2, 1)
            assert errors[0].endswith(" cannot be written: it is no file")
            return
        assert (code, errors) == (0, [])
        for option, target in targets.items():
            written = target.read()
            assert written is None or MARKS[option] in written
        assert not list(tmp_path.rglob(".*.part")), "nothing that waits is left"


@fault(147)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_written_is_2_and_one_sentence_and_stays_what_it_is(
    s3: ScriptedS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    option: str,
    kind: str,
) -> None:
    monkeypatch.setattr(files, "READER_SECONDS", 0.0)
    command = ["get"] if option == "--metrics" else ["plan"]
    with ExitStack() as stack:
        target = REFUSED[kind](tmp_path, stack)
        before = _kinds(tmp_path, target.path)
        code = exit_code_of(*command, "data", "--dest", tmp_path / "dest", option, target.path)
        assert _kinds(tmp_path, target.path) == before
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith(f"error: {option} {target.path} cannot be written: ")
    assert not (tmp_path / "dest").exists()
    assert not s3.requests


def _run(*arguments: object, **streams: object) -> "subprocess.CompletedProcess[bytes]":
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=110, stderr=subprocess.PIPE, **streams)  # type: ignore[call-overload,no-any-return]


@fault(147)
def test_a_plan_on_stdout_is_all_that_stdout_has_and_what_it_has_already_stays(s3: ScriptedS3, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        out.write(b"before\n")
        out.flush()
        done = _run("plan", "data", "--dest", tmp_path / "dest", "--output", "/dev/stdout", stdout=out)
    before, header, decision = (tmp_path / "out").read_bytes().splitlines()
    assert (done.returncode, before) == (0, b"before")
    assert json.loads(header)["schema"] == "nccid-fetch/plan/1"
    assert json.loads(decision)["key"] == KEY
    assert b"Planned: 1 object" in done.stderr, "the summary goes where it does not mix"


@fault(147, 149)
def test_a_plan_goes_through_a_pipe_from_one_process_to_another(s3: ScriptedS3, tmp_path: Path) -> None:
    command = f"{SCRIPT} plan data --dest {tmp_path}/dest --output - | {SCRIPT} get --plan - --dest {tmp_path}/dest"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dest" / KEY.partition("/")[2]).read_bytes() == b"{}"


@fault(147)
def test_a_reader_that_has_seen_enough_ends_the_plan_without_a_word(s3: ScriptedS3, tmp_path: Path) -> None:
    for number in range(1500):
        s3.put(f"training/data/Covid{number:04}/data_2020-04-01.json", b"{}")
    reader, writer = os.pipe()
    os.close(reader)
    done = _run("plan", "data", "--dest", tmp_path / "dest", "--output", "-", stdout=writer)
    os.close(writer)
    assert done.returncode == 141
    assert b"error" not in done.stderr
    assert b"Traceback" not in done.stderr


@fault(147)
def test_a_reader_of_a_named_pipe_that_goes_away_ends_the_plan_with_a_note(
    s3: ScriptedS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    opened = files.open_special

    def open_and_leave(path: Path) -> int | None:
        descriptor = opened(path)
        if path.name == "pipe":
            os.close(reader)
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open_special", open_and_leave)
        code = exit_code_of(
            "plan", "data", "--dest", tmp_path / "dest", "--output", tmp_path / "pipe", "--format", "json"
        )
    told = capsys.readouterr()
    assert (code, json.loads(told.out)["exit_code"]) == (141, 141)
    assert told.err.endswith("has gone away; it did not get the whole plan\n")
    assert "error" not in told.err


@fault(147)
def test_a_pipe_whose_reader_comes_a_moment_later_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    readers: list[int] = []
    monkeypatch.setattr(
        files, "sleep", lambda _: readers.append(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK))
    )
    with output("--output", tmp_path / "pipe") as out:
        out.text.write("a plan")
        out.keep()
    assert os.read(readers[0], 100) == b"a plan"
    os.close(readers[0])


@fault(147)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--events", "-", "--output", "/dev/stdout"],
            "--events - and --output /dev/stdout cannot both have stdout",
        ),
        (
            ["--log-file", "/dev/fd/1", "--output", "-"],
            "--output - and --log-file /dev/fd/1 cannot both have stdout",
        ),
        (["--output", "-", "--format", "json"], "--output - would mix with --format json on stdout"),
        (
            ["--log-file", "/dev/stdout", "--format", "json"],
            "--log-file /dev/stdout would mix with --format json on stdout",
        ),
        (
            ["--output", "/proc/self/fd/1", "--format", "json"],
            "--output /proc/self/fd/1 would mix with --format json on stdout",
        ),
    ],
    ids=" ".join,
)
def test_stdout_has_one_writer(
    s3: ScriptedS3, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert exit_code_of("plan", "data", "--dest", tmp_path / "dest", *options) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", f"error: {told}")


@fault(147)
@pytest.mark.parametrize(
    "options",
    [("--log-file", "--events"), ("--output", "--log-file"), ("--events", "--output"), ("--config", "--log-file")],
    ids=" ".join,
)
def test_one_file_is_given_to_one_option(
    s3: ScriptedS3, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    (tmp_path / "file").write_text("attempts = 5\n")
    (tmp_path / "link").symlink_to("file")
    given = [word for option, name in zip(options, ("file", "link"), strict=True) for word in (option, tmp_path / name)]
    assert exit_code_of("plan", "data", "--dest", tmp_path / "dest", *given) == 2
    assert capsys.readouterr().err.splitlines()[0].endswith(" cannot both have one file")
    assert (tmp_path / "file").read_text() == "attempts = 5\n"


@fault(147)
@pytest.mark.parametrize("option", ["--log-file", "--events"])
def test_what_a_command_prints_is_not_mixed_with_a_record(
    s3: ScriptedS3, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert exit_code_of("ls", "data", option, "/dev/stdout") == 2
    assert (
        capsys.readouterr().err.splitlines()[0]
        == f"error: {option} /dev/stdout would mix with what ls writes to stdout"
    )


@fault(147)
def test_a_log_that_is_a_link_is_turned_over_where_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LOG_BYTES_MAX", 200)
    (tmp_path / "logs").mkdir()
    (tmp_path / "log").symlink_to("logs/real")
    kept = log.Log(tmp_path / "log", LogFormat.TEXT, on_failure=_fails)
    for _ in range(5):
        kept.write("info", "x" * 100)
    kept.close(60)
    assert (tmp_path / "log").readlink() == Path("logs/real")
    assert {path.name for path in (tmp_path / "logs").iterdir()} >= {"real", "real.1", "real.2"}


@fault(147)
def test_a_log_on_what_is_open_is_never_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LOG_BYTES_MAX", 200)
    with (tmp_path / "out").open("wb") as out:
        kept = log.Log(Path(f"/dev/fd/{out.fileno()}"), LogFormat.TEXT, on_failure=_fails)
        for _ in range(5):
            kept.write("info", "x" * 100)
        kept.close(60)
    assert (tmp_path / "out").read_text().count("x" * 100) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@fault(147)
def test_what_the_shell_opened_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "out").touch(mode=0o644)
    with (tmp_path / "out").open("wb") as out:
        os.close(files.open_to_append(Path(f"/dev/fd/{out.fileno()}")))
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o644


@fault(112, 147)
def test_a_link_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("target")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    if (tmp_path / "link").lstat().st_uid == 0:
        monkeypatch.setattr(files, "_TRUSTED", ())
    for opening in (place_of, files.open_to_append):
        with pytest.raises(PermissionError, match="it is a link of another user"):
            opening(tmp_path / "link")
    assert not (tmp_path / "target").exists()


@fault(147)
def test_a_file_that_is_mounted_by_itself_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan").write_text("an older and longer plan")
    inode = (tmp_path / "plan").stat().st_ino

    def busy(*_: object) -> None:
        raise OSError(EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    with output("--output", tmp_path / "plan") as out:
        out.text.write("a plan")
        out.keep()
    assert ((tmp_path / "plan").read_text(), (tmp_path / "plan").stat().st_ino) == ("a plan", inode)
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


@fault(147)
def test_a_full_device_is_9_and_metrics_say_why_they_are_refused() -> None:
    with output("--output", Path("/dev/full")) as out:
        out.text.write("a plan")
        with pytest.raises(DestinationError, match="No space left"):
            out.keep()
    with pytest.raises(UsageError, match="--metrics /dev/null cannot be written: it is no file"):
        Metrics(Path("/dev/null"), {"group": "training", "dest": "d"}, on_failure=_fails)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("-", STDIN),
        ("/dev/stdin", 0),
        ("/dev/stdout", 1),
        ("/dev/stderr", 2),
        ("/dev/../dev/fd/7", 7),
        ("/proc/self/fd/8", 8),
        ("/proc/thread-self/fd/9", 9),
        ("/proc/OURS/fd/10", 10),
        ("/proc/1/fd/1", None),
        ("/dev/null", None),
        ("", None),
        ("fd/1", None),
        ("/dev/fd/99999999999", None),
        ("/dev/fd/" + "9" * 5000, None),
        ("1", None),
    ],
)
def test_a_path_that_names_a_descriptor_is_known(path: str, number: int | None) -> None:
    assert descriptor_of(Path(path.replace("OURS", str(os.getpid()))), STDIN) == number


def test_a_link_to_a_descriptor_is_known_and_one_in_a_circle_is_none(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("/dev/stdout")
    (tmp_path / "circle").symlink_to("circle")
    assert descriptor_of(tmp_path / "one", STDIN) == 1
    assert descriptor_of(tmp_path / "circle", STDIN) is None
