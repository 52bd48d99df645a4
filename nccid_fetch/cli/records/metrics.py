"""Metrics of a run as a file that Prometheus' node exporter collects, written anew every few seconds.

The format is a dozen words, and writing it is all that is wanted here; its client library, a registry with a web server, would be
one more package that everybody installs. A test reads the file with that library.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

from nccid_fetch import __version__
from nccid_fetch.attributes import set_mode
from nccid_fetch.events import Adopted, Committed, Event, Failed, Fetched, PagePlanned, PartsKnown, Wait
from nccid_fetch.model import Skip
from nccid_fetch.summary import REFUSALS, Tally
from nccid_fetch.warehouse import part_of

from .files import place_of, unwritable, write_all
from .outlet import Outlet
from .times import now

EVERY_SECONDS = 15.0
MODE = 0o644
"""Whoever collects it is another user; it has numbers and names of parts in it, no keys and no patients."""
OUTCOMES = ("fetched", "adopted", "skipped", "refused", "failed")
_OUTCOMES = {Fetched: "fetched", Adopted: "adopted", Failed: "failed"}
Samples = Sequence[tuple[Mapping[str, str], float]]


class Metrics:
    """Listens to a run, and keeps a file of numbers about it up to date.

    Args:
        path: The file, replaced as a whole each time.
        labels: What tells this run's numbers from those of others on the same machine; the group among it.
        on_failure: Called, in another thread, when it cannot be written any more.
        clock: The time of day.

    Raises:
        UsageError: It cannot be written.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, str],
        *,
        on_failure: Callable[[OSError], object],
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._path = path
        self._labels = labels
        self._group = labels["group"]
        self._clock = clock
        self._began = clock()
        self._objects: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._tally = Tally()
        self._code: int | None = None
        try:
            self._write(self._text())
        except OSError as error:
            raise unwritable("--metrics", path, error) from error
        self._outlet = Outlet("metrics", self._write, gap=lambda _: self._text(), on_failure=on_failure, bytes_max=0)

    def __call__(self, event: Event) -> None:
        """Count an event, by part and by how it ended."""
        match event:
            case PartsKnown(parts):  # An alert wants a nought where there is nothing.
                for part in parts:
                    self._objects.update({(part, outcome): 0 for outcome in OUTCOMES})
                    self._bytes.update({(part, outcome): 0 for outcome in OUTCOMES})
            case PagePlanned(part, decisions):
                sizes = [decision.remote.size for decision in decisions if type(decision) is Skip]
                self._objects[part, "skipped"] += len(sizes)
                self._bytes[part, "skipped"] += sum(sizes)
            case Committed(outcomes):
                for outcome in outcomes:
                    remote = outcome.remote
                    at = part_of(remote.key, self._group), _OUTCOMES[type(outcome)]
                    if type(outcome) is Failed and outcome.reason in REFUSALS:
                        at = at[0], "refused"
                    self._objects[at] += 1
                    self._bytes[at] += remote.size

    @asynccontextmanager
    async def kept(
        self, tally: Tally, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> AsyncIterator[None]:
        """Write the file every few seconds, while the block lasts.

        Args:
            tally: The other numbers.
            sleep: Waits for seconds.
        """
        self._tally = tally

        async def keep() -> None:
            while True:
                self._outlet.put(self._text())
                await sleep(EVERY_SECONDS)

        keeping = asyncio.create_task(keep(), name="metrics")
        try:
            yield
        finally:
            keeping.cancel()

    def end(self, code: int, seconds: float) -> bool:
        """Write it for the last time, but wait no longer than this; return whether it was written."""
        self._code = code
        self._outlet.put(self._text())
        return self._outlet.close(seconds)

    def _text(self) -> str:
        """Return the file as it is to be now."""
        return exposition(self._metrics(), self._labels)

    def _metrics(self) -> Iterator[tuple[str, str, str, Samples]]:
        """Yield each metric: name, type, help, samples."""
        code = self._code
        tally, parts = self._tally, list(self._tally.parts.items())  # The run, where it was left, goes on counting.
        yield "info", "gauge", "The version that made these numbers; always 1.", [({"version": __version__}, 1)]
        yield "start_timestamp_seconds", "gauge", "When the run began.", [({}, self._began.timestamp())]
        yield "running", "gauge", "Whether it had not ended when this was written.", [({}, code is None)]
        if code is not None:
            yield "last_end_timestamp_seconds", "gauge", "When the run ended.", [({}, self._clock().timestamp())]
            yield "exit_code", "gauge", "The exit code that the run ended with.", [({}, code)]
        listed = [({"part": name}, part.listed.objects) for name, part in parts]
        yield (
            "listed_objects_total",
            "counter",
            "Objects that were listed, without those that filters hold back.",
            listed,
        )
        listed = [({"part": name}, part.listed.bytes) for name, part in parts]
        yield "listed_bytes_total", "counter", "Bytes of the objects that were listed.", listed
        ended = [({"part": name}, part.state is not None) for name, part in parts]
        yield "listing_complete", "gauge", "Whether the listing of a part has ended.", ended
        yield "objects_total", "counter", "Objects that reached an end, by what it was.", _by_part(self._objects)
        yield "bytes_total", "counter", "Bytes of the objects that reached an end.", _by_part(self._bytes)
        yield (
            "received_bytes_total",
            "counter",
            "Bytes that came, also in attempts that failed.",
            [({}, tally.received_bytes)],
        )
        yield "retries_total", "counter", "Attempts that failed and were made again.", [({}, tally.retries)]
        yield "throttled_total", "counter", "Times that the server asked to slow down.", [({}, tally.throttled)]
        held = tally.held
        waiting = [({"reason": wait.name.lower()}, held is not None and held.reason is wait) for wait in Wait]
        yield "held", "gauge", "Whether the run waits, and for what.", waiting
        if tally.limit is not None:
            yield "in_flight_limit", "gauge", "How many objects may be in flight.", [({}, tally.limit.objects)]

    def _write(self, text: str) -> None:
        """Replace the file, so that whoever collects it never reads half of it.

        Raises:
            OSError: It cannot be written, or is no file: a pipe or a device is not replaced, nor is a link.
        """
        place = place_of(self._path)
        waiting = place.with_name(f".{place.name}.{os.getpid()}")  # Collected are names that end in .prom.
        waiting.unlink(missing_ok=True)
        descriptor = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            try:
                set_mode(descriptor, MODE)
                write_all(descriptor, text.encode())
            finally:
                os.close(descriptor)
            waiting.replace(place)
        except OSError:
            with suppress(OSError):
                waiting.unlink()
            raise


def _by_part(counts: Mapping[tuple[str, str], int]) -> Samples:
    return [({"part": part, "outcome": outcome}, count) for (part, outcome), count in sorted(counts.items())]


def exposition(metrics: Iterator[tuple[str, str, str, Samples]], labels: Mapping[str, str]) -> str:
    """Return metrics in Prometheus' text format.

    Args:
        metrics: Name, type, help and samples of each; one without samples is left out.
        labels: What every sample is labelled with.
    """
    lines = []
    for name, kind, told, samples in metrics:
        full = f"nccid_fetch_{name}"
        if samples:
            lines += [f"# HELP {full} {told}", f"# TYPE {full} {kind}"]
        for own, value in samples:
            pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in {**labels, **own}.items())
            lines.append(f"{full}{{{pairs}}} {float(value):.17g}")
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str) -> str:
    text = text.encode(errors="backslashreplace").decode()  # The name of a folder need not be UTF-8.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
