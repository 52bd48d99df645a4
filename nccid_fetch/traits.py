"""What a file system keeps of what it is given, found out with a file of our own, and what that means for a user.

A run and `doctor` find it out in the same way and say it in the same words.
"""

import os
import shlex
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .attributes import COARSEST_NS, REFUSALS, set_time
from .walk import look_at, name_bytes

_TIME_NS = 1_600_000_001_123_000_000
_OTHER_MODE = 0o400
BY_OTHERS, BY_GROUP = 0o007, 0o070


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a file system keeps.

    Attributes:
        folds: Whether it takes different keys for the same name.
        wanted: The mode that files were to get.
        mode: The mode that they get.
        refusal: What it says when a mode is set; None if it takes one, which it may forget.
        keeps_times: Whether files get the mtime that they are given, or one that is coarser.
    """

    folds: bool = False
    wanted: int = 0o600
    mode: int = 0o600
    refusal: str | None = None
    keeps_times: bool = True

    @property
    def keeps_modes(self) -> bool:
        """Whether files get the mode that they are given."""
        return self.refusal is None and self.mode == self.wanted

    @property
    def is_open(self) -> bool:
        """Whether files are open to more users than was asked for."""
        return bool(self.mode & ~self.wanted & (BY_OTHERS | BY_GROUP))


def find_traits(folder_fd: int, wanted: int) -> Traits:
    """Find out what a folder's file system keeps.

    Args:
        folder_fd: A descriptor of a folder of ours.
        wanted: The mode that files are to get.
    """
    probe = f"Probe-{os.urandom(6).hex()}-\u00e9"  # A name of its own: another run may be probing.
    descriptor = os.open(
        name_bytes(probe), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, wanted, dir_fd=folder_fd
    )
    try:
        try:
            refusal = None
            for mode in (_OTHER_MODE, wanted):  # One that it has already may be set without a word.
                try:
                    os.fchmod(descriptor, mode)
                except OSError as error:
                    if error.errno not in REFUSALS:
                        raise
                    refusal = error.strerror
            set_time(descriptor, _TIME_NS)
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return Traits(
            folds=folds_names(folder_fd, probe),
            wanted=wanted,
            mode=stat.S_IMODE(found.st_mode),
            refusal=refusal,
            keeps_times=abs(found.st_mtime_ns - _TIME_NS) <= COARSEST_NS,
        )
    finally:
        with suppress(FileNotFoundError):  # A run that began in the same moment has cleared it away.
            os.unlink(name_bytes(probe), dir_fd=folder_fd)


def folds_names(folder_fd: int, probe: str) -> bool:
    """Say whether a file's name is found in another case or Unicode form as well.

    Args:
        folder_fd: The folder that the file is in.
        probe: Its name, with capitals and accents.
    """
    others = (probe.lower(), unicodedata.normalize("NFD", probe))
    return any(look_at(folder_fd, other) is not None for other in others)


def notes_on(dest: Path, root_fd: int, traits: Traits, folder_mode: int) -> Iterator[str]:
    """Yield what a user should know of a destination before anything is put there.

    Args:
        dest: Its path.
        root_fd: A descriptor of it.
        traits: What its file system keeps.
        folder_mode: The mode that folders are to get.
    """
    found = os.fstat(root_fd)
    mode = stat.S_IMODE(found.st_mode)
    if not traits.keeps_modes:
        hint = "; only how it is mounted can change that" if traits.is_open else ""
        yield f"{dest}: {modes_text(traits)}{hint}"
    elif mode & ~folder_mode & (BY_GROUP | BY_OTHERS):
        told = f"{dest} is open to other users (mode {mode & 0o777:o})"
        if os.geteuid() in {0, found.st_uid}:
            yield f"{told}; to keep patients' data from them: chmod {folder_mode:o} {shlex.quote(str(dest))}"
        else:
            yield f"{told}; only its owner can change that"
    if not traits.keeps_times:
        yield f"{dest}: {TIMES_TEXT}"


def modes_text(traits: Traits) -> str:
    """Return what it means that a file system does not keep modes."""
    how = "does not keep modes" if traits.refusal is None else f"refuses to set modes ({traits.refusal})"
    if traits.mode & ~traits.wanted & BY_OTHERS:
        who = "open to every user of this machine"
    elif traits.mode & ~traits.wanted & BY_GROUP:
        who = "open to their group"
    elif traits.wanted & ~traits.mode & BY_GROUP:
        who = "closed to their group"
    else:
        who = "closed to other users"
    return f"its file system {how}: patients' files have mode {traits.mode:o} there, {who}"


TIMES_TEXT = (
    "its file system does not keep the times that files are given: this tool goes by the times that they have, and"
    " `aws s3 sync` would copy them all again"
)
