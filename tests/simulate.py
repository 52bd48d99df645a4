"""Simulated nights: `python -m tests.simulate --seed 1 --runs 1000`, or `make simulate SEED=1 RUNS=1000`.

A night is a bucket, a destination and some runs over them, all of it made from one number. In a night the bucket changes,
also while it is being listed; the network cuts, lies, stalls, throttles and goes away for an hour; the disk fills up and
fails; somebody edits files; the run is stopped by its own options, is cancelled, is killed, loses its power, and begins again. After every run the oracle
has its word. In the end comes an honest night: all that can be in place is, and one more run asks for nothing.

A night that fails says its seed, and how to have exactly that one again.
"""

import argparse
import asyncio
import errno
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from nccid_fetch.errors import (
    CredentialsError,
    ListingDeniedError,
    ListingError,
    NccidFetchError,
    ObjectError,
    Reason,
    ShortBodyError,
    ThrottledError,
    TransientError,
    UnreachableError,
)
from nccid_fetch.events import Committed, DestinationOpened, Event, Failed, PagePlanned, PartsKnown
from nccid_fetch.model import Chunk, RemoteObject
from nccid_fetch.settings import RETRY_FOR_SECONDS, Durability, OnFailure

from .faulty_disk import Died, Fault, FaultyDisk, calling, dying, dying_after, failing, short
from .oracle import GROUP, Run, check_tree, files_of, records, unsettled
from .power import Recording, all_dropped, by_chance, data_without_names, names_with_zeros, names_without_data
from .virtual import Stored, VirtualBucket, Weather, World

PARTS = ("ct", "data", "xray-metadata")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)
HOSTILE = (
    "../escape",
    "a/../../escape",
    "./here",
    "empty//segment",
    "nul\0inside",
    "x" * 256,
    "/".join(["deep"] * 250),
)
"""What has no safe path. All else has one, as odd as it may look."""
ODD = (
    " blank ",
    "new\nline",
    "bell\x07",
    "back\\slash",
    "CON",
    "e\u0301",
    "\u00e9",
    "%2F",
    "a+b",
    "\u202egnp.exe",
    "...",
)


class Gale(Weather):
    """Bad weather, made from chance: how bad it is changes from run to run.

    Args:
        chance: Decides.
        night: What it is about.

    Attributes:
        force: How many of the requests meet with a fault of their own.
        gone: From when to when the endpoint cannot be reached.
        expired: From when to when there are no credentials that are good.
        first_met: When each of these was met first, if it was.
    """

    def __init__(self, chance: random.Random, night: "Night") -> None:
        self._chance = chance
        self._night = night
        self.force = chance.choice([0.0, 0.02, 0.1, 0.3])
        self.gone = self._while(0.25)
        self.expired = self._while(0.25)
        self.has_none = chance.random() < 0.3
        self.are_wrong = chance.random() < 0.2
        self.first_met: dict[str, float] = {}
        self._is_renewed = False

    def _while(self, share: float) -> tuple[float, float]:
        chance = self._chance
        if chance.random() >= share:
            return inf, inf
        begins = self._night.world.seconds + chance.choice([0.0, *[chance.uniform(0, 5)] * 9])
        return begins, begins + chance.choice([5.0, 60.0, 600.0, 3600.0])

    async def listing(self, prefix: str) -> None:
        await self._begin()
        if self._chance.random() < self.force:
            raise self._chance.choice(
                [
                    TransientError("500"),
                    ThrottledError("503", self._chance.choice([None, 1.0, 20.0])),
                    UnreachableError("no route"),
                    ListingError("HTML"),
                    ListingDeniedError("403"),
                ]
            )

    async def head(self, key: str) -> None:
        try:
            await self.get(key)
        except CredentialsError as error:  # To a HEAD, S3 has no word on why.
            raise ObjectError(Reason.DENIED, "400") from error

    async def get(self, key: str) -> None:
        await self._begin()
        if self._chance.random() >= self.force:
            return
        if self._chance.random() < 0.2:
            await asyncio.sleep(30)  # A stall: nothing comes, until somebody gives up.
        raise self._chance.choice(
            [
                TransientError("500"),
                TransientError("reset"),
                ThrottledError("503", self._chance.choice([None, 1.0, 5.0])),
                UnreachableError("no route"),
                ObjectError(Reason.DENIED, "403"),
            ]
        )

    def body(self, key: str, chunks: list[bytes]) -> Iterator[Chunk | NccidFetchError]:
        if self._chance.random() >= self.force or not chunks:
            yield from chunks
            return
        kinds = ["cut", "ends", "long", "error", "wrong"]
        if self._night.bucket.now[key].opaque:
            kinds.remove("wrong")  # Of what nothing can prove, nobody could tell.
        kind = self._chance.choice(kinds)
        nth = self._chance.randrange(len(chunks))
        yield from chunks[:nth]
        chunk = chunks[nth]
        half = chunk[: self._chance.randrange(len(chunk))]
        match kind:
            case "cut":
                yield half
                yield TransientError("reset")
            case "ends":
                yield half
            case "wrong":
                yield half + bytes([chunk[len(half)] ^ 1]) + chunk[len(half) + 1 :]
                yield from chunks[nth + 1 :]
            case "long":
                yield from chunks[nth:]
                yield b"and more"
            case _:
                yield ShortBodyError("a body of another length")

    def renew(self) -> bool:
        now = self._now()
        if not self.expired[0] <= now < self.expired[1]:
            had, self._is_renewed = self._is_renewed, now >= self.expired[1]
            return self._is_renewed and not had
        if self.has_none:
            raise CredentialsError("there are none")
        return False

    async def _begin(self) -> None:
        """Let a request be on its way for a while, and meet what all requests meet."""
        self._night.stir()
        await asyncio.sleep(self._chance.uniform(0, 0.1))
        now = self._now()
        if self.gone[0] <= now < self.gone[1]:
            self.first_met.setdefault("gone", now)
            raise UnreachableError("the network is gone")
        if now >= self.expired[0] and not self._is_renewed:
            self.first_met.setdefault("expired", now)
            raise CredentialsError("the credentials have expired", are_wrong=self.are_wrong)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def codes(self, run: Run) -> set[int]:
        """Return how a run may have ended in this weather, if nothing else was wrong."""
        if self.force:
            return {0, 1, 4, 5}
        codes = {0, 1}
        waited_for = any(isinstance(event, PartsKnown) for event in run.events)
        # From one straight into the other, the run is held without an end between them.
        too_long = len(self.first_met) == 2
        for name, (begins, ends), code in (("gone", self.gone, 5), ("expired", self.expired, 4)):
            if name in self.first_met and (
                too_long or not waited_for or ends - begins >= RETRY_FOR_SECONDS or (code == 4 and self.are_wrong)
            ):
                codes.add(code)
        return codes


class Night:
    """One night.

    Args:
        seed: What it is made from.
        folder: An empty folder of its own.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.bucket = VirtualBucket(page_keys=self.chance.choice([5, 20, 1000]))
        self.dest = folder / "dest"
        self.dest.mkdir(mode=0o700)
        self.world = World(self.dest, self.bucket, seed)
        self.foreign: dict[str, list[bytes]] = {}
        self.unsettled: set[str] = set()
        self.told: list[str] = []
        self._left_to_the_system = False
        self._unrest = 0.0
        self._recording: Recording | None = None
        for _ in range(self.chance.choice([10, 40, 100, 200])):
            self._put_something()

    # --- What happens in it -------------------------------------------------------------------------

    def pass_by(self) -> None:
        """Let it pass, from the first run to the honest end."""
        for _ in range(self.chance.randint(1, 5)):
            self._one_run()
            if self.chance.random() < 0.3:
                self._somebody_edits()
            for _ in range(self.chance.choice([0, 0, 3, 10])):
                self._change_something()
        self._honest_end()

    def stir(self) -> None:
        """Change the bucket now and then, while a run goes on."""
        if self.chance.random() < self._unrest:
            self._change_something()

    def _one_run(self) -> None:
        chance, world = self.chance, self.world
        self.bucket.weather = gale = Gale(chance, self)
        self._unrest = chance.choice([0.0, 0.0, 0.02, 0.2])
        loses_power = chance.random() < 0.25
        if self._recording is None:
            self._recording = Recording(self.dest)
        fault: Fault = chance.choice([failing(chance.choice(ERRORS)), short, dying, dying_after, calling(world.cancel)])
        if loses_power:
            fault = dying
        strikes = loses_power or chance.random() < 0.6
        disk = FaultyDisk(
            self.dest,
            int(chance.expovariate(1 / (6 * len(self.bucket.now)))) + 1 if strikes else None,
            fault,
            lasting=chance.random() < 0.3 and fault not in {dying, dying_after},
            whole=chance.random() < 0.7,
            witness=self._recording,
        )
        durability = chance.choice(list(Durability))
        self._left_to_the_system |= durability is Durability.NONE
        listed: dict[str, RemoteObject] = {}

        def listen(event: Event) -> None:
            if isinstance(event, PagePlanned):
                listed.update((decision.remote.key, decision.remote) for decision in event.decisions)

        stops = self._stops()
        run: Run | None = None
        with suppress(Died, asyncio.CancelledError):
            run = world.run(
                disk,
                listen,
                concurrency=chance.choice([1, 3, 9]),
                attempts=chance.choice([1, 3, 8]),
                durability=durability,
                **stops,
            )
        what = f"call {disk.calls}" if disk.struck else "no call"
        how = f"{durability}{'' if disk.is_whole else ' without syncfs'}"
        self.told.append(
            f"a run ({how}, {stops}) over {len(listed)} objects, {what} struck, ended with {run and run.exit_code}"
        )
        self._check(run, disk, listed)
        if run is not None:
            self._check_code(run, disk, gale, stops)
        if loses_power:
            moment = len(self._recording.steps)
            choose = chance.choice(
                [
                    all_dropped,
                    names_without_data,
                    names_with_zeros,
                    data_without_names,
                    by_chance(chance.randrange(1 << 30)),
                ]
            )
            self._recording.lose(moment, choose, self.dest)
            self._recording = None
            world.boots += 1
            self.told.append(f"the power went at step {moment}, {choose.__qualname__}")
            self._check_after_power_loss()

    def _stops(self) -> dict[str, Any]:
        """Return options that end a run early."""
        chance = self.chance
        return chance.choice(
            [
                {},
                {},
                {"max_patients": chance.randint(1, 6)},
                {"max_bytes": chance.choice([1, 20_000, 100_000])},
                {"max_duration_seconds": chance.uniform(0.1, 30)},
                {"on_failure": OnFailure.STOP},
                {"max_patients": 4, "max_duration_seconds": chance.uniform(1, 30), "on_failure": OnFailure.STOP},
            ]
        )

    def _check_after_power_loss(self) -> None:
        """Check what is left; only what nobody had flushed may be damaged."""
        found = unsettled(self.dest, self.bucket.ever, power_lost=True)
        flushed_all, self._left_to_the_system = not self._left_to_the_system, False
        check_tree(
            self.dest,
            self.bucket.ever,
            power_lost=True,
            unsettled=self.unsettled if flushed_all else self.unsettled | found,
            foreign=self.foreign if flushed_all else dict.fromkeys(self.foreign, ()),
        )
        if not flushed_all:
            self.foreign = {key: [] for key in self.foreign}
        self.unsettled = found

    def _check(self, run: Run | None, disk: FaultyDisk, listed: dict[str, RemoteObject]) -> None:
        if not (self.dest / ".nccid-fetch/journal.sqlite").exists():
            assert run is None or run.exit_code != 0
            return
        # One that was stopped before it had the destination has not cleared it of what an earlier one left.
        had_it = run is not None and any(isinstance(event, DestinationOpened) for event in run.events)
        ended_well = had_it and run is not None and run.error is None and not disk.struck
        check_tree(self.dest, self.bucket.ever, killed=not ended_well, unsettled=self.unsettled, foreign=self.foreign)
        still = unsettled(self.dest, self.bucket.ever, power_lost=True) & self.unsettled
        self.unsettled = still | unsettled(self.dest, self.bucket.ever)
        if run is None:
            return
        recorded = records(self.dest)
        outcomes = [outcome for event in run.events if isinstance(event, Committed) for outcome in event.outcomes]
        for outcome in outcomes:
            if not isinstance(outcome, Failed):
                assert recorded[outcome.remote.key][1] == outcome.remote.etag, "what is told is recorded"
        if run.exit_code == 0:
            assert {key: remote.etag for key, remote in listed.items()} == {key: recorded[key][1] for key in listed}, (
                "a run that ended with 0 left something out"
            )

    def _check_code(self, run: Run, disk: FaultyDisk, gale: Gale, stops: dict[str, Any]) -> None:
        """Check that a run ended as it may: what all requests meet is waited for, so long and no longer, at no object's cost."""
        codes = gale.codes(run) | ({9} if disk.struck else set())
        assert run.exit_code in codes | ({10} if stops.keys() - {"on_failure"} else set()), run.error
        if run.exit_code == 10:
            assert run.left_over or not run.tally.listing_is_complete, (
                "nothing is left, and it says that it was stopped"
            )
        if gale.force:
            return
        assert not {"retries_exhausted", "denied"}.intersection(run.reasons.values()), "an object paid for the weather"
        if gale.first_met:
            waited = self.world.seconds - max(gale.first_met.values())
            assert run.exit_code not in {4, 5} or waited < RETRY_FOR_SECONDS + 60, "it was waited for too long"

    def _honest_end(self) -> None:
        self.bucket.weather, self._unrest = Weather(), 0.0
        before = records(self.dest) if (self.dest / ".nccid-fetch/journal.sqlite").exists() else {}
        files = files_of(self.dest)
        intact = {
            key
            for key, stored in self.bucket.now.items()
            if key in files
            and files[key].read_bytes() == stored.body
            # What has another ETag is another version, and what has none that proves anything has to come again.
            and not stored.opaque
            and (key not in before or before[key][1] == stored.etag)
        }
        self.bucket.gets.clear()
        run = self.world.run()
        self.told.append(f"an honest run, ended with {run.exit_code}: {run.error or run.reasons}")
        assert not intact.intersection(self.bucket.gets), "what was intact was asked for again"
        self._check_whole(run)
        self.bucket.gets.clear()
        last = self.world.run()
        assert last.reasons == run.reasons, "another run refuses others"
        assert self.bucket.gets == [], "a run with nothing to do asked for something"
        self._check_whole(last)

    def _check_whole(self, run: Run) -> None:
        """Check that the tree is what the bucket is, as far as a tree can be."""
        assert run.error is None
        present = check_tree(self.dest, self.bucket.ever, unsettled=self.unsettled, foreign=self.foreign)
        wanted = {key for key, stored in self.bucket.now.items() if stored.body or not key.endswith("/")}
        unsafe = {key for key in wanted if key.split("/", 2)[-1] in HOSTILE}
        nested = {key for key in wanted - unsafe if run.reasons.get(key) == "conflict"}
        for key in nested:
            assert any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in present), (
                "nothing is in its way"
            )
        assert {key for key, reason in run.reasons.items() if reason == "unsafe_key"} == unsafe
        assert run.reasons.keys() == unsafe | nested
        files = files_of(self.dest)
        for key in wanted - unsafe - nested:
            assert files[key].read_bytes() == self.bucket.now[key].body, f"{key} is not what the bucket has"
            assert files[key].stat().st_mtime_ns == self.bucket.now[key].version.modified_ns, f"{key} has another time"
        assert run.exit_code == (1 if unsafe | nested else 0)

    # --- What it is about ---------------------------------------------------------------------------

    def _put_something(self) -> None:
        chance = self.chance
        part = chance.choice(PARTS)
        patient = f"Covid{chance.randrange(12):04}"
        match chance.randrange(40):
            case 0:
                key = f"{GROUP}/{part}/{chance.choice(HOSTILE)}"
            case 1 | 2:
                key = f"{GROUP}/{part}/{patient}/{chance.choice(ODD)}"
            case 3:
                self.bucket.put(f"{GROUP}/{part}/{patient}/", b"")
                return
            case 4:
                key = f"{GROUP}/{part}/{patient}/{chance.randrange(5)}"  # A name that others have as a folder.
            case 5 | 6:
                key = f"{GROUP}/{part}/{patient}/{chance.randrange(5)}/{chance.randrange(9)}.dcm"
            case _:
                key = f"{GROUP}/{part}/{patient}/{chance.randrange(4)}.2.3/{chance.randrange(1000):03}.dcm"
        size = chance.choice([0, 1, 40, 300, 300, 300, 2000, 9000, 30_000])
        body = chance.randbytes(size)
        parts: tuple[int, ...] = ()
        if size >= 2000 and chance.random() < 0.3:
            first = chance.randrange(1, size)
            parts = (first, size - first)
        self.bucket.put(key, body, part_sizes=parts, opaque=not parts and chance.random() < 0.05)

    def _change_something(self) -> None:
        chance = self.chance
        match chance.randrange(4):
            case 0 | 1:
                self._put_something()
            case 2 if self.bucket.now:
                key = chance.choice(sorted(self.bucket.now))
                old: Stored = self.bucket.now[key]
                if not key.endswith("/"):
                    self.bucket.put(key, chance.randbytes(chance.choice([len(old.body), chance.randrange(400)])))
            case _ if len(self.bucket.now) > 5:
                self.bucket.delete(chance.choice(sorted(self.bucket.now)))

    def _somebody_edits(self) -> None:
        self._recording = None  # What a person does between two runs has long been flushed by the next.
        files = files_of(self.dest)
        for key in self.chance.sample(sorted(files), min(len(files), 3)):
            contents = self.foreign.setdefault(key, [])
            if files[key].read_bytes() in contents:
                continue
            if self.chance.random() < 0.4:
                files[key].unlink()
            else:
                contents.append(b"edited: " + self.chance.randbytes(self.chance.choice([20, 292])))
                files[key].write_bytes(contents[-1])


def simulate(seed: int) -> None:
    """Let one night pass.

    Raises:
        AssertionError: Something was lost, made up, or left undone.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        night = Night(seed, Path(folder))
        try:
            night.pass_by()
        except BaseException as error:
            error.add_note("\n".join(["the night went so:", *night.told]))
            raise


def main() -> int:
    """Let nights pass, and say which ones failed."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, default=1, help="the first night's")
    arguments.add_argument("--runs", type=int, default=100, help="how many nights")
    chosen = arguments.parse_args()
    sys.unraisablehook = lambda _: None  # What fails where Python takes a generator away, nobody hears.
    failed = []
    began = time.monotonic()
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        try:
            simulate(seed)
        except Exception:  # noqa: BLE001 - told, and the next night comes.
            traceback.print_exc()
            failed.append(seed)
            print(f"night {seed} failed; again: make simulate SEED={seed} RUNS=1", file=sys.stderr)
    seconds = time.monotonic() - began
    print(
        f"{chosen.runs} nights from seed {chosen.seed} in {seconds:.0f} s, {len(failed)} failed {failed or ''}".rstrip()
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
