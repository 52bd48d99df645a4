"""A part that is listed in shards gives what it gives page after page: every key, and each of them once."""

import asyncio
import random
from bisect import bisect_right, insort
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nccid_fetch
from nccid_fetch.admission import WAITING_OBJECTS
from nccid_fetch.errors import AccessError, EndpointError, ListingDeniedError, ListingError, NccidFetchError
from nccid_fetch.events import ListingEnded, PagePlanned
from nccid_fetch.listing import Listing, ShardedListing, Stream
from nccid_fetch.model import ETag, Fetch, PartState, RemoteObject, Why
from nccid_fetch.planfile import write_decision, write_header
from nccid_fetch.settings import Source, Transport
from nccid_fetch.shards import NAMES_MAX, SHARDS_MAX, Edges, Shards
from nccid_fetch.store.pages import PAGE_KEYS, Lister, Page

from .catalogue import fault
from .conftest import run
from .oracle import check_tree, fetch, fetching, remote_of, snapshot
from .servers.scripted import Action, Do, Exchange, Honest, ScriptedS3, Stall, Status
from .servers.scripted import Page as Lie

PREFIX = "training/ct/"
PATIENTS = (
    "Covid1",
    "Covid1-",
    "Covid1.",
    "Covid1/",
    "Covid10",
    "covid1",
    "é",
    "e\u0301",
    "\U0001fa7b",
    "a b",
    "%2F",
    "",
)
NAMES = ("", "/", "/a", "/a/b", "/0.dcm", "/1.2/3.dcm", "-x", "/\U0010ffff", "/\x01")

thorough = settings(max_examples=300)
keys = st.builds(str.__add__, st.sampled_from(PATIENTS), st.sampled_from(NAMES)).map(PREFIX.__add__)


def remote(key: str) -> RemoteObject:
    return RemoteObject(key, 1, ETag("e"), 0)


def prefixes_of(present: Sequence[str], prefix: str = PREFIX) -> list[str]:
    below = (key.removeprefix(prefix).partition("/") for key in present)
    return sorted({prefix + name + slash for name, slash, _ in below if slash})


# --- Who lists what -------------------------------------------------------------------------------


@given(
    present=st.sets(keys, max_size=60),
    edges=st.sets(keys, max_size=8),
    own_edges=st.booleans(),
    page_keys=st.integers(1, 7),
    changes=st.lists(st.tuples(st.booleans(), keys), max_size=8),
    chance=st.randoms(use_true_random=False),
)
@thorough
def test_shards_have_every_key_between_them_and_each_once(
    *,
    present: set[str],
    edges: set[str],
    own_edges: bool,
    page_keys: int,
    changes: list[tuple[bool, str]],
    chance: random.Random,
) -> None:
    """Whatever the edges are worth, in whatever order pages come, and whatever comes and goes meanwhile."""
    bucket = sorted(present)
    lasting = set(bucket)
    ever = set(bucket)
    shards = Shards()
    given_: dict[int, list[str]] = {}
    places = {id(shards.at_work[0]): ""}
    learnt = False
    while shards.at_work:
        match chance.randrange(5):
            case 0 if not learnt:
                shards.learn(sorted({*edges, *(prefixes_of(bucket) if own_edges else ())}))
                learnt = True
            case 1 if shards.spare > 0 and len(shards.at_work) < SHARDS_MAX:
                shard = shards.split()
                places[id(shard)] = shard.position
            case 2 if changes:
                is_new, key = changes.pop()
                if is_new and key not in bucket:
                    insort(bucket, key)
                    ever.add(key)
                elif not is_new and key in bucket:
                    bucket.remove(key)
                    lasting.discard(key)
            case _:
                shard = chance.choice(shards.at_work)
                start = bisect_right(bucket, places[id(shard)])
                page = [remote(key) for key in bucket[start : start + page_keys]]
                taken = shards.take(shard, page, is_last=start + page_keys >= len(bucket))
                given_.setdefault(id(shard), []).extend(found.key for found in taken)
                if shard.is_over:
                    shards.end(shard)
                elif page:
                    places[id(shard)] = page[-1].key
    every = [key for stream in given_.values() for key in stream]
    assert len(every) == len(set(every))
    assert lasting <= set(every) <= ever
    assert all(stream == sorted(stream) for stream in given_.values())


def edged(patients: int) -> Shards:
    shards = Shards()
    shards.learn([f"{PREFIX}{number:04}/" for number in range(patients)])
    return shards


def test_a_part_is_divided_into_halves_of_halves() -> None:
    shards = edged(160)
    while len(shards.at_work) < SHARDS_MAX:
        shards.split()
    bounds = sorted(int(shard.position.removeprefix(PREFIX).strip("/") or 0) for shard in shards.at_work)
    assert {after - before for before, after in zip(bounds, [*bounds[1:], 160], strict=True)} == {10}


def test_what_the_next_page_brings_anyway_is_not_split_off() -> None:
    """Else the end of every part of small patients would be a storm of requests for what is on its way."""
    shards = edged(30)
    (owner,) = shards.at_work
    shards.take(owner, [remote(f"{PREFIX}{number:04}/a") for number in range(10)], is_last=False)
    assert shards.spare == 10
    assert shards.split().position == f"{PREFIX}0020/"
    assert shards.spare == 0


def test_a_shard_that_is_over_has_nothing_to_give_up_whatever_the_edges_said() -> None:
    shards = edged(10)
    (owner,) = shards.at_work
    shards.take(owner, [remote(f"{PREFIX}0000/a")], is_last=True)
    assert shards.spare == 0


def test_what_a_shard_has_of_a_page_is_decided_when_the_page_is_there() -> None:
    """Not when it was asked for: meanwhile others may have taken over."""
    shards = edged(4)
    (owner,) = shards.at_work
    page = [remote(f"{PREFIX}{number:04}/a") for number in range(4)]
    assert shards.split().position == f"{PREFIX}0002/"
    assert shards.take(owner, page, is_last=True) == page[:2]
    assert owner.is_over


def test_a_key_that_is_an_edge_belongs_before_it() -> None:
    shards = edged(2)
    (owner,) = shards.at_work
    other = shards.split()
    page = [remote(f"{PREFIX}0001/"), remote(f"{PREFIX}0001/a")]
    assert shards.take(owner, page, is_last=True) == page[:1]
    assert other.position == page[0].key


def test_what_is_left_of_a_part_that_is_given_up_is_not_divided() -> None:
    shards = edged(100)
    shards.end(shards.split())
    assert shards.spare == 0


UNDIVIDED = {
    "an object beside a folder of its name": ([f"{PREFIX}a"], [f"{PREFIX}a/", f"{PREFIX}b/"]),
    "folders that differ in case": ([], [f"{PREFIX}A/", f"{PREFIX}a/"]),
    "folders that differ in Unicode form": ([], [f"{PREFIX}e\u0301/", f"{PREFIX}é/"]),
    "an object and a folder that differ in case": ([f"{PREFIX}A"], [f"{PREFIX}a/", f"{PREFIX}b/"]),
    "a folder twice": ([], [f"{PREFIX}a/", f"{PREFIX}a/"]),
    "more objects than folders": ([f"{PREFIX}b", f"{PREFIX}c"], [f"{PREFIX}a/"]),
    "more patients than are kept in memory": ([], [f"{PREFIX}{number}/" for number in range(NAMES_MAX + 1)]),
}


@pytest.mark.parametrize(("objects", "folders"), UNDIVIDED.values(), ids=UNDIVIDED)
def test_parts_that_are_not_divided(objects: list[str], folders: list[str]) -> None:
    assert not Edges(PREFIX).add([remote(key) for key in objects], folders)


def test_names_that_only_resemble_each_other_are_no_reason_not_to_divide() -> None:
    edges = Edges(PREFIX)
    folders = [f"{PREFIX}Covid1-/", f"{PREFIX}Covid1./", f"{PREFIX}Covid1/", f"{PREFIX}Covid10/"]
    assert edges.add([remote(PREFIX), remote(f"{PREFIX}README")], folders)
    assert edges.add([remote(f"{PREFIX}zzz")], [])
    assert edges.edges == folders


# --- Who asks for what, and when ------------------------------------------------------------------


class Bucket(Lister):
    """Answers from memory, one request at a time, in an order left to chance, as things stand at that moment."""

    def __init__(self, present: Sequence[str], *, page_keys: int = 3, seed: int = 0) -> None:
        self.keys = sorted(present)
        self.page_keys = page_keys
        self.chance = random.Random(seed)
        self.asked: list[dict[str, Any]] = []
        self.waiting: list[asyncio.Event] = []
        self.in_flight_max = 0
        self.fault: Callable[[dict[str, Any]], Exception | None] = lambda asked: None

    async def page(self, prefix: str, **options: Any) -> Page:
        turn = asyncio.Event()
        self.asked.append({"prefix": prefix, **options})
        self.waiting.append(turn)
        self.in_flight_max = max(self.in_flight_max, len(self.waiting))
        try:
            await turn.wait()
        finally:
            self.waiting.remove(turn)
        if error := self.fault({"prefix": prefix, **options}):
            raise error
        after = max(options["token"] or options["start_after"] or "", prefix[:-1])
        found = takewhile(lambda key: key.startswith(prefix), self.keys[bisect_right(self.keys, after) :])
        rows: list[str] = []
        for key in found:
            name, slash, _ = key.removeprefix(prefix).partition("/")
            row = prefix + name + slash if options["delimiter"] and slash else key
            if row.endswith("/") and key != row and row <= after:
                continue  # A folder that an earlier page had.
            if [row] != rows[-1:]:
                rows.append(row)
            if len(rows) > self.page_keys:
                break
        token = rows[self.page_keys - 1] if len(rows) > self.page_keys else None
        folders = [
            row for row in rows[: self.page_keys] if options["delimiter"] and row.endswith("/") and row != prefix
        ]
        return Page([remote(row) for row in rows[: self.page_keys] if row not in folders], folders, token)

    async def answer(self) -> None:
        """Let everybody ask what they want to, then answer one of them."""
        for _ in range(30):
            await asyncio.sleep(0)
        if self.waiting:
            self.chance.choice(self.waiting).set()

    @property
    def pages_asked(self) -> int:
        return sum(asked["delimiter"] is None for asked in self.asked)


async def _read(stream: Stream, into: list[list[str]]) -> None:
    pages: list[str] = []
    into.append(pages)
    async for page in stream:
        pages += [found.key for found in page]


async def _read_all(streams: AsyncGenerator[Stream, None], into: list[list[str]]) -> None:
    async with asyncio.TaskGroup() as group:
        async for stream in streams:
            group.create_task(_read(stream, into))


async def _listed(bucket: Bucket, *prefixes: str) -> list[list[str]]:
    """List parts in shards to their end, answering in an order left to chance: what each stream gave."""
    sharded = ShardedListing(Listing(bucket, 1))
    streams: list[list[str]] = []
    reading = [asyncio.create_task(_read_all(sharded.streams(prefix), streams)) for prefix in prefixes or (PREFIX,)]
    while not all(task.done() for task in reading):
        await bucket.answer()
    for task in reading:
        task.result()
    return [stream for stream in streams if stream]


def stocked(patients: int, each: int, prefix: str = PREFIX) -> list[str]:
    return [f"{prefix}Covid{patient:04}/{number:04}.dcm" for patient in range(patients) for number in range(each)]


@given(present=st.sets(keys, max_size=60), page_keys=st.integers(1, 7), seed=st.integers(0, 999))
@thorough
def test_a_part_listed_in_shards_is_the_part_listed_page_after_page(
    present: set[str], page_keys: int, seed: int
) -> None:
    bucket = Bucket(list(present), page_keys=page_keys, seed=seed)
    streams = run(_listed(bucket))
    assert sorted(key for stream in streams for key in stream) == bucket.keys
    assert all(stream == sorted(stream) for stream in streams)


@fault(56)
@given(
    present=st.sets(keys, min_size=10, max_size=60),
    changes=st.lists(st.tuples(st.booleans(), keys), max_size=8),
    page_keys=st.integers(1, 4),
    seed=st.integers(0, 999),
)
@thorough
def test_what_is_there_all_the_time_is_listed_once_whatever_comes_and_goes(
    present: set[str], changes: list[tuple[bool, str]], page_keys: int, seed: int
) -> None:
    bucket = Bucket(list(present), page_keys=page_keys, seed=seed)
    lasting, ever = set(present), set(present)

    def change(asked: dict[str, Any]) -> None:
        if changes and bucket.chance.random() < 0.4:
            is_new, key = changes.pop()
            if is_new and key not in bucket.keys:
                insort(bucket.keys, key)
                ever.add(key)
            elif not is_new and key in bucket.keys:
                bucket.keys.remove(key)
                lasting.discard(key)

    bucket.fault = change
    every = [key for stream in run(_listed(bucket)) for key in stream]
    assert len(every) == len(set(every))
    assert lasting <= set(every) <= ever


def test_many_patients_are_listed_by_many_at_once_and_with_few_requests_more() -> None:
    bucket = Bucket(stocked(120, 10), page_keys=12)
    streams = run(_listed(bucket))
    assert sorted(key for stream in streams for key in stream) == bucket.keys
    assert bucket.in_flight_max == SHARDS_MAX
    assert 100 <= bucket.pages_asked <= 100 + 3 * SHARDS_MAX


def test_one_page_is_one_request() -> None:
    bucket = Bucket(stocked(3, 1), page_keys=3)
    assert run(_listed(bucket)) == [bucket.keys]
    assert len(bucket.asked) == 1


def test_parts_share_the_room_and_those_that_are_through_leave_theirs() -> None:
    parts = {"training/ct/": 150, "training/mri/": 150, "training/data/": 2}
    bucket = Bucket([key for prefix, patients in parts.items() for key in stocked(patients, 3, prefix)])
    streams = run(_listed(bucket, *parts))
    assert sorted(key for stream in streams for key in stream) == bucket.keys
    assert bucket.in_flight_max <= SHARDS_MAX + len(parts), "shards, and each part's search for patients"
    begun = {
        prefix: sum(stream[:1] > [prefix] for stream in streams if stream[0].startswith(prefix)) for prefix in parts
    }
    assert begun["training/ct/"] > SHARDS_MAX // 2 < begun["training/mri/"]


REFUSALS = (ListingDeniedError("no"), ListingError("nonsense"), EndpointError("gone"), AccessError("expired"))


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_part_whose_patients_cannot_be_had_is_listed_page_after_page(error: NccidFetchError) -> None:
    bucket = Bucket(stocked(30, 2))
    bucket.fault = lambda asked: error if asked["delimiter"] else None
    assert run(_listed(bucket)) == [bucket.keys]


def test_a_part_with_names_that_one_disk_cannot_hold_side_by_side_stays_in_one_stream() -> None:
    bucket = Bucket([*stocked(30, 2), f"{PREFIX}Covid0007"])
    assert run(_listed(bucket)) == [bucket.keys]


def test_a_search_for_patients_that_takes_longer_than_the_listing_is_ended_with_it() -> None:
    bucket = Bucket(stocked(4, 2))
    ask = bucket.page

    async def page(prefix: str, **options: Any) -> Page:
        if options["delimiter"]:
            await asyncio.Event().wait()
        return await ask(prefix, **options)

    bucket.page = page  # type: ignore[method-assign]
    assert run(_listed(bucket)) == [bucket.keys]


def test_a_shard_that_breaks_takes_none_of_the_others_along() -> None:
    bucket = Bucket(stocked(60, 3))
    broken: list[str] = []

    def fault(asked: dict[str, Any]) -> Exception | None:
        if asked["start_after"] and not asked["token"] and not broken:
            broken.append(asked["start_after"])
            return ListingError("broken off")
        return None

    async def reading(stream: Stream, into: list[list[str]], errors: list[Exception]) -> None:
        try:
            await _read(stream, into)
        except ListingError as error:
            errors.append(error)

    async def scenario() -> tuple[list[list[str]], list[Exception]]:
        into: list[list[str]] = []
        errors: list[Exception] = []

        async def all_streams() -> None:
            async with asyncio.TaskGroup() as group:
                async for stream in ShardedListing(Listing(bucket, 1)).streams(PREFIX):
                    group.create_task(reading(stream, into, errors))

        task = asyncio.create_task(all_streams())
        while not task.done():
            await bucket.answer()
        task.result()
        return into, errors

    bucket.fault = fault
    streams, errors = run(scenario())
    assert [str(error) for error in errors] == ["broken off"]
    missing = sorted(set(bucket.keys) - {key for stream in streams for key in stream})
    assert missing == [key for key in bucket.keys if missing[0] <= key <= missing[-1]], "one range is missing"
    assert missing[0] == next(key for key in bucket.keys if key > broken[0])


@fault(53)
def test_a_shard_that_goes_back_before_its_beginning_is_an_error() -> None:
    """As a server's would that does not know where a listing is to begin."""
    bucket = Bucket(stocked(60, 3))
    ask = bucket.page

    async def page(prefix: str, **options: Any) -> Page:
        return await ask(prefix, **options | {"start_after": ""})

    bucket.page = page  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        run(_listed(bucket))
    assert caught.group_contains(ListingError, match="goes back")


def test_a_stream_that_is_not_read_asks_for_nothing() -> None:
    bucket = Bucket(stocked(60, 3))

    async def scenario() -> None:
        sharded = ShardedListing(Listing(bucket, 1)).streams(PREFIX)
        first = await anext(sharded)
        reading = asyncio.ensure_future(anext(first))
        while not reading.done():
            await bucket.answer()
        for _ in range(5):
            await bucket.answer()
        assert len(bucket.asked) == 1
        await first.aclose()
        await sharded.aclose()

    run(scenario())


def test_when_one_stream_of_a_part_is_closed_no_more_are_begun() -> None:
    bucket = Bucket(stocked(200, 3))

    async def scenario() -> None:
        sharded = ShardedListing(Listing(bucket, 1)).streams(PREFIX)
        first = await anext(sharded)
        reading = asyncio.ensure_future(anext(first))
        while not reading.done():
            await bucket.answer()
        search = asyncio.ensure_future(_read(await anext(sharded), []))
        while not search.done():
            await bucket.answer()
        streams = [await anext(sharded) for _ in range(SHARDS_MAX - 1)]
        pages = [asyncio.ensure_future(anext(stream)) for stream in streams]
        while not all(page.done() for page in pages):
            await bucket.answer()
        for stream in (first, *streams):
            await stream.aclose()
        assert [stream async for stream in sharded] == []

    run(scenario())


# --- In a run -------------------------------------------------------------------------------------


def short_pages(s3: ScriptedS3, page_keys: int) -> None:
    """Let the server give shorter pages than it is asked for, as S3 may."""
    whole = s3._page
    s3._page = lambda after, prefix, delimiter, limit: whole(after, prefix, delimiter, min(limit, page_keys))  # type: ignore[method-assign]


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        short_pages(server, 5)
        yield server


def stock(s3: ScriptedS3, patients: int = 20, each: int = 4) -> list[str]:
    present = stocked(patients, each)
    for key in present:
        s3.put(key, key.encode())
    return present


def ct_only(prefix: str, delimiter: str) -> bool:
    """The rights of a reader of one part."""
    return prefix.startswith(PREFIX)


def starts(s3: ScriptedS3) -> list[str]:
    """Where listings began that did not begin at the beginning."""
    return [seen.query["start-after"] for seen in s3.requests if "start-after" in seen.query]


def test_a_reader_of_one_part_fetches_it_in_shards(s3: ScriptedS3, dest: Path) -> None:
    present = stock(s3)
    s3.allow_list = ct_only
    result = fetch(s3, dest, "ct")
    assert (result.exit_code, result.tally.fetched.objects) == (0, len(present))
    assert check_tree(dest, snapshot(s3)) == set(present)
    assert len(starts(s3)) >= 3
    asked = [seen.query for seen in s3.requests if seen.operation == "list"]
    assert {query["prefix"] for query in asked} == {"training/", PREFIX}
    assert all(after.startswith(PREFIX) and after.endswith("/") for after in starts(s3))


def test_where_patients_may_not_be_listed_a_part_is_fetched_all_the_same(s3: ScriptedS3, dest: Path) -> None:
    present = stock(s3)
    s3.allow_list = lambda prefix, delimiter: ct_only(prefix, delimiter) and not delimiter
    result = fetch(s3, dest, "ct")
    assert (result.exit_code, result.tally.parts["ct"].state) == (0, PartState.COMPLETE)
    assert check_tree(dest, snapshot(s3)) == set(present)
    assert starts(s3) == []


def test_a_part_ends_once_after_all_of_its_shards(s3: ScriptedS3, dest: Path) -> None:
    stock(s3)
    events = fetch(s3, dest, "ct").events
    (end,) = [number for number, event in enumerate(events) if isinstance(event, ListingEnded)]
    assert not any(isinstance(event, PagePlanned) for event in events[end:])


@dataclass(slots=True)
class OneShard:
    """Tells a lie to one shard, the first that asks, whenever it asks where it begins; the truth to all others."""

    lie: Action
    begins: str | None = None

    async def tell(self, exchange: Exchange) -> None:
        begins = exchange.request.query.get("start-after")
        self.begins = self.begins or begins
        await (self.lie if begins and begins == self.begins else Honest()).tell(exchange)


def test_every_stream_remembers_its_own_keys_whatever_the_others_list_meanwhile(s3: ScriptedS3, dest: Path) -> None:
    """Of an object and one below its name, pages apart, the second is not even asked for."""
    names = ("a", "a-1", "a-2", "a-3", "a-4", "a-5", "a/b")
    present = [f"{PREFIX}Covid{patient:04}/{name}" for patient in range(30) for name in names]
    for key in present:
        s3.put(key, key.encode())
    result = fetch(s3, dest, "ct")
    below = [key for key in present if key.endswith("/a/b")]
    assert result.reasons == dict.fromkeys(below, "conflict")
    assert not any(s3.gets(key) for key in below)
    assert check_tree(dest, snapshot(s3)) == {*present} - {*below}
    assert len(starts(s3)) >= 3


BREAKS = {
    "denied": (Status(403, "AccessDenied"), 4),
    "a captive portal": (Lie(b"<html>Please log in.</html>"), 5),
    "a server error": (Status(500, "InternalError"), 5),
}


@pytest.mark.parametrize(("lie", "code"), BREAKS.values(), ids=BREAKS)
@pytest.mark.usefixtures("no_pauses")
def test_a_shard_that_breaks_fails_its_part_and_the_other_shards_finish(
    s3: ScriptedS3, dest: Path, lie: Action, code: int
) -> None:
    present = stock(s3)
    told = OneShard(lie)
    s3.script("list", told, key=PREFIX, count=None)
    result = fetch(s3, dest, "ct")
    assert (result.exit_code, result.tally.parts["ct"].state) == (code, PartState.FAILED)
    assert len([event for event in result.events if isinstance(event, ListingEnded)]) == 1
    there = check_tree(dest, snapshot(s3))
    missing = [key for key in present if key not in there]
    assert missing == [key for key in present if str(told.begins) < key <= missing[-1]], "one range, and that alone"


def test_a_part_that_is_given_up_is_not_listed_to_its_end(dest: Path) -> None:
    with ScriptedS3() as s3:
        short_pages(s3, 100)
        present = stock(s3, 300, 20)
        s3.allow_get = lambda key: False
        result = fetch(s3, dest, "ct", concurrency=4, transport=Transport.AIOBOTO3)
    assert result.exit_code == 4
    assert result.tally.parts["ct"].state is PartState.DENIED
    assert len([event for event in result.events if isinstance(event, ListingEnded)]) == 1
    assert result.tally.listed.objects <= WAITING_OBJECTS + SHARDS_MAX * 100 + 100 < len(present)


def test_a_run_that_is_cancelled_while_shards_are_listed_ends_at_once(s3: ScriptedS3, dest: Path) -> None:
    stock(s3)

    async def scenario() -> None:
        running = asyncio.ensure_future(fetching(s3, dest, "ct"))
        loop = asyncio.get_running_loop()
        s3.script("list", OneShard(Do(lambda: loop.call_soon_threadsafe(running.cancel), Stall())), count=None)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())
    check_tree(dest, snapshot(s3))


def test_a_plan_is_in_key_order_however_its_shards_came(s3: ScriptedS3, dest: Path) -> None:
    present = stock(s3)
    plan = nccid_fetch.plan("ct", dest=dest, endpoint_url=s3.endpoint_url)
    assert [decision.remote.key for decision in plan.decisions] == present
    assert len(starts(s3)) >= 3


@pytest.mark.parametrize("reverse", [False, True], ids=["the object first", "what is below it first"])
def test_of_an_object_and_one_below_it_far_apart_in_a_plan_the_same_one_arrives_on_every_run(
    s3: ScriptedS3,
    dest: Path,
    tmp_path: Path,
    reverse: bool,  # noqa: FBT001
) -> None:
    """A plan has the pages of its shards in any order; what planning cannot see, publishing does."""
    between = stocked(1, PAGE_KEYS)
    order = [f"{PREFIX}Covid0001/a", *between, f"{PREFIX}Covid0001/a/b"]
    plan = tmp_path / "plan.jsonl"
    with plan.open("w") as out:
        write_header(out, Source())
        for key in reversed(order) if reverse else order:
            s3.put(key, b"x")
            write_decision(out, Fetch(remote_of(s3, key), Why.MISSING))
    runs = [fetch(s3, dest, plan_file=plan) for _ in range(2)]
    assert [result.exit_code for result in runs] == [1, 1]
    assert list(runs[0].reasons.values()) == ["conflict"]
    assert runs[0].reasons == runs[1].reasons
    assert check_tree(dest, snapshot(s3)) == {*order} - {*runs[0].reasons}
