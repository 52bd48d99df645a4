"""Where options come from: flag, variable, configuration file, default. And what `config` shows of it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from nccid_fetch.cli.commands import app
from nccid_fetch.cli.configfile import settable

from . import snapshots
from .catalogue import fault
from .commandline import exit_code_of

Ended = tuple[int, str, str]
Cli = Callable[..., Ended]
Write = Callable[[str], Path]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> Ended:
        return (exit_code_of(*arguments), *capsys.readouterr())

    return run


@pytest.fixture
def write(scrubbed_environment: Path) -> Write:
    """Write the configuration file where it is looked for."""

    def write(text: str) -> Path:
        path = scrubbed_environment / ".config" / "nccid-fetch" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


def values_of(command: str, *arguments: str) -> dict[str, Any]:
    """What typer makes of a command line, of the environment, and of the file that is there."""
    root = typer.main.get_command(app)
    parent = typer.Context(root, info_name="nccid-fetch")
    return dict(root.commands[command].make_context(command, list(arguments), parent=parent).params)  # type: ignore[attr-defined]


def told(cli: Cli, *arguments: object) -> dict[str, Any]:
    """What `config` says of each option."""
    code, out, err = cli("config", "--format", "json", *arguments)
    assert (code, err) == (0, "")
    return dict(json.loads(out)["options"])


# Precedence.


def test_a_flag_comes_before_a_variable_and_that_before_the_file_and_that_before_the_default(
    cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(cli)["concurrency"] == {"value": "64", "from": "default"}
    path = write("concurrency = 3\n")
    assert told(cli)["concurrency"] == {"value": "3", "from": "file", "name": str(path)}
    monkeypatch.setenv("NCCID_FETCH_CONCURRENCY", "2")
    assert told(cli)["concurrency"] == {"value": "2", "from": "variable", "name": "NCCID_FETCH_CONCURRENCY"}
    assert told(cli, "--concurrency", 1)["concurrency"] == {"value": "1", "from": "flag", "name": "--concurrency"}


def test_the_file_is_in_the_configuration_folder_or_where_it_is_said_to_be(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("concurrency = 1\n")
    for number, folder in enumerate((tmp_path / "xdg" / "nccid-fetch", tmp_path / "named", tmp_path / "flag"), start=2):
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(f"concurrency = {number}\n")
        (folder / "config.toml").chmod(0o600)
    assert values_of("all")["concurrency"] == 1
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert values_of("all")["concurrency"] == 1
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert values_of("all")["concurrency"] == 2
    monkeypatch.setenv("NCCID_FETCH_CONFIG", str(tmp_path / "named" / "config.toml"))
    assert values_of("all")["concurrency"] == 3
    assert values_of("all", "--config", str(tmp_path / "flag" / "config.toml"))["concurrency"] == 4
    assert values_of("all", "--config", os.devnull)["concurrency"] == 64


def test_every_kind_of_value_is_read_as_it_is_on_the_command_line(write: Write, scrubbed_environment: Path) -> None:
    write(
        'include = ["ct/Covid 0*", "mri/*"]\nstrict = true\nretry-for = 90\nstall = "2m"\n'
        'dest = "~/nccid"\nverify = "size"\nattempts = 2\nconcurrency = "auto"\n'
    )
    values = values_of("all")
    assert values["include"] == ["ct/Covid 0*", "mri/*"]
    assert (values["strict"], values["retry_for"], values["stall"], values["attempts"]) == (True, 90.0, 120.0, 2)
    assert (values["verify"], values["concurrency"]) == ("size", "auto")
    assert values["dest"] == scrubbed_environment / "nccid"


def test_what_belongs_to_another_command_is_passed_over_but_is_right_all_the_same(cli: Cli, write: Write) -> None:
    write('summary = true\nplan = "plan.jsonl"\n')
    assert values_of("all")["strict"] is False
    assert values_of("ls")["summary"] is True
    write('concurrency = "many"\n')
    code, out, err = cli("ls")
    assert (code, out) == (2, "")
    assert "concurrency: 'many' is neither a number nor auto" in err


def test_the_demo_does_not_fill_the_folder_that_the_file_names(write: Write) -> None:
    write('dest = "/data/nccid"\nverbose = true\n')
    assert values_of("demo")["dest"] is None
    assert values_of("demo")["verbose"] is True


def test_without_a_file_nothing_is_loaded_to_read_one(scrubbed_environment: Path) -> None:
    code = (
        "import sys, atexit; sys.argv = ['nccid-fetch', 'config', '--format', 'quiet']\n"
        "atexit.register(lambda: print({'tomllib', 'botocore', 'asyncio'} & set(sys.modules)))\n"
        "from nccid_fetch.cli.main import main; main()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


# What is wrong with a file.

WRONG = (
    "max-attempts = 3",
    'Verify = "md5"',
    "no_sign_request = true",
    'colour = "red"',
    "serve = true",
    '[all]\ndest = "/data"',
    'config = "other.toml"',
    "version = true",
    'parts = ["ct"]',
    'verify = "sha1"',
    'format = "xml"',
    'concurrency = "many"',
    "concurrency = 2000",
    'attempts = "x"',
    "attempts = 1.5",
    "attempts = true",
    "attempts = 0",
    "retry-for = -1",
    'strict = "yes"',
    'include = "ct/*"',
    "include = [1]",
    'dest = ""',
    'log-file = "a\\u0000b"',
    'include = ["ct/*", "a\\u0000b"]',
    "dest = []",
    'group = "test"',
    'endpoint-url = "http://s3.example.org"',
    'endpoint-url = "https://me:secret@s3.example.org"',
    "dest = /data/nccid",
    "verify = 'md5'\nverify = 'size'",
)


def test_what_a_file_cannot_say_is_2_and_names_file_key_and_what_would_be_right(cli: Cli, write: Write) -> None:
    shown = []
    for text in WRONG:
        path = write(text + "\n")
        code, out, err = cli("config")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 2
        assert "\nhint: " in err
        assert str(path) in err
        assert "secret" not in err
        shown.append(f"{text}\n\n{err.replace(str(path), 'config.toml')}")
    snapshots.check("errors/configuration", "\n".join(shown))


@pytest.mark.parametrize("text", ["attempts = " + "9" * 5000, "include = " + "[" * 5000], ids=["number", "brackets"])
def test_what_is_more_than_python_reads_is_no_toml_either(cli: Cli, write: Write, text: str) -> None:
    path = write(text)
    code, out, err = cli("config")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path} is not TOML: ")


@fault(119)
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(cli: Cli, write: Write, mode: int) -> None:
    path = write("strict = true\n")
    path.chmod(mode)
    code, _, err = cli("config")
    assert code == 2
    assert f"hint: chmod go-w {path}\n" in err
    path.chmod(0o644)
    assert cli("config")[0] == 0


def test_a_file_that_is_named_has_to_be_one(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path, ""):
        code, out, err = cli("ls", "--config", path)
        assert (code, out) == (2, "")
        assert "--config" in err
    monkeypatch.setenv("NCCID_FETCH_CONFIG", str(tmp_path / "nowhere.toml"))
    assert cli("ls")[0] == 2


def test_a_file_that_is_no_text_is_2(cli: Cli, write: Write) -> None:
    write("").write_bytes(b'dest = "\xff"\n')
    code, _, err = cli("ls")
    assert (code, "not UTF-8" in err) == (2, True)


# `config`.


def test_config_is_a_table_of_values_and_where_they_stand(
    cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('dest = "/data/nccid"\nexclude = ["ct/*", "mri/*"]\n')
    monkeypatch.setenv("NCCID_FETCH_STRICT", "true")
    monkeypatch.setenv("AWS_PROFILE", "nccid")
    code, out, err = cli("config", "--concurrency", "auto")
    assert (code, err) == (0, "")
    snapshots.check("config", out.replace(str(path), "~/.config/nccid-fetch/config.toml"))


def test_config_in_json_is_one_object_with_a_schema_and_the_exit_code(cli: Cli, write: Write) -> None:
    path = write("")
    code, out, _ = cli("config", "--format", "json")
    shown = json.loads(out)
    assert list(shown) == ["schema", "file", "options", "exit_code"]
    assert (shown["schema"], shown["file"], shown["exit_code"], code) == ("nccid-fetch/config/1", str(path), 0, 0)
    assert set(shown["options"]) == set(settable(typer.main.get_command(app)))


def test_config_takes_every_option_of_all() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    taken = {parameter.opts[0] for parameter in commands["config"].params}
    assert {parameter.opts[0] for parameter in commands["all"].params} <= taken


def test_what_is_set_but_could_not_be_run_with_is_2_and_says_where_it_is_set(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCID_FETCH_CONCURRENCY", "0")
    for command in ("config", "all"):
        code, out, err = cli(command)
        assert (code, out) == (2, "")
        assert err.endswith("hint: 1 to 1024, or auto; it is set in NCCID_FETCH_CONCURRENCY\n")


def test_a_variable_for_another_command_is_held_to_what_it_takes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCID_FETCH_SUMMARY", "perhaps")
    code, out, err = cli("config")
    assert (code, out) == (2, "")
    assert err == ("error: NCCID_FETCH_SUMMARY: it has to be true or false\nhint: summary takes true or false\n")


def test_the_example_has_every_option_with_its_default_and_sets_none(cli: Cli, write: Write) -> None:
    before = told(cli)
    code, example, err = cli("config", "--example")
    assert (code, err) == (0, "")
    _, told_as_json, _ = cli("config", "--example", "--format", "json")
    assert json.loads(told_as_json)["example"] == example.rstrip("\n")
    path = write(example)
    assert str(path) in example
    assert told(cli) == before
    every = re.sub(r"^#(?=[a-z])", "", example, flags=re.MULTILINE)
    assert set(tomllib.loads(every)) == set(before)
    write("".join(line for line in every.splitlines(keepends=True) if not re.search(r' = "[A-Z]', line)))
    for key, option in told(cli).items():
        assert option["value"] == before[key]["value"], key
        assert (option["from"] == "default") == (before[key]["value"] is None or key == "region"), key


# AWS's own variables and files.


def test_what_aws_says_is_shown_where_nothing_else_is_said(
    cli: Cli, scrubbed_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = scrubbed_environment / "config"
    file.write_text(
        "[default]\nregion = eu-west-1\n[profile nccid]\nregion = eu-west-3\nservices = local\n"
        "[services local]\ns3 =\n  endpoint_url = https://s3.example.org\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    assert told(cli)["region"] == {"value": "eu-west-1", "from": "file", "name": str(file)}
    assert told(cli)["endpoint-url"] == {"value": None, "from": "default"}
    monkeypatch.setenv("AWS_PROFILE", "nccid")
    shown = told(cli)
    assert shown["profile"] == {"value": "nccid", "from": "variable", "name": "AWS_PROFILE"}
    assert shown["region"] == {"value": "eu-west-3", "from": "file", "name": str(file)}
    assert shown["endpoint-url"] == {"value": "https://s3.example.org", "from": "file", "name": str(file)}
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert told(cli)["region"] == {"value": "eu-west-2", "from": "variable", "name": "AWS_REGION"}
    assert told(cli, "--region", "eu-north-1")["region"]["from"] == "flag"


def test_a_password_in_an_endpoint_of_awss_is_refused_and_not_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://me:secret@s3.example.org")
    code, out, err = cli("config")
    assert (code, out) == (2, "")
    assert "secret" not in err
    assert err.endswith("; it is set in AWS_ENDPOINT_URL\n")


def test_files_of_awss_that_cannot_be_read_say_nothing(
    cli: Cli, scrubbed_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = scrubbed_environment / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    for content in (b"no section\n", b"[\xff]\n", b"[profile x\n"):
        file.write_bytes(content)
        assert told(cli)["region"] == {"value": "eu-west-2", "from": "default"}
