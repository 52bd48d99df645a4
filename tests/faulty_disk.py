"""A disk that fails where a test wants it to: stands in for `os` in every module that touches the destination.

Everything is passed through to the real disk, counted, and noted for the model of power loss (`power`). The n-th call can
fail with an error, do half of what was asked, or be the last one the process ever makes. The journal's statements are
counted among the calls: they reach the same disk, by way of SQLite.
"""

import ctypes
import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

MODULES = (
    *(
        "attributes",
        "traits",
        "reading",
        "tree",
        "staging",
        "walk",
        "durability",
        "destination",
        "diagnosis",
        "reserve",
    ),
    *("sqlitefile", "transfer"),
)
COUNTED = {
    *("open", "close", "dup", "stat", "fstat", "listdir", "pread", "preadv", "write", "pwrite", "ftruncate", "lseek"),
    *("utime", "fchmod", "mkdir", "rename", "unlink", "fsync", "posix_fallocate"),
}
TIDYING = {"unlink", "listdir", "close"}
"""What takes away staged files: where it fails, they are left to the next run."""


_NAMING = {"open", "stat", "utime", "mkdir", "rename", "unlink"}


def _told(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a call's arguments with names as text, for faults and witnesses."""
    if name not in _NAMING:
        return arguments
    return tuple(part.decode() if isinstance(part, bytes) else part for part in arguments)


class Died(BaseException):
    """The process is gone, as by SIGKILL: whatever code still runs is only unwinding, and must not reach the disk."""


Proceed = Callable[[], Any]
Fault = Callable[["FaultyDisk", str, tuple[Any, ...], Proceed], Any]
"""What happens in place of a call: given the disk, the call's name and arguments, and how to go on with it."""


def failing(number: int) -> Fault:
    """Fail with an error number, having done nothing. A descriptor is closed all the same, as Linux does."""

    def fault(disk: "FaultyDisk", name: str, arguments: tuple[Any, ...], proceed: Proceed) -> Any:
        if name == "sql":
            if arguments[0].split()[0] in {"ROLLBACK", "BEGIN"} and number == errno.EINTR:
                return proceed()
            raise _sqlite_error(number)
        if name == "close":
            proceed()
        raise OSError(number, os.strerror(number))

    return fault


def short(disk: "FaultyDisk", name: str, arguments: tuple[Any, ...], proceed: Proceed) -> Any:
    """Write or read half of what was asked for, at least a byte; other calls are none the worse."""
    match name, arguments:
        case "write", (descriptor, data):
            return disk.pass_on("write", descriptor, data[: -(-len(data) // 2)])
        case "pwrite", (descriptor, data, offset):
            return disk.pass_on("pwrite", descriptor, data[: -(-len(data) // 2)], offset)
        case "pread", (descriptor, size, offset):
            return disk.pass_on("pread", descriptor, -(-size // 2), offset)
        case "preadv", (descriptor, [buffer], offset):
            return disk.pass_on("preadv", descriptor, [buffer[: -(-len(buffer) // 2)]], offset)
        case _:
            return proceed()


def dying(disk: "FaultyDisk", name: str, arguments: tuple[Any, ...], proceed: Proceed) -> Any:
    """Be killed before the call."""
    disk.die()


def dying_after(disk: "FaultyDisk", name: str, arguments: tuple[Any, ...], proceed: Proceed) -> Any:
    """Be killed after the call, before anybody learns of it."""
    proceed()
    disk.die()


def calling(function: Callable[[], object]) -> Fault:
    """Let something happen at the moment of the call, which is none the worse."""

    def fault(disk: "FaultyDisk", name: str, arguments: tuple[Any, ...], proceed: Proceed) -> Any:
        function()
        return proceed()

    return fault


class Witness(Protocol):
    """Who is told of every call that succeeded, in order: `power.Recording`."""

    def saw(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        """Take note of a call."""

    def saw_commit(self, files: dict[str, bytes], *, durable: bool) -> None:
        """Take note of what the journal's files are after a commit."""


class FaultyDisk:
    """A disk, while one process uses it.

    Attributes:
        calls: How many calls were made.
        struck: The names of the calls that the fault has struck.
        is_dead: Whether the process is gone.
        is_whole: As given.
        descriptors: What is open.
        chance: What staged files are named by: another one for each run.

    Args:
        dest: The destination on it.
        at: The number of the call to strike, from 1; None for none.
        fault: What happens there.
        lasting: Strike every later call as well.
        only: Count, and strike, the calls of this name alone.
        whole: Whether one flush covers everything, as where there is a syncfs that reports errors.
        witness: Who is told.
    """

    def __init__(
        self,
        dest: Path,
        at: int | None = None,
        fault: Fault = dying,
        *,
        lasting: bool = False,
        only: str | None = None,
        whole: bool = True,
        witness: Witness | None = None,
    ) -> None:
        self.calls = 0
        self.struck: list[str] = []
        self.is_dead = False
        self.descriptors: set[int] = set()
        self._state = dest / ".nccid-fetch"
        self._at = at
        self._fault = fault
        self._lasting = lasting
        self._only = only
        self.is_whole = whole
        self._witness = witness
        self.chance = random.Random(0)
        self._connections: list[FaultyConnection] = []
        self._journal_at_death: dict[str, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        """Stand in for `os`."""
        if name not in COUNTED:
            return getattr(os, name)
        return lambda *arguments, **options: self.call(name, getattr(os, name), *_told(name, arguments), **options)

    def urandom(self, size: int) -> bytes:
        """Return bytes of the chance that was given."""
        return self.chance.randbytes(size)

    def call(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make a call, unless the fault strikes it."""
        if self.is_dead:
            raise Died
        if self._only not in {None, name}:
            return self._done(name, real, arguments, options)
        self.calls += 1
        if self._at is not None and (self.calls == self._at or (self._lasting and self.calls > self._at)):
            self.struck.append(name)
            return self._fault(self, name, arguments, lambda: self._done(name, real, arguments, options))
        return self._done(name, real, arguments, options)

    def pass_on(self, name: str, *arguments: Any) -> Any:
        """Make a call of `os` in place of another one."""
        return self._done(name, getattr(os, name), arguments, {})

    def _done(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Make a call for real, and take note of it."""
        # What is durable the witness knows; to wait for the real disk would show nothing.
        result: Any = os.fstat(*arguments) if name == "fsync" else real(*arguments, **options)
        if name in {"open", "dup"}:
            self.descriptors.add(result)
        elif name == "close":
            self.descriptors.discard(arguments[0])
        elif name == "listdir":
            result.sort()
        if self._witness is not None:
            self._witness.saw(name, arguments, options, result)
        return result

    def die(self) -> None:
        """End the process: what is on the disk at this moment stays, and nothing else."""
        self.is_dead = True
        self._journal_at_death = self._journal_files()
        raise Died

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Let the modules of the package use this disk, and none else; at the end nothing of theirs is open."""
        with pytest.MonkeyPatch.context() as patch:
            for module in MODULES:
                patch.setattr(f"nccid_fetch.{module}.os", self)
            patch.setattr("nccid_fetch.durability._find_syncfs", lambda: self._syncfs if self.is_whole else None)
            patch.setattr("nccid_fetch.sqlitefile.sqlite3", _Sqlite(self))
            try:
                yield
            finally:
                self._unmount()

    def _unmount(self) -> None:
        for connection in self._connections:
            sqlite3.Connection.close(connection)
        if not self.is_dead:
            assert not self.descriptors, f"{len(self.descriptors)} descriptors are left open"
            return
        for descriptor in self.descriptors:  # As the kernel does for a process that is gone.
            os.close(descriptor)
        for name in self._journal_files():
            (self._state / name).unlink()
        for name, content in self._journal_at_death.items():
            path = self._state / name
            path.write_bytes(content)
            path.chmod(0o600)

    def _syncfs(self, descriptor: int) -> int:
        try:
            self.call("syncfs", lambda _: None, descriptor)
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1
        return 0

    def connect(self, path: Path, **options: Any) -> sqlite3.Connection:
        """Open the journal by way of this disk."""
        connection = sqlite3.connect(path, factory=FaultyConnection, **options)
        assert isinstance(connection, FaultyConnection)
        connection.disk = self
        self._connections.append(connection)
        return connection

    def committed(self, *, durable: bool) -> None:
        """Take note of what the journal's files are, and whether they will be that whatever happens."""
        if self._witness is not None:
            self._witness.saw_commit(self._journal_files(), durable=durable)

    def _journal_files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self._state.glob("journal.sqlite*"))}


class _Sqlite:
    """Stands in for the module `sqlite3`."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.connect = disk.connect

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)


class FaultyConnection(sqlite3.Connection):
    """A connection whose statements are calls to a faulty disk.

    SQLite itself never waits for the disk here, because the model says what is durable: a commit is, if SQLite was told to
    see to that.
    """

    disk: FaultyDisk
    _is_full = False

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement."""
        if sql.startswith("PRAGMA synchronous="):
            self._is_full = sql.endswith("=FULL")
            sql = "PRAGMA synchronous=OFF"
        return self._call(super().execute, sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement for each of some rows."""
        return self._call(super().executemany, sql, *arguments)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        """Run statements."""
        return self._call(super().executescript, sql)

    def close(self) -> None:
        """Close, unless the process is gone."""
        if not self.disk.is_dead:
            super().close()
            self.disk.committed(durable=True)  # SQLite flushes around its checkpoint, whatever it does else.

    def _call(self, real: Callable[..., sqlite3.Cursor], sql: str, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.disk.call("sql", real, sql, *arguments)
        if not self.in_transaction and not sql.startswith(("SELECT", "PRAGMA")):
            self.disk.committed(durable=self._is_full)
        return cursor


def _sqlite_error(number: int) -> sqlite3.OperationalError:
    """Return what SQLite makes of an error of the disk."""
    texts = {
        errno.ENOSPC: (sqlite3.SQLITE_FULL, "database or disk is full"),
        errno.EDQUOT: (sqlite3.SQLITE_FULL, "database or disk is full"),
        errno.EROFS: (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
        errno.EACCES: (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
        errno.EMFILE: (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
    }
    code, text = texts.get(number, (sqlite3.SQLITE_IOERR, "disk I/O error"))
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
