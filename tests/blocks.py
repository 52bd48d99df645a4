"""The fenced blocks of the documents, and a sandbox to do in what they say.

What is done with a block depends on its first line:

    sh                  run by bash; it must end with 0
    console             the lines after `$ ` are run one by one; each must print what stands below it, and end with 0 unless
                        `$ echo $?` follows. `...` stands for what varies: within a line, or as a line for any number of lines
    text                what the `sh` block above it printed
    json                JSON, in one piece or a value on each line; what it says is for other tests
    python              executed, after those before it on the page; `await` may stand outside a function, as in a notebook
    toml, ini, bash, crontab
                        a file, put where the sentence above says: its last `code` is the name. TOML must be a configuration; of a
                        unit the command is run with the environment that systemd gives, and so is each line of a crontab with cron's
    {...}               a directive of Sphinx, which is checked by building the site

The sandbox has a home folder and a warehouse, and it is ten at night there; /data and /var/log stand for folders in it. What a machine may not have, or a test must not do, is
played by a stub: `_STUBS` says what each does and that is all they do.
"""

import ast
import asyncio
import configparser
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

from .forks import client
from .reference import COMMAND_LINE

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(set(ROOT.glob("docs/**/*.md")) - {COMMAND_LINE}),  # The examples of its help are parsed by other tests.
]
_FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
"""Also one in an item of a list, which is indented."""
FILES = {"toml", "ini", "bash", "crontab"}
_CRON = re.compile(r"(?:[\d*/,-]+\s+){4}[\w*/,-]+\s+(?P<command>.*)")
_RECORD = 'echo "${0##*/} $*" >>"$RECORD"\n'
_UNIT_EXISTS = (
    'for name; do case $name in *.service|*.timer) [ -e "$HOME/.config/systemd/user/$name" ] || exit 5;; esac; done\n'
)
_SQLITE = """
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):
    print("|".join(map(str, row)))
"""
_STUBS = {
    "apt-get": _RECORD,
    "aws": _RECORD + f'case $1 in sso|configure) ;; *) exec {Path(sys.executable).parent}/aws "$@";; esac\n',
    "caffeinate": _RECORD + 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"\n',
    "crontab": _RECORD,
    "curl": _RECORD + 'tee -a "$RECORD" | grep -q .\n',  # Something has to come.
    "journalctl": _RECORD,
    "jq": 'if [ -x /usr/bin/jq ]; then exec /usr/bin/jq "$@"; else cat >/dev/null; fi\n',
    "loginctl": _RECORD,
    "mail": _RECORD + 'tee -a "$RECORD" | grep -q .\n',
    # That its targets are there is all there is time for; but `make demo` prints what the demo does, with the server that is there.
    "make": _RECORD + f'/usr/bin/env -i PATH=/usr/bin:/bin make --dry-run -C {ROOT} "$@" >/dev/null || exit\n'
    '[ "$1" != demo ] || for _ in 1 2; do nccid-fetch all --dest "$STUBS/../demo"; done\n',
    "pip": _RECORD + '[ "$1" = install ] || [ "$1" = download ]\n',
    "python3": 'if [ "$2" = venv ]; then [ -x "$3/bin/nccid-fetch" ] && touch "$3/bin/activate"; '
    f'else exec {sys.executable} "$@"; fi\n',
    "sbatch": _RECORD + 'shift $(($# - 1)); SLURM_JOB_ID=1 bash "$1"\n',
    "scontrol": _RECORD,
    "sleep": _RECORD,
    "sqlite3": f"exec {sys.executable} -ISc '{_SQLITE}' \"$@\"\n",
    "squeue": _RECORD,
    "ssh": _RECORD + 'while [ "${1#-}" != "$1" ]; do shift; done; shift; exec sh -c "$*"\n',
    "systemctl": _RECORD + _UNIT_EXISTS,
    "tmux": _RECORD + 'case $1 in new*) shift $(($# - 1)); exec sh -c "$1";; esac\n',
}
_AWS_CONFIG = """\
[profile nccid]
region = eu-west-2
endpoint_url = {endpoint}
aws_access_key_id = demo
aws_secret_access_key = demo-secret
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, what it says it is, what is in it, and the paragraph above it."""

    page: Path
    line: int
    kind: str
    text: str
    above: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} ({self.kind or 'of no kind'})"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[2].strip(),
            dedent(found[3]),
            _paragraph(text[: found.start()]),
        )
        for found in _FENCE.finditer(text)
    ]


def _paragraph(text: str) -> str:
    return text.rstrip().rpartition("\n\n")[2]


def night(now: datetime) -> str:
    """Return the time zone in which it is between ten and eleven at night.

    >>> night(datetime(2026, 11, 22, 9, 30, tzinfo=UTC))
    'NIGHT+11'
    """
    return f"NIGHT{(now.hour - 22 + 11) % 24 - 11:+}"


def file_of(block: Block) -> str:
    """Return the name of the file that a block is: the last `code` of the paragraph above it."""
    names = re.findall(r"`([^`]+)`", block.above)
    assert names, f"{block}: the paragraph above does not say where it is put"
    return str(names[-1])


def calls(shell: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of nccid-fetch in lines of a shell.

    >>> list(calls("ls; nccid-fetch get data --dest 'a b' | head"))
    [['get', 'data', '--dest', 'a b']]
    """
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        arguments: list[str] | None = None
        try:
            words = list(lexer)
        except ValueError:  # A quote that another line closes.
            words = line.split()
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                if arguments is not None:
                    yield arguments
                arguments = None
            elif arguments is not None:
                arguments.append(word)
            elif word.rpartition("/")[2] == "nccid-fetch":
                arguments = []
            elif "nccid-fetch " in word:  # A command within a command: tmux new 'nccid-fetch all'.
                yield from calls(word)


@dataclass
class Sandbox:
    """Where a page's blocks are carried out.

    Attributes:
        folder: All that they may touch.
        endpoint: The URL of a server with the warehouse.
        socket: Where `tests.forks` listens.
    """

    folder: Path
    endpoint: str
    socket: Path
    _printed: str = ""
    _code: int = 0
    _names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home/.aws", "work", "data", "stubs", "var/log/nccid"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "home/.aws/config").write_text(_AWS_CONFIG.format(endpoint=self.endpoint))
        for name, script in _STUBS.items():
            self._program(name, f"#!/bin/bash\n{script}")
        self._program("nccid-fetch", self._client())
        (self.folder / "home/nccid").mkdir()
        (self.folder / "home/nccid/bin").symlink_to(self.folder / "stubs")  # Where install.md puts it.
        (self.folder / "state").write_text("")
        (self.folder / "cwd").write_text(f"{self.folder / 'work'}\n")

    @property
    def environment(self) -> dict[str, str]:
        """What a shell of the reader has after copying the lines of `demo --serve`."""
        exports = re.findall(r"export (\w+)=(\S+)", self._exports())
        return self._bare() | dict(exports) | {"STUBS": str(self.folder / "stubs")}

    @property
    def recorded(self) -> str:
        """How the stubs were called."""
        path = self.folder / "record"
        return path.read_text() if path.exists() else ""

    def do(self, block: Block) -> None:
        """Do what a block says, or compare it with what was done.

        Raises:
            AssertionError: It did not go as the document says.
        """
        match block.kind:
            case "sh":
                self.run(block.text)
                assert self._code == 0, f"{block}: ended with {self._code}\n{self._printed}"
            case "console":
                self._console(block)
            case "text":
                _compare(block, block.text, self._printed)
            case "python":
                self._python(block)
            case "json":
                _parse(block.text)
            case kind if kind in FILES:
                self._file(block)
            case kind:
                assert kind.startswith("{"), f"{block}: nobody knows what is to be done with it"

    def run(self, script: str, environment: dict[str, str] | None = None) -> str:
        """Run a script as the next thing that is typed in the reader's shell. Return what it printed; its code is kept."""
        assert not (extras := _unknown_extras(script)), extras
        state, cwd = self.folder / "state", self.folder / "cwd"
        prologue = (
            f"cd {shlex.quote(cwd.read_text().strip())}; set -a; source {state}\n"
            f"trap '__code=$?; export -p >{state}; pwd >{cwd}; exit $__code' EXIT\n(exit {self._code})\n"
        )
        if environment is not None:
            prologue = ""
        with (self.folder / "output").open("w+b") as output:
            done = subprocess.run(
                [
                    "bash",
                    "-c" if environment is not None or script.startswith("echo $?") else "-ec",
                    prologue + self._here(script),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment if environment is None else environment,
                cwd=self.folder / "home",
                timeout=60,
                check=False,
            )
            output.seek(0)
            self._printed = output.read().decode().replace(f"{self.folder}/data", "/data")
        self._code = done.returncode
        return self._printed

    def _console(self, block: Block) -> None:
        first, *rest = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not first, f"{block}: begins with no command"
        for command, following in zip(rest, [*rest[1:], ""], strict=True):
            lines = command.splitlines(keepends=True)
            end = next((number for number, line in enumerate(lines, 1) if not line.endswith("\\\n")), len(lines))
            self.run("".join(lines[:end]))
            assert self._code == 0 or following.startswith("echo $?"), f"{block}: {lines[0]}{self._printed}"
            _compare(block, "".join(lines[end:]), self._printed)

    def _python(self, block: Block) -> None:
        source = self._here(block.text)
        code = compile(source, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with redirect_stdout(printed):
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, self._names))
            else:
                exec(code, self._names)
        self._printed = printed.getvalue().replace(f"{self.folder}/data", "/data")

    def _file(self, block: Block) -> None:
        name = file_of(block)
        if block.kind == "crontab":
            self._crontab(block)
            return
        path = self._home(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(block.text))
        if block.kind == "toml":
            tomllib.loads(block.text)
            if path.name == "config.toml":
                self.run("nccid-fetch config >/dev/null")
                assert self._code == 0, f"{block}: {self._printed}"
        if block.kind == "ini":
            unit = configparser.ConfigParser(strict=False, interpolation=None)
            unit.optionxform = str  # type: ignore[assignment, method-assign]
            unit.read_string(self._here(block.text))
            if unit.has_option("Service", "ExecStart"):
                command = unit["Service"]["ExecStart"].replace("%h", "$HOME")
                self._outside(block, command)

    def _crontab(self, block: Block) -> None:
        for line in block.text.splitlines():
            if not line or line.startswith("#"):
                continue
            found = _CRON.fullmatch(line)
            assert found, f"{block}: {line}"
            assert not re.search(r"(?<!\\)%", line), f"{block}: cron takes a % for the end of the line"
            self._outside(block, found["command"].replace("\\%", "%"))

    def _outside(self, block: Block, command: str) -> None:
        """Run what cron or systemd would run: no shell of the reader, hardly an environment."""
        self.run(command, self._bare() | {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"})
        assert self._code == 0, f"{block}: {command}\n{self._printed}"

    def _bare(self) -> dict[str, str]:
        path = [str(self.folder / "stubs"), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
        return {
            "HOME": str(self.folder / "home"),
            "USER": "reader",
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join(path),
            "RECORD": str(self.folder / "record"),
            "TZ": night(datetime.now(UTC)),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _exports(self) -> str:
        values = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo-secret",
            "AWS_REGION": "eu-west-2",
            "AWS_DEFAULT_REGION": "eu-west-2",
        }
        return "".join(f"export {name}={value}\n" for name, value in values.items())

    def _client(self) -> str:
        """The program; but of the server that keeps running only what it prints, for there is one already."""
        program = client(self.socket, sys.executable).splitlines(keepends=True)
        return "".join([program[0], _SERVED.format(exports=self._exports()), *program[1:]])

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "stubs" / name
        path.write_text(text)
        path.chmod(0o755)

    def _here(self, text: str) -> str:
        return re.sub(r"(?<![\w./])/(data|var/log)(?=[/\s'\"]|$)", rf"{self.folder}/\1", text)

    def _home(self, name: str) -> Path:
        if name.startswith("~/"):
            return self.folder / "home" / name[2:]
        return Path((self.folder / "cwd").read_text().strip()) / name


_SERVED = """\
import sys
if sys.argv[1:] == ["demo", "--serve"]:
    print({exports!r}, end="", flush=True)
    print("744 objects in nccid-data-warehouse-prod; with these variables set, any S3 client finds them. Ctrl-C ends it.", file=sys.stderr)
    sys.exit()
"""


def _parse(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


def _unknown_extras(script: str) -> set[str]:
    known: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return {name for group in re.findall(r"\.\[([a-z,]+)\]", script) for name in group.split(",")} - set(known)


def _compare(block: Block, expected: str, printed: str) -> None:
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else r".*?".join(map(re.escape, line.rstrip().split("..."))) + r" *\n"
        for line in expected.splitlines()
    )
    shown = re.sub(r"[ \t]+$", "", printed, flags=re.MULTILINE)
    assert re.fullmatch(pattern, shown if not shown or shown.endswith("\n") else f"{shown}\n"), (
        f"{block}: expected\n{expected}\nprinted\n{printed}"
    )
