"""A little room kept back, so that on a full disk the last batch and the journal can still be written.

It lies among the staged files: whatever ends a run, it goes with them.
"""

import os
from contextlib import suppress

RESERVE_BYTES = 4 << 20
"""A batch's folders and rows, several times over."""
_NAME = "reserve"


class Reserve:
    """A file that is there to be given up. Every function here blocks, and is called in a thread.

    Args:
        folder_fd: A descriptor of the folder of staged files.

    Attributes:
        is_given_up: Whether the disk was full, and what is written now is the last.
    """

    def __init__(self, folder_fd: int) -> None:
        self._folder_fd = folder_fd
        self.is_given_up = False

    def take(self) -> None:
        """Keep room back. Where there is none, a run that has little to write may still come to its end."""
        with suppress(OSError):
            descriptor = os.open(
                _NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder_fd
            )
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
                else:
                    os.write(descriptor, bytes(RESERVE_BYTES))
            except OSError:
                self._remove()
            finally:
                os.close(descriptor)

    def give_up(self) -> bool:
        """Make room, once; say whether it was made just now."""
        if self.is_given_up:
            return False
        self.is_given_up = True
        self._remove()
        return True

    def _remove(self) -> None:
        with suppress(OSError):
            os.unlink(_NAME, dir_fd=self._folder_fd)
