"""Programs that give credentials (`credential_process`): without a terminal, bounded in output, ended with all that they started."""

import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

OUTPUT_BYTES_MAX = 64 << 10
"""An answer is below four KiB, with the longest of session tokens."""
_LOOK_SECONDS = 0.05


class ProgramError(Exception):
    """A program gave no answer.

    Args:
        message: What it did. Nothing of what it wrote: that may be a secret.
    """


class Programs:
    """Starts programs, and ends those that are still at work when their time is over."""

    def __init__(self) -> None:
        self._started: set[subprocess.Popen[bytes]] = set()
        self._is_over = False

    def start(self, command: Sequence[str], **_: Any) -> "Program":  # noqa: ANN401 - botocore's options are not wanted.
        """Start a program, in place of `subprocess.Popen`.

        It has a session of its own and an empty stdin, so that it finds no terminal to ask a question on. Its complaints
        are dropped: they may quote secrets.

        Raises:
            OSError: It cannot be started.
            ProgramError: The time for it is over.
        """
        if self._is_over:
            raise ProgramError("was not started in time")
        process = subprocess.Popen(  # noqa: S603 - the user's own command, from the user's own configuration.
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.add(process)
        if self._is_over:  # Meanwhile: `end` did not see it.
            _kill(process)
        return Program(process)

    def end(self) -> None:
        """End every program that is still at work, with those that it started; no other can be started. Waits for nothing."""
        self._is_over = True
        for process in tuple(self._started):
            _kill(process)


class Program:
    """A program that was started, as botocore looks at it.

    Args:
        process: Its process.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """What it ended with."""
        return self._process.returncode

    def communicate(self) -> tuple[bytes, bytes]:
        """Return what it wrote, when it has ended. What it started and left behind may keep its stdout open.

        Raises:
            ProgramError: It ended with an error, or wrote too much.
        """
        written = self._read()
        if len(written) > OUTPUT_BYTES_MAX:
            _kill(self._process)
            self._process.wait()
            raise ProgramError(f"wrote more than {OUTPUT_BYTES_MAX >> 10} KiB")
        code = self._process.wait()
        if code:
            raise ProgramError(f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}")
        return bytes(written), b""

    def _read(self) -> bytearray:
        pipe = self._process.stdout
        assert pipe is not None
        written = bytearray()
        with pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while len(written) <= OUTPUT_BYTES_MAX:
                has_ended = self._process.poll() is not None  # Asked first: by then all of its output is in the pipe.
                if selector.select(0 if has_ended else _LOOK_SECONDS):
                    piece = os.read(pipe.fileno(), OUTPUT_BYTES_MAX)
                    if not piece:
                        break
                    written += piece
                elif has_ended:
                    break
        return written


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that has not ended, with all of its process group."""
    if process.poll() is None:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
