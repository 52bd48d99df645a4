"""Real processes that are killed, stopped and run into each other: the next run always goes on to the right tree.

Moments are counted in GETs that the server has seen, so that the same ones come on every machine. The child commits
in small batches, so that a kill finds files in every state: staged, verified, named, recorded.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .oracle import check_tree, files_of, records, snapshot
from .servers.scripted import Do, Hold, ScriptedS3

OBJECTS = 150
BATCH = 7
PROGRAM = f"""
import runpy, nccid_fetch.commit
nccid_fetch.commit.BATCH_OBJECTS = {BATCH}
runpy.run_module("nccid_fetch", run_name="__main__", alter_sys=True)
"""
KILLS = random.Random(75).sample(range(12, 60), 6)


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for number in range(OBJECTS):
            key = f"training/data/Covid{number // 10:03}/{number:05}.json"
            server.put(key, f"{key} {'x' * (number * 37)}".encode())
        yield server


class Child:
    """The command line, running; `pid` is known before its first request."""

    def __init__(self, s3: ScriptedS3, dest: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, "all", "--dest", str(dest), "--endpoint-url", s3.endpoint_url),
                *("--format", "json", "--concurrency", "8", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return exit code and summary."""
        out, err = self.process.communicate(timeout=30)
        assert "Traceback" not in err, err
        return self.process.returncode, json.loads(out) if out else {}


def test_a_run_that_is_killed_again_and_again_comes_to_the_right_tree(s3: ScriptedS3, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    recorded = 0
    present: set[str] = set()  # What is in place is adopted, recorded or not, and asks for no GET.
    for moment in KILLS:
        children: list[Child] = []
        born = threading.Event()

        def kill(children: list[Child] = children, born: threading.Event = born) -> None:
            assert born.wait(10)
            children[0].signal(signal.SIGKILL)

        s3.script("get", Do(kill), after=min(moment, OBJECTS - len(present) - 8))
        children.append(Child(s3, dest))
        born.set()
        assert children[0].end() == (-signal.SIGKILL, {})
        present = check_tree(dest, snapshot(s3), killed=True)
        assert set(records(dest)) <= present
        assert recorded <= len(records(dest)), "what was recorded once stays"
        recorded = len(records(dest))
    stray = dest / ".nccid-fetch/staged/left-behind"
    stray.write_bytes(b"half a body")
    strays: list[bool] = []
    s3.script("get", Do(lambda: strays.append(stray.exists())))
    before = s3.gets()
    code, summary = Child(s3, dest).end()
    assert code == summary["exit_code"] == 0
    assert strays == [False], "room is made before anything is fetched"
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3)) == set(records(dest))
    assert {path.name for path in (dest / ".nccid-fetch").iterdir() if path.is_file()} == {"journal.sqlite"}
    assert recorded > 0, "no kill found anything recorded"
    assert summary["skipped"]["objects"] == recorded
    assert s3.gets() - before == summary["fetched"]["objects"] == OBJECTS - recorded - summary["adopted"]["objects"]


def test_a_second_process_is_told_that_another_one_holds_the_destination(s3: ScriptedS3, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    begun, go_on = threading.Event(), threading.Event()
    s3.script("get", Do(begun.set, Hold(go_on)))
    first = Child(s3, dest)
    assert begun.wait(20)
    requests = len(s3.requests)
    assert Child(s3, dest).end()[0] == 75
    assert Child(s3, dest, "--dry-run").end()[0] == 75
    assert all(seen.operation == "get" for seen in s3.requests[requests:]), "the second one asked for something"
    go_on.set()
    assert first.end()[0] == 0
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_order_and_the_next_one_goes_on(
    s3: ScriptedS3, tmp_path: Path, number: signal.Signals
) -> None:
    dest = tmp_path / "dest"
    reached, never = threading.Event(), threading.Event()
    s3.script("get", Do(reached.set, Hold(never)), after=60)
    s3.script("get", Hold(never), after=60, count=None)  # In-flight work that will not come to an end.
    child = Child(s3, dest)
    assert reached.wait(20)
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


def with_honest_server(s3: ScriptedS3) -> None:
    """Forget the script."""
    s3._script.clear()
