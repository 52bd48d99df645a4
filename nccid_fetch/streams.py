"""Paths that name what this process has open: `-`, /dev/stdin, /dev/stdout, /dev/fd/N, /proc/self/fd/N, and links to them.

Such a descriptor is duplicated. To open the path would be something else: a file would be written from its first byte on,
beside what has its name open already, and a socket could not be opened at all.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

STDIN, STDOUT, STDERR = range(3)
DASH = Path("-")
_STANDARD = {"/dev/stdin": STDIN, "/dev/stdout": STDOUT, "/dev/stderr": STDERR}
_NUMBER = re.compile(r"[0-9]{1,9}")
"""What a descriptor may be called. A longer number is that of none, and C could not take it."""
_LINKS_MAX = 40
"""As many as Linux follows."""


def descriptor_of(path: Path, dash: int) -> int | None:
    """Return the number of the descriptor that a path names; None for any other path.

    Args:
        path: The path. It may lead there through links.
        dash: What `-` stands for: STDIN or STDOUT.
    """
    if path == DASH:
        return dash
    place = os.fspath(path)
    with suppress(OSError):  # No link, or the current folder is gone.
        for _ in range(_LINKS_MAX):
            if place in _STANDARD:
                return _STANDARD[place]
            folder, name = os.path.split(place)
            folder = os.path.realpath(folder)
            if _NUMBER.fullmatch(name) and _has_descriptors(folder):
                return int(name)
            place = os.path.join(folder, os.readlink(os.path.join(folder, name)))  # noqa: PTH115, PTH118 - as texts.
    return None


def _has_descriptors(folder: str) -> bool:
    """Say whether a folder has the descriptors of this process in it."""
    own = re.compile(rf"/dev/fd|/proc/(self|{os.getpid()})(/task/\d+)?/fd")
    return own.fullmatch(folder) is not None or folder == os.path.realpath("/proc/self/fd")


def open_input(path: Path) -> BinaryIO:
    """Open a file to read, or what is open already; `-` is stdin.

    Raises:
        OSError: It cannot be read.
    """
    number = descriptor_of(path, STDIN)
    return path.open("rb") if number is None else os.fdopen(os.dup(number), "rb")
