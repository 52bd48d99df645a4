"""Limits of the machine: less of what is limited is used, or one sentence names the limit. No traceback, no abort, no defect."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nccid_fetch import machine
from nccid_fetch.cli.main import _limits_told
from nccid_fetch.diagnosis import destination_error
from nccid_fetch.disk import Disk, cores
from nccid_fetch.errors import DestinationError, LimitError, UsageError
from nccid_fetch.machine import Memory, limit_of, limits_told, memory, threads
from nccid_fetch.settings import MEMORY_BESIDE, MEMORY_PER_OBJECT, Settings
from nccid_fetch.statusfile import Publisher

from .catalogue import fault
from .conftest import run
from .oracle import check_tree, snapshot
from .processes import TEST_CREDENTIALS, environment
from .servers.scripted import ScriptedS3

LONG = bool(os.environ.get("TESTS_LONG"))
MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce these limits")


# What an error is about.


@fault(145)
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("can't start new thread"), "ulimit -u, or the pids of a cgroup"),
        (RuntimeError("another"), None),
        (MemoryError(), "too little memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "too little memory"),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "too many files are open"),
        (ImportError("No module named x"), None),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too many files are open"),
        (Exception("error: initializing curl-multi failed"), "too many files are open"),
        (OSError(errno.EFBIG, "File too large"), "a file would become too large"),
        (OSError(errno.EIO, "Input/output error"), None),
        (ValueError("can't start new thread"), None),
    ],
)
def test_an_error_is_about_a_limit_or_about_none(error: Exception, told: str | None) -> None:
    found = limit_of(error)
    assert (found is None) is (told is None)
    if told is not None:
        assert told in str(found)
        assert found is not None
        assert (found.exit_code, bool(found.hint)) == (9, True)
        with pytest.raises(LimitError), limits_told():
            raise error


@fault(145)
def test_a_limit_is_told_with_its_next_step_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowded = OSError(errno.EMFILE, "Too many open files")
    found = destination_error(crowded, tmp_path)
    assert (found.message, found.hint) == ("too many files are open", getattr(limit_of(crowded), "hint", None))
    with pytest.raises(SystemExit) as end, _limits_told():
        raise crowded
    assert end.value.code == LimitError.exit_code
    assert capsys.readouterr().err == f"error: {found.message}\nhint: {found.hint}\n"


@fault(145)
@pytest.mark.parametrize("error", [UsageError("x"), DestinationError("x"), KeyError("x")])
def test_what_is_about_no_limit_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, limits_told():
        raise error
    assert raised.value is error


# How much memory there is.


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Limits of the process: none, but for those that are put in."""
    limits: dict[int, int] = {}
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits.get(kind, unlimited), unlimited))
    return limits


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    told = "Name:\tpython\nVmSize:\t  2048 kB\nVmData:\t  1024 kB\nVmRSS:\t   512 kB\nThreads:\t1\n"
    (tmp_path / "proc" / "status").write_text(told)
    return tmp_path / "proc"


@fault(145)
@pytest.mark.parametrize(
    ("told", "files", "left"),
    [
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": f"{MIB}\n"}, MIB // 2),
        (
            "0::/a/b\n",
            {"a/b/memory.max": "max", "a/memory.max": f"{2 * MIB}", "memory.max": f"{4 * MIB}"},
            3 * MIB // 2,
        ),
        ("0::/of/the/host\n", {"memory.max": f"{MIB}\n"}, MIB // 2),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": f"{MIB}"}, MIB // 2),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:cpu,memory:/\n", {"memory/memory.limit_in_bytes": f"{MIB}"}, MIB // 2),
        ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": f"{MIB}", "memory.max": f"{MIB}"}, None),
        ("0::/a\n", {"a/memory.max": "nonsense"}, None),
        (None, {"memory.max": f"{MIB}"}, None),
    ],
)
def test_the_memory_of_a_cgroup_is_that_of_the_narrowest_around_the_process(
    no_limits: dict[int, int], proc: Path, told: str | None, files: dict[str, str], left: int | None
) -> None:
    assert not no_limits
    groups = proc.parent / "groups"
    if told is not None:
        (proc / "cgroup").write_text(told)
    for name, content in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(content)
    found = memory(proc, groups)
    assert found == (None if left is None else Memory("memory (cgroup)", left))


@fault(145)
@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, None),
        ({resource.RLIMIT_AS: 3 * MIB}, Memory("address space (ulimit -v)", MIB)),
        ({resource.RLIMIT_DATA: 3 * MIB}, Memory("data (ulimit -d)", 2 * MIB)),
        ({resource.RLIMIT_AS: 3 * MIB, resource.RLIMIT_DATA: 3 * MIB}, Memory("address space (ulimit -v)", MIB)),
        ({resource.RLIMIT_AS: MIB}, Memory("address space (ulimit -v)", -MIB)),
    ],
)
def test_the_limit_that_leaves_least_memory_is_the_one_that_counts(
    no_limits: dict[int, int], proc: Path, tmp_path: Path, limits: dict[int, int], found: Memory | None
) -> None:
    no_limits.update(limits)
    assert memory(proc, tmp_path / "groups") == found


@fault(145)
@pytest.mark.parametrize(
    ("memory_bytes", "open_files", "objects"),
    [
        (None, None, 64),
        (MEMORY_BESIDE + 10 * MEMORY_PER_OBJECT, None, 10),
        (MEMORY_BESIDE + 10 * MEMORY_PER_OBJECT, 54, 2),
        (MEMORY_BESIDE + 10 * MEMORY_PER_OBJECT, 1024, 10),
        (MEMORY_BESIDE + 1000 * MEMORY_PER_OBJECT, None, 64),
        (0, None, 1),
        (-5, None, 1),
    ],
)
def test_fewer_objects_are_in_flight_where_memory_is_short(
    memory_bytes: int | None, open_files: int | None, objects: int
) -> None:
    assert Settings(dest=Path(), memory_bytes=memory_bytes, open_files=open_files).concurrency_max == objects


# Threads.


@pytest.fixture
def startable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Allow so many threads to be started from now on."""
    start = threading.Thread.start
    left = [1 << 30]

    def limited(thread: threading.Thread) -> None:
        if left[0] <= 0:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    yield lambda number: left.__setitem__(0, number)
    left[0] = 1 << 30


@fault(145)
@pytest.mark.parametrize(("allowed", "found"), [(0, 0), (3, 3), (12, 12), (99, 12)])
def test_threads_are_counted_by_starting_them(startable: Callable[[int], None], allowed: int, found: int) -> None:
    before = threading.active_count()
    startable(allowed)
    assert threads(12) == found
    assert threading.active_count() == before


@fault(145)
def test_too_few_threads_are_named_before_a_run_begins(
    startable: Callable[[int], None], no_limits: dict[int, int]
) -> None:
    assert not no_limits
    startable(machine.THREADS_NEEDED - 1)
    with pytest.raises(LimitError, match=r"^11 more threads may be started, and a run needs 12: .*ulimit -u"):
        machine.check(None)


@fault(145)
@pytest.mark.parametrize(("files", "is_enough"), [(None, True), (32, True), (31, False)])
def test_too_few_open_files_are_named_before_a_run_begins(files: int | None, is_enough: bool) -> None:  # noqa: FBT001
    if is_enough:
        machine.check(files)
        return
    with pytest.raises(LimitError, match=r"^31 files may be open \(ulimit -n\), and a run needs 32\nhint: "):
        machine.check(files)


@fault(145)
def test_a_disk_goes_on_with_the_threads_that_it_has(startable: Callable[[int], None]) -> None:
    async def work() -> list[int]:
        import asyncio  # noqa: PLC0415

        with Disk(16) as disk:
            startable(2)
            return await asyncio.gather(*(disk.run(lambda n=n: n) for n in range(50)))  # type: ignore[misc]

    assert run(work()) == list(range(50))


@fault(145)
def test_a_disk_without_any_thread_is_a_limit_that_is_named(startable: Callable[[int], None]) -> None:
    async def work() -> None:
        with Disk(16) as disk, limits_told():
            await disk.run(lambda: None)

    startable(0)
    with pytest.raises(LimitError, match="no more threads"):
        run(work())


@fault(145)
def test_a_run_goes_on_without_a_status_file_where_no_thread_keeps_it(
    startable: Callable[[int], None], tmp_path: Path
) -> None:
    startable(0)
    publisher = Publisher(tmp_path, 0o600, lambda: pytest.fail("nothing is described"))
    publisher.begin()
    publisher.end(0, "", None)


@fault(145)
@pytest.mark.parametrize("failure", [AttributeError, PermissionError])
def test_cores_are_counted_where_the_system_does_not_say_which(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    def refuse(_: int) -> set[int]:
        raise failure

    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


# Real limits on real processes: a table of limit, value and command.

ROOTLESS = (
    *("setpriv", "--reuid=12345", "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
)
"""A user with no other process, for limits of users: root has none. It may read and write all the same."""
LIMITS: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "memory": (resource.RLIMIT_AS, MIB, (60, 130, 200), (80, 100, 150, 170, 300, 400, 500, 700, 1000, 1500)),
    "data": (resource.RLIMIT_DATA, MIB, (100,), (60, 130, 160, 200, 400)),
    "files": (resource.RLIMIT_NOFILE, 1, (8, 20, 48), (12, 16, 24, 28, 32, 40, 64, 128, 256)),
    "file size": (resource.RLIMIT_FSIZE, 1, (1000,), (0, 4096, 100_000, 10_000_000)),
    "threads": (resource.RLIMIT_NPROC, 1, (3, 13), (1, 2, 4, 6, 9, 12, 14, 20, 40)),
    "cpu": (resource.RLIMIT_CPU, 1, (), (2, 3)),
    "locked": (resource.RLIMIT_MEMLOCK, 1, (), (0,)),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "all": ("all", "--dest", "dest"),
    "boto": ("all", "--dest", "dest", "--transport", "aioboto3"),
    "plan": ("plan", "--dest", "dest"),
    "ls": ("ls", "data"),
    "doctor": ("doctor", "--dest", "dest"),
    "help": ("--help",),
}
SHORT = {"memory": ("all",), "files": ("all", "doctor")}


def rows() -> Iterator[tuple[str, int, str]]:
    for limit, (_, _, short, more) in LIMITS.items():
        for value in (*short, *(more if LONG else ())):
            for command in COMMANDS if LONG else SHORT.get(limit, ("all",)):
                if LONG or command == "all" or value == min(short):
                    yield limit, value, command


@fault(145)
@linux
@pytest.mark.parametrize(("limit", "value", "command"), list(rows()))
def test_a_limit_of_the_machine_is_kept_to_or_named(limit: str, value: int, command: str) -> None:
    if limit == "threads" and (os.geteuid() != 0 or not shutil.which("setpriv")):
        pytest.skip("needs root and setpriv")
    kind, unit, *_ = LIMITS[limit]
    with ScriptedS3() as s3, TemporaryDirectory() as name:
        here = Path(name)  # Not below a folder that is root's alone.
        here.chmod(0o777)
        for number in range(8):
            s3.put(f"training/data/Covid{number:04}/data_2021.json", b"x" * 5000)
        ended = subprocess.run(
            [*(ROOTLESS if limit == "threads" else ()), sys.executable, "-m", "nccid_fetch", *COMMANDS[command]],
            env=environment(**TEST_CREDENTIALS, AWS_ENDPOINT_URL=s3.endpoint_url),
            cwd=here,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            preexec_fn=lambda: resource.setrlimit(kind, (value * unit, value * unit)),
        )
        assert not any(word in ended.stderr for word in ("Traceback", "defect", "Warning")), ended.stderr
        assert ended.returncode in {0, 9}, (ended.returncode, ended.stderr)
        if ended.returncode == 0:
            if command in {"all", "boto"}:
                assert check_tree(here / "dest", snapshot(s3)) == set(snapshot(s3))
        else:
            assert ended.stderr.count("error:") == 1, ended.stderr
            assert any(name in ended.stderr for name in ("ulimit -", "cgroup")), ended.stderr
        assert command != "help" or ended.returncode == 0


@fault(145)
@linux
@pytest.mark.parametrize(
    ("before", "after"),
    [((-1, -1), None), ((5, 5), (4, 5)), ((-1, 5), (4, 5)), ((3, 5), None), ((1, 1), None), ((9, -1), None)],
)
def test_cpu_time_that_is_limited_is_told_a_second_before_the_kernel_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int] | None
) -> None:
    from nccid_fetch.cli.signals import exit_code_of, hear_of_cpu_time  # noqa: PLC0415

    made: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: made.append((kind, limits)))
    hear_of_cpu_time()
    assert made == ([] if after is None else [(resource.RLIMIT_CPU, after)])
    assert (exit_code_of(signal.SIGXCPU), exit_code_of(signal.SIGTERM)) == (9, 143)
