"""The command line as the kill and soak harnesses run it: in small batches and, where told to, dying or hanging in the midst.

    python -m tests.victim BATCH FATE ARGUMENT...

FATE is `-`, or `STEP:COUNT:before` or `STEP:COUNT:after`: the process kills itself with SIGKILL before or after that call of the
step, so that moments are hit that last microseconds. With `STEP:COUNT:FIFO` that call reads from a pipe instead, and goes
on when its other end is closed: whoever opens that knows that the step is reached. Who hangs is given less time to end.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nccid_fetch.cli.options
import nccid_fetch.cli.runner
import nccid_fetch.commit
import nccid_fetch.transfer
from nccid_fetch.destination import Destination
from nccid_fetch.journal import Journal
from nccid_fetch.tree import Tree

STEPS: dict[str, tuple[Any, str]] = {
    "publish": (Destination, "publish"),
    "rename": (os, "rename"),
    "record": (Journal, "commit"),
}
"""The steps of a commit, and where each is found."""
PLACES = STEPS | {
    "options": (nccid_fetch.cli.options, "settings_of"),
    "open": (Journal, "_belong"),
    "look": (Tree, "look"),
    "hash": (nccid_fetch.transfer, "md5_of"),
    "close": (Journal, "close"),
}
"""Other steps worth hanging in: in the main thread, in the event loop's, and in those of the disk."""
GRACE_SECONDS = 0.5


def fated(call: Callable[..., Any], count: int, fate: str) -> Callable[..., Any]:
    """Return a call that meets its fate at its `count`-th time."""
    left = count

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and fate == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if left == 0 and fate != "after":
            Path(fate).read_bytes()
        result = call(*arguments, **options)
        if left == 0 and fate == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def main() -> None:
    """Run the command line to its end, or to the one that was chosen for it."""
    _, batch, fate, *arguments = sys.argv
    nccid_fetch.commit.BATCH_OBJECTS = int(batch)
    if fate != "-":
        step, count, what = fate.split(":")
        owner, name = PLACES[step]
        if what not in {"before", "after"}:
            nccid_fetch.cli.runner.GRACE_SECONDS = GRACE_SECONDS
        setattr(owner, name, fated(getattr(owner, name), int(count), what))
    sys.argv = ["nccid-fetch", *arguments]
    runpy.run_module("nccid_fetch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
