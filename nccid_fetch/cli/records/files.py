"""Opening what options write to beside DEST: for its owner alone, and never in the place of what is no plain file.

=================================  ==============================================  ========================================
What has the name                  Appended to: `--log-file`, `--events`           Written as a whole: `--output`,
                                                                                   `--metrics`
=================================  ==============================================  ========================================
nothing                            made                                            made, by a rename
a file                             appended to                                     replaced, by a rename
a link to one of these             the same where it leads to; the link stays      the same
a link or a file of another user   refused                                         a link: refused
a folder, a socket, a disk         refused                                         refused
a pipe                             written through, once a program reads from it   written through; `--metrics`: refused
any other device                   written through                                 written through; `--metrics`: refused
what this process has open         written through                                 written through; `--metrics`: refused
=================================  ==============================================  ========================================
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EBUSY, EEXIST, EINVAL, ELOOP, EMLINK, ENXIO
from pathlib import Path
from time import monotonic, sleep
from typing import TextIO

from nccid_fetch.attributes import set_mode
from nccid_fetch.errors import DestinationError, UsageError
from nccid_fetch.streams import STDOUT, descriptor_of

READER_SECONDS = 5.0
"""How long a pipe may be without a reader: in a script both are started at once."""
_LOOKS_SECONDS = 0.02
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
_APPEND = _WRITE | os.O_APPEND
_NEW = os.O_CREAT | os.O_EXCL
_LINKS_MAX = 40
_TRUSTED = (0,)
"""Users whose links are followed, beside one's own: root's, as /dev/stdout is one."""


def open_to_append(path: Path) -> int:
    """Open a file to append to, or what is no file to write through it, and return its descriptor.

    It names patients, so it is 0600, whatever the umask; one that is there and lets others in is closed to them. In a folder
    where others may write as well, such as /tmp, one that is theirs is refused, and so is a link of theirs. A link of
    one's own is followed, and one of the system's.

    Raises:
        OSError: It cannot be opened, or is somebody else's.
    """
    if (special := open_special(path)) is not None:
        return special
    with suppress(FileExistsError):
        descriptor = os.open(path, _APPEND | _NEW | os.O_NOFOLLOW, 0o600)
        set_mode(descriptor, 0o600)  # The umask may have taken the owner's own.
        return descriptor
    try:
        descriptor = os.open(path, _APPEND | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in {ELOOP, EMLINK}:
            raise
        return _ours(os.open(path, _APPEND | os.O_CREAT, 0o600), path)
    return _ours(descriptor, path)


def open_special(path: Path) -> int | None:
    """Open what is no plain file, to write through it; None for a file, and where there is nothing.

    Raises:
        OSError: It cannot be written, or nothing is to be written to it.
    """
    number = descriptor_of(path, STDOUT)
    if number is not None:
        return _duplicate(number, path)
    mode = _mode_of(path)
    if mode is None or stat.S_ISREG(mode):
        return None
    for is_kind, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a disk")):
        if is_kind(mode):
            raise OSError(EINVAL, f"it is {name}", str(path))
    descriptor = _open_pipe(path) if stat.S_ISFIFO(mode) else os.open(path, _WRITE | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def _mode_of(path: Path) -> int | None:
    """Return what has a name, or what a link leads to; None for nothing."""
    link: os.stat_result | None = None
    with suppress(OSError):
        link = path.lstat()
    if link is not None and stat.S_ISLNK(link.st_mode) and link.st_uid not in {*_TRUSTED, os.geteuid()}:
        raise PermissionError(EACCES, "it is a link of another user", str(path))
    with suppress(OSError):  # To open it tells why.
        return path.stat().st_mode
    return None


def _open_pipe(path: Path) -> int:
    """Open a pipe as soon as a program reads from it: to wait for ever is no use to anybody."""
    until = monotonic() + READER_SECONDS
    while True:
        try:
            return os.open(path, _WRITE | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != ENXIO:
                raise
            if monotonic() >= until:
                raise OSError(ENXIO, "no program reads from this pipe", str(path)) from None
        sleep(_LOOKS_SECONDS)


def _duplicate(number: int, path: Path) -> int:
    """Return another descriptor of what is open; what it is, its opener decided."""
    import fcntl  # noqa: PLC0415 - for this alone.

    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(EINVAL, "it is not open for writing", str(path))
    return os.dup(number)


def _ours(descriptor: int, path: Path) -> int:
    """Close a file of our own to others, and refuse one that is not."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        if status.st_uid != os.geteuid():
            os.close(descriptor)
            raise FileExistsError(EEXIST, "it belongs to another user", str(path))
        if status.st_mode & 0o077:
            with suppress(OSError):  # A file system without modes.
                os.fchmod(descriptor, 0o600)
    return descriptor


def place_of(path: Path) -> Path:
    """Return which name a file that is written as a whole gets by a rename: the path, or where a link leads.

    Raises:
        OSError: What has the name is no plain file, or a link of another user.
    """
    place = path
    if descriptor_of(path, STDOUT) is not None:
        raise FileExistsError(EEXIST, "it is no file", str(path))
    for _ in range(_LINKS_MAX):
        try:
            found = place.lstat()
        except FileNotFoundError:
            return place
        if not stat.S_ISLNK(found.st_mode):
            if not stat.S_ISREG(found.st_mode):
                raise FileExistsError(EEXIST, "it is no file", str(path))
            return place
        if found.st_uid not in {*_TRUSTED, os.geteuid()}:
            raise PermissionError(EACCES, "it is a link of another user", str(path))
        place = place.parent / place.readlink()
    raise OSError(ELOOP, "its links lead in a circle", str(path))


class Output:
    """A file that is being written, and gets its name when it is kept; or what is no file, and is written through.

    Attributes:
        path: What was asked for.
        text: What to write to.
        is_plain: Whether it is a file.
        has_failed: Whether it could not be written.
    """

    def __init__(self, option: str, path: Path) -> None:
        self.path = path
        self.has_failed = False
        self._option = option
        try:
            special = open_special(path)
            self.is_plain = special is None
            self._place = place_of(path) if special is None else path
            self._part = self._place.with_name(f".{self._place.name}.part")
            descriptor = self._made() if special is None else special
        except (OSError, ValueError) as error:  # ValueError: it has no name.
            raise unwritable(option, path, error) from error
        self.text: TextIO = os.fdopen(descriptor, "w", encoding="utf-8")

    def _made(self) -> int:
        # Where others may write as well, such as in /tmp, a file that waits under this name would be theirs to read.
        self._part.unlink(missing_ok=True)
        return os.open(self._part, _WRITE | _NEW | os.O_NOFOLLOW, 0o600)

    def flush(self) -> None:
        """Have written what is there so far.

        Raises:
            BrokenPipeError: It is a pipe, and its reader has gone away.
            DestinationError: It cannot be written.
        """
        try:
            self.text.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unwritten(error) from error

    def keep(self) -> None:
        """Let it have its name: it is whole.

        Raises:
            DestinationError: It cannot be written to its end.
        """
        self.flush()
        if not self.is_plain:
            return
        try:
            try:
                self._part.replace(self._place)
            except OSError as error:
                if error.errno != EBUSY:
                    raise
                self._copy()
        except OSError as error:
            raise self._unwritten(error) from error

    def _copy(self) -> None:
        """Write it in place: a file that is mounted by itself, as into a container, cannot be replaced."""
        with self._part.open("rb") as part, self._place.open("wb") as place:
            shutil.copyfileobj(part, place)

    def close(self) -> None:
        """Close it, and remove it unless it was kept."""
        with suppress(OSError):  # What could not be written was told by `flush`.
            self.text.close()
        if self.is_plain:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _unwritten(self, error: OSError) -> DestinationError:
        self.has_failed = True
        return DestinationError(
            f"{self._option} {self.path} cannot be written: {error.strerror}", hint="make room there"
        )


@contextmanager
def output(option: str, path: Path) -> Iterator[Output]:
    """Open an output for as long as the block lasts.

    Raises:
        UsageError: It cannot be opened.
    """
    opened = Output(option, path)
    try:
        yield opened
    finally:
        opened.close()


def unwritable(option: str, path: Path, error: OSError | ValueError) -> UsageError:
    """Return the error for a file that cannot be opened to begin with."""
    why = getattr(error, "strerror", None) or "it names no file"
    is_unread = getattr(error, "errno", None) == ENXIO
    hint = (
        "start the program that reads from it first"
        if is_unread
        else "name a file of your own, in a folder that is there"
    )
    return UsageError(f"{option} {path} cannot be written: {why}", hint=hint)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: at once, where the system lets us, so that two processes may append to one file.

    Raises:
        OSError: It cannot be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
