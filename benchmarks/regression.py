"""Two commits of ours against each other, and nobody else: small, medium and resync, in alternating rounds."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bench import Bench
from .clients import OURS, ROOT, Client, ours
from .results import Results
from .tree import KIB, Load
from .workloads import in_place, serving

BASE = "base"


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Lay a commit's files out in a folder of their own, and take them away again."""
    git = ["git", "-C", str(ROOT), "worktree"]
    path = folder / "base"
    subprocess.run([*git, "add", "--detach", "--quiet", str(path), commit], check=True)
    try:
        yield path
    finally:
        subprocess.run([*git, "remove", "--force", str(path)], check=True)


def run(bench: Bench, commit: str) -> None:
    """Measure both on the same trees and servers."""
    with bench.folder(bench.scratch) as folder, checked_out(commit, folder) as code:
        both: list[Client] = [ours(), replace(ours(name=BASE), code=code)]
        for name, load in (
            ("small", Load("ct-metadata", bench.scale.small, 15 * KIB)),
            ("medium", Load("ct", bench.scale.medium, 526 * KIB)),
        ):
            with bench.planted(load) as (root, tree), serving(bench, root, tree) as endpoint:
                bench.compare(name, both, endpoint, tree)
        load = Load("ct-metadata", bench.scale.resync, 256)
        with bench.planted(load) as (root, tree), serving(bench, root, tree) as endpoint, ExitStack() as stack:
            dests = {client.name: stack.enter_context(in_place(bench, client, endpoint, tree)) for client in both}
            bench.compare("resync", both, endpoint, tree, dests=dests)


def show(results: Results) -> list[dict[str, Any]]:
    """Print, and return, the new figures over the old ones: below 1 is better."""
    rows = []
    print(f"\n{'':12}{'wall new/old':>14}{'CPU new/old':>14}")
    for workload in results.workloads():
        row: dict[str, Any] = {"workload": workload}
        for metric in ("wall", "cpu"):
            new, old = (results.median(workload, client, metric) for client in (OURS, BASE))
            row[metric] = new / old if new and old else None
        rows.append(row)
        told = [f"{row[metric]:.3f}" if row[metric] else "not measured" for metric in ("wall", "cpu")]
        print(f"{workload:12}{told[0]:>14}{told[1]:>14}")
    return rows
