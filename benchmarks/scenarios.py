"""Faults that every client meets alike: what the server does, what is on the disk, and what counts as right.

Each scenario has a server of its own (`tests.servers.scripted`), so that no client sees what another one caused. Before
the second run the server becomes honest: what is wrong then is wrong for good, or as long as nobody notices.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.servers.scripted import (
    Action,
    Body,
    Chunked,
    CorruptBody,
    Cut,
    Do,
    Endless,
    Exchange,
    Honest,
    Page,
    Redirect,
    ScriptedS3,
    Stall,
    Status,
)

KIB, MIB = 1 << 10, 1 << 20
VICTIM = "training/data/Covid0001/image.dcm"
NEIGHBOURS = ("training/data/Covid0000/before.json", "training/data/Covid0002/behind.json")
_PORTAL = b"<html><head><title>Guest network</title></head><body>Please log in.<br></body></html>"
_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
NO_MOUNT = 99
"""The exit code of a scenario that this machine has no rights for."""
_PAUSE_SECONDS = 0.5
"""How long a client gets to write what it was sent, before something happens to it."""


def made_up(name: str, size: int) -> bytes:
    """Return bytes that are no other object's."""
    return random.Random(name).randbytes(size)


@dataclass(slots=True)
class Stage:
    """What a scenario is played on.

    Attributes:
        s3: The server.
        other: Another server, on another port under another name, that nobody has to talk to.
        sandbox: A folder of this scenario and client alone; what appears in it outside `dest` was not to.
        dest: Where to fetch to, some folders below.
        wanted: The objects that are to arrive: below `dest`, every content that is right.
        absent: Paths below `dest` that may stay away: no client could do better.
        notes: What is worth telling besides.
        slow_down: The server's wish for patience, where a scenario has one.
    """

    s3: ScriptedS3
    other: ScriptedS3
    sandbox: Path
    dest: Path
    wanted: dict[str, set[bytes]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    slow_down: "SlowDown | None" = None

    @property
    def pid_file(self) -> Path:
        """Where the client's process writes its number."""
        return self.sandbox.parent / "pid"

    def put(self, key: str, body: bytes, *, wanted: bool = True, **options: str) -> None:
        """Store an object that is to arrive; a further version is as welcome as those before."""
        self.s3.put(key, body, **options)  # type: ignore[arg-type]
        if wanted:
            self.wanted.setdefault(key.removeprefix("training/"), set()).add(body)

    def put_three(self, size: int = 200 * KIB) -> bytes:
        """Store an object that something will happen to, between two that nothing happens to; return its bytes."""
        for key in NEIGHBOURS:
            self.put(key, made_up(key, 2 * KIB))
        body = made_up(VICTIM, size)
        self.put(VICTIM, body)
        return body

    def kill(self) -> None:
        """Kill the client as `kill -9` does."""
        os.kill(int(self.pid_file.read_text()), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault.

    Attributes:
        name: What happens, for the table.
        faults: Its numbers in the catalogue of faults.
        arrange: Prepares server and disk for the first run.
        between: What happens between the two runs, besides the server becoming honest.
        observe: Says what is worth telling after the first run, given what the client printed.
        first_is_honest: The first run is to go well; what counts is whether the second one notices.
        wrapped: What the command is run by: words before it. `$DEST` and `$PIDFILE` are in its environment.
        at_once: Two runs at the same time.
    """

    name: str
    faults: tuple[int, ...]
    arrange: Callable[[Stage], object]
    between: Callable[[Stage], object] = lambda _: None
    observe: Callable[[Stage, bytes], list[str]] = lambda _stage, _printed: []
    first_is_honest: bool = False
    wrapped: tuple[str, ...] = ()
    at_once: bool = False


# --- What the server does -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paged:
    """A listing by pages of two keys, of which the second and all further ones are answered otherwise."""

    further: Action

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request; see `Action.tell`."""
        query = exchange.request.query
        if "continuation-token" in query:
            await self.further.tell(exchange)
        else:
            first = replace(exchange, request=replace(exchange.request, query=query | {"max-keys": "2"}))
            await exchange.send(first.honest())


@dataclass(slots=True)
class Cycling:
    """A listing whose every page is the first one, with a token that alternates between two."""

    times: int = 0

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request; see `Action.tell`."""
        query = {name: value for name, value in exchange.request.query.items() if name != "continuation-token"}
        honest = replace(exchange, request=replace(exchange.request, query=query)).honest()
        self.times += 1
        token = b"<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>"
        body = honest.body.replace(b"<IsTruncated>false</IsTruncated>", token % (b"A" if self.times % 2 else b"B"))
        await exchange.send(replace(honest, body=body))


@dataclass(slots=True)
class SlowDown:
    """503 SlowDown for a while, counted from the first request; the truth thereafter."""

    seconds: float
    retry_after: int | None = None
    began: float | None = None
    refusals: list[float] = field(default_factory=list)
    came_back: float | None = None

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request; see `Action.tell`."""
        now = time.monotonic()
        self.began = self.began or now
        if now - self.began < self.seconds:
            self.refusals.append(now)
            headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
            await Status(503, "SlowDown", "Please reduce your request rate.", headers).tell(exchange)
        else:
            self.came_back = self.came_back or now
            await Honest().tell(exchange)


@dataclass(frozen=True, slots=True)
class HalfThen:
    """Half of the body; then, when the client has had the time to write it, something happens, and silence."""

    callback: Callable[[], object]

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request; see `Action.tell`."""
        answer = exchange.honest()
        await exchange.begin(answer, len(answer.body) // 2)
        await asyncio.sleep(_PAUSE_SECONDS)
        await exchange.run(self.callback)
        await exchange.silence()


@dataclass(frozen=True, slots=True)
class Late:
    """The truth, a little later."""

    seconds: float

    async def tell(self, exchange: Exchange) -> None:
        """Answer a request; see `Action.tell`."""
        await asyncio.sleep(self.seconds)
        await Honest().tell(exchange)


def always(make: Callable[[bytes], Action], size: int = 200 * KIB) -> Callable[[Stage], None]:
    """Return the arrangement of three objects, of which one is always answered so."""

    def arrange(stage: Stage) -> None:
        body = stage.put_three(size)
        stage.s3.script("get", make(body), key=VICTIM, count=None)

    return arrange


def half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def padded_error(body: bytes) -> bytes:
    return _ERROR + b" " * (len(body) - len(_ERROR))


def _replaced_by_a_shorter_one(stage: Stage) -> None:
    body = stage.put_three()
    stage.s3.script("get", Cut(len(body) // 2), key=VICTIM)
    stage.s3.script("get", Do(lambda: stage.put(VICTIM, made_up("shorter", 60 * KIB))), key=VICTIM)


def _replaced_while_it_is_read(stage: Stage) -> None:
    stage.put_three(40 * MIB)
    stage.s3.script("get", Do(lambda: stage.put(VICTIM, made_up("later", 40 * MIB))), key=VICTIM, after=1)


def _listing(action: Callable[[], Action]) -> Callable[[Stage], None]:
    def arrange(stage: Stage) -> None:
        stage.put_three()
        stage.put("training/data/Covid0003/last.json", made_up("last", 2 * KIB))
        stage.s3.script("list", action(), count=None)

    return arrange


def _cut_short(page: bytes) -> bytes:
    """Take all entries but two out of a page, and say that more follow, but not how to ask for them."""
    entries = page.split(b"<Contents>")
    if len(entries) <= 3:
        return page
    rest = entries[-1].partition(b"</Contents>")[2]
    body = b"<Contents>".join(entries[:3]) + rest
    return body.replace(b"<IsTruncated>false", b"<IsTruncated>true")


def _many(stage: Stage, count: int = 24, size: int = 2 * KIB) -> None:
    for number in range(count):
        key = f"training/data/Covid{number:04}/image.dcm"
        stage.put(key, made_up(key, size))


def _slow_down(stage: Stage) -> None:
    _many(stage)
    stage.s3.script("get", SlowDown(10.0), count=None)


def _retry_after(stage: Stage) -> None:
    stage.put_three()
    stage.slow_down = SlowDown(0.2, retry_after=4)
    stage.s3.script("get", stage.slow_down, key=VICTIM, count=None)


def _expired(stage: Stage) -> None:
    _many(stage, 200)
    stage.s3.script("get", Late(0.02), count=40)
    stage.s3.script("get", Status(400, "ExpiredToken", "The provided token has expired."), count=None)
    stage.s3.script("list", Status(400, "ExpiredToken", "The provided token has expired."), after=12, count=None)


def _redirected(stage: Stage) -> None:
    body = stage.put_three()
    stage.other.put(VICTIM, body)
    address = f"http://localhost:{stage.other.endpoint_url.rpartition(':')[2]}/{stage.other.bucket}/{VICTIM}"
    stage.s3.script("get", Redirect(address), key=VICTIM, count=None)


def _what_the_other_host_got(stage: Stage, _: bytes) -> list[str]:
    if not stage.other.requests:
        return ["the other host got nothing"]
    if any("x-amz-security-token" in seen.headers for seen in stage.other.requests):
        return ["**the other host got the session token**"]
    return ["the other host was asked, without the session token"]


def _archived(stage: Stage) -> None:
    stage.put_three()
    stage.s3.put(VICTIM, made_up(VICTIM, 200 * KIB), storage_class="GLACIER")
    stage.absent.add(VICTIM.removeprefix("training/"))


def _requests_after_the_end(stage: Stage, _: bytes) -> list[str]:
    return [f"{stage.s3.gets()} requests for 200 objects, of which the first 40 were answered"]


# --- Keys -----------------------------------------------------------------------------------------


def _climbing(stage: Stage) -> None:
    stage.put_three()
    stage.put("training/data/../../escaped.json", b"out of the destination", wanted=False)


def _through_a_link(stage: Stage) -> None:
    stage.put_three()
    elsewhere = stage.sandbox / "elsewhere"
    elsewhere.mkdir()
    (stage.dest / "data").mkdir(parents=True)
    (stage.dest / "data" / "Covid0001").symlink_to(elsewhere)
    stage.absent.add(VICTIM.removeprefix("training/"))


def _nested(stage: Stage) -> None:
    stage.put_three()
    stage.put("training/data/Covid0001", made_up("Covid0001", 2 * KIB))
    stage.absent |= {"data/Covid0001", "data/Covid0001/image.dcm"}  # One of them, on any disk.


def _speaking(stage: Stage) -> None:
    stage.put_three()
    key = "training/data/Covid0003/\x1b[2J\x1b]0;owned\x07.json"
    stage.put(key, b"{}")
    stage.absent.add(key.removeprefix("training/"))
    stage.s3.script("get", Status(403, "AccessDenied", "Access Denied"), key=key, count=None)


def _what_was_said(_: Stage, printed: bytes) -> list[str]:
    if b"\x1b" in printed:
        return ["**the terminal got the escape sequence**"]
    return ["the name was shown escaped" if b"Covid0003" in printed else "the name was not shown"]


# --- This machine ---------------------------------------------------------------------------------


def _damage(stage: Stage) -> None:
    """Change a byte, and put back size and time: what a bad disk does."""
    path = stage.dest / VICTIM.removeprefix("training/")
    before = path.stat()
    _flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(body)


def _edit(stage: Stage) -> None:
    """Change a byte as an editor does: the time is new, the size is the same."""
    _flip(stage.dest / VICTIM.removeprefix("training/"))


def _killed(stage: Stage) -> None:
    stage.put_three(6 * MIB)
    stage.s3.script("get", HalfThen(stage.kill), key=VICTIM)


def _full(stage: Stage) -> None:
    for number in range(12):
        key = f"training/data/Covid{number:04}/image.dcm"
        stage.put(key, made_up(key, 512 * KIB))


def _modes(stage: Stage, _: bytes) -> list[str]:
    files = {path.stat().st_mode & 0o777 for path in stage.dest.glob("data/**/*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (stage.dest, *stage.dest.glob("data/**")) if path.is_dir()}
    told = f"files {_octal(files)}, folders {_octal(folders)}"
    return [f"**{told}**" if any(mode & 0o007 for mode in files | folders) else told]


def _octal(modes: set[int]) -> str:
    return " and ".join(f"{mode:04o}" for mode in sorted(modes))


def _two(stage: Stage) -> None:
    _many(stage, 120, 20 * KIB)
    stage.s3.script("get", Late(0.2), count=None)


def _back_after(stage: Stage, _: bytes) -> list[str]:
    action = stage.slow_down
    if action is None or action.came_back is None:
        return []
    waited = action.came_back - action.refusals[-1]
    return [f"asked for 4 s, it came back after {waited:.1f} s"]


def _shell(script: str) -> tuple[str, ...]:
    """Return what runs a command, `"$@"`, by a script."""
    return ("sh", "-c", script, "sh")


_ON_A_SMALL_DISK = f"""\
mkdir -p "$DEST" && mount -t tmpfs -o size=3m none "$DEST" || exit {NO_MOUNT}
"$@"
code=$?
cp -a "$DEST" "$DEST.kept"
exit $code
"""

SCENARIOS: Mapping[str, tuple[Scenario, ...]] = {
    "Bodies": (
        Scenario("every body is cut in the middle (FIN)", (1,), always(lambda body: Cut(len(body) // 2))),
        Scenario("every body is cut in the middle (RST)", (2,), always(lambda body: Cut(len(body) // 2, reset=True))),
        Scenario(
            "no Content-Length, and the connection closes early",
            (3,),
            always(lambda body: Body(half(body), content_length=False)),
        ),
        Scenario(
            "a proxy passes on half a body, well-formed (chunked)", (4,), always(lambda body: Chunked(half(body)))
        ),
        Scenario("a body without end (64 MiB for 200 KiB)", (5,), always(lambda _: Endless())),
        Scenario("200 with an error document in place of the object", (6,), always(lambda _: Body(_ERROR))),
        Scenario("the same, padded to the object's length", (6,), always(lambda body: Body(padded_error(body)))),
        Scenario("one wrong byte in the middle", (6, 81), always(lambda _: CorruptBody())),
        Scenario("a body stalls in the middle", (7,), always(lambda body: Stall(len(body) // 2))),
        Scenario("replaced by a shorter object between two attempts", (29, 30), _replaced_by_a_shorter_one),
        Scenario("a 40 MiB object replaced while it is read", (29,), _replaced_while_it_is_read),
    ),
    "Listings": (
        Scenario(
            "a captive portal answers the listing (200, HTML)",
            (22,),
            _listing(lambda: Body(_PORTAL, headers={"content-type": "text/html"})),
        ),
        Scenario("cut short, without a token to go on with", (54,), _listing(lambda: Page(_cut_short))),
        Scenario("page 2 fails for good (500)", (93,), _listing(lambda: Paged(Status(500, "InternalError")))),
        Scenario("tokens go round in a circle", (53,), _listing(Cycling)),
    ),
    "Servers and credentials": (
        Scenario("503 SlowDown to every GET for 10 s", (13,), _slow_down),
        Scenario("503 with Retry-After: 4", (13,), _retry_after, observe=_back_after),
        Scenario("a GET is redirected to another host", (16,), _redirected, observe=_what_the_other_host_got),
        Scenario(
            "the session token expires after 40 of 200 objects, and nobody renews it",
            (38,),
            _expired,
            observe=_requests_after_the_end,
        ),
        Scenario("an object is archived (GLACIER)", (35,), _archived),
    ),
    "Keys": (
        Scenario("a key climbs out with `../`", (111,), _climbing),
        Scenario("a symbolic link was planted in the destination", (112,), _through_a_link),
        Scenario("an object `a` beside `a/b`", (72,), _nested),
        Scenario("a key with a terminal's escape sequence fails", (115,), _speaking, observe=_what_was_said),
    ),
    "This machine": (
        Scenario(
            "killed (-9) in the middle of a body", (78, 88), _killed, wrapped=_shell('echo $$ > "$PIDFILE"; exec "$@"')
        ),
        Scenario(
            "the disk is full (3 MB for 6 MB)",
            (60,),
            _full,
            wrapped=("unshare", "-rm", *_shell(_ON_A_SMALL_DISK)),
        ),
        Scenario(
            "with the umask that systems come with (022)",
            (82,),
            Stage.put_three,
            observe=_modes,
            wrapped=_shell('umask 022; exec "$@"'),
        ),
        Scenario("two runs at once", (95,), _two, at_once=True),
        Scenario(
            "a file was edited by hand: same size, new time",
            (80,),
            Stage.put_three,
            between=_edit,
            first_is_honest=True,
        ),
        Scenario(
            "the disk changed a byte long after: same size and time",
            (81,),
            Stage.put_three,
            between=_damage,
            first_is_honest=True,
        ),
    ),
}
