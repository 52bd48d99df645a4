"""The end of a run in words: one line that says it all, and what to do about the rest."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nccid_fetch.cli.closing import _WHAT_NOW, headline, summary_text
from nccid_fetch.errors import Reason
from nccid_fetch.events import (
    Adopted,
    Committed,
    Event,
    Failed,
    Fetched,
    ListingEnded,
    PagePlanned,
    PartsKnown,
    Received,
    Released,
    Retrying,
    RoomFound,
    Wait,
)
from nccid_fetch.model import (
    Check,
    Decision,
    ETag,
    Fetch,
    LocalFile,
    LocalKind,
    PartState,
    RemoteObject,
    Skip,
    VerifiedBy,
    Why,
)
from nccid_fetch.settings import Settings, Source
from nccid_fetch.summary import Summary, Tally

from . import snapshots

BEGAN = datetime(2026, 11, 22, 19, tzinfo=UTC)


def remotes(count: int, part: str = "ct", size: int = 500_000) -> list[RemoteObject]:
    return [RemoteObject(f"training/{part}/Covid{n:04}/1/2/{n}.dcm", size, ETag("0" * 32), 0) for n in range(count)]


def fetches(objects: list[RemoteObject]) -> list[Decision]:
    return [Fetch(remote, Why.MISSING) for remote in objects]


def summary(*events: Event, exit_code: int = 0, planned: bool = False, command: str = "all") -> Summary:
    tally = Tally()
    tally(PartsKnown(("ct",), {}))
    for event in events:
        tally(event)
    settings = Settings(dest=Path("/data/nccid"))
    return Summary(command, Source(), settings, tally, BEGAN, BEGAN + timedelta(hours=8), exit_code, planned)


def came(objects: list[RemoteObject], proof: VerifiedBy = VerifiedBy.MD5) -> list[Event]:
    return [
        PagePlanned("ct", fetches(objects)),
        Received(sum(remote.size for remote in objects)),
        Committed([Fetched(remote, proof) for remote in objects]),
        ListingEnded("ct", PartState.COMPLETE),
    ]


@pytest.mark.parametrize(
    ("events", "exit_code", "line"),
    [
        (came(remotes(744)), 0, "Complete: 744 objects, 372 MB, all proved by MD5"),
        (
            [*came(remotes(4)), PagePlanned("ct", [Skip(remote) for remote in remotes(6)])],
            0,
            "Complete: 10 objects, 5.0 MB, 4 proved by MD5, 6 in place already",
        ),
        (
            [PagePlanned("ct", [Skip(remotes(1)[0])]), ListingEnded("ct", PartState.COMPLETE)],
            0,
            "Complete: 1 object, 500 KB, all in place already",
        ),
        (came(remotes(3), VerifiedBy.SIZE), 0, "Complete: 3 objects, 1.5 MB, 3 known by size alone"),
        (
            [
                PagePlanned("ct", [Skip(remote) for remote in remotes(2)], known_by_size=2),
                ListingEnded("ct", PartState.COMPLETE),
            ],
            3,
            "Not proved: 2 of 2 objects, 1.0 MB, are known by size alone",
        ),
        (came(remotes(3), VerifiedBy.SIZE), 3, "Not proved: 3 of 3 objects, 1.5 MB, are known by size alone"),
        (
            [*came(remotes(2)), Committed([Adopted(remotes(1)[0], VerifiedBy.MULTIPART_MD5)])],
            0,
            "Complete: 2 objects, 1.0 MB, all proved",
        ),
        (
            [*came(remotes(2)), PartsKnown(("mri", "xray"), {"mri": PartState.DENIED, "xray": PartState.EMPTY})][::-1],
            0,
            "Complete: 2 objects, 1.0 MB, all proved by MD5; denied: mri; empty: xray",
        ),
        (
            [PagePlanned("ct", fetches(remotes(9))), Committed([Fetched(remotes(1)[0], VerifiedBy.MD5)])],
            130,
            "Incomplete: 1 object, 500 KB, in place of at least 9",
        ),
    ],
)
def test_the_first_line_says_it_all(events: list[Event], exit_code: int, line: str) -> None:
    events = sorted(events, key=lambda event: not isinstance(event, PartsKnown))
    assert headline(summary(*events, exit_code=exit_code)) == line


def test_there_is_something_to_do_about_every_reason() -> None:
    assert set(_WHAT_NOW) == set(Reason)


def test_a_bad_night_fits_into_an_e_mail() -> None:
    objects = remotes(2000)
    reasons = [Reason.GONE] * 2 + [Reason.RETRIES_EXHAUSTED] * 5 + [Reason.CONFLICT]
    events: list[Event] = [
        PartsKnown(("ct", "mri", "xray-metadata"), {"mri": PartState.DENIED}),
        RoomFound(10**12, None),
        PagePlanned("xray-metadata", [Skip(remote) for remote in remotes(1200, "xray-metadata", 2000)]),
        ListingEnded("xray-metadata", PartState.COMPLETE),
        PagePlanned("ct", fetches(objects)),
        Received(1500 * 500_000),
        Committed([Fetched(remote, VerifiedBy.MD5) for remote in objects[:1400]]),
        Committed([Fetched(remote, VerifiedBy.SIZE) for remote in objects[1400:1500]]),
        Committed([Failed(r, reason, "in a few words") for r, reason in zip(objects[1500:], reasons, strict=False)]),
        *[Retrying(objects[0], 1, "it broke off", 0.1, throttled=n < 3) for n in range(20)],
        Released(Wait.ENDPOINT, 730.0),
    ]
    text = summary_text(summary(*events, exit_code=130), "nccid-fetch all --dest /data/nccid")
    lines = text.splitlines()
    assert all(len(line) <= 78 for line in lines if not line.startswith("    "))
    snapshots.check("summaries/bad-night", _without_zone(text) + "\n")


def test_a_plan_has_its_decisions_and_says_whether_there_is_room() -> None:
    events: list[Event] = [
        PartsKnown(("ct", "xray"), {}),
        RoomFound(800_000_000, 10**6),
        PagePlanned("ct", fetches(remotes(2000))),
        PagePlanned("xray", [Skip(remote) for remote in remotes(20, "xray")]),
        PagePlanned("xray", [Check(r, Why.UNRECORDED, LocalFile(LocalKind.FILE, 1)) for r in remotes(3, "xray")]),
        ListingEnded("ct", PartState.COMPLETE),
        ListingEnded("xray", PartState.COMPLETE),
    ]
    snapshots.check("summaries/plan", summary_text(summary(*events, planned=True), "nccid-fetch plan") + "\n")


def test_what_to_type_next_is_said_only_where_there_is_anything_to_do() -> None:
    again = "run the same command again"
    assert again not in summary_text(summary(*came(remotes(3))), "nccid-fetch all")
    gone = [*came(remotes(3)), Committed([Failed(remotes(1)[0], Reason.GONE, "")])]
    assert again not in summary_text(summary(*gone, exit_code=1), "nccid-fetch all")
    cut = [*came(remotes(3)), Committed([Failed(remotes(1)[0], Reason.SHORT_BODY, "")])]
    assert summary_text(summary(*cut, exit_code=1), "nccid-fetch get ct").endswith(f"{again}:\n  nccid-fetch get ct")


def _without_zone(text: str) -> str:
    """Return a summary whose times are those of no place: they are shown as the clock on the wall has them."""
    began, ended = (f"{time.astimezone():%Y-%m-%d %H:%M}" for time in (BEGAN, BEGAN + timedelta(hours=8)))
    return text.replace(began, "2026-11-22 19:00").replace(ended, "2026-11-23 03:00")
