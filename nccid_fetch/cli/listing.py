"""`ls`: what is in the bucket."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Protocol

from nccid_fetch import operations, warehouse
from nccid_fetch.errors import AccessError, ListingDeniedError, UsageError
from nccid_fetch.events import Event, Held, Released, Report
from nccid_fetch.keys import printable
from nccid_fetch.listing import Listing, survey
from nccid_fetch.model import RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.summary import Count
from nccid_fetch.units import size_text

from . import options
from .flags import Format
from .output import answer, hold_text, note, print_json, print_table
from .runner import run


class _Outlet(Protocol):
    """Where a listing goes."""

    def add(self, remote: RemoteObject) -> None:
        """Take an object."""

    def end(self, code: int) -> None:
        """Finish, knowing the exit code."""


def show(values: options.Values) -> None:
    """Carry out `ls`.

    Raises:
        RunError: It cannot be listed.
    """
    source, spoken = options.source_of(values), Format(values["format_"])
    as_json = spoken is Format.JSON
    outlet: _Outlet = (_Totals if values["summary"] else _Lines)(source, as_json=as_json)

    def remark(text: str) -> None:
        if spoken is not Format.QUIET:
            note(f"note: {text}")

    heed = _ignore if spoken is Format.QUIET else _heed

    async def feed() -> None:
        empty = True
        async for remote in _objects(source, values["prefix"].strip("/"), remark, heed, values["retry_for"]):
            outlet.add(remote)
            empty = False
        if empty:
            remark("there are no objects")

    try:
        run(feed(), quiet=spoken is Format.QUIET)
    except UsageError:
        raise
    except Exception as error:
        if as_json:
            outlet.end(getattr(error, "exit_code", 1))
        raise
    outlet.end(0)


def _heed(event: Event) -> None:
    """Say what a listing waits for: it has no display."""
    if isinstance(event, Held | Released):
        note(hold_text(event))


def _ignore(_: Event) -> None:
    """Say nothing."""


async def _objects(
    source: Source, prefix: str, remark: Callable[[str], None], report: Report, retry_for_seconds: float
) -> AsyncIterator[RemoteObject]:
    """Yield the objects under a prefix below the group; under every part that may be listed, if it is empty."""
    async with operations.open_listing(source, retry_for_seconds=retry_for_seconds, report=report) as listing:
        prefixes = [f"{source.group}/{prefix}/"] if prefix else await _parts(listing, source, remark)
        for whole in prefixes:
            try:
                if prefix:
                    await listing.first(whole)  # Unlike `pages`, this does not wait for an endpoint that is not there.
                async for page in listing.pages(whole):
                    for remote in page.objects:
                        yield remote
            except ListingDeniedError:
                raise AccessError(
                    f"{whole} may not be listed with these credentials", hint="NCCID grants access part by part"
                ) from None


async def _parts(listing: Listing, source: Source, remark: Callable[[str], None]) -> list[str]:
    states = await survey(listing, source.group, ())
    for part, state in states.items():
        if state is not None:
            remark(f"{part} is {state}")
    listed = [warehouse.part_prefix(source.group, part) for part, state in states.items() if state is None]
    if not listed:
        raise AccessError("nothing may be listed with these credentials", hint="check --profile, --group and --bucket")
    return listed


class _Lines:
    """A line per object as it comes; as JSON, one object that grows with the listing."""

    def __init__(self, source: Source, *, as_json: bool) -> None:
        self._as_json = as_json
        head = json.dumps({"schema": "nccid-fetch/ls/1", "bucket": source.bucket, "group": source.group})
        self._unwritten = f'{head[:-1]}, "objects": ['
        """The head, until there is something to write after it; a wrong option leaves stdout empty."""
        self._separator = ""

    def add(self, remote: RemoteObject) -> None:
        modified = datetime.fromtimestamp(remote.modified_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if not self._as_json:
            sys.stdout.write(f"{modified}  {remote.size:>12}  {printable(remote.key)}\n")
            return
        entry = {"key": remote.key, "size": remote.size, "etag": remote.etag, "modified": modified}
        sys.stdout.write(f"{self._unwritten}{self._separator}\n{json.dumps(entry)}")
        self._unwritten, self._separator = "", ","

    def end(self, code: int) -> None:
        if self._as_json:
            answer.is_given = True
            sys.stdout.write(f'{self._unwritten}\n], "exit_code": {code}}}\n')
        sys.stdout.flush()


class _Totals:
    """Objects and bytes per part, at the end."""

    def __init__(self, source: Source, *, as_json: bool) -> None:
        self._source = source
        self._as_json = as_json
        self._parts: dict[str, Count] = {}

    def add(self, remote: RemoteObject) -> None:
        self._parts.setdefault(warehouse.part_of(remote.key, self._source.group), Count()).add(remote.size)

    def end(self, code: int) -> None:
        counts = self._parts.values()
        total = Count(sum(count.objects for count in counts), sum(count.bytes for count in counts))
        if self._as_json:
            print_json(
                {
                    "schema": "nccid-fetch/ls-summary/1",
                    "bucket": self._source.bucket,
                    "group": self._source.group,
                    "parts": {part: count.as_dict() for part, count in self._parts.items()},
                    "total": total.as_dict(),
                    "exit_code": code,
                }
            )
            return
        rows: list[tuple[str, ...]] = [("part", "objects", "bytes")]
        rows += [(part, f"{count.objects:,}", size_text(count.bytes)) for part, count in self._parts.items()]
        print_table([*rows, ("all", f"{total.objects:,}", size_text(total.bytes))])
