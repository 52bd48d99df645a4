"""What an object needs, row by row of the table, and what must hold whatever the row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.decisions import KEPT, Nesting, decide, displace, refute
from nccid_fetch.errors import Reason
from nccid_fetch.model import (
    IN_THE_WAY,
    Check,
    Decision,
    ETag,
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
from nccid_fetch.settings import Existing

from .catalogue import fault

KEY = "training/ct/a.dcm"
NOW, LATER, EARLIER = 1_600_000_000_000_000_000, 1_600_000_001_000_000_000, 1_599_999_999_000_000_000
OLD, NEW = ETag("0" * 32), ETag("1" * 32)
REMOTE = RemoteObject(KEY, 10, OLD, NOW)
RECORD = Record(10, OLD, NOW, VerifiedBy.MD5)
AS_RECORDED = LocalFile(LocalKind.FILE, 10, NOW)
TOUCHED = LocalFile(LocalKind.FILE, 10, LATER)
OTHER_SIZE = LocalFile(LocalKind.FILE, 11, NOW)

every_existing = pytest.mark.parametrize("existing", Existing)


@every_existing
def test_an_absent_file_without_a_record_is_fetched_as_missing(existing: Existing) -> None:
    assert decide(REMOTE, None, None, existing) == Fetch(REMOTE, Why.MISSING)


@every_existing
def test_an_absent_file_with_a_record_is_fetched_as_vanished(existing: Existing) -> None:
    for etag in (OLD, NEW):
        assert decide(REMOTE._replace(etag=etag), RECORD, None, existing) == Fetch(
            REMOTE._replace(etag=etag), Why.VANISHED
        )


@pytest.mark.parametrize("record", [None, RECORD])
@pytest.mark.parametrize("etag", [OLD, NEW])
@pytest.mark.parametrize("existing", [Existing.CHECK, Existing.REPLACE])
def test_a_file_of_another_size_that_no_record_vouches_for_is_fetched_and_not_replaced_blindly(
    record: Record | None, etag: ETag, existing: Existing
) -> None:
    remote = REMOTE._replace(etag=etag)
    assert decide(remote, record, OTHER_SIZE, existing) == Fetch(remote, Why.SIZE_DIFFERS, replaces=None)


@pytest.mark.parametrize("record", [None, RECORD])
@pytest.mark.parametrize("etag", [OLD, NEW])
def test_with_keep_a_file_of_another_size_stays_and_is_a_conflict(record: Record | None, etag: ETag) -> None:
    remote = REMOTE._replace(etag=etag)
    assert decide(remote, record, OTHER_SIZE, Existing.KEEP) == Refuse(remote, Reason.CONFLICT, KEPT)


@every_existing
def test_a_file_of_the_same_size_without_a_record_is_checked(existing: Existing) -> None:
    for local in (AS_RECORDED, TOUCHED):
        assert decide(REMOTE, None, local, existing) == Check(REMOTE, Why.UNRECORDED, local)


@fault(80)
@every_existing
def test_a_touched_file_of_the_same_size_is_checked_whatever_its_etag(existing: Existing) -> None:
    for etag in (OLD, NEW):
        remote = REMOTE._replace(etag=etag)
        assert decide(remote, RECORD, TOUCHED, existing) == Check(remote, Why.LOCALLY_CHANGED, TOUCHED)


@every_existing
def test_a_file_as_recorded_whose_object_has_a_new_etag_is_replaced_without_more_ado(existing: Existing) -> None:
    for size in (10, 12):
        remote = REMOTE._replace(etag=NEW, size=size)
        assert decide(remote, RECORD, AS_RECORDED, existing) == Fetch(remote, Why.ETAG_CHANGED, replaces=AS_RECORDED)


@fault(107)
@every_existing
def test_a_file_in_doubt_is_hashed_though_record_and_etag_agree(existing: Existing) -> None:
    doubted = RECORD._replace(in_doubt=True)
    assert decide(REMOTE, doubted, AS_RECORDED, existing) == Check(REMOTE, Why.IN_DOUBT, AS_RECORDED)


@fault(69)
@every_existing
def test_a_file_in_doubt_that_is_not_the_object_is_ours_and_replaced_without_more_ado(existing: Existing) -> None:
    doubted = RECORD._replace(in_doubt=True)
    cut_short = AS_RECORDED._replace(size=0)
    assert decide(REMOTE, doubted, cut_short, existing) == Fetch(REMOTE, Why.IN_DOUBT, replaces=cut_short)
    hashed = Check(REMOTE, Why.IN_DOUBT, AS_RECORDED)
    assert refute(hashed, existing) == Fetch(REMOTE, Why.IN_DOUBT, replaces=AS_RECORDED)


@every_existing
def test_an_equal_etag_with_another_size_is_another_version(existing: Existing) -> None:
    remote = REMOTE._replace(size=12)
    assert decide(remote, RECORD, AS_RECORDED, existing) == Fetch(remote, Why.ETAG_CHANGED, replaces=AS_RECORDED)


@every_existing
def test_a_file_as_recorded_with_an_equal_etag_is_skipped(existing: Existing) -> None:
    assert decide(REMOTE, RECORD, AS_RECORDED, existing) == Skip(REMOTE)


@every_existing
def test_a_file_is_as_recorded_if_it_has_the_time_that_its_file_system_gave_it(existing: Existing) -> None:
    coarse = RECORD._replace(mtime_ns=NOW - 5)
    assert decide(REMOTE, coarse, AS_RECORDED._replace(modified_ns=NOW - 5), existing) == Skip(REMOTE)
    assert decide(REMOTE, coarse, AS_RECORDED, existing) == Check(REMOTE, Why.LOCALLY_CHANGED, AS_RECORDED)
    doubted = coarse._replace(in_doubt=True)
    cut_short = AS_RECORDED._replace(size=0, modified_ns=NOW - 5)
    assert decide(REMOTE, doubted, cut_short, existing) == Fetch(REMOTE, Why.IN_DOUBT, replaces=cut_short)


@every_existing
def test_a_newer_last_modified_alone_moves_only_the_mtime(existing: Existing) -> None:
    remote = REMOTE._replace(modified_ns=LATER)
    assert decide(remote, RECORD, AS_RECORDED, existing) == Skip(remote, retime=RECORD)


@every_existing
def test_an_older_last_modified_alone_changes_nothing(existing: Existing) -> None:
    remote = REMOTE._replace(modified_ns=EARLIER)
    assert decide(remote, RECORD, AS_RECORDED, existing) == Skip(remote)


@every_existing
@pytest.mark.parametrize("record", [None, RECORD])
@pytest.mark.parametrize("kind", [LocalKind.FOLDER, LocalKind.LINK, LocalKind.OTHER, LocalKind.BLOCKED])
def test_what_is_no_file_is_a_conflict(kind: LocalKind, record: Record | None, existing: Existing) -> None:
    for etag in (OLD, NEW):
        remote = REMOTE._replace(etag=etag)
        assert decide(remote, record, LocalFile(kind), existing) == Refuse(remote, Reason.CONFLICT, IN_THE_WAY[kind])


@every_existing
@pytest.mark.parametrize("record", [None, RECORD])
def test_where_the_file_system_does_not_let_us_is_a_local_error(record: Record | None, existing: Existing) -> None:
    decision = decide(REMOTE, record, LocalFile(LocalKind.CLOSED), existing)
    assert isinstance(decision, Refuse)
    assert decision.reason is Reason.LOCAL_ERROR


def test_a_file_is_checked_unless_told_otherwise() -> None:
    assert decide(REMOTE, None, OTHER_SIZE) == Fetch(REMOTE, Why.SIZE_DIFFERS)


@pytest.mark.parametrize(
    ("existing", "decision"),
    [
        (Existing.CHECK, Fetch(REMOTE, Why.UNRECORDED)),
        (Existing.REPLACE, Fetch(REMOTE, Why.UNRECORDED)),
        (Existing.KEEP, Refuse(REMOTE, Reason.CONFLICT, KEPT)),
    ],
)
def test_a_checked_file_that_differs_is_fetched_or_kept_as_existing_says(
    existing: Existing, decision: Decision
) -> None:
    assert displace(REMOTE, Why.UNRECORDED, existing) == decision


SIZES = st.integers(0, 2)
TIMES = st.sampled_from([EARLIER, NOW, LATER])
ETAGS = st.sampled_from([OLD, NEW])
REMOTES = st.builds(RemoteObject, st.just(KEY), SIZES, ETAGS, TIMES)
RECORDS = st.none() | st.builds(Record, SIZES, ETAGS, TIMES, st.sampled_from(VerifiedBy), st.booleans())
LOCALS = (
    st.none()
    | st.builds(LocalFile, st.just(LocalKind.FILE), SIZES, TIMES)
    | st.builds(LocalFile, st.sampled_from([kind for kind in LocalKind if kind is not LocalKind.FILE]))
)


@given(REMOTES, RECORDS, LOCALS, st.sampled_from(Existing))
def test_only_what_record_and_file_and_etag_agree_on_is_skipped(
    remote: RemoteObject, record: Record | None, local: LocalFile | None, existing: Existing
) -> None:
    agree = (
        record is not None
        and local == LocalFile(LocalKind.FILE, record.size, record.modified_ns)
        and (record.etag, record.size) == (remote.etag, remote.size)
        and not record.in_doubt
    )
    assert isinstance(decide(remote, record, local, existing), Skip) is agree


@given(REMOTES, RECORDS, LOCALS, st.sampled_from(Existing))
def test_no_fetch_replaces_a_file_that_no_record_vouches_for(
    remote: RemoteObject, record: Record | None, local: LocalFile | None, existing: Existing
) -> None:
    decision = decide(remote, record, local, existing)
    if isinstance(decision, Fetch) and decision.replaces is not None:
        assert record is not None
        assert decision.replaces == local
        assert local.modified_ns == record.modified_ns
        assert local.size == record.size or record.in_doubt


@given(REMOTES, RECORDS, LOCALS)
def test_keep_never_fetches_over_a_file_that_no_record_vouches_for(
    remote: RemoteObject, record: Record | None, local: LocalFile | None
) -> None:
    decision = decide(remote, record, local, Existing.KEEP)
    assert not (isinstance(decision, Fetch) and local is not None and decision.replaces is None)


# Short texts of what sorts around the slash, so that keys often begin with one another.
KEYS = st.text("!/0a", min_size=1, max_size=6).filter(lambda key: not key.endswith("/") and "//" not in key)


def parents_by_brute_force(keys: list[str]) -> dict[str, str]:
    """Keep every key that is not below a kept one; name the shortest kept one for the others."""
    kept: list[str] = []
    parents: dict[str, str] = {}
    for key in keys:
        above = sorted((other for other in kept if key.startswith(other + "/")), key=len)
        if above:
            parents[key] = above[0]
        else:
            kept.append(key)
    return parents


@given(st.sets(KEYS, max_size=40))
def test_nesting_finds_what_brute_force_finds(keys: set[str]) -> None:
    ordered = sorted(keys, key=str.encode)
    nesting, found = Nesting(), {}
    for key in ordered:
        parent = nesting.parent_of(key)
        if parent is None:
            nesting.add(key)
        else:
            found[key] = parent
    assert found == parents_by_brute_force(ordered)


@given(st.sets(KEYS, max_size=40))
def test_what_nesting_kept_fits_on_a_disk(keys: set[str]) -> None:
    nesting = Nesting()
    files: set[str] = set()
    folders: set[str] = set()
    for key in sorted(keys, key=str.encode):
        if nesting.parent_of(key) is None:
            nesting.add(key)
            files.add(key)
            folders.update(key[:end] for end, character in enumerate(key) if character == "/")
    assert not files & folders


def test_a_key_between_the_two_does_not_hide_a_conflict() -> None:
    nesting = Nesting()
    for key in ("a", "a!", "a!/b"):
        if nesting.parent_of(key) is None:
            nesting.add(key)
    assert nesting.parent_of("a!/b") == "a!"
    assert nesting.parent_of("a/b") == "a"
    assert nesting.parent_of("a0") is None


def test_a_refused_key_is_nobody_s_parent() -> None:
    nesting = Nesting()
    assert nesting.parent_of("a") is None  # And a folder has its name, so it is not added.
    assert nesting.parent_of("a/b") is None


def test_nesting_remembers_no_more_keys_than_the_present_one_has_characters() -> None:
    nesting = Nesting()
    for key in sorted(f"ct/Covid{patient}/{image}.dcm" for patient in range(40) for image in range(100)):
        assert nesting.parent_of(key) is None
        nesting.add(key)
        assert len(nesting._beginnings) <= 2
    for length in range(1, 200):
        assert nesting.parent_of("x" * length) is None
        nesting.add("x" * length)
        assert len(nesting._beginnings) <= length
