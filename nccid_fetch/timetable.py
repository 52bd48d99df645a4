"""The hours of a week: which rate holds when, and when a run may ask for anything at all.

Hours are those on the clock on the wall, so they mean the same before and after a change to or from summer time: what is
to begin at 19:00 begins when that clock shows 19:00. An hour that it leaves out is passed over, and one that it shows
twice counts twice. The time is passed in; only its weekday, hour and minute are looked at.

A timetable is written as rclone writes it::

    20M                          the same rate at all times; off for none
    08:00,5M 19:00,off           from 08:00 on 5 MiB a second, from 19:00 on no limit
    Mon-08:00,5M Fri-19:00,off   from Monday 08:00 to Friday 19:00

An entry without a weekday holds every day. What the last entry of a day says holds until the next entry, of whatever day;
before the first one of the week, the last one does. Of two entries for one minute, the later in the text wins.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from .errors import UsageError
from .units import parse_rate

T = TypeVar("T")

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_TIME = r"(\d{1,2}):(\d{2})"
_ENTRY = re.compile(rf"(?:([A-Za-z]+)-)?{_TIME},(\S+)")
_SPAN = re.compile(rf"(?:([A-Za-z]+)-)?{_TIME}-{_TIME}")
_RATE_MIN = 1024
"""Whoever gives less has forgotten a unit: rclone's are KiB."""
_RATES = "for example 20M, 5MB/s, off, or '08:00,5M 19:00,off'"
_HOURS = "for example 19:00-07:00, or '22:00-06:00,Sat-00:00-24:00'"


@dataclass(frozen=True, slots=True)
class _Week(Generic[T]):
    """What holds from which minute of the week on; the last of it also before the first.

    Attributes:
        steps: Minutes from Monday 00:00, rising, and what holds from then on.
    """

    steps: tuple[tuple[int, T], ...]

    def at(self, local: datetime) -> T:
        minute = _minute_of(local)
        return next((value for begins, value in reversed(self.steps) if begins <= minute), self.steps[-1][1])

    def changes_at(self, local: datetime) -> datetime | None:
        present, minute = self.at(local), _minute_of(local)
        waits = [(begins - minute) % _WEEK_MINUTES for begins, value in self.steps if value != present]
        return local.replace(second=0, microsecond=0) + timedelta(minutes=min(waits)) if waits else None


@dataclass(frozen=True, slots=True)
class Timetable:
    """How many bytes a second may come, at which hours.

    Args:
        text: A rate, `off`, or a timetable as above.

    Raises:
        UsageError: It is none of these.
    """

    text: str
    _week: _Week[int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the text."""
        entries = re.split(r"[\s;]+", self.text.strip())
        object.__setattr__(self, "text", " ".join(entries))
        if len(entries) == 1 and "," not in entries[0]:
            object.__setattr__(self, "_week", _Week(((0, _rate_of(entries[0])),)))
            return
        rates: dict[int, int | None] = {}
        for entry in entries:
            found = _ENTRY.fullmatch(entry)
            if found is None:
                raise UsageError(f"--bwlimit: {entry!r} is neither a rate nor HH:MM,RATE", hint=_RATES)
            day, hour, minute, rate = found.groups()
            at = _minute(hour, minute, option="--bwlimit", hint=_RATES)
            for begin in _days(day, option="--bwlimit", hint=_RATES):
                rates[begin + at] = _rate_of(rate)
        object.__setattr__(self, "_week", _Week(tuple(sorted(rates.items()))))

    def __str__(self) -> str:
        """Return it as it is written."""
        return self.text

    def rate_at(self, local: datetime) -> int | None:
        """Return the bytes per second that may come at a time; None for any number."""
        return self._week.at(local)

    def changes_at(self, local: datetime) -> datetime | None:
        """Return when another rate will hold, on the same clock; None for never."""
        return self._week.changes_at(local)


@dataclass(frozen=True, slots=True)
class Window:
    """The hours in which a run may ask for anything.

    Args:
        text: One or more of `HH:MM-HH:MM`, with a comma or a blank between them: every day, or from the weekday on that
            stands before it. An end before the beginning is one of the next day.

    Raises:
        UsageError: It is something else, or a window in which there is no time.
    """

    text: str
    _week: _Week[bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the text."""
        spans = re.split(r"[\s;,]+", self.text.strip())
        object.__setattr__(self, "text", ",".join(spans))
        opened = [span for text in spans for span in _spans_of(text)]
        edges = sorted({edge % _WEEK_MINUTES for begin, minutes in opened for edge in (begin, begin + minutes)})
        steps = tuple((edge, any((edge - begin) % _WEEK_MINUTES < long for begin, long in opened)) for edge in edges)
        object.__setattr__(self, "_week", _Week(steps))

    def __str__(self) -> str:
        """Return it as it is written."""
        return self.text

    def is_open(self, local: datetime) -> bool:
        """Say whether a run may ask at a time."""
        return self._week.at(local)

    def changes_at(self, local: datetime) -> datetime | None:
        """Return when it closes, or opens, on the same clock; None for never."""
        return self._week.changes_at(local)


def seconds_to(time: datetime | None, local: datetime) -> float:
    """Return how many seconds the clock on the wall has to go to a time, at least a millisecond; infinitely many to none.

    That clock may be set meanwhile, so the caller looks at it again before.
    """
    return float("inf") if time is None else max(0.001, (time - local).total_seconds())


def _minute_of(local: datetime) -> int:
    return local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute


def _spans_of(text: str) -> Iterator[tuple[int, int]]:
    """Yield where in the week a window begins, and for how many minutes it is open."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise UsageError(f"--window: {text!r} is not HH:MM-HH:MM", hint=_HOURS)
    day, *times = found.groups()
    begin = _minute(*times[:2], option="--window", hint=_HOURS)
    end = _minute(*times[2:], option="--window", hint=_HOURS, last=_DAY_MINUTES)
    if begin == end:
        raise UsageError(f"--window: in {text} there is no time", hint="00:00-24:00 is the whole day")
    minutes = end - begin if end > begin else end - begin + _DAY_MINUTES
    yield from ((first + begin, minutes) for first in _days(day, option="--window", hint=_HOURS))


def _days(name: str | None, *, option: str, hint: str) -> Sequence[int]:
    """Return where the days begin that are named: one, or without a name all."""
    if name is None:
        return range(0, _WEEK_MINUTES, _DAY_MINUTES)
    named = [number for number, day in enumerate(_DAYS) if name.lower() in {day, day[:3]}]
    if not named:
        raise UsageError(f"{option}: {name!r} is no day of the week", hint=hint)
    return [named[0] * _DAY_MINUTES]


def _minute(hour: str, minute: str, *, option: str, hint: str, last: int = _DAY_MINUTES - 1) -> int:
    """Return the minute of the day."""
    at = int(hour) * 60 + int(minute)
    if int(minute) >= 60 or at > last:
        raise UsageError(f"{option}: there is no {hour}:{minute}", hint=hint)
    return at


def _rate_of(text: str) -> int | None:
    if text.lower() == "off":
        return None
    try:
        rate = parse_rate(text)
    except ValueError as error:
        raise UsageError(f"--bwlimit: {error}", hint=_RATES) from None
    if rate < _RATE_MIN:
        raise UsageError(f"--bwlimit: {text} is less than 1 KiB a second", hint=f"without a unit it is bytes; {_RATES}")
    return rate
