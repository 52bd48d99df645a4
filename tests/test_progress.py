"""How far a run is: what never jumps back, and what is known before a listing is complete."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from nccid_fetch.cli.display import line
from nccid_fetch.events import Committed, Committing, Hashed, Held, LastListed, LimitSet, PagePlanned, Released, Wait
from nccid_fetch.model import Listed, PartState, Skip
from nccid_fetch.progress import LEFT_FOLLOWS_SECONDS, Meter, Progress
from nccid_fetch.summary import Tally

from .oracle import fetch
from .servers.scripted import ScriptedS3
from .test_display import MB, Clock, Run


def last_listed(objects: int, size: int) -> LastListed:
    return LastListed({"ct": Listed(objects, size, "2026-11-22T19:00:00Z", is_whole=True)})


def test_what_was_last_listed_is_about_what_there_will_be() -> None:
    run = Run("ct")
    run.tally(last_listed(4000, 4000 * MB))
    run.meter.read()
    run.fetch(run.page(1000)[:100], seconds=10)
    progress = run.meter.read()
    assert (progress.expected_objects, progress.expected_bytes) == (4000, 4000 * MB)
    assert progress.share == progress.parts[0].share == 100 / 4000
    assert progress.seconds_left == pytest.approx(390)
    assert run.line() == (
        "100 of about 4,000 objects, 100 MB of about 4.0 GB, 10.0 MB/s, listing..., about 6m 30s left, 100 verified"
    )


def test_nothing_is_expected_in_all_while_a_part_is_listed_for_the_first_time() -> None:
    run = Run("ct", "mri")
    run.tally(last_listed(4000, 4000 * MB))
    run.fetch(run.page(1000)[:100])
    progress = run.meter.read()
    assert progress.parts[0].share is not None
    assert (progress.expected_objects, progress.share, progress.seconds_left) == (None, None, None)


def test_of_what_is_not_listed_yet_as_much_is_to_be_fetched_as_of_what_is() -> None:
    """A night that goes on where the last one ended passes over much in no time, and is not as quick afterwards."""
    run = Run("ct")
    run.tally(last_listed(2000, 2000 * MB))
    run.meter.read()
    remotes = run.page(100)
    run.tally(PagePlanned("ct", [Skip(remote) for remote in run.remotes(900, start=100)]))
    run.fetch(remotes[:50], seconds=10)
    # 50 of those that are listed, and a tenth of the other 1,000: at 5 a second.
    assert run.meter.read().seconds_left == pytest.approx(30)


def test_a_listing_that_turns_out_longer_than_the_last_one_takes_no_share_back() -> None:
    run = Run("ct")
    run.tally(last_listed(100, 100 * MB))
    shares = []
    for step in range(10):
        run.fetch(run.page(50, start=50 * step))
        progress = run.meter.read()
        shares.append((progress.share, progress.parts[0].share))
    assert all(share is not None and share <= 0.99 for pair in shares for share in pair), "it is not known to be all"
    run.page(500, start=500)
    run.end()
    progress = run.meter.read()
    shares.append((progress.share, progress.parts[0].share))
    for of_all_or_of_the_part in zip(*shares, strict=True):
        assert list(of_all_or_of_the_part) == sorted(of_all_or_of_the_part)


def test_all_is_done_only_where_nothing_is_left() -> None:
    run = Run("ct")
    remotes = run.page(1000)
    run.end()
    run.fetch(remotes[:999])
    assert run.meter.read().share == 0.99
    run.fetch(remotes[999:])
    assert run.meter.read().share == 1.0


def test_the_time_left_counts_down_like_a_clock_and_follows_a_new_rate_slowly() -> None:
    run = Run("ct")
    remotes = run.page(10_000)
    run.end()
    run.meter.read()
    seen: list[float] = []
    for second in range(120):
        count = 10 if second < 60 else 5
        run.fetch(remotes[:count])
        del remotes[:count]
        left = run.meter.read().seconds_left
        assert left is not None
        seen.append(left)
    assert all(before - after == pytest.approx(1.0) for before, after in pairwise(seen[:60]))
    jumps = [after - before for before, after in pairwise(seen)]
    assert max(jumps) < 60, "half the rate is a thousand seconds more, and they do not come at once"
    assert seen[-1] > seen[59] + 500


def test_while_large_objects_come_small_ones_are_not_taken_to_need_as_long() -> None:
    """X-rays come one a second, and of the slices that follow ten do."""
    run = Run("data", "xray", "ct")
    small, large = run.page(6000, "data", size=10_000), run.page(200, "xray", size=10 * MB)
    run.page(1000, "ct")
    for part in ("data", "xray", "ct"):
        run.end(part)
    run.meter.read()
    for second in range(60):
        run.fetch(small[100 * second : 100 * second + 100])
        run.meter.read()
    for second in range(120):
        run.fetch(large[second : second + 1])
        left = run.meter.read().seconds_left
    assert left is not None
    assert 180 < left < 200, "80 X-rays and 1,000 slices are 1.8 GB, at 10 MB a second"


def test_a_burst_does_not_make_the_time_left_jump() -> None:
    run = Run("ct")
    remotes = run.page(10_000)
    run.end()
    run.meter.read()
    for second in range(60):
        run.fetch(remotes[10 * second : 10 * second + 10])
        before = run.meter.read().seconds_left
    run.fetch(remotes[600:1000])
    after = run.meter.read().seconds_left
    assert before == pytest.approx(940)
    assert after is not None
    assert 900 < after < 939, "by the rate of the last minute alone, it would be 540"
    assert LEFT_FOLLOWS_SECONDS == 20


def test_the_rate_of_a_part_is_its_own() -> None:
    run = Run("ct", "mri")
    run.meter.read()
    run.fetch(run.page(10, "ct"), seconds=2)
    run.page(10, "mri")
    ct, mri = run.meter.read().parts
    assert (ct.bytes_per_second, ct.verified_objects) == (5 * MB, 10)
    assert (mri.bytes_per_second, mri.verified_objects) == (0, 0)


def test_time_that_passes_while_held_is_not_said_twice() -> None:
    run = Run("ct")
    run.page(10)
    run.tally(LimitSet(4, 8))
    run.tally(Held(Wait.ENDPOINT, "gone", run.clock.time, 5.0, 900.0))
    run.meter.read()
    run.clock.time += 60
    assert "nothing received" not in run.line()
    run.tally(Released(Wait.ENDPOINT, 60.0))
    assert "nothing received" not in run.line(), "from now on it is counted"
    run.clock.time += 6
    assert run.line().startswith("nothing received for 6s")


def test_parts_that_will_not_come_leave_the_total_known() -> None:
    run = Run("ct", "mri", states={"mri": PartState.DENIED})
    run.page(10)
    run.end("ct")
    progress: Progress = run.meter.read()
    assert progress.listing_is_complete
    assert progress.share == 0


def test_a_run_tells_of_each_batch_when_it_begins(dest: Path) -> None:
    with ScriptedS3() as s3:
        for number in range(5):
            s3.put(f"training/ct/{number}", b"a body")
        run = fetch(s3, dest)
    batches = [event for event in run.events if isinstance(event, Committing | Committed)]
    assert [type(event) for event in batches] == [Committing, Committed] * (len(batches) // 2)
    assert sum(event.objects for event in batches if isinstance(event, Committing)) == 5
    assert batches[-2] == Committing(batches[-2].objects, in_flight=0)  # type: ignore[union-attr]


def test_a_run_tells_of_the_bytes_that_it_hashes_also_in_the_middle_of_a_large_file(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.transfer.HASHED_CHUNKS", 1)
    with ScriptedS3() as s3:
        s3.put("training/ct/large", b"x" * (5 << 19))
        fetch(s3, dest)
        shutil.rmtree(dest / ".nccid-fetch")
        run = fetch(s3, dest)
    hashed = [event.size for event in run.events if isinstance(event, Hashed)]
    assert hashed == [1 << 20, 1 << 20, 1 << 19]
    assert (run.tally.adopted.objects, run.tally.hashed_bytes) == (1, 5 << 19)


def test_before_anything_is_known_that_is_said() -> None:
    meter = Meter(Tally(), clock := Clock())
    meter.read()
    assert line(meter.read()) == "asking which parts may be listed"
    clock.time += 8
    assert line(meter.read()) == "no answer for 8s, asking which parts may be listed"
