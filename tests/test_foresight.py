"""What a dry run says is what the run then does: decisions, bytes and exit code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nccid_fetch.errors import ListingDeniedError, ListingError, Reason
from nccid_fetch.events import Adopted, Committed, Failed, Fetched, PagePlanned
from nccid_fetch.model import Check, Decision, Fetch, Refuse, Skip, VerifiedBy, Why
from nccid_fetch.settings import Durability, Existing, OnFailure, Settings, Verify

from .catalogue import fault
from .oracle import Run
from .virtual import VirtualBucket, Weather, World

PARTS = ("ct", "ct-metadata", "data")
KEYS = (
    *(
        f"training/{part}/Covid000{patient}/{name}"
        for part in PARTS
        for patient in (1, 2, 3)
        for name in ("1/a", "1/b")
    ),
    "training/ct/Covid0002",  # Beside keys that need a folder of its name.
    "training/ct/Covid0001/../escape",
    "training/data/README",
)


class Rights(Weather):
    """Some parts may not be listed, and of some the listing breaks.

    Args:
        denied: Parts.
        broken: Parts.
        group: Whether the group may be listed.
    """

    def __init__(
        self, denied: frozenset[str] = frozenset(), broken: frozenset[str] = frozenset(), *, group: bool = True
    ) -> None:
        self._denied = denied
        self._broken = broken
        self._group = group

    async def listing(self, prefix: str) -> None:
        part = prefix.split("/")[1]
        if part in self._denied or (not part and not self._group):
            raise ListingDeniedError("403")
        if part in self._broken:
            raise ListingError("it is no listing")


@dataclass(frozen=True)
class Case:
    """A warehouse, what is on the disk, and what is asked for.

    Attributes:
        objects: Sizes by key.
        opaque: Objects whose ETag is no digest.
        prior: The options of the run that was there before; None if there was none.
        restarted: The machine was restarted since.
        changed: What was put in the bucket again since.
        disk: What became of files since.
        rights: What may be listed.
        page_keys: Keys on a page.
        parts: Which were named.
        options: The run's options.
    """

    objects: Mapping[str, int]
    opaque: frozenset[str] = frozenset()
    prior: Mapping[str, Any] | None = None
    restarted: bool = False
    changed: frozenset[str] = frozenset()
    disk: Mapping[str, str] = field(default_factory=dict)
    rights: Rights = field(default_factory=Rights)
    page_keys: int = 1000
    parts: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def options_of_a_run() -> st.SearchStrategy[dict[str, Any]]:
    globs = st.sampled_from(["ct*", "*Covid0001*", "*a*", "*/b", "*nothing*"]).map(lambda glob: (glob,))
    return st.fixed_dictionaries(
        {},
        optional={
            "include": globs,
            "exclude": globs,
            "existing": st.sampled_from(Existing),
            "verify": st.sampled_from(Verify),
            "strict": st.booleans(),
            "require_verified": st.booleans(),
            "max_patients": st.integers(1, 3),
            "max_bytes": st.sampled_from([1, 300, 900]),
            "on_failure": st.sampled_from(OnFailure),
        },
    )


def cases() -> st.SearchStrategy[Case]:
    keys = st.frozensets(st.sampled_from(KEYS), max_size=5)
    some = st.frozensets(st.sampled_from(PARTS), min_size=1, max_size=1)
    none = st.just(frozenset[str]())
    rights = st.builds(Rights, none, none, group=st.booleans())
    prior = {"verify": st.sampled_from(Verify), "durability": st.sampled_from([Durability.BATCH, Durability.NONE])}
    return st.builds(
        Case,
        objects=st.dictionaries(st.sampled_from(KEYS), st.sampled_from([0, 100, 200]), min_size=6),
        opaque=keys,
        prior=st.fixed_dictionaries(prior) | st.none(),
        restarted=st.booleans(),
        changed=keys,
        disk=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["gone", "edited", "longer", "folder", "foreign"])),
        rights=rights | rights | st.builds(Rights, some, none) | st.builds(Rights, none, some),
        page_keys=st.sampled_from([3, 1000]),
        parts=st.sampled_from([(), (), (), ("ct",), ("data", "ct"), ("ct", "mri")]),
        options=options_of_a_run(),
    )


def made(case: Case, folder: Path) -> World:
    """Make a case's world."""
    bucket = VirtualBucket(page_keys=case.page_keys)

    def put(key: str) -> None:
        body = f"{bucket._puts} {key}".encode().ljust(case.objects[key], b".")[: case.objects[key]]
        bucket.put(key, body, opaque=key in case.opaque)

    for key in case.objects:
        put(key)
    world = World(folder / "dest", bucket)
    if case.prior is not None:
        world.run(**case.prior)
    world.boots += case.restarted
    for key in case.changed & case.objects.keys():
        put(key)
    for key, what in case.disk.items():
        if key in bucket.now and "../" not in key:
            _change(world.dest / key.partition("/")[2], what, bucket.now[key].body)
    bucket.weather = case.rights
    return world


def _change(path: Path, what: str, body: bytes) -> None:
    if what in {"gone", "folder", "foreign"} and path.is_file():
        path.unlink()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        match what:
            case "folder":
                path.mkdir(exist_ok=True)
            case "foreign":
                path.write_bytes(body)
            case "edited" | "longer":
                path.write_bytes(bytes(len(body) + (what == "longer")))
    except OSError:
        return  # What is there does not let it be made.


def begun(run: Run) -> dict[str, Decision]:
    """Return what a run began, or skipped, by key."""
    pages = [event for event in run.events if isinstance(event, PagePlanned) and event.begun]
    return {decision.remote.key: decision for page in pages for decision in page.decisions}


def outcomes(run: Run) -> dict[str, Fetched | Adopted | Failed]:
    """Return what became of objects, by key."""
    batches = [event for event in run.events if isinstance(event, Committed)]
    return {outcome.remote.key: outcome for batch in batches for outcome in batch.outcomes}


def agrees(decision: Decision, outcome: Fetched | Adopted | Failed | None, existing: Existing) -> bool:
    """Say whether an outcome is one of those that a decision can have where every object comes."""
    match decision:
        case Skip():
            return outcome is None
        case Refuse():
            return isinstance(outcome, Failed) and outcome.reason is decision.reason
        case Fetch():
            return isinstance(outcome, Fetched)
        case Check() if isinstance(outcome, Failed):
            return existing is Existing.KEEP and decision.why is not Why.IN_DOUBT and outcome.reason is Reason.CONFLICT
    return isinstance(outcome, Fetched | Adopted)


def tree_of(dest: Path) -> dict[str, tuple[int, int]]:
    """Return every file and folder of a destination, but for what SQLite keeps beside a journal that is open."""
    return {
        str(path): (found.st_size, found.st_mtime_ns)
        for path in sorted(dest.rglob("*"))
        if (found := path.lstat()) and ".nccid-fetch" not in path.parts
    }


def check(case: Case, world: World) -> tuple[Run, Run]:
    """Hold a dry run against the run that follows, and return both."""
    before = tree_of(world.dest)
    dry = world.run(parts=case.parts, dry=True, **case.options)
    assert tree_of(world.dest) == before
    run = world.run(parts=case.parts, **case.options)
    planned, came = begun(dry), outcomes(run)
    existing = case.options.get("existing", Existing.CHECK)
    stops_at_failure = case.options.get("on_failure") is OnFailure.STOP and came and run.tally.stopped is not None

    if not stops_at_failure:  # Else what is in flight by then is a matter of time.
        for key, decision in planned.items():
            assert agrees(decision, came.get(key), existing), key
        due = {key for key, decision in planned.items() if not isinstance(decision, Skip)}
        assert due == came.keys()
        bytes_due = sum(planned[key].remote.size for key in due)
        assert bytes_due == sum(outcome.remote.size for outcome in came.values())
    if run.error is None and run.tally.stopped is None:
        assert dry.tally.listed == run.tally.listed
        assert dry.tally.skipped == run.tally.skipped
        states = {name: part.end(planned=True) for name, part in dry.tally.parts.items()}
        assert states == {name: part.end(planned=False) for name, part in run.tally.parts.items()}

    for action, kind in (("fetch", Fetch), ("check", Check), ("skip", Skip), ("refuse", Refuse)):
        assert dry.tally.planned[action].objects == sum(isinstance(one, kind) for one in planned.values())

    foreseen = dry_code(dry, case)
    kept = any(isinstance(o, Failed) and isinstance(planned.get(key), Check) for key, o in came.items())
    by_size = any(not isinstance(o, Failed) and o.verified_by is VerifiedBy.SIZE for o in came.values())
    if foreseen in {0, 3} and kept:
        foreseen = 1
    elif foreseen == 0 and case.options.get("require_verified") and by_size:
        assert case.options.get("verify") is not Verify.SIZE or not any(isinstance(d, Fetch) for d in planned.values())
        foreseen = 3
    assert run_code(run, case) == foreseen
    return dry, run


def dry_code(run: Run, case: Case) -> int:
    wanted = Settings(dest=Path(), parts=case.parts, **case.options)
    return run.tally.exit_code(wanted, run.error, planned=True)


def run_code(run: Run, case: Case) -> int:
    return run.tally.exit_code(Settings(dest=Path(), parts=case.parts, **case.options), run.error)


@fault(148)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_what_a_dry_run_says_is_what_the_run_then_does(case: Case) -> None:
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        check(case, made(case, Path(folder)))


WHOLE = dict.fromkeys(KEYS[:-3], 100)
TWICE = dict.fromkeys((key for key in KEYS if "Covid0001" in key and ".." not in key), "edited")


@fault(148)
@pytest.mark.parametrize(
    ("case", "code"),
    [
        (Case(WHOLE), 0),
        (Case(WHOLE, options={"max_patients": 2}), 10),
        (Case(WHOLE, options={"max_bytes": 700}), 10),
        (Case(WHOLE, options={"max_bytes": 1}), 10),
        (Case(WHOLE, prior={}, disk=TWICE, options={"max_patients": 1}), 0),
        (Case(WHOLE, prior={"verify": Verify.SIZE}, options={"require_verified": True}), 0),
        (Case(WHOLE, options={"require_verified": True, "verify": Verify.SIZE}), 3),
        (Case(dict.fromkeys(KEYS, 100)), 1),
        (Case(dict.fromkeys(KEYS, 100), options={"on_failure": OnFailure.STOP}), 1),
        (Case(WHOLE, prior={}, disk=dict.fromkeys(WHOLE, "longer"), options={"existing": Existing.KEEP}), 1),
        (Case(WHOLE, rights=Rights(denied=frozenset({"ct"}))), 0),
        (Case(WHOLE, rights=Rights(denied=frozenset({"ct"})), options={"strict": True}), 4),
        (Case(WHOLE, rights=Rights(denied=frozenset({"ct"})), parts=("ct", "data")), 4),
        (Case(WHOLE, rights=Rights(broken=frozenset({"data"}))), 5),
        (Case(WHOLE, options={"include": ("*nothing*",)}), 2),
    ],
)
def test_a_dry_run_foresees_what_each_option_does(tmp_path: Path, case: Case, code: int) -> None:
    _, run = check(case, made(case, tmp_path))
    assert run_code(run, case) == code
