"""From a page of the listing to decisions: filter, paths, journal and disk, by the page and not by the object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .decisions import Nesting, decide
from .destination import Destination
from .diagnosis import destination_error
from .disk import Disk
from .errors import Reason, UnsafeKeyError
from .events import PagePlanned, Report
from .journal import Journal
from .keys import fold, is_folder_marker, key_filter, path_of
from .model import Check, Decision, Fetch, LocalFile, LocalKind, Record, Refuse, RemoteObject, Skip, VerifiedBy
from .settings import Settings
from .summary import Count
from .tree import Tree
from .warehouse import part_of, part_prefix

T = TypeVar("T")

MISSING_MAX = 0.01
"""So much of a part may be gone from the bucket before its listing is doubted."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans pages.

    Attributes:
        group: The group that keys begin with.
        settings: What is wanted, and how.
        tree: The destination, or None if it does not exist yet.
        journal: Its journal, or None if there is none yet.
        disk: Where the disk is looked at.
        journal_thread: The one thread that uses the journal.
        report: Who wants to know.
        lists: Whether pages are of the listing of whole parts, and not of a plan.
        endpoint: Of whom the listing is asked, for the journal.
    """

    group: str
    settings: Settings
    tree: Tree | None
    journal: Journal | None
    disk: Disk
    journal_thread: Disk
    report: Report
    lists: bool = True
    endpoint: str = ""
    lets_through: Callable[[str], bool] = field(init=False)

    def __post_init__(self) -> None:
        """Make the filter on keys below the group."""
        object.__setattr__(self, "lets_through", key_filter(self.settings.include, self.settings.exclude))

    async def plan(self, objects: Sequence[RemoteObject], nesting: Nesting) -> list[Decision]:
        """Decide what each object of a page needs, and report the page.

        Args:
            objects: The page: objects of one part, in key order.
            nesting: The stream's memory of keys that others would be nested in.

        Returns:
            The decisions: about keys without a safe path first, then about all others in their order. Objects that
            the filter holds back, and folder markers, have none.
        """
        decisions, wanted, paths = self._sift(objects)
        keys = [remote.key for remote in wanted]
        owners = await self._owners(keys, paths)
        records = await self._records(keys)
        locals_ = await self._look(paths)
        for remote, owner, local in zip(wanted, owners, locals_, strict=True):
            decision = self._decide(remote, owner, nesting.parent_of(remote.key), records.get(remote.key), local)
            if not isinstance(decision, Refuse):
                nesting.add(remote.key)
            decisions.append(decision)
        await self._retime(decisions)
        await self._forget(decisions, records)
        await self._look_again(objects, decisions)
        if decisions:
            part = part_of(decisions[0].remote.key, self.group)
            self.report(PagePlanned(part, decisions, _known_by_size(decisions, records)))
        return decisions

    async def missing(self, part: str, listed: int) -> str | None:
        """Say so if a part was listed to its end, and more of it is recorded than could be gone in the meantime.

        Its end may be that of an answer that a proxy kept, or cut short: S3's own says that it is the last as well.

        Args:
            part: The part.
            listed: How many keys it has by the listing.
        """
        journal = self.journal
        if journal is None or not self.lists:
            return None
        recorded = await self.journal_thread.run(lambda: journal.count(part_prefix(self.group, part)))
        if recorded - listed <= recorded * MISSING_MAX:
            return None
        return (
            f"its listing counts {listed:,}, and {recorded:,} of its objects are in place: "
            "unless the bucket has lost some, it is not the whole; list again later"
        )

    async def note_listing(self, part: str, listed: Count, *, is_whole: bool) -> None:
        """Let the journal remember what the listing of a part, which came to its end, gave; not where nothing is written.

        Args:
            part: The part.
            listed: All that is in it.
            is_whole: Whether there is no reason to doubt that.
        """
        journal = self.journal
        if journal is not None and self.lists and isinstance(self.tree, Destination):
            await self.journal_thread.run(
                lambda: journal.note_listing(
                    part, listed.objects, listed.bytes, is_whole=is_whole, endpoint=self.endpoint
                )
            )
            if is_whole and journal.failures.any:
                await self.journal_thread.run(lambda: journal.failures.forget_unlisted(part_prefix(self.group, part)))

    def _sift(
        self, objects: Sequence[RemoteObject]
    ) -> tuple[list[Decision], list[RemoteObject], list[tuple[str, ...]]]:
        """Return refusals of keys without a safe path, then the other objects that are wanted, and their paths."""
        below = len(self.group) + 1
        refused: list[Decision] = []
        wanted: list[RemoteObject] = []
        paths: list[tuple[str, ...]] = []
        for remote in objects:
            if is_folder_marker(remote.key, remote.size) or not self.lets_through(remote.key[below:]):
                continue
            try:
                paths.append(path_of(remote.key, self.group))
            except UnsafeKeyError as error:
                refused.append(Refuse(remote, error.reason, str(error)))
            else:
                wanted.append(remote)
        return refused, wanted, paths

    def _decide(
        self, remote: RemoteObject, owner: str, parent: str | None, record: Record | None, local: LocalFile | None
    ) -> Decision:
        """Decide about one object, knowing which key owns its name, and which one would have to be its folder."""
        if owner != remote.key:
            return Refuse(remote, Reason.CONFLICT, f"this file system cannot tell its name from that of {owner}")
        if parent is not None:
            return Refuse(remote, Reason.CONFLICT, f"one of its folders has the name of the object {parent}")
        return decide(remote, record, local, self.settings.existing, require_verified=self.settings.require_verified)

    async def _records(self, keys: list[str]) -> dict[str, Record]:
        journal = self.journal
        return await self.journal_thread.run(lambda: journal.records(keys)) if journal is not None and keys else {}

    async def _look(self, paths: list[tuple[str, ...]]) -> list[LocalFile | None]:
        tree = self.tree
        return await self._at_disk(lambda: tree.look(paths)) if tree is not None else [None] * len(paths)

    async def _at_disk(self, function: Callable[[], T]) -> T:
        try:
            return await self.disk.run(function)
        except OSError as error:
            raise destination_error(error, self.settings.dest) from error

    async def _owners(self, keys: list[str], paths: list[tuple[str, ...]]) -> list[str]:
        """Return the key that owns each object's name: its own, but where the file system folds names."""
        journal, tree = self.journal, self.tree
        if journal is None or not isinstance(tree, Destination) or not tree.folds:
            return keys
        folded = [(fold("/".join(path)), key) for path, key in zip(paths, keys, strict=True)]
        return await self.journal_thread.run(lambda: journal.own_names(folded))

    async def _forget(self, decisions: Sequence[Decision], records: Mapping[str, Record]) -> None:
        """Let the journal forget what it knows of files that may be written anew, where it has to.

        What is in doubt already stays so, in whatever boot: else what a loss of power left would look like somebody's work.
        """
        journal = self.journal
        if journal is None or not isinstance(self.tree, Destination):
            return
        anew = [d for d in decisions if isinstance(d, Fetch | Check) and d.remote.key in records]
        sure = [d for d in anew if not records[d.remote.key].in_doubt]
        replaced = {d.remote.key for d in sure if isinstance(d, Fetch) and d.replaces is not None}
        keys = [d.remote.key for d in sure if d.remote.key not in replaced]
        if keys or replaced:
            await self.journal_thread.run(lambda: journal.forget(keys, replaced))

    async def _look_again(self, objects: Sequence[RemoteObject], decisions: Sequence[Decision]) -> None:
        """Let the journal know which of the objects that failed before are still listed, and which are in place."""
        journal = self.journal
        if journal is not None and isinstance(self.tree, Destination) and journal.failures.any:
            listed = [remote.key for remote in objects]
            in_place = [decision.remote.key for decision in decisions if isinstance(decision, Skip)]
            await self.journal_thread.run(lambda: journal.failures.look_again(listed, in_place))

    async def _retime(self, decisions: Sequence[Decision]) -> None:
        """Let mtimes follow where only LastModified moved on."""
        journal, tree = self.journal, self.tree
        late = [(skip.remote, skip.retime) for skip in decisions if isinstance(skip, Skip) and skip.retime is not None]
        if not late or journal is None or not isinstance(tree, Destination):
            return
        moves = [
            (
                path_of(remote.key, self.group),
                remote.modified_ns,
                LocalFile(LocalKind.FILE, record.size, record.file_ns),
            )
            for remote, record in late
        ]
        mtimes = await self._at_disk(lambda: tree.retime(moves))
        moved = [
            (remote.key, remote.modified_ns, mtime_ns)
            for (remote, _), mtime_ns in zip(late, mtimes, strict=True)
            if mtime_ns is not None
        ]
        await self.journal_thread.run(lambda: journal.retime(moved))


def _known_by_size(decisions: Sequence[Decision], records: Mapping[str, Record]) -> int:
    """Count the skipped objects that no digest ever proved."""
    unproved = VerifiedBy.SIZE
    keys = {key for key, record in records.items() if record.verified_by is unproved}
    return sum(isinstance(decision, Skip) and decision.remote.key in keys for decision in decisions) if keys else 0
