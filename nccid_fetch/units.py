"""Sizes, rates and times as people write them.

`KB MB GB TB` are powers of 1000, `K M G T` and `KiB MiB GiB TiB` powers of 1024, as the contract says; a rate is a
size per second. Errors are ValueErrors whose text stands for itself in a message. What is shown is in powers of 1000.
"""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|)")
_DURATIONS = re.compile(r"\d+(?:\.\d+)?|(?:\d+(?:\.\d+)?\s*[smhd]\s*)+")
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_size(text: str) -> int:
    """Return bytes.

    >>> parse_size("500GB"), parse_size("20M"), parse_size("1.5 KiB"), parse_size("1000")
    (500000000000, 20971520, 1536, 1000)

    Raises:
        ValueError: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found or (not found[2] and (found[3] or "").lower() == "ib"):
        raise ValueError(f"{text!r} is not a size like 500GB, 20M or 64KiB")
    base = 1000 if (found[3] or "").lower() == "b" else 1024
    return int(float(found[1]) * base ** _POWERS[found[2].upper()])


def parse_rate(text: str) -> int:
    """Return bytes per second, of a size with or without `/s`.

    >>> parse_rate("20M"), parse_rate("5MB/s")
    (20971520, 5000000)

    Raises:
        ValueError: It is no rate, or none at all.
    """
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except ValueError:
        raise ValueError(f"{text!r} is not a rate like 20M or 5MB/s") from None
    if rate == 0:
        raise ValueError(f"{text!r} would let nothing through; off is no limit")
    return rate


def parse_duration(text: str) -> float:
    """Return seconds.

    >>> parse_duration("30"), parse_duration("15m"), parse_duration("11h30m")
    (30.0, 900.0, 41400.0)

    Raises:
        ValueError: It is no time.
    """
    if not _DURATIONS.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a time like 30s, 15m or 8h")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def size_text(size: float) -> str:
    """Return a size in powers of 1000.

    >>> size_text(1234567)
    '1.2 MB'
    """
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 99.95 else f"{size:.1f} {_UNITS[unit]}"


def time_text(seconds: float) -> str:
    """Return a duration in the two units that matter.

    >>> time_text(3725)
    '1h 02m'
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole // 60 % 60:02}m"
