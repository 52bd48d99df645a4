"""An examination, from the disk to the bucket: it asks what a run would ask first, little of it, and waits for nothing.

Asked are one listing of the group, which tells whether the endpoint and the credentials are good at all; then each part for
a key, and for the first byte of its object, side by side. All of it is bounded in time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TypeVar

from .. import warehouse
from ..clock import REAL, Clock
from ..errors import (
    CredentialsError,
    EndpointError,
    ListingDeniedError,
    ObjectError,
    RangeIgnoredError,
    Reason,
    RedirectedError,
    RunError,
    TransientError,
)
from ..events import Event, ListingRetrying
from ..governor import Governor
from ..keys import is_folder_marker
from ..listing import Listing
from ..model import RemoteObject
from ..settings import Source
from ..store.identity import identity_of, method_of, profile_of, region_origin
from ..store.pages import Lister, Page
from ..store.reference import ReferenceReader
from ..store.session import Session, open_session
from ..store.witness import Witness, encryption_of
from .findings import Access, Area, Examination, Finding, Part, State
from .in_time import in_time
from .judge_access import Asker, Place, of_error, of_identity, of_parts, of_place
from .judge_destination import findings_of
from .premises import look_at

T = TypeVar("T")

ANSWER_SECONDS = 10.0
ACCESS_SECONDS = 20.0
"""For answers, however many of them are late."""
PAUSE_SECONDS_MAX = 5.0
DISK_SECONDS = 15.0
_ATTEMPTS = 1
_CONNECTIONS = 8
_MARKERS_MAX = 1000
_LATER = "check the network and --endpoint-url, and try again later"


async def examine(
    source: Source,
    dest: Path,
    *,
    open_files: int | None = None,
    clock: Clock = REAL,
    now: Callable[[], float] = time,
) -> Examination:
    """Find out whether a run would work, and what is in its way. Nothing is changed.

    Args:
        source: Where from.
        dest: Where to.
        open_files: How many files this process may have open; None for any number.
        clock: Time and chance.
        now: This machine's time of day, in seconds since the epoch.

    Raises:
        UsageError: The profile or the endpoint is not one.
    """
    access = _AccessExamination(source, dest, clock, now)
    looking = asyncio.create_task(_destination(source, dest, open_files))
    try:
        await access.examine()
        return Examination(
            source=source,
            dest=dest,
            endpoint=access.endpoint,
            parts=tuple(access.parts),
            findings=(*_by_area(access.findings), *await looking),
        )
    finally:
        looking.cancel()


def _by_area(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings as they are read: what is about one thing side by side, and what several parts met said once."""
    areas = list(Area)
    return sorted(dict.fromkeys(findings), key=lambda finding: areas.index(finding.area))


async def _destination(source: Source, dest: Path, open_files: int | None) -> list[Finding]:
    try:
        seen = await in_time(lambda: look_at(dest), DISK_SECONDS)
    except (OSError, TimeoutError) as error:
        is_late = type(error) is TimeoutError
        why = f"does not answer within {DISK_SECONDS:g} s" if is_late else f"cannot be looked at: {error}"
        hint = "is it on a network file system that is gone? choose another --dest, or bring it back"
        return [Finding(Area.DESTINATION, "folder", State.PROBLEM, f"{dest} {why}", hint, "mount", 9)]
    return list(findings_of(seen, source, dest, open_files))


class _AccessExamination:
    """Asks the endpoint, and gathers what it comes to."""

    def __init__(self, source: Source, dest: Path, clock: Clock, now: Callable[[], float]) -> None:
        self.endpoint = ""
        self.parts: list[Part] = []
        self.findings: list[Finding] = []
        self._source = source
        self._clock = replace(clock, sleep=self._pause)
        self._sleep = clock.sleep
        self._now = now
        self._asker = Asker(source=source, dest=dest)
        self._trouble = ""
        self._ends = 0.0

    async def examine(self) -> None:
        """Ask as the credentials are; without them, whether there is anybody to ask."""
        async with AsyncExitStack() as stack:
            try:
                session = await self._open(stack, self._source)
            except CredentialsError as error:
                with suppress(TimeoutError):  # AWS's files are what hangs.
                    method, profile = await in_time(self._configured, DISK_SECONDS)
                    self._asker = replace(self._asker, method=method, profile=profile)
                self.findings.append(of_error(error, self._asker))
                try:
                    session = await self._open(stack, replace(self._source, no_sign_request=True))
                except CredentialsError:  # They cannot be read at all, which is said.
                    return
            await self._examine(session)

    def _configured(self) -> tuple[str | None, str | None]:
        """Return how credentials are to be had, and for which profile."""
        return method_of(self._source), profile_of(self._source)

    async def _open(self, stack: AsyncExitStack, source: Source) -> Session:
        governor = Governor(self._clock, retry_for_seconds=0.0)
        opening = open_session(source, connections=_CONNECTIONS, stall_seconds=ANSWER_SECONDS, governor=governor)
        return await stack.enter_async_context(opening)

    async def _examine(self, session: Session) -> None:
        self._ends = asyncio.get_running_loop().time() + ACCESS_SECONDS
        witness = Witness(session, self._now)
        is_signed = session.source.no_sign_request == self._source.no_sign_request
        self.endpoint = session.endpoint
        self._asker = replace(self._asker, url=session.address.url)
        place = Place(
            url=session.address.url,
            region=session.address.region,
            region_origin=region_origin(self._source),
            proxy=session.proxy,
        )
        shaking = asyncio.create_task(_within(encryption_of(session)))
        error: RunError | None = None
        try:
            if is_signed:
                await self._identify(session)
            await self._ask(Listing(Lister(session), _ATTEMPTS, self._hear, self._clock), session, is_signed=is_signed)
        except RunError as caught:
            if is_signed or not isinstance(caught, CredentialsError):  # That there are none is said already.
                error = caught
        told = [] if error is None else [of_error(error, self._asker)]
        about = list(of_place(place, await shaking, witness.quickest))
        if told and told[0].what in {"endpoint", "proxy"}:
            # What answered may be anything on the way: neither time nor speed are S3's.
            about = [finding for finding in about if finding.what not in {"endpoint", "clock"}]
        self.findings += told
        self.findings += [finding for finding in about if finding.what not in {said.what for said in told}]
        if self.parts:
            self.findings += of_parts(self.parts, self._asker)

    async def _identify(self, session: Session) -> None:
        identity = await identity_of(session)
        if identity is not None:
            self._asker = replace(self._asker, method=identity.method, profile=identity.profile)
        self.findings += of_identity(identity, datetime.fromtimestamp(self._now(), UTC), self._asker)

    async def _ask(self, listing: Listing, session: Session, *, is_signed: bool) -> None:
        """Ask for the group, and then for each part.

        Raises:
            RunError: What the group's answer was is in the way of all else.
        """
        group = session.source.group
        page: Page | None = None
        with suppress(ListingDeniedError):
            page = await self._answered(
                listing.first(warehouse.group_prefix(group), delimiter="/", max_keys=1000), session
            )
        if not is_signed:
            return
        shown = set() if page is None else {warehouse.part_of(name, group) for name in page.prefixes}
        known = (*warehouse.PARTS, *warehouse.OTHER_PARTS)
        reader = ReferenceReader(session)
        found = await asyncio.gather(
            *(self._part(listing, reader, session, name) for name in (*known, *sorted(shown.difference(known))))
        )
        # As in `listing.survey`: what a listing of the group does not show and has no key is absent, not empty.
        self.parts += [
            replace(part, listed=Access.ABSENT)
            if page is not None and part.listed is Access.EMPTY and part.name not in shown
            else part
            for part in found
            if part.name not in warehouse.OTHER_PARTS or part.listed in _THERE
        ]

    async def _part(self, listing: Listing, reader: ReferenceReader, session: Session, name: str) -> Part:
        prefix = warehouse.part_prefix(session.source.group, name)
        try:
            found = await self._answered(_first_object(listing, prefix), session)
        except ListingDeniedError as error:
            return Part(name, Access.DENIED, message=str(error))
        except RunError as error:
            self.findings.append(of_error(error, self._asker))
            return Part(name, Access.UNKNOWN, message=error.message)
        if found is None:
            return Part(name, Access.EMPTY)
        try:
            return Part(name, Access.GRANTED, *await self._answered(_read(reader, found), session))
        except RunError as error:
            self.findings.append(of_error(error, self._asker))
            return Part(name, Access.GRANTED, message=error.message)

    async def _answered(self, asking: Awaitable[T], session: Session) -> T:
        """Wait for an answer, but not for long.

        Raises:
            EndpointError: There is none yet.
        """
        try:
            async with asyncio.timeout_at(self._ends), asyncio.timeout(ANSWER_SECONDS):
                return await asking
        except TimeoutError:
            trouble = self._trouble or f"{session.where} does not answer in time"
            raise EndpointError(trouble, hint=_LATER) from None

    async def _pause(self, seconds: float) -> None:
        """Wait before something is asked again, unless it is for long: that is for a run to do.

        Raises:
            EndpointError: It is.
        """
        if seconds > PAUSE_SECONDS_MAX:
            raise EndpointError(self._trouble, hint=_LATER)
        await self._sleep(seconds)

    def _hear(self, event: Event) -> None:
        if isinstance(event, ListingRetrying):
            self._trouble = event.message


async def _within(asking: Awaitable[T]) -> T | None:
    """Wait for what is good to know, but not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asking
    return None


async def _first_object(listing: Listing, prefix: str) -> RemoteObject | None:
    """Return the first object below a prefix that is one; None if there is none.

    Folder markers come first, and are none; where there is one, the rest of the page is asked for as well.
    """
    page = await listing.first(prefix)
    if page.objects and page.token and is_folder_marker(page.objects[0].key, page.objects[0].size):
        page = await listing.first(prefix, max_keys=_MARKERS_MAX)
    return next((found for found in page.objects if not is_folder_marker(found.key, found.size)), None)


async def _read(reader: ReferenceReader, remote: RemoteObject) -> tuple[Access, str]:
    """Read an object's first byte, or all of one that has none: a range of it would be refused.

    Raises:
        RunError: The credentials or the endpoint are at fault, and not this object.
    """
    try:
        async with reader.get(remote, 0, 1 if remote.size else None) as body:
            async for _ in body.chunks():
                break
    except ObjectError as error:
        return _READ_OF.get(error.reason, Access.UNKNOWN), str(error)
    except RangeIgnoredError:
        return Access.GRANTED, ""  # It is read all the same: by a server that sends all of it.
    except RedirectedError as error:
        raise error.meaning from error
    except TransientError as error:
        raise EndpointError(str(error), hint="try again later; a run tries several times") from error
    return Access.GRANTED, ""


_THERE = {Access.GRANTED, Access.UNKNOWN}
_READ_OF = {Reason.DENIED: Access.DENIED, Reason.ARCHIVED: Access.ARCHIVED, Reason.CHANGED: Access.GRANTED}
"""Who is told that an object was changed may read it."""
