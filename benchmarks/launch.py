"""Starts one command, waits for it, and writes what it took to a file. Run as a script, and kept small on purpose.

Linux counts the memory of whoever starts a process towards the most that the process ever held. The benchmark itself
has a hundred thousand names in memory; this has next to nothing, and so any client shows its own figure.

    python -I -S launch.py REPORT CORES COMMAND...     # CORES: numbers with commas between them, or nothing
"""

import json
import os
import sys
import time


def main() -> None:
    report, cores, *command = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    # Unlike getrusage, wait4 tells of this child alone, with the children that it waited for.
    _, status, usage = os.wait4(pid, 0)
    told = {
        "wall_seconds": time.perf_counter() - began,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        # It is in bytes on macOS, in kibibytes elsewhere.
        "rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "code": os.waitstatus_to_exitcode(status),
    }
    with open(report, "w") as stream:  # noqa: PTH123 - pathlib is more than all the rest of this.
        json.dump(told, stream)


if __name__ == "__main__":
    main()
