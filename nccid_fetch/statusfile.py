"""The status file of a destination, `DEST/.nccid-fetch/status.json`: written by the run that holds it, read by anybody.

Rules
    Only who holds the journal writes it, and nobody makes a folder for it. It is replaced by a rename, so that a reader finds
    a whole one; it is not flushed, for after a loss of power there is no run.
    It is for people. Whatever the disk says to it, no run is hurt by that.
    No step to it goes through a symbolic link, and what is found there is taken for a stranger's words.
"""

import fcntl
import json
import os
import platform
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import time

from .attributes import set_mode
from .durability import boot_id
from .journal import Journal
from .keys import STATE_FOLDER
from .status import End, Process, RunStatus, seconds_of, time_of
from .walk import close_folder

NAME = "status.json"
BEAT_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
"""So often it is written also where nothing changed."""
_BYTES_MAX = 1 << 18
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PART = f"{NAME}.part"
_LOCKED_BYTES = (0x40000000, 512)
"""Where SQLite locks a database: offset and length, as its file format has them."""


@contextmanager
def _state_folder(dest: Path) -> Iterator[int]:
    """Open the state folder of a destination.

    Raises:
        OSError: There is none, or a link is in its place.
    """
    root_fd = os.open(dest, _FOLDER_FLAGS)
    try:
        folder_fd = os.open(STATE_FOLDER, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=root_fd)
    finally:
        close_folder(root_fd)
    try:
        yield folder_fd
    finally:
        close_folder(folder_fd)


def read_status(dest: Path) -> RunStatus | None:
    """Return what the last run over a destination says of itself; None where there is nothing of that kind."""
    try:
        with _state_folder(dest) as folder_fd:
            descriptor = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _BYTES_MAX:
                return None
            return RunStatus.from_dict(json.loads(file.read(_BYTES_MAX)))
    except (OSError, ValueError, RecursionError):
        return None


def write_status(dest: Path, status: RunStatus, mode: int) -> None:
    """Replace the status file.

    Raises:
        OSError: The disk is full or broken, or there is no state folder.
    """
    text = json.dumps(status.as_dict(), indent=1).encode()
    with _state_folder(dest) as folder_fd:
        with suppress(FileNotFoundError):
            os.unlink(_PART, dir_fd=folder_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_PART, flags, mode, dir_fd=folder_fd)
        try:
            with os.fdopen(descriptor, "wb") as file:
                set_mode(descriptor, mode)
                file.write(text)
            os.replace(_PART, NAME, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            with suppress(OSError):
                os.unlink(_PART, dir_fd=folder_fd)
            raise


class Publisher:
    """Keeps the status file of a run, from a thread of its own.

    Args:
        dest: The destination.
        mode: The mode of the file.
        describe: Returns what is to be said now. Its times, and its end, are set here.
        now: Seconds since the epoch.
    """

    def __init__(
        self, dest: Path, mode: int, describe: Callable[[], RunStatus], now: Callable[[], float] = time
    ) -> None:
        self._dest = dest
        self._mode = mode
        self._describe = describe
        self._now = now
        self._last: RunStatus | None = None
        self._written = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="status", daemon=True)  # A disk may hang in it.

    def begin(self) -> None:
        """Begin to write, now that the destination is this run's alone."""
        with suppress(RuntimeError):  # No more threads may be started: a run needs none that says how far it is.
            self._thread.start()

    def _keep(self) -> None:
        self.beat()
        while not self._is_over.wait(BEAT_SECONDS):
            self.beat()

    def beat(self) -> None:
        """Write what is new, or that nothing is, if it is time for that."""
        now = self._now()
        status = self._describe()
        is_new = self._last is None or _numbers(status) != _numbers(self._last)
        if is_new or not 0 <= now - self._written < HEARTBEAT_SECONDS:
            changed = time_of(now) if self._last is None or is_new else self._last.changed
            self._write(replace(status, heartbeat=time_of(now), changed=changed))

    def end(self, exit_code: int, message: str, hint: str | None) -> None:
        """Write how the run ended, if it ever began, unless another run has the destination by then."""
        if not self._thread.ident:
            return
        self._is_over.set()
        self._thread.join(BEAT_SECONDS)
        found = read_status(self._dest) if not self._thread.is_alive() else None
        if found is not None and self._last is not None and found.is_of_the_same_run(self._last):
            now = time_of(self._now())
            self._write(replace(self._describe(), heartbeat=now, changed=now, end=End(now, exit_code, message, hint)))

    def _write(self, status: RunStatus) -> None:
        self._last, self._written = status, self._now()
        with suppress(OSError):
            write_status(self._dest, status, self._mode)


def _numbers(status: RunStatus) -> tuple[object, ...]:
    """Return what of a status changes only when something happens. The rate is that of bytes that come in."""
    run = status.progress
    listed, settled = (run.listed_objects, run.listing_is_complete), (run.settled_objects, run.settled_bytes)
    troubles = (run.failed_objects, run.retries, run.throttled, run.limit_objects)
    return status.state, status.warnings, listed, settled, troubles, run.bytes_per_second


def this_process() -> Process:
    """Return what this process is called."""
    return Process(os.getpid(), platform.node(), boot_id())


def is_alive(process: Process) -> bool:
    """Say whether there is a process of this number on this machine."""
    if process.pid <= 0:  # Whole groups of processes, to the system.
        return False
    try:
        os.kill(process.pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def age_of(status: RunStatus) -> float:
    """Return how many seconds ago a run last spoke, by the clocks of its machine and of this one."""
    return time() - seconds_of(status.heartbeat)


def is_held(dest: Path) -> bool:
    """Say whether a process is seen to hold a destination's journal.

    It only asks who has the lock. To try for it, as SQLite would, could turn away a run that begins in this moment. Not for a
    process with a run of its own: as it closes the file, its locks would go.
    """
    try:
        descriptor = os.open(Journal.path(dest), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_locked(descriptor)
    except OSError:
        return False  # Its file system has no locks.
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Ask the kernel (`F_GETLK`) whether another process has locked what SQLite locks."""
    offset, length = _LOCKED_BYTES
    if platform.system() == "Linux":  # struct flock: type, whence, start, length, process
        shape, kind = "hhqqi4x", 0
        question = struct.pack(shape, fcntl.F_RDLCK, os.SEEK_SET, offset, length, 0)
    else:  # macOS and the BSDs: start, length, process, type, whence
        shape, kind = "qqihh", 3
        question = struct.pack(shape, offset, length, 0, fcntl.F_RDLCK, os.SEEK_SET)
    return bool(struct.unpack(shape, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))[kind] != fcntl.F_UNLCK)
