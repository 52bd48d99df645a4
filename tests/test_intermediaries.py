"""What stands between here and S3 and answers in its place: proxies, portals, firewalls, load balancers."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nccid_fetch.clock import REAL, Clock
from nccid_fetch.errors import (
    EndpointError,
    ListingError,
    NccidFetchError,
    ObjectError,
    ProxyError,
    Reason,
    RedirectedError,
    RedirectRefusedError,
    TransientError,
    WrongRegionError,
    message_of,
)
from nccid_fetch.failurelimits import EXHAUSTED_MAX, REDIRECTED_MAX, FailureLimits
from nccid_fetch.listing import Listing, survey
from nccid_fetch.model import ETag, PartState, RemoteObject, VerifiedBy
from nccid_fetch.settings import Source, Transport, Verify
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session
from nccid_fetch.store.strict import shown_proxy

from .catalogue import fault
from .commandline import exit_code_of
from .conftest import run
from .oracle import check_tree, fetch, files_of, md5_hex, remote_of, snapshot
from .servers.scripted import Action, Body, Chunked, Honest, Page, Redirect, ScriptedS3, Status
from .servers.tls import Relay

T = TypeVar("T")
BOTH = pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])
HTML = b"<html><head><title>Sign in</title></head><body><Code>AccessDenied</Code></body></html>"
STATUSES = (
    *(
        201,
        203,
        204,
        206,
        300,
        301,
        302,
        303,
        304,
        307,
        308,
        400,
        401,
        402,
        403,
        404,
        405,
        407,
        408,
        409,
        410,
        411,
        412,
    ),
    *(
        413,
        414,
        415,
        416,
        417,
        418,
        421,
        425,
        426,
        428,
        431,
        444,
        451,
        460,
        463,
        494,
        499,
        500,
        501,
        502,
        503,
        504,
        505,
    ),
    *(511, 520, 522, 525, 530, 561),
)

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    """A warehouse of two parts."""
    with ScriptedS3() as server:
        for part in ("data", "ct"):
            for number in range(3):
                server.put(f"training/{part}/Covid{number:04}/a", f"{part} {number}".encode())
        yield server


def talk(scenario: Callable[[Session], Awaitable[T]], endpoint_url: str, stall_seconds: float = 30.0) -> T:
    async def go() -> T:
        source = Source(endpoint_url=endpoint_url)
        async with open_session(source, connections=4, stall_seconds=stall_seconds) as session:
            return await scenario(session)

    return run(go())


def page_of(status: int, number: int) -> Action:
    """What an intermediary says, as a page or without a word; some borrow S3's headers."""
    body = b"" if status in {204, 304} or number % 2 else HTML
    return Body(body, status=status, headers={"content-type": "text/html"}, etag=None)


# --- Listings -------------------------------------------------------------------------------------


@fault(132)
def test_a_first_listing_that_is_answered_by_another_is_asked_again_and_goes_on(s3: ScriptedS3) -> None:
    for number, status in enumerate(STATUSES):
        for answer in (page_of(status, number), page_of(status, number), Honest()):
            s3.script("list", answer, key="training/ct/")

    async def scenario(session: Session) -> list[dict[str, PartState | None]]:
        listing = Listing(Lister(session), 1)
        s3.allow_list = lambda prefix, _: prefix != "training/"
        return [await survey(listing, "training", ("ct",)) for _ in STATUSES]

    assert talk(scenario, s3.endpoint_url) == [{"ct": None}] * len(STATUSES)


@fault(132)
def test_a_listing_that_is_only_ever_answered_by_another_is_no_denial_and_no_end(s3: ScriptedS3) -> None:
    for number, status in enumerate(STATUSES):
        for _ in range(3):
            s3.script("list", page_of(status, number))

    async def scenario(session: Session) -> None:
        listing = Listing(Lister(session), 1)
        for status in STATUSES:
            with pytest.raises(EndpointError) as caught:
                await listing.first("training/")
            assert str(status) in str(caught.value)
            assert caught.value.hint
        assert len(s3.requests) == 3 * len(STATUSES)

    talk(scenario, s3.endpoint_url)


@fault(132)
@pytest.mark.parametrize("prefix", ["training/", "training/ct/"])
@pytest.mark.parametrize("status", [200, 302, 401, 403, 404])
def test_a_run_never_ends_well_without_a_part_that_another_answered_for(
    s3: ScriptedS3, dest: Path, prefix: str, status: int
) -> None:
    s3.script("list", Body(HTML, status=status), key=prefix, count=None)
    for parts in ((), ("ct",)):
        assert fetch(s3, dest, *parts).exit_code == 5
    assert dest.exists() is (prefix == "training/ct/"), "the group is asked before anything is written"


@fault(132)
def test_with_narrow_rights_an_answer_of_another_denies_no_part(s3: ScriptedS3, dest: Path) -> None:
    s3.allow_list = lambda prefix, _: prefix in {"training/ct/", "training/data/"}
    s3.script("list", Body(HTML, status=403), key="training/ct/", count=None)
    assert fetch(s3, dest).exit_code == 5
    s3._script.clear()
    done = fetch(s3, dest)
    assert (done.exit_code, str(done.tally.parts["ct"].state)) == (0, "complete")


@fault(132)
def test_a_later_page_that_another_answers_breaks_its_part_and_the_others_finish(s3: ScriptedS3, dest: Path) -> None:
    s3.script("list", Body(b"", status=403), key="training/ct/", count=None)
    done = fetch(s3, dest)
    assert done.exit_code == 5
    assert {part: str(tally.state) for part, tally in done.tally.parts.items() if tally.state != "absent"} == {
        "ct": "failed",
        "data": "complete",
    }


# --- Objects --------------------------------------------------------------------------------------


@fault(132)
def test_an_object_that_another_answers_for_is_neither_denied_nor_gone_nor_changed(s3: ScriptedS3) -> None:
    remote = remote_of(s3, "training/ct/Covid0000/a")
    for number, status in enumerate(STATUSES):
        s3.script("get", page_of(status, number))
        s3.script("get", page_of(status, number))

    async def scenario(session: Session) -> None:
        reference, fast = ReferenceReader(session), FastReader(session, connections=1)
        for status in STATUSES:
            with pytest.raises(TransientError, match=str(status)):
                async with reference.get(remote):
                    pass
            with pytest.raises(Exception, match=str(status)) as caught:
                async with fast.get(remote):
                    pass
            assert not isinstance(caught.value, ObjectError)

    talk(scenario, s3.endpoint_url)


@fault(132)
@BOTH
@pytest.mark.parametrize("status", [302, 401, 403, 404, 412, 416])
def test_such_an_object_fails_by_name_and_a_rerun_brings_it(
    s3: ScriptedS3, dest: Path, transport: Transport, status: int
) -> None:
    key = "training/ct/Covid0000/a"
    s3.script("get", Body(HTML, status=status), key=key, count=None)
    done = fetch(s3, dest, transport=transport, attempts=3)
    assert (done.exit_code, done.reasons) == (1, {key: "retries_exhausted"})
    assert s3.gets(key) == 3 + (transport is Transport.FAST)
    s3._script.clear()
    assert fetch(s3, dest).exit_code == 0
    assert check_tree(dest, snapshot(s3)) == set(snapshot(s3))


@fault(132)
def test_a_part_of_which_another_denies_every_object_is_an_endpoint_in_trouble(s3: ScriptedS3, dest: Path) -> None:
    for number in range(60):
        s3.put(f"training/ct/Covid{number:04}/b", b"b")
    s3.script("get", Body(HTML, status=403), count=None)
    done = fetch(s3, dest, "ct", attempts=2)
    assert done.exit_code == 5
    assert "403, without S3's error document" in str(done.error)


@fault(132)
def test_a_head_that_another_answers_sets_no_file_aside(s3: ScriptedS3, dest: Path) -> None:
    """Its headers do not say that the object is encrypted, whose ETag would then be held against the file."""
    key = "training/mri/Covid0000/a"
    s3.put(key, b"mri", etag=md5_hex(b"KMS"), headers=KMS)
    assert fetch(s3, dest, "mri").exit_code == 0
    files_of(dest)[key].touch()
    s3.script("head", Body(b"", headers={"x-amz-server-side-encryption": ""}, etag=None), count=2)
    done = fetch(s3, dest, "mri")
    assert (done.exit_code, done.tally.retries) == (0, 2)
    assert not list((dest / ".nccid-fetch").rglob("quarantine/**/*"))


# --- A redirect of one object, and of all ---------------------------------------------------------


@fault(16, 135)
@BOTH
@pytest.mark.parametrize("answer", ["an intermediary's", "S3's", "of another region"])
def test_one_redirected_object_fails_by_name_and_the_night_goes_on(
    s3: ScriptedS3, dest: Path, transport: Transport, answer: str
) -> None:
    key = "training/ct/Covid0001/a"
    with ScriptedS3() as other:
        elsewhere = f"{other.endpoint_url}/{other.bucket}/{key}"
        redirects: dict[str, Action] = {
            "an intermediary's": Body(HTML, status=302, headers={"Location": elsewhere}),
            "S3's": Redirect(elsewhere),
            "of another region": Status(301, "PermanentRedirect", headers={"x-amz-bucket-region": "us-east-1"}),
        }
        s3.script("get", redirects[answer], key=key, count=None)
        done = fetch(s3, dest, transport=transport, attempts=3)
        assert other.requests == []
    assert (done.exit_code, done.reasons) == (1, {key: "retries_exhausted"})
    assert done.tally.fetched.objects == 5
    assert s3.gets(key) == 3 + (transport is Transport.FAST)


@fault(135)
def test_an_object_that_is_redirected_in_passing_arrives(s3: ScriptedS3, dest: Path) -> None:
    s3.script("get", Redirect("http://127.0.0.1:1/"), count=2)
    done = fetch(s3, dest)
    assert (done.exit_code, done.tally.fetched.objects) == (0, 6)


@fault(18, 135)
@BOTH
@pytest.mark.parametrize("region", [None, "us-east-1"])
def test_object_after_object_that_is_redirected_is_5_and_names_the_region(
    s3: ScriptedS3, dest: Path, transport: Transport, region: str | None
) -> None:
    headers = {"x-amz-bucket-region": region} if region else {}
    s3.script("get", Status(301, "PermanentRedirect", headers=headers), count=None)
    done = fetch(s3, dest, transport=transport, attempts=2)
    assert done.exit_code == 5
    assert (region or "a wrong region") in str(done.error)


@fault(135)
def test_on_a_rerun_two_redirected_objects_that_are_left_are_two_failures(s3: ScriptedS3, dest: Path) -> None:
    left = ("training/ct/Covid0001/a", "training/data/Covid0001/a")
    for key in left:
        s3.script("get", Redirect("http://127.0.0.1:1/"), key=key, count=None)
    for _ in range(2):
        done = fetch(s3, dest, attempts=2)
        assert (done.exit_code, done.reasons) == (1, dict.fromkeys(left, "retries_exhausted"))


def redirected(part: str, limits: FailureLimits) -> bool:
    """Let an object of a part be redirected to the end of its attempts; say whether that ends the run."""
    error = ObjectError(Reason.RETRIES_EXHAUSTED, "redirected")
    error.__cause__ = RedirectedError(WrongRegionError("elsewhere", hint="add --region x", region="x"))
    try:
        limits.failed(part, error, lambda _: None)
    except RedirectRefusedError as ended:
        return ended.hint == "add --region x"
    return False


@fault(135)
@pytest.mark.parametrize(
    ("parts", "has_proof", "ends"),
    [
        (["ct"], False, False),
        (["ct"] * (REDIRECTED_MAX - 1), False, False),
        (["ct"] * REDIRECTED_MAX, False, True),
        (["ct", "mri"], False, True),
        (["ct", "mri"] * REDIRECTED_MAX, True, False),
        (["ct"] * EXHAUSTED_MAX, True, True),
    ],
)
def test_how_many_redirects_in_a_row_end_a_run(parts: list[str], has_proof: bool, ends: bool) -> None:  # noqa: FBT001
    limits = FailureLimits(has_proof=has_proof)
    *before, last = [redirected(part, limits) for part in parts]
    assert (any(before), last) == (False, ends)


@fault(135)
@pytest.mark.parametrize("reason", [Reason.GONE, Reason.RETRIES_EXHAUSTED, None])
def test_an_object_that_ends_otherwise_ends_the_row(reason: Reason | None) -> None:
    limits = FailureLimits()
    assert not redirected("ct", limits)
    if reason is None:
        limits.succeeded("ct")
        limits.has_proof = False
    else:
        limits.failed("ct", ObjectError(reason, "otherwise"), lambda _: None)
    assert not redirected("mri", limits)


# --- Proxies --------------------------------------------------------------------------------------


PROXY_ANSWERS = {
    "wants a password": (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "407"),
    "forbids the host": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"),
    "has a page": (b"HTTP/1.1 403 Blocked\r\nContent-Length: %d\r\n\r\n%b" % (len(HTML), HTML), "403"),
    "finds no gateway": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
    "is busy": (b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", "503"),
    "waits in vain": (b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n", "504"),
    "hangs up": (b"", ""),
    "says what is no HTTP": (b"\x16\x03\x01\x02 what?\r\n\r\n", ""),
}


@contextmanager
def silent_proxy() -> Iterator[int]:
    """Take connections, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def failures(session: Session) -> list[Exception]:
    """Ask by each client for what does not come, and not for ever."""
    async with asyncio.timeout(60):
        return await _failures(session)


async def _failures(session: Session) -> list[Exception]:
    remote = RemoteObject("training/ct/Covid0000/a", 1, ETag("0" * 32), 0)
    found: list[Exception] = []
    for ask in (
        lambda: Lister(session).page("training/"),
        lambda: ReferenceReader(session).facts(remote),
        lambda: _opened(ReferenceReader(session), remote),
    ):
        try:
            await ask()
        except NccidFetchError as error:
            found.append(error)
    return found


async def _opened(reader: ReferenceReader, remote: RemoteObject) -> None:
    async with reader.get(remote):
        pass


def told_of_proxy(monkeypatch: pytest.MonkeyPatch, port: int, url: str, stall_seconds: float = 30.0) -> list[Exception]:
    """Ask by way of a proxy whose address has a password, and see that it is named without that."""
    for variable in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(variable, f"http://user:canary@127.0.0.1:{port}")
    found = talk(failures, url, stall_seconds)
    assert len(found) == 3
    for error in found:
        assert f"proxy 127.0.0.1:{port}" in str(error)
        assert "canary" not in str(error)
        assert message_of(error).isprintable()
        assert isinstance(error, TransientError | ListingError)
    return found


@fault(27, 133)
@pytest.mark.parametrize(("answer", "status"), PROXY_ANSWERS.values(), ids=PROXY_ANSWERS)
def test_a_proxy_that_does_not_connect_is_named_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, status: str
) -> None:
    with Relay(1, connect=answer) as proxy:
        for error in told_of_proxy(monkeypatch, proxy.port, "https://127.0.0.1:1"):
            assert status in str(error)
            assert isinstance(error, ProxyError) or not status


@fault(27, 133)
@pytest.mark.parametrize(("answer", "status"), PROXY_ANSWERS.values(), ids=PROXY_ANSWERS)
def test_a_proxy_that_answers_a_plain_request_itself_is_named_and_denies_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, status: str
) -> None:
    with Relay(1, connect=answer) as proxy:
        listing, _, body = told_of_proxy(monkeypatch, proxy.port, "http://127.0.0.1:1")
    assert status in str(listing)
    assert status in str(body)


@fault(27, 133)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with silent_proxy() as port:
        pass
    for error in told_of_proxy(monkeypatch, port, f"{scheme}://127.0.0.1:1"):
        assert isinstance(error, ProxyError)


@fault(27, 133)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_never_answers_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr("nccid_fetch.store.session.CONNECT_TIMEOUT_SECONDS", 0.1)
    with silent_proxy() as port:
        told_of_proxy(monkeypatch, port, f"{scheme}://127.0.0.1:1", stall_seconds=0.2)


@fault(133)
@pytest.mark.parametrize(("answer", "status"), [*list(PROXY_ANSWERS.values())[:2], (None, "cannot be reached")])
@pytest.mark.parametrize("command", ["get", "doctor"])
def test_the_first_line_names_the_proxy_and_its_answer_and_the_code_is_5(
    dest: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    command: str,
    answer: bytes | None,
    status: str,
) -> None:
    with Relay(1, connect=answer) as proxy:
        port = 1 if answer is None else proxy.port
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary@127.0.0.1:{port}")
        arguments = ("data",) if command == "get" else ()
        assert exit_code_of(command, *arguments, "--dest", dest, "--endpoint-url", "https://127.0.0.1:1") == 5
    out, err = capsys.readouterr()
    told = next(line for line in (out + err).splitlines() if "PROBLEM" in line or line.startswith("error"))
    assert f"the proxy 127.0.0.1:{port}" in told
    assert status in told
    assert "canary" not in out + err


@fault(9, 133)
@pytest.mark.parametrize(("seconds", "asked"), [(1.0, 3), (30.0, 1)])
def test_a_first_listing_that_takes_long_to_fail_is_not_asked_for_three_times(
    s3: ScriptedS3, seconds: float, asked: int
) -> None:
    """A proxy that never answers would hold up each attempt for `--stall`."""
    s3.script("list", Body(HTML, status=504), count=None)
    clock = Clock(lambda: seconds * len(s3.requests), REAL.sleep, REAL.chance)

    async def scenario(session: Session) -> None:
        with pytest.raises(EndpointError):
            await Listing(Lister(session), 1, clock=clock).first("training/")

    talk(scenario, s3.endpoint_url)
    assert len(s3.requests) == asked


@fault(133)
def test_a_proxy_that_refuses_is_asked_again_before_a_run_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Relay(1, connect=PROXY_ANSWERS["is busy"][0]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")

        async def scenario(session: Session) -> None:
            with pytest.raises(EndpointError, match="answered 503") as caught:
                await Listing(Lister(session), 1).first("training/")
            assert "HTTPS_PROXY" in str(caught.value.hint)

        talk(scenario, "https://127.0.0.1:1")
        assert len(proxy.heads) == 3


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:canary@proxy.example:3128/", "proxy.example:3128"),
        ("proxy.example:3128", "proxy.example:3128"),
        ("https://proxy.example", "proxy.example"),
        ("http://user:canary@[::1]:3128", "[::1]:3128"),
        ("http://us%40er:can%3Aary@10.0.0.1:80", "10.0.0.1:80"),
    ],
)
def test_a_proxy_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_proxy(url) == shown


# --- doctor ---------------------------------------------------------------------------------------


@fault(132)
@pytest.mark.parametrize("operation", ["list", "get"])
@pytest.mark.parametrize("prefix", ["training/", "training/ct/"])
@pytest.mark.parametrize("status", [302, 403, 404])
def test_doctor_takes_the_answer_of_another_for_no_denial(
    s3: ScriptedS3,
    dest: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    operation: Any,
    prefix: str,
    status: int,
) -> None:
    key = prefix if operation == "list" else None
    s3.script(operation, Body(HTML, status=status), key=key, count=None)
    assert exit_code_of("doctor", "--dest", dest, "--endpoint-url", s3.endpoint_url) == 5
    out, _ = capsys.readouterr()
    assert str(status) in next(line for line in out.splitlines() if "PROBLEM" in line)
    assert "denied" not in out


# --- Folders that a listing of the group leaves out -----------------------------------------------


def without_folders(xml: bytes) -> bytes:
    begin, end = xml.index(b"<CommonPrefixes>"), xml.rindex(b"</CommonPrefixes>") + len(b"</CommonPrefixes>")
    return xml[:begin] + xml[end:]


@pytest.fixture
def forgetful(s3: ScriptedS3) -> ScriptedS3:
    """A server whose listings with a delimiter have no folders."""
    s3.put("training/unknown/Covid0000/a", b"?")
    s3.script("list", Page(without_folders), key="training/", count=None)
    return s3


@fault(136)
@pytest.mark.parametrize("parts", [(), ("ct",), ("ct", "data"), ("unknown",)])
def test_a_part_that_the_group_does_not_show_is_asked_for_before_it_is_absent(
    forgetful: ScriptedS3, dest: Path, parts: tuple[str, ...]
) -> None:
    done = fetch(forgetful, dest, *parts)
    wanted = {key for key in snapshot(forgetful) if not parts or key.split("/")[1] in parts}
    assert (done.exit_code, set(files_of(dest))) == (0, wanted)


@fault(136)
def test_a_part_that_has_no_key_is_absent_and_one_that_is_denied_is_not(forgetful: ScriptedS3) -> None:
    forgetful.allow_list = lambda prefix, _: prefix != "training/mri/"

    async def scenario(session: Session) -> dict[str, PartState | None]:
        return await survey(Listing(Lister(session), 1), "training", ("ct", "mri", "xray"))

    states = talk(scenario, forgetful.endpoint_url)
    assert states == {"ct": None, "mri": PartState.DENIED, "xray": PartState.ABSENT}


@fault(136)
def test_without_the_right_to_list_the_group_a_part_that_not_every_bucket_has_is_found(s3: ScriptedS3) -> None:
    s3.put("training/unknown/Covid0000/a", b"?")
    s3.allow_list = lambda prefix, _: prefix in {f"training/{part}/" for part in ("ct", "unknown", "unknown-metadata")}

    async def scenario(session: Session) -> dict[str, PartState | None]:
        return await survey(Listing(Lister(session), 1), "training", ())

    states = talk(scenario, s3.endpoint_url)
    assert {part for part, state in states.items() if state is None} == {"ct", "unknown"}
    assert "unknown-metadata" not in states, "it has nothing in it, as in most buckets"


@fault(136)
def test_doctor_asks_for_each_part_as_well(
    forgetful: ScriptedS3, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of("doctor", "--dest", dest, "--endpoint-url", forgetful.endpoint_url)
    out, _ = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if len(line.split()) > 2}
    assert rows["ct"] == rows["unknown"] == ["granted", "granted"]
    assert rows["mri"][0] == "absent"


# --- Bodies without their length ------------------------------------------------------------------


LARGE = bytes(range(256)) * (6 << 10)
"""One and a half MiB: more than what comes in one piece."""
KMS = {"x-amz-server-side-encryption": "aws:kms"}


@fault(134)
@BOTH
@pytest.mark.parametrize("verify", Verify)
@pytest.mark.parametrize("kind", ["chunked", "till the end"])
def test_a_whole_body_counts_that_does_not_say_how_long_it_is(
    s3: ScriptedS3, dest: Path, *, transport: Transport, verify: Verify, kind: str
) -> None:
    """The listing says how long it is to be; its ETag, or that of its parts, what it is to be."""
    bodies = {f"training/mri/Covid0000/{name}": LARGE[:size] for name, size in (("a", 0), ("b", 99), ("c", len(LARGE)))}
    proofs: dict[VerifiedBy, dict[str, Any]] = {
        VerifiedBy.MD5: {},
        VerifiedBy.MULTIPART_MD5: {"parts": True},
        VerifiedBy.SIZE: {"headers": KMS},
    }
    for proof, how in proofs.items():
        for name, body in bodies.items():
            etag = md5_hex(b"KMS") if "headers" in how else None
            options: dict[str, Any] = {"headers": KMS, "etag": etag} if etag else {}
            if "parts" in how:
                options["parts"] = [len(body) // 2, len(body) - len(body) // 2] if body else [0]
            key = f"{name}-{proof.label}"
            s3.put(key, body, **options)
            s3.script("get", Chunked(body) if kind == "chunked" else Body(body, content_length=False), key=key)
    done = fetch(s3, dest, "mri", transport=transport, verify=verify)
    assert (done.exit_code, done.tally.retries, done.tally.fetched.objects) == (0, 0, 9)
    expected = dict.fromkeys(proofs, 3) if verify is Verify.MD5 else {VerifiedBy.SIZE: 9}
    assert dict(done.tally.verified) == expected
    assert all(body == files_of(dest)[f"{name}-md5"].read_bytes() for name, body in bodies.items())


@fault(4, 134)
@BOTH
@pytest.mark.parametrize("verify", Verify)
def test_a_body_without_its_length_that_is_short_or_long_is_refused(
    s3: ScriptedS3, dest: Path, transport: Transport, verify: Verify
) -> None:
    bodies = {"none": b"", "short": LARGE[:-1], "long": LARGE + b"\0"}
    for name, body in bodies.items():
        for kind, lie in (("chunked", Chunked(body)), ("ended", Body(body, content_length=False))):
            key = f"training/mri/Covid0000/{name}-{kind}"
            s3.put(key, LARGE)
            s3.script("get", lie, key=key, count=None)
    done = fetch(s3, dest, "mri", transport=transport, verify=verify, attempts=2)
    assert done.exit_code == 1
    assert set(done.reasons.values()) == {"short_body"}
    assert len(done.reasons) == 6
    assert files_of(dest) == {}


# --- Which client reads ---------------------------------------------------------------------------


def test_without_libcurl_auto_reads_by_the_other_client_and_fast_says_what_is_missing(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nccid_fetch.store.fast", None)
    refused = fetch(s3, dest, transport=Transport.FAST)
    assert (refused.exit_code, dest.exists(), s3.requests) == (2, False, [])
    assert "needs pycurl" in str(refused.error)
    assert fetch(s3, dest, transport=Transport.AUTO).exit_code == 0


def test_where_libcurl_gets_nothing_auto_reads_by_the_other_client_and_fast_ends_with_5(
    s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(FastReader):
        """A libcurl that gets through to nothing."""

        async def exchange(self, *arguments: Any) -> Any:
            made, taken = await super().exchange(*arguments)
            made.url = "http://127.0.0.1:1/"
            return made, taken

    monkeypatch.setattr("nccid_fetch.store.fast.FastReader", Deaf)
    for number in range(40):
        s3.put(f"training/mri/Covid{number:04}/a", b"%d" % number)
    refused = fetch(s3, dest, transport=Transport.FAST)
    assert refused.exit_code == 5
    assert "libcurl gets nothing from 127.0.0.1" in str(refused.error)
    assert "--transport auto" in str(refused.error and refused.error.hint)
    assert fetch(s3, dest, transport=Transport.AUTO).exit_code == 0
