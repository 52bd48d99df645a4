"""What the destination's state means for a run: values in, findings out.

=============================================  ============================================================
What was seen                                  Then
=============================================  ============================================================
it is no folder, it cannot be written          problem
less than 1 GB or 1,000 files are left         problem, unless what was last listed takes less than that
less than what was last listed takes is left   note; of everything, where nothing was listed yet
others may enter it                            problem: they are patients' data
its group may                                  note: `--group-readable` asks for that
its file system keeps no modes, or no times    note; only how it is mounted can change that
it is on another machine, or folds names       note
fewer files than 64 objects need may be open   note; fewer than one object needs: problem
another run holds it, the journal is damaged   note: the next run waits, or mends it
the journal is another bucket's, or newer      problem
=============================================  ============================================================
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from ..keys import SEGMENT_BYTES_MAX
from ..settings import OPEN_FILES_BESIDE, OPEN_FILES_PER_OBJECT, Settings, Source
from ..traits import BY_GROUP, BY_OTHERS, TIMES_TEXT, Traits, modes_text
from ..units import size_text
from .findings import Area, Finding, State, again
from .premises import Premises
from .records import Damaged, Healthy, Held, Newer

EVERYTHING_BYTES, EVERYTHING_FILES = 3_300_000_000_000, 11_000_000
"""What the whole warehouse takes, about."""
BYTES_MIN = 1_000_000_000
FILES_MIN = 1000
_DESCRIPTORS = 8192
"""What allows as many objects in flight as anybody asks for."""
_PLAN_SAYS = "plan says how much what you want is"
_DEFAULT = Path("nccid-data")


def findings_of(seen: Premises, source: Source, dest: Path, open_files: int | None) -> Iterator[Finding]:
    """Yield what is to be said of a destination.

    Args:
        seen: What its file system says.
        source: Where from.
        dest: Where to.
        open_files: How many files this process may have open; None for any number.
    """
    if not seen.is_folder or seen.is_root:
        yield _no_folder(seen, source, dest)
        return
    yield _folder(seen, dest)
    yield from _space(seen, source, dest)
    if seen.traits is not None and not seen.traits.keeps_modes:
        yield _modes(seen.traits, seen.nearest)
    elif seen.mode is not None:
        yield _permissions(seen, seen.mode, dest)
    if seen.owner is not None:
        yield _noted(
            "owner",
            f"{dest} belongs to {seen.owner}: files of theirs that are right are used as they are, others may not be replaced",
            "run it as that user, or give yourself the tree",
            f'sudo chown -R "$USER" {_quoted(dest)}',
        )
    yield from _file_system(seen, source, dest)
    yield _open_files(open_files)
    yield _journal(seen, source, dest)


def _no_folder(seen: Premises, source: Source, dest: Path) -> Finding:
    why = "the whole file system" if seen.is_root else "not a folder"
    what = dest if seen.is_root else seen.nearest
    return _problem("folder", f"{what} is {why}", "name a folder of its own", again(source, _DEFAULT, "doctor"))


def _folder(seen: Premises, dest: Path) -> Finding:
    if seen.refusal is None or seen.is_full:
        told = f"{dest} is there" if seen.is_there else f"{dest} will be made, for nobody but you"
        return _well("folder", told if seen.is_full else f"{told}, and can be written")
    if seen.is_read_only:
        return _problem(
            "folder",
            f"{seen.nearest} is on a file system that is mounted read-only",
            "mount it for writing, or choose another --dest",
            f"findmnt --target {_quoted(seen.nearest)}",
        )
    return _problem(
        "folder",
        f"{seen.nearest} cannot be written: {seen.refusal}",
        "change its permissions, or choose another --dest",
        f"chmod u+rwx {_quoted(seen.nearest)}" if seen.owner is None else f"ls -ld {_quoted(seen.nearest)}",
    )


def _space(seen: Premises, source: Source, dest: Path) -> Iterator[Finding]:
    """Yield whether there is room: for anything, and for what is still to come, as far as that is known."""
    have = seen.health if isinstance(seen.health, Healthy) else Healthy(bucket="", group="")
    free = seen.space
    if have.listed_objects is None:
        wanted, missing_bytes, missing_files = "everything", EVERYTHING_BYTES, EVERYTHING_FILES
    else:
        wanted, missing_bytes, missing_files = "what was last listed", have.listed_bytes, have.listed_objects
    missing_bytes, missing_files = max(0, missing_bytes - have.bytes), max(0, missing_files - have.objects)
    told = f"{size_text(free.bytes)} are free, and {wanted} takes about {size_text(missing_bytes)} more"
    if free.bytes < min(BYTES_MIN, missing_bytes) or seen.is_full:
        quota = " and no more can be written (is it a quota?)" if free.bytes >= BYTES_MIN else ""
        yield _problem(
            "space",
            f"{size_text(free.bytes)} are free{quota}",
            f"make room, or choose another --dest; {wanted} takes about {size_text(missing_bytes)} more",
            f"df -h {_quoted(seen.nearest)}",
        )
    elif free.bytes < missing_bytes:
        yield _noted("space", told, _PLAN_SAYS, again(source, dest, "plan"))
    else:
        yield _well("space", told)
    if free.files is None:
        return
    if free.files < min(FILES_MIN, missing_files):
        yield _problem(
            "files",
            f"{free.files:,} more files (inodes) are possible",
            "remove files that you do not need, or choose another --dest",
            f"df -i {_quoted(seen.nearest)}",
        )
    elif free.files < missing_files:
        yield _noted(
            "files",
            f"{free.files:,} more files (inodes) are possible, and {wanted} is about {missing_files:,} more",
            _PLAN_SAYS,
            again(source, dest, "plan"),
        )


def _permissions(seen: Premises, mode: int, dest: Path) -> Finding:
    command = f"chmod 700 {_quoted(dest)}" if seen.owner is None else f"ls -ld {_quoted(dest)}"
    if mode & BY_OTHERS:
        return _problem(
            "permissions",
            f"{dest} is open to every user of this machine (mode {mode:o})",
            "close it: they are patients' data",
            command,
        )
    if mode & BY_GROUP:
        return _noted(
            "permissions",
            f"{dest} is open to its group (mode {mode:o})",
            "close it, unless that is meant (--group-readable)",
            command,
        )
    return _well("permissions", f"nobody else may enter {dest} (mode {mode:o})")


def _modes(traits: Traits, nearest: Path) -> Finding:
    """Say what modes files get. No chmod helps: who may read them is decided where it is mounted."""
    command = f"findmnt --target {_quoted(nearest)}"
    if traits.is_open:
        hint = "have it mounted for you alone (umask=077; CIFS: file_mode=0600,dir_mode=0700), or choose another --dest"
        return _noted("permissions", modes_text(traits), hint, command)
    return _well("permissions", modes_text(traits))


def _file_system(seen: Premises, source: Source, dest: Path) -> Iterator[Finding]:
    if seen.remote is not None:
        yield _noted(
            "file system",
            f"it is {seen.remote}, where locks may not hold",
            "start no second run over it; a local disk is faster and safer",
            f"df -hT {_quoted(seen.nearest)}",
        )
    else:
        yield _well("file system", "it is on this machine")
    if seen.traits is not None and not seen.traits.keeps_times:
        yield _noted(
            "times",
            TIMES_TEXT,
            "choose another --dest, if other tools are to go by the times",
            f"findmnt --target {_quoted(seen.nearest)}",
        )
    if seen.traits is not None and seen.traits.folds:
        yield _noted(
            "names",
            "names that differ in case alone are one to it: of such twins one arrives, and the other is a conflict",
            "choose a --dest that tells them apart, if the failure list has any",
            again(source, dest, "plan"),
        )
    if seen.name_bytes_max < SEGMENT_BYTES_MAX:
        yield _noted(
            "names",
            f"names may have {seen.name_bytes_max} bytes, and S3 allows more: such objects would fail",
            "choose a --dest without that limit, if the failure list has any",
            f"getconf NAME_MAX {_quoted(seen.nearest)}",
        )


def _open_files(open_files: int | None) -> Finding:
    """Say how many objects may be in flight. The default is what is held against, as any other number is a choice."""
    limited = Settings(dest=Path(), open_files=open_files)
    wanted = Settings(dest=Path()).concurrency_max
    # `ulimit -n` would do no more than was tried already, which is to go as far as the system lets us.
    command = f"sudo prlimit --pid $$ --nofile={_DESCRIPTORS}:{_DESCRIPTORS}"
    if open_files is None or limited.concurrency_max >= wanted:
        allowed = "any number of" if open_files is None else f"{open_files:,}"
        most = Settings(dest=Path(), open_files=open_files, concurrency="auto").concurrency_max
        return _well("open files", f"{allowed} files may be open: enough for {most} objects in flight and more")
    told = f"{open_files:,} files may be open: enough for {limited.concurrency_max} of {wanted} objects in flight"
    hint = "raise the limit of this shell, or have it raised for good (/etc/security/limits.conf)"
    if open_files < OPEN_FILES_BESIDE + OPEN_FILES_PER_OBJECT:
        return _problem("open files", f"{open_files:,} files may be open, which is too few for a run", hint, command)
    return _noted("open files", told, hint, command)


def _journal(seen: Premises, source: Source, dest: Path) -> Finding:
    if seen.unreadable is not None:
        why, hint = seen.unreadable
        return _problem(
            "journal", why, hint or "check the disk and the permissions", f"ls -la {_quoted(dest / '.nccid-fetch')}"
        )
    match seen.health:
        case None:
            return _well("journal", "there is none yet; the first run makes it")
        case Held(run=run):
            who = ""
            if run is not None:
                who = f": `{run.command}`, process {run.process.pid} on {run.process.host}, since {run.started}"
            return _noted(
                "journal",
                f"another run holds it, and this destination{who}",
                "wait for it, or stop it; status says how far it is",
                f"nccid-fetch status --dest {_quoted(dest)}",
            )
        case Damaged(why=why):
            return _noted(
                "journal",
                f"it is damaged ({why}); the next run keeps it under another name, and proves the files again: that costs"
                " hashing, not downloading",
                "run it as ever, and once more if it ends with 9; if damage comes again, look at the disk",
                again(source, dest, "all"),
            )
        case Newer(version=version):
            return _problem(
                "journal",
                f"it was written by a newer nccid-fetch (journal version {version})",
                "upgrade nccid-fetch",
                "pip install --upgrade nccid-fetch",
            )
        case Healthy() as journal:
            return _healthy(journal, source, dest)


def _healthy(journal: Healthy, source: Source, dest: Path) -> Finding:
    if (journal.bucket or source.bucket, journal.group or source.group) != (source.bucket, source.group):
        return _problem(
            "journal",
            f"{dest} belongs to group {journal.group} of bucket {journal.bucket}",
            "give every bucket and group a --dest of its own, or ask for what this one has",
            again(source, dest, "doctor", bucket=journal.bucket, group=journal.group),
        )
    if journal.looked_through:
        told = f"it is whole: {journal.objects:,} objects, {size_text(journal.bytes)}"
    else:
        told = "no damage was found in the part of it that there was time for"
    if journal.last_run is not None:
        command, started = journal.last_run
        told += f"; the last run was `{command}` at {started}{'' if journal.ended else ', which was killed'}"
    return _well("journal", told)


def _well(what: str, found: str) -> Finding:
    return Finding(Area.DESTINATION, what, State.OK, found)


def _noted(what: str, found: str, hint: str, command: str) -> Finding:
    return Finding(Area.DESTINATION, what, State.NOTE, found, hint, command)


def _problem(what: str, found: str, hint: str, command: str) -> Finding:
    return Finding(Area.DESTINATION, what, State.PROBLEM, found, hint, command, 9)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
