"""What is on the screen: a real process on a pseudo-terminal, drawn by an emulator, and kept as `snapshots/screens/*.txt`.

The server holds two answers back, so that the moment is always the same one. What is another on each run is replaced.
"""

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import snapshots
from .servers.scripted import Hold, ScriptedS3
from .terminals import Terminal, clocked, scrubbed

PARTS = {
    "data": (40, 900),
    "xray-metadata": (12, 2_000),
    "xray": (12, 90_000),
    "ct-metadata": (30, 2_500),
    "ct": (30, 52_000),
}
HELD = ("training/ct/Covid0003/1/2/3.dcm", "training/ct/Covid0007/1/2/7.dcm")
SETTLED = sum(count for count, _ in PARTS.values()) - len(HELD)


@dataclass
class Scene:
    """A warehouse that holds two answers back, and a clock for the display.

    Attributes:
        s3: The server.
        folder: Where nccid-fetch is run.
    """

    s3: ScriptedS3
    folder: Path
    let_go: threading.Event

    def at(self, seconds: float) -> None:
        """Let so many seconds have passed for the display."""
        new = self.folder / "clock.new"
        new.write_text(str(seconds))
        new.replace(self.folder / "clock")

    @contextmanager
    def shown(self, columns: int, lines: int, ignored: str = "", **environment: str) -> Iterator[Terminal]:
        """Run nccid-fetch on a terminal until nothing is left but what is held back."""
        self.at(0)
        command = clocked(self.folder / "clock", "all", "--concurrency", 8)
        with Terminal(
            *command, columns=columns, lines=lines, folder=self.folder, environment=environment, ignored=ignored
        ) as terminal:
            try:
                yield terminal
            finally:
                self.let_go.set()


@contextmanager
def warehouse(folder: Path) -> Iterator[Scene]:
    """A warehouse of a few parts, two of which are denied, that holds two answers back."""
    let_go = threading.Event()
    with ScriptedS3() as s3:
        for part, (count, size) in PARTS.items():
            name = "{0}.json" if part == "data" else "1/2/{0}.json" if "metadata" in part else "1/2/{0}.dcm"
            for number in range(count):
                body = f"{part} {number} ".encode().ljust(size, b".")
                s3.put(f"training/{part}/Covid{number:04}/{name.format(number)}", body)
        s3.allow_list = lambda prefix, _: "mri" not in prefix and prefix != "training/"
        for key in HELD:
            s3.script("get", Hold(let_go), key=key)
        yield Scene(s3, folder, let_go)
        let_go.set()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with warehouse(tmp_path) as scene:
        monkeypatch.setenv("AWS_ENDPOINT_URL", scene.s3.endpoint_url)
        yield scene


def is_in_the_middle(screen: str) -> bool:
    return f"{SETTLED} of {SETTLED + len(HELD)}" in " ".join(screen.split())


def later(scene: Scene, terminal: Terminal, seconds: int) -> str:
    """The screen after so many seconds."""
    terminal.wait_for(is_in_the_middle)
    scene.at(seconds)
    return terminal.wait_for(lambda screen: f"{seconds}s so far" in " ".join(screen.split()))


def test_in_the_middle_of_a_run_after_each_resize_and_when_nothing_comes_any_more(scene: Scene) -> None:
    with scene.shown(80, 24) as terminal:
        screen = later(scene, terminal, 4)
        snapshots.check("screens/middle-80x24", scrubbed(screen))
        assert b"\x1b[32m" in terminal.written, "the bars have colours"

        terminal.resize(40, 12)
        screen = terminal.wait_for(
            lambda screen: screen.count("part ") == 1 and "bytes" not in screen and "xray" in screen
        )
        snapshots.check("screens/middle-40x12", scrubbed(screen))
        assert b"\r\n" * 12 in terminal.written, "what the terminal made of longer lines is out of sight"

        terminal.resize(20, 5)
        screen = terminal.wait_for(lambda screen: screen.count("objects") == 1 and "part " not in screen)
        snapshots.check("screens/middle-20x5", scrubbed(screen))

        terminal.resize(200, 50)
        screen = terminal.wait_for(lambda screen: "rate" in screen and "xray" in screen)
        snapshots.check("screens/middle-200x50", scrubbed(screen).lstrip("\n"))

        terminal.resize(80, 24)
        scene.at(21)
        screen = terminal.wait_for(lambda screen: "nothing received" in screen and "xray" in screen)
        snapshots.check("screens/silent-80x24", scrubbed(screen))


def test_without_colours_nothing_else_is_missing_and_at_the_end_there_is_the_summary_alone(scene: Scene) -> None:
    with scene.shown(80, 40, NO_COLOR="1") as terminal:
        screen = later(scene, terminal, 4)
        snapshots.check("screens/middle-80x24", scrubbed(screen))
        assert {cell.fg for row in terminal.screen.buffer.values() for cell in row.values()} == {"default"}
        assert terminal.screen.cursor.hidden

        scene.let_go.set()
        assert terminal.end() == 0
        snapshots.check("screens/end-80x40", scrubbed(terminal.text()))
        assert not terminal.screen.cursor.hidden


def test_a_terminal_that_can_do_nothing_gets_plain_lines(scene: Scene) -> None:
    with scene.shown(80, 24, TERM="dumb") as terminal:
        terminal.wait_for(is_in_the_middle)
        assert b"\x1b" not in terminal.written
        scene.at(7)
        screen = terminal.wait_for(lambda screen: "nothing received" in screen)
    lines = scrubbed(screen).splitlines()
    begins = max(number for number, line in enumerate(lines) if line.startswith("2026-11-22 19:00"))
    snapshots.check("screens/dumb-80x24", "\n".join(lines[begins:]) + "\n")


def test_a_run_that_is_held_says_by_what(scene: Scene) -> None:
    with scene.shown(80, 24) as terminal:
        later(scene, terminal, 4)
        scene.s3.leave()
        screen = terminal.wait_for(lambda screen: "waiting for the endpoint" in screen)
    snapshots.check("screens/held-80x24", scrubbed(screen))


def test_from_another_terminal_it_is_seen_how_far_a_run_is_whatever_size_that_one_has(scene: Scene) -> None:
    with scene.shown(80, 24) as terminal:
        later(scene, terminal, 4)
        command = clocked(scene.folder / "clock", "status", "--watch", "--dest", "nccid-data")
        with Terminal(*command, columns=130, lines=24, folder=scene.folder) as other:
            screen = other.wait_for(lambda screen: "4s so far" in screen and "xray" in screen)
            snapshots.check("screens/watch-130x24", scrubbed(screen))

            # Over how many lines the first sentence goes now depends on the machine's name; all others have their place.
            other.resize(40, 12)
            screen = other.wait_for(lambda screen: "bytes" not in screen and "so far" in screen)
            rows = screen.splitlines()
            assert len(rows) == 11
            assert rows[0].startswith("A run goes on: all, process")
            assert re.fullmatch(r"and \d more", rows[-1])
            assert screen.count("so far") == 1, "nothing is left of what was there before"

            scene.let_go.set()
            assert other.end() == 0
            assert terminal.end() == 0
            assert not other.screen.cursor.hidden
            assert "so far" not in other.text(), "there is the page alone"


def test_a_terminal_that_goes_away_ends_the_run_as_its_signal_does(scene: Scene) -> None:
    with scene.shown(80, 24) as terminal:
        later(scene, terminal, 4)
        terminal.hang_up()
        assert terminal.process.wait(60) == 129


def test_where_that_signal_is_ignored_the_run_goes_on_without_a_terminal(scene: Scene) -> None:
    with scene.shown(80, 24, ignored="HUP") as terminal:
        later(scene, terminal, 4)
        terminal.hang_up()
        scene.let_go.set()
        assert terminal.process.wait(60) == 0
    arrived = list((scene.folder / "nccid-data" / "ct").rglob("*.dcm"))
    assert len(arrived) == PARTS["ct"][0]


def test_a_process_that_ends_at_once_shows_the_cursor_again(tmp_path: Path) -> None:
    code = (
        "from nccid_fetch.cli import display, signals\n"
        "from nccid_fetch.progress import Meter\n"
        "from nccid_fetch.summary import Tally\n"
        "import asyncio, time\n"
        "async def main():\n"
        "    async with display.shown(Tally(), quiet=False):\n"
        "        print('shown', flush=True)\n"
        f"        signals.end_at_once({int(signal.SIGINT)})\n"
        "asyncio.run(main())\n"
    )
    with Terminal(sys.executable, "-c", code, columns=80, lines=24, folder=tmp_path) as terminal:
        assert terminal.end() == 130
        assert b"\x1b[?25l" in terminal.written
        assert not terminal.screen.cursor.hidden


def test_every_screen_that_is_kept_is_one_that_a_test_shows() -> None:
    shown = set(re.findall(r"screens/[a-z]+-\d+x\d+", Path(__file__).read_text()))
    assert snapshots.names("screens") == shown
