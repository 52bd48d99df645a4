"""`--on-finish`: a command of the user's, run when a run is over, with its summary on stdin; for a mail, a chat."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile

from nccid_fetch.cli.output import note

FINISH_SECONDS = 60.0
"""How long it may take."""
_END_SECONDS = 1.0
_STDERR = 2


def run_on_finish(command: str, given: str, facts: Mapping[str, str], *, seconds: float, go_on: bool) -> None:
    """Run a command through the shell; what it writes goes to stderr. That it fails is a warning, and nothing else.

    For the main thread, when all others have ended or are left: what is started here is another program, not a fork that goes on.

    Args:
        command: For the shell.
        given: What it reads. All of it is there from the start, so it can be left to itself at any moment.
        facts: Variables that it gets, beside those that are there.
        seconds: How long to wait for its end.
        go_on: Leave it to itself then, instead of ending it.
    """
    # What it starts may be us, and is not to start it again.
    variables = {name: value for name, value in os.environ.items() if name != "NCCID_FETCH_ON_FINISH"}
    try:
        with TemporaryFile() as stdin:
            stdin.write(given.encode(errors="backslashreplace"))
            stdin.seek(0)
            process = subprocess.Popen(  # noqa: S602 - a shell is what was asked for.
                command,
                shell=True,
                stdin=stdin,
                stdout=_STDERR,
                stderr=_STDERR,
                env={**variables, **facts},
                start_new_session=True,  # All that it starts is ended with it.
            )
    except (OSError, ValueError) as error:
        note(f"warning: --on-finish could not be started: {error}")
        return
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        if go_on:
            note("note: --on-finish goes on by itself")
            process.returncode = 0  # Or Python would warn that nobody waits for it.
            return
        _end(process)
        note(f"warning: --on-finish was ended: it took longer than {seconds:g} seconds")
        return
    if code:
        told = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        note(f"warning: --on-finish {told}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End it and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
