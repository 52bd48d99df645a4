"""Limits, hours and stops, shown holding: the real command line, measured from the other side of the wire.

    python -m tests.limits --seconds 60

What a run says of itself is not looked at, but what a local server had to send it and when it was asked: bytes in every
window of so many seconds, requests before, in and after closed hours, and the tree in the end. The hours are those of this
machine's clock, so some of it waits for the next full minute or two. Two rows are measured at a time.
"""

import argparse
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from nccid_fetch.warehouse import patient_of

from .oracle import check_tree, snapshot
from .processes import Child
from .servers.scripted import Exchange, Honest, ScriptedS3

TOLERANCE = 0.05
RATE = 5_000_000
SMALL, LARGE = 50_000, 9_000_000
PIECE = 16 << 10
"""A server sends so much at a time and has no more than that waiting in the kernel: else that would count as sent."""
RUN_SECONDS_MAX = 900.0
SETTLING_SECONDS = 2.0
"""What comes so long after a change is counted on neither side of it."""
BEFORE_SECONDS = 12.0
"""How long a run goes on, at least, before the full minute that changes something."""
CONCURRENCY = 8


class Row(NamedTuple):
    """A line of the table: what was set, what was seen, and whether that is what was set."""

    what: str
    wanted: str
    seen: str
    holds: bool


# --- What the server sees -------------------------------------------------------------------------


@dataclass
class Meter:
    """What a server was asked for and had to send, by this machine's clock. Written to by the server's thread.

    Attributes:
        sent: When how many bytes were sent, in order.
        asked: When it was asked for anything, in order.
    """

    sent: list[tuple[float, int]] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request with the truth, and note it."""
        self.asked.append(time.time())
        exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        await Honest().tell(_Metered(exchange.server, exchange.request, exchange.reader, exchange.writer, self))

    def between(self, begin: float, end: float) -> int:
        """Return the bytes that were sent between two times."""
        return sum(size for moment, size in self.sent if begin <= moment < end)

    def rate(self, begin: float, end: float) -> float:
        """Return the bytes a second between two times."""
        return self.between(begin, end) / (end - begin)

    def windows(self, begin: float, end: float, seconds: float) -> list[int]:
        """Return the bytes of each window of so many seconds between two times, from wherever something was sent on."""
        times = [moment for moment, _ in self.sent]
        sums = [0, *accumulate(size for _, size in self.sent)]
        starts = [begin, *(moment for moment in times if begin <= moment <= end - seconds)]
        return [sums[bisect_left(times, start + seconds)] - sums[bisect_left(times, start)] for start in starts]

    def requests(self, begin: float, end: float) -> int:
        """Return how often it was asked for something between two times."""
        return bisect_left(self.asked, end) - bisect_left(self.asked, begin)


@dataclass(frozen=True, slots=True)
class _Metered(Exchange):
    """An exchange whose every byte is noted."""

    meter: Meter

    async def _flush(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.writer.write(piece)
            await self.writer.drain()
            self.meter.sent.append((time.time(), len(piece)))


@dataclass
class Scene:
    """A server that measures, and the destination of one row."""

    s3: ScriptedS3
    dest: Path
    meter: Meter = field(default_factory=Meter)

    def stock(self, size: int, total: int) -> None:
        """Store objects of one size, so many bytes in all; they share their content, of which nothing is to be seen."""
        body = bytes(size)
        for number in range(total // size + 1):
            self.s3.put(f"training/data/Covid{number // 100:04}/{number:06}.json", body)

    def stock_patients(self, patients: int) -> None:
        """Store patients of 100 KB each, in three parts, no two objects alike."""
        for number in range(patients):
            for part, images in (("data", 1), ("xray", 1), ("ct", 8)):
                for image in range(images):
                    name = f"training/{part}/Covid{number:04}/1.2/{image:03}.dcm"
                    self.s3.put(name, f"{name}\n".encode().ljust(10_000, b"."))

    def start(self, *options: str) -> Child:
        """Start a run."""
        return Child(self.s3, self.dest, *("--concurrency", str(CONCURRENCY), *options), batch=1000)

    def first_byte(self) -> float:
        """Wait until the first object is sent; return when that was."""
        self.wait_until(lambda: self.s3.gets() > 0)
        return time.time()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a running process will bring about.

        Raises:
            AssertionError: It did not.
        """
        until = time.monotonic() + RUN_SECONDS_MAX
        while not condition():
            assert time.monotonic() < until, "it did not come to that"
            time.sleep(0.05)

    def is_right(self) -> bool:
        """Say whether everything is in place, and nothing else; what is not right raises."""
        everything = snapshot(self.s3)
        return check_tree(self.dest, everything) == set(everything)

    def patients(self) -> tuple[int, int]:
        """Return of how many patients everything is in place, and of how many only something is; what is not right raises."""
        everything = snapshot(self.s3)
        missing = set(everything) - (there := check_tree(self.dest, everything))
        lacking, present = {patient_of(key) for key in missing}, {patient_of(key) for key in there}
        return len(present - lacking), len(present & lacking)


@contextmanager
def scene() -> Iterator[Scene]:
    """A scene, and nothing left of it."""
    folder = Path(tempfile.mkdtemp(prefix="nccid-limits-"))
    try:
        with ScriptedS3() as s3:
            made = Scene(s3, folder / "dest")
            for operation in ("get", "list"):
                s3.script(operation, made.meter, count=None)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sleep_until(moment: float) -> None:
    """Wait until this machine's clock shows a moment."""
    time.sleep(max(0.0, moment - time.time()))


def next_minute() -> datetime:
    """Return the next full minute that leaves a run time to begin before it."""
    earliest = datetime.now().astimezone() + timedelta(seconds=BEFORE_SECONDS + 2 * SETTLING_SECONDS)
    return earliest.replace(second=0, microsecond=0) + timedelta(minutes=1)


# --- What is shown --------------------------------------------------------------------------------


def judge_limit(meter: Meter, begin: float, end: float, seconds: float, rate: int = RATE) -> tuple[str, bool]:
    """Say what came in the windows of so many seconds between two times, and over all of it, and whether that is the rate."""
    windows = [size / seconds / rate for size in meter.windows(begin, end, seconds)]
    shares = (min(windows), max(windows), meter.rate(begin, end) / rate)
    least, most, overall = (f"{share:.1%}" for share in shares)
    return (
        f"{least} to {most} in {len(windows)} windows of {seconds:g} s, {overall} over all of {end - begin:.0f} s",
        all(abs(share - 1) <= TOLERANCE for share in shares),
    )


def limit(transport: str, size: int, seconds: float) -> Iterator[Row]:
    """A limit holds in every minute."""
    with scene() as here:
        here.stock(size, int(RATE * (seconds + 15)))
        child = here.start("--transport", transport, "--bwlimit", f"{RATE // 1_000_000}MB/s")
        begin = here.first_byte()
        end = begin + seconds * 1.1
        sleep_until(end)
        child.signal(signal.SIGINT)
        child.end()
        seen, holds = judge_limit(here.meter, begin, end, seconds)
    name = "small" if size == SMALL else "large"
    yield Row(f"--bwlimit 5MB/s, {transport}, {name} objects", "100 % within 5 %", seen, holds)


def rate_row(what: str, rate: int, seen: float) -> Row:
    """Return the row of a rate that was measured once."""
    return Row(what, f"{rate / 1e6:.1f} MB/s within 5 %", f"{seen / 1e6:.2f} MB/s", abs(seen / rate - 1) <= TOLERANCE)


def timetable() -> Iterator[Row]:
    """A rate changes with the clock on the wall."""
    slow, fast = 2_000_000, 8_000_000
    edge = next_minute()
    before = edge - timedelta(minutes=1)
    text = f"{before:%H:%M},{slow}B {edge:%H:%M},{fast}B"
    with scene() as here:
        here.stock(SMALL * 4, slow * 80 + fast * 25)
        sleep_until(edge.timestamp() - 20)
        child = here.start("--bwlimit", text)
        begin = here.first_byte()
        sleep_until(edge.timestamp() + 20)
        child.signal(signal.SIGINT)
        child.end()
        at = edge.timestamp()
        yield rate_row("a timetable, before its minute", slow, here.meter.rate(begin + 1, at - 0.1))
        yield rate_row("a timetable, after its minute", fast, here.meter.rate(at + SETTLING_SECONDS, at + 20))


def toggle() -> Iterator[Row]:
    """A limit is turned off and on by a signal."""
    rate = 2_000_000
    with scene() as here:
        here.stock(SMALL, 800_000_000)
        child = here.start("--bwlimit", f"{rate}B")
        times = [here.first_byte() + 1]
        for seconds in (12, 2, 14):
            times.append(times[-1] + seconds)
            sleep_until(times[-1])
            child.signal(signal.SIGUSR2 if len(times) < 4 else signal.SIGINT)
        child.end()
        begin, off, on, end = times
        yield rate_row("until SIGUSR2", rate, here.meter.rate(begin, off))
        free = here.meter.rate(off + 0.5, on)
        yield Row("until the next SIGUSR2", "no limit", f"{free / 1e6:.1f} MB/s", free > 3 * rate)
        yield rate_row("after that", rate, here.meter.rate(on + SETTLING_SECONDS, end))


def window() -> Iterator[Row]:
    """Outside of its hours a run asks for nothing, and it goes on by itself."""
    edge = next_minute()
    closes, opens = edge.timestamp(), edge.timestamp() + 60
    with scene() as here:
        here.stock(SMALL, int(1_000_000 * (BEFORE_SECONDS + 15)))
        sleep_until(closes - BEFORE_SECONDS)
        child = here.start("--window", f"{edge + timedelta(minutes=1):%H:%M}-{edge:%H:%M}", "--bwlimit", "1MB")
        code, _ = child.end(RUN_SECONDS_MAX)
        meter = here.meter
        before, after = meter.requests(0, closes), meter.requests(opens, time.time())
        late = [moment - closes for moment in meter.asked if closes <= moment < opens]
        yield Row(
            "--window, while it is open",
            "requests before and after",
            f"{before} before it closes, {after} after it opens",
            min(before, after) > 0,
        )
        yield Row(
            "--window, while it is closed",
            f"none, but for {CONCURRENCY} on their way",
            f"{len(late)} requests, the last {max(late, default=0.0):.1f} s after it closed",
            len(late) <= CONCURRENCY and max(late, default=0.0) < SETTLING_SECONDS,
        )
        first = min((moment - opens for moment in meter.asked if moment >= opens), default=float("inf"))
        yield Row("--window, when it opens", "goes on by itself", f"asks after {first:.1f} s", first < SETTLING_SECONDS)
        yield Row("--window, in the end", "0, the right tree", f"exit code {code}", code == 0 and here.is_right())


def stops() -> Iterator[Row]:
    """A run stops by time, bytes or patients, and the next one goes on."""
    patients, rate = 40, 100_000
    for option, value, fewest, most in (
        ("--max-duration", "20s", 10, 24),
        ("--max-bytes", "1MB", 10, 10),
        ("--max-patients", "12", 12, 12),
    ):
        with scene() as here:
            here.stock_patients(patients)
            began = time.monotonic()
            code, _ = here.start(option, value, *(("--bwlimit", f"{rate}B") if "duration" in option else ())).end()
            seconds = time.monotonic() - began
            whole, in_part = here.patients()
            is_edge = in_part == 0 or "duration" in option
            yield Row(
                f"{option} {value}",
                f"10, {fewest} to {most} whole" if fewest != most else f"10, {most} whole patients",
                f"exit code {code} after {seconds:.0f} s, {whole} whole, {in_part} in part",
                code == 10 and fewest <= whole <= most and is_edge,
            )
            gets, there = here.s3.gets(), len(check_tree(here.dest, snapshot(here.s3)))
            code, _ = here.start().end()
            missing = patients * 10 - there
            yield Row(
                f"{option} {value}, then without",
                f"0, {missing} requests, all",
                f"exit code {code}, {here.s3.gets() - gets} requests",
                (code, here.s3.gets() - gets) == (0, missing) and here.is_right(),
            )


def shows(seconds: float) -> list[Callable[[], Iterator[Row]]]:
    """Return all that is shown, in the order in which it is begun."""
    limits = [partial(limit, transport, size, seconds) for transport in ("fast", "aioboto3") for size in (SMALL, LARGE)]
    return [*limits, window, timetable, toggle, stops]


def show(seconds: float, report: Callable[[Row], Any]) -> bool:
    """Show it all, two at a time, and say whether it holds."""
    holds = []
    lock = threading.Lock()

    def run(rows: Callable[[], Iterator[Row]]) -> None:
        for row in rows():
            with lock:
                holds.append(row.holds)
                report(row)

    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(run, rows) for rows in shows(seconds)]:
            ended.result()
    return all(holds)


def text_of(row: Row) -> str:
    """Return a row as it is printed."""
    return f"{row.what:<42}  {row.wanted:<28}  {'holds ' if row.holds else 'BROKEN'}  {row.seen}"


def main() -> int:
    """Show it all, and print it in a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.limits", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="the window in which the limit has to hold")
    seconds = parser.parse_args().seconds
    print(f"{'what':<42}  {'is to be':<28}  {'':<6}  what the server saw", flush=True)
    began = time.monotonic()
    with suppress(KeyboardInterrupt):
        holds = show(seconds, lambda row: print(text_of(row), flush=True))
        print(f"{'All of it holds' if holds else 'NOT ALL OF IT HOLDS'}, in {time.monotonic() - began:.0f} s")
        return 0 if holds else 1
    return 130


if __name__ == "__main__":
    sys.exit(main())
