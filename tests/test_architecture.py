"""The shape of the house, read from the source: which way imports run, and who alone may do what."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import nccid_fetch

from .catalogue import fault

PACKAGE = Path(nccid_fetch.__file__).parent
LINES_MAX = 450

# A module stands one rank above the highest of those that it imports, be it for types alone or when first used. So
# every import runs down, there are no cycles, and a module that rises has drawn something in: look why, then move it.
# `nccid_fetch` itself is the door: it names what is public, loads it when it is asked for, and has no rank.
RANKS = (
    (
        *("adaptive", "attributes", "clock", "digests", "disk", "errors", "filesystem", "reserve", "schema"),
        *("slots", "streams", "tasks", "units", "warehouse"),
        *("cli", "cli.awsfiles", "cli.help", "cli.records", "cli.records.times"),
        *("demo.clinical",),
        *("doctor", "doctor.in_time"),
        *("store", "store.address", "store.pace", "store.programs", "store.signing"),
    ),
    (
        *("cli.completion", "cli.configfile", "cli.records.files", "cli.signals"),
        *("demo",),
        *("durability", "keys", "machine", "model", "retry", "timetable"),
        *("store.answers", "store.reactor"),
    ),
    (
        *("cli.origins", "cli.records.outlet"),
        *("demo.synthetic",),
        *("diagnosis", "events", "rows", "settings", "shards", "sqlitefile", "staging", "walk"),
        *("store.protocol", "store.reasons", "store.strict"),
    ),
    (
        *("bandwidth", "decisions", "failurelimits", "failures", "governor", "planfile", "ranges"),
        *("reading", "room", "stopping", "summary", "traits", "tree"),
        *("cli.flags", "cli.usage"),
        *("demo.server",),
        *("doctor.findings",),
        *("store.providers",),
    ),
    (
        *("admission", "destination", "hours", "journal", "progress"),
        *("cli.options", "cli.records.metrics", "cli.records.stream"),
        *("store.session",),
    ),
    (
        *("cli.output",),
        *("commit", "foresight", "holdings", "planning", "status"),
        *("store.fast", "store.identity", "store.pages", "store.reference", "store.witness"),
    ),
    (
        *("cli.block", "cli.closing", "cli.config", "cli.narration", "cli.records.finish", "cli.strays"),
        *("doctor.judge_access",),
        *("listing", "proof", "statusfile"),
    ),
    (
        *("cli.display", "cli.publishing", "cli.records.log", "cli.runner"),
        *("doctor.records",),
        *("transfer",),
    ),
    (
        *("cli.records.keeping", "cli.statuspage"),
        *("doctor.premises",),
        *("pipeline",),
    ),
    (
        *("cli.audience", "cli.status"),
        *("doctor.judge_destination",),
        *("operations",),
    ),
    (
        *("api",),
        *("cli.fetching", "cli.listing"),
        *("doctor.examination",),
    ),
    (*("cli.demo", "cli.doctor"),),
    (*("cli.commands",),),
    (*("cli.main",),),
    (*("__main__",),),
)
RANK = {module: rank for rank, modules in enumerate(RANKS) for module in modules}

PURE = (
    *(
        "warehouse",
        "errors",
        "adaptive",
        "units",
        "timetable",
        "model",
        "retry",
        "digests",
        "keys",
        "settings",
        "decisions",
        "shards",
    ),
    *("events", "failurelimits", "room", "summary", "progress", "status", "doctor.findings"),
)
"""Values in, values out: no clock, no chance, no disk, no network, no loop. `store.protocol` is types alone."""
IMPURE = {
    *("asyncio", "concurrent", "threading", "socket", "subprocess", "signal", "sqlite3", "io", "shutil", "tempfile"),
    *("os", "sys", "time", "random", "secrets", "logging"),
    *("aiohttp", "aioboto3", "aiobotocore", "aiofiles", "botocore", "pycurl", "rich", "typer", "uvloop"),
}
NETWORK = {"aioboto3", "aiobotocore", "aiohttp", "boto3", "botocore", "http", "pycurl", "requests", "socket"}
FORBIDDEN_OPERATIONS = {
    # What changes a bucket.
    *("abort_multipart_upload", "complete_multipart_upload", "copy", "copy_async", "copy_object", "create_bucket"),
    *("create_multipart_upload", "delete", "delete_async", "delete_bucket", "delete_object", "delete_objects"),
    *("open_writer", "put", "put_async", "put_object", "put_object_acl", "put_object_tagging", "rename_async"),
    *("restore_object", "upload_file", "upload_fileobj", "upload_part", "write_get_object_response"),
    # What NCCID's readers may not ask, and what takes an odd answer for the end of a listing.
    *("get_bucket_location", "get_object_attributes", "head_bucket", "list_object_versions", "get_paginator"),
    *("list_async", "list_objects"),
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below it, parsed; `nccid_fetch` itself is the empty name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".") if path.name == "__init__.py" else name] = path
    return {name: ast.parse(path.read_text(), str(path)) for name, path in found.items()}


def imported(module: str) -> Iterator[str]:
    """Every dotted name that a module imports, in full; `from a import b` gives `a.b`, and `a` unless `b` is a module."""
    is_package = module != "__main__" and (PACKAGE / module.replace(".", "/")).is_dir()
    package = ["nccid_fetch", *(module.split(".") if module else [])]
    if not is_package:
        package.pop()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            taken = [f"{base}.{alias.name}" for alias in node.names]
            if any(name.removeprefix("nccid_fetch.") not in modules() for name in taken):
                yield base
            yield from taken


def ours(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    names = {name.removeprefix("nccid_fetch.") for name in imported(module) if name.startswith("nccid_fetch.")}
    return names & modules().keys() - {module}


def others(module: str) -> set[str]:
    """The top-level names of everything else that a module imports."""
    return {name.partition(".")[0] for name in imported(module)} - {"nccid_fetch"}


def names_in(module: str) -> Iterator[tuple[str, int]]:
    """Every dotted name that a module's code mentions, with its line."""
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Name | ast.Attribute):
            yield ast.unparse(node), node.lineno


def below(package: str) -> set[str]:
    return {module for module in modules() if module == package or module.startswith(f"{package}.")}


def test_the_table_has_every_module_once() -> None:
    assert sorted(module for rank in RANKS for module in rank) == sorted(modules().keys() - {""})


@pytest.mark.parametrize("module", sorted(RANK))
def test_imports_run_down_and_every_module_is_as_low_as_it_can_be(module: str) -> None:
    imports = ours(module)
    assert RANK[module] == max((RANK[name] + 1 for name in imports), default=0), {name: RANK[name] for name in imports}


def test_nobody_imports_the_command_line_but_itself_and_python_dash_m() -> None:
    assert {name for name in RANK if ours(name) & below("cli")} <= below("cli") | {"__main__"}


def test_nobody_imports_the_demo_but_its_own_command() -> None:
    assert {name for name in RANK if ours(name) & below("demo")} <= below("demo") | {"cli.demo"}


def test_the_package_itself_loads_nothing() -> None:
    """`nccid-fetch --version` imports it first; what it names is imported for type checkers alone."""
    tops = [node for node in modules()[""].body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name.split(".")[0] for node in tops for name in [getattr(node, "module", "") or ""]} == {
        "importlib",
        "typing",
    }


@pytest.mark.parametrize("module", [*PURE, "store.protocol"])
def test_pure_modules_know_no_clock_chance_disk_network_or_loop(module: str) -> None:
    assert not others(module) & IMPURE
    assert not [name for name, _ in names_in(module) if name in {"datetime.now", "date.today", "open"}]
    assert ours(module) <= set(PURE)


def test_only_the_store_speaks_to_the_network() -> None:
    assert {name for name in modules() if others(name) & NETWORK} <= below("store")


def test_only_the_command_line_draws_and_takes_options() -> None:
    assert {name for name in modules() if others(name) & {"rich", "typer", "argparse"}} <= below("cli")


@pytest.mark.parametrize(
    "names",
    [
        {"print", "sys.stdout", "sys.stderr", "input"},
        {"os.environ", "os.getenv", "os.environb", "os.putenv", "environ", "getenv"},
        {"sys.exit", "os._exit", "exit", "quit", "SystemExit", "typer.Exit", "os.abort"},
        {"signal.signal", "loop.add_signal_handler", "sys.argv"},
    ],
    ids=["prints", "reads the environment", "exits", "takes signals"],
)
def test_only_the_command_line(names: set[str]) -> None:
    mentioned = [(module, name, line) for module in modules() for name, line in names_in(module) if name in names]
    assert {module for module, _, _ in mentioned} <= below("cli"), mentioned
    assert {module for module, _, _ in mentioned}, "nobody does: the names to look for are wrong"


def test_nothing_ever_changes_the_bucket_or_asks_what_readers_may_not() -> None:
    """Looks at the last word of every dotted name, and at texts, for clients are also called by name."""
    found = []
    for module in modules().keys() - below("demo"):
        # In memory and on disk much is put and copied; a bucket is within reach of the store alone, by any name.
        asks = module in below("store") - {"store.signing"}  # Which sends nothing, and copies a digest.
        forbidden = FORBIDDEN_OPERATIONS if asks else {n for n in FORBIDDEN_OPERATIONS if "_" in n}
        words = [(name.rpartition(".")[2], line) for name, line in names_in(module)]
        words += [
            (node.value, node.lineno)
            for node in ast.walk(modules()[module])
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        found += [(module, word, line) for word, line in words if word in forbidden]
    assert not found


@fault(98)
def test_nothing_forks_after_there_are_threads() -> None:
    """The demo's server is another program. A child of ours would have the locks of threads that it has not.

    What `--on-finish` or a `credential_process` starts is another program as well: Python forks for it, and does nothing in
    the child but start it.
    """
    starts = {"cli.records.finish": {"subprocess"}, "store.programs": {"subprocess"}}
    forks = {"os.fork", "os.forkpty", "ProcessPoolExecutor", "concurrent.futures.ProcessPoolExecutor"}
    for module in modules().keys() - below("demo"):
        assert not others(module) & {"multiprocessing", "subprocess", "pty"} - starts.get(module, set()), module
        assert not forks & {name for name, _ in names_in(module)}, module


def test_requests_of_our_own_are_gets() -> None:
    methods = [
        (module, keyword.value.value if isinstance(keyword.value, ast.Constant) else None)
        for module in modules()
        for node in ast.walk(modules()[module])
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("AWSRequest")
        for keyword in node.keywords
        if keyword.arg == "method"
    ]
    assert methods
    assert {method for _, method in methods} == {"GET"}


@fault(25)
def test_no_body_of_botocores_is_entered_for_that_would_pass_by_its_checks() -> None:
    entered = [
        ast.unparse(item.context_expr)
        for module in below("store")
        for node in ast.walk(modules()[module])
        if isinstance(node, ast.With | ast.AsyncWith)
        for item in node.items
    ]
    assert not [text for text in entered if "Body" in text or "stream" in text]


@fault(120)
def test_nobody_turns_verification_off() -> None:
    off = {"CERT_NONE", "_create_unverified_context", "SSL_VERIFYPEER", "SSL_VERIFYHOST", "no_verify_ssl"}
    named = [(module, name) for module in modules() for name, _ in names_in(module) if name.rpartition(".")[2] in off]
    assert not named
    keywords = [node for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    falsehoods = [node for node in keywords if isinstance(node.value, ast.Constant) and node.value.value is False]
    assert not [node for node in falsehoods if node.arg in {"verify", "ssl", "check_hostname"}]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_one_reads_at_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX
