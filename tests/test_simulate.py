"""Some simulated nights on each run of the suite. `make simulate` has as many as one likes."""

import asyncio
import random
import shutil
from math import inf
from pathlib import Path

import pytest

from nccid_fetch.errors import CredentialsError, NccidFetchError, ObjectError, Reason, ThrottledError, UnreachableError
from nccid_fetch.settings import RETRY_FOR_SECONDS

from . import catalogue, virtual
from .simulate import Night, simulate
from .virtual import StuckError, VirtualBucket, VirtualLoop, Weather, World

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


class Spell(Weather):
    """Each request takes a second; for a while all of them meet the same error, which a HEAD has no word for.

    Args:
        begins: When it begins, seconds.
        ends: When it is over. Credentials that are read anew by then are good.
        error: What is met.
    """

    def __init__(self, begins: float, ends: float, error: NccidFetchError) -> None:
        self._begins, self._ends, self._error = begins, ends, error

    async def listing(self, prefix: str) -> None:
        await self.get(prefix)

    async def get(self, key: str) -> None:
        await asyncio.sleep(1)
        if self._begins <= asyncio.get_running_loop().time() < self._ends:
            raise self._error

    async def head(self, key: str) -> None:
        try:
            await self.get(key)
        except CredentialsError as error:
            raise ObjectError(Reason.DENIED, "400") from error

    def renew(self) -> bool:
        return asyncio.get_running_loop().time() >= self._ends


GONE = UnreachableError("no route")
EXPIRED = CredentialsError("expired")


@catalogue.fault(9, 10, 38)
@pytest.mark.parametrize(
    ("error", "seconds", "code"),
    [
        (GONE, 600, 0),
        (GONE, 3600, 5),
        (EXPIRED, 600, 0),
        (EXPIRED, inf, 4),
        (ThrottledError("503"), 600, 0),
        (ThrottledError("503", 20.0), 600, 0),
        (ThrottledError("503", 20.0), 3600, 5),
    ],
    ids=["gone", "gone for an hour", "expired", "never renewed", "slowed", "slowed by a word", "slowed for an hour"],
)
def test_what_all_requests_meet_is_waited_for_a_quarter_of_an_hour_and_costs_no_attempt(
    tmp_path: Path, error: NccidFetchError, seconds: float, code: int
) -> None:
    bucket = VirtualBucket(weather=Spell(10, 10 + seconds, error))
    for number in range(60):
        bucket.put(f"training/data/Covid0000/{number}.json", b"%d" % number)
    world = World(tmp_path / "dest", bucket)
    run = world.run(attempts=1)
    assert (run.exit_code, run.reasons) == (code, {})
    assert 0 <= world.seconds - 10 - min(seconds, RETRY_FOR_SECONDS) < 180


@catalogue.fault(38)
@pytest.mark.parametrize(("seconds", "code"), [(600, 0), (inf, 4)], ids=["renewed", "never renewed"])
def test_what_is_denied_for_credentials_that_have_expired_is_asked_for_again(
    tmp_path: Path, seconds: float, code: int
) -> None:
    bucket = VirtualBucket()
    for number in range(30):
        bucket.put(
            f"training/data/Covid0000/{number}.json", b"%d" % number * 9, part_sizes=(3, len(b"%d" % number * 9) - 3)
        )
    world = World(tmp_path / "dest", bucket)
    assert world.run().exit_code == 0
    shutil.rmtree(world.dest / ".nccid-fetch")
    bucket.weather = Spell(world.seconds + 5, world.seconds + seconds, EXPIRED)
    began = world.seconds
    run = world.run(attempts=1)
    assert (run.exit_code, run.reasons) == (code, {})
    assert world.seconds - began < RETRY_FOR_SECONDS + 60


def test_a_run_that_tries_again_for_ever_without_a_pause_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "STEPS_MAX", 1000)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - as one that tries again at once.
            await asyncio.sleep(0)

    with pytest.raises(StuckError, match="round and round"):
        virtual._run(spin(), 0.0)


def test_a_run_that_waits_for_ever_is_found_out() -> None:
    loop = VirtualLoop()
    try:
        with pytest.raises(StuckError):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()
