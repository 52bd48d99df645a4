"""What one object needs, decided from three values before any request: listing, journal, disk.

======== ======================== ============ =====================================================
record   local file               ETag         decision
======== ======================== ============ =====================================================
none     absent                   any          Fetch(missing)
none     a file, other size       any          Fetch(size_differs), the file set aside first
none     a file, same size        any          Check(unrecorded): hash it; equal: adopt, else fetch
yes      absent                   any          Fetch(vanished)
yes      as recorded              differs      Fetch(etag_changed), replaced without more ado
yes      as recorded              equal        Skip(unchanged); mtime follows a newer LastModified
yes, by  as recorded              equal, an    Check(known_by_size), if only what is proved counts
size                              MD5
yes, in  as recorded              equal        Check(in_doubt): hash it; equal: adopt, else fetch and
doubt                                          replace without more ado
yes, in  with the recorded mtime, any          Fetch(in_doubt), replaced without more ado
doubt    but another size
yes      not as recorded, other   any          Fetch(size_differs), the file set aside first
         size than the object
yes      not as recorded, same    any          Check(locally_changed)
         size as the object
any      a folder, a link, or     any          Refuse(conflict)
         anything but a file
any      behind a link or a file  any          Refuse(conflict)
any      in a folder that may     any          Refuse(local_error)
         not be entered, or with
         a name that the file
         system does not take
======== ======================== ============ =====================================================

The recorded mtime is the one that the file got, which may be coarser than LastModified. With `--existing keep`, where the
table sets a file aside it is left as it is: Refuse(conflict). With `--existing replace` nothing is set aside. Keys without a
safe path never get here: Refuse(unsafe_key).
"""

from .errors import Reason
from .model import (
    IN_THE_WAY,
    Check,
    Decision,
    Fetch,
    LocalFile,
    LocalKind,
    Record,
    Refuse,
    RemoteObject,
    Skip,
    VerifiedBy,
    Why,
)
from .settings import Existing

KEPT = "a file that differs from it has its name, and is kept"

_FILE = LocalKind.FILE  # As a global: Python 3.11 takes as long over a member of an enum as over a call.


def decide(
    remote: RemoteObject,
    record: Record | None,
    local: LocalFile | None,
    existing: Existing = Existing.CHECK,
    *,
    require_verified: bool = False,
) -> Decision:
    """Decide what one object needs; every row of the module's table is a test case.

    Args:
        remote: The object as the listing describes it.
        record: What the journal remembers of its key, if anything.
        local: What the disk shows at its path, if anything.
        existing: What to do with files that no record vouches for.
        require_verified: Only what is proved counts.
    """
    if local is None:
        return Fetch(remote, Why.MISSING if record is None else Why.VANISHED)
    if local.kind is not _FILE:
        if local.kind is LocalKind.CLOSED:
            return Refuse(remote, Reason.LOCAL_ERROR, local.refusal or "its place cannot be looked at")
        return Refuse(remote, Reason.CONFLICT, IN_THE_WAY[local.kind])
    if record is not None and local.size == record.size and local.modified_ns == record.file_ns:
        if record.etag != remote.etag or record.size != remote.size:
            return Fetch(remote, Why.ETAG_CHANGED, replaces=local)
        if record.in_doubt:
            return Check(remote, Why.IN_DOUBT, local)
        if require_verified and record.verified_by is VerifiedBy.SIZE and remote.etag.md5 is not None:
            return Check(remote, Why.KNOWN_BY_SIZE, local)
        if remote.modified_ns > record.modified_ns:
            return Skip(remote, retime=record)
        return Skip(remote)
    return _decide_unvouched(remote, record, local, existing)


def _decide_unvouched(
    remote: RemoteObject, record: Record | None, local: LocalFile, existing: Existing
) -> Fetch | Check | Refuse:
    """Decide about a file that is not as any record has it."""
    if record is not None and record.in_doubt and local.modified_ns == record.file_ns:
        return Fetch(remote, Why.IN_DOUBT, replaces=local)  # Ours, and cut short by a power failure.
    if local.size == remote.size:
        return Check(remote, Why.UNRECORDED if record is None else Why.LOCALLY_CHANGED, local)
    return displace(remote, Why.SIZE_DIFFERS, existing)


def displace(remote: RemoteObject, why: Why, existing: Existing) -> Fetch | Refuse:
    """Decide about a file that differs from the object and that no record vouches for."""
    if existing is Existing.KEEP:
        return Refuse(remote, Reason.CONFLICT, KEPT)
    return Fetch(remote, why)


def refute(check: Check, existing: Existing) -> Fetch | Refuse:
    """Decide about a file that was hashed and is not the object."""
    if check.why is Why.IN_DOUBT:
        return Fetch(check.remote, check.why, replaces=check.local)
    return displace(check.remote, check.why, existing)


class Nesting:
    """Notices an object `a` beside objects `a/b`: on a disk the name can be a file or a folder, not both.

    Keys come in byte order, so all that begin with `a` follow `a` without a gap, and the keys that the present
    one begins with are few: memory is bounded by the length of a key.
    """

    def __init__(self) -> None:
        self._beginnings: list[str] = []

    def parent_of(self, key: str) -> str | None:
        """Return the earlier key that would have to be a folder for this one, if there is one."""
        beginnings = self._beginnings
        while beginnings and not key.startswith(beginnings[-1]):
            beginnings.pop()
        for begin in beginnings:
            if key.startswith(begin + "/"):
                return begin
        return None

    def add(self, key: str) -> None:
        """Remember a key that gets a file: the one that `parent_of` was asked about last."""
        self._beginnings.append(key)
