"""The destination: what gets a name and when, what is never touched, and what a disk that fails does to a run."""

import ctypes
import errno
import itertools
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from nccid_fetch import destination as module
from nccid_fetch.attributes import stamp_of
from nccid_fetch.decisions import KEPT
from nccid_fetch.destination import Adoption, Destination, Placement, open_destination
from nccid_fetch.diagnosis import check_dest, destination_error
from nccid_fetch.durability import Flusher, FlushError
from nccid_fetch.errors import DestinationError, FileChangedError, ObjectError, Reason, UsageError
from nccid_fetch.keys import STATE_FOLDER
from nccid_fetch.model import IN_THE_WAY, LocalFile, LocalKind
from nccid_fetch.settings import Existing, Settings
from nccid_fetch.staging import StagedFile
from nccid_fetch.tree import Tree, open_tree
from nccid_fetch.walk import BlockedError, Walk, look_at

from .catalogue import fault

NOW = 1_600_000_000_123_456_789
NEW, OLD = b"the new bytes", b"somebody's own"
A = ("ct", "Covid1", "a.dcm")
B = ("ct", "Covid1", "b.dcm")
NOBODY = 65534

as_root = os.geteuid() == 0

# ---- The stage: a destination, a world outside it, and a disk that says when it was flushed


class FakeFlusher:
    """Flushes nothing, and notes when it was asked to."""

    is_whole = True
    log: list[str]
    fails_at: int | None = None

    def __init__(self, root_fd: int) -> None:
        self.count = 0

    def flush(self, descriptors: Iterable[int] = ()) -> None:
        self.log.append("flush")
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the destination did, in order: flushes, and renames into the tree."""
    events: list[str] = []
    monkeypatch.setattr(FakeFlusher, "log", events, raising=False)
    monkeypatch.setattr(module, "Flusher", FakeFlusher)
    rename = os.rename

    def noting(source: Any, target: Any, **options: Any) -> None:
        events.append(f"rename {os.fsdecode(target)}")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", noting)
    return events


@pytest.fixture
def piecemeal(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    """The real flusher where there is no syncfs: `fsync` is noted by what it is of, and not carried out."""

    def fsync(descriptor: int) -> None:
        found = Path(f"/proc/self/fd/{descriptor}").readlink()
        log.append(f"fsync {found.name}")

    monkeypatch.setattr(module, "Flusher", Flusher)
    monkeypatch.setattr("nccid_fetch.durability._find_syncfs", lambda: None)
    monkeypatch.setattr(os, "fsync", fsync)


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all that could be changed about a folder and what is in it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        facts = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found[str(path)] = (facts.st_mode, facts.st_uid, facts.st_size, facts.st_mtime_ns, facts.st_ino, data)
    return found


@pytest.fixture(autouse=True)
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the destination, of which nothing may ever change."""
    folder = tmp_path / "outside"
    (folder / "Covid1").mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("precious", "Covid1/a.dcm"):
        (folder / name).write_bytes(OLD)
        (folder / name).chmod(0o644)
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a number of names, not paths.
    yield
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


@contextmanager
def with_umask(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def unprivileged() -> Iterator[Path]:
    """Be somebody whom permissions bind, with a folder of one's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not as_root:
            yield folder
            return
        os.chown(folder, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield folder
        finally:
            os.setresuid(0, 0, 0)


def opened(dest: Path, existing: Existing = Existing.CHECK, **options: Any) -> AbstractContextManager[Destination]:
    return open_destination(Settings(dest=dest, existing=existing, **options))


def stage(destination: Destination, data: bytes = NEW, *, hashed: bool = True) -> StagedFile:
    staged = destination.staging.new(hashed=hashed)
    staged.append_and_seal(data, NOW)
    return staged


def publish(
    destination: Destination, *paths: tuple[str, ...], data: bytes = NEW, replaces: LocalFile | None = None
) -> list[tuple[Reason, str] | None]:
    """Publish the same bytes at each path, as one batch."""
    results = destination.publish([Placement(path, stage(destination, data), replaces) for path in paths])
    return [None if error is None else (error.reason, str(error)) for error in results]


def write(path: Path, data: bytes = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def staged_names(dest: Path) -> list[str]:
    return sorted(path.name for path in (dest / STATE_FOLDER / "staged").iterdir())


def set_aside(dest: Path) -> dict[str, bytes]:
    """Return what lies in quarantine: path below the run's own folder, and bytes."""
    quarantine = dest / STATE_FOLDER / "quarantine"
    files = [path for path in quarantine.glob("*/**/*") if path.is_file()]
    return {"/".join(path.relative_to(quarantine).parts[1:]): path.read_bytes() for path in files}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


CONFLICT = Reason.CONFLICT
BLOCKED = (CONFLICT, IN_THE_WAY[LocalKind.BLOCKED])

# ---- What a published file is


def test_a_published_file_is_the_staged_file_itself_under_its_name(dest: Path) -> None:
    """A rename and nothing else: no byte is copied, so no reader ever sees a part of them."""
    with opened(dest) as destination:
        staged = stage(destination)
        number = (dest / STATE_FOLDER / "staged" / staged.name).stat().st_ino
        assert destination.publish([Placement(A, staged, None)]) == [None]
        assert staged_names(dest) == []
    file = dest.joinpath(*A)
    assert file.read_bytes() == NEW
    assert file.stat().st_ino == number


@fault(82)
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
@pytest.mark.parametrize(("group_readable", "file_mode", "folder_mode"), [(False, 0o600, 0o700), (True, 0o640, 0o750)])
def test_modes_are_what_was_asked_for_whatever_the_umask(
    dest: Path,
    umask: int,
    group_readable: bool,  # noqa: FBT001
    file_mode: int,
    folder_mode: int,
) -> None:
    if umask == 0o777 and not as_root:
        pytest.skip("only root may enter a folder that it just made without any permission")
    with with_umask(umask), opened(dest, group_readable=group_readable) as destination:
        publish(destination, A)
    assert mode_of(dest.joinpath(*A)) == file_mode
    for folder in (dest, dest / "ct", dest / "ct" / "Covid1"):
        assert mode_of(folder) == folder_mode, folder
    for folder in (dest / STATE_FOLDER, dest / STATE_FOLDER / "staged"):
        assert mode_of(folder) == 0o700, folder


@fault(142)
@pytest.mark.parametrize("umask", [0o077, 0o177])
def test_a_folder_that_gets_another_mode_keeps_its_setgid_bit(dest: Path, umask: int) -> None:
    dest.mkdir()
    dest.chmod(0o2700)
    with with_umask(umask), opened(dest, group_readable=True) as destination:
        publish(destination, A)
    for folder, mode in ((dest / "ct", 0o2750), (dest / "ct" / "Covid1", 0o2750), (dest / STATE_FOLDER, 0o2700)):
        assert stat.S_IMODE(folder.stat().st_mode) == mode, folder


def test_folders_that_were_there_keep_their_modes(dest: Path) -> None:
    (dest / "ct").mkdir(parents=True)
    for folder in (dest, dest / "ct"):
        folder.chmod(0o755)
    with opened(dest) as destination:
        publish(destination, A)
    assert (mode_of(dest), mode_of(dest / "ct"), mode_of(dest / "ct" / "Covid1")) == (0o755, 0o755, 0o700)


def test_the_mtime_is_last_modified_to_the_nanosecond(dest: Path) -> None:
    with opened(dest) as destination:
        publish(destination, A)
        assert destination.look([A]) == [LocalFile(LocalKind.FILE, len(NEW), NOW)]
    assert dest.joinpath(*A).stat().st_mtime_ns == NOW


def test_missing_folders_above_the_destination_are_made(dest: Path) -> None:
    with opened(dest / "deep" / "down") as destination:
        publish(destination, A)
    assert (dest / "deep" / "down").joinpath(*A).read_bytes() == NEW


def test_folders_are_opened_once_per_batch_and_not_once_per_file(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [("ct", f"Covid{patient}", f"{image}.dcm") for image in range(20) for patient in range(3)]
    with opened(dest) as destination:
        placements = [Placement(path, stage(destination), None) for path in paths]
        entered: list[str] = []
        monkeypatch.setattr(os, "mkdir", noting_first_argument(os.mkdir, entered))
        assert destination.publish(placements) == [None] * 60
        assert entered == ["ct", "Covid0", "Covid1", "Covid2"]
        monkeypatch.setattr(os, "open", noting_first_argument(os.open, entered))
        entered.clear()
        assert None not in destination.look(sorted(paths))
        assert entered == ["ct", "Covid0", "Covid1", "Covid2"]


def noting_first_argument(function: Callable[..., Any], notes: list[str]) -> Callable[..., Any]:
    def noting(*args: Any, **options: Any) -> Any:
        notes.append(os.fsdecode(args[0]))
        return function(*args, **options)

    return noting


# ---- The order of things, on which surviving a power failure rests


@fault(69, 70)
def test_data_is_flushed_before_the_first_rename_and_names_after_the_last(dest: Path, log: list[str]) -> None:
    with opened(dest) as destination:
        publish(destination, B, A)
    assert log == ["flush", "rename a.dcm", "rename b.dcm", "flush"]


@fault(69, 70)
def test_without_syncfs_every_file_is_flushed_before_the_first_rename_and_every_folder_after_its_last(
    dest: Path, log: list[str], piecemeal: None
) -> None:
    with opened(dest) as destination:
        first, second = stage(destination), stage(destination)
        destination.publish([Placement(A, first, None), Placement(("mri", "c.dcm"), second, None)])
    assert log == [
        f"fsync {first.name}",
        f"fsync {second.name}",
        "fsync dest",  # The name of ct,
        "fsync ct",  # that of Covid1,
        "rename a.dcm",
        "fsync Covid1",  # and that of a.dcm.
        "fsync ct",
        "fsync dest",
        "rename c.dcm",
        "fsync mri",
        "fsync dest",
    ]


def test_without_syncfs_what_is_set_aside_is_durable_before_its_name_is_taken(
    dest: Path, log: list[str], piecemeal: None
) -> None:
    write(dest / "a.dcm")
    with opened(dest) as destination:
        publish(destination, ("a.dcm",))
        run = destination._set_aside_folder
    begin = log.index("rename a.dcm")
    assert log[begin - 2 :] == [
        f"fsync {STATE_FOLDER}",
        "fsync quarantine",
        "rename a.dcm",
        f"fsync {run}",
        "fsync quarantine",
        "rename a.dcm",
        "fsync dest",
    ]


@fault(66)
def test_when_data_cannot_be_flushed_nothing_gets_a_name(
    dest: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeFlusher, "fails_at", 1)
    with opened(dest) as destination:
        with pytest.raises(OSError, match="Input/output error"):
            publish(destination, A, B)
        assert log == ["flush"]
        assert destination.look([A, B]) == [None, None]
        assert not (dest / "ct").exists()


def test_when_names_cannot_be_flushed_the_batch_fails(
    dest: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeFlusher, "fails_at", 2)
    with opened(dest) as destination, pytest.raises(OSError, match="Input/output error"):
        publish(destination, A)
    assert log == ["flush", "rename a.dcm", "flush"]


@fault(66)
@pytest.mark.parametrize("name", ["staged file", "Covid1", "ct", "dest"])
@pytest.mark.usefixtures("piecemeal")
def test_without_syncfs_any_flush_that_fails_fails_the_batch(
    dest: Path, log: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with opened(dest) as destination:
        staged = stage(destination)
        wanted = staged.name if name == "staged file" else name
        note = os.fsync

        def fsync(descriptor: int) -> None:
            note(descriptor)
            if log[-1] == f"fsync {wanted}":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output error"):
            destination.publish([Placement(A, staged, None)])
        assert log[-1] == f"fsync {wanted}"
        assert log.count(f"fsync {wanted}") == 1  # A flush that failed is not tried again: it would report success.
        assert ("rename a.dcm" in log) is (name == "Covid1")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.usefixtures("piecemeal")
def test_a_file_system_that_cannot_flush_folders_is_no_failure(
    dest: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with opened(dest) as destination:
        assert publish(destination, A, B) == [None, None]


def test_the_real_flusher_flushes_and_says_when_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        flusher = Flusher(descriptor)
        asked: list[int] = []

        def syncfs(root_fd: int) -> int:
            asked.append(root_fd)
            ctypes.set_errno(errno.EIO)
            return -1 if len(asked) == 2 else 0

        monkeypatch.setattr(flusher, "_syncfs", syncfs)
        assert flusher.is_whole
        flusher.flush()
        with pytest.raises(OSError, match="Input/output error"):
            flusher.flush()
        assert asked == [descriptor, descriptor]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("system", "release", "is_whole"),
    [
        ("Linux", "6.18.44-generic", True),
        ("Linux", "5.8.0", True),
        ("Linux", "5.7.19", False),
        ("Linux", "4.4.0", False),
        ("Darwin", "24.1.0", False),
    ],
)
def test_one_flush_covers_everything_only_where_the_kernel_reports_its_failures(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    release: str,
    is_whole: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr("nccid_fetch.durability.platform.system", lambda: system)
    monkeypatch.setattr("nccid_fetch.durability.platform.release", lambda: release)
    assert Flusher(-1).is_whole is is_whole


def test_a_published_file_is_flushed_for_real(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_memory = Path("/dev/shm")  # Where a flush of the whole file system costs nobody anything.
    if not os.access(shared_memory, os.W_OK):
        pytest.skip("there is no file system in memory")
    monkeypatch.setattr(module, "Flusher", Flusher)
    with tempfile.TemporaryDirectory(dir=shared_memory) as name, opened(Path(name)) as destination:
        assert publish(destination, A) == [None]
        assert Path(name).joinpath(*A).read_bytes() == NEW


# ---- Links: below the destination none is followed, whatever they lead to


def test_the_destination_itself_may_be_a_link(tmp_path: Path, dest: Path) -> None:
    (tmp_path / "disk").mkdir()
    dest.symlink_to(tmp_path / "disk")
    check_dest(dest)
    with opened(dest) as destination:
        assert publish(destination, A) == [None]
    assert (tmp_path / "disk").joinpath(*A).read_bytes() == NEW


@fault(112)
@pytest.mark.parametrize("depth", [1, 2])
def test_what_would_pass_through_a_linked_folder_is_a_conflict(dest: Path, outside: Path, depth: int) -> None:
    link = dest.joinpath(*A[:depth])
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with opened(dest) as destination:
        assert destination.look([A]) == [LocalFile(LocalKind.BLOCKED)]
        assert publish(destination, A, ("mri", "c.dcm")) == [BLOCKED, None]
        assert staged_names(dest) == []
    assert link.is_symlink()
    assert (dest / "mri" / "c.dcm").read_bytes() == NEW


@fault(112)
@pytest.mark.parametrize("target", ["precious", "missing", "Covid1", "."])
@pytest.mark.parametrize("existing", Existing)
def test_a_link_at_the_file_s_name_is_a_conflict_wherever_it_leads(
    dest: Path, outside: Path, target: str, existing: Existing
) -> None:
    link = dest.joinpath(*A)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / target)
    with opened(dest, existing) as destination:
        assert destination.look([A]) == [LocalFile(LocalKind.LINK)]
        assert publish(destination, A) == [(CONFLICT, IN_THE_WAY[LocalKind.LINK])]
    assert link.readlink() == outside / target
    assert set_aside(dest) == {}


@fault(112)
@pytest.mark.parametrize("target", ["precious", "missing", "Covid1"])
@pytest.mark.parametrize("place", [STATE_FOLDER, f"{STATE_FOLDER}/staged"])
def test_a_state_folder_that_is_a_link_is_refused(dest: Path, outside: Path, place: str, target: str) -> None:
    (dest / place).parent.mkdir(parents=True)
    (dest / place).symlink_to(outside / target)
    with pytest.raises(DestinationError, match=f"{place.rpartition('/')[2]} is a link or a file"), opened(dest):
        pass


@fault(82, 118)
def test_a_state_folder_that_was_copied_here_is_closed_to_others_again(dest: Path) -> None:
    (dest / STATE_FOLDER).mkdir(parents=True)
    (dest / STATE_FOLDER).chmod(0o755)
    with opened(dest):
        assert stat.S_IMODE((dest / STATE_FOLDER).stat().st_mode) == 0o700


def test_a_state_folder_that_is_a_file_is_refused(dest: Path) -> None:
    write(dest / STATE_FOLDER)
    with pytest.raises(DestinationError, match="is a link or a file") as refusal, opened(dest):
        pass
    assert refusal.value.exit_code == 9
    assert refusal.value.hint


@fault(112)
@pytest.mark.parametrize("target", ["Covid1", "missing"])
def test_with_a_linked_quarantine_the_file_stays_and_its_object_fails(dest: Path, outside: Path, target: str) -> None:
    file = write(dest.joinpath(*A))
    with opened(dest) as destination:
        (dest / STATE_FOLDER / "quarantine").symlink_to(outside / target)
        (found,) = publish(destination, A)
        assert found == (
            Reason.LOCAL_ERROR,
            "what has its name cannot be set aside: in the state folder quarantine is no folder",
        )
        assert staged_names(dest) == []
    assert file.read_bytes() == OLD


def test_a_link_that_waits_for_the_probe_is_not_followed(
    dest: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(dest):
        pass
    monkeypatch.setattr(os, "urandom", bytes)  # So that even its name is known.
    (dest / STATE_FOLDER / "staged" / "Probe-000000000000-\u00e9").symlink_to(outside / "missing")
    with pytest.raises(DestinationError, match="File exists"), opened(dest):
        pass


@fault(112, 124)
def test_a_folder_that_became_a_link_since_it_was_looked_at_is_a_conflict(dest: Path, outside: Path) -> None:
    with opened(dest) as destination:
        publish(destination, A)
        assert destination.look([B]) == [None]
        shutil.rmtree(dest / "ct")
        (dest / "ct").symlink_to(outside)
        assert publish(destination, B) == [BLOCKED]


@fault(112, 124)
@pytest.mark.parametrize("target", ["precious", "missing"])
def test_a_file_that_becomes_a_link_while_it_is_compared_is_a_conflict(
    dest: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    file = write(dest.joinpath(*A))

    def swapping(folder_fd: int, name: str) -> LocalFile | None:
        found = look_at(folder_fd, name)
        if not file.is_symlink():
            file.unlink()
            file.symlink_to(outside / target)
        return found

    with opened(dest) as destination:
        monkeypatch.setattr(module, "look_at", swapping)
        assert publish(destination, A) == [(CONFLICT, IN_THE_WAY[LocalKind.OTHER])]
    assert file.is_symlink()


@fault(112, 124)
def test_a_link_that_appears_in_the_moment_of_the_rename_is_replaced_and_not_followed(
    dest: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dest.joinpath(*A)
    rename = os.rename

    def swapping(*args: Any, **options: Any) -> None:
        file.symlink_to(outside / "precious")
        rename(*args, **options)

    with opened(dest) as destination:
        monkeypatch.setattr(os, "rename", swapping)
        assert publish(destination, A) == [None]
    assert not file.is_symlink()
    assert file.read_bytes() == NEW


@fault(112, 124)
def test_a_folder_that_becomes_a_link_in_the_moment_it_was_made_is_neither_entered_nor_given_a_mode(
    dest: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def swapping(name: bytes, *args: Any, **options: Any) -> None:
        mkdir(name, *args, **options)
        if name == b"Covid1":
            (dest / "ct" / "Covid1").rmdir()
            (dest / "ct" / "Covid1").symlink_to(outside)

    with opened(dest) as destination:
        monkeypatch.setattr(os, "mkdir", swapping)
        assert publish(destination, A) == [BLOCKED]


def test_no_mtime_is_set_through_a_link(dest: Path, outside: Path) -> None:
    with opened(dest) as destination:
        (dest / "ct").symlink_to(outside)
        (dest / "link").symlink_to(outside / "precious")
        paths = [A, ("link",), ("missing",), ("none", "missing")]
        moves = [
            (path, NOW, LocalFile(LocalKind.FILE, len(OLD), (outside / "precious").stat().st_mtime_ns))
            for path in paths
        ]
        assert destination.retime(moves) == [None] * 4


@pytest.mark.parametrize("path", [("ct", "precious"), ("link",), ("dangling",), ("ct", "Covid1", "a.dcm")])
def test_no_file_is_read_through_a_link(dest: Path, outside: Path, path: tuple[str, ...]) -> None:
    with opened(dest) as destination:
        (dest / "ct").symlink_to(outside)
        (dest / "link").symlink_to(outside / "precious")
        (dest / "dangling").symlink_to(outside / "missing")
        with pytest.raises(ObjectError) as refusal:
            destination.open_file(path)
        assert refusal.value.reason is CONFLICT


def test_a_planted_link_among_staged_files_is_removed_and_not_followed(dest: Path, outside: Path) -> None:
    with opened(dest) as destination:
        (dest / STATE_FOLDER / "staged" / "link").symlink_to(outside / "precious")
        destination.staging.clear()
        assert staged_names(dest) == []


@fault(112, 124)
@pytest.mark.parametrize("target", ["precious", "missing"])
def test_a_link_that_waits_under_a_staged_file_s_name_is_not_followed(dest: Path, outside: Path, target: str) -> None:
    with opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        (dest / STATE_FOLDER / "staged" / staged.name).symlink_to(outside / target)
        with pytest.raises(FileExistsError):
            staged.append(NEW)


# ---- What is in the way


def plant(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "folder":
            path.mkdir()


@fault(85)
@pytest.mark.parametrize("existing", Existing)
@pytest.mark.parametrize(
    ("kind", "found"), [("pipe", LocalKind.OTHER), ("socket", LocalKind.OTHER), ("folder", LocalKind.FOLDER)]
)
def test_what_is_no_file_at_the_file_s_name_is_a_conflict_and_stays(
    dest: Path, kind: str, found: LocalKind, existing: Existing
) -> None:
    path = dest.joinpath(*A)
    plant(path, kind)
    before = path.lstat()
    with opened(dest, existing) as destination:
        assert destination.look([A]) == [LocalFile(found)]
        assert publish(destination, A, B) == [(CONFLICT, IN_THE_WAY[found]), None]
        assert staged_names(dest) == []
    assert path.lstat() == before


@fault(85)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_became_no_file_since_it_was_looked_at_is_not_read_nor_waited_for(dest: Path, kind: str) -> None:
    plant(dest.joinpath(*A), kind)
    with opened(dest) as destination:
        with pytest.raises(ObjectError) as refusal:
            destination.open_file(A)
        assert (refusal.value.reason, str(refusal.value)) == (CONFLICT, IN_THE_WAY[LocalKind.OTHER])


@fault(72)
@pytest.mark.parametrize("order", [(("ct", "a"), ("ct", "a", "b")), (("ct", "a", "b"), ("ct", "a"))])
def test_of_a_and_a_b_in_one_batch_a_arrives_whichever_comes_first(dest: Path, order: tuple[Any, Any]) -> None:
    with opened(dest) as destination:
        found = dict(zip(order, publish(destination, *order), strict=True))
    assert found == {("ct", "a"): None, ("ct", "a", "b"): BLOCKED}
    assert (dest / "ct" / "a").read_bytes() == NEW


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        (("ct", "a"), ("ct", "a", "b"), BLOCKED),
        (("ct", "a", "b"), ("ct", "a"), (CONFLICT, IN_THE_WAY[LocalKind.FOLDER])),
    ],
)
@pytest.mark.parametrize("existing", Existing)
def test_of_a_and_a_b_in_two_batches_the_earlier_stays(
    dest: Path, first: tuple[str, ...], second: tuple[str, ...], conflict: object, existing: Existing
) -> None:
    with opened(dest, existing) as destination:
        assert publish(destination, first) == [None]
        assert publish(destination, second, data=OLD) == [conflict]
        assert staged_names(dest) == []
    assert dest.joinpath(*first).read_bytes() == NEW


# ---- Files that no record vouches for


@fault(126)
def test_a_file_that_appeared_is_set_aside_with_its_bytes_and_its_mtime(dest: Path) -> None:
    file = write(dest.joinpath(*A))
    os.utime(file, ns=(1, 1))
    with opened(dest) as destination:
        assert publish(destination, A) == [None]
        aside = dest / STATE_FOLDER / "quarantine" / destination._set_aside_folder / "/".join(A)
    assert file.read_bytes() == NEW
    assert set_aside(dest) == {"/".join(A): OLD}
    assert aside.stat().st_mtime_ns == 1


@fault(126)
def test_with_keep_a_file_that_appeared_is_a_conflict_and_stays(dest: Path) -> None:
    file = write(dest.joinpath(*A))
    with opened(dest, Existing.KEEP) as destination:
        assert publish(destination, A) == [(CONFLICT, KEPT)]
        assert staged_names(dest) == []
    assert file.read_bytes() == OLD
    assert set_aside(dest) == {}


@fault(126)
def test_with_replace_a_file_that_appeared_is_overwritten(dest: Path) -> None:
    file = write(dest.joinpath(*A))
    with opened(dest, Existing.REPLACE) as destination:
        assert publish(destination, A) == [None]
    assert file.read_bytes() == NEW
    assert set_aside(dest) == {}


@pytest.mark.parametrize("existing", Existing)
def test_a_file_that_a_record_vouches_for_is_replaced_without_more_ado(dest: Path, existing: Existing) -> None:
    file = write(dest.joinpath(*A))
    with opened(dest, existing) as destination:
        (there,) = destination.look([A])
        assert publish(destination, A, replaces=there) == [None]
    assert file.read_bytes() == NEW
    assert set_aside(dest) == {}


@fault(126)
def test_a_recorded_file_that_changed_since_the_plan_is_set_aside_all_the_same(dest: Path) -> None:
    file = write(dest.joinpath(*A))
    with opened(dest) as destination:
        (there,) = destination.look([A])
        assert there is not None
        os.utime(file, ns=(NOW, there.modified_ns + 1))
        assert publish(destination, A, replaces=there) == [None]
    assert set_aside(dest) == {"/".join(A): OLD}


@pytest.mark.parametrize("existing", Existing)
def test_the_very_same_bytes_are_not_set_aside_and_get_mode_and_mtime(dest: Path, existing: Existing) -> None:
    file = write(dest.joinpath(*A), NEW)
    file.chmod(0o644)
    with opened(dest, existing) as destination:
        assert publish(destination, A) == [None]
    assert set_aside(dest) == {}
    assert (file.read_bytes(), mode_of(file), file.stat().st_mtime_ns) == (NEW, 0o600, NOW)


def test_bytes_that_were_not_hashed_are_compared_all_the_same(dest: Path) -> None:
    write(dest.joinpath(*A), NEW)
    with opened(dest) as destination:
        assert destination.publish([Placement(A, stage(destination, hashed=False), None)]) == [None]
    assert set_aside(dest) == {}


@pytest.mark.parametrize("name", ["a.dcm", "\u00e9" * 127 + "a"])
def test_a_name_that_is_set_aside_twice_in_a_run_loses_neither_file(dest: Path, name: str) -> None:
    path = ("ct", name)
    with opened(dest) as destination:
        for data in (b"first", b"second", b"third"):
            write(dest.joinpath(*path), data)
            assert publish(destination, path) == [None]
        found = sorted((dest / STATE_FOLDER / "quarantine").glob(f"*/ct/{name}"))
    assert [file.read_bytes() for file in found] == [b"first", b"second", b"third"]
    assert dest.joinpath(*path).read_bytes() == NEW


def test_what_cannot_be_set_aside_ends_the_run_and_stays(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(dest.joinpath(*A))
    with opened(dest) as destination:
        monkeypatch.setattr(os, "rename", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            publish(destination, A)
    assert file.read_bytes() == OLD


@fault(60, 66)
def test_a_flush_that_finds_no_room_while_a_file_is_set_aside_ends_the_run_and_is_not_made_good_by_the_next(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of it once, and it may be about files that are still to be put in place."""
    write(dest.joinpath(*A))

    def flush(flusher: FakeFlusher) -> None:
        flusher.count += 1
        if flusher.count == 2:
            raise FlushError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FakeFlusher, "flush", flush)
    with opened(dest) as destination:
        with pytest.raises(FlushError):
            publish(destination, A, B)
        assert not destination.reserve.is_given_up
    assert set_aside(dest) == {"/".join(A): OLD}


def failing(number: int, name: str | None = None, otherwise: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that fails, for one name or for all."""

    def fail(*args: Any, **options: Any) -> Any:
        if otherwise is not None and name not in {os.fsdecode(arg) for arg in args}:
            return otherwise(*args, **options)
        raise OSError(number, os.strerror(number))

    return fail


# ---- A disk that fails: for one name, or for all

FULL = [errno.ENOSPC, errno.EDQUOT]
FOR_ONE_NAME = [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR]
FOR_ALL = [errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE]


@fault(67)
@pytest.mark.parametrize("happened", [True, False])
def test_a_rename_that_happened_though_its_answer_was_lost_is_no_failure(
    dest: Path,
    monkeypatch: pytest.MonkeyPatch,
    happened: bool,  # noqa: FBT001
) -> None:
    """Over NFS it is sent again, and finds that there is nothing to rename."""
    rename = os.rename

    def twice(source: str, *args: Any, **options: Any) -> None:
        if happened:
            rename(source, *args, **options)
        else:
            os.unlink(source, dir_fd=options["src_dir_fd"])
        rename(source, *args, **options)

    with opened(dest) as destination:
        placement = Placement(A, stage(destination), None)
        monkeypatch.setattr(os, "rename", twice)
        if happened:
            assert destination.publish([placement]) == [None]
            assert dest.joinpath(*A).read_bytes() == NEW
        else:
            with pytest.raises(FileNotFoundError):
                destination.publish([placement])


@fault(84)
@pytest.mark.parametrize("moved", ["away", "replaced"])
def test_a_destination_that_is_moved_in_the_middle_of_a_run_ends_it(dest: Path, moved: str) -> None:
    with opened(dest) as destination:
        dest.rename(dest.with_name("elsewhere"))
        if moved == "replaced":
            dest.mkdir()
        with pytest.raises(DestinationError, match="is no longer where it was"):
            publish(destination, A)


@fault(76, 79)
@pytest.mark.parametrize("number", FOR_ONE_NAME)
def test_what_the_file_system_says_of_one_name_fails_that_object_only(
    dest: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with opened(dest) as destination:
        monkeypatch.setattr(os, "rename", failing(number, "a.dcm", os.rename))
        refusal, of_the_other = publish(destination, A, B)
        assert refusal in [
            (Reason.LOCAL_ERROR, f"it cannot be put in place: {os.strerror(number)}"),
            (Reason.LOCAL_ERROR, f'this file system does not take the name "a.dcm": {os.strerror(number)}'),
        ]
        assert of_the_other is None
        assert staged_names(dest) == []
    assert dest.joinpath(*B).read_bytes() == NEW


@fault(64, 65)
@pytest.mark.parametrize("function", ["rename", "mkdir", "open", "fchmod", "stat"])
@pytest.mark.parametrize("number", FOR_ALL)
def test_what_the_file_system_says_of_itself_ends_the_run(
    dest: Path, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    with opened(dest) as destination:
        placement = Placement(A, stage(destination), None)
        with monkeypatch.context() as patch, with_umask(0o100):  # So that folders do not get their mode at once.
            patch.setattr(os, function, failing(number))
            with pytest.raises(OSError, match=os.strerror(number).replace("(", r"\(").replace(")", r"\)")) as failure:
                destination.publish([placement])
        assert failure.value.errno == number
        assert destination_error(failure.value, dest).exit_code == 9


@fault(60, 62)
@pytest.mark.parametrize("function", ["rename", "mkdir", "open", "fchmod"])
@pytest.mark.parametrize("number", FULL)
def test_what_finds_no_room_for_its_name_goes_and_makes_room_for_the_others(
    dest: Path, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    with opened(dest) as destination:
        destination.reserve.take()
        placements = [Placement(path, stage(destination), None) for path in (A, B, ("mri", "c.dcm"))]
        made: Callable[..., Any] = getattr(os, function)
        refused: list[int] = []

        def full(*args: Any, **options: Any) -> Any:
            if len(refused) < 2:  # With the reserve, and once more without it.
                refused.append(number)
                raise OSError(number, os.strerror(number))
            return made(*args, **options)

        with monkeypatch.context() as patch, with_umask(0o100):
            patch.setattr(os, function, full)
            first, *others = destination.publish(placements)
        assert (first and first.reason, others) == (Reason.LOCAL_ERROR, [None, None])
        assert destination.has_run_out
        assert destination.reserve.is_given_up
        assert destination.look([A]) == [None]
        assert staged_names(dest) == []


@fault(60, 62, 64, 65)
@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (
            errno.ENOSPC,
            r"dest is full: [\d.]+ [KMGTP]?B and [\d,]+ files are left",
            "make room and run the same command",
        ),
        (errno.EDQUOT, "the quota of .*dest is used up", "make room and run the same command"),
        (errno.EROFS, "dest cannot be written: Read-only file system", "check the disk and the permissions"),
        (errno.EIO, "dest cannot be written: Input/output error", "check the disk and the permissions"),
        (errno.EMFILE, "too many files are open", "ulimit -n"),
        (errno.ENFILE, "too many files are open", "--concurrency"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_the_end_of_a_run_says_what_is_wrong_with_the_disk_and_what_to_do(
    dest: Path,
    number: int,
    message: str,
    hint: str,
    is_there: bool,  # noqa: FBT001
) -> None:
    if is_there:
        dest.mkdir()
    error = destination_error(OSError(number, os.strerror(number)), dest)
    assert error.exit_code == 9
    with pytest.raises(DestinationError, match=message):
        raise error
    assert hint in (error.hint or "")


@pytest.mark.parametrize("function", ["open", "mkdir", "fchmod"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_destination_that_cannot_be_opened_ends_the_run(
    dest: Path, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    if (function, number) == ("fchmod", errno.EACCES):
        number = errno.ENOSPC  # A mode that is refused is no failure.
    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(number))
        with pytest.raises(DestinationError), opened(dest):
            pass


def test_when_no_more_files_can_be_opened_the_run_ends_and_no_object_is_blamed(dest: Path) -> None:
    write(dest.joinpath(*A))
    with opened(dest) as destination:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                destination.look([A])
            with pytest.raises(OSError, match="Too many open files"):
                destination.open_file(A)
            with pytest.raises(OSError, match="Too many open files"):
                stage(destination)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_that_may_not_be_written_fails_its_own_objects_only() -> None:
    with unprivileged() as folder, opened(folder / "dest") as destination:
        (folder / "dest" / "ct").mkdir(mode=0o500)
        assert publish(destination, A, ("ct", "b.dcm"), ("mri", "c.dcm")) == [
            (Reason.LOCAL_ERROR, "it cannot be put in place: Permission denied"),
            (Reason.LOCAL_ERROR, "it cannot be put in place: Permission denied"),
            None,
        ]
        assert staged_names(folder / "dest") == []
        (folder / "dest" / "ct").chmod(0o700)


TINY = """
import errno, os, subprocess, sys
from pathlib import Path
from nccid_fetch.destination import Placement, open_destination
from nccid_fetch.diagnosis import check_dest, destination_error
from nccid_fetch.errors import DestinationError
from nccid_fetch.settings import Settings

disk = Path(sys.argv[1])
dest = disk / "dest"

def fill(size):
    try:
        for number in range(10_000):
            staged = destination.staging.new(hashed=True)
            staged.append_and_seal(bytes(size), 0)
            assert destination.publish([Placement(("ct", str(number)), staged, None)]) == [None]
    except OSError as error:
        print(errno.errorcode[error.errno], destination_error(error, dest).message)
        staged.discard()

with open_destination(Settings(dest=dest)) as destination:
    fill(SIZE)
    whole = all(path.stat().st_size == SIZE for path in (dest / "ct").iterdir())
    print("whole", whole, len(list((dest / "ct").iterdir())) > 2, os.listdir(dest / ".nccid-fetch" / "staged"))
    if SIZE:
        (dest / "ct" / "0").unlink()
        staged = destination.staging.new(hashed=True)
        staged.append_and_seal(b"", 0)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        try:
            destination.publish([Placement(("ct", "last"), staged, None)])
        except OSError as error:
            print(errno.errorcode[error.errno], destination_error(error, dest).message)
        try:
            check_dest(dest)
        except DestinationError as error:
            print(error.message)
"""


def on_tiny_disk(disk: Path, options: str, size: int) -> list[str]:
    """Fill a file system of its own with files of a size; return what was said."""
    disk.mkdir()
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && exec "$3" -c "$4" "$2"'
    code = TINY.replace("SIZE", str(size))
    command = ["unshare", "-rm", "sh", "-c", script, "sh", options, str(disk), sys.executable, code]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a tiny file system")
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    if found.returncode != 0 and found.stderr.startswith(("mount", "unshare")):
        pytest.skip(f"no tiny file system can be mounted here: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr
    return [line.replace(str(disk), "DISK") for line in found.stdout.splitlines()]


@fault(60, 64)
def test_on_a_real_disk_that_is_full_and_then_read_only_what_was_published_stays_whole(tmp_path: Path) -> None:
    full, whole, read_only, refused = on_tiny_disk(tmp_path / "disk", "size=256k", 20_000)
    assert full.startswith("ENOSPC DISK/dest is full: 0 B")
    assert whole == "whole True True []"
    assert read_only == "EROFS DISK/dest cannot be written: Read-only file system"
    assert refused == "DISK/dest may not be written"


@fault(62)
def test_on_a_real_disk_without_room_for_names_the_message_tells_files_from_bytes(tmp_path: Path) -> None:
    full, whole = on_tiny_disk(tmp_path / "disk", "size=4m,nr_inodes=20", 0)
    assert full == "ENOSPC DISK/dest is full: 4.2 MB and 0 files are left"
    assert whole == "whole True True []"


# ---- What a destination may be


def test_a_folder_a_missing_folder_and_one_below_missing_folders_may_be_a_destination(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_dest(dest / "a" / "b")
    check_dest(dest)
    assert not dest.exists()  # Looking makes nothing.
    dest.mkdir()
    check_dest(dest)
    monkeypatch.chdir(dest)
    for path in (".", "data", "a/b/c"):
        check_dest(Path(path))


def test_a_file_cannot_be_a_destination_nor_hold_one(dest: Path) -> None:
    write(dest)
    with pytest.raises(UsageError, match="dest is not a folder"):
        check_dest(dest)
    with pytest.raises(UsageError, match="dest is not a folder"):
        check_dest(dest / "a" / "b")


def test_a_link_to_nothing_or_to_itself_cannot_be_a_destination(dest: Path, outside: Path) -> None:
    dest.symlink_to(outside / "missing")
    with pytest.raises(UsageError, match="is not a folder"):
        check_dest(dest)
    with pytest.raises(DestinationError), opened(dest):
        pass
    dest.unlink()
    dest.symlink_to(dest)
    with pytest.raises(UsageError, match="is not a folder"):
        check_dest(dest)


@pytest.mark.parametrize("name", ["/", "//", "/..", "/tmp/.."])
def test_the_whole_file_system_cannot_be_a_destination(dest: Path, name: str) -> None:
    dest.symlink_to(name)
    for path in (Path(name), dest):
        with pytest.raises(UsageError, match="is the whole file system"):
            check_dest(path)


def test_a_name_that_no_file_system_takes_cannot_be_a_destination(dest: Path) -> None:
    with pytest.raises(DestinationError), opened(dest / ("a" * 256)):
        pass
    with suppress(DestinationError):  # Some versions of Python say so here already.
        check_dest(dest / ("a" * 256))


def test_a_folder_that_may_not_be_written_or_entered_cannot_be_a_destination() -> None:
    with unprivileged() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o500)
        for path in (closed, closed / "data", closed / "a" / "b"):
            with pytest.raises(DestinationError, match="closed may not be written"):
                check_dest(path)
            if path != closed:
                with pytest.raises(DestinationError, match="Permission denied"), opened(path):
                    pass
        closed.chmod(0)
        for path in (closed, closed / "data", closed / "a" / "b"):
            with pytest.raises(DestinationError):
                check_dest(path)
        closed.chmod(0o700)


# ---- Looking


def test_looking_finds_files_and_nothing_where_nothing_is(dest: Path) -> None:
    with opened(dest) as destination:
        publish(destination, A)
        write(dest / "ct" / "file")
        paths = [
            A,
            B,
            ("ct", "Covid2", "a"),
            ("ct", "Covid2", "b"),
            ("mri", "a"),
            ("ct", "file", "a"),
            ("ct", "Covid1"),
        ]
        assert destination.look(paths) == [
            LocalFile(LocalKind.FILE, len(NEW), NOW),
            None,
            None,
            None,
            None,
            LocalFile(LocalKind.BLOCKED),
            LocalFile(LocalKind.FOLDER),
        ]
        assert destination.look([]) == []


@fault(76)
def test_where_the_file_system_does_not_let_us_look_is_said_of_that_path_only(dest: Path) -> None:
    """Some file systems take shorter names than others, or no colons."""
    with opened(dest) as destination:
        publish(destination, A)
        long = "a" * 256
        assert destination.look([(long,), (long, "a"), ("ct", long), A]) == [
            *[
                LocalFile(
                    LocalKind.CLOSED, refusal=f'this file system does not take the name "{long}": File name too long'
                )
            ]
            * 3,
            LocalFile(LocalKind.FILE, len(NEW), NOW),
        ]


def test_a_folder_that_may_not_be_entered_is_closed() -> None:
    with unprivileged() as folder, opened(folder / "dest") as destination:
        publish(destination, A)
        (folder / "dest" / "ct" / "Covid1").chmod(0)
        (folder / "dest" / "ct" / "Covid2").mkdir(mode=0o400)
        assert destination.look([A, ("ct", "Covid2", "a"), ("mri", "a")]) == [
            *[LocalFile(LocalKind.CLOSED, refusal="its place cannot be looked at: Permission denied")] * 2,
            None,
        ]
        with pytest.raises(ObjectError, match="Permission denied") as refusal:
            destination.open_file(A)
        assert refusal.value.reason is Reason.LOCAL_ERROR
        (folder / "dest" / "ct" / "Covid1").chmod(0o700)


def test_a_missing_destination_is_no_tree_and_a_file_is_no_destination(dest: Path) -> None:
    with open_tree(dest) as tree:
        assert tree is None
    assert not dest.exists()
    write(dest)
    with pytest.raises(DestinationError, match="Not a directory"), open_tree(dest):
        pass


def test_looking_at_a_tree_changes_nothing(dest: Path) -> None:
    write(dest.joinpath(*A))
    before = snapshot(dest)
    with open_tree(dest) as tree:
        assert isinstance(tree, Tree)
        found = tree.look([A, ("mri", "a", "b")])
    assert found[0] is not None
    assert (found[0].kind, found[1]) == (LocalKind.FILE, None)
    assert snapshot(dest) == before


@fault(73, 74)
@pytest.mark.parametrize("folds", [True, False])
def test_whether_names_fold_is_found_out_by_trying(
    dest: Path,
    monkeypatch: pytest.MonkeyPatch,
    folds: bool,  # noqa: FBT001
) -> None:
    if folds:
        monkeypatch.setattr("nccid_fetch.traits.look_at", lambda folder_fd, name: LocalFile(LocalKind.FILE))
    with opened(dest) as destination:
        assert destination.folds is folds
        assert staged_names(dest) == []


# ---- Changing what is there


def test_retiming_gives_a_file_its_newer_mtime_and_passes_over_what_went_away(dest: Path) -> None:
    with opened(dest) as destination:
        publish(destination, A, B)
        found = LocalFile(LocalKind.FILE, len(NEW), NOW)
        paths = [("mri", "missing"), ("ct", "missing"), A, (*A, "below")]
        moves = [(path, NOW + 5, found) for path in paths]
        assert destination.retime(moves) == [None, None, NOW + 5, None]
        assert destination.look([A, B]) == [
            LocalFile(LocalKind.FILE, len(NEW), NOW + 5),
            LocalFile(LocalKind.FILE, len(NEW), NOW),
        ]


@contextmanager
def refused_to_others(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let modes and times be refused, as those of another user's files are, for any user who runs the tests."""
    with monkeypatch.context() as patch:
        for name in ("fchmod", "utime"):
            patch.setattr(os, name, failing(errno.EPERM))
        yield


def adopted(destination: Destination, modified_ns: int = NOW) -> Adoption:
    descriptor = destination.open_file(A)
    try:
        return destination.adopt(descriptor, A, stamp_of(descriptor), modified_ns)
    finally:
        os.close(descriptor)


@fault(142)
def test_a_file_of_another_user_is_adopted_and_retimed_as_it_is(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(dest.joinpath(*A), NEW)
    file.chmod(0o644)
    before = file.stat()
    with opened(dest) as destination, refused_to_others(monkeypatch):
        assert adopted(destination) == Adoption(before.st_mtime_ns, as_it_is=True)
        found = LocalFile(LocalKind.FILE, len(NEW), before.st_mtime_ns)
        assert destination.retime([(A, NOW + 5, found)]) == [before.st_mtime_ns]
    assert file.stat() == before


def test_an_adopted_file_gets_the_mode_and_mtime_of_a_fetched_one(dest: Path) -> None:
    file = write(dest.joinpath(*A))
    file.chmod(0o644)
    with opened(dest) as destination:
        assert adopted(destination) == Adoption(NOW, as_it_is=False)
    assert (file.read_bytes(), mode_of(file), file.stat().st_mtime_ns) == (OLD, 0o600, NOW)


@fault(140)
@pytest.mark.parametrize("is_written", [False, True])
def test_a_time_that_no_file_can_have_is_no_change(
    dest: Path, monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """FAT has no time before 1980: it takes the nearest."""
    first, real = 315_532_800 * 10**9, os.utime
    write(dest.joinpath(*A), OLD)
    with opened(dest) as destination:
        meanwhile = [OLD] if is_written else []

        def utime(descriptor: int, *, ns: tuple[int, int]) -> None:
            real(descriptor, ns=(max(first, ns[0]), max(first, ns[1])))
            if meanwhile:
                dest.joinpath(*A).write_bytes(meanwhile.pop())

        monkeypatch.setattr(os, "utime", utime)
        if is_written:
            with pytest.raises(FileChangedError):
                adopted(destination, 0)
        else:
            assert adopted(destination, 0) == Adoption(first)


def test_a_missing_file_cannot_be_opened(dest: Path) -> None:
    with opened(dest) as destination:
        for path in (A, ("a",)):
            with pytest.raises(ObjectError, match="No such file") as refusal:
                destination.open_file(path)
            assert refusal.value.reason is Reason.LOCAL_ERROR


# ---- Staged files


def test_every_attempt_has_a_file_of_its_own(dest: Path) -> None:
    with opened(dest) as destination:
        first, second = destination.staging.new(hashed=True), destination.staging.new(hashed=True)
        first.append(b"of the first attempt")
        second.append(b"2")
        first.discard()
        second.seal(NOW)
        assert staged_names(dest) == [second.name]
        assert b"".join(second.chunks()) == b"2"


def test_two_runs_never_share_a_staged_file(dest: Path) -> None:
    with opened(dest) as one, opened(dest) as other:
        names = [run.staging.new(hashed=True).name for run in (one, other) for _ in range(3)]
    assert len(set(names)) == 6


def test_a_staged_file_is_never_one_that_was_there(dest: Path) -> None:
    with opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        write(dest / STATE_FOLDER / "staged" / staged.name)
        with pytest.raises(FileExistsError):
            staged.append(NEW)
        assert (dest / STATE_FOLDER / "staged" / staged.name).read_bytes() == OLD


@fault(124)
def test_a_staged_file_is_private_from_its_first_byte(dest: Path) -> None:
    with with_umask(0), opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        staged.append(b"1")
        assert mode_of(dest / STATE_FOLDER / "staged" / staged.name) == 0o600
        staged.discard()


def test_it_does_not_exist_before_its_first_byte_or_its_seal(dest: Path) -> None:
    with opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        assert staged_names(dest) == []
        staged.discard()  # Which is no error.
        staged = destination.staging.new(hashed=True)
        staged.seal(NOW)
        assert staged_names(dest) == [staged.name]
        assert (staged.size, staged.is_sealed, staged.md5) == (0, True, md5(b"").hexdigest())


@fault(68)
def test_it_is_hashed_as_it_is_written_however_little_the_disk_takes_at_once(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_(descriptor, data[:3]))
    with opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        staged.append(b"some ")
        staged.append(memoryview(b"bytes"))
        assert (staged.size, staged.md5, staged.is_sealed) == (10, md5(b"some bytes").hexdigest(), False)
        staged.seal(NOW)
        assert b"".join(staged.chunks()) == b"some bytes"
        assert b"".join(staged.chunks()) == b"some bytes"  # From its beginning, every time.


def test_it_is_not_hashed_unless_asked_for(dest: Path) -> None:
    with opened(dest) as destination:
        assert stage(destination, hashed=False).md5 is None


@fault(65)
@pytest.mark.parametrize("function", ["write", "utime", "open", "fchmod"])
def test_it_is_not_sealed_when_the_disk_fails_and_can_still_be_discarded(
    dest: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        with monkeypatch.context() as patch, with_umask(0o200):
            patch.setattr(os, function, failing(errno.EIO))
            with pytest.raises(OSError, match="Input/output error"):
                staged.append_and_seal(NEW, NOW)
        assert not staged.is_sealed
        staged.discard()
        assert staged_names(dest) == []


@fault(67)
def test_a_disk_that_says_only_at_the_close_that_it_is_full_is_heard(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close

    def late(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with opened(dest) as destination:
        staged = destination.staging.new(hashed=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "close", late)
            with pytest.raises(OSError, match="quota"):
                staged.append_and_seal(NEW, NOW)
        assert not staged.is_sealed


@fault(78)
def test_clearing_closes_and_removes_all_staged_files_of_any_run_and_nothing_else(dest: Path) -> None:
    with opened(dest) as destination:
        stage(destination)
        destination.staging.new(hashed=True).append(b"open")
        write(dest / STATE_FOLDER / "staged" / "of-a-run-that-was-killed")
        write(dest / STATE_FOLDER / "staged" / "folder" / "file")
        publish(destination, A)
        destination.staging.clear()
        assert staged_names(dest) == ["folder"]
        assert destination.staging.open_files == set()
    assert (dest / STATE_FOLDER / "staged" / "folder" / "file").read_bytes() == OLD
    assert dest.joinpath(*A).read_bytes() == NEW


def test_a_thousand_files_in_many_folders_leave_no_descriptor_open(dest: Path) -> None:
    """The fixture counts; so does this, in the middle."""
    with opened(dest) as destination:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        paths = [("ct", f"Covid{number % 50}", f"{number}", "a.dcm") for number in range(1000)]
        assert publish(destination, *paths) == [None] * 1000
        assert None not in destination.look(paths)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# ---- The walk itself


@contextmanager
def root_of(folder: Path) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_walk_reports_missing_folders_unless_it_makes_them(dest: Path) -> None:
    with root_of(dest) as root_fd, Walk(root_fd) as walk:
        assert walk.enter(()) == root_fd
        with pytest.raises(FileNotFoundError):
            walk.enter(("a", "b"))
        assert list(dest.iterdir()) == []


def test_a_walk_goes_on_after_what_was_in_its_way(dest: Path) -> None:
    with root_of(dest) as root_fd, Walk(root_fd, create_mode=0o700) as walk:
        write(dest / "file")
        for path in (("file", "a"), ("a", "b", "c"), ("file",)):
            with suppress(BlockedError):
                walk.enter(path)
        assert os.fstat(walk.enter(("a", "b"))).st_ino == (dest / "a" / "b").stat().st_ino


@pytest.mark.parametrize("failing_at", range(1, 7))
def test_a_walk_whose_callback_fails_closes_what_it_opened(dest: Path, failing_at: int) -> None:
    calls = itertools.count(1)

    def on_leave(descriptor: int) -> None:
        os.fstat(descriptor)  # It is still open.
        if next(calls) == failing_at:
            raise OSError(errno.EIO, "the disk is broken")

    def visit() -> None:
        with root_of(dest) as root_fd, Walk(root_fd, create_mode=0o700, on_leave=on_leave) as walk:
            walk.enter(("a", "b", "c"))

    with pytest.raises(OSError, match="the disk is broken"):
        visit()


def test_somebody_else_may_make_the_folder_in_the_same_moment(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def late(*args: Any, **options: Any) -> None:
        mkdir(*args, **options)
        mkdir(*args, **options)

    with root_of(dest) as root_fd, Walk(root_fd, create_mode=0o700) as walk:
        monkeypatch.setattr(os, "mkdir", late)
        walk.enter(("a", "b"))
    assert (dest / "a" / "b").is_dir()
