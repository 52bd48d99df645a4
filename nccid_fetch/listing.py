"""Listing: which parts there are, and a part page by page to an end that is proved to be one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from . import warehouse
from .clock import REAL, Clock
from .errors import (
    CredentialsError,
    EndpointError,
    ListingDeniedError,
    ListingError,
    NccidFetchError,
    ProxyError,
    RedirectRefusedError,
    ThrottledError,
    TokenRefusedError,
    TransientError,
    UnreachableError,
    WrongRegionError,
    message_of,
)
from .events import ListingRetrying, Report
from .model import PartState, RemoteObject
from .retry import Patience
from .shards import SHARDS_MAX, Edges, Shard, Shards
from .store.pages import Lister, Page

FIRST_ATTEMPTS = 3
FIRST_THROTTLED_SECONDS_MAX = 60.0
"""A run that has not begun does not wait long for an endpoint that is in trouble: somebody is there to see it."""
FIRST_SECONDS_MAX = 20.0
"""After so long no further attempt is made at what comes before a run: each may wait for `--stall`."""
EMPTY_PAGES_MAX = 1000
"""S3 may answer with a page without keys where many were deleted, but not for ever."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Lists with patience: every page is asked for again until it came whole, and none is passed over.

    Attributes:
        lister: Asks for one page.
        attempts: Attempts per page.
        report: Who wants to know of pages that have to be asked for again.
        clock: Time and chance.
    """

    lister: Lister
    attempts: int
    report: Report = field(default=lambda _: None)
    clock: Clock = REAL

    async def pages(self, prefix: str, *, after: str = "", delimiter: str | None = None) -> AsyncGenerator[Page, None]:
        """Yield every page below a prefix, in the byte order of keys.

        Args:
            prefix: The prefix.
            after: The key that all keys come after.
            delimiter: Group what follows the next occurrence of it.

        Raises:
            ListingDeniedError: The credentials may not list it.
            ListingError: The listing repeats itself, runs backwards, or is not one.
            EndpointError: It broke off.
            AccessError: The credentials are at fault.
        """
        token: str | None = None
        last_key, empty = after, 0
        while True:
            try:
                page = await self._page(prefix, token, after=after, delimiter=delimiter)
            except TokenRefusedError:  # While the workers were behind it has become too old.
                if delimiter is not None or not last_key:
                    raise
                token, after = None, last_key
                continue
            if page.objects:
                if page.objects[0].key <= last_key:
                    raise ListingError(
                        f"the listing of {prefix} goes back to a key that it already gave", hint="try again later"
                    )
                last_key, empty = page.objects[-1].key, 0
            else:
                empty += 1
            if page.token is not None and (page.token == token or empty > EMPTY_PAGES_MAX):
                raise ListingError(f"the listing of {prefix} does not move on", hint="try again later")
            yield page
            token = page.token
            if token is None:
                return

    async def first(self, prefix: str, *, delimiter: str | None = None, max_keys: int = 1) -> Page:
        """Ask for the first page only.

        Raises as `pages` does; neither an endpoint that is not there nor other credentials are waited for.
        """
        return await self._page(prefix, None, delimiter=delimiter, max_keys=max_keys, wait_for_endpoint=False)

    async def _page(
        self,
        prefix: str,
        token: str | None,
        *,
        after: str = "",
        delimiter: str | None = None,
        max_keys: int = 1000,
        wait_for_endpoint: bool = True,
    ) -> Page:
        patience = (
            Patience(self.attempts, self.clock.chance)
            if wait_for_endpoint
            else Patience(
                FIRST_ATTEMPTS,
                self.clock.chance,
                throttled_seconds_max=FIRST_THROTTLED_SECONDS_MAX,
            )
        )
        began = self.clock.now()
        while True:
            try:
                return await self.lister.page(
                    prefix, token=token, start_after=after, delimiter=delimiter, max_keys=max_keys
                )
            except WrongRegionError:
                raise
            except (TransientError, ListingError, RedirectRefusedError) as error:
                # What is no listing, or points elsewhere, may come of a proxy in passing.
                is_gone = isinstance(error, UnreachableError)
                if is_gone and wait_for_endpoint:
                    continue
                is_silent = is_gone and not (isinstance(error, ProxyError) and error.has_answered)
                throttled = isinstance(error, ThrottledError)
                is_late = not (wait_for_endpoint or throttled) and self.clock.now() - began > FIRST_SECONDS_MAX
                pause = None if is_silent or is_late else patience.after(error)
                if pause is None:
                    if isinstance(error, EndpointError):
                        raise
                    raise EndpointError(str(error), hint=error.hint) from error
                self.report(ListingRetrying(prefix, message_of(error), pause, throttled))
                await self.clock.sleep(pause)
            except CredentialsError:
                if not wait_for_endpoint:
                    raise


Stream = AsyncGenerator[Sequence[RemoteObject], None]
"""Objects by the page, in key order."""


@dataclass(slots=True, eq=False)
class _Part:
    """A part that is being listed.

    Attributes:
        prefix: Its prefix.
        shards: Who lists what of it.
        streams: What is to be listed from now on; None at the end.
        asking: Ends the search for edges, while there is one.
    """

    prefix: str
    shards: Shards = field(default_factory=Shards)
    streams: "asyncio.Queue[Stream | None]" = field(default_factory=asyncio.Queue)
    asking: asyncio.Timeout | None = None


class ShardedListing:
    """Lists parts in several streams each, as long as there is room for more among all of them.

    A part that is more than one page is asked for its patients as well, while its listing goes on: then it is
    divided between them, and divided again whenever a stream has come to its end. Where they cannot be had, the part
    stays in one stream.

    Args:
        listing: Lists.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._parts: list[_Part] = []

    async def streams(self, prefix: str) -> AsyncGenerator[Stream, None]:
        """Yield streams that list a part between them, each key in one of them; they want to be read side by side.

        Each stream is in key order and raises as `Listing.pages` does. When one is closed early, the others go on.
        """
        part = _Part(prefix)
        part.streams.put_nowait(self._pages(part, part.shards.at_work[0]))
        self._parts.append(part)
        while (stream := await part.streams.get()) is not None:
            yield stream

    async def _pages(self, part: _Part, shard: Shard) -> Stream:
        is_first = not shard.position
        try:
            async with aclosing(self._listing.pages(part.prefix, after=shard.position)) as pages:
                async for page in pages:
                    if is_first and page.token is not None:
                        part.streams.put_nowait(self._edges(part))
                    is_first = False
                    objects = part.shards.take(shard, page.objects, is_last=page.token is None)
                    self._divide()
                    if objects:
                        yield objects  # Until somebody wants the next page, none is asked for.
                    if shard.is_over:
                        return
        finally:
            part.shards.end(shard)
            if not part.shards.at_work:
                part.streams.put_nowait(None)
                if part.asking is not None:
                    part.asking.reschedule(0.0)
            self._divide()

    async def _edges(self, part: _Part) -> Stream:
        """Learn where a part can be divided: a stream like the others, but without pages."""
        with suppress(NccidFetchError, TimeoutError):  # The part itself is none the worse for it.
            part.shards.learn(await self._gather(part))
            self._divide()
        return
        yield

    async def _gather(self, part: _Part) -> Sequence[str]:
        gathered = Edges(part.prefix)
        try:
            async with (
                asyncio.timeout(None if part.shards.at_work else 0.0) as part.asking,
                aclosing(self._listing.pages(part.prefix, delimiter="/")) as pages,
            ):
                async for page in pages:
                    if not gathered.add(page.objects, page.prefixes):
                        return ()
        finally:
            part.asking = None
        return sorted(gathered.edges)

    def _divide(self) -> None:
        """Put as many shards to work as there is room and work for."""
        at_work = sum(len(part.shards.at_work) for part in self._parts)
        for _ in range(at_work, SHARDS_MAX):
            part = max(self._parts, key=lambda part: part.shards.spare)
            if part.shards.spare < 1:
                return
            part.streams.put_nowait(self._pages(part, part.shards.split()))


async def survey(listing: Listing, group: str, asked: Sequence[str]) -> dict[str, PartState | None]:
    """Find out which parts can be listed, before anything is written.

    One delimiter listing of the group shows all parts, also those that no document names. Most credentials may not ask for
    it, and some servers leave folders out of it. So each part that it does not show is asked for one key:

    ========================  ================  ==================================================
    The listing of the group  The part's own    The part
    ========================  ================  ==================================================
    shows it                  is not asked for  can be listed
    is denied                 is empty          can be listed: it is empty, as far as may be seen
    does not show it          is empty          is absent
    any of these two          has a key         can be listed
    any of these two          is denied         is denied
    any of these two          breaks            can be listed, as far as is known: its listing will tell
    ========================  ================  ==================================================

    If all that is asked for breaks, the survey does.

    Parts that not every bucket has (`unknown`) and that were not asked for by name are left out unless they have a key.

    Args:
        listing: Lists.
        group: The group.
        asked: The parts that are wanted; empty for all.

    Returns:
        Each part, with DENIED or ABSENT if it cannot be listed, or None if it can.

    Raises:
        EndpointError: It cannot be reached, or answers nonsense.
        AccessError: The credentials are at fault.
    """
    shown: set[str] = set()
    is_denied = False
    try:
        page = await listing.first(warehouse.group_prefix(group), delimiter="/", max_keys=1000)
        shown = {warehouse.part_of(prefix, group) for prefix in page.prefixes}
    except ListingDeniedError:
        is_denied = True
    known = (*warehouse.PARTS, *warehouse.OTHER_PARTS)
    parts = tuple(asked) or (*known, *sorted(shown.difference(known)))
    hidden = [part for part in parts if part not in shown]
    answers = await _probed(listing, group, hidden, any_other=bool(shown.intersection(parts)))
    states: dict[str, PartState | None] = dict.fromkeys(parts) | dict(zip(hidden, answers, strict=True))
    if not asked:
        states = {part: state for part, state in states.items() if part not in warehouse.OTHER_PARTS or state is None}
    if is_denied:
        states = {part: None if state is PartState.ABSENT else state for part, state in states.items()}
    return states


async def _probed(listing: Listing, group: str, parts: Sequence[str], *, any_other: bool) -> list[PartState | None]:
    """Probe parts side by side. One that breaks is None, unless there is no other that does not: then its error is raised."""

    async def probed(part: str) -> PartState | EndpointError | None:
        try:
            return await probe(listing, group, part)
        except EndpointError as error:
            return error

    answers = await asyncio.gather(*map(probed, parts))
    errors = [answer for answer in answers if isinstance(answer, EndpointError)]
    if errors and len(errors) == len(answers) and not any_other:
        raise errors[0]
    return [None if isinstance(answer, EndpointError) else answer for answer in answers]


async def probe(listing: Listing, group: str, part: str) -> PartState | None:
    """Ask a part for one key: DENIED, ABSENT if it has none, or None.

    Raises as `Listing.first` does, but for a denial.
    """
    try:
        page = await listing.first(warehouse.part_prefix(group, part))
    except ListingDeniedError:
        return PartState.DENIED
    return None if page.objects or page.token else PartState.ABSENT
