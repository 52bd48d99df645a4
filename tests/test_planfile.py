"""Plans on disk: what is written is read again, whatever the key, and what is no plan is refused by its line."""

import json
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nccid_fetch.errors import Reason, UsageError
from nccid_fetch.model import Check, Decision, ETag, Fetch, LocalFile, LocalKind, Refuse, RemoteObject, Skip, Why
from nccid_fetch.planfile import SCHEMA, open_plan, read_plan, write_decision, write_header
from nccid_fetch.settings import Source

SOURCE = Source()
REMOTE = RemoteObject("training/ct/a.dcm", 10, ETag("0" * 32), 1_600_000_000_123_000_000)
HEADER = json.dumps({"schema": SCHEMA, "bucket": SOURCE.bucket, "group": SOURCE.group})
LINE = {
    "action": "fetch",
    "reason": "missing",
    "key": REMOTE.key,
    "size": 10,
    "etag": "0" * 32,
    "modified": "2020-09-13T12:26:40.123+00:00",
}


def text_of(*decisions: Decision) -> str:
    out = StringIO()
    write_header(out, SOURCE)
    for decision in decisions:
        write_decision(out, decision)
    return out.getvalue()


def remotes_of(plan: Path) -> list[RemoteObject]:
    with open_plan(plan, SOURCE) as opened:
        return list(opened.remotes())


def parts_of(plan: Path) -> tuple[str, ...]:
    with open_plan(plan, SOURCE) as opened:
        return opened.parts


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return tmp_path / "plan.jsonl"


def test_a_plan_is_a_header_and_one_readable_line_per_decision() -> None:
    header, line = text_of(Fetch(REMOTE, Why.MISSING)).splitlines()
    assert json.loads(header) == {"schema": SCHEMA, "bucket": "nccid-data-warehouse-prod", "group": "training"}
    assert json.loads(line) == LINE


@pytest.mark.parametrize(
    ("decision", "action", "reason"),
    [
        (Fetch(REMOTE, Why.ETAG_CHANGED), "fetch", "etag_changed"),
        (Check(REMOTE, Why.UNRECORDED, LocalFile(LocalKind.FILE, 10)), "check", "unrecorded"),
        (Skip(REMOTE), "skip", "unchanged"),
        (Refuse(REMOTE, Reason.CONFLICT, "a folder has its name"), "refuse", "conflict"),
    ],
)
def test_a_line_says_what_was_decided_and_why(decision: Decision, action: str, reason: str) -> None:
    line = json.loads(text_of(decision).splitlines()[1])
    assert (line["action"], line["reason"]) == (action, reason)


REMOTES = st.builds(
    RemoteObject,
    st.text(st.characters(categories=None), max_size=30).map("training/ct/{}".format),
    st.integers(0, 5 << 40),
    st.sampled_from(["", "0" * 32, "0" * 32 + "-3", "\u00e9\u2028"]).map(ETag),
    st.integers(0, 10**13).map(lambda ms: ms * 1_000_000),
)


@given(st.lists(REMOTES, max_size=6))
def test_every_object_is_read_as_it_was_written(remotes: list[RemoteObject]) -> None:
    text = text_of(*(Fetch(remote, Why.MISSING) for remote in remotes))
    assert text.count("\n") == len(remotes) + 1
    assert list(read_plan(BytesIO(text.encode()), "a plan", SOURCE)) == remotes


@pytest.mark.parametrize("key", ["training/ct/a\nb", "training/ct/\u2028", 'training/ct/"\\', "training/ct/\ud800\x1b"])
def test_a_hostile_key_is_one_line_and_comes_back(plan: Path, key: str) -> None:
    remote = REMOTE._replace(key=key)
    plan.write_text(text_of(Fetch(remote, Why.MISSING)), encoding="ascii")
    assert remotes_of(plan) == [remote]


def test_a_plan_cut_down_reordered_and_spaced_is_still_a_plan(plan: Path) -> None:
    one, two = (REMOTE._replace(key=key) for key in ("training/ct/1", "training/mri/2"))
    header, first, second = text_of(Fetch(one, Why.MISSING), Fetch(two, Why.MISSING)).splitlines()
    plan.write_text(f"\ufeff{header}\r\n\r\n{second}\r\n  \r\n{first}", encoding="utf-8", newline="")
    assert remotes_of(plan) == [two, one]
    assert parts_of(plan) == ("mri", "ct")


def test_a_plan_of_nothing_is_a_plan(plan: Path) -> None:
    plan.write_text(HEADER + "\n")
    assert remotes_of(plan) == []
    assert parts_of(plan) == ()


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("", "line 1: not a JSON object"),
        ("key,size", "line 1: not a JSON object"),
        ("[]", "line 1: not a JSON object"),
        ("[" * 100_000, "line 1: not a JSON object"),
        ("{}", "is not a plan of this version"),
        (json.dumps(LINE), "is not a plan of this version"),
        (json.dumps({"schema": "nccid-fetch/plan/2"}), "is not a plan of this version"),
        (
            json.dumps({"schema": SCHEMA, "bucket": "other", "group": "training"}),
            "is a plan of group training of bucket other",
        ),
        (
            json.dumps({"schema": SCHEMA, "bucket": SOURCE.bucket, "group": "validation"}),
            f"is a plan of group validation of bucket {SOURCE.bucket}",
        ),
    ],
    ids=["empty", "csv", "list", "deep", "no-schema", "no-header", "newer", "other-bucket", "other-group"],
)
def test_what_is_no_plan_of_this_bucket_and_group_is_refused(plan: Path, header: str, complaint: str) -> None:
    plan.write_text(header + "\n" + json.dumps(LINE) + "\n")
    with pytest.raises(UsageError, match=complaint) as refusal:
        remotes_of(plan)
    assert str(plan) in str(refusal.value)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"key": None}, "key is missing or wrong"),
        ({"key": 5}, "key is missing or wrong"),
        ({"key": ["training/ct/a"]}, "key is missing or wrong"),
        ({"size": None}, "size is missing or wrong"),
        ({"size": -1}, "size is missing or wrong"),
        ({"size": 1.5}, "size is missing or wrong"),
        ({"size": "ten"}, "size is missing or wrong"),
        ({"size": True}, "size is missing or wrong"),
        ({"size": 10**30}, "size is missing or wrong"),
        ({"etag": None}, "etag is missing or wrong"),
        ({"etag": "\ud800"}, "etag is missing or wrong"),
        ({"key": "training/\ud800/a"}, "the key is in no part of training"),
        ({"modified": None}, "modified is missing or wrong"),
        ({"modified": "yesterday"}, "modified is missing or wrong"),
        ({"modified": "2020-09-13T12:26:40"}, "modified is missing or wrong"),
    ],
)
def test_a_bad_line_is_named_by_its_number(plan: Path, change: dict[str, object], complaint: str) -> None:
    plan.write_text("\n".join([HEADER, json.dumps(LINE), "", json.dumps(LINE | change), json.dumps(LINE)]))
    objects = read_plan(BytesIO(plan.read_bytes()), "a plan", SOURCE)
    assert next(objects) == REMOTE
    with pytest.raises(UsageError, match=f"line 4: {complaint}"):
        next(objects)


def test_an_object_of_the_last_year_that_there_is_is_sorted_like_others(plan: Path) -> None:
    late = LINE | {"modified": "9999-12-31T23:59:59.999+00:00"}
    plan.write_text("\n".join([HEADER, json.dumps(late)]))
    with open_plan(plan, SOURCE) as opened:
        assert list(opened.remotes(sort=True)) == list(opened.remotes()) != []


@pytest.mark.parametrize("line", ["{", '"key"', "null", json.dumps(LINE)[:-1]])
def test_a_line_that_is_cut_off_is_named_by_its_number(plan: Path, line: str) -> None:
    plan.write_text(f"{HEADER}\n{line}")
    with pytest.raises(UsageError, match="line 2: not a JSON object"):
        remotes_of(plan)


@pytest.mark.parametrize("data", [b"\xff\xfe\0\1", b"\x89PNG\r\n\x1a\n", HEADER.encode() + b"\n\xc3("])
def test_a_binary_file_is_refused(plan: Path, data: bytes) -> None:
    plan.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read"):
        remotes_of(plan)


def test_a_missing_file_and_a_folder_are_refused(plan: Path) -> None:
    for path in (plan, plan.parent):
        with pytest.raises(UsageError, match="cannot be read"):
            remotes_of(path)
