"""Completion, asked for as the shells' scripts ask."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch.cli.main import main

Complete = Callable[[str], list[str]]
ALL_PARTS = ["data", "ct-metadata", "mri-metadata", "xray-metadata", "ct", "mri", "xray"]
SCRIPT = Path(sys.executable).parent / "nccid-fetch"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Ask as a shell does: by variables, and with no arguments. What it says on stdout."""

    def ask(instruction: str, **variables: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nccid-fetch"])
        monkeypatch.setenv("_NCCID_FETCH_COMPLETE", instruction)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main()
        out, err = capsys.readouterr()
        assert err == ""
        return str(out)

    return ask


@pytest.fixture
def complete(asked: Callable[..., str]) -> Complete:
    """Complete the last word of a line, in bash's way."""

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        return asked("complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1)).split()

    return complete


@pytest.fixture
def profiles(scrubbed_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's two files, with profiles in both."""
    config, credentials = scrubbed_environment / "config", scrubbed_environment / "credentials"
    config.write_text('[default]\n[profile nccid]\n[profile "nhs site"]\n[sso-session x]\n[services y]\n')
    credentials.write_text("[nccid]\naws_access_key_id = test\n[old]\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))


def test_commands_and_options_are_completed(complete: Complete) -> None:
    assert {"all", "get", "plan", "ls", "config"} <= set(complete("nccid-fetch "))
    assert complete("nccid-fetch al") == ["all"]
    assert complete("nccid-fetch all --verif") == ["--verify"]


def test_parts_are_completed_and_each_once(complete: Complete) -> None:
    assert complete("nccid-fetch get ") == ALL_PARTS
    assert complete("nccid-fetch get ct ct") == ["ct-metadata"]
    assert complete("nccid-fetch plan x") == ["xray-metadata", "xray"]
    assert complete("nccid-fetch ls mri") == ["mri-metadata/", "mri/"]


def test_what_can_be_chosen_is_completed(complete: Complete) -> None:
    assert complete("nccid-fetch all --durability ") == ["batch", "file", "none"]
    assert complete("nccid-fetch all --group v") == ["validation"]
    assert complete("nccid-fetch completion ") == ["bash", "zsh", "fish"]


@pytest.mark.usefixtures("profiles")
def test_profiles_are_completed_from_awss_own_files(complete: Complete) -> None:
    assert complete("nccid-fetch all --profile n") == ["nccid", "nhs", "site"]  # A shell takes lines, not words.
    assert complete("nccid-fetch ls --profile o") == ["old"]


def test_paths_are_left_to_the_shell(complete: Complete) -> None:
    assert complete("nccid-fetch all --dest /t") == []


def test_zsh_and_fish_get_what_they_evaluate(asked: Callable[..., str]) -> None:
    assert asked("complete_zsh", _TYPER_COMPLETE_ARGS="nccid-fetch get x") == (
        '_arguments \'*: :(("xray-metadata"\n"xray"))\'\n'
    )
    asked_by_fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "nccid-fetch get x"}
    assert asked("complete_fish", **asked_by_fish) == "xray-metadata\nxray\n"


def test_completing_reads_no_configuration_file(
    complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def note(path: Path) -> dict[str, Any]:
        read.append(path)
        return {}

    monkeypatch.setattr("nccid_fetch.cli.configfile._read", note)
    monkeypatch.setenv("NCCID_FETCH_CONFIG", str(tmp_path / "nowhere.toml"))
    assert complete("nccid-fetch all --verif") == ["--verify"]
    assert not read


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script_that_is_printed() -> None:
    session = f"""
        PATH={SCRIPT.parent}:$PATH
        eval "$(nccid-fetch completion bash)"
        complete -p nccid-fetch
        COMP_WORDS=(nccid-fetch get xray) COMP_CWORD=2
        _nccid_fetch_completion nccid-fetch
        echo "${{COMPREPLY[*]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", session], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "complete -o default -F _nccid_fetch_completion nccid-fetch",
        "xray-metadata xray",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_by_the_variable_that_is_heard(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nccid-fetch", "completion", shell])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert f"_NCCID_FETCH_COMPLETE=complete_{shell}" in capsys.readouterr().out
