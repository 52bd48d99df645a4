"""A staged file: an object's bytes on their way in, under a name of our own in the state folder.

It gets the object's name only by `Destination.publish`, after it was verified. Every function here blocks, and is
called in a thread.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from .attributes import passed_on_by, set_mode, set_time
from .digests import new_md5

if TYPE_CHECKING:
    import hashlib

    from .model import Chunk

READ_BYTES = 1 << 20
_STAGE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def chunks_of(descriptor: int) -> Iterator[bytes]:
    """Yield a file's bytes from its beginning, wherever it was read before."""
    offset = 0
    while chunk := os.pread(descriptor, READ_BYTES, offset):
        offset += len(chunk)
        yield chunk


class Staging:
    """The folder of staged files.

    Args:
        folder_fd: A descriptor of it.
        file_mode: The mode that files get, whatever the umask.

    Attributes:
        passed: What files get from it besides.
    """

    def __init__(self, folder_fd: int, file_mode: int) -> None:
        self.folder_fd = folder_fd
        self.file_mode = file_mode
        self.passed = passed_on_by(folder_fd)
        self.open_files: set[StagedFile] = set()
        self._run = os.urandom(6).hex()
        self._numbers = count(1)

    def new(self, *, hashed: bool) -> "StagedFile":
        """Return a staged file that does not exist yet: it is made by its first byte, or when it is sealed."""
        return StagedFile(self, f"{self._run}-{next(self._numbers)}", hashed=hashed)

    def clear(self) -> None:
        """Remove every staged file: what an earlier run left behind, or this one at its end.

        Only for whoever holds the journal, and while no thread writes.
        """
        for staged in tuple(self.open_files):
            with suppress(OSError):  # What a file that is to go has to say about its last bytes is nothing.
                staged.close()
        for name in os.listdir(self.folder_fd):  # noqa: PTH208 - a descriptor has no path.
            # A folder is none of ours: so say Linux and macOS. What is gone was the probe of a run that is refused now.
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                os.unlink(name, dir_fd=self.folder_fd)


class StagedFile:
    """One attempt at one object's bytes, hashed as they are written.

    Attributes:
        name: Its name in the staging folder.
        size: Bytes written so far.
        is_sealed: Whether its content is complete.
        mtime_ns: The mtime that its file system gave it, once it gets its name; None before.
    """

    __slots__ = ("_fd", "_md5", "_staging", "is_sealed", "mtime_ns", "name", "size")

    def __init__(self, staging: Staging, name: str, *, hashed: bool) -> None:
        self._staging = staging
        self._fd = -1
        self._md5: hashlib._Hash | None = new_md5() if hashed else None
        self.name = name
        self.size = 0
        self.is_sealed = False
        self.mtime_ns: int | None = None

    @property
    def md5(self) -> str | None:
        """The MD5 of what was written, in hex, unless it was not to be hashed."""
        return self._md5.hexdigest() if self._md5 else None

    def open(self) -> None:
        """Make the file, unless that was done. Whoever writes from several threads does so first."""
        if self._fd < 0:
            self._fd = os.open(self.name, _STAGE_FLAGS, self._staging.file_mode, dir_fd=self._staging.folder_fd)
            self._staging.open_files.add(self)
            set_mode(self._fd, self._staging.file_mode)

    def append(self, chunk: "Chunk") -> None:
        """Write bytes at the end.

        Raises:
            OSError: The disk is full or broken.
        """
        self.open()
        rest = memoryview(chunk)
        if self._md5 is not None:
            self._md5.update(rest)
        self.size += len(rest)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def write_at(self, offset: int, chunk: "Chunk") -> None:
        """Write bytes of an open file where they belong; they count when `take_in` reaches them.

        Raises:
            OSError: The disk is full or broken.
        """
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def take_in(self, stop: int) -> None:
        """Count what was written up to an offset, and hash it.

        Raises:
            OSError: The disk cannot be read.
        """
        if self._md5 is not None and self.size < stop:
            buffer = memoryview(bytearray(min(READ_BYTES, stop - self.size)))  # One for all: fresh memory is dear.
            while self.size < stop:
                count = os.preadv(self._fd, [buffer[: stop - self.size]], self.size)
                if not count:
                    raise OSError(errno.EIO, "what was written cannot be read back")
                self._md5.update(buffer[:count])
                self.size += count
        self.size = stop

    def cut(self) -> None:
        """Drop what was written beyond what counts, and go on there."""
        if self._fd >= 0:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)

    def seal(self, modified_ns: int) -> None:
        """Give the file its mtime and close it: its content is complete.

        Raises:
            OSError: The disk is full or broken; some file systems say so only now.
        """
        self.open()
        set_time(self._fd, modified_ns)
        self.close()
        self.is_sealed = True

    def append_and_seal(self, chunk: "Chunk", modified_ns: int) -> None:
        """Write a whole body in one go: one hop to a thread for a small object."""
        self.append(chunk)
        self.seal(modified_ns)

    def close(self) -> None:
        """Close the file, if it is open."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            self._staging.open_files.discard(self)
            os.close(descriptor)

    def discard(self) -> None:
        """Close and remove the file, if it was ever made."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._staging.folder_fd)

    def chunks(self) -> Iterator[bytes]:
        """Yield what was written, from the beginning."""
        descriptor = self.open_for_reading()
        try:
            yield from chunks_of(descriptor)
        finally:
            os.close(descriptor)

    def open_for_reading(self) -> int:
        """Return a descriptor on what was written; the caller closes it."""
        return os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._staging.folder_fd)
