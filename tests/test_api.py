"""`import nccid_fetch`: what a script or a notebook may rely on."""

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nccid_fetch
from nccid_fetch import (
    AccessError,
    DestinationBusyError,
    DestinationError,
    EndpointError,
    Event,
    ListingDeniedError,
    NccidFetchError,
    Plan,
    Reason,
    RemoteObject,
    RunError,
    Summary,
    UsageError,
    Warehouse,
    api,
    fetch,
    fetch_async,
    plan,
    plan_async,
)
from nccid_fetch.api import FetchOptions, SourceOptions
from nccid_fetch.events import Committed, Fetched, LimitSet, ListingEnded, PagePlanned, PartsKnown, Received
from nccid_fetch.journal import Journal
from nccid_fetch.settings import Settings, Source
from nccid_fetch.warehouse import BUCKET

from .commandline import exit_code_of
from .servers.scripted import Do, Hold, Page, ScriptedS3, Status

OBJECTS = {
    "training/ct/Covid0/1/2/a.dcm": b"image one",
    "training/ct/Covid0/1/2/b.dcm": b"image two",
    "training/ct-metadata/Covid0/1/2/a.json": b"{}",
    "training/data/Covid0/data_2020-04-01.json": b'{"Age": 50}',
}


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        for key, body in OBJECTS.items():
            server.put(key, body)
        yield server


def files(dest: Path) -> dict[str, bytes]:
    return {
        f"training/{path.relative_to(dest)}": path.read_bytes()
        for path in dest.rglob("*")
        if path.is_file() and ".nccid-fetch" not in path.parts
    }


# The public names.


def test_the_public_names_are_these() -> None:
    assert nccid_fetch.__all__ == [
        *("AccessError", "DestinationBusyError", "DestinationError", "EndpointError", "Event", "ListingDeniedError"),
        *("NccidFetchError", "Plan", "Reason", "RemoteObject", "RunError", "Summary", "UsageError", "Warehouse"),
        *("__version__", "fetch", "fetch_async", "plan", "plan_async"),
    ]
    assert all(hasattr(nccid_fetch, name) for name in nccid_fetch.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nccid_fetch' has no attribute 'download'"):
        _ = nccid_fetch.download


@pytest.mark.parametrize("function", [fetch, fetch_async, plan, plan_async, Warehouse.__init__, Warehouse.objects])
def test_every_function_is_typed_to_the_last_argument(function: Callable[..., Any]) -> None:
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        assert name in hints
        if parameter.kind is parameter.VAR_KEYWORD:
            assert typing.get_origin(hints[name]) is typing.Unpack, "a type checker knows each option"
    assert "return" in hints


@pytest.mark.parametrize(("plain", "twin"), [(fetch, fetch_async), (plan, plan_async)])
def test_a_function_and_its_async_twin_take_the_same(plain: Callable[..., Any], twin: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(twin)
    assert inspect.signature(plain) == inspect.signature(twin)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(nccid_fetch.__file__).parent / "py.typed").exists()


def test_importing_it_loads_no_client_and_prints_nothing() -> None:
    code = "import sys, nccid_fetch; print({'aioboto3', 'obstore', 'rich', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_errors_carry_the_exit_codes_of_the_command_line() -> None:
    codes = {UsageError: 2, AccessError: 4, EndpointError: 5, DestinationError: 9, DestinationBusyError: 75}
    assert {kind: kind("why").exit_code for kind in codes} == codes
    assert all(issubclass(kind, RunError) for kind in codes)
    assert all(issubclass(kind, NccidFetchError) for kind in (RunError, ListingDeniedError))
    assert UsageError("why", hint="do this").hint == "do this"


# fetch.


def test_fetch_brings_everything_and_returns_the_numbers(s3: ScriptedS3, tmp_path: Path) -> None:
    summary = fetch(dest=tmp_path / "new", endpoint_url=s3.endpoint_url)
    assert isinstance(summary, Summary)
    assert (summary.command, summary.exit_code, summary.planned) == ("all", 0, False)
    assert (summary.tally.fetched.objects, summary.tally.skipped.objects) == (4, 0)
    assert summary.as_dict()["fetched"] == {"objects": 4, "bytes": 31}
    assert files(tmp_path / "new") == OBJECTS
    again = fetch(dest=str(tmp_path / "new"), endpoint_url=s3.endpoint_url)
    assert (again.tally.fetched.objects, again.tally.skipped.objects) == (0, 4)


@pytest.mark.parametrize("transport", ["auto", "fast", "aioboto3"])
def test_fetch_takes_parts_and_the_options_of_the_command_line(s3: ScriptedS3, tmp_path: Path, transport: str) -> None:
    summary = fetch(
        *("ct", "data"),
        dest=tmp_path,
        endpoint_url=s3.endpoint_url,
        concurrency=2,
        exclude=["*/b.dcm"],
        verify="size",
        existing="replace",
        transport=transport,
        attempts=1,
        stall=5.0,
        bwlimit=100_000_000,
        window="00:00-24:00",
        retry_for=60.0,
        strict=True,
        group_readable=True,
    )
    assert (summary.command, summary.exit_code) == ("get", 0)
    assert summary.as_dict()["verified"]["size"] == 2
    assert files(tmp_path).keys() == {"training/ct/Covid0/1/2/a.dcm", "training/data/Covid0/data_2020-04-01.json"}
    assert (tmp_path / "ct/Covid0/1/2/a.dcm").stat().st_mode & 0o777 == 0o640


def test_concurrency_may_be_left_to_the_run(s3: ScriptedS3, tmp_path: Path) -> None:
    events: list[Event] = []
    assert fetch(dest=tmp_path, endpoint_url=s3.endpoint_url, concurrency="auto", report=events.append).exit_code == 0
    assert [event.objects for event in events if isinstance(event, LimitSet)] == [64]
    assert files(tmp_path) == OBJECTS


def test_a_glob_may_be_given_without_a_list(s3: ScriptedS3, tmp_path: Path) -> None:
    """Its letters are globs as well: taken one by one, the star alone would let everything through."""
    fetch(dest=tmp_path, endpoint_url=s3.endpoint_url, include="ct/*", exclude="*/b.dcm")
    assert files(tmp_path).keys() == {"training/ct/Covid0/1/2/a.dcm"}


def test_an_object_that_fails_is_in_the_summary_and_does_not_raise(s3: ScriptedS3, tmp_path: Path) -> None:
    s3.put("training/data/../outside.json", b"{}")
    s3.script("get", Status(404, "NoSuchKey"), key="training/ct/Covid0/1/2/a.dcm", count=None)
    summary = fetch(dest=tmp_path, endpoint_url=s3.endpoint_url)
    assert summary.exit_code == 1
    assert {(failed.remote.key, failed.reason) for failed in summary.tally.failures} == {
        ("training/data/../outside.json", Reason.UNSAFE_KEY),
        ("training/ct/Covid0/1/2/a.dcm", Reason.GONE),
    }


def test_report_gets_every_event(s3: ScriptedS3, tmp_path: Path) -> None:
    events: list[Event] = []
    fetch("ct", dest=tmp_path, endpoint_url=s3.endpoint_url, report=events.append)
    assert isinstance(events[0], PartsKnown)
    assert sum(len(event.decisions) for event in events if isinstance(event, PagePlanned)) == 2
    assert [event.part for event in events if isinstance(event, ListingEnded)] == ["ct"]
    assert sum(event.size for event in events if isinstance(event, Received)) == 18
    ends = [outcome for event in events if isinstance(event, Committed) for outcome in event.outcomes]
    assert {type(outcome) for outcome in ends} == {Fetched}
    assert {outcome.remote.key for outcome in ends} == {key for key in OBJECTS if key.startswith("training/ct/")}


def test_fetch_carries_out_a_plan_that_the_command_line_wrote(s3: ScriptedS3, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    script = Path(sys.executable).parent / "nccid-fetch"
    command = [str(script), "plan", "data", "--output", str(file), "--endpoint-url", s3.endpoint_url]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    summary = fetch(dest=tmp_path / "new", plan=file, endpoint_url=s3.endpoint_url)
    assert (summary.command, summary.tally.fetched.objects) == ("get", 1)
    with pytest.raises(UsageError, match="parts and a plan"):
        fetch("ct", dest=tmp_path / "new", plan=file, endpoint_url=s3.endpoint_url)


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 1},
        {"max_bytes": "1"},
        {"max_bytes": 1e0},
        {"max_patients": 1, "on_failure": "stop", "max_duration": 3600.0},
    ],
    ids=str,
)
def test_a_run_that_stops_early_returns_10_and_says_why(s3: ScriptedS3, tmp_path: Path, options: Any) -> None:
    for patient in range(3):
        s3.put(f"training/data/Covid000{patient}/a.json", b"{}")
    summary = nccid_fetch.fetch("data", dest=tmp_path / "dest", endpoint_url=s3.endpoint_url, **options)
    assert summary.exit_code == 10
    assert summary.tally.fetched.objects == ("max_patients" in options)
    assert summary.tally.cut_short is not None
    assert summary.tally.cut_short.by in {f"--{name.replace('_', '-')}" for name in options}
    assert summary.settings.max_duration_seconds == options.get("max_duration")


# plan.


def test_plan_decides_and_writes_nothing(s3: ScriptedS3, tmp_path: Path) -> None:
    made = plan("ct", dest=tmp_path / "new", endpoint_url=s3.endpoint_url)
    assert isinstance(made, Plan)
    assert [decision.remote.key for decision in made.decisions] == [k for k in OBJECTS if k.startswith("training/ct/")]
    assert made.summary.planned
    assert made.summary.as_dict()["planned"]["fetch"] == {"objects": 2, "bytes": 18}
    assert not (tmp_path / "new").exists()
    assert s3.gets() == 0


# Loops.


def test_the_async_twins_are_for_a_loop_of_ones_own(s3: ScriptedS3, tmp_path: Path) -> None:
    async def both() -> tuple[Plan, Summary]:
        made = await plan_async(dest=tmp_path, endpoint_url=s3.endpoint_url)
        return made, await fetch_async(dest=tmp_path, endpoint_url=s3.endpoint_url)

    made, summary = asyncio.run(both())
    assert len(made.decisions) == summary.tally.fetched.objects == len(OBJECTS)


def test_the_plain_ones_work_where_a_loop_is_running_as_in_a_notebook(s3: ScriptedS3, tmp_path: Path) -> None:
    async def cell() -> tuple[Plan, Summary]:
        made = plan(dest=tmp_path, endpoint_url=s3.endpoint_url)
        return made, fetch(dest=tmp_path, endpoint_url=s3.endpoint_url)

    made, summary = asyncio.run(cell())
    assert len(made.decisions) == summary.tally.fetched.objects == len(OBJECTS)


def test_errors_come_through_a_running_loop_as_they_are(s3: ScriptedS3, tmp_path: Path) -> None:
    async def cell() -> None:
        fetch(dest=tmp_path, profile="nobody")

    with pytest.raises(UsageError, match="nobody"):
        asyncio.run(cell())


def test_stopping_a_notebooks_cell_stops_the_run(s3: ScriptedS3, tmp_path: Path) -> None:
    """A notebook's stop button is SIGINT to the kernel, while its one thread waits for the run."""
    never = threading.Event()
    s3.script("get", Do(lambda: os.kill(os.getpid(), signal.SIGINT), then=Hold(never)), count=None)

    async def cell() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # As a kernel has it; asyncio.run takes it away.
        fetch(dest=tmp_path, endpoint_url=s3.endpoint_url, concurrency=1)

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(cell())
    finally:
        signal.signal(signal.SIGINT, before)
        never.set()
    journal = Journal.open(tmp_path, bucket=BUCKET, group="training")
    assert journal is not None, "the run let go of its destination"
    journal.close()


# Errors.


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"verify": "sha1"},
            {"existing": "eat"},
            {"transport": "pigeon"},
            {"concurrency": 0},
            {"concurrency": "many"},
            {"attempts": 0},
            {"bwlimit": 0},
            {"bwlimit": "fast"},
            {"window": "always"},
            {"window": 19},
            {"max_bytes": -1},
        ),
        *(
            {"stall": 0.0},
            {"retry_for": -1.0},
            {"group": "test"},
            {"bucket": "s3://bucket"},
            {"endpoint_url": "http://s3.example.org"},
        ),
        {"profile": "nobody"},
    ],
    ids=str,
)
def test_a_wrong_option_is_a_usage_error_that_names_it(options: Any, tmp_path: Path) -> None:
    (value,) = options.values()
    with pytest.raises(UsageError) as caught:
        fetch(dest=tmp_path / "new", **options)
    named = [next(iter(options)).partition("_")[0], str(value), "s3.example.org"]
    assert any(name in str(caught.value) for name in named)
    assert not (tmp_path / "new").exists()


def test_an_unknown_part_and_an_unknown_option_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no part 'cat'"):
        fetch("cat", dest=tmp_path)
    with pytest.raises(UsageError, match="no option 'speed'"):
        fetch(dest=tmp_path, speed=9)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="no option 'dest'"):
        Warehouse(dest=tmp_path)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="dest is empty"):
        fetch(dest="")


def test_what_ends_a_run_is_raised_as_what_it_is(
    s3: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("ct", dest=tmp_path / "ct", endpoint_url=s3.endpoint_url)
    with pytest.raises(UsageError, match="belongs to group training"):
        fetch(dest=tmp_path / "ct", group="validation", endpoint_url=s3.endpoint_url)
    journal = Journal.open(tmp_path / "ct", bucket=BUCKET, group="training")
    assert journal is not None
    with closing(journal), pytest.raises(DestinationBusyError):
        fetch(dest=tmp_path / "ct", endpoint_url=s3.endpoint_url)

    with closing(socket.socket()) as deaf:  # Bound, so that nobody else gets the port, and not listening.
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(EndpointError, match="cannot be reached"):
            fetch(dest=tmp_path / "new", endpoint_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")

    s3.allow_list = lambda *_: False
    with pytest.raises(AccessError, match="nothing of what was asked for"):
        fetch(dest=tmp_path / "new", endpoint_url=s3.endpoint_url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AccessError, match="credentials"):
        plan(dest=tmp_path / "new", endpoint_url=s3.endpoint_url)
    assert not (tmp_path / "new").exists()


# Warehouse.


async def _all(objects: AsyncIterator[RemoteObject]) -> list[RemoteObject]:
    return [remote async for remote in objects]


def listed(s3: ScriptedS3, prefix: str) -> list[RemoteObject]:
    return asyncio.run(_all(Warehouse(endpoint_url=s3.endpoint_url).objects(prefix)))


def test_objects_come_as_the_listing_describes_them(s3: ScriptedS3) -> None:
    (remote,) = listed(s3, "data")
    assert isinstance(remote, RemoteObject)
    assert (remote.key, remote.size) == ("training/data/Covid0/data_2020-04-01.json", 11)
    assert remote.etag.md5 is not None
    assert remote.modified_ns == 1_614_600_000 * 10**9


@pytest.mark.parametrize("prefix", ["ct", "ct/", "/ct", "ct/Covid0"])
def test_a_prefix_ends_in_a_slash_however_it_is_given(s3: ScriptedS3, prefix: str) -> None:
    assert [remote.key for remote in listed(s3, prefix)] == [key for key in OBJECTS if key.startswith("training/ct/")]


def test_an_empty_prefix_is_the_whole_group(s3: ScriptedS3) -> None:
    assert [remote.key for remote in listed(s3, "")] == sorted(OBJECTS)


def test_pages_follow_one_another_to_the_end(s3: ScriptedS3) -> None:
    for number in range(2500):
        s3.put(f"training/mri/{number:05}", b"")
    assert len(listed(s3, "mri")) == 2500


def test_a_loop_over_objects_may_end_early(s3: ScriptedS3) -> None:
    async def first() -> str:
        async for remote in Warehouse(endpoint_url=s3.endpoint_url).objects("ct"):
            return remote.key
        raise AssertionError

    assert asyncio.run(first()) == "training/ct/Covid0/1/2/a.dcm"


def test_an_endpoint_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr("nccid_fetch.retry.backoff_seconds", never)
    with closing(socket.socket()) as deaf:  # Bound, so that nobody else gets the port, and not listening.
        deaf.bind(("127.0.0.1", 0))
        objects = Warehouse(endpoint_url=f"http://127.0.0.1:{deaf.getsockname()[1]}").objects("ct")
        with pytest.raises(EndpointError, match="cannot be reached"):
            asyncio.run(_all(objects))


def test_a_listing_that_may_not_be_or_is_none_is_an_error_and_no_end(s3: ScriptedS3) -> None:
    s3.script("list", Page(b"<html>"), key="training/data/", count=None)
    with pytest.raises(EndpointError):
        listed(s3, "data")
    s3.allow_list = lambda *_: False
    with pytest.raises(ListingDeniedError):
        listed(s3, "ct")
    with pytest.raises(UsageError):
        Warehouse(group="test")


# Options that are not given, what is shown, and errors.

OPTIONS = sorted(typing.get_type_hints(FetchOptions))


def test_every_option_may_be_none_and_is_then_not_given(s3: ScriptedS3, tmp_path: Path) -> None:
    source = typing.get_type_hints(SourceOptions)
    options: dict[str, Any] = dict.fromkeys(OPTIONS)
    summary = fetch(dest=tmp_path, plan=None, report=None, **options | {"endpoint_url": s3.endpoint_url})
    assert (summary.exit_code, summary.settings.dest) == (0, tmp_path)
    assert replace(summary.settings, open_files=None) == Settings(dest=tmp_path)
    assert summary.source == Source(endpoint_url=s3.endpoint_url)
    assert Warehouse(**dict.fromkeys(source)).source == Source()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_is_none_is_not_given(option: str, tmp_path: Path) -> None:
    assert "None" in str(typing.get_type_hints(FetchOptions)[option]), "a type checker knows it"
    given: Any = {option: None}
    assert api._settings(given, tmp_path, ()) == api._settings({}, tmp_path, ())
    assert api._source(given) == Source()


@pytest.mark.parametrize("dest", [None, ""])
def test_a_destination_has_to_be_named(dest: Any) -> None:
    with pytest.raises(UsageError, match=r"dest is (not given|empty)"):
        fetch(dest=dest)


def test_plan_takes_what_decides_in_fetch(s3: ScriptedS3, tmp_path: Path) -> None:
    planned = plan(dest=tmp_path, endpoint_url=s3.endpoint_url, max_bytes=20, require_verified=True)
    run = fetch(dest=tmp_path, endpoint_url=s3.endpoint_url, max_bytes=20, require_verified=True)
    assert planned.summary.exit_code == run.exit_code == 10
    assert len(planned.decisions) == run.tally.fetched.objects


def test_what_a_notebook_shows_is_short_and_names_no_object(s3: ScriptedS3, tmp_path: Path) -> None:
    for number in range(100):
        s3.put(f"training/ct/Covid{number:04}/../escape", b"image")
    planned = plan(dest=tmp_path, endpoint_url=s3.endpoint_url)
    run = fetch(dest=tmp_path, endpoint_url=s3.endpoint_url)
    assert repr(planned) == (
        "<Plan of 104 decisions: <Summary of plan: exit code 1, listed 104 (531 B), to fetch 4 (31 B), to check 0 (0 B), "
        "to skip 0 (0 B), to refuse 100 (500 B), refused 100, failed 0>>"
    )
    assert repr(run) == (
        "<Summary of all: exit code 1, listed 104 (531 B), fetched 4 (31 B), adopted 0 (0 B), skipped 0 (0 B), "
        "refused 100, failed 0>"
    )


def test_the_text_of_an_error_has_its_hint_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as caught:
        fetch("brain", dest=tmp_path)
    message, hint = str(caught.value).splitlines()
    assert (message, hint) == (caught.value.message, f"hint: {caught.value.hint}")
    assert str(UsageError("no hint")) == "no hint"
    for debug in ([], ["--debug"]):
        assert exit_code_of("get", "brain", "--dest", tmp_path, *debug) == 2
        assert capsys.readouterr().err.count("hint: ") == 1
    for debug in ([], ["--debug"]):
        assert exit_code_of("get", "data", "--dest", tmp_path, "--endpoint-url", "http://127.0.0.1:1", *debug) == 5
        told = capsys.readouterr().err
        assert told.count("hint: ") == 1
        assert ("Traceback" in told) is bool(debug)


@pytest.mark.parametrize("function", [fetch, plan])
def test_an_error_has_the_exit_code_of_the_command_line(
    s3: ScriptedS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    function: Callable[..., Any],
) -> None:
    """What may not be had comes before what cannot be reached."""

    async def broken(*_: Any) -> None:
        raise EndpointError("the endpoint is gone", hint="wait")

    s3.allow_list = lambda prefix, _: prefix.startswith("training/ct/")
    monkeypatch.setattr("nccid_fetch.operations.run", broken)
    monkeypatch.setattr("nccid_fetch.operations.foresee", broken)
    with pytest.raises(EndpointError) as caught:
        function("ct", "mri", dest=tmp_path, endpoint_url=s3.endpoint_url)
    command = ["get"] if function is fetch else ["plan"]
    code = exit_code_of(*command, "ct", "mri", "--dest", tmp_path, "--endpoint-url", s3.endpoint_url)
    assert caught.value.exit_code == code == 4
    assert "the endpoint is gone" in capsys.readouterr().err


def test_a_listing_that_is_denied_has_the_exit_code_of_ls(s3: ScriptedS3) -> None:
    async def read() -> None:
        _ = [remote async for remote in Warehouse(endpoint_url=s3.endpoint_url).objects("ct")]

    s3.allow_list = lambda prefix, _: not prefix.startswith("training/ct/")
    with pytest.raises(ListingDeniedError) as caught:
        asyncio.run(read())
    code = exit_code_of("ls", "ct", "--endpoint-url", s3.endpoint_url)
    assert caught.value.exit_code == code == 4
