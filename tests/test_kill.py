"""Real processes that are killed, stopped and run into each other: the next run always goes on to the right tree.

Moments are counted in GETs that the server has seen, so that the same ones come on every machine. The child commits
in small batches, so that a kill finds files in every state: staged, verified, named, recorded.
"""

import asyncio
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nccid_fetch.cli.runner import run

from .catalogue import fault
from .kill import OBJECTS, Lives, stock
from .oracle import check_tree, fetch, files_of, records, snapshot
from .processes import TEST_CREDENTIALS, Child, environment
from .servers.scripted import Do, Hold, ScriptedS3

KILLS = random.Random(75).sample(range(12, 60), 3)
DEATHS = ("publish:1:after", "rename:10:before", "rename:5:after", "record:2:before")


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        stock(server)
        yield server


@fault(78, 88, 96, 107)
def test_a_run_that_is_killed_again_and_again_comes_to_the_right_tree(s3: ScriptedS3, tmp_path: Path) -> None:
    """What is left of a run that was killed is its lock's file, too, and it holds nobody up."""
    lives = Lives(s3, tmp_path / "dest", random.Random(75))
    for moment in KILLS:
        lives.kill_by_gets(moment)
    for death in DEATHS:
        lives.kill_in_commit(death)
    assert sum(lives.figures.kills.values()) == len(KILLS) + len(DEATHS)
    assert lives.recorded, "no kill found anything recorded"
    assert lives.present - lives.recorded, "no kill found anything in place and not recorded"
    stray = lives.dest / ".nccid-fetch/staged/left-behind"
    stray.write_bytes(b"half a body")
    strays: list[bool] = []
    s3.script("get", Do(lambda: strays.append(stray.exists())))
    lives.go_on()
    assert strays == [False], "room is made before anything is fetched"
    assert {path.name for path in (lives.dest / ".nccid-fetch").iterdir() if path.is_file()} == {
        "journal.sqlite",
        "status.json",
    }
    assert lives.figures.fetched < OBJECTS


@fault(95, 96)
def test_a_second_process_is_told_that_another_one_holds_the_destination(s3: ScriptedS3, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    begun, go_on = threading.Event(), threading.Event()
    s3.script("get", Do(begun.set, Hold(go_on)))
    first = Child(s3, dest)
    assert begun.wait(60)
    requests = len(s3.requests)
    assert Child(s3, dest).end()[0] == 75
    assert Child(s3, dest, "--dry-run").end()[0] == 75
    assert all(seen.operation == "get" for seen in s3.requests[requests:]), "the second one asked for something"
    go_on.set()
    assert first.end()[0] == 0
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))


@fault(86, 87)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_order_and_the_next_one_goes_on(
    s3: ScriptedS3, tmp_path: Path, number: signal.Signals
) -> None:
    dest = tmp_path / "dest"
    reached, never = threading.Event(), threading.Event()
    s3.script("get", Do(reached.set, Hold(never)), after=60)
    s3.script("get", Hold(never), after=60, count=None)  # In-flight work that will not come to an end.
    child = Child(s3, dest)
    assert reached.wait(60)
    child.signal(number)
    try:
        code, summary = child.end()
    finally:
        never.set()
    assert code == summary["exit_code"] == 128 + number
    present = check_tree(dest, snapshot(s3))
    assert present == set(records(dest))
    assert 60 - 8 <= len(present) == summary["fetched"]["objects"] <= 60
    with_honest_server(s3)
    code, summary = Child(s3, dest).end()
    assert (code, summary["skipped"]["objects"]) == (0, len(present))
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3)) == set(files_of(dest))


@fault(86, 87, 100)
@pytest.mark.parametrize("step", ["publish:2", "record:1", "look:1", "open:1", "close:1"])
def test_a_signal_ends_a_run_in_time_whatever_hangs(s3: ScriptedS3, tmp_path: Path, step: str) -> None:
    """A thread of the disk, the journal's, or the event loop itself: what is not done by then is left to the next run."""
    dest, pipe = tmp_path / "dest", tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(s3, dest, fate=f"{step}:{pipe}")
    with hanging(child, pipe):
        child.signal(signal.SIGTERM)
        code, summary, said = child.said()
    assert code == summary["exit_code"] == 143
    assert "stopped by SIGTERM, without waiting for what did not end" in said
    if step != "open:1":
        Lives(s3, dest, random.Random(0)).look()


STUCK = """
import io, os, signal, sys, threading
from nccid_fetch.cli import runner

class Stuck(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

async def main():
    print("a line that nobody reads", flush=True)

runner.GRACE_SECONDS = runner.LAST_WORDS_SECONDS = 0.1
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Stuck()))
try:
    runner.run(main())
except runner.InterruptedRunError as error:
    runner.report_failure(error, debug=False)
"""


@fault(86)
def test_a_signal_ends_a_run_also_where_nobody_reads_what_it_writes() -> None:
    """As in `ls | less`: the run's thread has stdout, and whoever wants to write there as well waits for ever."""
    ended = subprocess.run([sys.executable, "-c", STUCK], timeout=60, capture_output=True, check=False)
    assert ended.returncode == 143
    assert b"stopped by SIGTERM, without waiting" in ended.stderr


@fault(86)
def test_a_file_that_is_being_hashed_holds_no_signal_up(s3: ScriptedS3, tmp_path: Path) -> None:
    dest, pipe = tmp_path / "dest", tmp_path / "pipe"
    assert fetch(s3, dest).exit_code == 0
    shutil.rmtree(dest / ".nccid-fetch")
    os.mkfifo(pipe)
    child = Child(s3, dest, fate=f"hash:3:{pipe}")
    with hanging(child, pipe):
        child.signal(signal.SIGHUP)
        assert child.end()[0] == 129
    check_tree(dest, snapshot(s3), killed=True)


@fault(86)
def test_a_second_signal_ends_the_process_at_once(s3: ScriptedS3, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(s3, tmp_path / "dest", fate=f"publish:1:{pipe}")
    with hanging(child, pipe):
        child.signal(signal.SIGINT)
        child.signal(signal.SIGTERM)
        assert child.said() == (143, {}, "")
    check_tree(tmp_path / "dest", snapshot(s3), killed=True)


@fault(86)
def test_every_signal_is_delivered_to_the_main_thread() -> None:
    """The system takes another thread where one waits for the main thread already; and that would not wake it."""
    masks: list[set[int]] = []

    def look() -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))

    async def main() -> None:
        look()
        await asyncio.to_thread(look)

    run(main())
    assert all(mask >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} for mask in masks)
    assert len(masks) == 2
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_run_says_how_far_it_is_and_turns_its_limit_off_and_on_when_it_is_asked_to(
    s3: ScriptedS3, tmp_path: Path
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    s3.script("get", Do(reached.set, Hold(go_on)), after=60)
    child = Child(s3, tmp_path / "dest", "--bwlimit", "50MB")
    assert reached.wait(60)
    said = []
    assert child.process.stderr is not None
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2):
        child.signal(number)
        said.append(child.process.stderr.readline())
    go_on.set()
    code, summary, _ = child.said()
    assert (code, summary["fetched"]["objects"]) == (0, OBJECTS)
    assert f"of {OBJECTS} objects" in said[0]
    assert "(limit 50.0 MB/s)" in said[0]
    assert said[1:] == [
        "SIGUSR2: --bwlimit is off until the next SIGUSR2\n",
        "SIGUSR2: --bwlimit is on again; now it is 50.0 MB/s\n",
    ]


def test_signals_that_ask_for_something_end_nothing_where_there_is_no_run(s3: ScriptedS3, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(s3, tmp_path / "dest", fate=f"options:1:{pipe}")
    with hanging(child, pipe):
        child.signal(signal.SIGUSR1)
        child.signal(signal.SIGUSR2)
        child.signal(signal.SIGTERM)
        assert child.said() == (143, {}, "")


def test_signals_that_ask_for_something_end_nothing_while_a_run_is_ending(s3: ScriptedS3, tmp_path: Path) -> None:
    asked, never = threading.Event(), threading.Event()
    s3.script("list", Do(asked.set, Hold(never)), count=None)
    child = Child(s3, tmp_path / "dest", "--bwlimit", "50MB")
    assert asked.wait(60)
    child.signal(signal.SIGINT)
    for _ in range(20):
        child.signal(signal.SIGUSR1)
        child.signal(signal.SIGUSR2)
    code, summary, _ = child.said()
    never.set()
    assert code == summary["exit_code"] == 130


def test_before_the_first_and_after_the_last_words_no_signal_that_asks_for_something_ends_the_process() -> None:
    script = (
        "import atexit, os, signal, sys\n"
        "from nccid_fetch.cli import main\n"
        "class Early:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'nccid_fetch.cli.commands': os.kill(os.getpid(), signal.SIGUSR1)\n"
        "sys.meta_path.insert(0, Early())\n"
        "atexit.register(lambda: [os.kill(os.getpid(), n) for n in (signal.SIGUSR1, signal.SIGUSR2)])\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), n=signal.SIGUSR1): kill(pid, n)\n"
        "os.late = Late()\n"
        "sys.argv[1:] = ['--help']\n"
        "main.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, env=environment())
    assert ended.returncode == 0, ended


def test_a_run_waits_for_its_hours_on_the_clock_of_the_machine(s3: ScriptedS3, tmp_path: Path) -> None:
    """The clock is the real one; where it hangs, it is ten seconds to seven in the evening."""
    first: list[float] = []
    s3.script("get", Do(lambda: first.append(time.time())))
    opens = math.ceil(time.time()) + 10
    east = (19 * 3600 - opens % 86_400) % 86_400
    zone = f"HERE-{east // 3600:02}:{east // 60 % 60:02}:{east % 60:02}"
    child = Child(s3, tmp_path / "dest", "--window", "19:00-07:00", "-v", settings=TEST_CREDENTIALS | {"TZ": zone})
    code, summary, said = child.said()
    assert (code, summary["fetched"]["objects"]) == (0, OBJECTS)
    assert opens <= first[0] < opens + 2
    assert "waiting for 19:00 (--window)\n" in said
    assert "going on: waited" in said


@fault(86)
def test_a_signal_before_there_is_a_run_ends_the_process_at_once(s3: ScriptedS3, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(s3, tmp_path / "dest", fate=f"options:1:{pipe}")
    with hanging(child, pipe):
        child.signal(signal.SIGTERM)
        assert child.said() == (143, {}, "")
    assert s3.requests == []


@fault(86)
def test_a_signal_ends_a_run_that_still_asks_what_there_is(s3: ScriptedS3, tmp_path: Path) -> None:
    asked, never = threading.Event(), threading.Event()
    s3.script("list", Do(asked.set, Hold(never)))
    s3.script("list", Hold(never), count=None)
    child = Child(s3, tmp_path / "dest")
    assert asked.wait(60)
    child.signal(signal.SIGINT)
    code, summary, said = child.said()
    never.set()
    assert code == summary["exit_code"] == 130
    assert "without waiting" not in said
    assert not (tmp_path / "dest").exists()


@fault(97)
@pytest.mark.parametrize("transport", ["auto", "aioboto3"])
def test_with_few_open_files_fewer_objects_are_in_flight_and_all_arrive(
    s3: ScriptedS3, tmp_path: Path, transport: str
) -> None:
    dest = tmp_path / "dest"
    child = Child(s3, dest, "--concurrency", "64", "--transport", transport, open_files=64)
    code, summary, said = child.said()
    assert (code, summary["fetched"]["objects"]) == (0, OBJECTS)
    assert "--concurrency 64 needs more open files than the 64 that are allowed here (ulimit -n): 5 objects" in said
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))


@contextmanager
def hanging(child: Child, pipe: Path) -> Iterator[None]:
    """Wait until a child has reached the step that it hangs in for as long as the block lasts; see `victim`.

    One that ends before is not waited for, and none is left behind.
    """

    def give_way() -> None:
        child.process.wait()
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))

    threading.Thread(target=give_way, daemon=True).start()
    try:
        with pipe.open("wb"):  # Open as soon as somebody reads from it.
            assert child.process.poll() is None, child.said()
            yield
    finally:
        child.process.kill()


def with_honest_server(s3: ScriptedS3) -> None:
    """Forget the script."""
    s3._script.clear()
