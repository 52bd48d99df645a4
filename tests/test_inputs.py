"""Files that options read: each is read once, be it a file or a pipe, and what cannot be read is 2 and one sentence."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch import UsageError, fetch
from nccid_fetch.errors import DestinationError
from nccid_fetch.model import Fetch, Why
from nccid_fetch.planfile import LINE_BYTES_MAX, SCHEMA, open_plan, read_plan, write_decision, write_header
from nccid_fetch.settings import Source

from .catalogue import fault
from .commandline import exit_code_of
from .oracle import remote_of
from .servers.scripted import ScriptedS3

KEY = "training/data/Covid0000/data_2020-04-01.json"
Given = Callable[[Path, ExitStack, bytes], str]
"""Makes something that has these bytes in it, and returns what an option is given to read them."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, b"{}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        yield server


def _file(folder: Path, _: ExitStack, content: bytes) -> str:
    (folder / "file").write_bytes(content)
    return str(folder / "file")


def _link(folder: Path, stack: ExitStack, content: bytes) -> str:
    (folder / "link").symlink_to(_file(folder, stack, content))
    return str(folder / "link")


def _write(path: str | int, content: bytes) -> None:
    with suppress(BrokenPipeError), open(path, "wb", 0) as out:  # noqa: PTH123 - or a descriptor.
        out.write(content)


def _pipe(folder: Path, stack: ExitStack, content: bytes) -> str:
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=_write, args=(str(folder / "pipe"), content))
    writer.start()
    stack.callback(writer.join)
    return str(folder / "pipe")


def _substitution(_: Path, stack: ExitStack, content: bytes) -> str:
    """As bash's <(...)."""
    reader, end = os.pipe()
    writer = threading.Thread(target=_write, args=(end, content))
    writer.start()
    stack.callback(writer.join)
    stack.callback(os.close, reader)
    return f"/dev/fd/{reader}"


def _stdin(name: str, make: Given) -> Given:
    def redirect(folder: Path, stack: ExitStack, content: bytes) -> str:
        source = os.open(make(folder, stack, content), os.O_RDONLY)
        before = os.dup(0)
        os.dup2(source, 0)
        os.close(source)
        stack.callback(os.close, before)
        stack.callback(os.dup2, before, 0)
        return name

    return redirect


READ: dict[str, Given] = {
    "file": _file,
    "link": _link,
    "pipe": _pipe,
    "<(...)": _substitution,
    "- from a file": _stdin("-", _file),
    "- from a pipe": _stdin("-", _substitution),
    "/dev/stdin from a file": _stdin("/dev/stdin", _file),
    "/dev/stdin from a pipe": _stdin("/dev/stdin", _substitution),
}


def _missing(folder: Path, _: ExitStack) -> str:
    return str(folder / "missing")


def _folder(folder: Path, _: ExitStack) -> str:
    return str(folder)


def _unreadable(_: Path, __: ExitStack) -> str:
    return "/proc/self/mem"  # What the kernel does not let even root read from its first byte on.


def _closed(_: Path, __: ExitStack) -> str:
    return "/dev/fd/987"


def _content(content: bytes) -> Callable[[Path, ExitStack], str]:
    return lambda folder, stack: _file(folder, stack, content)


REFUSED: dict[str, Callable[[Path, ExitStack], str]] = {
    "missing": _missing,
    "folder": _folder,
    "unreadable": _unreadable,
    "closed": _closed,
    "not UTF-8": _content(b"\xff\xfe\0"),
    "not its kind": _content(b"key,size\n"),
    "longer than any": _content(b"#" * (2 << 20)),
}


def plan_of(s3: ScriptedS3, *more: str) -> bytes:
    """Return a plan of the one object, with these lines after it."""
    out = StringIO()
    write_header(out, Source())
    write_decision(out, Fetch(remote_of(s3, KEY), Why.MISSING))
    return (out.getvalue() + "".join(f"{line}\n" for line in more)).encode()


@fault(149)
@pytest.mark.parametrize("given", READ.values(), ids=READ)
def test_a_plan_is_read_once_whatever_it_comes_through(s3: ScriptedS3, tmp_path: Path, given: Given) -> None:
    dest = tmp_path / "dest"
    with ExitStack() as stack:
        path = given(tmp_path, stack, plan_of(s3))
        assert exit_code_of("get", "--plan", path, "--dest", dest, "--max-patients", "5", "--format", "quiet") == 0
    assert (dest / KEY.partition("/")[2]).read_bytes() == b"{}"


@fault(149)
@pytest.mark.parametrize("given", READ.values(), ids=READ)
def test_a_configuration_is_read_whatever_it_comes_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Given
) -> None:
    with ExitStack() as stack:
        path = given(tmp_path, stack, b"attempts = 5\n")
        assert exit_code_of("config", "--config", path, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["options"]["attempts"] == {"value": "5", "from": "file", "name": path}


@fault(149)
@pytest.mark.parametrize("option", ["--plan", "--config"])
@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_2_and_one_sentence_and_dest_is_not_touched(
    s3: ScriptedS3,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    option: str,
    given: Callable[[Path, ExitStack], str],
) -> None:
    with ExitStack() as stack:
        path = given(tmp_path, stack)
        parts = [] if option == "--plan" else ["data"]
        assert exit_code_of("get", *parts, option, path, "--dest", tmp_path / "dest") == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert path in error
    assert hint.startswith("hint: ")
    assert not (tmp_path / "dest").exists()
    assert s3.requests == []


@fault(149)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty, and not a plan"),
        (b"{" * (LINE_BYTES_MAX + 1), "line 1: not a JSON object"),
    ],
    ids=["empty", "endless"],
)
@pytest.mark.parametrize("given", [_file, _substitution], ids=["file", "pipe"])
def test_what_is_no_plan_is_known_before_all_of_it_was_read(
    tmp_path: Path, given: Given, content: bytes, told: str
) -> None:
    with ExitStack() as stack:
        path = Path(given(tmp_path, stack, content))
        with pytest.raises(UsageError, match=told):
            stack.enter_context(open_plan(path, Source()))


@fault(149)
def test_of_a_line_without_an_end_no_more_is_read_than_a_plan_can_have() -> None:
    endless = BytesIO(b"{" * (4 * LINE_BYTES_MAX))
    with pytest.raises(UsageError, match="line 1: not a JSON object"):
        next(read_plan(endless, "a plan", Source()))
    assert endless.tell() == LINE_BYTES_MAX


@fault(149)
@pytest.mark.parametrize("given", [_file, _substitution], ids=["file", "pipe"])
def test_a_line_that_is_wrong_is_known_before_dest_is_touched(s3: ScriptedS3, tmp_path: Path, given: Given) -> None:
    with ExitStack() as stack:
        path = given(tmp_path, stack, plan_of(s3, "{}"))
        with pytest.raises(UsageError, match="line 3: key is missing or wrong"):
            fetch(dest=tmp_path / "dest", plan=path)
    assert not (tmp_path / "dest").exists()


@fault(149)
def test_python_takes_a_plan_from_a_pipe_too(s3: ScriptedS3, tmp_path: Path) -> None:
    with ExitStack() as stack:
        path = _pipe(tmp_path, stack, plan_of(s3))
        assert fetch(dest=tmp_path / "dest", plan=path).exit_code == 0


@fault(149)
def test_stdin_is_read_by_one_option(s3: ScriptedS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        _stdin("-", _file)(tmp_path, stack, b"")
        assert exit_code_of("get", "--plan", "-", "--config", "/dev/stdin", "--dest", tmp_path / "dest") == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: --config /dev/stdin and --plan - cannot both have stdin"


@fault(149)
def test_a_copy_for_which_there_is_no_room_is_9(
    s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.planfile.SpooledTemporaryFile", lambda _: open("/dev/full", "wb", 0))  # noqa: PTH123, SIM115
    with ExitStack() as stack:
        path = Path(_substitution(tmp_path, stack, plan_of(s3)))
        with pytest.raises(DestinationError, match="cannot be kept until it is carried out: No space left"):
            stack.enter_context(open_plan(path, Source()))


def test_a_large_plan_from_a_pipe_is_kept_in_a_file(
    s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.planfile.COPIED_BYTES_MAX", 100)
    with ExitStack() as stack:
        plan = stack.enter_context(open_plan(Path(_substitution(tmp_path, stack, plan_of(s3))), Source()))
        for sort in (False, True):
            assert [remote.key for remote in plan.remotes(sort=sort)] == [KEY]
        held: Any = plan._file
        assert held._rolled
    assert SCHEMA in plan_of(s3).decode()
