"""Both transports on the same objects, against moto: wall time, client CPU, and how busy the server was.

Every run is a real `nccid-fetch get` in a process of its own, into an empty folder, with everything verified and
durable as usual. The transports take turns within a round, and the first changes from round to round, so that a
machine that slows down slows both. moto runs in one process of its own and is the limit of most of what can be seen
here: see README.md beside this file before quoting a number.

    python benchmarks/transports.py --quick
    python benchmarks/transports.py --rounds 5 --output transports.json
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from nccid_fetch.demo.server import DemoServer
from nccid_fetch.demo.synthetic import SyntheticObject

TRANSPORTS = ("fast", "aioboto3")
RUN_SECONDS_MAX = 300
SCRIPT = Path(sys.executable).parent / "nccid-fetch"
PACKAGES = ("nccid-fetch", "obstore", "aioboto3", "aiobotocore", "aiohttp", "uvloop", "moto", "werkzeug")


@dataclass(frozen=True)
class Load:
    """Objects of one size, in a part of their own."""

    name: str
    part: str
    count: int
    size: int


FULL = (Load("small", "data", 4000, 32 * 1024), Load("large", "ct", 6, 64 * 1024 * 1024))
QUICK = (Load("small", "data", 500, 32 * 1024), Load("large", "ct", 2, 16 * 1024 * 1024))


@dataclass(frozen=True)
class Run:
    """What one fetch took."""

    load: str
    transport: str
    wall_seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float


# The server, in a process of its own.


def serve(loads: tuple[Load, ...]) -> None:
    """Hold the objects until stdin ends; answer each line with the CPU seconds used so far."""
    rng = random.Random(0)  # The same bytes every time.
    with DemoServer() as server:
        for load in loads:
            server.load(
                SyntheticObject(f"training/{load.part}/{number % 50:02}/{number:06}", rng.randbytes(load.size))
                for number in range(load.count)
            )
        print(json.dumps(server.environment), flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


class Server:
    """The server, as the benchmark sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.environment: dict[str, str] = json.loads(self._line())

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the server has used so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def serving(*, quick: bool) -> Iterator[Server]:
    command = [sys.executable, __file__, "--serve", *(["--quick"] if quick else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


# The clients.


def fetch(server: Server, load: Load, transport: str, concurrency: int, folder: Path) -> Run:
    command = [str(SCRIPT), "get", load.part, "--transport", transport, "--concurrency", str(concurrency)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NCCID_"))}
    with TemporaryDirectory(dir=folder) as dest:
        served_before, used_before = server.cpu_seconds(), _cpu_of_children()
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--format", "json", "--dest", dest],
            env=kept | server.environment | {"NO_PROXY": "*", "no_proxy": "*"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = process.communicate(timeout=RUN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        wall = time.perf_counter() - began
        served = server.cpu_seconds() - served_before
        if process.returncode or json.loads(out)["verified"]["md5"] != load.count:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {err}")
    return Run(load.name, transport, wall, _cpu_of_children() - used_before, served)


def _cpu_of_children() -> float:
    """Return what all children that have ended used; the server, which has not, is not among them."""
    times = os.times()
    return times.children_user + times.children_system


# The report.


def machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in (Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else [])
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def summarise(loads: tuple[Load, ...], runs: list[Run]) -> list[dict[str, Any]]:
    rows = []
    for load in loads:
        of = {name: [run for run in runs if (run.load, run.transport) == (load.name, name)] for name in TRANSPORTS}
        for transport in TRANSPORTS:
            wall = median(run.wall_seconds for run in of[transport])
            rows.append(
                {
                    "load": load.name,
                    "transport": transport,
                    "wall_seconds": round(wall, 3),
                    "client_cpu_seconds": round(median(run.client_cpu_seconds for run in of[transport]), 3),
                    "server_busy": round(median(run.server_cpu_seconds / run.wall_seconds for run in of[transport]), 2),
                    "objects_per_second": round(load.count / wall, 1),
                    "megabytes_per_second": round(load.count * load.size / wall / 1e6, 1),
                    "wall_to_fast": round(wall / median(run.wall_seconds for run in of["fast"]), 2),
                    "cpu_to_fast": round(
                        median(run.client_cpu_seconds for run in of[transport])
                        / median(run.client_cpu_seconds for run in of["fast"]),
                        2,
                    ),
                }
            )
    return rows


def show(loads: tuple[Load, ...], rows: list[dict[str, Any]]) -> None:
    for load in loads:
        print(f"\n{load.name}: {load.count:,} objects of {load.size / 1024:,.0f} KiB")
        print("  transport    wall   client CPU   objects/s    MB/s   wall/fast   CPU/fast   server busy")
        for row in rows:
            if row["load"] == load.name:
                print(
                    f"  {row['transport']:<9}{row['wall_seconds']:7.2f}s{row['client_cpu_seconds']:12.2f}s"
                    f"{row['objects_per_second']:12.0f}{row['megabytes_per_second']:8.0f}"
                    f"{row['wall_to_fast']:12.2f}{row['cpu_to_fast']:11.2f}{row['server_busy']:14.0%}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the transports against moto.")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller objects, one round")
    parser.add_argument("--rounds", type=int, choices=range(1, 21), metavar="1..20", help="default: 3; --quick: 1")
    parser.add_argument("--concurrency", type=int, default=64, help="objects in flight (default: 64)")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    parser.add_argument("--output", type=Path, help="write every run and the medians as JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    loads = QUICK if chosen.quick else FULL
    if chosen.serve:
        serve(loads)
        return
    host = machine()
    print(f"{host['system']}, {host['cpu']}, {host['cores']} cores, Python {host['python']}")
    print(", ".join(f"{name} {number}" for name, number in host["packages"].items()))
    print("moto, one Python process on the same machine, is the limit: these are not S3's rates.")
    runs: list[Run] = []
    with TemporaryDirectory(prefix="nccid-bench-", dir=chosen.folder) as folder, serving(quick=chosen.quick) as server:
        for number in range(chosen.rounds or (1 if chosen.quick else 3)):
            for load in loads:
                for transport in TRANSPORTS if number % 2 == 0 else reversed(TRANSPORTS):
                    run = fetch(server, load, transport, chosen.concurrency, Path(folder))
                    runs.append(run)
                    print(f"  round {number + 1}: {load.name} {transport} {run.wall_seconds:.2f}s", file=sys.stderr)
    rows = summarise(loads, runs)
    show(loads, rows)
    if chosen.output:
        report = {"machine": host, "concurrency": chosen.concurrency, "loads": [asdict(load) for load in loads]}
        report |= {"medians": rows, "runs": [asdict(run) for run in runs]}
        chosen.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
