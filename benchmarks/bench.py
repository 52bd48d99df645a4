"""How things are measured: rounds in which the clients take turns, a clean folder each time, every tree checked."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nccid_fetch.keys import printable

from .child import Used, run
from .clients import ROOT, Client, Job, environment
from .results import Results
from .servers import AbsentError, Endpoint
from .tree import Load, Tree, differences, newest_change, plant

SECONDS_MAX = 600.0
"""The longest that one run may take; then it is killed, and said to have been."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: objects, keys and rows; rounds, and repeats of what is over at once."""

    name: str
    small: int
    medium: int
    large: int
    wide: int
    resync: int
    keys: int
    listing: int
    rows: int
    latency: int
    servers: int
    rounds: int
    repeats: int
    in_flight: tuple[int, ...]


FULL = Scale(
    "full",
    small=20_000,
    medium=2_000,
    large=12,
    wide=200,
    resync=100_000,
    keys=1_000_000,
    listing=100_000,
    rows=1_000_000,
    latency=6_000,
    servers=500,
    rounds=3,
    repeats=7,
    in_flight=(16, 32, 64, 128, 256, 512),
)
QUICK = Scale(
    "quick",
    small=600,
    medium=60,
    large=2,
    wide=8,
    resync=2_000,
    keys=20_000,
    listing=10_000,
    rows=20_000,
    latency=500,
    servers=100,
    rounds=1,
    repeats=2,
    in_flight=(32, 128),
)


@dataclass(slots=True)
class Bench:
    """The bench that everything is measured on.

    Attributes:
        results: Where every run is noted.
        scale: How much is done.
        rounds: How often each client runs.
        scratch: A folder for configuration, logs and certificates.
        ram: A folder on a RAM disk, or on what there is.
        disk: A folder on a real disk, or None if there is none beside `ram`.
        peers: The other clients.
        client_cores: Where clients run; None for anywhere.
        server_cores: Where servers run; None for anywhere.
    """

    results: Results
    scale: Scale
    rounds: int
    scratch: Path
    ram: Path
    disk: Path | None
    peers: dict[str, Client]
    client_cores: set[int] | None
    server_cores: set[int] | None

    @contextmanager
    def folder(self, place: Path | None = None) -> Iterator[Path]:
        """Make an empty folder, on the RAM disk unless told where, and remove it again."""
        with TemporaryDirectory(dir=place or self.ram) as path:
            yield Path(path)

    @contextmanager
    def planted(self, *loads: Load) -> Iterator[tuple[Path, Tree]]:
        """Write a tree to be served, and remove it again; yield the folder above the bucket, and the tree."""
        with self.folder() as root:
            yield root, plant(root, loads)

    def those(self, *names: str) -> list[Client]:
        """Return these peers, as far as they are there."""
        return [self.peers[name] for name in names if name in self.peers]

    def call(
        self,
        command: list[str],
        endpoint: Endpoint | None,
        *,
        cores: set[int] | None = None,
        code: Path = ROOT,
    ) -> Used:
        """Run a command in an environment of its own."""
        with self.folder(self.scratch) as home:
            return run(command, environment(home, endpoint, code=code), home, cores, SECONDS_MAX)

    def measure(
        self, workload: str, client: str, number: int, command: list[str], endpoint: Endpoint | None = None
    ) -> Used | None:
        """Run a command on the client's cores, and note what it took; a failure is noted as one."""
        used = self.call(command, endpoint, cores=self.client_cores)
        return used if self.note(workload, client, number, command, used) else None

    def note(self, workload: str, client: str, number: int, command: list[str], used: Used, *, wrong: str = "") -> bool:
        """Note a run, or why it does not count; say which."""
        if used.code or wrong:
            why = wrong or f"it ended with {used.code}: {printable((used.err or used.out).strip()[-200:])}"
            self.fail(workload, client, why)
            return False
        self.results.add(
            workload,
            client,
            number,
            command,
            wall=used.wall_seconds,
            cpu=used.cpu_seconds,
            user=used.user_seconds,
            system=used.system_seconds,
            rss=float(used.rss_bytes),
        )
        say(
            f"  {workload}, round {number}: {client} {used.wall_seconds:.2f} s, CPU "
            f"{used.cpu_seconds:.2f} s, {used.rss_bytes >> 20} MiB"
        )
        return True

    def fail(self, workload: str, client: str, why: str) -> None:
        """Note why something has no figure, or no more of them."""
        self.results.absent[workload, client] = why
        say(f"  {workload}: {client} NOT MEASURED: {why}")

    def compare(
        self,
        workload: str,
        clients: Sequence[Client],
        endpoint: Endpoint,
        tree: Tree,
        *,
        place: Path | None = None,
        rounds_max: int = 99,
        both_cores: bool = False,
        dests: Mapping[str, Path] | None = None,
    ) -> None:
        """Let clients take turns at fetching a tree.

        Who begins changes from round to round. After each run the tree has to be complete; after each client's first,
        every byte of it is compared as well. A client that fails once does not run again in this workload.

        Args:
            workload: What it is noted as.
            clients: Who takes part.
            endpoint: Where from.
            tree: What is there.
            place: The disk to write to; the RAM disk unless told otherwise.
            rounds_max: No more rounds than this.
            both_cores: Clients may use all cores.
            dests: The folders that are up to date, by client, and stay as they are; without them, each run has an empty one.
        """
        self.results.sizes[workload] = (len(tree.sizes), tree.bytes)
        cores = None if both_cores else self.client_cores
        seen: set[str] = set()
        for number in range(1, min(self.rounds, rounds_max) + 1):
            turn = (number - 1) % len(clients)
            for client in (*clients[turn:], *clients[:turn]):
                if number > client.rounds_max or (workload, client.name) in self.results.absent:
                    continue
                with self.folder(place) as empty:
                    target = dests[client.name] if dests else empty
                    if place is not None:
                        os.sync()  # What the run before left to be written is not this one's to wait for.
                    try:
                        command = client.command(Job(endpoint, tree.folder, target, tree.parts))
                    except AbsentError as error:
                        self.fail(workload, client.name, str(error))
                        continue
                    before = newest_change(target)
                    used = self.call(command, endpoint, cores=cores, code=client.code)
                    wrong = ""
                    if not used.code:
                        wrong = differences(target, tree, contents=client.name not in seen) or ""
                        if dests and newest_change(target) > before:
                            wrong = wrong or "it fetched what was there"
                    seen.add(client.name)
                    self.note(workload, client.name, number, command, used, wrong=wrong)


def room(folder: Path) -> int:
    """Return how many bytes are free where a folder is."""
    return shutil.disk_usage(folder).free


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)
