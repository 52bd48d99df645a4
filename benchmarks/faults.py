"""`make compare-faults`: what becomes of a download when something goes wrong, by ours and by its peers, as measured.

python -m benchmarks.faults                          # everything, under ten minutes
python -m benchmarks.faults --only redirected,full   # scenarios whose name has one of these in it
python -m benchmarks.faults --output docs/faults-compared.md

Every client is a process of its own that talks to a server of its own, which lies on command. Afterwards the destination
is read as a user would read it; no client is asked what it believes. Then the server is honest, and the same command runs
a second time.
"""

import argparse
import os
import re
import shlex
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.scripted import ScriptedS3

from . import child, clients
from .clients import AWS, OURS, RCLONE, S5CMD, Client, Job
from .scenarios import NO_MOUNT, SCENARIOS, Scenario, Stage
from .servers import AbsentError, Endpoint
from .tree import BUCKET, STATE_FOLDER

SECONDS_MAX = 60.0
AT_ONCE = 4
"""So many clients run side by side: they wait for the server, and for their own pauses, most of the time."""
_TOKEN = "session-token-of-the-comparison"
_PATIENCE = {
    "NCCID_FETCH_STALL": "5s",
    "NCCID_FETCH_ATTEMPTS": "5",
    "NCCID_FETCH_RETRY_FOR": "10s",
}


_PREFACE = """\
# The same faults, met by other tools

As measured on {date:%Y-%m-%d} by `make compare-faults`, which writes this page: nothing in it is typed by hand.

Every client is a real process that talks to a server that lies on command (`tests/servers/scripted.py`; plain http on
loopback, signatures verified). What follows is what was on the disk afterwards, the exit code, and the time if it was a
second or more. *Rerun* is the same command again, with the server honest; it is told where something was left to mend. **Bold**
is what a user would not notice: a file under its final name that is not one whole version of its object, a success that is
none, data in a place where no user looks. Numbers that begin with F are those of the catalogue of faults, by which the tests about them
are called.

A client that had not ended after {seconds:g} s was stopped, whether it hung or was only patient. To keep it short, all were told
to give up a silent connection after 5 s, where they have an option for it, and ours, s5cmd and rclone to try 5 times, and not 8
or 10; all else is as the commands below have it. {at_once} clients ran side by side, so times are rough. The other tools do not promise all that is asked of them here:
they are made for any bucket, and are compared because they are what one would use instead. Where one of them does better than
ours, the table shows that, too.
"""


class State(StrEnum):
    """What stands under an object's name."""

    RIGHT = "right"
    MISSING = "missing"
    CUT = "cut short"
    WRONG = "wrong bytes"


@dataclass(frozen=True, slots=True)
class Found:
    """What a destination looks like, and what is around it.

    Attributes:
        states: What stands under each object's name.
        litter: Files in the destination that are no object, but for a state folder.
        outside: Files that appeared outside the destination.
    """

    states: dict[str, State]
    litter: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every object is there, and nothing is where it should not be."""
        return not self.outside and all(state is State.RIGHT for state in self.states.values())

    def told(self, absent: AbstractSet[str]) -> str:
        """Say it in a few words; what a user would not notice is bold.

        Args:
            absent: What may be missing: no client could have it.
        """
        states = {
            path: state for path, state in self.states.items() if path not in absent or state is not State.MISSING
        }
        count = Counter(states.values())
        words = [
            f"**{state} under its name**" if count[state] == 1 else f"**{count[state]} files: {state}**"
            for state in (State.WRONG, State.CUT)
            if count[state]
        ]
        if count[State.MISSING]:
            words.append(f"{count[State.MISSING]} of {len(states)} missing")
        if self.outside:
            words.append("**written outside the destination**")
        if not words:
            words.append("right" if len(states) == len(self.states) else "the rest is right")
        if self.litter:
            words.append(f"litter left ({len(self.litter)})")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a client: how it ended, and what was there afterwards. `code` is None for one that came to no end."""

    code: int | None
    seconds: float
    found: Found

    def told(self, absent: AbstractSet[str]) -> str:
        """Say it in a few words; see `Found.told`."""
        if self.code is None:
            end = f"no end in {SECONDS_MAX:g} s"
        else:
            end = f"exit {self.code}" if self.code != 0 or self.found.is_complete else "**exit 0**"
            end += f", {self.seconds:.0f} s" if self.seconds >= 1 else ""
        return f"{self.found.told(absent)}; {end}"


@dataclass(frozen=True, slots=True)
class Cell:
    """What a client did about a fault.

    Attributes:
        first: The run that met it.
        second: The same command again.
        notes: What is worth telling besides.
        absent: What may be missing.
    """

    first: Ran
    second: Ran
    notes: tuple[str, ...]
    absent: frozenset[str]

    def told(self, scenario: Scenario) -> str:
        """Say it in a few words: both runs, unless the first left nothing to mend, or the fault came after it."""
        if scenario.first_is_honest:
            return "; ".join([*self.notes, self.second.told(self.absent)])
        words = [self.first.told(self.absent), *self.notes]
        if not self.first.found.is_complete or self.first.code != 0:
            words.append(f"rerun: {self.second.told(self.absent)}")
        return "; ".join(words)


def look(stage: Stage, before: frozenset[Path]) -> Found:
    """Read a destination, and what is around it."""
    states = {}
    for path, bodies in stage.wanted.items():
        place = stage.dest / path
        try:
            body = place.read_bytes() if stat.S_ISREG(place.lstat().st_mode) else None
        except (FileNotFoundError, NotADirectoryError):
            body = None
        states[path] = _state(body, bodies)
    names = {stage.dest / path for path in stage.wanted}
    litter = [path for path in _files(stage.dest) if path not in names]
    outside = [path for path in _files(stage.sandbox) if stage.dest not in path.parents and path not in before]
    return Found(states, tuple(map(str, litter)), tuple(map(str, outside)))


def _state(body: bytes | None, bodies: set[bytes]) -> State:
    if body is None:
        return State.MISSING
    if body in bodies:
        return State.RIGHT
    return State.CUT if any(whole.startswith(body) for whole in bodies) else State.WRONG


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, but for state folders; no link is followed."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != STATE_FOLDER]
        yield from (Path(root) / name for name in files)


def peers() -> tuple[dict[str, Client], dict[str, str]]:
    """Return ours and those of its peers that are on this machine, and for the others, why they are not."""
    present, absent = clients.present()
    found = {OURS: clients.ours()}
    if S5CMD in present:
        found[S5CMD] = _with(clients.s5cmd("sync"), "--retry-count", "5", after="--log")
    if RCLONE in present:
        found[RCLONE] = _with(present[RCLONE], "--timeout", "5s", "--low-level-retries", "5")
    if AWS in present:
        found[AWS] = _with(present[AWS], "--cli-read-timeout", "5")
    return found, {name: why for name, why in absent.items() if name in {AWS, S5CMD, RCLONE}}


def _with(client: Client, *options: str, after: str | None = None) -> Client:
    """Return a client that is given further options: at the end, or before an option of its own."""

    def command(job: Job) -> list[str]:
        words = client.command(job)
        place = words.index(after) if after is not None else len(words)
        return [*words[:place], *options, *words[place:]]

    return replace(client, command=command)


def play(scenario: Scenario, client: Client, folder: Path) -> Cell:
    """Let a client meet a fault, and run it a second time against an honest server."""
    sandbox = folder / "sandbox"
    dest = sandbox / "deep" / "dest"
    dest.parent.mkdir(parents=True)
    home = folder / "home"
    home.mkdir()
    with ScriptedS3(bucket=BUCKET) as s3, ScriptedS3(bucket=BUCKET) as other:
        s3.secrets[clients.ACCESS_KEY] = clients.SECRET_KEY
        s3.expects_refusals = True  # What a peer sends after a redirect, or of a key of its own, is its own affair.
        stage = Stage(s3, other, sandbox, dest)
        scenario.arrange(stage)
        job = Job(Endpoint("scripted", s3.endpoint_url, None), folder, dest, ["data"])
        environment = clients.environment(home, job.endpoint) | {
            **_PATIENCE,
            "AWS_SESSION_TOKEN": _TOKEN,
            "DEST": str(dest),
            "PIDFILE": str(stage.pid_file),
        }
        command = client.command(job)
        before = frozenset(_files(sandbox))
        played = [*scenario.wrapped, *command]
        first, printed = _run(played, environment, stage, before=before, at_once=scenario.at_once)
        notes = [*stage.notes, *scenario.observe(stage, printed)]
        s3._script.clear()  # noqa: SLF001 - from now on it is honest.
        scenario.between(stage)
        second, _ = _run(command, environment, stage, before=before)
        return Cell(first, second, tuple(notes), frozenset(stage.absent))


def _run(
    command: Sequence[str], environment: dict[str, str], stage: Stage, *, before: frozenset[Path], at_once: bool = False
) -> tuple[Ran, bytes]:
    """Run a command, look at what it left, and return what it printed."""
    places = [stage.sandbox.with_name(name) for name in (("run", "another-run") if at_once else ("run",))]
    for place in places:
        place.mkdir(exist_ok=True)
    with ThreadPoolExecutor(len(places)) as threads:
        used = list(threads.map(lambda place: child.run(list(command), environment, place, None, SECONDS_MAX), places))
    kept = stage.dest.with_name("dest.kept")
    if kept.exists():
        stage.dest.rmdir()
        kept.rename(stage.dest)
    printed = b"".join((place / name).read_bytes() for place in places for name in ("stdout", "stderr"))
    if at_once:
        stage.notes.append(f"the other: {_end(used[1])}")
    if used[0].code == NO_MOUNT:
        raise AbsentError("no tiny file system can be mounted here")
    code = None if _no_end(used[0]) else used[0].code
    return Ran(code, used[0].wall_seconds, look(stage, before)), printed


def _no_end(used: child.Used) -> bool:
    return used.code == -9 and used.wall_seconds >= SECONDS_MAX


def _end(used: child.Used) -> str:
    return "no end" if _no_end(used) else f"exit {used.code}"


def table(title: str, scenarios: Sequence[Scenario], cells: dict[tuple[str, str], str], names: Sequence[str]) -> str:
    """Return a section of the document: a row per scenario, a column per client."""
    lines = [f"## {title}", "", f"| What happens | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for scenario in scenarios:
        numbers = ", ".join(f"F{number:03}" for number in scenario.faults)
        told = [cells[scenario.name, name].replace("|", "\\|") for name in names]
        lines.append(f"| {scenario.name} ({numbers}) | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def document(
    cells: dict[tuple[str, str], str],
    chosen: dict[str, list[Scenario]],
    found: dict[str, Client],
    absent: dict[str, str],
    began: datetime,
) -> str:
    """Return the whole document."""
    where = Job(Endpoint("scripted", "http://127.0.0.1:PORT", None), Path(), Path("DEST"), ["data"])
    versions = clients.versions()
    lines = [_PREFACE.format(date=began, seconds=SECONDS_MAX, at_once=AT_ONCE)]
    for title, scenarios in chosen.items():
        if scenarios:
            lines.append(table(title, scenarios, cells, list(found)))
    lines += ["## What was called", "", "| Client | Version | Command |", "|---|---|---|"]
    for name, client in found.items():
        words = [Path(word).name if word.startswith(str(clients.ROOT)) else word for word in client.command(where)]
        lines.append(f"| {name} | {_number(versions.get(name, ''))} | `{shlex.join(words)}` |")
    lines += [f"| {name} | | not there: {why} |" for name, why in absent.items()]
    settings = ", ".join(f"`{name}={value}`" for name, value in _PATIENCE.items())
    lines += ["", f"nccid-fetch also had {settings}. All had credentials with a session token, and no configuration."]
    return "\n".join(lines) + "\n"


def _number(version: str) -> str:
    """Return the number alone of what a client says about its version: the rest is about the machine."""
    found = re.search(r"\d+\.\d+[\w.-]*", version)
    return found[0] if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description="Compare what faults do to clients."
    )
    parser.add_argument(
        "--only", metavar="WORDS", help="scenarios whose name has one of these in it, with commas between"
    )
    parser.add_argument("--output", type=Path, help="write it there, too")
    options = parser.parse_args()
    words = options.only.split(",") if options.only else [""]
    chosen = {
        title: [scenario for scenario in scenarios if any(word in scenario.name for word in words)]
        for title, scenarios in SCENARIOS.items()
    }
    found, absent = peers()
    began = datetime.now(UTC)
    with TemporaryDirectory(prefix="nccid-faults-") as root, ThreadPoolExecutor(AT_ONCE) as threads:

        def cell(number: int, scenario: Scenario, name: str) -> tuple[tuple[str, str], str]:
            folder = Path(root) / str(number)
            folder.mkdir()
            try:
                told = play(scenario, found[name], folder).told(scenario)
            except AbsentError as error:
                told = f"not measured: {error}"
            print(f"{scenario.name}: {name}: {told}", file=sys.stderr, flush=True)
            return (scenario.name, name), told

        pairs = [(scenario, name) for scenario in chain(*chosen.values()) for name in found]
        cells = dict(threads.map(lambda item: cell(item[0], *item[1]), enumerate(pairs)))
    text = document(cells, chosen, found, absent, began)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
