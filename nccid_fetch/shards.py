"""Shards: a part's keys as ranges that are listed side by side. No requests here, only who lists what.

A part begins as one shard, which is all of its keys. Where a page passes the edge between two patients, it can be
divided: the shard with most patients still ahead gives up the farther half of them, whenever there is somebody to
list it. So it does not matter that patients are uneven, and that nobody knew how many there are.

Whatever the edges are worth (patients come and go while a listing goes on), no key is lost or given twice: each shard
is a range of keys, beginning after one edge and ending with another, and together they are all there are.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .keys import fold
from .model import RemoteObject

SHARDS_MAX = 16
"""How many shards of all parts together are at work: each holds a page in memory."""
NAMES_MAX = 50_000
"""Of a part with more patients no edges are kept in memory; it stays in one shard."""


@dataclass(slots=True, eq=False)
class Shard:
    """A range of keys, listed by one stream.

    Attributes:
        position: The key that all that is still to come comes after.
        up_to: The last key that it may have; None for all that there are.
        is_over: Whether nothing is still to come.
    """

    position: str = ""
    up_to: str | None = None
    is_over: bool = False


class Shards:
    """The shards of one part that are at work.

    Attributes:
        at_work: One in the beginning, none in the end.
    """

    def __init__(self) -> None:
        self.at_work = [Shard()]
        self._edges: Sequence[str] = ()
        self._pages = 0
        self._passed = 0

    def take(self, shard: Shard, page: Sequence[RemoteObject], *, is_last: bool) -> Sequence[RemoteObject]:
        """Return what of a shard's next page is the shard's, and move the shard on.

        Args:
            shard: The shard.
            page: The keys that follow its position, in key order.
            is_last: Whether none follow them.
        """
        kept = page
        if shard.up_to is not None and page and page[-1].key > shard.up_to:
            kept = page[: bisect_right(page, shard.up_to, key=_key)]
        shard.is_over = is_last or len(kept) < len(page)
        before = bisect_right(self._edges, shard.position)
        if kept:
            shard.position = kept[-1].key
        self._pages += 1
        self._passed += bisect_right(self._edges, shard.position) - before
        return kept

    def end(self, shard: Shard) -> None:
        """Take a shard off work. If it was not over, what is left of the part is not divided any more."""
        self.at_work.remove(shard)
        if not shard.is_over:
            self._edges = ()

    def learn(self, edges: Sequence[str]) -> None:
        """Learn where the part can be divided, which is one shard until then.

        Args:
            edges: Common prefixes of keys, rising.
        """
        self._edges = edges
        self._passed = sum(bisect_right(edges, shard.position) for shard in self.at_work)

    @property
    def spare(self) -> int:
        """How many patients could be taken off the shard that has most of them ahead."""
        return max((self._spare(shard) for shard in self.at_work), default=0)

    def split(self) -> Shard:
        """Take the farther half of its patients off the shard that has most of them ahead. Some must be spare."""
        owner = max(self.at_work, key=self._spare)
        spare, reach = self._spare(owner), self._reach
        middle = spare // 2 if spare > reach else 0
        edge = self._edges[bisect_right(self._edges, owner.position) + reach + middle]
        shard = Shard(edge, owner.up_to)
        owner.up_to = edge
        self.at_work.append(shard)
        return shard

    def _spare(self, shard: Shard) -> int:
        if shard.is_over:
            return 0
        beyond = len(self._edges) if shard.up_to is None else bisect_left(self._edges, shard.up_to)
        return beyond - bisect_right(self._edges, shard.position) - self._reach

    @property
    def _reach(self) -> int:
        """How many edges a page passes: what the next page brings in any case is not worth another request."""
        return self._passed // max(self._pages, 1)


def _key(remote: RemoteObject) -> str:
    return remote.key


class Edges:
    """The edges between a part's patients, gathered from a listing with a delimiter.

    Attributes:
        edges: The common prefixes so far.

    Args:
        prefix: The part's prefix.
    """

    def __init__(self, prefix: str) -> None:
        self.edges: list[str] = []
        self._prefix = prefix
        self._names: set[str] = set()
        self._count = 0

    def add(self, objects: Sequence[RemoteObject], prefixes: Sequence[str]) -> bool:
        """Take a page; say whether the part still is one to divide.

        It is not, where two names at its top are one to some file system, be it `a` beside `a/b`, or `A/b` beside `a/b`:
        which of them gets the file is decided in the order of keys, and so in one stream. Nor is it worth it, where
        more objects than folders are at its top.
        """
        names = [*prefixes, *(remote.key for remote in objects)]
        self._names.update(fold(name[len(self._prefix) :].removesuffix("/")) for name in names)
        self._count += len(names)
        self.edges += prefixes
        return self._count == len(self._names) and self._count <= min(NAMES_MAX, 2 * len(self.edges))
