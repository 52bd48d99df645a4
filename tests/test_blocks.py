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

from .blocks import FILES, PAGES, ROOT, Block, Sandbox, blocks, calls, file_of
from .docs import commands
from .servers.scripted import ScriptedS3

NOT_YET = (
    *("doctor", "status", "config"),
    *("--bwlimit", "--window", "--max-duration", "--max-bytes", "--max-patients", "--log-file", "--on-finish"),
)
"""Commands and options that the documents speak of and the program does not have yet."""

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


def is_not_yet(block: Block) -> bool:
    shell = block.text if block.kind in SHELLS else ""
    keys = (
        {f"--{key}" for key in re.findall(r"^([a-z-]+) = ", block.text, re.MULTILINE)}
        if block.kind == "toml"
        else set()
    )
    return bool((mentioned(shell.replace("$ nccid", "nccid")) | keys) & set(NOT_YET))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ScriptedS3() as server:
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
    waits = False
    waiting: set[str] = set()  # Files.
    for block in blocks(page):
        # What starts a file that cannot run yet, and what is compared with what does not run yet, wait with it.
        waits = is_not_yet(block) or any(name in block.text for name in waiting) or (waits and block.kind == "text")
        waiting |= {file_of(block).rpartition("/")[2]} if waits and block.kind in FILES else set()
        if not waits or block.kind in FILES:
            sandbox.do(block, only_put=waits)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_speaks_of_exists(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    if page.name in OF_OTHERS:
        prose = "".join(re.findall(r"([^|]*)\|$", prose, re.MULTILINE))  # The last column is ours.
    spoken: set[str] = set()
    for words in re.findall(r"`([^`\n]+)`", prose):
        spoken |= mentioned(words) | ({words.split()[0].partition("=")[0]} if words.startswith("--") else set())
    for block in blocks(page):
        spoken |= mentioned(block.text.replace("$ nccid", "nccid")) if block.kind in SHELLS else set()
    assert spoken - known() - set(NOT_YET) <= FOREIGN


def test_nothing_is_waited_for_that_is_there_or_that_no_document_speaks_of() -> None:
    texts = [page.read_text() for page in PAGES]
    for name in NOT_YET:
        assert name not in known(), f"{name} is there: strike it from NOT_YET"
        assert any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for text in texts), f"nobody speaks of {name}"
