"""The catalogue is whole: every fault has a test that carries its number."""

from pathlib import Path

import pytest

from .catalogue import TITLES, carriers, complaints, table


def test_every_fault_has_a_test() -> None:
    found = complaints(carriers())
    assert not found, "\n".join(["", *found])


def test_the_numbers_of_the_catalogue_have_no_gap_and_its_titles_differ() -> None:
    assert list(TITLES) == list(range(1, len(TITLES) + 1))
    assert len(set(TITLES.values())) == len(TITLES)


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
    ("missing", "added", "says"),
    [
        ((), {}, []),
        ((38,), {}, ["F038 has no test: The credentials expire in the middle of a run"]),
        ((), {900: ["test_x.py::test_z"]}, ["F900 is no fault of the catalogue"]),
    ],
)
def test_whatever_is_missing_or_too_much_is_named(
    missing: tuple[int, ...], added: dict[int, list[str]], says: list[str]
) -> None:
    carried = {number: ["test_x.py::test_y"] for number in TITLES if number not in missing} | added
    assert complaints(carried) == says


def test_the_table_has_a_row_for_every_fault() -> None:
    _, _, *rows = table().splitlines()
    assert [row[2:6] for row in rows] == [f"F{number:03}" for number in TITLES]
    assert all(row.count("|") == 4 for row in rows)
