"""The list of guards is in step with the code and the tests; that each of them bites, `make mutants` finds out."""

import ast
from functools import cache

import pytest

from .mutants import GUARDS, PACKAGE, ROOT, Guard, Verdict, verdict_of


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_once_in_its_module_and_can_be_taken_out(guard: Guard) -> None:
    source = (ROOT / PACKAGE / guard.module).read_text()
    without = guard.removed_from(source)
    assert without != source
    ast.parse(without)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_test_of_a_guard_exists(guard: Guard) -> None:
    file, _, name = guard.test.partition("::")
    assert name in functions_of(file)


def test_no_two_guards_have_the_same_name() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


@pytest.mark.parametrize("source", ["", "x = 1\nx = 1\n"])
def test_a_guard_that_is_not_there_once_cannot_be_taken_out(source: str) -> None:
    with pytest.raises(ValueError, match="not once"):
        Guard("a name", "keys.py", "x = 1", "x = 2", "test_keys.py::test_x").removed_from(source)


@pytest.mark.parametrize(
    ("code", "output", "verdict"),
    [
        (0, "1 passed", Verdict.PASSED),
        (1, "1 failed", Verdict.FAILED),
        (1, "Failed: Timeout (>100.0s) from pytest-timeout.", Verdict.UNUSABLE),
        (2, "SyntaxError", Verdict.UNUSABLE),
        (4, "no such test", Verdict.UNUSABLE),
        (-9, "", Verdict.UNUSABLE),
    ],
)
def test_only_a_test_that_ran_and_failed_has_missed_its_guard(code: int, output: str, verdict: Verdict) -> None:
    assert verdict_of(code, output) is verdict
