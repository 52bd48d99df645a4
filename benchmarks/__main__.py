"""`make bench`: nccid-fetch beside its peers, on this machine, in one go.

python -m benchmarks                       # everything, about 15 minutes on two cores
python -m benchmarks --quick               # scaled down, under two minutes: does it still run?
python -m benchmarks --only small,resync
python -m benchmarks --against COMMIT      # two versions of ours, and nobody else
"""

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from . import regression, report, servers
from .bench import FULL, QUICK, Bench, Scale, room
from .clients import AWS2, AWS2_CRT, OURS, Client, present
from .results import Results
from .workloads import WORKLOADS, run

RAM_DISK = Path("/dev/shm")
ROOM_BYTES = {"full": 6 << 30, "quick": 1 << 30}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare nccid-fetch with its peers.")
    parser.add_argument("--quick", action="store_true", help="scaled down; its verdicts are not those of the targets")
    parser.add_argument("--only", metavar="NAMES", help=f"of {','.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, choices=range(1, 21), metavar="1..20", help="default: 3; --quick: 1")
    parser.add_argument("--rounds-of-aws", type=int, default=1, metavar="N", help="the slowest peer's; default: 1")
    parser.add_argument("--folder", type=Path, help="on the real disk to write to; default: the system's for such")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="default: bench.json")
    parser.add_argument("--against", metavar="COMMIT", help="compare with another commit of ours instead")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else list(WORKLOADS)
    if unknown := set(names) - WORKLOADS.keys():
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    scale = QUICK if chosen.quick or servers.missing_for_static() else FULL
    peers, absent = present(rounds_of_aws=chosen.rounds_of_aws)
    if scale is QUICK:
        for name in (AWS2, AWS2_CRT):
            if peers.pop(name, None):
                absent[name] = "left out when scaled down"
    results = Results(absent={("", client): why for client, why in absent.items()})
    # As Ctrl-C does, so that servers end, folders go, and what was measured by then is shown.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        bench = _bench(stack, results, scale, peers, chosen)
        facts = report.machine(bench)
        report.show_machine(facts)
        _warn(bench, quick=chosen.quick)
        began = datetime.now(UTC)
        try:
            if chosen.against:
                regression.run(bench, chosen.against)
            else:
                run(bench, names)
        except KeyboardInterrupt:
            results.absent["", ""] = "the run was stopped"
    report.show(results)
    report.show_commands(results)
    written: dict[str, Any] = {
        "machine": facts,
        "scale": asdict(scale),
        "arguments": sys.argv[1:],
        "began": began.isoformat(),
    }
    written |= {"ended": datetime.now(UTC).isoformat()} | results.as_json()
    if chosen.against:
        written["regression"] = regression.show(results)
    else:
        judged = report.judge(results)
        report.show_verdicts(judged)
        written["verdicts"] = [
            {
                "row": row.target.row,
                "figure": row.figure,
                "limit": row.target.limit,
                "verdict": row.verdict,
                "why": row.why,
            }
            for row in judged
        ]
        _warn(bench, quick=chosen.quick)
    chosen.output.write_text(json.dumps(written, indent=1) + "\n")
    print(f"every single run is in {chosen.output}")
    return int(any(client.startswith(OURS) or not client for _, client in results.absent))


def _bench(
    stack: ExitStack, results: Results, scale: Scale, peers: dict[str, Client], chosen: argparse.Namespace
) -> Bench:
    """Choose disks and cores; what is made on them goes with the stack."""
    disk = Path(chosen.folder or gettempdir())
    has_ram = RAM_DISK.is_dir() and room(RAM_DISK) >= ROOM_BYTES[scale.name]
    ram = RAM_DISK if has_ram else disk
    scratch, fast, real = (
        Path(stack.enter_context(TemporaryDirectory(prefix="nccid-bench-", dir=place))) for place in (disk, ram, disk)
    )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return Bench(
        results=results,
        scale=scale,
        rounds=chosen.rounds or scale.rounds,
        scratch=scratch,
        ram=fast,
        disk=real if has_ram and disk.stat().st_dev != RAM_DISK.stat().st_dev else None,
        peers=peers,
        client_cores={cores[0]} if len(cores) > 1 else None,
        server_cores={cores[1]} if len(cores) > 1 else None,
    )


def _warn(bench: Bench, *, quick: bool) -> None:
    """Say, before and after, what makes this run less than it should be."""
    if lacking := servers.missing_for_static():
        print(f"WARNING: {lacking}. moto stands in, and it is the limit: these are not the clients' rates.")
    if quick or bench.scale is not FULL:
        print("WARNING: scaled down. These verdicts are not those of the targets.")
    if bench.client_cores is None:
        print("WARNING: client and server share their cores.")
    if bench.disk is None:
        print("WARNING: there are not both a RAM disk with room and a real disk; all is written to one of them.")


if __name__ == "__main__":
    sys.exit(main())
