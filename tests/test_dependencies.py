"""What comes along: few packages, each of them named, used and pinned for development."""

import ast
import os
import re
import tomllib
from importlib.metadata import distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import nccid_fetch

from .catalogue import fault

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME: dict[str, Requirement] = {
    canonicalize_name(Requirement(line).name): Requirement(line) for line in PROJECT["dependencies"]
}
DECLARED: dict[str, Requirement] = RUNTIME | {
    canonicalize_name(Requirement(line).name): Requirement(line)
    for extra in ("checksums", "demo")
    for line in PROJECT["optional-dependencies"][extra]
}
"""What users get, with the extras that are theirs."""


def pins_of(name: str) -> dict[str, str]:
    return {
        canonicalize_name(package): number
        for line in (ROOT / name).read_text().splitlines()
        if not line.startswith("#")
        for package, number in [line.split("==")]
    }


PINNED = pins_of("constraints.txt")
LOWEST = pins_of("constraints-lowest.txt")
TESTED = os.environ.get("DEPENDENCIES", "pinned")
"""Which versions are installed: `pinned`, or by `make test-lowest` and `make test-newest`, `lowest` or `newest`."""
BROUGHT_ALONG = {"aiobotocore": "aioboto3", "aiohttp": "aioboto3", "boto3": "aioboto3", "botocore": "aioboto3"}
"""Packages that are imported and named by one that we name, which alone knows which versions go together."""


def wanted_by(*names: str) -> set[str]:
    """All packages that these bring along, and they themselves, without extras."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            lines = map(Requirement, requires(name) or [])
            left += [line.name for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    return found


@fault(125)
def test_what_is_imported_is_named_and_little() -> None:
    package = Path(nccid_fetch.__file__).parent
    trees = [ast.parse(path.read_text()) for path in package.rglob("*.py") if "demo" not in path.parts]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    tops = {name.partition(".")[0] for name in names} - {"nccid_fetch"}
    installed = {canonicalize_name(found.metadata["Name"]) for found in distributions()}
    ours = {name for name in map(canonicalize_name, tops) if name in installed}
    assert {BROUGHT_ALONG.get(name, name) for name in ours} - {"awscrt"} <= set(RUNTIME)
    assert len(RUNTIME) <= 6


@fault(28, 125)
@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_the_version_that_is_tested_is_pinned_and_within_what_is_declared(name: str) -> None:
    """One tested range: from the bound that is declared on; aioboto3 pins aiobotocore, and that botocore."""
    expected = {"lowest": PINNED | LOWEST, "newest": {name: version(name)}}.get(TESTED, PINNED)
    assert expected[name] == version(name)
    assert RUNTIME[name].specifier.contains(PINNED[name])
    assert {found.operator for found in RUNTIME[name].specifier} == {">="}


@fault(28)
@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_bound_is_the_lowest_version_that_the_tests_were_run_with(name: str) -> None:
    """`make test-lowest` installs it; `typer>=0.26` was declared once, and 46 tests failed below 0.29."""
    (bound,) = DECLARED[name].specifier
    assert (bound.operator, Version(bound.version)) == (">=", Version(LOWEST[name]))
    assert Version(LOWEST[name]) <= Version(PINNED[name])


@fault(28)
def test_the_lowest_versions_are_of_what_is_declared_or_brought_along_by_it() -> None:
    assert LOWEST.keys() - DECLARED.keys() <= wanted_by(*DECLARED) | {"py-partiql-parser"}


@fault(125)
def test_everything_that_comes_along_is_pinned() -> None:
    assert wanted_by(*RUNTIME) <= set(PINNED)


@fault(125)
def test_the_pins_name_versions_and_no_place_to_get_them_from() -> None:
    names = ("constraints.txt", "constraints-lowest.txt", "docs/requirements.txt", "pyproject.toml")
    for path in map(ROOT.joinpath, names):
        assert not re.search(r"^\s*-|@ |://", path.read_text(), re.MULTILINE)
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", number) for number in (*PINNED.values(), *LOWEST.values()))
