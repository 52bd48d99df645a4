"""The hours of a week: what holds when, when it changes, and what is no timetable and no window."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.errors import UsageError
from nccid_fetch.timetable import Timetable, Window, seconds_to

MONDAY = datetime(2026, 1, 5)  # noqa: DTZ001 - a clock on a wall, wherever it hangs.
LONDON = ZoneInfo("Europe/London")
MIB = 2**20
WEEK = timedelta(days=7)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A time of the week that begins with MONDAY."""
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


# Timetables


@pytest.mark.parametrize(("text", "rate"), [("20M", 20 * MIB), ("5MB/s", 5_000_000), ("off", None), (" OFF ", None)])
def test_a_rate_alone_holds_at_all_times_and_never_changes(text: str, rate: int | None) -> None:
    timetable = Timetable(text)
    assert {timetable.rate_at(at(day, hour)) for day in range(7) for hour in range(24)} == {rate}
    assert timetable.changes_at(at(0, 0)) is None


@pytest.mark.parametrize(
    ("hour", "rate", "changes"),
    [(0, None, at(1, 8)), (7, None, at(1, 8)), (8, 5 * MIB, at(1, 19)), (18, 5 * MIB, at(1, 19)), (19, None, at(2, 8))],
)
def test_an_entry_without_a_weekday_holds_every_day_and_before_the_first_the_last_does(
    hour: int, rate: int | None, changes: datetime
) -> None:
    timetable = Timetable("08:00,5M 19:00,off")
    assert timetable.rate_at(at(1, hour)) == rate
    assert timetable.changes_at(at(1, hour)) == changes


@pytest.mark.parametrize(
    ("time", "rate", "changes"),
    [
        (at(0, 7, 59), None, at(0, 8)),
        (at(0, 8), 5 * MIB, at(4, 19)),
        (at(3, 0), 5 * MIB, at(4, 19)),
        (at(4, 19), None, at(7, 8)),
        (at(6, 23, 59), None, at(7, 8)),
    ],
)
def test_an_entry_of_a_weekday_holds_until_the_next_entry_of_whatever_day(
    time: datetime, rate: int | None, changes: datetime
) -> None:
    timetable = Timetable("Mon-08:00,5M Friday-19:00,off")
    assert timetable.rate_at(time) == rate
    assert timetable.changes_at(time) == changes


def test_entries_need_not_be_in_order_and_of_two_for_one_minute_the_later_in_the_text_wins() -> None:
    timetable = Timetable("19:00,off 8:00,5M; Sat-08:00,1M")
    assert [timetable.rate_at(at(day, 9)) for day in (4, 5, 6)] == [5 * MIB, MIB, 5 * MIB]
    assert timetable.rate_at(at(0, 0)) is None
    assert timetable == Timetable("19:00,off  8:00,5M Sat-08:00,1M")


@given(st.datetimes(MONDAY, MONDAY + 3 * WEEK), st.sampled_from(["08:00,5M 19:00,off", "Mon-08:00,5M Wed-12:30,1M"]))
def test_until_it_changes_the_rate_is_the_same_and_then_another_one(time: datetime, text: str) -> None:
    timetable = Timetable(text)
    changes = timetable.changes_at(time)
    assert changes is not None
    assert time < changes <= time + WEEK
    assert timetable.rate_at(changes) != timetable.rate_at(time)
    assert timetable.rate_at(changes - timedelta(microseconds=1)) == timetable.rate_at(time)


@pytest.mark.parametrize("day", [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)])
def test_what_the_clock_on_the_wall_shows_decides_also_where_it_is_put_on_or_back(day: datetime) -> None:
    """The hour that is left out is passed over; the one that comes twice counts twice."""
    timetable, window = Timetable("01:30,5M 02:00,off"), Window("22:00-01:30")
    for minute in range(-180, 360):
        local = (day + timedelta(minutes=minute)).astimezone(LONDON)
        shown = local.hour * 60 + local.minute
        assert timetable.rate_at(local) == (5 * MIB if 90 <= shown < 120 else None)
        assert window.is_open(local) is (shown >= 22 * 60 or shown < 90)


def test_a_window_of_a_night_with_a_change_of_the_clock_is_an_hour_shorter_or_longer() -> None:
    window = Window("22:00-06:00")
    hours = {}
    for day in (
        datetime(2026, 3, 28, tzinfo=UTC),
        datetime(2026, 6, 6, tzinfo=UTC),
        datetime(2026, 10, 24, tzinfo=UTC),
    ):
        minutes = [(day + timedelta(hours=12, minutes=minute)).astimezone(LONDON) for minute in range(24 * 60)]
        hours[day.month] = sum(map(window.is_open, minutes)) / 60
    assert hours == {3: 7, 6: 8, 10: 9}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not a rate"),
        ("fast", "'fast' is not a rate"),
        ("0", "off is no limit"),
        ("512", "512 is less than 1 KiB a second"),
        ("10M:1M", "is not a rate"),
        ("08:00 5M", "'08:00' is neither a rate nor HH:MM,RATE"),
        ("08:00,5M 19:00", "'19:00' is neither a rate nor HH:MM,RATE"),
        ("24:00,5M", "there is no 24:00"),
        ("08:60,5M", "there is no 08:60"),
        ("08:00,5X", "'5X' is not a rate"),
        ("Mo-08:00,5M", "'Mo' is no day of the week"),
    ],
)
def test_what_is_no_timetable_is_told_so_with_an_example(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        Timetable(text)
    assert str(refused.value).startswith("--bwlimit")
    assert "08:00,5M 19:00,off" in str(refused.value.hint)


@pytest.mark.parametrize("text", ["20M", "08:00,5M 19:00,off", "Mon-08:00,5M Fri-19:00,off"])
def test_a_timetable_reads_as_it_is_written(text: str) -> None:
    assert str(Timetable(text)) == text
    assert str(Timetable(str(Timetable(f" {text}  ")))) == text


# Windows


@pytest.mark.parametrize(
    ("time", "is_open", "changes"),
    [
        (at(0, 18, 59), False, at(0, 19)),
        (at(0, 19), True, at(1, 7)),
        (at(1, 0), True, at(1, 7)),
        (at(1, 6, 59), True, at(1, 7)),
        (at(1, 7), False, at(1, 19)),
        (at(6, 23), True, at(7, 7)),
    ],
)
def test_a_window_over_midnight_is_open_on_both_sides_of_it(time: datetime, is_open: bool, changes: datetime) -> None:  # noqa: FBT001
    window = Window("19:00-07:00")
    assert window.is_open(time) is is_open
    assert window.changes_at(time) == changes


def test_several_windows_are_open_where_any_of_them_is() -> None:
    window = Window("22:00-06:00,Sat-00:00-24:00")
    assert window.changes_at(at(4, 21)) == at(4, 22)
    assert window.changes_at(at(4, 22)) == at(6, 6), "Friday's night, Saturday, and the night to Sunday"
    assert not window.is_open(at(6, 6))


def test_a_window_of_a_weekday_over_midnight_ends_on_the_next_day() -> None:
    window = Window("Sun-20:00-04:00")
    assert [window.is_open(time) for time in (at(6, 19), at(6, 20), at(7, 3), at(7, 4), at(1, 21))] == [
        *(False, True, True, False, False)
    ]


def test_a_window_of_all_hours_never_closes() -> None:
    assert Window("00:00-24:00").is_open(at(3, 3))
    assert Window("00:00-24:00").changes_at(at(3, 3)) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not HH:MM-HH:MM"),
        ("19:00", "'19:00' is not HH:MM-HH:MM"),
        ("07:00-07:00", "in 07:00-07:00 there is no time"),
        ("24:00-07:00", "there is no 24:00"),
        ("19:00-24:01", "there is no 24:01"),
        ("25:00-07:00", "there is no 25:00"),
        ("Yesterday-19:00-07:00", "'Yesterday' is no day of the week"),
    ],
)
def test_what_is_no_window_is_told_so_with_an_example(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        Window(text)
    assert str(refused.value).startswith("--window")
    assert refused.value.hint


def test_it_is_never_no_time_at_all_until_something_changes() -> None:
    assert seconds_to(at(0, 1), at(0, 0)) == 3600
    assert seconds_to(at(0, 0), at(0, 1)) > 0, "the clock was put on meanwhile"
    assert seconds_to(None, at(0, 0)) == float("inf")
