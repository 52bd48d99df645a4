"""What the machine lets this process have: threads, memory, open files. Less of it is used where it allows little.

A limit may stand in many places: the shell's `ulimit`, the service's unit, the container's cgroup. So threads are tried, memory is
read from all of them, and the error of a call that was refused names the limit that it met.

==================================================  ========================================================
What was raised                                     Then
==================================================  ========================================================
`RuntimeError`: can't start new thread              threads (`ulimit -u`, the pids of a cgroup), or memory
`MemoryError`, ENOMEM, a library that is not mapped  memory (`ulimit -v`, `-d`, the memory of a cgroup)
EMFILE, ENFILE                                      open files (`ulimit -n`)
EFBIG                                               the size of a file (`ulimit -f`)
anything else                                       it is no limit
==================================================  ========================================================
"""

import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .errors import LimitError, NccidFetchError
from .units import size_text

THREADS_NEEDED = 12
"""The run's own, four in which the event loop looks names up, and one each for disk, journal, network, status and records."""
MEMORY_NEEDED = 80 << 20
"""What is loaded for a run, and one object in flight."""
OPEN_FILES_NEEDED = 32
"""For a listing, of few connections."""
_UNLIMITED = 1 << 60
"""What version 1 of cgroups has for no limit is about half of all that 64 bits can say."""
_NO_THREAD = "can't start new thread"
_UNMAPPED = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")
_CROWDED = ("Too many open files", "initializing curl")
_GROUPS = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """A limit of memory.

    Attributes:
        name: What it is called, and where it is set.
        left: How many bytes of it this process may still take.
    """

    name: str
    left: int


def memory(proc: Path = Path("/proc/self"), groups: Path = _GROUPS) -> Memory | None:
    """Return the limit of memory that leaves this process least; None where there is none.

    Args:
        proc: Where the system tells of this process.
        groups: Where it tells of cgroups.
    """
    taken = _taken(proc)
    found = []
    for number, name, word in (
        (resource.RLIMIT_AS, "address space (ulimit -v)", "VmSize"),
        (resource.RLIMIT_DATA, "data (ulimit -d)", "VmData"),
    ):
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            found.append(Memory(name, soft - taken.get(word, 0)))
    found += [Memory("memory (cgroup)", most - taken.get("VmRSS", 0)) for most in _group_limits(proc, groups)]
    return min(found, key=lambda limit: limit.left, default=None)


def _taken(proc: Path) -> dict[str, int]:
    """Return what this process has taken, in bytes, by the system's words for it."""
    with suppress(OSError):
        lines = [line.split() for line in (proc / "status").read_text(encoding="ascii", errors="replace").splitlines()]
        return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1:] == ["kB"]}
    return {}


def _group_limits(proc: Path, groups: Path) -> Iterator[int]:
    """Yield the limits of memory of this process's cgroup and of those above it, of both versions of cgroups."""
    with suppress(OSError):
        for line in (proc / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            folder = Path(path.lstrip("/"))
            for at in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # Of a container, the path may be the host's; "max" is no limit.
                    most = int((top / at / name).read_text(encoding="ascii"))
                    if most < _UNLIMITED:
                        yield most


def threads(most: int) -> int:
    """Return how many threads may be started, up to so many. They are started, and end at once."""
    gate = threading.Event()
    started: list[threading.Thread] = []
    with suppress(RuntimeError, MemoryError):
        while len(started) < most:
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            started.append(thread)
    gate.set()
    for thread in started:
        thread.join()
    return len(started)


def check(open_files: int | None) -> None:
    """Refuse to run where the machine allows too little. libuv, for one, ends the process where it gets no thread.

    Args:
        open_files: How many files this process may have open; None for any number.

    Raises:
        LimitError: It allows too little, of what it names.
    """
    check_open_files(open_files, OPEN_FILES_NEEDED)
    least = memory()
    if least is not None and least.left < MEMORY_NEEDED:
        raise LimitError(
            f"{size_text(max(least.left, 0))} of {least.name} are left, and a run needs {size_text(MEMORY_NEEDED)}",
            hint="raise that limit, and run the same command again",
        )
    found = threads(THREADS_NEEDED)
    if found < THREADS_NEEDED:
        raise _too_few_threads(f"{found} more threads may be started, and a run needs {THREADS_NEEDED}")


def check_open_files(open_files: int | None, needed: int) -> None:
    """Refuse to run where too few files may be open.

    Raises:
        LimitError: They are too few.
    """
    if open_files is not None and open_files < needed:
        raise LimitError(
            f"{open_files} files may be open (ulimit -n), and a run needs {needed}",
            hint="raise the limit: ulimit -n 1024",
        )


def save_memory() -> None:
    """Let threads take little address space, where that is limited. For a process of our own, before it has any.

    By default each gets a stack of 8 MiB, and of glibc an arena of 64 MiB for what it allocates.
    """
    if all(
        resource.getrlimit(kind)[0] == resource.RLIM_INFINITY for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    ):
        return
    import ctypes  # noqa: PLC0415 - only where there is such a limit.

    threading.stack_size(_STACK_BYTES)
    with suppress(OSError, AttributeError):  # Another C library.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


_STACK_BYTES = 1 << 20
_M_ARENA_MAX = -8


@contextmanager
def limits_told() -> Iterator[None]:
    """Raise what the machine refuses as what it is.

    Raises:
        LimitError: It refused threads, memory, files or the size of a file.
    """
    try:
        yield
    except NccidFetchError:
        raise
    except Exception as error:
        refused = limit_of(error)
        if refused is None:
            raise
        raise refused from error


def limit_of(error: BaseException) -> LimitError | None:
    """Return which limit an error is about; None if it is about none. The table is the module's."""
    told, number = str(error), error.errno if isinstance(error, OSError) else None
    if isinstance(error, RuntimeError) and _NO_THREAD in told:
        return _too_few_threads("no more threads may be started")
    if number in {errno.EMFILE, errno.ENFILE} or (
        not isinstance(error, OSError) and any(word in told for word in _CROWDED)
    ):
        return LimitError(
            "too many files are open", hint="raise the limit (ulimit -n) or lower --concurrency, and run it again"
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _is_unmapped(error):
        least = memory()
        name = "memory" if least is None else f"{least.name}"
        return LimitError(
            f"too little {name} is left", hint="raise that limit or lower --concurrency, and run it again"
        )
    if number == errno.EFBIG:
        return LimitError(
            f"a file would become too large{file_limit_told()}", hint="raise the limit: ulimit -f unlimited"
        )
    return None


def file_limit_told() -> str:
    """Return what to add to an error of the disk where the size of files is limited; nothing where it is not."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return "" if soft == resource.RLIM_INFINITY else f"; a file may have {size_text(soft)} here (ulimit -f)"


def _is_unmapped(error: BaseException) -> bool:
    return isinstance(error, ImportError) and any(word in str(error) for word in _UNMAPPED)


def _too_few_threads(told: str) -> LimitError:
    least = memory()
    memory_told = "" if least is None else f" or of {least.name}"
    return LimitError(
        f"{told}: a limit of processes and threads (ulimit -u, or the pids of a cgroup){memory_told} is reached",
        hint="raise that limit, or end other programs, and run the same command again",
    )
