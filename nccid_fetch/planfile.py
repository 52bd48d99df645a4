"""Plans on disk: JSON lines that a person can read, cut down with any text tool, and have carried out.

The first line says what the plan is of; every other one is a decision::

    {"schema": "nccid-fetch/plan/1", "bucket": "...", "group": "training"}
    {"action": "fetch", "reason": "missing", "key": "training/ct/...", "size": 1, "etag": "...", "modified": "..."}

Carrying a plan out decides anew about each of its objects: the disk may have changed since.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from .errors import DestinationError, UsageError
from .model import Check, Decision, ETag, Fetch, Refuse, RemoteObject, Skip
from .settings import Source
from .warehouse import group_prefix, part_of, patient_of, phase_of

SCHEMA = "nccid-fetch/plan/1"
_MS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def _reason(decision: Decision) -> str:
    match decision:
        case Fetch(why=why) | Check(why=why) | Skip(why=why):
            return why
        case Refuse(reason=reason):
            return reason


def read_plan(path: Path, source: Source) -> Iterator[RemoteObject]:
    """Yield the objects of a plan, in its order.

    Raises:
        UsageError: It is not a plan, or one of another bucket or group. Names the line.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            header = _line(path, 1, lines.readline())
            if header.get("schema") != SCHEMA:
                raise UsageError(
                    f"{path} is not a plan of this version", hint="nccid-fetch plan --output FILE makes one"
                )
            if (header.get("bucket"), header.get("group")) != (source.bucket, source.group):
                raise UsageError(
                    f"{path} is a plan of group {header.get('group')} of bucket {header.get('bucket')}",
                    hint="give the --bucket and --group that it was made with",
                )
            for number, line in enumerate(lines, start=2):
                if line.strip():
                    remote = _remote(path, number, _line(path, number, line))
                    if not remote.key.startswith(group_prefix(source.group)) or remote.key.count("/") < 2:
                        raise UsageError(
                            f"{path}, line {number}: the key is in no part of {source.group}",
                            hint="make the plan again: nccid-fetch plan --output FILE",
                        )
                    yield remote
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"--plan {path} cannot be read: {why}", hint="nccid-fetch plan --output FILE makes one"
        ) from error


def sorted_plan(path: Path, source: Source) -> Iterator[RemoteObject]:
    """Yield the objects of a plan patient by patient, and those of a patient part by part in the order of parts' phases.

    A plan has pages as they came, and may be larger than memory: it is sorted in a file of SQLite's own, which has no name.

    Raises:
        UsageError: As `read_plan` does.
        DestinationError: There is no room for that file.
    """
    with closing(sqlite3.connect("")) as database:
        try:
            database.execute("CREATE TABLE remote (patient BLOB, phase INTEGER, key BLOB, size, etag BLOB, modified)")
            rows = (
                (_raw(patient_of(key)), phase_of(part_of(key, source.group)), _raw(key), size, _raw(etag), modified_ns)
                for key, size, etag, modified_ns in read_plan(path, source)
            )
            database.executemany("INSERT INTO remote VALUES (?, ?, ?, ?, ?, ?)", rows)
            in_order = "SELECT key, size, etag, modified FROM remote ORDER BY patient, phase, key"
            for key, size, etag, modified_ns in database.execute(in_order):
                yield RemoteObject(_text(key), size, ETag(_text(etag)), modified_ns)
        except sqlite3.Error as error:
            raise DestinationError(
                f"{path} cannot be sorted by patient: {error}", hint="make room where temporary files go (TMPDIR)"
            ) from error


def _raw(text: str) -> bytes:
    """Return the bytes that a text sorts by, whatever JSON has put into it."""
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def parts_of_plan(path: Path, source: Source) -> tuple[str, ...]:
    """Return the parts that a plan has objects of, having read it once from end to end."""
    return tuple(dict.fromkeys(part_of(remote.key, source.group) for remote in read_plan(path, source)))


def _line(path: Path, number: int, text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{path}, line {number}: not a JSON object", hint="nccid-fetch plan --output FILE makes one")
    return value


def _remote(path: Path, number: int, line: dict[str, object]) -> RemoteObject:
    key, size, etag, modified_ns = line.get("key"), line.get("size"), line.get("etag"), _time(line.get("modified"))
    for name, is_right in {
        "key": isinstance(key, str),
        "size": _SIZE.fullmatch(str(size)) is not None,
        "etag": isinstance(etag, str),
        "modified": modified_ns is not None,
    }.items():
        if not is_right:
            raise UsageError(
                f"{path}, line {number}: {name} is missing or wrong",
                hint="make the plan again: nccid-fetch plan --output FILE",
            )
    return RemoteObject(str(key), int(str(size)), ETag(etag), modified_ns or 0)


def _time(text: object) -> int | None:
    try:
        since = datetime.fromisoformat(str(text)) - _EPOCH
    except (ValueError, TypeError):  # TypeError: it is in no time zone.
        return None
    return since // timedelta(milliseconds=1) * _MS
