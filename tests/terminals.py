"""A terminal with somebody in front of it: a process on a pseudo-terminal, and the screen as an emulator draws it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

from .clocked import FRAME_END

PATIENCE_SECONDS = 60.0
VARYING = (
    (r"127\.0\.0\.1:\d+", "127.0.0.1:9000"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "2026-11-22 19:00"),
    (r"[\d.]+ [KMG]?B/s on average", "1.2 MB/s on average"),
    (r"(?<= in )[\dhms ]+$", "42s"),
    (r"for [\dhms ]*\ds, ", "for 5s, "),
    (r"-?[\dhms ]*\ds of (?=\d+m)", "5s of "),
    (r"process \d+ on \S+?(?=[,)])", "process 4242 on workstation"),
)
"""What is another on each run, and what stands for it."""


def scrubbed(text: str, varying: tuple[tuple[str, str], ...] = VARYING) -> str:
    """Return a screen without what is another on each run."""
    for pattern, constant in varying:
        text = re.sub(pattern, constant, text, flags=re.MULTILINE)
    return text


class Terminal:
    """A process whose every stream is a terminal.

    Args:
        command: What is run.
        columns: The width of the terminal.
        lines: Its height.
        folder: Where it is run.
        environment: Variables beyond the test's own.
        ignored: A signal that is ignored, as `nohup` has SIGHUP ignored.
    """

    def __init__(
        self,
        *command: object,
        columns: int,
        lines: int,
        folder: Path,
        environment: dict[str, str] | None = None,
        ignored: str = "",
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._changed = threading.Condition()
        self.written = b""
        self._ours, self._theirs = pty.openpty()
        self._set_size(columns, lines)
        settings = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        settings |= {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parent.parent)} | (environment or {})
        # Whoever leads a session and opens a terminal gets it as their own: else no signal would come of what happens to it.
        device = os.ttyname(self._theirs)
        ignore = f"trap '' {ignored}; " if ignored else ""
        self.process = subprocess.Popen(
            ["sh", "-c", f'{ignore}exec "$@" < {device} > {device} 2>&1', "sh", *map(str, command)],
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=settings,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def text(self) -> str:
        """Return what is on the screen, without blanks at the ends of lines and lines at its end."""
        with self._changed:
            rows = [row.rstrip() for row in self.screen.display]
        return "\n".join(rows).rstrip() + "\n"

    def wait_for(self, is_there: Callable[[str], object]) -> str:
        """Wait until the screen is as it should be, and return it.

        Raises:
            AssertionError: It did not become so.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_whole() and is_there(self.text()), PATIENCE_SECONDS):
                raise AssertionError(self.text())
            return self.text()

    def _is_whole(self) -> bool:
        """Say whether nothing is half drawn; what hides the cursor draws pictures. Those of `clocked` have an end."""
        return not self.screen.cursor.hidden or self.written.endswith(FRAME_END.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size, as a person does who drags its corner."""
        with self._changed:
            self.screen.resize(lines, columns)
            self._set_size(columns, lines)

    def hang_up(self) -> None:
        """Go away, which takes effect with the next thing that the process writes: until then it is being read."""
        ours, self._ours = self._ours, -1
        os.close(ours)
        self._reader.join(PATIENCE_SECONDS)

    def end(self) -> int:
        """Wait until the process has ended and all is on the screen, and return its exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._close_theirs()
        self._reader.join(PATIENCE_SECONDS)
        return code

    def _close_theirs(self) -> None:
        """Close our hold on the other side, which was kept until the process had its own: then there is an end to read."""
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        while self._ours >= 0:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # How Linux says that the other side of a terminal was closed.
                return
            with self._changed:
                self.written += data
                self._stream.feed(data)
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close_theirs()
        self._reader.join(PATIENCE_SECONDS)
        if self._ours >= 0:
            os.close(self._ours)


def clocked(clock: Path, *arguments: object) -> tuple[object, ...]:
    """Return the command line of nccid-fetch whose display goes by a clock in a file."""
    return (sys.executable, "-m", "tests.clocked", clock, *arguments)
