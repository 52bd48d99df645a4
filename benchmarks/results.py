"""What was measured: every single run, and medians over them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one client.

    Attributes:
        workload: What was done.
        client: Who did it.
        round: In which round, from 1.
        metrics: The figures by name: `wall`, `cpu`, `user`, `system` in seconds, `rss` in bytes, and others.
        command: What was called.
    """

    workload: str
    client: str
    round: int
    metrics: dict[str, float]
    command: list[str]


@dataclass(slots=True)
class Results:
    """Everything that was measured, and why the rest was not.

    Attributes:
        runs: Each run.
        absent: Why there is no run, or not every round, by workload and client; an empty workload stands for all.
        sizes: Objects and bytes of each workload.
    """

    runs: list[Run] = field(default_factory=list)
    absent: dict[tuple[str, str], str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, workload: str, client: str, number: int, command: Iterable[str] = (), **metrics: float) -> None:
        """Note one run."""
        self.runs.append(Run(workload, client, number, metrics, list(command)))

    def all(self, workload: str, client: str, metric: str) -> list[float]:
        """Return a figure of every round."""
        return [
            run.metrics[metric]
            for run in self.runs
            if (run.workload, run.client) == (workload, client) and metric in run.metrics
        ]

    def median(self, workload: str, client: str, metric: str) -> float | None:
        """Return the median of a figure, or None if there is none."""
        values = self.all(workload, client, metric)
        return median(values) if values else None

    def why_not(self, workload: str, client: str) -> str:
        """Say why there is no figure."""
        for place in ((workload, client), ("", client), (workload, ""), ("", "")):
            if place in self.absent:
                return self.absent[place]
        return "its workload was not selected"

    def clients(self, workload: str) -> list[str]:
        """Return who took part, in the order in which they first did."""
        return list(dict.fromkeys(run.client for run in self.runs if run.workload == workload))

    def workloads(self) -> list[str]:
        """Return what was measured, in order."""
        return list(dict.fromkeys(run.workload for run in self.runs))

    def as_json(self) -> dict[str, Any]:
        """Return everything, for the file."""
        return {
            "sizes": {name: {"objects": size[0], "bytes": size[1]} for name, size in self.sizes.items()},
            "runs": [asdict(run) for run in self.runs],
            "not_measured": [
                {"workload": workload, "client": client, "why": why} for (workload, client), why in self.absent.items()
            ],
        }
