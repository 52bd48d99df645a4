"""Runs one command to its end and says what it took: wall time, CPU and memory of that very process and its children."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
_OUT_MAX, _ERR_MAX = 1 << 20, 2000


@dataclass(frozen=True, slots=True)
class Used:
    """What a command took.

    Attributes:
        wall_seconds: From its start to its end.
        user_seconds: CPU time of its own.
        system_seconds: CPU time of the kernel for it.
        rss_bytes: The most memory that it, or one of its children, held at a time.
        code: How it ended; negative for a signal.
        out: What it wrote to stdout.
        err: The end of what it wrote to stderr.
    """

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    rss_bytes: int
    code: int
    out: str
    err: str

    @property
    def cpu_seconds(self) -> float:
        """All CPU time."""
        return self.user_seconds + self.system_seconds


def run(
    command: list[str], environment: dict[str, str], folder: Path, cores: set[int] | None, seconds_max: float
) -> Used:
    """Run a command and wait for its end; kill it and its children when it takes too long.

    Args:
        command: What to run.
        environment: All of its environment.
        folder: Where what it prints is kept meanwhile.
        cores: Where it runs; None for anywhere.
        seconds_max: When to kill it.
    """
    out, err, report = (folder / name for name in ("stdout", "stderr", "report"))
    where = ",".join(map(str, sorted(cores or ())))
    with out.open("wb") as out_stream, err.open("wb") as err_stream:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(report), where, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out_stream,
            stderr=err_stream,
            start_new_session=True,
        )
        try:
            launcher.wait(seconds_max)
        except subprocess.TimeoutExpired:
            return Used(seconds_max, 0.0, 0.0, 0, -signal.SIGKILL, "", f"it took more than {seconds_max:g} s")
        finally:
            if launcher.returncode is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()
    if launcher.returncode:
        return Used(0.0, 0.0, 0.0, 0, launcher.returncode, "", _tail(err, _ERR_MAX))
    return Used(**json.loads(report.read_text()), out=_tail(out, _OUT_MAX), err=_tail(err, _ERR_MAX))


def _tail(path: Path, most: int) -> str:
    return path.read_bytes()[-most:].decode(errors="replace")
