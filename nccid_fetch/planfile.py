"""Plans on disk: JSON lines that a person can read, cut down with any text tool, and have carried out.

The first line says what the plan is of; every other one is a decision::

    {"schema": "nccid-fetch/plan/1", "bucket": "...", "group": "training"}
    {"action": "fetch", "reason": "missing", "key": "training/ct/...", "size": 1, "etag": "...", "modified": "..."}

A plan that goes through a pipe may break off; its last line is then `{"incomplete": "the listing of ct broke off"}`.

Carrying a plan out decides anew about each of its objects: the disk may have changed since.
"""

import codecs
import json
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, TextIO, cast

from .errors import DestinationError, UsageError
from .model import Check, Decision, ETag, Fetch, Refuse, RemoteObject, Skip
from .settings import Source
from .streams import DASH, STDIN, descriptor_of, open_input
from .warehouse import group_prefix, part_of, patient_of, phase_of

SCHEMA = "nccid-fetch/plan/1"
_MS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COPIED_BYTES_MAX = 16 << 20
"""How much of a plan that comes through a pipe is kept in memory."""
LINE_BYTES_MAX = 64 << 10
"""More than any line of a plan has: a key has 1,024 bytes, and each takes six where JSON escapes it."""
_MAKE = "nccid-fetch plan --output FILE makes one"
_AGAIN = "make the plan again: nccid-fetch plan --output FILE"
_TEXT = re.compile("[^\ud800-\udfff]*")
_SIZE = re.compile(r"[0-9]{1,18}")


def write_header(out: TextIO, source: Source) -> None:
    """Write a plan's first line."""
    out.write(json.dumps({"schema": SCHEMA, "bucket": source.bucket, "group": source.group}) + "\n")


def write_decision(out: TextIO, decision: Decision) -> None:
    """Write one decision as a line."""
    remote = decision.remote
    line = {
        "action": type(decision).__name__.lower(),
        "reason": str(_reason(decision)),
        "key": remote.key,
        "size": remote.size,
        "etag": remote.etag,
        "modified": (_EPOCH + timedelta(milliseconds=remote.modified_ns // _MS)).isoformat(timespec="milliseconds"),
    }
    out.write(json.dumps(line) + "\n")


def write_incomplete(out: TextIO, why: str) -> None:
    """Write that what was written is not the whole plan, so that it is not carried out as one."""
    out.write(json.dumps({"incomplete": why}) + "\n")


def _reason(decision: Decision) -> str:
    match decision:
        case Fetch(why=why) | Check(why=why) | Skip(why=why):
            return why
        case Refuse(reason=reason):
            return reason


class PlanFile:
    """A plan that was read once from end to end, and can be gone through again.

    Attributes:
        name: What to call it in a message.
        parts: The parts that it has objects of.

    Args:
        file: What it is in; it can be read again from its first byte on.
        name: What to call it.
        source: What it is of.
        parts: The parts that it has objects of.
    """

    def __init__(self, file: BinaryIO, name: str, source: Source, parts: tuple[str, ...]) -> None:
        self.name = name
        self.parts = parts
        self._file = file
        self._source = source

    def remotes(self, *, sort: bool = False) -> Iterator[RemoteObject]:
        """Yield its objects. Only one of these at a time can be gone through.

        Args:
            sort: Yield them patient by patient, and those of a patient part by part in the order of parts' phases, in
                place of the order that they have.

        Raises:
            UsageError: It was changed since it was read.
            DestinationError: It is to be sorted, and there is no room for that.
        """
        self._file.seek(0)
        remotes = read_plan(self._file, self.name, self._source)
        return _sorted(remotes, self.name, self._source) if sort else remotes


@contextmanager
def open_plan(path: Path, source: Source) -> Iterator[PlanFile]:
    """Read a plan from end to end, and keep it for as long as the block lasts.

    What is no file can be read only once: it is copied, into memory up to 16 MiB, else into a temporary file.

    Args:
        path: The plan; `-` is stdin.
        source: What it is to be of.

    Raises:
        UsageError: It cannot be read, is not a plan, or one of another bucket or group. Names the line.
        DestinationError: There is no room for the copy.
    """
    name = "stdin" if path == DASH else str(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_input(path))
            is_file = descriptor_of(path, STDIN) is None and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            raise _unreadable(name, error) from error
        kept: BinaryIO | None = None
        if not is_file:
            kept = cast("BinaryIO", stack.enter_context(SpooledTemporaryFile(COPIED_BYTES_MAX)))
        parts: dict[str, None] = {}
        for remote in read_plan(file, name, source, kept):
            parts[part_of(remote.key, source.group)] = None
        yield PlanFile(file if kept is None else kept, name, source, tuple(parts))


def read_plan(file: BinaryIO, name: str, source: Source, copy: BinaryIO | None = None) -> Iterator[RemoteObject]:
    """Yield the objects of a plan, in its order.

    Args:
        file: The plan, from its first byte on.
        name: What to call it.
        source: What it is to be of.
        copy: Gets each line that was read and is right.

    Raises:
        UsageError: It is not a plan, or one of another bucket or group. Names the line.
        DestinationError: There is no room for the copy.
    """
    for number, line in enumerate(_lines(file, name), start=1):
        if number == 1:
            _check_header(_value(name, number, line.removeprefix(codecs.BOM_UTF8)), name, source)
        elif line.strip():
            value = _value(name, number, line)
            if "incomplete" in value:
                raise UsageError(f"{name} is not a whole plan: {value['incomplete']}", hint=_AGAIN)
            remote = _remote(name, number, value)
            if not _is_in_a_part(remote.key, source.group):
                raise UsageError(f"{name}, line {number}: the key is in no part of {source.group}", hint=_AGAIN)
            yield remote
        if copy is not None:
            try:
                copy.write(line)
            except OSError as error:
                raise DestinationError(
                    f"{name} cannot be kept until it is carried out: {error.strerror}",
                    hint="make room where temporary files go (TMPDIR)",
                ) from error


def _is_in_a_part(key: str, group: str) -> bool:
    """Say whether a key is in a part that can be asked for: its name is text."""
    return (
        key.startswith(group_prefix(group)) and key.count("/") > 1 and _TEXT.fullmatch(part_of(key, group)) is not None
    )


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield lines, each of a length that a line of a plan can have."""
    is_empty = True
    while True:
        try:
            line = file.readline(LINE_BYTES_MAX)
        except OSError as error:
            raise _unreadable(name, error) from error
        if not line:
            break
        is_empty = False
        yield line
    if is_empty:
        raise UsageError(f"{name} is empty, and not a plan", hint=_MAKE)


def _check_header(header: dict[str, object], name: str, source: Source) -> None:
    if header.get("schema") != SCHEMA:
        raise UsageError(f"{name} is not a plan of this version", hint=_MAKE)
    if (header.get("bucket"), header.get("group")) != (source.bucket, source.group):
        raise UsageError(
            f"{name} is a plan of group {header.get('group')} of bucket {header.get('bucket')}",
            hint="give the --bucket and --group that it was made with",
        )


def _unreadable(name: str, error: OSError) -> UsageError:
    return UsageError(f"--plan {name} cannot be read: {error.strerror}", hint=_MAKE)


def _sorted(remotes: Iterator[RemoteObject], name: str, source: Source) -> Iterator[RemoteObject]:
    """Yield objects patient by patient. They may be more than memory holds, and are sorted in a file of SQLite's own."""
    with closing(sqlite3.connect("")) as database:
        try:
            database.execute("CREATE TABLE remote (patient BLOB, phase INTEGER, key BLOB, size, etag BLOB, modified)")
            rows = (
                (
                    _raw(patient_of(key)),
                    phase_of(part_of(key, source.group)),
                    _raw(key),
                    size,
                    _raw(etag),
                    modified_ns // _MS,
                )
                for key, size, etag, modified_ns in remotes
            )
            database.executemany("INSERT INTO remote VALUES (?, ?, ?, ?, ?, ?)", rows)
            in_order = "SELECT key, size, etag, modified FROM remote ORDER BY patient, phase, key"
            for key, size, etag, modified in database.execute(in_order):
                yield RemoteObject(_text(key), size, ETag(_text(etag)), modified * _MS)
        except sqlite3.Error as error:
            raise DestinationError(
                f"{name} cannot be sorted by patient: {error}", hint="make room where temporary files go (TMPDIR)"
            ) from error


def _raw(text: str) -> bytes:
    """Return the bytes that a text sorts by, whatever JSON has put into it."""
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _value(name: str, number: int, line: bytes) -> dict[str, object]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UsageError(f"--plan {name} cannot be read: line {number} is not UTF-8", hint=_MAKE) from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{name}, line {number}: not a JSON object", hint=_MAKE)
    return value


def _remote(name: str, number: int, line: dict[str, object]) -> RemoteObject:
    key, size, etag, modified_ns = line.get("key"), line.get("size"), line.get("etag"), _time(line.get("modified"))
    for column, is_right in {
        "key": isinstance(key, str),
        "size": _SIZE.fullmatch(str(size)) is not None,
        "etag": isinstance(etag, str) and _TEXT.fullmatch(etag) is not None,
        "modified": modified_ns is not None,
    }.items():
        if not is_right:
            raise UsageError(f"{name}, line {number}: {column} is missing or wrong", hint=_AGAIN)
    return RemoteObject(str(key), int(str(size)), ETag(etag), modified_ns or 0)


def _time(text: object) -> int | None:
    try:
        since = datetime.fromisoformat(str(text)) - _EPOCH
    except (ValueError, TypeError):  # TypeError: it is in no time zone.
        return None
    return since // timedelta(milliseconds=1) * _MS
