"""The documentation as a site: it builds without a warning, holds together, and asks the network for nothing."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from .docs import commands
from .reference import journal, variable
from .test_dependencies import PINNED

ROOT = Path(__file__).parent.parent
PACKAGES = Path(sys.prefix) / "docs"


class Loaded(HTMLParser):
    """What a page loads by itself, unlike what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = "href" if tag == "link" else "src"
        self.found += [value for name, value in attrs if name == wanted and tag != "a" and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, but for the folder. Pages that no other leads to and links that lead nowhere are warnings."""
    assert PACKAGES.exists(), "make docs installs what builds the documentation"
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", ROOT / "docs", folder],
        env=os.environ | {"PYTHONPATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_built_and_none_asks_the_network_for_anything(site: Path) -> None:
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs")
        if name.parts[0] != "man":
            loaded = Loaded()
            loaded.feed((site / name.with_suffix(".html")).read_text())
            assert loaded.found
            assert not [url for url in loaded.found if "//" in url]
    for style in site.glob("_static/**/*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", style.read_text()), style.name


def test_the_reference_has_every_command_and_option_and_the_journals_tables(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "reference" / "command-line.html").read_text())
    for name, command in commands().items():
        assert f"nccid-fetch {name}" in page
        for parameter in command.params:
            variables = parameter.envvar or []
            by_rule = variable(parameter.opts[0])  # The page says the rule.
            assert all(
                each == by_rule or each in page for each in ([variables] if isinstance(variables, str) else variables)
            )
            assert parameter.opts[0] in page or not parameter.opts[0].startswith("-")
    assert "CREATE TABLE object" in journal()
    assert "identity   bucket" in (site / "reference" / "journal.html").read_text()


def test_a_package_that_both_lists_pin_has_one_version_but_for_the_one_that_they_part_over() -> None:
    lines = (ROOT / "docs" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    normal = {name.lower().replace("_", "-"): number for name, number in pins.items()}
    assert {name for name, number in normal.items() if PINNED.get(name, number) != number} == {"docutils"}
