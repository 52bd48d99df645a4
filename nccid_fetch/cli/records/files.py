"""Opening what is written to beside DEST: for its owner alone, and not where somebody else leads it."""

import os
import stat
from contextlib import suppress
from errno import EEXIST, ELOOP, EMLINK
from pathlib import Path

from nccid_fetch.attributes import set_mode
from nccid_fetch.errors import UsageError

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
_NEW = os.O_CREAT | os.O_EXCL


def open_to_append(path: Path) -> int:
    """Open a file to append to, and return its descriptor. A pipe is waited for until somebody reads from it.

    It names patients, so it is 0600, whatever the umask; one that is there and lets others in is closed to them. In a folder
    where others may write as well, such as /tmp, one that is theirs is refused, and so is a link of theirs. A link of
    one's own is followed, and one of the system's: `/dev/fd/3` is one.

    Raises:
        OSError: It cannot be opened, or is somebody else's.
    """
    with suppress(FileExistsError):
        descriptor = os.open(path, _APPEND | _NEW | os.O_NOFOLLOW, 0o600)
        set_mode(descriptor, 0o600)  # The umask may have taken the owner's own.
        return descriptor
    try:
        descriptor = os.open(path, _APPEND | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in {ELOOP, EMLINK} or path.lstat().st_uid not in {0, os.geteuid()}:
            raise
        return _ours(os.open(path, _APPEND | os.O_CREAT, 0o600), path)
    return _ours(descriptor, path)


def _ours(descriptor: int, path: Path) -> int:
    """Close a file of our own to others, and refuse one that is not. Pipes and devices are what they are."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        if status.st_uid != os.geteuid():
            os.close(descriptor)
            raise FileExistsError(EEXIST, "it belongs to another user", str(path))
        if status.st_mode & 0o077:
            with suppress(OSError):  # A file system without modes.
                os.fchmod(descriptor, 0o600)
    return descriptor


def unwritable(option: str, path: Path, error: OSError) -> UsageError:
    """Return the error for a file that cannot be opened to begin with."""
    return UsageError(
        f"{option} {path} cannot be written: {error.strerror}",
        hint="name a file of your own, in a folder that is there",
    )


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: at once, where the system lets us, so that two processes may append to one file.

    Raises:
        OSError: It cannot be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
