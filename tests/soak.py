"""A night in an hour: run after run over a bucket that changes, from a server in bad weather; then one honest run.

    python -m tests.soak --seconds 3600 --seed 7

The server throttles in waves, cuts, resets, stalls, refuses, answers with rubbish, truncates listings and, with `--expire-every`, lets
tokens expire, while objects are replaced and added. A run is the real command line, over a destination that is new or has
lost files, records or both. After each, the whole tree is looked at; and while one works, its resident memory is taken down. At the
end an honest run has to end with 0, the right tree and the right journal, and one more must ask for no object.

Weather depends on the seed, the key and how often it was asked for, so that it is the same however requests happen to
interleave. Bodies are made when they are asked for: nothing large is held on either side.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .oracle import Version, check_tree, files_of, md5_hex, records
from .processes import Child
from .servers.scripted import (
    MODIFIED,
    Action,
    Body,
    Chunked,
    CorruptBody,
    Cut,
    Drop,
    Exchange,
    Honest,
    Page,
    Request,
    ScriptedS3,
    Stall,
    Status,
)

OBJECTS = 60_000
PARTS = ("ct", "data", "xray")
PATIENTS = 41
STALL = "2s"
SAMPLE_SECONDS = 0.25
PROGRESS_SECONDS = 60.0
RUN_SECONDS_MAX = 1800.0
WARM_SHARE = 0.2
"""So much of a run is its beginning, when modules are loaded and buffers grow to their size."""
SAMPLES_MIN = 40
GROWTH_SHARE, GROWTH_MIB = 0.1, 8.0
"""Memory is flat when the second half of a run needs no more than so much above the first."""
FAULTS_SHARE = 0.02
CHANGE_EVERY = 500
"""Requests between two changes to the bucket."""
WAVE_EVERY, WAVE_SECONDS = 6000, 2.0
"""Requests from one wave of throttling to the next, and how long it lasts: who holds back must not wait for ever."""
CODES = {0, 1, 5}
"""How a run in bad weather may end: well, with objects that changed or failed, or with a listing that broke off."""


class Bucket:
    """Objects that exist by their number alone: keys, versions and bodies are worked out. Called by the server's thread.

    Args:
        objects: How many there are to begin with.
        seed: What bodies are made of.
    """

    def __init__(self, objects: int, seed: int) -> None:
        self.seed = seed
        self.lock = threading.Lock()
        self.keys: list[str] = []
        self.versions: dict[str, int] = {}
        self.count = 0
        self._rows: dict[str, tuple[int, tuple[str, int, str, datetime]]] = {}
        for _ in range(objects):
            self.add()

    def add(self) -> None:
        """Add an object, at the end of one of the parts or in the midst of it."""
        number, self.count = self.count, self.count + 1
        part = PARTS[number % len(PARTS)]
        key = f"training/{part}/Covid{number * 7919 % PATIENTS:04}/{number:07}.{'json' if part == 'data' else 'dcm'}"
        with self.lock:
            self.keys.insert(bisect_left(self.keys, key), key)

    def replace(self, key: str) -> None:
        """Give an object another version."""
        with self.lock:
            self.versions[key] = self.versions.get(key, 0) + 1

    def version(self, key: str, number: int) -> Version:
        """Return a version of an object: a few hundred bytes to some kilobytes, now and then two megabytes, never the same twice."""
        chance = random.Random(f"{self.seed} {key} {number}")
        size = chance.choice((300, 700, 1500, 4000)) if chance.random() < 0.999 else 2 << 20
        line = f"{key} {number} {chance.random()}\n".encode()
        return Version(
            (line * (size // len(line) + 1))[: size + chance.randrange(64)], MODIFIED + timedelta(days=number)
        )

    def now(self, key: str) -> Version:
        """Return the version that an object has now."""
        return self.version(key, self.versions.get(key, 0))

    def rows(self, after: str, prefix: str, limit: int) -> list[tuple[str, int, str, datetime]]:
        """Supply a listing; see `ScriptedS3.virtual`."""
        with self.lock:
            start = max(bisect_right(self.keys, after), bisect_left(self.keys, prefix))
            keys = [key for key in self.keys[start : start + limit] if key.startswith(prefix)]
        return [self._row(key) for key in keys]

    def _row(self, key: str) -> tuple[str, int, str, datetime]:
        """Return an object's row, worked out once: a delimiter is found by reading over rows again and again."""
        number = self.versions.get(key, 0)
        if self._rows.get(key, (None,))[0] != number:
            version = self.version(key, number)
            self._rows[key] = number, (key, len(version.body), md5_hex(version.body), version.modified)
        return self._rows[key][1]

    def body(self, key: str) -> tuple[bytes, datetime] | None:
        """Supply a body; see `ScriptedS3.virtual_body`."""
        at = bisect_left(self.keys, key)
        if at == len(self.keys) or self.keys[at] != key:
            return None
        version = self.now(key)
        return version.body, version.modified


@dataclass
class History(Mapping[str, list[Version]]):
    """Every version that there ever was of every object, for the oracle; with `latest`, the present ones alone."""

    bucket: Bucket
    latest: bool = False

    def __getitem__(self, key: str) -> list[Version]:
        newest = self.bucket.versions.get(key, 0)
        return [self.bucket.version(key, number) for number in range(newest if self.latest else 0, newest + 1)]

    def __contains__(self, key: object) -> bool:
        at = bisect_left(self.bucket.keys, str(key))
        return self.bucket.keys[at : at + 1] == [key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.bucket.keys))

    def __len__(self) -> int:
        return len(self.bucket.keys)


@dataclass
class Weather:
    """What a request meets: an action of the script, for all requests of an operation.

    Attributes:
        bad: Whether there is any; else all is honest.
        share: So many of the requests meet with a fault of their own.
        met: How often each kind was met.
        requests: How many there were.
    """

    bucket: Bucket
    seed: int
    tokens: "Tokens | None" = None
    bad: bool = True
    share: float = FAULTS_SHARE
    met: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    gets: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    _wave_until: float = 0.0

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request as its moment has it."""
        request = exchange.request
        self.requests += 1
        self.gets += request.operation == "get"
        name, action = self._meet(request)
        self.met[name] += name != "honest"
        await action.tell(exchange)

    def _meet(self, request: Request) -> tuple[str, Action]:
        if self.tokens is not None and not self.tokens.let_in(request, self.requests):
            return "expired token", Status(400, "ExpiredToken", "The provided token has expired.")
        if not self.bad:
            return "honest", Honest()
        if self.requests % CHANGE_EVERY == 0:
            self._change()
        if self.requests % WAVE_EVERY == 0:
            self._wave_until = time.monotonic() + WAVE_SECONDS
        if time.monotonic() < self._wave_until and request.operation == "get":
            return "throttle", Status(
                503, "SlowDown", headers={"Retry-After": "1"} if self.requests % 10 == 0 else None
            )
        about = f"{request.operation} {request.key} {request.query.get('start-after', '')}"
        self.asked[about] += 1
        chance = random.Random(f"{self.seed} {about} {self.asked[about]}")
        if chance.random() >= self.share:
            return "honest", Honest()
        kinds = _LISTING_FAULTS if request.operation == "list" else _BODY_FAULTS
        name = chance.choice(tuple(kinds))
        return name, kinds[name](chance)

    def _change(self) -> None:
        chance = random.Random(f"{self.seed} {self.requests}")
        if chance.random() < 0.3:
            self.bucket.add()
        else:
            self.bucket.replace(chance.choice(self.bucket.keys))


_CUT_AFTER = (0, 1, 250, 1_500_000)
_BODY_FAULTS: dict[str, Callable[[random.Random], Action]] = {
    "cut": lambda chance: Cut(chance.choice(_CUT_AFTER)),
    "reset": lambda chance: Cut(chance.choice(_CUT_AFTER), reset=True),
    "drop": lambda chance: Drop(),
    "stall": lambda chance: Stall(chance.choice(_CUT_AFTER)),
    "server error": lambda chance: Status(chance.choice((500, 502, 504)), "InternalError"),
    "throttled alone": lambda chance: Status(503, "SlowDown"),
    "wrong byte": lambda chance: CorruptBody(),
    "200 with an error": lambda chance: Body(b"<Error><Code>InternalError</Code></Error>"),
    "short and well-formed": lambda chance: Chunked(b"half a body"),
    "portal": lambda chance: Body(b"<html>Please log in</html>", headers={"content-type": "text/html"}),
}
_LISTING_FAULTS: dict[str, Callable[[random.Random], Action]] = {
    "page cut": lambda chance: Cut(chance.randrange(2000)),
    "page reset": lambda chance: Cut(chance.randrange(2000), reset=True),
    "page refused": lambda chance: Status(chance.choice((500, 503)), "InternalError"),
    "page truncated": lambda chance: Page(lambda xml: xml[: len(xml) // 2]),
    "page of a portal": lambda chance: Page(b"<html>Please log in</html>"),
}


class Tokens:
    """Credentials that expire, in a file that a `credential_process` prints.

    Args:
        folder: Where the file and the AWS configuration go.
        every: Requests from one expiry to the next.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self._file = folder / "credentials.json"
        self._every = every
        self._number = 0
        self._hand_out()
        config = folder / "config"
        config.write_text(f"[default]\ncredential_process = /bin/cat {self._file}\n")
        self.settings = {"AWS_CONFIG_FILE": str(config)}

    def let_in(self, request: Request, requests: int) -> bool:
        """Say whether a request carries the token of the moment; when it is due, that one expires and there is another."""
        if requests // self._every > self._number:
            self._number = requests // self._every
            self._hand_out()
        return request.headers.get("x-amz-security-token") == self._token

    def _hand_out(self) -> None:
        self._token = f"token-{self._number}"
        fresh = self._file.with_suffix(".new")
        fresh.write_text(
            json.dumps(
                {"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "test-secret", "SessionToken": self._token}
            )
        )
        fresh.replace(self._file)


class Memory(threading.Thread):
    """Takes down the resident memory of a process until it has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._statm = Path(f"/proc/{pid}/statm")
        self._over = threading.Event()
        self.mib: list[float] = []
        self.start()

    def run(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(SAMPLE_SECONDS):
            try:
                pages = int(self._statm.read_text().split()[1])
            except (OSError, IndexError):
                return
            if pages:  # A process that has ended and was not waited for has none.
                self.mib.append(pages * page / (1 << 20))

    def end(self) -> "Memory":
        """Take down no more."""
        self._over.set()
        self.join()
        return self

    @property
    def halves(self) -> tuple[float, float] | None:
        """What the first and the second half of the run needed, MiB, its beginning left out; None for a short one."""
        if len(self.mib) < SAMPLES_MIN:
            return None
        warm = self.mib[int(len(self.mib) * WARM_SHARE) :]
        middle = len(warm) // 2
        return statistics.median(warm[:middle]), statistics.median(warm[middle:])

    @property
    def is_flat(self) -> bool:
        """Whether the second half needed no more than the first, but for a little."""
        if self.halves is None:
            return True
        first, second = self.halves
        return second <= first * (1 + GROWTH_SHARE) + GROWTH_MIB


@dataclass
class Figures:
    """What came of all runs."""

    runs: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    peak_mib: float = 0.0
    longest: Memory | None = None
    grown: list[tuple[float, float]] = field(default_factory=list)

    def add(self, code: int, summary: dict[str, Any], memory: Memory) -> None:
        """Count a run."""
        self.runs += 1
        self.codes[code] += 1
        for kind in ("fetched", "adopted", "skipped", "refused", "failed"):
            self.objects[kind] += summary[kind]["objects"]
        self.reasons.update(failure["reason"] for failure in summary["failures"])
        self.peak_mib = max([self.peak_mib, *memory.mib])
        if self.longest is None or len(memory.mib) > len(self.longest.mib):
            self.longest = memory
        if not memory.is_flat and memory.halves is not None:
            self.grown.append(memory.halves)

    def __str__(self) -> str:
        codes = ", ".join(f"{number} with {code}" for code, number in sorted(self.codes.items()))
        objects = ", ".join(f"{number} {kind}" for kind, number in self.objects.items())
        reasons = (
            f" ({', '.join(f'{number} {reason}' for reason, number in self.reasons.items())})" if self.reasons else ""
        )
        return f"{self.runs} runs ({codes or 'none over'}); objects: {objects or 'none'}{reasons}; peak {self.peak_mib:.0f} MiB"


class Soak:
    """The runs over one bucket.

    Args:
        folder: Where the destination goes.
        seed: What chance begins with.
        objects: How many objects there are to begin with.
        expire_every: Requests from one expiry of the credentials to the next; 0 for never.
        stall: What the runs are told of stalls.
    """

    def __init__(self, folder: Path, *, seed: int, objects: int, expire_every: int = 0, stall: str = STALL) -> None:
        self.stall = stall
        self.dest = folder / "dest"
        self.chance = random.Random(seed)
        self.bucket = Bucket(objects, seed)
        self.tokens = Tokens(folder, expire_every) if expire_every else None
        self.weather = Weather(self.bucket, seed, self.tokens)
        self.figures = Figures()
        self.removed: set[str] = set()
        self.began = time.monotonic()
        self._server = ScriptedS3(requests_max=1)
        self._server.virtual, self._server.virtual_body = self.bucket.rows, self.bucket.body
        for operation in ("list", "get", "head"):
            self._server.script(operation, self.weather, count=None)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, traceback)

    def run(self, until: Callable[[], bool] = lambda: False) -> tuple[int, dict[str, Any]]:
        """Make one run, to its end or until it is time to stop, and check what must hold after it."""
        child = Child(
            self._server,
            self.dest,
            *("--stall", self.stall, "--concurrency", "32"),
            batch=1000,
            settings=self.tokens.settings if self.tokens else None,
        )
        memory = Memory(child.pid)
        stopping = threading.Event()
        watch = threading.Thread(target=self._watch, args=(child, until, stopping), daemon=True)
        watch.start()
        code, summary, said = child.said(RUN_SECONDS_MAX)
        stopping.set()
        watch.join()
        assert code in CODES | ({130} if until() else set()), f"a run ended with {code}: {said}"
        if not summary:
            assert until(), f"a run that nobody stopped had nothing to say: {said}"
            return code, summary
        counted = sum(summary[kind]["objects"] for kind in ("fetched", "adopted", "skipped", "refused", "failed"))
        assert code == 130 or counted == summary["listed"]["objects"], f"objects are lost: {summary}"
        self.figures.add(code, summary, memory.end())
        # What was taken away may still be recorded where this run did not come to it, or could not have it.
        check_tree(self.dest, History(self.bucket), foreign=dict.fromkeys(self.removed, ()))
        if code == 0:
            self.removed.clear()
        return code, summary

    def _watch(self, child: Child, until: Callable[[], bool], stopping: threading.Event) -> None:
        """Say every minute how it goes; stop a run in order when the time is over."""
        said = time.monotonic()
        asked = False
        while not stopping.wait(0.5):
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                print(self, flush=True)
            if until() and not asked:
                asked = True
                child.signal(signal.SIGINT)

    def __str__(self) -> str:
        minutes = (time.monotonic() - self.began) / 60
        faults = sum(self.weather.met.values())
        return f"{minutes:.1f} min: {self.weather.requests} requests, {faults} faults met; {self.figures}"

    def spoil(self) -> None:
        """Leave the next run nothing, or files without records, or records without files."""
        kind = self.chance.randrange(4) if self.dest.exists() else 0
        if kind <= 1:
            shutil.rmtree(self.dest, ignore_errors=True)
            return
        if kind == 2:
            shutil.rmtree(self.dest / ".nccid-fetch")
        for key, path in files_of(self.dest).items():
            if self.chance.random() < 0.7:
                path.unlink()
                self.removed.add(key)

    def finish(self) -> None:
        """Make an honest run, which has to put everything right, and one more, which has to ask for no object."""
        self.weather.bad = False
        code, summary = self.run()
        assert code == 0, f"the honest run ended with {code}: {summary['failures'][:3]}"
        everything = set(self.bucket.keys)
        assert check_tree(self.dest, History(self.bucket, latest=True)) == everything, "something is lost"
        wanted = {
            key: (len(version.body), md5_hex(version.body)) for key in everything for version in [self.bucket.now(key)]
        }
        assert records(self.dest) == wanted, "the journal is not right"
        gets = self.weather.gets
        code, summary = self.run()
        assert (code, summary["skipped"]["objects"], self.weather.gets) == (0, len(everything), gets), "it asked again"

    def report(self) -> str:
        """Return the figures in lines."""
        lines = [
            str(self),
            "faults met: " + ", ".join(f"{n} {name}" for name, n in self.weather.met.most_common() if n),
        ]
        longest = self.figures.longest
        if longest is not None and longest.halves is not None:
            first, second = longest.halves
            lines.append(
                f"memory of the longest run ({len(longest.mib) * SAMPLE_SECONDS:.0f} s): {first:.1f} MiB in its first half, "
                f"{second:.1f} MiB in its second: {second - first:+.1f} MiB"
            )
        lines.append(f"runs whose memory grew: {len(self.figures.grown)}")
        return "\n".join(lines)


def soak(seconds: float, seed: int, objects: int, expire_every: int, folder: Path) -> bool:
    """Soak until the time is over, finish honestly, report, and say whether all is well."""
    deadline = time.monotonic() + seconds
    with Soak(folder, seed=seed, objects=objects, expire_every=expire_every) as night:
        while time.monotonic() < deadline:
            night.spoil()
            night.run(lambda: time.monotonic() >= deadline)
        night.finish()
        print(night.report())
        return not night.figures.grown


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="when to finish")
    parser.add_argument("--seed", type=int, default=None, help="what chance begins with; printed, to do it again")
    parser.add_argument("--objects", type=int, default=OBJECTS, help="objects to begin with")
    parser.add_argument("--expire-every", type=int, default=0, help="requests until credentials expire; 0 for never")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {arguments.objects} objects, {arguments.seconds:g} seconds", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="nccid-soak-"))
    try:
        well = soak(arguments.seconds, seed, arguments.objects, arguments.expire_every, folder)
    except AssertionError as error:
        print(f"FAILED with seed {seed}: {error}\nwhat is left is in {folder}", flush=True)
        return 1
    shutil.rmtree(folder)
    print(f"{'passed' if well else 'FAILED: memory grew'}, seed {seed}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
