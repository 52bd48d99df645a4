"""Real processes, really killed: whatever the moment, the next run goes on and comes to the right tree.

    python -m tests.kill --runs 200 --seed 7

A life is one destination from empty to full: some runs that are killed, each followed by a look at all that must hold, then
one that is left alone and has to end with 0 and the right tree, and one more that asks for no object. Then files or
records are taken away, or objects added, and the next life begins. Moments are of three kinds: when the server
has seen so many GETs, after so many seconds, and before or after a call in the midst of a commit.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from .oracle import check_tree, files_of, records, snapshot
from .processes import BATCH, Child
from .servers.scripted import Do, ScriptedS3
from .victim import STEPS

OBJECTS = 150
KILLS_MAX = 8
"""Kills in a life, at most."""
REMOVED = 0.8
TRANSPORTS = ("auto", "aioboto3")


def stock(s3: ScriptedS3, objects: int = OBJECTS, *, first: int = 0) -> None:
    """Store so many more small objects, each of another length."""
    for number in range(first, first + objects):
        key = f"training/data/Covid{number // 10:03}/{number:05}.json"
        s3.put(key, f"{key} {'x' * (number % OBJECTS * 37)}".encode())


@dataclass
class Figures:
    """What came of all lives."""

    kills: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    lives: int = 0
    skipped: int = 0
    adopted: int = 0
    fetched: int = 0
    gets: int = 0
    found_recorded: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({kinds}; {self.survived} runs ended before theirs) in {self.lives} lives; "
            f"after them {self.skipped} objects were skipped, {self.adopted} adopted, {self.fetched} fetched; "
            f"{self.gets} GETs in all"
        )


class Lives:
    """Lives of one destination under one server.

    Args:
        s3: The server, with `stock`.
        dest: The destination.
        chance: What chooses the moments.
    """

    def __init__(self, s3: ScriptedS3, dest: Path, chance: random.Random) -> None:
        self.s3, self.dest, self.chance = s3, dest, chance
        self.figures = Figures()
        self.recorded: set[str] = set()
        self.present: set[str] = set()
        self._seconds = 1.0

    def kill_by_gets(self, moment: int, *options: str) -> None:
        """Kill a run when the server has seen so many of its GETs, or soon before it has all there are."""
        children: list[Child] = []
        born = threading.Event()

        def kill() -> None:
            assert born.wait(60)
            children[0].signal(signal.SIGKILL)

        missing = len(self.s3._objects) - len(self.present)
        self.s3.script("get", Do(kill), after=max(0, min(moment, missing - BATCH - 1)))
        children.append(Child(self.s3, self.dest, *options))
        born.set()
        self._look("by requests", children[0])

    def kill_by_time(self, seconds: float, *options: str) -> None:
        """Kill a run after so many seconds, if it is not over by then."""
        child = Child(self.s3, self.dest, *options)
        timer = threading.Timer(seconds, child.process.kill)
        timer.start()
        self._look("by time", child)
        timer.cancel()

    def kill_in_commit(self, death: str, *options: str) -> None:
        """Let a run kill itself in the midst of a commit; see `victim`."""
        self._look(f"in {death.partition(':')[0]}", Child(self.s3, self.dest, *options, fate=death))

    def kill_anyhow(self) -> None:
        """Kill a run at a moment that chance chooses."""
        chance = self.chance
        options = ("--transport", chance.choice(TRANSPORTS))
        kind = chance.random()
        missing = len(self.s3._objects) - len(self.present)
        if kind < 0.35 and missing > 2 * BATCH:
            self.kill_by_gets(chance.randrange(missing), *options)
        elif kind < 0.6:
            self.kill_by_time(self._seconds * chance.uniform(0.2, 1.0), *options)
        else:
            step = chance.choice(sorted(STEPS))
            times = BATCH if step == "rename" else 1
            latest = max(1, min(6, missing // BATCH)) * times
            self.kill_in_commit(f"{step}:{chance.randint(1, latest)}:{chance.choice(('before', 'after'))}", *options)

    def _look(self, kind: str, child: Child) -> None:
        """Wait for the end of a run that is killed, and check what must hold."""
        code, summary = child.end()
        if code == -signal.SIGKILL:
            self.figures.kills[kind] += 1
        else:  # It was sooner than its death.
            assert code == summary["exit_code"] == 0, (code, summary)
            self.figures.survived += 1
        self.s3._script.clear()
        if self.dest.is_dir():
            self.look()

    def look(self) -> None:
        """Check what must hold of the destination after a run that was killed."""
        self.present = check_tree(self.dest, snapshot(self.s3), killed=True)
        if (self.dest / ".nccid-fetch/journal.sqlite").exists():
            recorded = set(records(self.dest))
            assert self.recorded <= recorded, "what was recorded once stays"
            assert recorded <= self.present
            self.recorded = recorded

    def go_on(self) -> None:
        """Leave a run alone: it goes on from where the last one was killed, and the one after it asks for nothing."""
        s3, figures = self.s3, self.figures
        before, began = s3.gets(), time.monotonic()
        code, summary = Child(s3, self.dest).end()
        self._seconds = time.monotonic() - began
        assert code == summary["exit_code"] == 0, summary
        everything = set(snapshot(s3))
        assert check_tree(self.dest, snapshot(s3)) == everything == set(records(self.dest))
        assert summary["skipped"]["objects"] == len(self.recorded)
        assert summary["adopted"]["objects"] == len(self.present - self.recorded), (
            "what is in place is not fetched again"
        )
        assert s3.gets() - before == summary["fetched"]["objects"] == len(everything - self.present)
        figures.lives += 1
        figures.skipped += summary["skipped"]["objects"]
        figures.adopted += summary["adopted"]["objects"]
        figures.fetched += summary["fetched"]["objects"]
        before = s3.gets()
        code, summary = Child(s3, self.dest).end()
        assert code == 0
        assert summary["skipped"]["objects"] == len(everything)
        assert s3.gets() == before, "a run over what is there asked for an object"
        self.recorded = self.present = everything
        figures.gets = s3.gets()

    def change(self) -> None:
        """Give the next life work: nothing is left, or some files without their records, or there are more objects."""
        match self.chance.randrange(3):
            case 0:
                shutil.rmtree(self.dest)
                self.present = self.recorded = set()
            case 1:
                shutil.rmtree(self.dest / ".nccid-fetch")
                self.recorded = set()
                for key, path in files_of(self.dest).items():
                    if self.chance.random() < REMOVED:
                        path.unlink()
                        self.present = self.present - {key}
            case 2:
                stock(self.s3, OBJECTS, first=len(self.s3._objects))


def run(runs: int, seed: int, folder: Path) -> Figures:
    """Kill so many runs, one life after another."""
    chance = random.Random(seed)
    with ScriptedS3() as s3:
        stock(s3)
        lives = Lives(s3, folder / "dest", chance)
        for life in count(1):
            for _ in range(min(chance.randint(3, KILLS_MAX), runs - sum(lives.figures.kills.values()))):
                lives.kill_anyhow()
            lives.go_on()
            print(f"life {life}: {lives.figures}", flush=True)
            if sum(lives.figures.kills.values()) >= runs:
                return lives.figures
            lives.change()
    raise AssertionError


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="kills in all")
    parser.add_argument("--seed", type=int, default=None, help="what chance begins with; printed, to do it again")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="nccid-kill-"))
    try:
        figures = run(arguments.runs, seed, folder)
    except AssertionError as error:
        print(f"FAILED with seed {seed}: {error}\nwhat is left is in {folder}", flush=True)
        raise
    shutil.rmtree(folder)
    print(f"passed with seed {seed}: {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
