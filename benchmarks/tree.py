"""What is served and fetched: files in NCCID's shape, each of which has its MD5 in its name.

A name is the MD5 of the body and 28 digits more, 64 characters as in the warehouse. So the server knows an ETag,
and a check the right content, from the name alone, and no table of either has to be kept.
"""

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nccid_fetch.settings import Source

from .listing_server import MODIFIED, Virtual, series_uid, study_uid

BUCKET = Source().bucket
KIB, MIB = 1 << 10, 1 << 20
STATE_FOLDER = ".nccid-fetch"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """Objects of one size in one part."""

    part: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """Files that are served.

    Attributes:
        folder: The folder of the bucket.
        sizes: The size of each file, by its path below the group.
    """

    folder: Path
    sizes: dict[str, int]

    @property
    def bytes(self) -> int:
        """How many bytes there are."""
        return sum(self.sizes.values())

    @property
    def parts(self) -> list[str]:
        """The parts that they are in."""
        return sorted({path.partition("/")[0] for path in self.sizes})

    def catalogue(self) -> str:
        """Return what the listing server reads."""
        return "".join(f"training/{path} {size} {digest(path)}\n" for path, size in self.sizes.items())


def plant(root: Path, loads: tuple[Load, ...]) -> Tree:
    """Write files below `root/BUCKET/training`: the same bytes every time, and none twice."""
    rng = random.Random(0)
    folder = root / BUCKET
    sizes: dict[str, int] = {}
    for load in loads:
        suffix = "json" if load.part.endswith("-metadata") else "dcm"
        for number in range(load.count):
            body = rng.randbytes(load.size)
            series, patient = number // Virtual.SERIES, number // (2 * Virtual.SERIES)
            place = f"{load.part}/Covid{patient:04}/{study_uid(patient)}/{series_uid(patient, series)}"
            name = f"{hashlib.md5(body, usedforsecurity=False).hexdigest()}{number:028}.{suffix}"
            path = folder / "training" / place / name
            if number % Virtual.SERIES == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            os.utime(path, (MODIFIED, MODIFIED))
            sizes[f"{place}/{name}"] = load.size
    return Tree(folder, sizes)


def digest(path: str) -> str:
    """Return the MD5 that a path says its file has."""
    return path.rpartition("/")[2][:32]


def differences(dest: Path, tree: Tree, *, contents: bool) -> str | None:
    """Say how a fetched tree differs from the one that is served; None if it does not.

    Args:
        dest: What was fetched, with the parts below it.
        tree: What was served.
        contents: Hash every file, too.
    """
    found = dict(_files(dest, ""))
    if found != tree.sizes:
        wrong = {path for path in found.keys() | tree.sizes.keys() if found.get(path) != tree.sizes.get(path)}
        return f"{len(found):,} of {len(tree.sizes):,} files are there; {len(wrong):,} are missing, too many or cut"
    if contents:
        for path in found:
            if _md5(dest / path) != digest(path):
                return f"the content of {path} is wrong"
    return None


def newest_change(dest: Path) -> int:
    """Return when a file of a tree was last changed in any way, in nanoseconds; no client can set this time."""
    return max(((dest / path).lstat().st_ctime_ns for path, _ in _files(dest, "")), default=0)


def _files(folder: Path, below: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if below or entry.name != STATE_FOLDER:
                    yield from _files(Path(entry.path), f"{below}{entry.name}/")
            else:
                yield f"{below}{entry.name}", entry.stat(follow_symlinks=False).st_size


def _md5(path: Path) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_READ_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()
