"""What the documents promise."""

import ast
import re
from itertools import chain
from pathlib import Path

import pytest

from nccid_fetch.errors import Reason
from nccid_fetch.model import VerifiedBy

from .catalogue import TITLES
from .docs import commands
from .reference import COMMAND_LINE, command_line

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
WHAT_HAPPENS = (ROOT / "docs" / "what-happens-when.md").read_text()


def test_the_reference_of_the_command_line_is_what_the_program_says_and_the_readme_leads_there() -> None:
    assert COMMAND_LINE.read_text() == command_line(), "run make docs"
    assert f"]({COMMAND_LINE.relative_to(ROOT)})" in TEXT


def test_every_command_is_in_the_readme_and_has_an_example_or_a_story() -> None:
    for name, command in commands().items():
        assert f"nccid-fetch {name}" in TEXT or f"`{name}`" in TEXT
        assert command.help


def test_every_way_of_proof_is_explained() -> None:
    for proof in VerifiedBy:
        assert f"`{proof.label}`" in TEXT


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4", "5", "9", "10", "75", "129, 130, 143"])
def test_every_exit_code_is_explained(code: str) -> None:
    assert re.search(rf"^\| {code} \|", TEXT, re.MULTILINE)


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for document in chain.from_iterable(
        ROOT.glob(f"{folder}*.md") for folder in ("", "nccid_fetch/", "benchmarks/", "docs/", "docs/*/")
    ):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "nccid_fetch" / "ARCHITECTURE.md").read_text()
    for path in Path(ROOT / "nccid_fetch").iterdir():
        if path.name.startswith("_") or path.suffix not in {".py", ""}:
            continue
        assert f"`{path.stem}`" in text or f"`{path.name}/`" in text, path.name


def test_the_words_of_the_contract_are_the_codes_own() -> None:
    assert {str(reason) for reason in Reason} == {
        "changed",
        "gone",
        "denied",
        "archived",
        "unsafe_key",
        "conflict",
        "digest_mismatch",
        "short_body",
        "retries_exhausted",
        "local_error",
    }


def test_every_sentence_that_users_are_told_to_expect_is_one_that_the_code_says() -> None:
    trees = [ast.parse(path.read_text()) for path in ROOT.glob("nccid_fetch/**/*.py")]
    nodes = chain.from_iterable(ast.walk(tree) for tree in trees)
    said = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    quoted = re.findall(r"^> (?:[a-z_]+: )?(.*?)\\?$", WHAT_HAPPENS, re.MULTILINE)
    assert len(quoted) > 40
    for fragment in chain.from_iterable(sentence.split("\N{HORIZONTAL ELLIPSIS}") for sentence in quoted):
        words = fragment.strip(" :;,()")
        assert any(words in text for text in said), words


def test_every_situation_names_faults_of_the_catalogue() -> None:
    _, *situations = re.split(r"^### ", WHAT_HAPPENS, flags=re.MULTILINE)
    for situation in situations:
        numbers = [int(number) for number in re.findall(r"\bF(\d{3})\b", situation)]
        assert numbers, situation
        assert all(number in TITLES for number in numbers), situation
