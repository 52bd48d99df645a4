"""The targets: a table of them, and the arithmetic of a verdict. No figure is in here, only what it is held against."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .clients import AWS, IN_FLIGHT, OURS, RCLONE, S5CMD, S5CMD_MD5SUM
from .results import Results

MIB = 1 << 20
SIZE_ONLY = "nccid-fetch --verify size"
AUTO = "--concurrency auto"
BOTH_CORES = "medium, both cores"


class NotMeasured(Exception):  # noqa: N818 - an answer, not a fault.
    """There is no figure. The message says why."""


class Verdict(StrEnum):
    """How a figure stands to its target."""

    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """A row of the table.

    Attributes:
        row: What is measured.
        limit: What it may be at most, or must be at least.
        unit: What follows the number: `x`, ` s`, ` us`, ` MiB`, ` %` or ` B`.
        figure: Computes it from the results; raises NotMeasured.
        at_least: The figure must be at least the limit.
    """

    row: str
    limit: float
    unit: str
    figure: Callable[[Results], float]
    at_least: bool = False

    def judge(self, results: Results) -> "Judged":
        """Hold the results against the target."""
        try:
            figure = self.figure(results)
        except NotMeasured as error:
            return Judged(self, None, Verdict.NOT_MEASURED, str(error))
        met = figure >= self.limit if self.at_least else figure <= self.limit
        return Judged(self, figure, Verdict.MET if met else Verdict.MISSED, "")


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its figure and verdict."""

    target: Target
    figure: float | None
    verdict: Verdict
    why: str


def value(results: Results, workload: str, client: str, metric: str) -> float:
    """Return a median.

    Raises:
        NotMeasured: There is none.
    """
    found = results.median(workload, client, metric)
    if found is None:
        raise NotMeasured(results.why_not(workload, client))
    return found


def ratio(workload: str, metric: str, peer: str, mine: str = OURS) -> Callable[[Results], float]:
    """Return the rule: our median divided by a peer's, in the same workload."""
    return lambda results: value(results, workload, mine, metric) / value(results, workload, peer, metric)


def median(workload: str, client: str, metric: str, divisor: float = 1) -> Callable[[Results], float]:
    """Return the rule: a median, in another unit."""
    return lambda results: value(results, workload, client, metric) / divisor


def _cpu_per_object(results: Results) -> float:
    cpu = value(results, "resync", OURS, "cpu")
    return cpu / results.sizes["resync"][0] * 1e6


def _growth(results: Results) -> float:
    few, many = (value(results, "memory", client, "rss") for client in ("plan of few", "plan of many"))
    return (many / few - 1) * 100


def _peak(results: Results) -> float:
    value(results, "wide", OURS, "rss")  # The workload that is made for it has to be among them.
    fetches = [run for run in results.runs if "get" in run.command[1:2] and str(IN_FLIGHT) in run.command]
    return max(run.metrics["rss"] for run in fetches) / MIB


def _auto(results: Results) -> float:
    auto = value(results, "latency", AUTO, "wall")
    fixed = [client for client in results.clients("latency") if client != AUTO]
    return min(value(results, "latency", client, "wall") for client in fixed) / auto


TARGETS = (
    Target("small: client CPU against s5cmd", 0.40, "x", ratio("small", "cpu", S5CMD)),
    Target("small: wall against s5cmd", 0.30, "x", ratio("small", "wall", S5CMD)),
    Target("small: wall against aws s3 sync", 0.10, "x", ratio("small", "wall", AWS)),
    Target("medium: wall against s5cmd and md5sum", 0.80, "x", ratio("medium", "wall", S5CMD_MD5SUM)),
    Target("medium, --verify size: client CPU against s5cmd", 0.70, "x", ratio("medium", "cpu", S5CMD, SIZE_ONLY)),
    Target("medium, both cores: wall against s5cmd", 0.95, "x", ratio(BOTH_CORES, "wall", S5CMD)),
    Target("medium, both cores: wall against rclone", 0.80, "x", ratio(BOTH_CORES, "wall", RCLONE)),
    Target("large: wall against s5cmd", 1.00, "x", ratio("large", "wall", S5CMD)),
    Target("resync: CPU per object", 30, " us", _cpu_per_object),
    Target("resync: wall against aws s3 sync", 0.10, "x", ratio("resync", "wall", AWS)),
    Target("resync: wall against s5cmd sync", 0.25, "x", ratio("resync", "wall", S5CMD)),
    Target("resync: wall against rclone copy", 0.50, "x", ratio("resync", "wall", RCLONE)),
    Target("plan of 1,000,000 keys: peak RSS", 150, " MiB", median("memory", "plan of many", "rss", MIB)),
    Target("plan: growth of RSS from 100,000 keys", 10, " %", _growth),
    Target("fetch, 64 in flight, any workload: peak RSS", 250, " MiB", _peak),
    Target("journal: bytes per object", 140, " B", median("journal", "made", "bytes_per_object")),
    Target("journal: opening one of 1,000,000 rows", 0.3, " s", median("journal", "opened", "seconds")),
    Target(
        "listing, 50 ms a page: wall against page after page",
        0.15,
        "x",
        ratio("listing", "seconds", "page after page", "plan"),
    ),
    Target("latency, 40 ms: --concurrency auto against the best fixed", 0.90, "x", _auto, at_least=True),
    Target("start: nccid-fetch --version", 0.15, " s", median("start", "--version", "wall")),
    Target("start: nccid-fetch --help", 0.25, " s", median("start", "--help", "wall")),
)
