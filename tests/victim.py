"""The command line as the kill and soak harnesses run it: in small batches and, where told to, dying in the middle of one.

    python -m tests.victim BATCH DEATH ARGUMENT...

DEATH is `-`, or `STEP:COUNT:before` or `STEP:COUNT:after`: the process kills itself with SIGKILL before or after that call of the
step, so that moments are hit that last microseconds.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

import nccid_fetch.commit
from nccid_fetch.destination import Destination
from nccid_fetch.journal import Journal

STEPS: dict[str, tuple[Any, str]] = {
    "publish": (Destination, "publish"),
    "rename": (os, "rename"),
    "record": (Journal, "commit"),
}
"""The steps of a commit, and where each is found."""


def dying(call: Callable[..., Any], count: int, *, after: bool) -> Callable[..., Any]:
    """Return a call that ends the process at its `count`-th time."""
    left = count

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def main() -> None:
    """Run the command line to its end, or to the death that was chosen for it."""
    _, batch, death, *arguments = sys.argv
    nccid_fetch.commit.BATCH_OBJECTS = int(batch)
    if death != "-":
        step, count, moment = death.split(":")
        owner, name = STEPS[step]
        setattr(owner, name, dying(getattr(owner, name), int(count), after=moment == "after"))
    sys.argv = ["nccid-fetch", *arguments]
    runpy.run_module("nccid_fetch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
