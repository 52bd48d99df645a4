"""What a disk may look like after the power went: what was flushed is there, and of the rest whatever happens to be.

A recording notes what a run does to the disk, and to its journal, in order. From it, the disk as it may be after a loss of
power at any moment is made anew: what a flush had made durable by then is kept; each other step is kept, or dropped, and
of a file's data zeros may be left, or a piece. Steps on names and steps on data are reordered freely against each other.
SQLite is taken at its word: what it has committed is durable, if it was told to see to that.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

STATE_FOLDER = ".nccid-fetch"
JOURNAL = "journal.sqlite"


class Fate(StrEnum):
    """What becomes of a step that nothing has made durable."""

    KEPT = "kept"
    DROPPED = "dropped"
    ZEROED = "zeroed"
    """Of a file's data: as many zeros."""
    CUT = "cut"
    """Of a file's data: the first half."""


@dataclass(slots=True)
class Node:
    """A file or a folder.

    Attributes:
        mode: Its type and permissions.
        content: A file's bytes.
        modified_ns: A file's mtime.
        entries: A folder's names.
    """

    mode: int
    content: bytes = b""
    modified_ns: int = 0
    entries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done to a node: it is durable when the node is flushed.

    Attributes:
        kind: `data`, `time`, `mode` of a file; `enter`, `leave`, `move` of a folder; `flush`; `commit` of the journal.
        node: The file or folder; None for everything there is.
        value: What it has now: bytes, a time, a mode; or the name, and the node that has it.
        origin: Of a move, the folder and the name that it was moved from: it happens as a whole, or not at all.
        is_durable: Whether it was so from the first, as most commits are.
    """

    kind: str
    node: int | None
    value: Any = None
    origin: tuple[int, str] | None = None
    is_durable: bool = False


Chooser = Callable[[Step], Fate]


def all_kept(step: Step) -> Fate:
    """Lose nothing: as after a crash of the process alone."""
    return Fate.KEPT


def all_dropped(step: Step) -> Fate:
    """Lose all that was not flushed."""
    return Fate.DROPPED


def names_without_data(step: Step) -> Fate:
    """Keep names and times, and of the data nothing: the empty files of ext4."""
    return Fate.DROPPED if step.kind == "data" else Fate.KEPT


def names_with_zeros(step: Step) -> Fate:
    """Keep names and times, and of the data its length: the zeros of XFS."""
    return Fate.ZEROED if step.kind == "data" else Fate.KEPT


def data_without_names(step: Step) -> Fate:
    """Keep data, and no name."""
    return Fate.DROPPED if step.kind in {"enter", "leave", "move"} else Fate.KEPT


def by_chance(seed: int | str) -> Chooser:
    """Let chance decide about each step by itself."""
    chance = random.Random(seed)

    def choose(step: Step) -> Fate:
        fates = list(Fate) if step.kind == "data" else [Fate.KEPT, Fate.DROPPED]
        return chance.choice(fates)

    return choose


class Recording:
    """What is done to a destination from now on, until the machine is switched off.

    Attributes:
        steps: All that was done.

    Args:
        dest: The destination. What is there now is durable.
    """

    def __init__(self, dest: Path) -> None:
        self.steps: list[Step] = []
        self._dest = dest
        self._nodes: dict[int, Node] = {}
        self._by_inode: dict[int, int] = {}
        self._by_descriptor: dict[int, int] = {}
        self._root = self._read(dest)
        self._now = {number: dict(node.entries) for number, node in self._nodes.items()}
        state = dest / STATE_FOLDER
        self._journal = {path.name: path.read_bytes() for path in state.glob(f"{JOURNAL}*")}

    def _read(self, path: Path) -> int:
        found = path.lstat()
        number = self._new(Node(found.st_mode, modified_ns=found.st_mtime_ns), found.st_ino)
        node = self._nodes[number]
        if stat.S_ISDIR(found.st_mode):
            node.entries = {entry.name: self._read(entry) for entry in sorted(path.iterdir())}
        else:
            node.content = path.read_bytes()
        return number

    def _new(self, node: Node, inode: int) -> int:
        number = len(self._nodes)
        self._nodes[number] = node
        self._by_inode[inode] = number
        return number

    def _of(self, descriptor: int) -> int:
        return self._by_inode[os.fstat(descriptor).st_ino]

    # --- What a faulty disk tells -------------------------------------------------------------------

    def saw(  # noqa: C901 - a case for each call.
        self, name: str, arguments: tuple[Any, ...], options: dict[str, Any], result: Any
    ) -> None:
        """Take note of a call that succeeded."""
        match name, arguments:
            case "open", (path, flags, *_) if flags & os.O_CREAT:
                found = os.fstat(result)
                parent = self._of(options["dir_fd"]) if "dir_fd" in options else self._state()
                self._enter(parent, Path(path).name, self._new(Node(found.st_mode), found.st_ino))
            case "mkdir", (path, *_):
                found = os.stat(path, dir_fd=options["dir_fd"], follow_symlinks=False)
                number = self._new(Node(found.st_mode), found.st_ino)
                self._now[number] = {}
                self._enter(self._of(options["dir_fd"]), path, number)
            case (("write" | "pwrite" | "ftruncate"), (descriptor, *_)):
                size = os.fstat(descriptor).st_size
                self.steps.append(Step("data", self._of(descriptor), os.pread(descriptor, size, 0)))
            case "utime", (int(descriptor),):
                self.steps.append(Step("time", self._of(descriptor), options["ns"][1]))
            case "utime", (str(path),):
                number = self._now[self._of(options["dir_fd"])][path]
                self.steps.append(Step("time", number, options["ns"][1]))
            case "fchmod", (descriptor, mode):
                self.steps.append(Step("mode", self._of(descriptor), mode))
            case "rename", (source, target):
                old, new = self._of(options["src_dir_fd"]), self._of(options["dst_dir_fd"])
                number = self._now[new][target] = self._now[old].pop(source)
                self.steps.append(Step("move", new, (target, number), (old, source)))
            case "unlink", (path,):
                parent = self._of(options["dir_fd"])
                self.steps.append(Step("leave", parent, (path, self._now[parent].pop(path))))
            case "fsync", (descriptor,):
                self.steps.append(Step("flush", self._of(descriptor)))
            case "syncfs", _:
                self.steps.append(Step("flush", None))
            case _:
                pass

    def saw_commit(self, files: dict[str, bytes], *, durable: bool) -> None:
        """Take note of what the journal's files are after a commit."""
        self.steps.append(Step("commit", None, files, is_durable=durable))

    def _enter(self, parent: int, name: str, number: int) -> None:
        self._now[parent][name] = number
        self.steps.append(Step("enter", parent, (name, number)))

    def _state(self) -> int:
        return self._now[self._root][STATE_FOLDER]

    # --- What the power leaves ----------------------------------------------------------------------

    def moments(self) -> range:
        """Return how many steps may have been taken when the power goes."""
        return range(len(self.steps) + 1)

    def lose(self, moment: int, choose: Chooser, dest: Path) -> None:
        """Make the disk that is there after a loss of power.

        Args:
            moment: How many steps were taken before.
            choose: Says what becomes of each step that nothing made durable.
            dest: Where to make it; what is there now goes.
        """
        nodes = {
            number: Node(node.mode, node.content, node.modified_ns, dict(node.entries))
            for number, node in self._nodes.items()
        }
        journal = self._journal
        for step, is_durable in zip(self.steps[:moment], self._durable(moment), strict=True):
            fate = Fate.KEPT if is_durable else choose(step)
            if step.kind == "flush" or fate is Fate.DROPPED:
                continue
            if step.kind == "commit":
                journal = step.value
            else:
                _apply(step, nodes, fate)
        shutil.rmtree(dest, ignore_errors=True)
        _write(nodes, self._root, dest)
        state = dest / STATE_FOLDER
        if state.is_dir():
            for path in state.glob(f"{JOURNAL}*"):
                path.unlink()
            for name, content in journal.items():
                (state / name).write_bytes(content)
                (state / name).chmod(0o600)

    def _durable(self, moment: int) -> list[bool]:
        flushed: set[int | None] = set()
        durable = []
        for step in reversed(self.steps[:moment]):
            if step.kind == "flush":
                flushed.add(step.node)
            touched = {None, step.node, step.origin[0] if step.origin else step.node}
            durable.append(step.is_durable or (step.kind != "commit" and not flushed.isdisjoint(touched)))
        return durable[::-1]


def _apply(step: Step, nodes: dict[int, Node], fate: Fate) -> None:
    assert step.node is not None
    node = nodes[step.node]
    match step.kind, step.value:
        case "data", content:
            node.content = {Fate.ZEROED: bytes(len(content)), Fate.CUT: content[: len(content) // 2]}.get(fate, content)
        case "time", modified_ns:
            node.modified_ns = modified_ns
        case "mode", mode:
            node.mode = stat.S_IFMT(node.mode) | mode
        case "leave", (name, number):
            _take(node, name, number)
        case _, (name, number):
            node.entries[name] = number
            if step.origin is not None:
                _take(nodes[step.origin[0]], step.origin[1], number)


def _take(folder: Node, name: str, number: int) -> None:
    """Take a name away, unless it is another file's by now, or was never given."""
    if folder.entries.get(name) == number:
        del folder.entries[name]


def _write(nodes: dict[int, Node], number: int, path: Path) -> None:
    node = nodes[number]
    if stat.S_ISDIR(node.mode):
        path.mkdir(parents=True)
        path.chmod(stat.S_IMODE(node.mode))
        for name, child in node.entries.items():
            _write(nodes, child, path / name)
    else:
        path.write_bytes(node.content)
        path.chmod(stat.S_IMODE(node.mode))
        os.utime(path, ns=(node.modified_ns, node.modified_ns))
