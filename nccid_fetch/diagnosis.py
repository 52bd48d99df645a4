"""What a destination's file system has to say: that it cannot be one, how much it still takes, and why a run ended."""

import errno
import os
from pathlib import Path

from .errors import DestinationError, DestinationFullError, UsageError
from .machine import limit_of
from .model import Space
from .units import size_text

FULL = {errno.ENOSPC, errno.EDQUOT}
CROWDED = {errno.EMFILE, errno.ENFILE}
_MAKE_ROOM = "make room and run the same command again; what was verified stays"


def destination_error(error: OSError, dest: Path) -> DestinationError:
    """Return the error that ends a run, for a file system that does not take what is written."""
    if error.errno == errno.EDQUOT:
        return DestinationFullError(f"the quota of {dest} is used up", hint=_MAKE_ROOM)
    if error.errno == errno.ENOSPC:
        free = space_of(dest)
        files = "" if free.files is None else f" and {free.files:,} files"
        return DestinationFullError(f"{dest} is full: {size_text(free.bytes)}{files} are left", hint=_MAKE_ROOM)
    if error.errno == errno.EXDEV:
        return DestinationError(
            f"a folder in {dest} is on another file system, and a file gets its name only within one",
            hint="mount one file system for all of it, or fetch that part to a --dest of its own",
        )
    refused = limit_of(error)
    if refused is not None:
        return DestinationError(refused.message, hint=refused.hint)
    return DestinationError(
        f"{dest} cannot be written: {error.strerror or error}",
        hint="check the disk and the permissions, then run the same command again; what was verified stays",
    )


def space_of(dest: Path) -> Space:
    """Return what is free where a destination is, or is to be."""
    found = os.statvfs(nearest_present(dest))
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def check_dest(dest: Path) -> None:
    """Refuse a destination that cannot be one, before anything is written.

    Raises:
        UsageError: It is a file, a link to nothing, or the root of the file system.
        DestinationError: It, or the folder it would be made in, may not be written.
    """
    try:
        _check_dest(dest)
    except OSError as error:
        raise destination_error(error, dest) from error


def _check_dest(dest: Path) -> None:
    if (dest.exists() or dest.is_symlink()) and not dest.is_dir():
        raise UsageError(f"--dest {dest} is not a folder", hint="name a folder; it is made if it is missing")
    if dest.exists() and dest.samefile("/"):
        raise UsageError("--dest / is the whole file system", hint="name a folder of its own for the data")
    present = nearest_present(dest)
    if not present.is_dir():
        raise UsageError(f"--dest {dest}: {present} is not a folder", hint="name a folder; it is made if it is missing")
    if not os.access(present, os.W_OK | os.X_OK) or os.statvfs(present).f_flag & os.ST_RDONLY:
        raise DestinationError(f"{present} may not be written", hint="choose another --dest, or change its permissions")


def nearest_present(path: Path) -> Path:
    """Return a path, or the nearest above it that is there."""
    present = path.absolute()
    while not present.exists():
        present = present.parent
    return present
