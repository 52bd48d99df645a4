"""`ls`: what is in the bucket."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from nccid_fetch import operations, warehouse
from nccid_fetch.errors import AccessError, ListingDeniedError
from nccid_fetch.keys import printable
from nccid_fetch.listing import Listing, survey
from nccid_fetch.model import RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.summary import Count

from . import options
from .output import Format, note, print_json, print_table, size_text
from .runner import run


def show(values: options.Values) -> None:
    """Carry out `ls`.

    Raises:
        RunError: It cannot be listed.
    """
    source, spoken = options.source_of(values), Format(values["format_"])
    if values["summary"]:
        run(_summarise(source, values["prefix"], spoken))
    else:
        run(_list(source, values["prefix"], spoken))


async def _objects(source: Source, prefix: str, note_denied: Callable[[str], None]) -> AsyncIterator[RemoteObject]:
    """Yield the objects under a prefix below the group; under every part that may be listed, if it is empty."""
    async with operations.open_listing(source) as listing:
        prefixes = [f"{source.group}/{prefix.strip('/')}/"] if prefix else await _parts(listing, source, note_denied)
        for whole in prefixes:
            try:
                async for page in listing.pages(whole):
                    for remote in page.objects:
                        yield remote
            except ListingDeniedError:
                raise AccessError(
                    f"{whole} may not be listed with these credentials", hint="NCCID grants access part by part"
                ) from None


async def _parts(listing: Listing, source: Source, note_denied: Callable[[str], None]) -> list[str]:
    states = await survey(listing, source.group, ())
    for part, state in states.items():
        if state is not None:
            note_denied(f"note: {part} is {state}")
    listed = [warehouse.part_prefix(source.group, part) for part, state in states.items() if state is None]
    if not listed:
        raise AccessError("nothing may be listed with these credentials", hint="check --profile, --group and --bucket")
    return listed


async def _list(source: Source, prefix: str, spoken: Format) -> None:
    """Write a line per object as it comes; as JSON, one object that grows with the listing."""
    as_json = spoken is Format.JSON
    if as_json:
        head = json.dumps({"schema": "nccid-fetch/ls/1", "bucket": source.bucket, "group": source.group})
        sys.stdout.write(head[:-1] + ', "objects": [')
    separator, code = "\n", 0
    try:
        async for remote in _objects(source, prefix, note):
            modified = _iso(remote.modified_ns)
            if as_json:
                entry = {"key": remote.key, "size": remote.size, "etag": remote.etag, "modified": modified}
                sys.stdout.write(f"{separator}{json.dumps(entry)}")
                separator = ",\n"
            else:
                sys.stdout.write(f"{modified}  {remote.size:>12}  {printable(remote.key)}\n")
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        raise
    finally:
        if as_json:
            sys.stdout.write(f'\n], "exit_code": {code}}}\n')


async def _summarise(source: Source, prefix: str, spoken: Format) -> None:
    parts: dict[str, Count] = {}
    async for remote in _objects(source, prefix, note):
        parts.setdefault(warehouse.part_of(remote.key, source.group), Count()).add(remote.size)
    total = Count(sum(count.objects for count in parts.values()), sum(count.bytes for count in parts.values()))
    if spoken is Format.JSON:
        print_json(
            {
                "schema": "nccid-fetch/ls-summary/1",
                "bucket": source.bucket,
                "group": source.group,
                "parts": {part: count.as_dict() for part, count in parts.items()},
                "total": total.as_dict(),
                "exit_code": 0,
            }
        )
        return
    rows: list[tuple[str, ...]] = [("part", "objects", "bytes")]
    rows += [(part, f"{count.objects:,}", size_text(count.bytes)) for part, count in parts.items()]
    print_table([*rows, ("all", f"{total.objects:,}", size_text(total.bytes))])


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
