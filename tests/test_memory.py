"""What a run needs of memory does not depend on how much there is: taken down from a real process, while it works."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from .catalogue import fault
from .processes import Child
from .servers.scripted import MODIFIED, Do, ScriptedS3

MIB = 1 << 20
HUGE = 256 * MIB
KEYS = 100_000
FOLDER = 10_000
GROWTH_MAX = 24 * MIB
"""What buffers, caches and Python's own allocator may still take once a run is in its stride."""


class Peaks:
    """The most memory that a process had in use, at each of some moments."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.bytes: list[int] = []

    def take_down(self) -> None:
        if self.child is not None:
            status = Path(f"/proc/{self.child.pid}/status").read_text()
            (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
            self.bytes.append(int(line.split()[1]) * 1024)


def virtual(keys: list[str]) -> Callable[[str, str, int], list[tuple[str, int, str, datetime]]]:
    """A listing of these keys, of objects that are not there."""

    def rows(after: str, prefix: str, limit: int) -> list[tuple[str, int, str, datetime]]:
        start = max(bisect_right(keys, after), bisect_left(keys, prefix))
        found = takewhile(lambda key: key.startswith(prefix), keys[start : start + limit])
        return [(key, 1000, "0" * 32, MODIFIED) for key in found]

    return rows


@fault(49)
def test_a_listing_of_a_hundred_thousand_objects_needs_no_more_memory_than_a_tenth_of_it(tmp_path: Path) -> None:
    peaks = Peaks()
    with ScriptedS3(requests_max=1) as s3:
        s3.virtual = virtual([f"training/ct/Covid{number // FOLDER:02}/{number:07}.dcm" for number in range(KEYS)])
        s3.script("list", Do(peaks.take_down), count=None)
        peaks.child = Child(s3, tmp_path / "dest", "--dry-run")
        code, summary = peaks.child.end()
    assert (code, summary["listed"]["objects"]) == (0, KEYS)
    assert len(peaks.bytes) >= KEYS // 1000
    assert peaks.bytes[-1] - peaks.bytes[len(peaks.bytes) // 5] < GROWTH_MAX


@fault(48, 91)
def test_a_huge_object_needs_no_more_memory_than_its_ranges_in_flight(tmp_path: Path) -> None:
    """With nothing to hash, its length is all that is proved: what comes from this server is zeros."""
    peaks = Peaks()
    with ScriptedS3() as s3:
        s3.put("training/ct/Covid00/huge.dcm", bytes(HUGE), etag="0" * 32)
        s3.script("get", Do(peaks.take_down), count=None)
        peaks.child = Child(s3, tmp_path / "dest", "--verify", "size")
        code, summary = peaks.child.end()
    assert (code, summary["verified"]["size"]) == (0, 1)
    assert (tmp_path / "dest/ct/Covid00/huge.dcm").stat().st_size == HUGE
    assert peaks.bytes[-1] - peaks.bytes[0] < GROWTH_MAX
    (tmp_path / "dest/ct/Covid00/huge.dcm").unlink()
