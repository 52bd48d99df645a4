"""The power goes in the middle of a run: at every moment, with every kind of disk that may be left of it.

What is recorded is there and right; anything else may be damaged, and the next run finds out by its digest. So it is also
where a run was killed before, and the next one took over what had never been flushed.
"""

import os
import random
from collections.abc import Iterator

import pytest

from nccid_fetch.settings import Durability

from . import catalogue
from .faulty_disk import FaultyDisk, dying
from .oracle import check_tree, unsettled
from .power import (
    Chooser,
    Recording,
    all_dropped,
    all_kept,
    by_chance,
    data_without_names,
    names_with_zeros,
    names_without_data,
)
from .test_nth_call import BY_HAND, Ward, check_recovery, strike, ward
from .virtual import World

__all__ = ["ward"]
EVERY = 1 if os.environ.get("TESTS_LONG") else 37
CHOOSERS = (all_kept, all_dropped, names_without_data, names_with_zeros, data_without_names)
CHANCES = 3
"""How often chance chooses, at each moment."""
WAYS = pytest.mark.parametrize(
    ("durability", "whole"),
    [(Durability.BATCH, True), (Durability.BATCH, False), (Durability.FILE, True), (Durability.NONE, True)],
    ids=["batch", "batch without syncfs", "file", "none"],
)


def losses(recording: Recording, *, after: int = 0) -> Iterator[tuple[int, Chooser]]:
    """Yield every moment with every kind of disk, or every so many of these."""
    all_of_them = [
        (moment, choose)
        for moment in recording.moments()[after:]
        for choose in (*CHOOSERS, *(by_chance(f"{moment} {number}") for number in range(CHANCES)))
    ]
    yield from all_of_them[random.Random(after).randrange(EVERY) :: EVERY]


def check_losses(world: World, recording: Recording, durability: Durability, *, after: int = 0) -> None:
    """Check what becomes of the destination, whenever the power goes and whatever is left.

    What was left to the system to flush may be damaged, and what was moved away for it lost.
    """
    is_left = durability is Durability.NONE
    # What a run was killed over while it set it aside, before the folders were flushed, no later run knows to flush.
    foreign = dict.fromkeys(BY_HAND, ()) if is_left or after else BY_HAND
    for moment, choose in losses(recording, after=after):
        recording.lose(moment, choose, world.dest)
        world.boots += 1
        damaged = (
            unsettled(world.dest, world.bucket.ever, power_lost=True) if is_left else set(BY_HAND if after else ())
        )
        try:
            check_tree(world.dest, world.bucket.ever, power_lost=True, unsettled=damaged, foreign=foreign)
            check_recovery(world, foreign)
        except BaseException as error:
            error.add_note(f"after a loss of power at step {moment}, {choose.__qualname__}")
            raise


@catalogue.fault(69, 70, 107)
@WAYS
def test_whenever_the_power_goes_what_is_recorded_is_there_and_the_next_run_puts_all_right(
    ward: Ward, durability: Durability, *, whole: bool
) -> None:
    world = ward.world()
    recording = Recording(world.dest)
    assert world.run(FaultyDisk(world.dest, whole=whole, witness=recording), durability=durability).exit_code == 0
    check_losses(world, recording, durability)


@catalogue.fault(69)
def test_a_file_that_is_written_anew_without_a_flush_is_never_taken_for_what_was_recorded_before(ward: Ward) -> None:
    world = ward.world()
    recording = Recording(world.dest)
    witness = FaultyDisk(world.dest, witness=recording)
    assert world.run(witness, durability=Durability.NONE).exit_code == 0
    for moment in recording.moments():
        recording.lose(moment, names_with_zeros, world.dest)
        world.boots += 1
        damaged = unsettled(world.dest, world.bucket.ever, power_lost=True)
        check_tree(
            world.dest, world.bucket.ever, power_lost=True, unsettled=damaged, foreign=dict.fromkeys(BY_HAND, ())
        )


@catalogue.fault(88, 107)
@WAYS
def test_what_a_killed_run_never_flushed_is_flushed_before_the_next_one_records_it(
    ward: Ward, durability: Durability, *, whole: bool
) -> None:
    calls = FaultyDisk(ward.world().dest, whole=whole)
    ward.world().run(calls, durability=durability)
    for number in range(2 * calls.calls // 5, calls.calls, 3 * EVERY):
        world = ward.world()
        recording = Recording(world.dest)
        disk = FaultyDisk(world.dest, number, dying, whole=whole, witness=recording)
        assert strike(world, disk, durability=durability) is None
        killed_at = len(recording.steps)
        assert world.run(FaultyDisk(world.dest, whole=whole, witness=recording), durability=durability).exit_code == 0
        check_losses(world, recording, durability, after=killed_at)
