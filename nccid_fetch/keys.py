"""From an object's key to a path below the destination: the only way there is.

A key is text from a server. On its way to a path it passes `path_of`, once, in planning; what comes
out has no segment that could leave the destination, touch the state folder or name no file. Control
characters and backslashes are characters like any other on POSIX, and are escaped where they are shown.
"""

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from . import warehouse
from .errors import UnsafeKeyError

STATE_FOLDER = ".nccid-fetch"
SEGMENT_BYTES_MAX = 255
"""NAME_MAX of every file system in common use."""
KEY_BYTES_MAX = 1024
"""S3's own limit; a longer key is not S3's."""

# Unicode's Default_Ignorable_Code_Point: a terminal shows nothing for them, and ext4 and HFS+ pass over them when
# they fold a name, so that to them `.nccid\u200b-fetch` is the state folder.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def path_of(key: str, group: str) -> tuple[str, ...]:
    """Return the segments of a key's path below the destination.

    Args:
        key: The whole key, with its group.
        group: The group that the destination belongs to.

    Returns:
        Folder names, and the file's name last.

    Raises:
        UnsafeKeyError: Saying which rule the key breaks.
    """
    folder, _, name = key.rpartition("/")
    if _is_plain(name) and key.isascii() and len(key) <= KEY_BYTES_MAX:
        return (*_folder_of(folder, group), name)
    return _path_of(key, group)


def _is_plain(name: str) -> bool:
    """Say whether an ASCII segment breaks no rule by itself, whatever else it is."""
    return 2 < len(name) <= SEGMENT_BYTES_MAX and "\0" not in name


@lru_cache(maxsize=1024)
def _folder_of(folder: str, group: str) -> tuple[str, ...]:
    """Return the segments of a folder, which neighbours have in common: what is dear is done once for all of them."""
    above, _, name = folder.rpartition("/")
    if _is_plain(name) and above.startswith(warehouse.group_prefix(group)):
        return (*_folder_of(above, group), name)
    return _path_of(f"{folder}/any", group)[:-1]


def _path_of(key: str, group: str) -> tuple[str, ...]:
    """Hold a key against every rule."""
    prefix = warehouse.group_prefix(group)
    if not key.startswith(prefix):
        raise UnsafeKeyError(f"it is not below {prefix}")
    segments = tuple(key[len(prefix) :].split("/"))
    if len(segments) < 2:
        raise UnsafeKeyError("it is in no part")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise UnsafeKeyError("it is not Unicode text") from None
    if len(encoded) > KEY_BYTES_MAX:
        raise UnsafeKeyError(f"it is longer than {KEY_BYTES_MAX} bytes")
    if "\0" in key:
        raise UnsafeKeyError("it has a NUL character")
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise UnsafeKeyError(f"it has a segment {segment!r}")
        if len(segment) * 4 > SEGMENT_BYTES_MAX and len(segment.encode()) > SEGMENT_BYTES_MAX:
            raise UnsafeKeyError(f"it has a segment of more than {SEGMENT_BYTES_MAX} bytes")
    _check_top(segments[0])
    return segments


def _check_top(name: str) -> None:
    """Refuse the top of a path that no part of NCCID's has. Where names fold, .NCCID-FETCH is the state folder too."""
    folded = fold(name)
    if folded == STATE_FOLDER:
        raise UnsafeKeyError("it would lie in the state folder")
    if folded.startswith("."):  # What programs keep in a home folder or a repository, and obey: .ssh, .git.
        raise UnsafeKeyError("it would lie in a hidden folder")


def fold(text: str) -> str:
    """Return the one form of all texts that a folding file system may take for the same name."""
    if text.isascii():
        return text.casefold()
    seen = _IGNORABLE.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", seen.casefold())


def is_folder_marker(key: str, size: int) -> bool:
    """Say whether an object only marks a folder: no bytes, and a key that ends in a slash."""
    return size == 0 and key.endswith("/")


def key_filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Return the predicate that `--include` and `--exclude` make of the key below the group.

    `*` matches any characters, slashes among them; `?` one; `[...]` one of a set. Exclude wins, and the
    order of the options does not matter.
    """
    if not include and not exclude:
        return lambda _: True
    included = _any_of(include) if include else re.compile("")
    excluded = _any_of(exclude) if exclude else re.compile(r"(?!)")

    def lets_through(key: str) -> bool:
        return included.match(key) is not None and excluded.match(key) is None

    return lets_through


def _any_of(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{fnmatch.translate(glob)})" for glob in globs))


def printable(text: str) -> str:
    r"""Return text that can be shown: control, bidirectional and other invisible characters escaped.

    Keys and servers' messages pass here before they reach a terminal or a log, so that none of them can
    move the cursor, forge a line, or read as what it is not.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and not _IGNORABLE.match(c) else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
