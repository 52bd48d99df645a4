"""What is shown to whoever asks for help, or needs it: help texts, the manual page, what is said of a wrong command line."""

import inspect
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

from nccid_fetch.cli.commands import app
from nccid_fetch.cli.help import COMMAND_PANELS, EXIT_CODES, PANELS, panel_of

from . import man, snapshots
from .commandline import exit_code_of
from .docs import commands

Ended = tuple[int, str, str]
Cli = Callable[..., Ended]
COMMANDS = commands()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process, on 80 columns: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> Ended:
        return (exit_code_of(*arguments), *capsys.readouterr())

    return run


def examples(command: Any) -> list[str]:
    return inspect.cleandoc(command.epilog).splitlines()


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_as_it_was_kept_and_fits_on_80_columns_without_colour(cli: Cli, command: str | None) -> None:
    code, out, err = cli(*filter(None, [command]), "--help")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    prose = [line for line in out.splitlines() if not line.startswith("  nccid-fetch ")]  # Examples are not broken.
    assert max(map(len, prose)) <= 80
    snapshots.check(f"help/{command or 'nccid-fetch'}", out)


def test_no_help_is_kept_of_a_command_that_is_not_there() -> None:
    assert snapshots.names("help") <= {f"help/{name}" for name in ("nccid-fetch", *COMMANDS)}


def test_every_option_and_every_command_stands_under_what_it_is_for() -> None:
    for name, command in COMMANDS.items():
        assert command.rich_help_panel in COMMAND_PANELS, name
        for parameter in command.params:
            assert panel_of(parameter) in {*PANELS, "Arguments"}, parameter.opts
            assert parameter.help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_two_to_four_examples_that_it_accepts(command: str) -> None:
    root = typer.main.get_command(app)
    lines = examples(COMMANDS[command])
    assert 2 <= len(lines) <= 4
    for line in lines:
        found = re.search(r"nccid-fetch ([^|>)]*)", line)
        assert found, line
        name, *arguments = shlex.split(found[1])
        assert name == command
        parent = typer.Context(root, info_name="nccid-fetch")
        assert COMMANDS[name].make_context(name, arguments, parent=parent).params


def test_every_exit_code_of_the_errors_is_explained() -> None:
    explained = {code for codes, _ in EXIT_CODES for code in codes.split(", ")}
    assert {"0", "1", "2", "3", "4", "5", "9", "10", "75", "129", "130", "143"} <= explained


# The manual page.


def test_the_manual_page_is_that_of_the_command_line() -> None:
    assert man.PAGE.read_text() == man.page(), "run make docs"


def test_the_manual_page_names_every_option() -> None:
    page = man.page()
    for command in COMMANDS.values():
        for parameter in command.params:
            assert man.escaped(", ".join(parameter.opts) if parameter.metavar is None else parameter.metavar) in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff to ask")
def test_groff_finds_nothing_wrong_with_the_manual_page() -> None:
    asked = ["groff", "-ww", "-man", "-Tutf8", "-z", str(man.PAGE)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_text_in_the_manual_page_is_no_command_to_roff() -> None:
    assert man.escaped(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert man.escaped("'a' \\n --b") == "\\&'a' \\en \\-\\-b"


# What is wrong with a command line.

WRONG = (
    "fetch",
    "al",
    "all --dst /data",
    "all --nonsense",
    "all -x",
    "--dest /data all",
    "ls --dest /data",
    "all ct",
    "get",
    "get cat",
    "get ct --plan plan.jsonl",
    "all --dest",
    "all --dest ''",
    "all --strict=yes",
    "all --verify sha1",
    "all --concurrency many",
    "all --concurrency 0",
    "all --attempts x",
    "all --attempts 0",
    "all --stall soon",
    "all --stall 0",
    "all --retry-for -1",
    "all --group test",
    "all --bucket s3://bucket",
    "all --bucket bucket--x-s3",
    "all --endpoint-url s3.example.org",
    "all --endpoint-url http://s3.example.org",
    "all --endpoint-url https://me:secret@s3.example.org",
    "get --dry-run --plan plan.jsonl",
    "get --plan nowhere.jsonl",
    "plan --output nowhere/plan.jsonl",
    "completion",
    "completion tcsh",
)


def test_what_is_wrong_with_a_command_line_is_said_with_the_next_step(
    cli: Cli, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = []
    for line in WRONG:
        code, out, err = cli(*shlex.split(line))
        assert (code, out) == (2, ""), line
        assert re.fullmatch(r"error: [^\n]+\nhint: [^\n]+\n", err), line
        assert "secret" not in err
        shown.append(f"$ nccid-fetch {line}\n{err}")
    snapshots.check("errors/usage", "\n".join(shown))
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_a_variable_names_the_variable(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCID_FETCH_STRICT", "perhaps")
    code, _, err = cli("all")
    assert code == 2
    assert err.startswith("error: NCCID_FETCH_STRICT: it has to be true or false\nhint: --strict takes true or false")
