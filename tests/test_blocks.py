"""What the documents tell their readers to type does what they say; a page at a time."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nccid_fetch.demo.synthetic import warehouse

from .blocks import PAGES, ROOT, Sandbox, blocks, calls
from .docs import commands
from .servers.scripted import ScriptedS3

SHELLS = {"sh", "console", "bash", "ini", "crontab"}
OF_OTHERS = {"coming-from.md", "faults-compared.md"}
"""Pages that speak of other programs' options, too."""
FOREIGN = {"--numworkers", "--only-show-errors", "--no-verify-ssl", "--rounds-of-aws", "--quick"}
"""Options of other programs, and of the benchmarks', that are spoken of in between."""


def mentioned(shell: str) -> set[str]:
    """The commands and options of ours in lines of a shell."""
    found: set[str] = set()
    for first, *others in filter(None, calls(shell)):
        found |= {word.partition("=")[0] for word in (first, *others) if word.startswith("--")}
        found |= {first} if re.fullmatch(r"[a-z]+", first) else set()
    return found


def known() -> set[str]:
    tree = commands()
    return (
        set(tree)
        | {"--help", "--version"}
        | {flag for command in tree.values() for each in command.params for flag in each.opts}
    )


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ScriptedS3() as server:
        server.secrets["demo"] = "demo-secret"
        for item in warehouse():
            server.put(item.key, item.body)
        yield server.endpoint_url


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("forks") / "socket"
    with subprocess.Popen([sys.executable, "-m", "tests.forks", path], cwd=ROOT) as server:
        while not path.exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield path
        server.terminate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_does_what_its_page_says(
    page: Path, endpoint: str, forks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox(tmp_path, endpoint, forks)
    monkeypatch.chdir(tmp_path / "work")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    for block in blocks(page):
        sandbox.do(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_speaks_of_exists(page: Path) -> None:
    prose = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if page.name in OF_OTHERS:
        prose = "".join(re.findall(r"([^|]*)\|$", prose, re.MULTILINE))  # The last column is ours.
    spoken: set[str] = set()
    for words in re.findall(r"`([^`\n]+)`", prose):
        spoken |= mentioned(words) | ({words.split()[0].partition("=")[0]} if words.startswith("--") else set())
    for block in blocks(page):
        spoken |= mentioned(block.text.replace("$ nccid", "nccid")) if block.kind in SHELLS else set()
    assert spoken - known() <= FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_fence_is_overlooked(page: Path) -> None:
    assert len(re.findall(r"^ *(?:```|~~~)", page.read_text(), re.MULTILINE)) == 2 * len(blocks(page))
