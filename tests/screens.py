"""Real screens from tmux: `python -m tests.screens` runs nccid-fetch in it and writes what it shows to `docs/screens/`.

An emulator says what our own idea of a terminal is; tmux is one that people use. The server holds two answers back, so that
there is time to look, and what is another on each run is replaced.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from .terminals import VARYING, scrubbed
from .test_screens import Scene, is_in_the_middle, warehouse

FOLDER = Path(__file__).parent.parent / "docs" / "screens"
PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parent.parent
SHELL = ("env", "PS1=$ ", "sh")
CLEAR = r"printf '\033[H\033[2J'"
"""`clear` clears no dumb terminal, and tmux is none, whatever TERM says."""
MACHINE = (
    (r"within [\d,]+ ms", "within 12 ms"),
    (r"[\d.,]+ [KMGTP]B are free", "500 GB are free"),
    (r"[\d.,]+ [KMGTP]B where", "500 GB where"),
    (r"\d{4}-\d\d-\d\d(?! \d)", "2026-11-22"),
    (r"after [\dhms ]+(?=:)", "after 5s"),
    (r"[\d,]+ files may be open", "20,000 files may be open"),
)
"""What is another on each machine, and what stands for it."""


class Tmux:
    """A tmux server of our own with one window, and nothing of the user's settings.

    Args:
        folder: Where its socket is.
        columns: The width of its window.
        lines: Its height.
    """

    def __init__(self, folder: Path, columns: int, lines: int) -> None:
        self._socket = folder / "tmux"
        self._call("new-session", "-d", "-s", "screens", "-x", columns, "-y", lines, *SHELL)
        self._call("set-option", "-g", "status", "off")
        self._call("resize-window", "-t", "screens", "-x", columns, "-y", lines)

    def begin(self, line: str) -> None:
        """Type a line that prepares all others and clears the screen."""
        self._line = line
        self.type(line)
        self.wait_for(lambda screen: screen == "$\n")

    def split(self) -> None:
        """Divide the window and prepare its lower half, where one goes on."""
        self._call("split-window", "-t", "screens", *SHELL)
        self.begin(self._line)

    def close(self) -> None:
        """Close that half and go back to the upper one."""
        self._call("kill-pane", "-t", "screens")

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        self._call("send-keys", "-t", "screens", "C-c")

    def type(self, line: str) -> None:
        """Type a line."""
        self._call("send-keys", "-t", "screens", "-l", line)
        self._call("send-keys", "-t", "screens", "Enter")

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size."""
        self._call("resize-window", "-t", "screens", "-x", columns, "-y", lines)

    def screen(self) -> str:
        """Return what is shown."""
        rows = self._call("capture-pane", "-p", "-t", "screens").splitlines()
        return "\n".join(row.rstrip() for row in rows).rstrip() + "\n"

    def wait_for(self, is_there: Callable[[str], object]) -> str:
        """Wait until the screen is as it should be, twice in a row: once it may be seen half drawn.

        Raises:
            TimeoutError: It did not become so.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        seen = ""
        while time.monotonic() < until:
            screen = scrubbed(self.screen(), VARYING + MACHINE)
            if is_there(screen) and screen == seen:
                return screen
            seen = screen
            time.sleep(0.1)
        raise TimeoutError(seen)

    def _call(self, *arguments: object) -> str:
        command = ["tmux", "-f", os.devnull, "-S", str(self._socket), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("kill-server")


@contextmanager
def shell(columns: int, lines: int, **environment: str) -> Iterator[tuple[Scene, Tmux]]:
    """Sit at a prompt in tmux, before a warehouse that holds two answers back."""
    with (
        tempfile.TemporaryDirectory() as name,
        warehouse(Path(name)) as scene,
        Tmux(Path(name), columns, lines) as tmux,
    ):
        settings = {
            "AWS_ENDPOINT_URL": scene.s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "PYTHONPATH": str(ROOT),
        } | environment
        scene.at(0)
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
        command = f"{shlex.quote(sys.executable)} -m tests.clocked clock"
        tmux.begin(f"cd {shlex.quote(name)}; export {exports}; alias nccid-fetch={shlex.quote(command)}; {CLEAR}")
        yield scene, tmux


@contextmanager
def running(columns: int, lines: int, **environment: str) -> Iterator[tuple[Scene, Tmux]]:
    """Run nccid-fetch in tmux until nothing is left but what is held back."""
    with shell(columns, lines, **environment) as (scene, tmux):
        tmux.type("nccid-fetch all --concurrency 8")
        try:
            tmux.wait_for(is_in_the_middle)
            scene.at(4)
            yield scene, tmux
        finally:
            scene.let_go.set()
            tmux.wait_for(is_at_the_prompt)


def is_at_the_prompt(screen: str) -> bool:
    """Say whether a command is over."""
    return screen.endswith("\n$\n")


def screens() -> Iterator[tuple[str, str]]:
    """Yield each screen with its name."""

    def is_later(screen: str) -> bool:
        return "4s so far" in " ".join(screen.split()) and "xray" in screen

    with running(80, 24) as (scene, tmux):
        yield "middle-80x24", tmux.wait_for(is_later)
        scene.at(21)
        yield "silent-80x24", tmux.wait_for(lambda screen: "nothing received" in screen and "xray" in screen)
        scene.s3.leave()
        yield "held-80x24", tmux.wait_for(lambda screen: "waiting for the endpoint" in screen and "xray" in screen)
        scene.s3.come_back()
    with running(200, 50) as (_, tmux):
        yield "middle-200x50", tmux.wait_for(is_later)
        tmux.resize(40, 12)
        yield "narrower-40x12", tmux.wait_for(lambda screen: is_later(screen) and "bytes" not in screen)
    with running(80, 40) as (scene, tmux):
        scene.let_go.set()
        yield "end-80x40", tmux.wait_for(lambda screen: "Complete" in screen and screen.endswith("$\n"))
    with running(80, 24, TERM="dumb") as (scene, tmux):
        scene.at(7)
        yield "dumb-80x24", tmux.wait_for(lambda screen: "nothing received" in screen)
    with shell(80, 50) as (scene, tmux):
        tmux.type("nccid-fetch doctor")
        yield "doctor-80x50", tmux.wait_for(is_at_the_prompt)
    with shell(80, 30) as (scene, tmux):
        tmux.type("nccid-fetch plan")
        yield "plan-80x30", tmux.wait_for(is_at_the_prompt)
    with running(80, 30) as (scene, tmux):
        tmux.split()
        tmux.type("nccid-fetch status --watch")
        yield "watch-80x15", tmux.wait_for(is_later)
        tmux.interrupt()
        tmux.wait_for(is_at_the_prompt)
        scene.let_go.set()
        tmux.close()
        tmux.wait_for(is_at_the_prompt)
        tmux.type(CLEAR)
        tmux.wait_for(lambda screen: screen == "$\n")
        tmux.type("nccid-fetch status")
        yield "status-80x30", tmux.wait_for(is_at_the_prompt)


def main() -> int:
    """Write all screens; return 1 where there is no tmux."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder that they are written to")
    folder = parser.parse_args().output
    if shutil.which("tmux") is None:
        print("there is no tmux here: install it, for instance by `apt install tmux`", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, screen in screens():
        (folder / f"{name}.txt").write_text(screen, encoding="utf-8")
        print(f"{folder / name}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
