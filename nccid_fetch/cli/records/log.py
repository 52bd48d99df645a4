"""The log: what happened, line by line, as text or as JSON; kept small by turning it over.

Two processes may append to one log: a line is written at once, and whoever turns it over holds a lock on it meanwhile, so
that the other one finds a new file instead of turning that over as well.
"""

import atexit
import fcntl
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO, cast

from nccid_fetch.cli.flags import LogFormat
from nccid_fetch.cli.narration import Sentence
from nccid_fetch.keys import printable
from nccid_fetch.streams import STDOUT, descriptor_of

from .files import open_special, open_to_append, unwritable
from .outlet import Outlet
from .times import now, stamp

LOG_BYTES_MAX = 10_000_000
"""How long a log may become before it is turned over."""
OLD_LOGS = 5
"""How many are kept beside it: FILE.1 is the latest."""
_LEVELS = {"error": "error", "hint": "error", "warning": "warning"}


class Log:
    """A log file that is being written.

    Args:
        path: The file; appended to.
        form: How its lines are written.
        on_failure: Called, in another thread, when it cannot be written any more. The command goes on.
        clock: The time of day.

    Raises:
        UsageError: It cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        form: LogFormat,
        *,
        on_failure: Callable[[OSError], object],
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._as_json = form is LogFormat.JSON
        self._clock = clock
        self._pid = os.getpid()
        try:
            self._file = _TurnedFile(path)
        except OSError as error:
            raise unwritable("--log-file", path, error) from error
        self._outlet = Outlet("log", self._file.write, gap=self._gap, on_failure=on_failure)

    def tell(self, sentence: Sentence) -> None:
        """Write a sentence about an event."""
        self.write(sentence.level, sentence.text, **sentence.facts)

    def hear(self, text: str) -> None:
        """Write a line that stderr gets."""
        self.write(_LEVELS.get(text.partition(":")[0], "info"), text)

    def write(self, level: str, text: str, **facts: Any) -> None:  # noqa: ANN401 - whatever JSON can say.
        """Write a line; in JSON with these facts. Does not wait, and may be called in any thread."""
        self._outlet.put(self._line(level, text, facts))

    def close(self, seconds: float) -> None:
        """Have all of it written, but wait no longer than this."""
        if self._outlet.close(seconds):
            with suppress(OSError):  # Which was said already.
                self._file.close()
        else:
            atexit.unregister(logging.shutdown)  # It would wait for the thread, and nobody knows how long.

    def _gap(self, lost: int) -> str:
        return self._line("warning", f"{lost:,} lines are missing here: the log could not be written fast enough", {})

    def _line(self, level: str, text: str, facts: dict[str, Any]) -> str:
        time, text = stamp(self._clock()), printable(text.removeprefix(f"{level}: ").removeprefix("note: "))
        if self._as_json:
            return json.dumps({"time": time, "level": level, "pid": self._pid, "message": text} | facts)
        return f"{time} {self._pid} {level:<7} {text}"


class _TurnedFile(RotatingFileHandler):
    """The handler of the standard library, which counts and renames; here are its file, and others who write to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_special = False
        super().__init__(
            path if descriptor_of(path, STDOUT) is not None else os.path.realpath(path),  # A link stays where it is.
            maxBytes=LOG_BYTES_MAX,
            backupCount=OLD_LOGS,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: It cannot be written.
        """
        self.handle(logging.makeLogRecord({"msg": line}))

    def shouldRollover(self, record: logging.LogRecord) -> int:  # noqa: N802 - the library's name.
        """Say whether it is too long for one line more, after having followed it where somebody else turned it over."""
        if self._is_special:
            return 0
        if not Path(self.baseFilename).is_file():  # Nothing any more.
            return int(not Path(self.baseFilename).exists() and self._reopen())
        if not self._is_current():
            self._reopen()
        line = len(self.format(record).encode(errors="backslashreplace")) + 1
        length = os.fstat(self._descriptor).st_size  # Others may have written, too.
        return int(length > 0 and length + line > self.maxBytes)

    def doRollover(self) -> None:  # noqa: N802 - the library's name.
        """Turn it over, unless somebody else did while we waited for the lock."""
        turned = os.dup(self._descriptor)
        try:
            with suppress(OSError):  # A file system without locks.
                fcntl.flock(turned, fcntl.LOCK_EX)
            if self._is_current():
                super().doRollover()
            else:
                self._reopen()
        except PermissionError:  # In a folder that is not ours it can be written, but not renamed: then it only grows.
            self.maxBytes = 0
            self._reopen()
        finally:
            os.close(turned)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the library's.
        """Raise what happened, which the library would print."""
        raise  # noqa: PLE0704 - it is called where that is being handled.

    def _open(self) -> Any:  # noqa: ANN401 - what the library's is said to return is not open to everyone.
        special = open_special(self._path)
        self._is_special = special is not None
        descriptor = open_to_append(self._path) if special is None else special
        # To append means to go to the end first, which of what others have open as well is theirs to do.
        mode = "w" if self._is_special else "a"
        return cast("TextIO", os.fdopen(descriptor, mode, encoding="utf-8", errors=self.errors))

    @property
    def _descriptor(self) -> int:
        assert self.stream is not None
        return self.stream.fileno()

    def _is_current(self) -> bool:
        """Say whether what is open is what has the name."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), Path(self.baseFilename).stat())
        return False

    def _reopen(self) -> bool:
        """Open what has the name now. Returns False: there is nothing to be turned over."""
        if self.stream is not None:
            self.stream.close()
        self.stream = self._open()
        return False
