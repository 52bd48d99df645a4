"""What has to be timed from inside: each runs in a fresh process and prints one JSON object.

python -m benchmarks.probes page-after-page URL PREFIX     # seconds, pages
python -m benchmarks.probes plan URL PART                  # seconds, pages
python -m benchmarks.probes make-journal DEST ROWS         # bytes_per_object
python -m benchmarks.probes open-journal DEST              # seconds
"""

import gc
import json
import sys
import time
from collections.abc import Coroutine
from itertools import islice
from pathlib import Path
from typing import Any

from nccid_fetch import operations
from nccid_fetch.cli.main import COLLECT_AFTER_OBJECTS
from nccid_fetch.cli.runner import run
from nccid_fetch.journal import Journal
from nccid_fetch.model import ETag, Record, VerifiedBy
from nccid_fetch.settings import Settings, Source
from nccid_fetch.store.pages import Lister, Page

from .listing_server import MODIFIED, Virtual
from .tree import BUCKET

BATCH_ROWS = 1_000


class Watch:
    """Counts the pages that are asked for, and notes when the first one is."""

    def __init__(self) -> None:
        self.pages = 0
        self._began = 0.0
        ask = Lister.page

        async def counted(lister: Lister, *arguments: Any, **options: Any) -> Page:  # noqa: ANN401 - as they come.
            self._began = self._began or time.perf_counter()
            self.pages += 1
            return await ask(lister, *arguments, **options)

        Lister.page = counted  # type: ignore[method-assign, assignment]

    def told(self) -> dict[str, float]:
        """Return how long it is since the first request, and how many there were."""
        return {"seconds": time.perf_counter() - self._began, "pages": self.pages}


async def page_after_page(url: str, prefix: str) -> dict[str, float]:
    """Ask for each page with the token of the page before, to the end."""
    watch = Watch()
    async with operations.open_listing(Source(endpoint_url=url)) as listing:
        page = await listing.lister.page(prefix)
        while page.token is not None:
            page = await listing.lister.page(prefix, token=page.token)
        return watch.told()


async def plan(url: str, part: str) -> dict[str, float]:
    """List and decide as `nccid-fetch plan` does, for a destination that does not exist, and tell nobody."""
    watch = Watch()
    settings = Settings(dest=Path("/nowhere/at/all"), parts=(part,))
    await operations.plan(Source(endpoint_url=url), settings, lambda _: None)
    return watch.told()


def make_journal(dest: Path, rows: int) -> dict[str, float]:
    """Make a journal in the warehouse's shape, as a run does: opened, a batch at a time, closed."""
    journal = _open(dest, make=True)
    entries = iter(Virtual("training/ct/", rows, max(1, rows // 2_000), 526 << 10))
    while batch := list(islice(entries, BATCH_ROWS)):
        journal.commit(
            (entry.key, Record(entry.size, ETag(entry.md5), MODIFIED * 10**9, VerifiedBy.MD5)) for entry in batch
        )
    journal.close()
    files = Journal.path(dest).parent.iterdir()
    return {"bytes_per_object": sum(file.stat().st_size for file in files) / rows}


def open_journal(dest: Path) -> dict[str, float]:
    """Open a journal, and close it again."""
    began = time.perf_counter()
    journal = _open(dest)
    seconds = time.perf_counter() - began
    journal.close()
    return {"seconds": seconds}


def _open(dest: Path, *, make: bool = False) -> Journal:
    if make:
        Journal.path(dest).parent.mkdir(parents=True)
    journal = Journal.open(dest, bucket=BUCKET, group="training", endpoint="benchmark" if make else None)
    assert journal is not None
    return journal


def _run(measured: Coroutine[Any, Any, dict[str, float]]) -> dict[str, float]:
    """Run as the command line does: on its event loop, and with as little collecting of garbage."""
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    told: list[dict[str, float]] = []

    async def keep() -> None:
        told.append(await measured)

    run(keep())
    return told[0]


def main() -> None:
    match sys.argv[1:]:
        case ["page-after-page", url, prefix]:
            told = _run(page_after_page(url, prefix))
        case ["plan", url, part]:
            told = _run(plan(url, part))
        case ["make-journal", dest, rows]:
            told = make_journal(Path(dest), int(rows))
        case ["open-journal", dest]:
            told = open_journal(Path(dest))
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
