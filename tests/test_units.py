"""Sizes, rates and times as people write them."""

import doctest

import pytest

from nccid_fetch import units
from nccid_fetch.units import parse_duration, parse_rate, parse_size


def test_the_examples_are_true() -> None:
    assert doctest.testmod(units).failed == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1B", 1),
        ("1KB", 1000),
        ("1kb", 1000),
        ("1K", 1024),
        ("1KiB", 1024),
        ("2.5M", 2_621_440),
        ("1TB", 10**12),
        ("1T", 2**40),
        (" 3 GB ", 3 * 10**9),
    ],
)
def test_a_size_has_the_units_of_the_contract(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "B", "GB", "-1", "1P", "1iB", "1 2", "1e3", "nan", "inf", "1KBs", "٣MB\n\nx"])
def test_what_is_no_size_is_told_so(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size like"):
        parse_size(text)


@pytest.mark.parametrize(("text", "rate"), [("20M", 20 * 2**20), ("20M/s", 20 * 2**20), ("500KB", 500_000)])
def test_a_rate_is_a_size_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(("text", "told"), [("0", "off is no limit"), ("fast", "not a rate"), ("5M/m", "not a rate")])
def test_what_is_no_rate_is_told_so(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1.5h", 5400), ("2d", 172_800), ("90s", 90), (" 5m ", 300), ("11h30m", 41_400), ("1h 30m", 5400)],
)
def test_a_time_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-5s", "5 minutes", "1h30", "30m 1", "nan"])
def test_what_is_no_time_is_told_so(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time like"):
        parse_duration(text)
