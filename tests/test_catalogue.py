"""The catalogue is whole: every fault has a test that carries its number, or a reason to have none."""

from pathlib import Path

import pytest

from .catalogue import SKIPPED, TITLES, carriers, complaints, table


def test_every_fault_has_a_test_or_a_reason() -> None:
    found = complaints(carriers())
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.skip(reason=why), id=f"F{n:03}") for n, why in SKIPPED.items()],
)
def test_a_fault_without_a_test_is_shown_with_its_reason(number: int) -> None:
    """Each is there to be seen in pytest's own report of what was skipped."""


def test_the_catalogue_counts_126_faults_and_each_is_another() -> None:
    assert list(TITLES) == list(range(1, 127))
    assert len(set(TITLES.values())) == 126


def test_tests_are_found_by_the_numbers_they_carry_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "@fault(1, 2)\ndef test_one() -> None: ...\n"
        "@other(3)\n@fault(2)\nasync def test_two() -> None: ...\n"
        "@fault(4)\ndef helper() -> None: ...\n"
        "def test_three() -> None:\n    @fault(5)\n    def test_inner() -> None: ...\n"
    )
    (tmp_path / "other.py").write_text("@fault(6)\ndef test_one() -> None: ...\n")
    assert carriers(tmp_path) == {1: ["test_a.py::test_one"], 2: ["test_a.py::test_one", "test_a.py::test_two"]}


@pytest.mark.parametrize(
    ("missing", "added", "skipped", "says"),
    [
        ((), {}, {}, []),
        ((38,), {}, {}, ["F038 has neither a test nor a reason: The credentials expire in the middle of a run"]),
        ((38,), {}, {38: "why"}, []),
        ((), {}, {38: "why"}, ["F038 has a test and a reason to have none: test_x.py::test_y"]),
        ((), {127: ["test_x.py::test_z"]}, {}, ["F127 is no fault of the catalogue"]),
        ((), {}, {0: "why"}, ["F000 is no fault of the catalogue"]),
    ],
)
def test_whatever_is_missing_or_too_much_is_named(
    missing: tuple[int, ...], added: dict[int, list[str]], skipped: dict[int, str], says: list[str]
) -> None:
    carried = {number: ["test_x.py::test_y"] for number in TITLES if number not in missing} | added
    assert complaints(carried, skipped) == says


def test_the_table_has_a_row_for_every_fault() -> None:
    _, _, *rows = table().splitlines()
    assert [row[2:6] for row in rows] == [f"F{number:03}" for number in TITLES]
    assert all(row.count("|") == 4 for row in rows)
    assert all(why in rows[number - 1] for number, why in SKIPPED.items())
