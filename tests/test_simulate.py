"""Some simulated nights on each run of the suite. `make simulate` has as many as one likes."""

import random
from pathlib import Path

import pytest

from . import catalogue
from .simulate import Night, simulate
from .virtual import StuckError, VirtualLoop

NIGHTS = range(24)
# A generator that is left before its end closes its file when Python takes it away, and what fails there nobody hears.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@catalogue.fault(10, 31, 56, 80, 94)
@pytest.mark.parametrize("seed", NIGHTS)
def test_whatever_a_night_brings_the_tree_is_right_in_the_end(seed: int) -> None:
    simulate(seed)


@pytest.mark.parametrize("seed", [3, 5])
def test_the_same_seed_makes_the_same_night(tmp_path: Path, seed: int) -> None:
    told = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        random.seed()
        night = Night(seed, folder)
        night.pass_by()
        told.append((night.told, night.bucket.now, night.world.seconds, night.chance.random()))
    assert told[0] == told[1]


def test_a_run_that_waits_for_ever_is_found_out() -> None:
    loop = VirtualLoop()
    try:
        with pytest.raises(StuckError):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()
