"""The workloads, each a function that measures on the bench that it is given."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import servers
from .bench import Bench, say
from .clients import (
    AWS,
    AWS2,
    AWS2_CRT,
    BIN,
    CP,
    RCLONE,
    S5CMD,
    S5CMD_MD5SUM,
    Client,
    Job,
    ours,
    rclone_binary,
    s5cmd,
)
from .servers import AbsentError, Endpoint
from .targets import AUTO, BOTH_CORES, SIZE_ONLY
from .tree import KIB, MIB, Load, Tree

PAGE_SECONDS = 0.05
BODY_SECONDS = 0.04
LISTING_PATIENTS = 200
MEMORY_PATIENTS = 500
_PROBE = [sys.executable, "-m", "benchmarks.probes"]


@contextmanager
def serving(bench: Bench, root: Path, tree: Tree, *, body_pause: float = 0.0) -> Iterator[Endpoint]:
    """Serve a tree by nginx; by moto, if there is no nginx and no pause is wanted."""
    with bench.folder(bench.scratch) as folder:
        if servers.missing_for_static() is None or body_pause:
            with servers.static(folder, root, tree.catalogue(), bench.server_cores, body_pause=body_pause) as endpoint:
                yield endpoint
        else:
            with servers.moto(tree.folder, bench.server_cores) as endpoint:
                yield endpoint


@contextmanager
def listing_only(bench: Bench, *, count: int, patients: int, page_pause: float = 0.0) -> Iterator[Endpoint]:
    """Serve a listing of keys that are nowhere; without TLS if there is no nginx."""
    virtual = {"prefix": "training/ct-metadata/", "count": count, "patients": patients, "size": 15 * KIB}
    with bench.folder(bench.scratch) as folder:
        if servers.missing_for_static() is None:
            with servers.static(
                folder, folder, json.dumps(virtual), bench.server_cores, page_pause=page_pause
            ) as endpoint:
                yield endpoint
        else:
            with servers.listing(folder, json.dumps(virtual), bench.server_cores, page_pause=page_pause) as port:
                yield Endpoint("listing", f"http://127.0.0.1:{port}", None)


def start(bench: Bench) -> None:
    """How long it takes to say nothing."""
    for number in range(1, bench.scale.repeats + 1):
        for option in ("--version", "--help"):
            bench.measure("start", option, number, [str(BIN / "nccid-fetch"), option])


def small(bench: Bench) -> None:
    """Many small objects: what one object costs. On the RAM disk, then on a real one."""
    with (
        bench.planted(Load("ct-metadata", bench.scale.small, 15 * KIB)) as (root, tree),
        serving(bench, root, tree) as endpoint,
    ):
        bench.compare("small", [ours(), *bench.those(S5CMD, RCLONE, AWS, AWS2_CRT, CP)], endpoint, tree)
        _on_disk(bench, "small", endpoint, tree)


def medium(bench: Bench) -> None:
    """CT slices: bytes begin to count. With MD5, by size alone, and with all cores for the client."""
    with (
        bench.planted(Load("ct", bench.scale.medium, 526 * KIB)) as (root, tree),
        serving(bench, root, tree) as endpoint,
    ):
        by_size = ours("--verify", "size", name=SIZE_ONLY)
        peers = bench.those(S5CMD, S5CMD_MD5SUM, RCLONE, AWS, AWS2, AWS2_CRT, CP)
        bench.compare("medium", [ours(), by_size, *peers], endpoint, tree)
        bench.compare(BOTH_CORES, [ours(), by_size, *bench.those(S5CMD, RCLONE)], endpoint, tree, both_cores=True)
        _on_disk(bench, "medium", endpoint, tree)


def large(bench: Bench) -> None:
    """Few large objects."""
    with (
        bench.planted(Load("xray", bench.scale.large, 64 * MIB)) as (root, tree),
        serving(bench, root, tree) as endpoint,
    ):
        bench.compare(
            "large", [ours(), *bench.those(S5CMD, S5CMD_MD5SUM, RCLONE, AWS, AWS2, AWS2_CRT, CP)], endpoint, tree
        )


def mixed(bench: Bench) -> None:
    """Metadata, slices and X-rays at once: by number as many as the warehouse has of the first two."""
    count = bench.scale.medium // 2
    loads = (Load("ct-metadata", count, 15 * KIB), Load("ct", count, 526 * KIB), Load("xray", count // 100, 10 * MIB))
    with bench.planted(*loads) as (root, tree), serving(bench, root, tree) as endpoint:
        bench.compare("mixed", [ours(), *bench.those(S5CMD, RCLONE, CP)], endpoint, tree)


def wide(bench: Bench) -> None:
    """Bodies of about 8 MiB, as many at once as may be in flight: each comes in chunks, which is the worst case for memory."""
    half = bench.scale.wide // 2
    loads = (Load("ct", half, 8 * MIB - 64 * KIB), Load("xray", half, 8 * MIB + 64 * KIB))
    with bench.planted(*loads) as (root, tree), serving(bench, root, tree) as endpoint:
        bench.compare("wide", [ours()], endpoint, tree)


def _on_disk(bench: Bench, workload: str, endpoint: Endpoint, tree: Tree) -> None:
    if bench.disk is not None:
        clients = [ours(), *bench.those(S5CMD, CP)]
        bench.compare(f"{workload} on disk", clients, endpoint, tree, place=bench.disk, rounds_max=2)


def resync(bench: Bench) -> None:
    """Nothing to do: what a listed key costs. All clients look at one and the same tree."""
    with (
        bench.planted(Load("ct-metadata", bench.scale.resync, 256)) as (root, tree),
        serving(bench, root, tree) as endpoint,
        in_place(bench, ours(), endpoint, tree) as dest,
    ):
        clients = [ours(), *bench.those(S5CMD, RCLONE, AWS, AWS2)]
        clients = [s5cmd("sync", rounds_max=1) if client.name == S5CMD else client for client in clients]
        bench.compare("resync", clients, endpoint, tree, dests={client.name: dest for client in clients})


@contextmanager
def in_place(bench: Bench, client: Client, endpoint: Endpoint, tree: Tree) -> Iterator[Path]:
    """Make a destination in which everything is in place: copied, with its times, then proved by one of ours."""
    with bench.folder() as dest:
        subprocess.run(["cp", "-rp", f"{tree.folder}/training/.", str(dest)], check=True)
        used = bench.call(client.command(Job(endpoint, tree.folder, dest, tree.parts)), endpoint, code=client.code)
        if used.code:
            raise AbsentError(f"the tree could not be prepared: {used.err}")
        yield dest


def memory(bench: Bench) -> None:
    """A plan of very many keys: memory that does not grow, and what a key costs."""
    for name, count in (("plan of few", bench.scale.keys // 10), ("plan of many", bench.scale.keys)):
        with listing_only(bench, count=count, patients=MEMORY_PATIENTS) as endpoint, bench.folder() as dest:
            command = [str(BIN / "nccid-fetch"), "plan", "ct-metadata", "--dest", str(dest / "none")]
            command += ["--endpoint-url", endpoint.url, "--format", "json"]
            used = bench.measure("memory", name, 1, command, endpoint)
            if used is not None and json.loads(used.out)["planned"]["fetch"]["objects"] != count:
                bench.results.runs.pop()
                bench.fail("memory", name, "the plan has another number of objects")


def listing(bench: Bench) -> None:
    """Pages that come late: how many are asked for at once."""
    count = bench.scale.listing
    with listing_only(bench, count=count, patients=LISTING_PATIENTS, page_pause=PAGE_SECONDS) as endpoint:
        bench.results.sizes["listing"] = (count, 0)
        probes = {
            "plan": [*_PROBE, "plan", endpoint.url, "ct-metadata"],
            "page after page": [*_PROBE, "page-after-page", endpoint.url, "training/ct-metadata/"],
        }
        for number in range(1, bench.rounds + 1):
            for name, command in probes.items() if number % 2 else reversed(probes.items()):
                _probe(bench, "listing", name, number, command, endpoint=endpoint)


def latency(bench: Bench) -> None:
    """Bodies that come late: how many are asked for at once, by hand and by itself."""
    with (
        bench.planted(Load("ct-metadata", bench.scale.latency, 15 * KIB)) as (root, tree),
        serving(bench, root, tree, body_pause=BODY_SECONDS) as endpoint,
    ):
        clients = [ours(name=f"--concurrency {number}", in_flight=str(number)) for number in bench.scale.in_flight]
        bench.compare("latency", [ours(name=AUTO, in_flight="auto"), *clients], endpoint, tree)
    if " ended with 2" in f" {bench.results.absent.get(('latency', AUTO), '').removeprefix('it ')}":
        bench.results.absent["latency", AUTO] = "--concurrency auto is refused"


def journal(bench: Bench) -> None:
    """What is remembered of an object, on disk, and how long it takes to open very many."""
    with bench.folder() as dest:
        _probe(bench, "journal", "made", 1, [*_PROBE, "make-journal", str(dest), str(bench.scale.rows)])
        for number in range(1, bench.scale.repeats + 1):
            _probe(bench, "journal", "opened", number, [*_PROBE, "open-journal", str(dest)])


def other_servers(bench: Bench) -> None:
    """The same on servers that others wrote. They are the limit, not the clients: the ratios say little."""
    clients = [ours(), ours("--transport", "aioboto3", name="nccid-fetch, aioboto3"), *bench.those(S5CMD, RCLONE, AWS)]
    with bench.planted(Load("ct-metadata", bench.scale.servers, 15 * KIB)) as (root, tree):
        with servers.moto(tree.folder, bench.server_cores) as endpoint:
            bench.compare("small from moto", clients, endpoint, tree)
        with (
            bench.folder(bench.scratch) as folder,
            servers.rclone(rclone_binary(), folder, root, bench.server_cores) as endpoint,
        ):
            bench.compare("small from rclone", clients, endpoint, tree)


def _probe(
    bench: Bench, workload: str, name: str, number: int, command: list[str], *, endpoint: Endpoint | None = None
) -> None:
    used = bench.measure(workload, name, number, command, endpoint)
    if used is not None:
        bench.results.runs[-1].metrics.update(json.loads(used.out))
        say(f"    {used.out.strip()}")


WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "start": start,
    "small": small,
    "medium": medium,
    "large": large,
    "mixed": mixed,
    "wide": wide,
    "resync": resync,
    "memory": memory,
    "listing": listing,
    "latency": latency,
    "journal": journal,
    "servers": other_servers,
}


def run(bench: Bench, names: list[str]) -> None:
    """Measure the chosen workloads, one after another. One that cannot be measured here does not stop the others."""
    for name in names:
        say(f"{name}: {WORKLOADS[name].__doc__}")
        try:
            WORKLOADS[name](bench)
        except AbsentError as error:
            bench.fail(name, "", str(error))
