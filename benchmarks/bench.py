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
from .servers import Endpoint
from .tree import Load, Tree, differences, plant

SECONDS_MAX = 400.0
"""The longest that one run may take; then it is killed, and said to have been."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

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
    latency=8_000,
    servers=1_000,
    rounds=3,
    in_flight=(16, 32, 64, 128, 256, 512),
)
QUICK = Scale(
    "quick",
    small=1_000,
    medium=100,
    large=3,
    wide=16,
    resync=4_000,
    keys=50_000,
    listing=20_000,
    rows=50_000,
    latency=1_000,
    servers=200,
    rounds=1,
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
            both_cores: Clients may use all cores.
            dests: The folders to bring up to date, by client; without them, each run has an empty one.
        """
        self.results.sizes[workload] = (len(tree.sizes), tree.bytes)
        cores = None if both_cores else self.client_cores
        seen: set[str] = set()
        for number in range(1, self.rounds + 1):
            turn = (number - 1) % len(clients)
            for client in (*clients[turn:], *clients[:turn]):
                if number > client.rounds_max or (workload, client.name) in self.results.absent:
                    continue
                with self.folder(place) as empty:
                    target = dests[client.name] if dests else empty
                    if place is not None:
                        os.sync()  # What the run before left to be written is not this one's to wait for.
                    command = client.command(Job(endpoint, tree.folder, target, tree.parts))
                    used = self.call(command, endpoint, cores=cores, code=client.code)
                    wrong = ""
                    if not used.code:
                        wrong = differences(target, tree, contents=client.name not in seen) or ""
                    seen.add(client.name)
                    self.note(workload, client.name, number, command, used, wrong=wrong)


def room(folder: Path) -> int:
    """Return how many bytes are free where a folder is."""
    return shutil.disk_usage(folder).free


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)
