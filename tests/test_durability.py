"""What survives a power failure, and what is done about what may not have: three ways to flush, and rows in doubt."""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch import commit, destination, durability
from nccid_fetch.durability import Flusher, FlushError, PiecemealFlusher, boot_id, drop_cached
from nccid_fetch.filesystem import remote_name, type_of
from nccid_fetch.journal import Journal
from nccid_fetch.settings import Durability, Existing

from .catalogue import fault
from .oracle import Run, check_tree, fetch, files_of, records, snapshot
from .servers.scripted import ScriptedS3, Status

pytestmark = pytest.mark.usefixtures("no_pauses")

OBJECTS = 12


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for number in range(OBJECTS):
            server.put(key_of(number), f"body {number}".encode())
        yield server


def key_of(number: int) -> str:
    return f"training/data/Covid{number // 4:04}/{number:04}.json"


class Machine:
    """The machine as a run sees it: which boot it is, whether flushes fail, and which files were read past its memory."""

    def __init__(self) -> None:
        self.boot: str | None = "first"
        self.fails_at: int | None = None
        self.flushes = 0
        self.cold: list[int] = []

    def flush(self, flusher: Flusher, descriptors: Iterable[int] = ()) -> None:
        self.flushes += 1
        if self.flushes == self.fails_at:
            raise FlushError(errno.EIO, os.strerror(errno.EIO))

    def drop_cached(self, descriptor: int) -> None:
        self.cold.append(os.fstat(descriptor).st_ino)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("nccid_fetch.operations.boot_id", lambda: made.boot)
    monkeypatch.setattr(Flusher, "flush", lambda self, descriptors=(): made.flush(self, descriptors))
    monkeypatch.setattr(destination, "drop_cached", made.drop_cached)
    monkeypatch.setattr(commit, "BATCH_SECONDS", 60.0)  # All in one batch, however slow the machine is.
    return made


def counts(run: Run) -> tuple[int, int, int]:
    """Return how many objects a run fetched, adopted and skipped."""
    tally = run.tally
    return tally.fetched.objects, tally.adopted.objects, tally.skipped.objects


# --- Rows in doubt --------------------------------------------------------------------------------


@fault(69, 107)
def test_what_was_not_flushed_is_hashed_again_in_another_boot_and_nothing_else_is(
    s3: ScriptedS3, dest: Path, machine: Machine
) -> None:
    flushed = [key_of(number) for number in range(4)]
    assert counts(fetch(s3, dest, include=("data/Covid0000/*",))) == (4, 0, 0)
    assert counts(fetch(s3, dest, durability=Durability.NONE)) == (OBJECTS - 4, 0, 4)
    assert counts(fetch(s3, dest)) == (0, 0, OBJECTS), "in the same boot nothing can have been lost"
    before = s3.gets()
    machine.boot = "second"
    run = fetch(s3, dest)
    assert counts(run) == (0, OBJECTS - 4, 4)
    assert {outcome.remote.key for event in run.events for outcome in getattr(event, "outcomes", ())} == {
        key_of(number) for number in range(OBJECTS)
    } - set(flushed)
    assert s3.gets() == before
    machine.boot = "third"
    assert counts(fetch(s3, dest)) == (0, 0, OBJECTS), "what was hashed was flushed as well"
    assert check_tree(dest, snapshot(s3)) == set(records(dest)) == set(snapshot(s3))


@fault(69)
@pytest.mark.parametrize("existing", Existing)
def test_what_a_power_failure_left_of_a_file_is_replaced_without_more_ado(
    s3: ScriptedS3, dest: Path, machine: Machine, existing: Existing
) -> None:
    """Emptied, filled with zeros, gone: it is ours, so it is nobody's conflict, and nothing to keep."""
    fetch(s3, dest, durability=Durability.NONE)
    files = files_of(dest)
    for number, content in {0: b"", 1: bytes(len("body 1"))}.items():
        path = files[key_of(number)]
        modified_ns = path.stat().st_mtime_ns
        path.write_bytes(content)
        os.utime(path, ns=(modified_ns, modified_ns))
    files[key_of(2)].unlink()
    machine.boot = "second"
    run = fetch(s3, dest, existing=existing)
    assert (run.exit_code, counts(run)) == (0, (3, OBJECTS - 3, 0))
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))
    assert not (dest / ".nccid-fetch/quarantine").exists()


@fault(69)
def test_where_no_boot_can_be_told_from_another_all_that_was_not_flushed_is_in_doubt(
    s3: ScriptedS3, dest: Path, machine: Machine
) -> None:
    machine.boot = None
    fetch(s3, dest, durability=Durability.NONE)
    assert counts(fetch(s3, dest)) == (0, OBJECTS, 0)
    assert counts(fetch(s3, dest)) == (0, 0, OBJECTS)


@fault(107)
def test_what_is_in_doubt_stays_so_until_it_is_hashed(s3: ScriptedS3, dest: Path, machine: Machine) -> None:
    fetch(s3, dest, durability=Durability.NONE)
    machine.boot = "second"
    assert counts(fetch(s3, dest, include=("data/Covid0000/*",))) == (0, 4, 0)
    assert counts(fetch(s3, dest)) == (0, OBJECTS - 4, 4)


def test_hashed_again_without_being_flushed_it_is_in_doubt_again_in_the_next_boot(
    s3: ScriptedS3, dest: Path, machine: Machine
) -> None:
    for boot in ("first", "second", "third"):
        machine.boot = boot
        fetch(s3, dest, durability=Durability.NONE)
        assert counts(fetch(s3, dest)) == (0, 0, OBJECTS)
    assert machine.flushes == 0


# --- How it is flushed ----------------------------------------------------------------------------


def recording(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what is flushed by itself, what gets its name, and what is recorded, in order."""
    log: list[str] = []
    rename, record = os.rename, Journal.commit

    def fsync(descriptor: int) -> None:
        log.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")

    def renamed(source: str, target: bytes, **options: Any) -> None:
        log.append(f"rename {source} {os.fsdecode(target)}")
        rename(source, target, **options)

    def recorded(self: Journal, placed: Any, failed: Any = ()) -> None:
        placed = list(placed)
        log.extend(f"record {key.rpartition('/')[2]}" for key, _ in placed)
        record(self, placed, failed)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(Journal, "commit", recorded)
    return log


@fault(69, 70, 107)
def test_with_durability_file_each_file_and_folder_is_flushed_by_itself_before_its_record(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = recording(monkeypatch)
    assert fetch(s3, dest, durability=Durability.FILE).exit_code == 0
    for number in range(OBJECTS):
        name, folder = f"{number:04}.json", f"Covid{number // 4:04}"
        (renamed,) = [line for line in log if line.endswith(f" {name}") and line.startswith("rename")]
        staged = renamed.split()[1]
        named, recorded = log.index(renamed), log.index(f"record {name}")
        assert log.index(f"fsync {staged}") < named
        assert f"fsync {folder}" in log[named:recorded]


def test_with_durability_file_nothing_waits_for_others_to_be_recorded_with(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "BATCH_SECONDS", 60.0)
    rounds: list[int] = []
    record = Journal.commit

    def recorded(self: Journal, placed: Any, failed: Any = ()) -> None:
        placed = list(placed)
        rounds.append(len(placed))
        record(self, placed, failed)

    monkeypatch.setattr(Journal, "commit", recorded)
    fetch(s3, dest, concurrency=1, durability=Durability.FILE)
    assert (sum(rounds), max(rounds) < OBJECTS) == (OBJECTS, True)


def test_with_durability_none_nothing_is_flushed(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("a file was flushed"))
    monkeypatch.setattr(durability, "_find_syncfs", lambda: lambda root_fd: pytest.fail("all was flushed"))
    assert fetch(s3, dest, durability=Durability.NONE).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))


@fault(70, 107)
@pytest.mark.parametrize("chosen", [Durability.BATCH, Durability.FILE])
def test_what_is_adopted_is_flushed_before_its_record_too(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, chosen: Durability
) -> None:
    """A run that was killed between rename and flush left it: it can be read, and is not on the disk yet."""
    fetch(s3, dest)
    for path in (dest / ".nccid-fetch").glob("journal*"):
        path.unlink()
    monkeypatch.setattr(durability, "_find_syncfs", lambda: None)
    log = recording(monkeypatch)
    assert counts(fetch(s3, dest, durability=chosen)) == (0, OBJECTS, 0)
    for number in range(OBJECTS):
        name, folder = f"{number:04}.json", f"Covid{number // 4:04}"
        recorded = log.index(f"record {name}")
        assert log.index(f"fsync {name}") < recorded
        assert log.index(f"fsync {folder}") < recorded


@fault(107)
def test_a_batch_that_only_adopts_is_flushed_before_it_is_recorded(
    s3: ScriptedS3, dest: Path, machine: Machine
) -> None:
    fetch(s3, dest)
    for path in (dest / ".nccid-fetch").glob("journal*"):
        path.unlink()
    machine.fails_at = machine.flushes + 1
    assert fetch(s3, dest).exit_code == 9
    assert records(dest) == {}


@fault(69, 107)
@pytest.mark.parametrize("existing", Existing)
@pytest.mark.parametrize("boot", ["first", "second"])
def test_a_file_whose_replacement_did_not_come_in_a_run_that_does_not_flush_is_still_ours(
    s3: ScriptedS3, dest: Path, machine: Machine, existing: Existing, boot: str
) -> None:
    fetch(s3, dest)
    s3.put(key_of(0), b"another body")
    s3.script("get", Status(404, "NoSuchKey"), key=key_of(0), count=2)  # By either reader.
    assert fetch(s3, dest, durability=Durability.NONE).exit_code == 1
    machine.boot = boot
    assert fetch(s3, dest, existing=existing).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(records(dest)) == set(snapshot(s3))
    assert not (dest / ".nccid-fetch/quarantine").exists()


@fault(69, 107)
@pytest.mark.parametrize("existing", Existing)
def test_what_a_power_failure_left_is_replaced_also_where_the_first_run_that_sees_it_does_not_come_so_far(
    s3: ScriptedS3, dest: Path, machine: Machine, existing: Existing
) -> None:
    fetch(s3, dest, durability=Durability.NONE)
    path = files_of(dest)[key_of(0)]
    modified_ns = path.stat().st_mtime_ns
    path.write_bytes(b"")
    os.utime(path, ns=(modified_ns, modified_ns))
    machine.boot = "second"
    s3.script("get", Status(404, "NoSuchKey"), key=key_of(0), count=2)  # By either reader.
    assert fetch(s3, dest, durability=Durability.NONE).exit_code == 1
    assert fetch(s3, dest, existing=existing).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(records(dest)) == set(snapshot(s3))
    assert not (dest / ".nccid-fetch/quarantine").exists()


# --- A flush that fails ---------------------------------------------------------------------------


@fault(66)
@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_flush_that_fails_is_never_repeated_and_what_it_was_about_is_read_from_the_disk_itself(
    s3: ScriptedS3, dest: Path, machine: Machine, fails_at: int
) -> None:
    """Before the renames, and after them: the system's memory would vouch for what the disk never got."""
    machine.fails_at = fails_at
    run = fetch(s3, dest)
    assert (run.exit_code, machine.flushes, run.tally.fetched.objects) == (9, fails_at, 0)
    assert "Input/output error" in str(run.error)
    assert records(dest) == {}
    present = check_tree(dest, snapshot(s3))
    assert len(present) == (0 if fails_at == 1 else OBJECTS)
    before = s3.gets()
    assert counts(fetch(s3, dest)) == (OBJECTS - len(present), len(present), 0)
    assert len(set(machine.cold)) == len(present)
    assert s3.gets() - before == OBJECTS - len(present)


@fault(66)
def test_memory_is_trusted_again_in_the_next_boot(s3: ScriptedS3, dest: Path, machine: Machine) -> None:
    machine.fails_at = 2
    fetch(s3, dest)
    machine.boot = "second"
    assert counts(fetch(s3, dest)) == (0, OBJECTS, 0)
    assert machine.cold == []


@fault(66)
def test_after_a_failed_flush_what_was_never_flushed_is_in_doubt_too(
    s3: ScriptedS3, dest: Path, machine: Machine
) -> None:
    fetch(s3, dest, include=("data/Covid0000/*",), durability=Durability.NONE)
    machine.fails_at = 2
    assert fetch(s3, dest).exit_code == 9
    assert counts(fetch(s3, dest)) == (0, OBJECTS, 0)
    assert len(set(machine.cold)) == OBJECTS


@fault(66)
def test_a_file_is_read_from_the_disk_itself_only_when_what_is_in_memory_has_got_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    asked: list[object] = []
    try:
        monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("fsync"))
        monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: asked.append(arguments))
        drop_cached(descriptor)
        assert asked == ["fsync", (descriptor, 0, 0, os.POSIX_FADV_DONTNEED)]

        def fsync(descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(FlushError, match="Input/output error"):
            drop_cached(descriptor)
    finally:
        os.close(descriptor)


# --- The machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f_type", "name"),
    [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFF534D42, "SMB"),
        (-0xACB2BE, "SMB"),  # The same, as a signed number of 32 bits.
        (0xFE534D42, "SMB"),
        (0x0BD00BD0, "Lustre"),
        (0x47504653, "GPFS"),
        (0x19830326, "BeeGFS"),
        (0x5346414F, "AFS"),
        (0x6B414653, "AFS"),
        (0x00C36400, "Ceph"),
        (0x01021997, "9p"),
        (0x65735546, "FUSE"),
        (0xEF53, None),  # ext4
        (0x58465342, None),  # XFS
        (0x9123683E, None),  # Btrfs
        (0x01021994, None),  # tmpfs
        (0x794C7630, None),  # overlayfs
        (0x2FC12FC1, None),  # ZFS
        (None, None),
    ],
)
@fault(105)
def test_a_file_system_on_another_machine_is_told_by_its_number(f_type: int | None, name: str | None) -> None:
    assert remote_name(f_type) == name


def test_the_number_of_a_file_system_is_what_the_system_says(tmp_path: Path) -> None:
    memory = os.open("/dev/shm", os.O_RDONLY)
    system = os.open("/proc", os.O_RDONLY)
    try:
        assert (type_of(memory), type_of(system)) == (0x01021994, 0x9FA0)
    finally:
        os.close(memory)
        os.close(system)
    assert type_of(-1) is None


@fault(105)
def test_over_a_network_each_file_is_flushed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One flush of the whole file system need not reach the server."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        monkeypatch.setattr(durability, "_find_syncfs", lambda: lambda root_fd: 0)
        assert Flusher(descriptor).is_whole
        assert not PiecemealFlusher(descriptor).is_whole
        monkeypatch.setattr(durability, "type_of", lambda descriptor: 0x6969)
        assert not Flusher(descriptor).is_whole
    finally:
        os.close(descriptor)


def test_a_boot_is_told_from_others_where_the_system_says_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "_BOOT_ID", tmp_path / "boot_id")
    assert boot_id() is None
    (tmp_path / "boot_id").write_text("c0ffee\n")
    assert boot_id() == "c0ffee"
