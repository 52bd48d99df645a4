"""What a run forgets of what failed before: what it looked at again, and nothing else."""

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch.errors import ListingDeniedError, ListingError, NccidFetchError, ObjectError, Reason
from nccid_fetch.holdings import read_holdings
from nccid_fetch.journal import Journal
from nccid_fetch.model import ETag, Fetch, RemoteObject, Why
from nccid_fetch.planfile import write_decision, write_header
from nccid_fetch.settings import OnFailure, Source

from .catalogue import fault
from .virtual import VirtualBucket, Weather, World

ONE, TWO, THREE = (f"training/ct/Covid000{number}/1/2/a.dcm" for number in (1, 2, 3))
CLINICAL = "training/data/Covid0001/data_2020-04-01.json"
ALL = {ONE, TWO, THREE, CLINICAL}


class Refusing(Weather):
    """Everything comes, but for some objects and listings.

    Args:
        keys: The objects that do not.
        listings: The listings that do not, by prefix, and what comes in their place.
    """

    def __init__(self, keys: Collection[str] = (), listings: dict[str, NccidFetchError] | None = None) -> None:
        self._keys = keys
        self._listings = listings or {}

    async def listing(self, prefix: str) -> None:
        if prefix in self._listings:
            raise self._listings[prefix]

    async def get(self, key: str) -> None:
        if key in self._keys:
            raise ObjectError(Reason.ARCHIVED, "it is in an archive")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A destination over which a run has failed to get every object."""
    bucket = VirtualBucket(weather=Refusing(ALL))
    for key in sorted(ALL):
        bucket.put(key, key.encode())
    here = World(tmp_path / "dest", bucket)
    assert here.run().exit_code == 1
    assert failed(here) == ALL
    bucket.weather = Weather()
    return here


def failed(world: World) -> set[str]:
    """Return the keys that the journal has as failed, and hold the count of `status` against it."""
    with closing(sqlite3.connect(Journal.path(world.dest))) as journal:
        keys = {str(key) for (key,) in journal.execute("SELECT key FROM failure")}
    holdings = read_holdings(world.dest)
    assert holdings is not None
    assert sum(sum(part.failed.values()) for part in holdings.parts.values()) == len(keys)
    return keys


def planned(world: World, *keys: str) -> Path:
    """Return a plan of these objects."""
    path = world.dest.parent / "plan.jsonl"
    with path.open("w") as out:
        write_header(out, Source())
        for key in keys:
            stored = world.bucket.now[key]
            remote = RemoteObject(key, len(stored.body), stored.etag, stored.version.modified_ns)
            write_decision(out, Fetch(remote, Why.MISSING))
    return path


@fault(150)
@pytest.mark.parametrize(
    ("options", "code", "left"),
    [
        ({}, 0, set()),
        ({"parts": ("data",)}, 0, {ONE, TWO, THREE}),
        ({"include": ("ct/Covid0001/*",)}, 0, {TWO, THREE, CLINICAL}),
        ({"exclude": ("ct/*",)}, 0, {ONE, TWO, THREE}),
        ({"max_patients": 1}, 10, {TWO, THREE}),
        ({"max_bytes": 1}, 10, ALL),
        ({"max_patients": 9}, 0, set()),
    ],
)
def test_a_run_forgets_the_failures_of_what_it_fetches(
    world: World, options: dict[str, Any], code: int, left: set[str]
) -> None:
    assert world.run(**options).exit_code == code
    assert failed(world) == left


@fault(150)
def test_a_plan_forgets_the_failures_of_what_it_names(world: World) -> None:
    assert world.run(plan_file=planned(world, TWO, CLINICAL)).exit_code == 0
    assert failed(world) == {ONE, THREE}


@fault(150)
def test_what_fails_again_stays_and_what_is_in_place_or_adopted_goes(world: World) -> None:
    for key in (ONE, TWO):
        path = world.dest / key.partition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    world.bucket.weather = Refusing({TWO, THREE, CLINICAL})
    run = world.run(include=("ct/*",))
    assert (run.exit_code, run.tally.adopted.objects) == (1, 2)
    assert failed(world) == {THREE, CLINICAL}
    with (
        closing(sqlite3.connect(Journal.path(world.dest))) as journal,
        journal,
    ):  # A run of an older version left it so.
        journal.execute("INSERT INTO failure VALUES (?, 'gone', '')", (ONE,))
    assert world.run(include=("ct/Covid0001/*",)).tally.skipped.objects == 1
    assert failed(world) == {THREE, CLINICAL}


@fault(150)
def test_with_the_first_failure_the_rest_was_not_looked_at(world: World) -> None:
    world.bucket.weather = Refusing(ALL)
    with closing(sqlite3.connect(Journal.path(world.dest))) as journal, journal:
        journal.execute("UPDATE failure SET reason = 'gone'")
    run = world.run(on_failure=OnFailure.STOP, concurrency=1)
    assert (run.exit_code, run.tally.failed) == (1, 1)
    assert failed(world) == ALL


@fault(150)
@pytest.mark.parametrize("options", [{}, {"include": ("data/*",)}, {"exclude": ("*Covid0003*",)}], ids=str)
@pytest.mark.parametrize(
    ("answer", "left"),
    [(None, set()), (ListingDeniedError("403"), {THREE}), (ListingError("HTML"), {THREE})],
    ids=["whole", "denied", "broken"],
)
def test_what_a_whole_listing_has_no_more_is_forgotten(
    world: World, answer: NccidFetchError | None, left: set[str], options: dict[str, Any]
) -> None:
    world.bucket.delete(THREE)
    world.bucket.weather = Refusing(listings={"training/ct/": answer} if answer else {})
    world.run(**options)
    assert failed(world) & {THREE} == left


@fault(150)
def test_what_a_listing_lacks_that_is_doubted_is_not_forgotten(world: World) -> None:
    assert world.run(include=("ct/Covid0001/*", "ct/Covid0002/*")).exit_code == 0
    world.bucket.delete(TWO)  # A listing that has less than is in place is not taken for whole.
    world.bucket.delete(THREE)
    assert "unless the bucket has lost some" in str(world.run(exclude=("data/*",)).tally.parts["ct"].message)
    assert failed(world) == {THREE, CLINICAL}


def test_a_plan_file_of_the_tests_is_one_of_the_tool(world: World) -> None:
    header, line = planned(world, ONE).read_text().splitlines()
    assert (json.loads(header)["group"], json.loads(line)["etag"]) == ("training", ETag(world.bucket.now[ONE].etag))
