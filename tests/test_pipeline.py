"""Whole runs, from listing to journal: what is asked for, what is left alone, and how every run adds up in the end."""

import asyncio
import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nccid_fetch import admission, commit, operations, pipeline, planfile, transfer
from nccid_fetch.adaptive import AdaptiveLimit
from nccid_fetch.admission import WAITING_OBJECTS
from nccid_fetch.clock import Clock
from nccid_fetch.commit import Committer, Ending
from nccid_fetch.destination import Destination
from nccid_fetch.digests import md5_of
from nccid_fetch.disk import Disk
from nccid_fetch.errors import DestinationError, EndpointError
from nccid_fetch.events import Committed, Event, LimitSet, ListingEnded, PagePlanned, Received
from nccid_fetch.failurelimits import DENIED_MAX, EXHAUSTED_MAX, MISMATCHED_MAX
from nccid_fetch.governor import Governor
from nccid_fetch.journal import Journal
from nccid_fetch.listing import ShardedListing
from nccid_fetch.model import Fetch, PartState, RemoteObject, Why
from nccid_fetch.planfile import write_decision, write_header
from nccid_fetch.planning import Planner
from nccid_fetch.retry import MISMATCHES_MAX
from nccid_fetch.settings import Settings, Source, Transport, Verify
from nccid_fetch.slots import Slots
from nccid_fetch.staging import StagedFile
from nccid_fetch.store.pages import PAGE_KEYS, Lister
from nccid_fetch.store.reactor import Reactor
from nccid_fetch.store.signing import Signer

from .catalogue import fault
from .oracle import Run, Version, check_tree, fetch, fetching, files_of, md5_hex, records, remote_of, snapshot
from .servers.scripted import MODIFIED, Action, CorruptBody, Cut, Do, Drop, Hold, Page, ScriptedS3, Stall, Status

DAY = timedelta(days=1)


pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        yield server


def key_of(number: int, part: str = "data") -> str:
    return f"training/{part}/Covid{number // 10:03}/{number:05}.json"


def stock(s3: ScriptedS3, count: int, part: str = "data") -> list[str]:
    """Store so many small objects of different lengths; return their keys."""
    keys = [key_of(number, part) for number in range(count)]
    for number, key in enumerate(keys):
        s3.put(key, f"{key} {'x' * number}".encode())
    return keys


def asked(s3: ScriptedS3) -> list[str]:
    """Return what was asked for besides listings."""
    return [f"{seen.operation} {seen.key}" for seen in s3.requests if seen.operation != "list"]


# --- Once, and once only --------------------------------------------------------------------------


@pytest.mark.parametrize("transport", Transport)
def test_a_run_brings_every_object_with_one_request_each(s3: ScriptedS3, dest: Path, transport: Transport) -> None:
    keys = stock(s3, 30)
    s3.put("training/ct/", b"")  # A folder marker: passed over.
    s3.put("training/ct/Covid1/1.2/1.2.3/empty.dcm", b"")
    run = fetch(s3, dest, transport=transport)
    assert run.exit_code == 0
    assert check_tree(dest, snapshot(s3)) == {*keys, "training/ct/Covid1/1.2/1.2.3/empty.dcm"} == set(records(dest))
    assert (run.tally.listed.objects, run.tally.fetched.objects) == (31, 31)
    assert len(asked(s3)) == 31


def test_a_second_run_asks_for_nothing(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 30)
    fetch(s3, dest)
    before = len(asked(s3))
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.skipped.objects, run.tally.fetched.objects) == (0, 30, 0)
    assert len(asked(s3)) == before


@fault(104)
def test_without_its_state_folder_everything_is_adopted_and_nothing_asked_for(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 30)
    fetch(s3, dest)
    before = len(asked(s3))
    shutil.rmtree(dest / ".nccid-fetch")
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.adopted.objects, run.tally.fetched.objects) == (0, 30, 0)
    assert len(asked(s3)) == before
    assert check_tree(dest, snapshot(s3)) == set(keys) == set(records(dest))


def test_adopted_files_get_the_mode_and_the_time_of_fetched_ones(s3: ScriptedS3, dest: Path) -> None:
    (key,) = stock(s3, 1)
    path = dest / "data/Covid000/00000.json"
    path.parent.mkdir(parents=True, mode=0o700)
    for folder in (dest, dest / "data", path.parent):
        folder.chmod(0o700)
    path.write_bytes(snapshot(s3)[key][0].body)
    path.chmod(0o644)
    assert fetch(s3, dest).tally.adopted.objects == 1
    assert check_tree(dest, snapshot(s3)) == {key}


def test_a_new_version_replaces_the_old_one_without_setting_it_aside(s3: ScriptedS3, dest: Path) -> None:
    first, *others = stock(s3, 10)
    fetch(s3, dest)
    before = len(asked(s3))
    s3.put(first, b"second version", modified=MODIFIED + DAY)
    run = fetch(s3, dest)
    assert (run.tally.fetched.objects, run.tally.skipped.objects) == (1, 9)
    assert asked(s3)[before:] == [f"get {first}"]
    assert check_tree(dest, snapshot(s3)) == {first, *others}
    assert not (dest / ".nccid-fetch/quarantine").exists()


def test_a_newer_time_under_the_same_etag_is_followed_and_not_fetched(s3: ScriptedS3, dest: Path) -> None:
    (key,) = stock(s3, 1)
    fetch(s3, dest)
    before = len(asked(s3))
    s3.put(key, snapshot(s3)[key][0].body, modified=MODIFIED + DAY)
    for _ in range(2):
        assert fetch(s3, dest).tally.skipped.objects == 1
        assert check_tree(dest, snapshot(s3)) == {key}  # Which looks at the time.
    assert len(asked(s3)) == before


@fault(80, 126)
def test_a_foreign_file_is_set_aside_and_never_lost(s3: ScriptedS3, dest: Path) -> None:
    (key,) = stock(s3, 1)
    fetch(s3, dest)
    path = files_of(dest)[key]
    path.write_bytes(b"edited by hand, and longer than the object was")
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.fetched.objects) == (0, 1)
    assert check_tree(dest, snapshot(s3)) == {key}
    aside = [path for path in (dest / ".nccid-fetch/quarantine").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in aside] == [b"edited by hand, and longer than the object was"]


@fault(81)
def test_a_flipped_bit_is_found_by_whoever_hashes_set_aside_and_fetched_anew(s3: ScriptedS3, dest: Path) -> None:
    """Size and time still match, so a run that trusts its record does not look; one without a record does."""
    keys = stock(s3, 10)
    fetch(s3, dest)
    path = files_of(dest)[keys[3]]
    modified_ns, content = path.stat().st_mtime_ns, path.read_bytes()
    rotten = bytes([content[0] ^ 1]) + content[1:]
    path.write_bytes(rotten)
    os.utime(path, ns=(modified_ns, modified_ns))
    assert fetch(s3, dest).tally.skipped.objects == 10
    Journal.path(dest).unlink()
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.fetched.objects, run.tally.adopted.objects) == (0, 1, 9)
    assert check_tree(dest, snapshot(s3)) == set(keys)
    (aside,) = [path for path in (dest / ".nccid-fetch/quarantine").rglob("*") if path.is_file()]
    assert aside.read_bytes() == rotten


@fault(103)
def test_a_tree_that_was_moved_is_gone_on_with(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 10)
    fetch(s3, dest)
    moved = dest.rename(dest.with_name("moved"))
    stock(s3, 12)
    run = fetch(s3, moved)
    assert (run.exit_code, run.tally.skipped.objects, run.tally.fetched.objects) == (0, 10, 2)
    assert check_tree(moved, snapshot(s3)) > set(keys)
    assert not dest.exists()


# --- The flow -------------------------------------------------------------------------------------


def test_the_first_bytes_are_fetched_while_the_listing_still_goes_on(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, PAGE_KEYS + 1)
    seen = threading.Event()
    s3.script("list", Hold(seen), key="training/data/", after=1)
    s3.script("get", Do(seen.set))
    run = fetch(s3, dest, include=("data/Covid*0/*7.json",))
    assert run.exit_code == 0
    operations_seen = [request.operation for request in s3.requests]
    assert "get" in operations_seen
    assert run.tally.fetched.objects == len([key for key in keys if re.search(r"Covid\d+0/\d+7\.json", key)])


@fault(49, 91)
def test_what_is_planned_and_not_begun_is_bounded_whatever_the_size_of_the_bucket(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, parts, concurrency = 30_000, ("ct", "data"), 4

    def rows(after: str, prefix: str, limit: int) -> list[tuple[str, int, str, Any]]:
        if prefix == "training/":
            return [(f"training/{part}/0", 1, "", MODIFIED) for part in parts if f"training/{part}/0" > after][:limit]
        begin = int(after.rpartition("/")[2] or 0) if after.startswith(prefix) else 0
        numbers = range(begin + 1, min(begin + limit, count) + 1)
        return [(f"{prefix}{number:08}", 4, md5_hex(b"body"), MODIFIED) for number in numbers]

    never = threading.Event()
    s3.virtual = rows
    s3.script("get", Hold(never), count=None)
    full: list[str] = []
    admit = admission._Lane.admit

    async def watched(self: Any, last_key: str, due: Any) -> None:
        waits = asyncio.create_task(admit(self, last_key, due))
        await asyncio.sleep(0)
        if not waits.done():
            full.append(last_key)
            if len(full) == len(parts):  # Every listing waits, and no worker will take anything.
                halted.set()
        await waits

    async def main() -> int:
        planned = 0

        def count_planned(event: Event) -> None:
            nonlocal planned
            match event:
                case PagePlanned(_, decisions):
                    planned += len(decisions)
                case ListingEnded():
                    halted.set()  # It ran to its end: nothing held it back.
                case _:
                    pass

        run = asyncio.create_task(fetching(s3, dest, *parts, report=count_planned, concurrency=concurrency))
        await halted.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        return planned

    halted = asyncio.Event()
    monkeypatch.setattr(admission._Lane, "admit", watched)
    try:
        planned = asyncio.run(main())
    finally:
        never.set()
    assert len(full) == len(parts)
    assert WAITING_OBJECTS <= planned <= WAITING_OBJECTS + len(parts) * PAGE_KEYS + concurrency


@fault(11)
@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
def test_as_many_objects_are_in_flight_as_was_asked_for_and_no_more(
    s3: ScriptedS3, dest: Path, transport: Transport
) -> None:
    stock(s3, 60)
    enough = threading.Event()

    def arrived() -> None:
        if s3.gets() >= 20:
            enough.set()

    s3.script("get", Do(arrived, Hold(enough)), count=None)
    assert fetch(s3, dest, concurrency=20, transport=transport).exit_code == 0
    assert s3.in_flight_max == 20


class Pilot:
    """Stands in for the limit that is found out: three, then six when twenty have come, and two when told to slow down."""

    is_at_rest = False

    def __init__(self) -> None:
        self.limit = 3
        self.seen: list[tuple[int, float, int]] = []
        self.told = 0

    def finished(self, size: int, began: float, now: float, in_flight: int) -> None:
        self.seen.append((size, now - began, in_flight))
        if len(self.seen) == 20:
            self.limit = 6

    def throttled(self, now: float) -> None:
        self.told += 1
        self.limit = 2


@pytest.fixture
def pilot(monkeypatch: pytest.MonkeyPatch) -> Pilot:
    made = Pilot()
    monkeypatch.setattr("nccid_fetch.pipeline.AdaptiveLimit", lambda: made)
    return made


def test_with_auto_as_many_objects_are_in_flight_as_are_found_to_be_worth_it(
    s3: ScriptedS3, dest: Path, pilot: Pilot
) -> None:
    keys = stock(s3, 60)
    three, six = threading.Event(), threading.Event()

    def arrived() -> None:
        if s3.gets() >= 3:
            three.set()
        if s3.gets() >= 26:
            six.set()

    s3.script("get", Do(arrived, Hold(three)), count=20)
    s3.script("get", Do(arrived, Hold(six)), count=None)
    run = fetch(s3, dest, concurrency="auto")
    assert check_tree(dest, snapshot(s3)) == set(keys)
    in_flight = [seen for _, _, seen in pilot.seen]
    assert (max(in_flight[:20]), max(in_flight), s3.in_flight_max) == (3, 6, 6)
    assert [event.objects for event in run.events if isinstance(event, LimitSet)] == [3, 6]
    assert sorted(size for size, _, _ in pilot.seen) == sorted(len(snapshot(s3)[key][0].body) for key in keys)
    assert all(seconds > 0 for _, seconds, _ in pilot.seen)


@pytest.mark.parametrize("transport", Transport)
def test_with_auto_being_told_to_slow_down_counts(
    s3: ScriptedS3, dest: Path, pilot: Pilot, transport: Transport
) -> None:
    keys = stock(s3, 10)
    s3.script("get", Status(503, "SlowDown"), key=keys[4], count=4)
    s3.script("get", Status(500, "InternalError"), key=keys[5], count=2)
    run = fetch(s3, dest, concurrency="auto", transport=transport)
    assert (run.exit_code, pilot.told) == (0, run.tally.throttled)
    assert pilot.told >= 3
    assert run.tally.limit == LimitSet(2)


def test_with_auto_what_was_there_already_tells_nothing_of_the_network(
    s3: ScriptedS3, dest: Path, pilot: Pilot
) -> None:
    stock(s3, 10)
    fetch(s3, dest)
    shutil.rmtree(dest / ".nccid-fetch")
    assert fetch(s3, dest, concurrency="auto").tally.adopted.objects == 10
    assert pilot.seen == []


def test_a_fixed_number_stays_what_it_is(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 10)
    run = fetch(s3, dest, concurrency=5)
    assert run.tally.limit is None


# --- What goes wrong with one object, and with one part -------------------------------------------


@fault(31)
def test_one_bad_object_does_not_stop_the_others(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 30)
    bad: dict[str, Action] = {
        keys[3]: CorruptBody(),
        keys[7]: Status(404, "NoSuchKey"),
        keys[9]: Status(412, "PreconditionFailed"),
    }
    for key, action in bad.items():
        s3.script("get", action, key=key, count=None)
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.failed, run.tally.fetched.objects) == (1, 3, 27)
    assert run.reasons == {keys[3]: "digest_mismatch", keys[7]: "gone", keys[9]: "changed"}
    assert check_tree(dest, snapshot(s3)) == set(keys) - set(bad) == set(records(dest))


@fault(94)
def test_what_failed_is_tried_again_by_the_next_run(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 10)
    s3.script("get", Status(500, "InternalError"), key=keys[0], count=3)  # The fast reader's, and two attempts.
    assert fetch(s3, dest, attempts=2).exit_code == 1
    run = fetch(s3, dest, attempts=2)
    assert (run.exit_code, run.tally.fetched.objects, run.tally.skipped.objects) == (0, 1, 9)
    assert check_tree(dest, snapshot(s3)) == set(keys)


def _grant(s3: ScriptedS3, *parts: str) -> None:
    """Grant the listing of these parts alone, as NCCID does: not that of the group."""
    s3.allow_list = lambda prefix, delimiter: prefix.split("/")[1] in parts


@fault(33)
@pytest.mark.parametrize(
    ("parts", "options", "code"),
    [((), {}, 0), ((), {"strict": True}, 4), (("data", "ct"), {}, 4), (("data",), {}, 0)],
    ids=["all", "all, strict", "get, denied one named", "get, granted one named"],
)
def test_a_denied_part(s3: ScriptedS3, dest: Path, parts: tuple[str, ...], options: dict[str, Any], code: int) -> None:
    keys = stock(s3, 5)
    stock(s3, 5, "ct")
    _grant(s3, "data", "mri")
    run = fetch(s3, dest, *parts, **options)
    assert run.exit_code == code
    if "data" not in parts or "ct" in parts:
        assert run.tally.parts["ct"].state == "denied"
    if not parts:
        assert run.tally.parts["mri"].state == "empty"
    assert run.tally.parts["data"].state == "complete"
    assert check_tree(dest, snapshot(s3)) == set(keys)


def test_parts_that_are_not_there_are_absent_and_all_the_others_are_well(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 5)
    stock(s3, 5, "unknown")
    run = fetch(s3, dest)
    assert run.exit_code == 0
    states = {part: str(tally.state) for part, tally in run.tally.parts.items()}
    assert states == {
        **dict.fromkeys(("ct", "mri", "xray", "ct-metadata", "mri-metadata", "xray-metadata"), "absent"),
        **dict.fromkeys(("data", "unknown"), "complete"),
    }


@fault(33)
def test_when_all_that_was_asked_for_is_denied_or_absent_nothing_is_written(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 5)
    assert fetch(s3, dest, "ct").exit_code == 4
    _grant(s3, "mri")
    assert fetch(s3, dest, "data").exit_code == 4
    assert not dest.exists()


@fault(37)
def test_a_denial_of_all_says_that_nobody_pays_for_others(s3: ScriptedS3, dest: Path) -> None:
    """S3 does not tell a bucket whose requester pays from one that is closed."""
    _grant(s3)
    run = fetch(s3, dest)
    assert run.exit_code == 4
    assert run.error is not None
    assert "requester pays is not supported" in str(run.error.hint)


def test_when_all_that_was_asked_for_is_empty_that_is_4(s3: ScriptedS3, dest: Path) -> None:
    _grant(s3, "mri")
    assert fetch(s3, dest, "mri").exit_code == 4


@fault(52, 54)
@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (Status(403, "AccessDenied"), 4),
        (Status(500, "InternalError"), 5),
        (Drop(), 5),
        (Page(b"<html>Please log in.</html>"), 5),
        (Page(lambda xml: re.sub(b"<NextContinuationToken>.*?</NextContinuationToken>", b"", xml)), 5),
    ],
    ids=["denied", "server error", "dropped", "captive portal", "cut short"],
)
def test_a_listing_that_breaks_off_fails_its_part_and_the_others_finish(
    s3: ScriptedS3, dest: Path, trouble: Action, code: int
) -> None:
    keys, others = stock(s3, 40), stock(s3, 15, "ct")
    _pages_of(s3, 10)
    s3.script("list", trouble, key="training/data/", after=1, count=None)
    run = fetch(s3, dest)
    assert run.exit_code == code
    assert {part: str(run.tally.parts[part].state) for part in ("data", "ct")} == {
        "data": "failed",
        "ct": "complete",
    }
    assert {*keys[:10], *others} <= check_tree(dest, snapshot(s3)) < {*keys, *others}


def _pages_of(s3: ScriptedS3, keys: int) -> None:
    """Let the server give shorter pages than it is asked for, as S3 may."""
    whole = s3._page
    s3._page = lambda after, prefix, delimiter, limit: whole(after, prefix, delimiter, min(limit, keys))  # type: ignore[method-assign]


@fault(33)
def test_a_part_whose_objects_are_all_denied_is_given_up(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 10)
    closed = stock(s3, 300, "ct")
    s3.allow_get = lambda key: not key.startswith("training/ct/")
    run = fetch(s3, dest, concurrency=4, transport=Transport.AIOBOTO3)
    assert run.exit_code == 4
    assert str(run.tally.parts["ct"].state) == "denied"
    assert check_tree(dest, snapshot(s3)) == set(keys)
    assert DENIED_MAX <= sum(s3.gets(key) for key in closed) <= DENIED_MAX + 4
    assert run.left_over == 300 - run.tally.failed > 0


@fault(34)
def test_a_part_whose_key_may_not_be_used_is_given_up_and_says_so_once(s3: ScriptedS3, dest: Path) -> None:
    keys, closed = stock(s3, 10), stock(s3, 100, "ct")
    for key in closed:
        s3.script("get", Status(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), key=key, count=None)
    run = fetch(s3, dest, concurrency=4, transport=Transport.AIOBOTO3)
    assert run.exit_code == 4
    assert "(KMS)" in str(run.tally.parts["ct"].message)
    assert max(map(s3.gets, closed)) == 1
    assert sum(map(s3.gets, closed)) <= DENIED_MAX + 4
    assert check_tree(dest, snapshot(s3)) == set(keys)


def _spoil(s3: ScriptedS3, keys: Sequence[str]) -> None:
    """Let objects have ETags with the look of an MD5, as some servers make them."""
    for key in keys:
        s3.put(key, key.encode(), etag=md5_hex(b"a number of its own"))


@fault(43)
@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
def test_a_server_whose_etags_are_no_md5s_is_found_out_and_not_downloaded_three_times(
    s3: ScriptedS3, dest: Path, transport: Transport
) -> None:
    keys = [key_of(number) for number in range(40)]
    _spoil(s3, keys)
    run = fetch(s3, dest, concurrency=4, transport=transport)
    assert isinstance(run.error, EndpointError)
    assert run.exit_code == 5
    assert "--verify size" in str(run.error.hint)
    assert s3.gets() <= (MISMATCHED_MAX + 4) * MISMATCHES_MAX
    assert check_tree(dest, snapshot(s3)) == set()
    assert fetch(s3, dest, transport=transport, verify=Verify.SIZE).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(keys)


@fault(43)
@pytest.mark.parametrize("when", ["in this run", "in an earlier one"])
def test_where_an_etag_was_an_md5_objects_that_are_not_what_theirs_say_are_each_told(
    s3: ScriptedS3, dest: Path, when: str
) -> None:
    good, *bad = (key_of(number) for number in range(MISMATCHED_MAX + 10))
    s3.put(good, b"good")
    if when == "in an earlier one":
        fetch(s3, dest)
    _spoil(s3, bad)
    run = fetch(s3, dest, concurrency=1)
    assert (run.exit_code, run.error) == (1, None)
    assert run.reasons == dict.fromkeys(bad, "digest_mismatch")


def test_a_few_denied_objects_do_not_close_a_part(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 60)
    s3.allow_get = lambda key: key >= keys[DENIED_MAX - 1]
    run = fetch(s3, dest, concurrency=4)
    assert (run.exit_code, run.tally.failed) == (1, DENIED_MAX - 1)
    assert str(run.tally.parts["data"].state) == "complete"
    assert set(run.reasons.values()) == {"denied"}
    assert check_tree(dest, snapshot(s3)) == set(keys[DENIED_MAX - 1 :])


def test_an_endpoint_that_is_gone_ends_the_run_and_not_every_object(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 100)
    s3.script("get", Drop(), after=30, count=None)
    run = fetch(s3, dest, concurrency=4, attempts=2)
    assert isinstance(run.error, EndpointError)
    assert run.exit_code == 5
    present = check_tree(dest, snapshot(s3))
    assert 25 <= len(present) <= 30
    assert set(records(dest)) == present
    assert run.tally.failed < EXHAUSTED_MAX + 4  # Those in flight may still succeed in between.
    assert run.left_over > 0
    assert run.tally.listed.objects == 100


# --- Listings that end too early ------------------------------------------------------------------


def _endings(run: Run) -> dict[str, tuple[PartState, str | None]]:
    return {event.part: (event.state, event.message) for event in run.events if isinstance(event, ListingEnded)}


@fault(55)
def test_a_listing_that_has_less_than_is_in_place_is_doubted_and_nothing_is_deleted(s3: ScriptedS3, dest: Path) -> None:
    keys = [*stock(s3, 15), *stock(s3, 20, "ct"), *stock(s3, 5, "ct-metadata")]
    assert set(_endings(fetch(s3, dest)).values()) == {(PartState.COMPLETE, None)}
    _pages_of(s3, 10)
    s3.script("list", Page(_as_the_last), key="training/ct/")
    run = fetch(s3, dest)
    state, message = _endings(run)["ct"]
    assert state is PartState.COMPLETE
    assert str(message).startswith("its listing counts 10, and 20 of its objects are in place")
    assert {message for part, (_, message) in _endings(run).items() if part != "ct"} == {None}
    assert run.exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(keys)


def _as_the_last(page: bytes) -> bytes:
    """Say of a page that there is no other."""
    page = page.replace(b"<IsTruncated>true<", b"<IsTruncated>false<")
    return re.sub(b"<NextContinuationToken>.*?</NextContinuationToken>", b"", page)


@fault(55)
@pytest.mark.parametrize(("deleted", "doubted"), [(0, False), (1, False), (2, True), (100, True)])
def test_a_part_may_lose_one_object_in_a_hundred_without_a_word(
    s3: ScriptedS3,
    dest: Path,
    deleted: int,
    doubted: bool,  # noqa: FBT001
) -> None:
    keys = stock(s3, 100)
    stock(s3, 1, "ct")
    s3.put("training/data/", b"")  # What the bucket has beside them hides no loss.
    fetch(s3, dest)
    for key in keys[:deleted]:
        s3.delete(key)
    state, message = _endings(fetch(s3, dest))["data"]
    assert state is (PartState.EMPTY if deleted == 100 else PartState.COMPLETE)
    assert (message is not None) is doubted


@fault(55)
def test_a_plan_of_some_objects_is_no_listing_that_ended_too_early(s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    keys = stock(s3, 20)
    fetch(s3, dest)
    plan = tmp_path / "plan.jsonl"
    with plan.open("w") as out:
        write_header(out, Source())
        for key in keys[:2]:
            write_decision(out, Fetch(remote_of(s3, key), Why.MISSING))
    assert _endings(fetch(s3, dest, plan_file=plan)) == {"data": (PartState.COMPLETE, None)}


# --- Keys -----------------------------------------------------------------------------------------

HOSTILE = [
    "training/data/../../escape",
    "training/data/./here",
    "training/data//empty",
    "training/data/..",
    "training/data/nul\0",
    f"training/data/{'n' * 256}",
    "training/data/folder-with-bytes/",
]


@fault(47)
def test_a_marker_of_a_folder_is_passed_over_and_one_with_bytes_is_refused_by_name(s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/empty/", b"")
    s3.put("training/data/Covid0/", b"")
    s3.put("training/data/Covid0/a.json", b"{}")
    s3.put("training/data/Covid1/", b"not empty")
    s3.put("training/data/Covid1/b.json", b"{}")
    for _ in range(2):
        run = fetch(s3, dest)
        assert (run.exit_code, run.reasons) == (1, {"training/data/Covid1/": "unsafe_key"})
        assert run.tally.listed.objects == 3
        assert check_tree(dest, snapshot(s3)) == {"training/data/Covid0/a.json", "training/data/Covid1/b.json"}
    assert not (dest / "data/empty").exists()
    assert s3.gets() == 2


@fault(76, 111)
@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
def test_hostile_keys_are_refused_by_name_and_the_rest_arrives(
    s3: ScriptedS3, dest: Path, transport: Transport
) -> None:
    good = [
        *stock(s3, 10),
        "training/data/a\\b",
        "training/data/line\nbreak",
        "training/data/päth ü+%2F",
        "training/data/\x1b[2J",
    ]
    for key in (*HOSTILE, *good):
        s3.put(key, key.encode())
    run = fetch(s3, dest, transport=transport)
    assert run.exit_code == 1
    assert run.reasons == dict.fromkeys(HOSTILE, "unsafe_key")
    assert run.tally.refused == len(HOSTILE)
    assert check_tree(dest, snapshot(s3)) == set(good)
    assert [path.name for path in dest.parent.iterdir()] == ["dest"]
    assert {f"get {key}" for key in HOSTILE}.isdisjoint(asked(s3))


@fault(114)
def test_nothing_named_like_the_state_folder_is_let_in(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 3)
    s3.put("training/.nccid-fetch/journal.sqlite", b"not yours")
    s3.put("training/.NCCID-Fetch/journal.sqlite", b"not yours")
    run = fetch(s3, dest)
    assert run.exit_code == 1
    assert set(run.reasons.values()) == {"unsafe_key"}
    assert len(run.reasons) == 2
    check_tree(dest, snapshot(s3))


@fault(72)
def test_of_an_object_and_objects_below_its_name_the_same_one_arrives_on_every_run(s3: ScriptedS3, dest: Path) -> None:
    keys = ["training/data/a", "training/data/a.json", "training/data/a/b", "training/data/a/c/d"]
    for key in keys:
        s3.put(key, key.encode())
    for _ in range(2):
        before = s3.gets("training/data/a/b")
        run = fetch(s3, dest)
        assert run.exit_code == 1
        assert run.reasons == {"training/data/a/b": "conflict", "training/data/a/c/d": "conflict"}
        assert s3.gets("training/data/a/b") == before, "what can have no file is not asked for"
        assert check_tree(dest, snapshot(s3)) == {"training/data/a", "training/data/a.json"}


@fault(72)
def test_objects_below_a_name_that_were_there_first_stay_on_every_run(s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/a/b", b"first")
    fetch(s3, dest)
    s3.put("training/data/a", b"second")
    for _ in range(2):
        run = fetch(s3, dest)
        assert run.reasons == {"training/data/a": "conflict"}
        assert check_tree(dest, snapshot(s3)) == {"training/data/a/b"}


@fault(73, 74)
def test_of_twins_the_first_in_byte_order_wins_on_every_run(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = ["training/data/A.json", "training/data/a.json", "training/data/\u00e9", "training/data/e\u0301"]
    for key in twins:
        s3.put(key, key.encode())
    monkeypatch.setattr("nccid_fetch.traits.folds_names", lambda *_: True)
    winners = {"training/data/A.json", "training/data/e\u0301"}
    for _ in range(2):
        run = fetch(s3, dest)
        assert run.exit_code == 1
        assert run.reasons == dict.fromkeys(set(twins) - winners, "conflict")
        assert check_tree(dest, snapshot(s3)) == winners


# --- How a run ends -------------------------------------------------------------------------------


def test_a_worker_that_meets_a_defect_ends_the_run_loudly(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(s3, 30)
    honest = transfer.fetch

    async def broken(remote: RemoteObject, tools: Any) -> Any:
        if remote.key == key_of(20):
            raise ZeroDivisionError
        return await honest(remote, tools)

    monkeypatch.setattr("nccid_fetch.pipeline.fetch", broken)
    with pytest.raises(ZeroDivisionError):
        fetch(s3, dest)
    assert set(records(dest)) == check_tree(dest, snapshot(s3))


@fault(92)
@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError], ids=["defect", "cancellation"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Planner, "plan"),
        (AdaptiveLimit, "finished"),
        (StagedFile, "append_and_seal"),
        (Destination, "look"),
        (Destination, "publish"),
        (Journal, "records"),
        (Journal, "commit"),
        (Lister, "page"),
        (ShardedListing, "streams"),
        (Signer, "headers"),
        (Reactor, "_harvest"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_whatever_breaks_ends_the_run_loudly(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, *, owner: Any, name: str, error: type[BaseException]
) -> None:
    """A worker, the committer, who lists, a thread of the disk, the journal's, a reactor's: none can die in silence."""
    stock(s3, 30)
    broken: list[str] = []

    def breaks(*_: Any, **__: Any) -> Any:
        broken.append(name)
        raise error

    monkeypatch.setattr(owner, name, breaks)
    with pytest.raises((error, RuntimeError)):
        fetch(s3, dest, concurrency="auto")
    assert broken
    if dest.exists():
        monkeypatch.undo()
        check_tree(dest, snapshot(s3), killed=True)


@fault(89)
def test_nothing_that_touches_the_disk_or_hashes_runs_in_the_event_loop(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = stock(s3, 30)
    s3.put("training/ct/large.dcm", bytes(3 << 20))
    s3.put("training/ct/huge.dcm", bytes(33 << 20))
    here: set[str] = set()
    elsewhere: set[str] = set()

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            (here if threading.current_thread() is threading.main_thread() else elsewhere).add(name)
            return call(*arguments, **options)

        return wrapped

    blocking: list[tuple[Any, tuple[str, ...]]] = [
        (StagedFile, ("append", "append_and_seal", "write_at", "take_in", "cut", "seal", "discard")),
        (Destination, ("look", "publish", "open_file", "adopt")),
        (Journal, ("records", "commit")),
        (transfer, ("md5_of",)),
    ]
    for owner, names in blocking:
        for name in names:
            monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    s3.script("get", CorruptBody())
    assert fetch(s3, dest).exit_code == 0
    shutil.rmtree(dest / ".nccid-fetch")
    assert fetch(s3, dest).tally.adopted.objects == len(keys) + 2
    assert here == set()
    assert elsewhere == {name for _, names in blocking for name in names}


@fault(89)
def test_objects_go_on_coming_while_a_batch_is_made_durable(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(s3, 60)
    monkeypatch.setattr(commit, "BATCH_OBJECTS", 5)
    publish = Destination.publish
    came = threading.Event()
    s3.script("get", Do(came.set), after=50)
    waited: list[bool] = []

    def slow(self: Destination, placements: Any) -> Any:
        waited.append(came.wait(60))
        return publish(self, placements)

    monkeypatch.setattr(Destination, "publish", slow)
    assert fetch(s3, dest).exit_code == 0
    assert waited[0], "the first batch was in the way of the other objects"


@fault(92, 93)
def test_an_object_that_gets_lost_on_the_way_is_a_defect_and_no_success(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(s3, 30)
    put = Committer.put

    async def loses(self: Committer, ending: Ending) -> None:
        if ending.outcome.remote.key != key_of(20):
            await put(self, ending)

    monkeypatch.setattr(Committer, "put", loses)
    with pytest.raises(RuntimeError, match="30 objects were dealt out, and 29 came to an end"):
        fetch(s3, dest)


@fault(60)
@pytest.mark.parametrize("batch", [5, 1000])
def test_a_destination_that_fails_ends_the_run_and_counts_nothing_unrecorded(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    keys = stock(s3, 40)
    monkeypatch.setattr(commit, "BATCH_OBJECTS", batch)
    publish = Destination.publish
    calls: list[int] = []

    def fails(self: Destination, placements: Any) -> Any:
        calls.append(len(placements))
        if len(calls) == (2 if batch == 5 else 1):
            raise OSError(28, "No space left on device")
        return publish(self, placements)

    monkeypatch.setattr(Destination, "publish", fails)
    run = fetch(s3, dest)
    assert isinstance(run.error, DestinationError)
    assert run.exit_code == 9
    assert run.tally.fetched.objects == len(records(dest)) < len(keys)
    check_tree(dest, snapshot(s3))
    assert fetch(s3, dest).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(keys)


def test_a_destination_that_fails_ends_the_run_while_everything_else_still_waits(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(s3, 40)
    never = threading.Event()
    monkeypatch.setattr(commit, "BATCH_OBJECTS", 5)
    s3.script("get", Hold(never), after=10, count=None)

    def fails(self: Destination, placements: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Destination, "publish", fails)
    patience = threading.Timer(25, never.set)  # So that a run that does wait comes to its end, too.
    patience.start()
    try:
        assert fetch(s3, dest).exit_code == 9
        assert not never.is_set(), "it waited"
    finally:
        patience.cancel()
        never.set()


@pytest.mark.parametrize("method", ["look", "retime"])
def test_a_destination_that_fails_while_it_is_looked_at_is_9_as_well(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (key,) = stock(s3, 1)
    fetch(s3, dest)
    s3.put(key, snapshot(s3)[key][0].body, modified=MODIFIED + DAY)

    def fails(self: Destination, paths: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Destination, method, fails)
    run = fetch(s3, dest)
    assert isinstance(run.error, DestinationError)
    assert run.exit_code == 9


@fault(107)
def test_nothing_is_recorded_before_it_is_in_place(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock(s3, 20)
    record = Journal.commit
    placed: list[str] = []

    def checked(self: Journal, rows: Any, failed: Any = ()) -> None:
        rows = list(rows)
        placed.extend(key for key, _ in rows)
        assert {key for key, _ in rows} <= set(files_of(dest)), "the journal was told too early"
        record(self, rows, failed)

    monkeypatch.setattr(Journal, "commit", checked)
    assert fetch(s3, dest).exit_code == 0
    assert len(placed) == 20


def test_what_cannot_get_its_name_in_the_end_is_not_recorded(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 3)
    name = dest / keys[1].removeprefix("training/")
    s3.script("get", Do(lambda: name.mkdir(parents=True)), key=keys[1])  # After the disk was looked at.
    assert fetch(s3, dest).reasons == {keys[1]: "conflict"}
    assert set(records(dest)) == {keys[0], keys[2]}


def test_the_destination_comes_before_the_endpoint_when_both_fail(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(s3, 60)
    s3.script("get", Drop(), after=10, count=None)

    def fails(self: Destination, placements: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Destination, "publish", fails)
    run = fetch(s3, dest, attempts=1, concurrency=2)
    assert run.exit_code == 9


MOMENTS = random.Random(20210301).sample(range(1, 64), 7)


@pytest.mark.parametrize("moment", sorted(MOMENTS))
def test_a_run_cancelled_at_any_moment_leaves_whole_files_and_a_journal_to_go_on_with(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    keys = stock(s3, 60)
    monkeypatch.setattr(commit, "BATCH_OBJECTS", 5)
    left = moment

    async def main() -> None:
        task = asyncio.create_task(fetching(s3, dest, report=lambda event: countdown(task)))
        with pytest.raises(asyncio.CancelledError):
            await task

    def countdown(task: "asyncio.Task[Any]") -> None:
        nonlocal left
        left -= 1
        if left == 0:
            task.cancel()

    asyncio.run(main())
    if dest.exists():
        present = check_tree(dest, snapshot(s3))
        assert set(records(dest)) == present
    before = s3.gets()
    run = fetch(s3, dest)
    assert run.exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(keys)
    assert s3.gets() - before == len(keys) - run.tally.skipped.objects


@fault(24)
@pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
def test_a_run_that_is_cancelled_over_bodies_of_every_kind_leaves_no_connection_and_no_task(
    s3: ScriptedS3, dest: Path, transport: Transport
) -> None:
    keys = stock(s3, 40)
    for number, key in enumerate(keys):
        s3.script("get", (Stall(0), Stall(5), Cut(3), Status(500, "InternalError"))[number % 4], key=key, count=None)

    async def main() -> None:
        task = asyncio.create_task(fetching(s3, dest, transport=transport))
        await asyncio.to_thread(s3.wait_until, lambda: s3.gets() >= 8)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.to_thread(s3.wait_until, lambda: not s3.connections)  # The kernel tells it, in its own time.

    asyncio.run(main())
    assert check_tree(dest, snapshot(s3)) == set()


def test_a_file_that_is_being_hashed_when_the_run_is_cancelled_is_not_closed_under_the_thread(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor's number might be another file's by then, and that file would be read, or given a new time."""
    (key,) = stock(s3, 1)
    fetch(s3, dest)
    shutil.rmtree(dest / ".nccid-fetch")
    begun, go_on = threading.Event(), threading.Event()
    digests: list[str] = []
    end = Disk.__exit__

    def slow(chunks: Iterable[bytes]) -> str:
        begun.set()
        assert go_on.wait(60)
        digests.append(md5_of(chunks))
        return digests[0]

    def ending(self: Disk, *arguments: Any) -> None:
        go_on.set()  # The last moment: now it waits for its threads.
        end(self, *arguments)

    async def main() -> None:
        run = asyncio.create_task(fetching(s3, dest))
        await asyncio.to_thread(begun.wait)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    monkeypatch.setattr("nccid_fetch.transfer.md5_of", slow)
    monkeypatch.setattr(Disk, "__exit__", ending)
    opened: list[int] = []
    opening = Destination.open_file

    def noted(self: Destination, path: tuple[str, ...]) -> int:
        opened.append(opening(self, path))
        return opened[-1]

    monkeypatch.setattr(Destination, "open_file", noted)
    asyncio.run(main())
    assert digests == [remote_of(s3, key).etag]
    held = files_of(dest)[key].stat()
    for descriptor in opened:
        with suppress(OSError):
            assert os.fstat(descriptor).st_ino != held.st_ino, "the descriptor is left open"


# --- Plans ----------------------------------------------------------------------------------------


def _plan(s3: ScriptedS3, dest: Path, report: Callable[[Event], None], **options: Any) -> None:
    settings = Settings(dest=dest, concurrency=8, **options)
    asyncio.run(operations.plan(Source(endpoint_url=s3.endpoint_url), settings, report))


def _write_plan(s3: ScriptedS3, dest: Path, path: Path) -> None:
    with path.open("w") as out:
        planfile.write_header(out, Source(endpoint_url=s3.endpoint_url))

        def write(event: Event) -> None:
            if isinstance(event, PagePlanned):
                for decision in event.decisions:
                    planfile.write_decision(out, decision)

        _plan(s3, dest, write)


def test_a_plan_writes_nothing_and_asks_for_no_object(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 10)
    events: list[Event] = []
    _plan(s3, dest, events.append)
    decisions = [one for event in events if isinstance(event, PagePlanned) for one in event.decisions]
    assert [type(decision) for decision in decisions] == [Fetch] * 10
    assert not dest.exists()
    assert asked(s3) == []


def test_a_plan_over_a_destination_changes_nothing_in_it(s3: ScriptedS3, dest: Path) -> None:
    (key,) = stock(s3, 1)
    fetch(s3, dest)
    s3.put(key, snapshot(s3)[key][0].body, modified=MODIFIED + DAY)  # A fetch would set the file's time.

    def state() -> dict[str, tuple[int, str]]:
        files = [path for path in dest.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, md5(path.read_bytes()).hexdigest()) for path in files}

    before = state()
    _plan(s3, dest, lambda event: None)
    assert state() == before


def test_a_plan_is_carried_out_as_it_says(s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    keys = stock(s3, 20)
    stock(s3, 5, "ct")
    plan = tmp_path / "plan.jsonl"
    _write_plan(s3, dest, plan)
    lines = plan.read_text().splitlines()
    plan.write_text("\n".join([lines[0], *(line for line in lines[1:] if '"training/data/' in line)][:11]))
    s3.put(keys[0], b"replaced since it was planned")
    listings = len([seen for seen in s3.requests if seen.operation == "list" and "delimiter" not in seen.query])
    run = fetch(s3, dest, plan_file=plan)
    assert (run.exit_code, run.tally.listed.objects, run.tally.fetched.objects) == (1, 10, 9)
    assert run.reasons == {keys[0]: "changed"}
    assert check_tree(dest, snapshot(s3)) == set(keys[1:10])
    assert listings == len([seen for seen in s3.requests if seen.operation == "list" and "delimiter" not in seen.query])


def test_events_of_bytes_add_up_to_what_was_fetched(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 20)
    run = fetch(s3, dest)
    received = sum(event.size for event in run.events if isinstance(event, Received))
    assert received == run.tally.received_bytes == run.tally.fetched.bytes == run.tally.listed.bytes
    assert any(isinstance(event, Committed) for event in run.events)


@fault(29)
def test_a_destination_may_hold_two_versions_in_turn_but_never_a_mix(s3: ScriptedS3, dest: Path) -> None:
    keys = stock(s3, 20)
    known = snapshot(s3)
    fetch(s3, dest)
    for key in keys[::2]:
        s3.put(key, key.encode() * 3, modified=MODIFIED + DAY)
        known[key].append(Version(key.encode() * 3, MODIFIED + DAY))
    s3.script("get", Cut(9), count=5)
    assert fetch(s3, dest).exit_code == 0
    assert check_tree(dest, known) == check_tree(dest, snapshot(s3)) == set(keys)


def test_a_part_of_a_plan_that_is_denied_is_missed_like_a_named_one(s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.jsonl"
    with plan.open("w") as out:
        write_header(out, Source())
        for key in ("training/data/Covid0000/a", "training/ct/Covid0000/a"):
            s3.put(key, b"a")
            write_decision(out, Fetch(remote_of(s3, key), Why.MISSING))
    _grant(s3, "data")
    assert fetch(s3, dest, plan_file=plan).exit_code == 4
    assert check_tree(dest, snapshot(s3)) == {"training/data/Covid0000/a"}


def test_a_plan_of_nothing_is_an_error_and_fetches_nothing(s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    """Not everything, which is what no named part means."""
    s3.put("training/ct/Covid0000/a.dcm", b"a")
    plan = tmp_path / "plan.jsonl"
    with plan.open("w") as out:
        write_header(out, Source())
    run = fetch(s3, dest, plan_file=plan)
    assert run.exit_code == 2
    assert not dest.exists()
    assert s3.requests == []


def test_a_plan_whose_parts_alternate_is_carried_out_in_one_pass(s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    objects = {f"training/{part}/Covid000{number}/a": part.encode() for number in range(4) for part in ("ct", "data")}
    plan = tmp_path / "plan.jsonl"
    with plan.open("w") as out:
        write_header(out, Source())
        for key, body in objects.items():
            s3.put(key, body)
            write_decision(out, Fetch(remote_of(s3, key), Why.MISSING))
    run = fetch(s3, dest, plan_file=plan)
    assert run.exit_code == 0
    assert {part: tally.state for part, tally in run.tally.parts.items()} == {
        "ct": PartState.COMPLETE,
        "data": PartState.COMPLETE,
    }
    assert check_tree(dest, objects) == set(objects)


@fault(93)
def test_a_listing_denied_later_is_4_also_where_the_filter_hid_its_first_page(s3: ScriptedS3, dest: Path) -> None:
    s3.put("training/data/a", b"a")
    for number in range(1500):
        s3.put(f"training/ct/Covid{number:04}/a", b"a")
    s3.script("list", Status(403, "AccessDenied"), key="training/ct/", after=1, count=None)
    run = fetch(s3, dest, include=("data/*", "ct/Covid14*"))
    assert run.exit_code == 4
    assert run.tally.parts["ct"].state is PartState.FAILED


def test_a_filter_that_lets_nothing_through_is_an_error_and_empties_no_part(s3: ScriptedS3, dest: Path) -> None:
    stock(s3, 3)
    run = fetch(s3, dest, "data", include=("Covid*",))
    assert run.exit_code == 2
    assert run.tally.parts["data"].state is PartState.COMPLETE


def test_a_plan_of_a_part_that_is_gone_fails_object_by_object(s3: ScriptedS3, dest: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.jsonl"
    stock(s3, 1)
    keys = stock(s3, 5, "ct")
    with plan.open("w") as out:
        write_header(out, Source())
        for key in keys:
            write_decision(out, Fetch(remote_of(s3, key), Why.MISSING))
            s3.delete(key)
    run = fetch(s3, dest, plan_file=plan)
    assert run.exit_code == 1
    assert set(run.reasons.values()) == {"gone"}
    assert len(run.reasons) == 5


@pytest.mark.parametrize("key", ["validation/ct/a", "training/a", "trainingX/ct/a"])
def test_a_plan_with_a_key_of_no_part_is_refused(s3: ScriptedS3, dest: Path, tmp_path: Path, key: str) -> None:
    plan = tmp_path / "plan.jsonl"
    s3.put("training/ct/a", b"a")
    with plan.open("w") as out:
        write_header(out, Source())
        write_decision(out, Fetch(remote_of(s3, "training/ct/a")._replace(key=key), Why.MISSING))
    assert fetch(s3, dest, plan_file=plan).exit_code == 2
    assert not dest.exists()


@fault(100)
def test_a_cancellation_during_the_last_commit_waits_for_it(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is in place may stay unrecorded because somebody was impatient at the very end."""
    keys = stock(s3, 20)
    publish = Destination.publish
    inside, go_on = threading.Event(), threading.Event()

    def slow(self: Destination, batch: Any) -> Any:
        results = publish(self, batch)
        inside.set()
        assert go_on.wait(60)
        return results

    monkeypatch.setattr(Destination, "publish", slow)
    monkeypatch.setattr(commit, "BATCH_SECONDS", 60.0)

    async def scenario() -> None:
        run = asyncio.ensure_future(fetching(s3, dest))
        await asyncio.to_thread(inside.wait, 20)
        run.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not run.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(scenario())
    assert check_tree(dest, snapshot(s3)) == set(keys) == set(records(dest))


@pytest.mark.parametrize(("waited_at", "grows"), [(float("-inf"), True), (1e9, False)])
def test_auto_learns_nothing_from_an_object_that_waited_for_what_concerns_all(waited_at: float, grows: bool) -> None:  # noqa: FBT001
    """While the run was held, or for bandwidth: what it waited for was no place."""
    now = [0.0]
    tools: Any = SimpleNamespace(
        settings=Settings(dest=Path("dest"), concurrency="auto"),
        governor=Governor(),
        clock=Clock(now=lambda: now[0]),
        slots=Slots(64),
        report=lambda _: None,
        waited_at=waited_at,
    )
    limit = pipeline._Limit(tools)
    for _ in range(2000):
        now[0] += 0.01
        tools.slots.in_flight = tools.slots.limit
        limit.fetched(1000, now[0] - 0.5)
    assert (tools.slots.limit > 64) is grows
