"""The fold over events: each object counted once, in the right place."""

from nccid_fetch.errors import Reason
from nccid_fetch.events import PagePlanned
from nccid_fetch.model import Check, Decision, ETag, Fetch, LocalFile, LocalKind, Refuse, RemoteObject, Skip, Why
from nccid_fetch.summary import Count, Tally


def remote(size: int) -> RemoteObject:
    return RemoteObject(f"training/ct/{size}", size, ETag("0" * 32), 0)


def test_a_page_is_counted_by_what_was_decided_and_only_skipped_objects_are_settled() -> None:
    decisions: list[Decision] = [
        Fetch(remote(1), Why.MISSING),
        Check(remote(2), Why.UNRECORDED, LocalFile(LocalKind.FILE, 2)),
        Skip(remote(4)),
        Skip(remote(8)),
        Refuse(remote(16), Reason.CONFLICT, ""),
    ]
    tally = Tally()
    for _ in range(2):
        tally(PagePlanned("ct", decisions, known_by_size=1))
    assert tally.planned == {"fetch": Count(2, 2), "check": Count(2, 4), "skip": Count(4, 24), "refuse": Count(2, 32)}
    assert tally.listed == tally.parts["ct"].listed == Count(10, 62)
    assert tally.skipped == tally.settled == Count(4, 24)
    assert tally.known_by_size == 2
