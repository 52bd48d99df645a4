"""The nouns: what a listing says, what the journal remembers, what the disk shows, what was decided.

All are frozen values. Times are nanoseconds since the epoch, UTC, as the file system has them; sizes are bytes.
"""

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from .errors import Reason

_MD5 = re.compile(r"[0-9a-f]{32}")
_MULTIPART = re.compile(r"[0-9a-f]{32}-([0-9]{1,5})")


Chunk = bytes | memoryview
"""Some of a body's bytes, as they come in."""


class ETag(str):
    """An object's version mark, without the quotes it travels in.

    >>> ETag.parse('"9e107d9d372bb6826bd81d3542a419d6"').md5
    '9e107d9d372bb6826bd81d3542a419d6'
    >>> ETag("9e107d9d372bb6826bd81d3542a419d6-3").parts
    3
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "ETag":
        """Take an ETag as a header or a listing has it: quoted, bare, or marked as weak."""
        return cls(text.removeprefix("W/").strip('"'))

    @property
    def header(self) -> str:
        """The ETag as `If-Match` wants it."""
        return f'"{self}"'

    @property
    def md5(self) -> str | None:
        """The MD5 that this may be: 32 hex digits. Under SSE-KMS they are something else."""
        return self.lower() if _MD5.fullmatch(self.lower()) else None

    @property
    def parts(self) -> int | None:
        """The number of parts of a multipart upload, or None for any other object."""
        found = _MULTIPART.fullmatch(self.lower())
        return int(found[1]) if found else None


class RemoteObject(NamedTuple):
    """An object as the listing describes it. A tuple, because a night has eleven million of them."""

    key: str
    size: int
    etag: ETag
    modified_ns: int


class VerifiedBy(IntEnum):
    """How an object was proved, the strongest first. The numbers are stored in the journal."""

    MD5 = 1
    MULTIPART_MD5 = 2
    CHECKSUM = 3
    SIZE = 4

    @property
    def label(self) -> str:
        """The word of the contract, as the summary counts it."""
        return self.name.lower()


class Record(NamedTuple):
    """What the journal remembers of a key: the version that was put in place, and how it was proved.

    In doubt is what may have been lost since: it was not flushed to disk, and the machine was restarted. `mtime_ns` is the
    mtime of the file where its file system did not keep `modified_ns`, which is the object's; else None.
    """

    size: int
    etag: ETag
    modified_ns: int
    verified_by: VerifiedBy
    in_doubt: bool = False
    mtime_ns: int | None = None

    @property
    def file_ns(self) -> int:
        """The mtime that the file has, if it is as recorded."""
        return self.modified_ns if self.mtime_ns is None else self.mtime_ns


class LocalKind(StrEnum):
    """What stands where a key's file belongs."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"
    BLOCKED = "blocked"
    """A folder on the way is a link or a file."""
    CLOSED = "closed"
    """The file system does not let us there: a folder that may not be entered, a name that it does not take."""


IN_THE_WAY = {
    LocalKind.FOLDER: "a folder has its name",
    LocalKind.LINK: "a symbolic link has its name",
    LocalKind.OTHER: "something that is not a file has its name",
    LocalKind.BLOCKED: "a symbolic link or a file is where one of its folders belongs",
}
"""What that means for a key."""


class LocalFile(NamedTuple):
    """What the disk shows at a key's path. `refusal`: why it does not let us there, in a sentence."""

    kind: LocalKind
    size: int = 0
    modified_ns: int = 0
    refusal: str | None = None


class Space(NamedTuple):
    """What a file system has left. Some have no limit to the number of files: None."""

    bytes: int
    files: int | None


class Why(StrEnum):
    """Why the plan decided as it did; shown in plans and dry runs."""

    MISSING = "missing"
    VANISHED = "vanished"
    ETAG_CHANGED = "etag_changed"
    SIZE_DIFFERS = "size_differs"
    UNRECORDED = "unrecorded"
    LOCALLY_CHANGED = "locally_changed"
    UNCHANGED = "unchanged"
    KNOWN_BY_SIZE = "known_by_size"
    IN_DOUBT = "in_doubt"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download the object.

    Attributes:
        remote: The object.
        why: The row of the plan's table.
        replaces: The file of an earlier version, which a record vouches for: it may go without more ado. What
            else is found at the path is dealt with as `--existing` says.
    """

    remote: RemoteObject
    why: Why
    replaces: LocalFile | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Hash the file that is there: adopt it if it equals the object, else deal with it as `--existing` says."""

    remote: RemoteObject
    why: Why
    local: LocalFile


class Skip(NamedTuple):
    """Nothing to do. A tuple, as there may be millions. `retime` when only LastModified moved on, and the file's mtime has to follow."""

    remote: RemoteObject
    why: Why = Why.UNCHANGED
    retime: Record | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Cannot or must not be fetched; the run goes on without it."""

    remote: RemoteObject
    reason: Reason
    message: str


Decision = Fetch | Check | Skip | Refuse


class Listed(NamedTuple):
    """What the last listing of a part that came to its end gave.

    Attributes:
        objects: How many, before any filter.
        bytes: The same in bytes.
        ended: When, as the journal writes times: `2026-11-22T19:00:00Z`.
        is_whole: Whether there was no reason to doubt that it was all.
    """

    objects: int
    bytes: int
    ended: str
    is_whole: bool


class PartState(StrEnum):
    """How far a part came. These words are part of the contract."""

    COMPLETE = "complete"
    DENIED = "denied"
    EMPTY = "empty"
    ABSENT = "absent"
    FAILED = "failed"
    STOPPED = "stopped"
