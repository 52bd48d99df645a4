"""What all tests share: no test sees the machine's own credentials, proxies or settings, nor leaves any behind."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import settings

T = TypeVar("T")

# Made-up cases are the same on every run, and a machine that is busy with other work makes none of them fail.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")

_SCRUBBED = ("AWS_", "BOTO_", "NCCID_", "XDG_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "ssl_cert_file", "ssl_cert_dir"}


def pytest_configure() -> None:
    """Let what the tests start hear signals, also where whoever started the tests in the background does not."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the test an environment of its own: test credentials, no configuration, an empty home folder."""
    for name in list(os.environ):
        if name.startswith(_SCRUBBED) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # What ours print is buffered, as it is for users.
    home = tmp_path_factory.mktemp("home")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_CONFIG_FILE": str(home / "no-aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "no-aws-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(home),
    }.items():
        monkeypatch.setenv(name, value)
    return home


@pytest.fixture(scope="session", autouse=True)
def models_parsed_once() -> Iterator[None]:
    """Keep botocore's parsed models: reading them anew is most of what opening a session costs a test."""
    parsed: dict[str, Any] = {}
    load_file = JSONFileLoader._load_file

    def load_once(loader: JSONFileLoader, path: str, open_method: Any) -> Any:
        if parsed.get(path) is None:
            parsed[path] = load_file(loader, path, open_method)
        return parsed[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "_load_file", load_once)
        yield


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own."""
    return asyncio.run(coroutine)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr("nccid_fetch.retry.BASE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def fault(request: pytest.FixtureRequest) -> None:
    """Stand for the numbers that `catalogue.fault` gives a test; it has nothing to do."""


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"
