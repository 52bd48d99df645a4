"""The comparison of faults itself: an eye that sees wrongly, or a lie that is not told, would flatter somebody."""

import shlex
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from benchmarks import clients, scenarios
from benchmarks.clients import Client
from benchmarks.faults import Cell, Found, Ran, State, look, play, table
from benchmarks.scenarios import SCENARIOS, VICTIM, Cycling, Paged, Scenario, SlowDown, Stage
from nccid_fetch.errors import ListingError
from nccid_fetch.store.pages import Page, parse_page

from .catalogue import TITLES
from .servers.scripted import Honest, ScriptedS3, Status
from .servers.scripted import Page as Rewritten

ALL = tuple(chain.from_iterable(SCENARIOS.values()))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    dest = tmp_path / "sandbox" / "deep" / "dest"
    dest.mkdir(parents=True)
    with ScriptedS3() as s3, ScriptedS3() as other:
        s3.is_public = True  # What is asked here is asked without a client.
        yield Stage(s3, other, tmp_path / "sandbox", dest)


def listed(stage: Stage, token: str | None = None) -> Page:
    query = {"list-type": "2", "prefix": "training/"} | ({"continuation-token": token} if token else {})
    with urlopen(f"{stage.s3.endpoint_url}/{stage.s3.bucket}?{urlencode(query)}", timeout=10) as answer:
        return parse_page(answer.read(), bucket=stage.s3.bucket, prefix="training/")


def test_no_two_scenarios_have_the_same_name_and_all_are_of_the_catalogue() -> None:
    assert len({scenario.name for scenario in ALL}) == len(ALL)
    assert {number for scenario in ALL for number in scenario.faults} <= {*TITLES}


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b"right", State.RIGHT),
        (b"version", State.RIGHT),
        (b"rig", State.CUT),
        (b"", State.CUT),
        (b"wrong", State.WRONG),
        (b"right and more", State.WRONG),
        (None, State.MISSING),
    ],
)
def test_a_file_is_whole_cut_wrong_or_missing(stage: Stage, body: bytes | None, state: State) -> None:
    stage.put("training/data/a", b"right")
    stage.put("training/data/a", b"version")
    if body is not None:
        (stage.dest / "data").mkdir()
        (stage.dest / "data" / "a").write_bytes(body)
    assert look(stage, frozenset()).states == {"data/a": state}


def test_what_is_left_beside_the_objects_and_outside_is_seen_and_no_link_is_followed(stage: Stage) -> None:
    stage.put("training/data/a", b"right")
    for path in ("deep/dest/data/a.tmp", "deep/dest/.nccid-fetch/journal.sqlite", "deep/escaped", "planted"):
        (stage.sandbox / path).parent.mkdir(parents=True, exist_ok=True)
        (stage.sandbox / path).write_bytes(b"right")
    (stage.dest / "data" / "a").symlink_to(stage.sandbox / "planted")
    found = look(stage, frozenset({stage.sandbox / "planted"}))
    assert found.states == {"data/a": State.MISSING}
    assert [Path(path).name for path in found.litter] == ["a.tmp"]
    assert [Path(path).name for path in found.outside] == ["escaped"]


@pytest.mark.parametrize(
    ("code", "found", "told"),
    [
        (0, Found({"a": State.RIGHT}), "right; exit 0"),
        (1, Found({"a": State.MISSING, "b": State.RIGHT}), "1 of 2 missing; exit 1"),
        (0, Found({"a": State.MISSING}), "1 of 1 missing; **exit 0**"),
        (0, Found({"a": State.CUT}), "**cut short under its name**; **exit 0**"),
        (1, Found({"a": State.WRONG, "b": State.WRONG}), "**2 files: wrong bytes**; exit 1"),
        (0, Found({"a": State.RIGHT}, litter=("x",)), "right, litter left (1); exit 0"),
        (1, Found({"a": State.RIGHT}, outside=("x",)), "**written outside the destination**; exit 1"),
        (0, Found({"a": State.RIGHT, "may be away": State.MISSING}), "the rest is right; **exit 0**"),
        (1, Found({"a": State.RIGHT, "may be away": State.MISSING}), "the rest is right; exit 1"),
        (None, Found({"a": State.RIGHT}), "right; no end in 60 s"),
    ],
)
def test_what_a_user_would_not_notice_is_bold(code: int | None, found: Found, told: str) -> None:
    assert Ran(code, 0.5, found).told({"may be away"}) == told


def test_a_rerun_is_told_where_something_was_left_to_mend() -> None:
    good, bad = Ran(0, 2.4, Found({"a": State.RIGHT})), Ran(1, 0.0, Found({"a": State.MISSING}))
    scenario, later = (Scenario("x", (1,), lambda _: None, first_is_honest=honest) for honest in (False, True))
    assert Cell(good, good, (), frozenset()).told(scenario) == "right; exit 0, 2 s"
    assert Cell(bad, good, ("a note",), frozenset()).told(scenario) == (
        "1 of 1 missing; exit 1; a note; rerun: right; exit 0, 2 s"
    )
    assert Cell(good, bad, (), frozenset()).told(later) == "1 of 1 missing; exit 1"
    lines = table("Title", [scenario], {("x", "ours"): "a | b"}, ["ours"]).splitlines()
    assert lines == ["## Title", "", "| What happens | ours |", "|---|---|", "| x (F001) | a \\| b |"]


def test_a_listing_by_pages_breaks_where_it_is_told_to(stage: Stage) -> None:
    stage.put_three()
    stage.s3.script("list", Paged(Status(500, "InternalError")), count=2)
    first = listed(stage)
    assert len(first.objects) == 2
    with pytest.raises(HTTPError, match="500"):
        listed(stage, first.token)
    stage.s3.script("list", Paged(Honest()), count=1)
    assert [remote.key for remote in listed(stage, first.token).objects] == ["training/data/Covid0002/behind.json"]


def test_a_listing_in_a_circle_has_two_tokens_and_no_end(stage: Stage) -> None:
    stage.put_three()
    stage.s3.script("list", Cycling(), count=None)
    first, second, third = listed(stage), listed(stage, "A"), listed(stage, "B")
    assert (first.token, second.token, third.token) == ("A", "B", "A")
    assert first.objects == second.objects == third.objects != []


def test_a_listing_that_is_cut_short_says_so_and_not_how_to_go_on(stage: Stage) -> None:
    stage.put_three()
    stage.s3.script("list", Rewritten(scenarios._cut_short))
    with pytest.raises(ListingError, match="cut short without a token"):
        listed(stage)


def test_a_server_that_wants_to_be_left_alone_notes_who_comes_back_when(stage: Stage) -> None:
    body = stage.put_three()
    action = SlowDown(3600.0, retry_after=4)
    stage.s3.script("get", action, key=VICTIM, count=None)
    address = f"{stage.s3.endpoint_url}/{stage.s3.bucket}/{VICTIM}"
    with pytest.raises(HTTPError, match="503") as caught, urlopen(address, timeout=10):
        pass
    assert caught.value.headers["Retry-After"] == "4"
    caught.value.close()
    action.seconds = 0.0
    with urlopen(address, timeout=10) as answer:
        assert answer.read() == body
    assert action.came_back is not None
    assert action.came_back >= action.refusals[0]


def test_a_client_that_believes_what_it_is_told_is_found_out(tmp_path: Path) -> None:
    """A made-up one, that leaves half a file and says that all is well."""
    scenario = Scenario("x", (1,), Stage.put_three, wrapped=("env",))
    client = Client(
        "careless",
        lambda job: [
            *("sh", "-c"),
            f"cd {shlex.quote(str(job.dest.parent))} && mkdir -p dest/data/Covid0001 && : >dest/data/Covid0001/image.dcm",
        ],
    )
    cell = play(scenario, client, tmp_path)
    states = {"data/Covid0001/image.dcm": State.CUT}
    states |= dict.fromkeys(("data/Covid0000/before.json", "data/Covid0002/behind.json"), State.MISSING)
    assert (cell.first.code, cell.second.code) == (0, 0)
    assert cell.first.found == cell.second.found == Found(states)


def test_ours_is_measured_like_the_others(tmp_path: Path) -> None:
    (climbing,) = (scenario for scenario in ALL if "climbs" in scenario.name)
    cell = play(climbing, clients.ours(), tmp_path)
    assert (cell.first.code, cell.second.code) == (1, 1)
    assert cell.first.found == cell.second.found == Found(dict.fromkeys(cell.first.found.states, State.RIGHT))
