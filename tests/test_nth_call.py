"""Every call that a run makes to the disk, failing in turn: SQLite's way of testing, on a whole run.

A run over a small bucket is made again and again. In the n-th of them the n-th call fails, for n from 1 until there is no
n-th call any more, and so for each way of failing. Whatever became of the run, the oracle has its word; then a run on a
sound disk has to put everything right, without asking for what is intact, and another one has nothing to do.
`make nth` goes through all calls; here it is every so many.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch.events import Committed

from . import catalogue
from .faulty_disk import TIDYING, Died, Fault, FaultyDisk, calling, dying, dying_after, failing, short
from .oracle import Run, check_tree, files_of, records
from .virtual import VirtualBucket, World

EVERY = 1 if os.environ.get("TESTS_LONG") else 67
CALLS_MAX = 10_000
ERRORS = ("ENOSPC", "EIO", "EINTR", "EACCES", "EROFS", "EDQUOT", "EMFILE")
EDITED = "training/data/Covid0001/edited.json"
VANISHED = "training/data/Covid0001/vanished.json"
BY_HAND: Mapping[str, Collection[bytes]] = {EDITED: [b"edited by hand, and longer than the object was"], VANISHED: []}


# A generator that is left before its end closes its file when Python takes it away, and what fails there nobody hears.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Ward:
    """A destination of an earlier day and the bucket of today: something to fetch, adopt, replace, set aside and skip.

    Args:
        folder: Where destinations are made.
    """

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template"
        self._dest = folder / "dest"
        self.bucket = bucket = VirtualBucket()
        for key in ("known", "replaced", "vanished", "edited"):
            bucket.put(f"training/data/Covid0001/{key}.json", f"the first {key}".encode())
        assert World(self._template, bucket).run().exit_code == 0
        bucket.put("training/ct/Covid0001/1.2/1.2.3/adopted.dcm", b"there already")
        adopted = self._template / "ct/Covid0001/1.2/1.2.3/adopted.dcm"
        adopted.parent.mkdir(parents=True)
        for parent in list(adopted.parents)[:4]:
            parent.chmod(0o700)
        adopted.write_bytes(b"there already")
        adopted.chmod(0o600)
        os.utime(adopted, ns=(0, bucket.now["training/ct/Covid0001/1.2/1.2.3/adopted.dcm"].version.modified_ns))
        files = files_of(self._template)
        files[EDITED].write_bytes(*BY_HAND[EDITED])
        files[VANISHED].unlink()
        bucket.put("training/data/Covid0001/replaced.json", b"the second replaced")
        for number in range(9):
            bucket.put(f"training/data/Covid{number // 4:04}/status_{number}.json", f"{number} {'x' * number}".encode())
        bucket.put("training/ct/Covid0001/1.2/1.2.3/empty.dcm", b"")
        bucket.put("training/ct/Covid0001/1.2/1.2.3/chunks.dcm", bytes(range(250)) * 40)
        bucket.put("training/ct/Covid0001/1.2/1.2.4/ranges.dcm", bytes(range(240)) * 80)
        bucket.put("training/ct/Covid0001/1.2/1.2.4/parts.dcm", bytes(range(230)) * 9, part_sizes=(1000, 1000, 70))

    def world(self) -> World:
        """Return the same world again, with nothing done in it."""
        shutil.rmtree(self._dest, ignore_errors=True)
        shutil.copytree(self._template, self._dest)
        self.bucket.gets.clear()
        return World(self._dest, self.bucket)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("ward"))


def strike(world: World, disk: FaultyDisk, **options: Any) -> Run | None:
    """Make a run on a faulty disk; None if it did not live to its end, or was cancelled."""
    try:
        return world.run(disk, **options)
    except (Died, asyncio.CancelledError):
        return None


def check_end(world: World, disk: FaultyDisk, run: Run | None) -> None:
    """Check how a run on a faulty disk has ended."""
    assert run is None or run.exit_code in {0, 1, 9}, run.error
    ended_well = run is not None and run.error is None
    check_tree(
        world.dest, world.bucket.ever, killed=not ended_well or not TIDYING.isdisjoint(disk.struck), foreign=BY_HAND
    )
    if run is not None and len(disk.struck) == 1 and disk.struck[0] not in TIDYING:
        staged = world.dest / ".nccid-fetch/staged"
        assert not staged.exists() or not list(staged.iterdir()), "a staged file is left"


def check_recovery(world: World, foreign: Mapping[str, Collection[bytes]] = BY_HAND) -> None:
    """Check that the next run puts everything right without asking for what is intact, and another one has nothing to do."""
    bucket = world.bucket
    files = files_of(world.dest)
    intact = {key for key, stored in bucket.now.items() if key in files and files[key].read_bytes() == stored.body}
    bucket.gets.clear()
    assert world.run().exit_code == 0
    assert check_tree(world.dest, bucket.ever, foreign=foreign) == bucket.now.keys()
    assert not intact.intersection(bucket.gets), "what was intact was asked for again"
    assert all(files_of(world.dest)[key].read_bytes() == stored.body for key, stored in bucket.now.items())
    bucket.gets.clear()
    assert world.run().exit_code == 0
    assert bucket.gets == []


def every_call(ward: Ward, fault: Fault, *, first: int = 1, lasting: bool = False, whole: bool = True) -> set[str]:
    """Strike every so many calls, beginning with this one, and check what comes of each; return what was struck."""
    struck: set[str] = set()
    for number in range(first, CALLS_MAX, EVERY):
        world = ward.world()
        disk = FaultyDisk(world.dest, number, fault, lasting=lasting, whole=whole)
        run = strike(world, disk)
        if not disk.struck:
            assert run is not None
            assert run.exit_code == 0
            return struck
        try:
            check_end(world, disk, run)
            check_recovery(world)
        except BaseException as error:
            error.add_note(f"after call {number}, which was {disk.struck[0]}")
            raise
        struck.add(disk.struck[0])
    raise AssertionError("a run without an end")


@catalogue.fault(60, 61, 64, 65, 67, 97, 106)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", ERRORS)
def test_whichever_call_fails_nothing_is_lost_and_the_next_run_puts_all_right(
    ward: Ward, name: str, *, lasting: bool
) -> None:
    number = getattr(errno, name)
    assert every_call(ward, failing(number), first=1 + number % EVERY, lasting=lasting)


@catalogue.fault(66)
@pytest.mark.parametrize("whole", [True, False], ids=["syncfs", "fsync"])
def test_whichever_flush_fails_it_is_not_tried_again_and_nothing_of_its_batch_is_recorded(
    ward: Ward, *, whole: bool
) -> None:
    flush = "syncfs" if whole else "fsync"
    for nth in range(1, CALLS_MAX, 1 if whole else EVERY // 4 + 1):
        world = ward.world()
        disk = FaultyDisk(world.dest, nth, failing(errno.EIO), only=flush, whole=whole)
        before = records(world.dest)
        run = strike(world, disk)
        if not disk.struck:
            return
        assert run is not None
        assert run.exit_code == 9
        assert disk.calls == nth, "it was flushed again"
        recorded = {key for key, record in records(world.dest).items() if before.get(key) != record}
        ended = {
            outcome.remote.key for event in run.events if isinstance(event, Committed) for outcome in event.outcomes
        }
        assert recorded <= ended <= records(world.dest).keys()
        check_end(world, disk, run)
        check_recovery(world)
    raise AssertionError("a run without an end")


@catalogue.fault(68)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_whichever_call_does_less_than_it_was_asked_to_the_rest_is_done(ward: Ward, *, lasting: bool) -> None:
    assert every_call(ward, short, first=7, lasting=lasting)


@catalogue.fault(78, 88)
@pytest.mark.parametrize("whole", [True, False], ids=["syncfs", "fsync"])
@pytest.mark.parametrize("death", [dying, dying_after], ids=["before", "after"])
def test_whichever_call_is_the_last_that_a_run_lives_to_see_nothing_is_lost(
    ward: Ward, death: Fault, *, whole: bool
) -> None:
    assert every_call(ward, death, first=11, whole=whole)


@catalogue.fault(86, 100)
def test_at_whichever_call_a_run_is_cancelled_it_ends_tidily(ward: Ward) -> None:
    for number in range(13, CALLS_MAX, EVERY):
        world = ward.world()
        disk = FaultyDisk(world.dest, number, calling(world.cancel))
        run = strike(world, disk)
        if not disk.struck:
            return
        if run is not None:  # The call was among the last, when nothing was left to cancel.
            assert run.exit_code == 0
        if (world.dest / ".nccid-fetch/staged").exists():
            check_tree(world.dest, world.bucket.ever, foreign=BY_HAND)
        assert world.seconds < 5
        check_recovery(world)
    raise AssertionError("a run without an end")
