"""The soak harness in its short form, and what it would notice."""

import random
from pathlib import Path
from typing import Any

import pytest

from .catalogue import fault
from .soak import SAMPLES_MIN, Bucket, Memory, Soak


@fault(13, 15, 88, 92)
def test_run_after_run_in_bad_weather_comes_to_the_right_tree(tmp_path: Path) -> None:
    with Soak(tmp_path, seed=11, objects=120, stall="0.4s") as night:
        night.weather.share = 0.1
        for _ in range(2):
            night.spoil()
            night.run()
        night.finish()
    assert night.figures.runs == 4
    assert night.figures.objects["fetched"] >= 120
    assert sum(night.weather.met.values()) >= 10


def test_a_file_that_is_missing_in_the_end_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody would notice needs no hour of it."""
    with Soak(tmp_path, seed=3, objects=5) as night:
        run = night.run

        def losing() -> Any:
            ended = run()
            next(night.dest.rglob("*.dcm")).unlink()
            return ended

        monkeypatch.setattr(night, "run", losing)
        with pytest.raises(AssertionError, match=r"the disk has not|something is lost"):
            night.finish()


@pytest.mark.parametrize(
    ("mib_per_sample", "is_flat"), [(0.0, True), (0.01, True), (1.0, False)], ids=["flat", "hardly", "grows"]
)
def test_memory_that_grows_is_noticed(mib_per_sample: float, is_flat: bool) -> None:  # noqa: FBT001
    chance = random.Random(1)
    memory = Memory(0).end()
    memory.mib = [90 + mib_per_sample * number + chance.random() for number in range(5 * SAMPLES_MIN)]
    assert memory.is_flat is is_flat


def test_a_version_of_an_object_is_the_same_whenever_it_is_asked_for() -> None:
    first, second = Bucket(50, 7), Bucket(50, 7)
    key = first.keys[20]
    second.replace(key)
    assert first.now(key) == second.version(key, 0) != second.now(key)
