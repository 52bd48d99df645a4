"""Who gives credentials, and everything that they can do instead: it is a reason, in time, and without a question."""

import asyncio
import builtins
import getpass
import hashlib
import inspect
import json
import os
import select
import signal
import string
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import botocore.exceptions
import botocore.session
import pytest
from botocore.credentials import AssumeRoleProvider, EnvProvider, JSONFileCache, ReadOnlyCredentials

from nccid_fetch.errors import CredentialsError, RunError, UsageError
from nccid_fetch.governor import Governor
from nccid_fetch.settings import Source
from nccid_fetch.store.providers import Attempt, Provided, _Core, ask, configuration_error
from nccid_fetch.store.session import PROVIDERS_SECONDS_MAX, PROVIDERS_SECONDS_MIN, _Current, _patience, open_session

from .catalogue import fault
from .commandline import exit_code_of
from .conftest import run
from .servers.aws import Providers, Reply, sts_answer
from .servers.tls import Relay, self_signed

BASE = "[profile base]\naws_access_key_id = AKIAEXAMPLE000000000\naws_secret_access_key = canary\n"
ROLE = "role_arn = arn:aws:iam::000000000000:role/reader\n"
SITE = f"{BASE}[profile site]\n{ROLE}source_profile = base\n"
MFA = "mfa_serial = arn:aws:iam::000000000000:mfa/device\n"
SSO = "sso_account_id = 000000000000\nsso_role_name = reader\n"
LEGACY_SSO = f"{SSO}sso_start_url = https://example.org/start\nsso_region = eu-west-2\n"
SSO_SESSION = "[sso-session ours]\nsso_start_url = https://example.org/start\nsso_region = eu-west-2\n"
HTML = Reply(200, "<html><body>canary</body></html>", "text/html")


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question would wait for an answer for ever."""

    def asked(*_: object, **__: object) -> str:
        pytest.fail("a person was asked for something")

    monkeypatch.setattr(getpass, "getpass", asked)
    monkeypatch.setattr(builtins, "input", asked)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, scrubbed_environment: Path) -> Callable[[str], Path]:
    """Writes AWS's configuration file, which then is the only source of credentials; botocore tries nothing twice."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    folder = scrubbed_environment / ".aws"
    folder.mkdir()
    for where in ("credentials.SSOProvider", "tokens.SSOTokenProvider"):  # Where home was when botocore was loaded.
        monkeypatch.setattr(f"botocore.{where}._SSO_TOKEN_CACHE_DIR", str(folder / "sso" / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))

    def write(text: str) -> Path:
        (folder / "config").write_text(text)
        return folder

    return write


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    with Providers() as server:
        for service in ("STS", "SSO", "SSO_OIDC"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", server.url)
        yield server


def given(profile: str | None = None, seconds: float = 60.0) -> Provided:
    return run(ask(Source(profile=profile), Attempt.credentials, seconds))


def reason(profile: str | None = None, seconds: float = 60.0) -> CredentialsError:
    """Why there are no credentials: in a sentence, with a next step, and without any of them."""
    with pytest.raises(CredentialsError) as caught:
        given(profile, seconds)
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    assert "canary" not in told
    assert caught.value.message.startswith("no usable AWS credentials: ")
    assert caught.value.message.isprintable()
    assert caught.value.hint
    return caught.value


def cached_login(home: Path, name: str, *, hours: float) -> None:
    """Leave what `aws sso login` leaves, for a session or start URL of this name."""
    key = hashlib.sha1(name.encode()).hexdigest()
    ends = datetime.now(UTC) + timedelta(hours=hours)
    folder = home / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{key}.json").write_text(
        json.dumps(
            {"accessToken": "canary", "expiresAt": f"{ends:%Y-%m-%dT%H:%M:%SZ}", "startUrl": "https://example.org"}
        )
    )


# Everything that works goes on working


@fault(128)
@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (SITE, ["AssumeRole"]),
        (f"{BASE}[profile middle]\n{ROLE}source_profile = base\n[profile site]\n{ROLE}source_profile = middle\n", ["AssumeRole"] * 2),
        (f"[profile site]\n{ROLE}web_identity_token_file = {{token}}\n", ["AssumeRoleWithWebIdentity"]),
        (f"[profile site]\n{LEGACY_SSO}", ["/federation/credentials"]),
        (f"[profile base]\n{LEGACY_SSO}[profile site]\n{ROLE}source_profile = base\n", ["/federation/credentials", "AssumeRole"]),
        (f"[profile site]\n{ROLE}credential_source = EcsContainer\n", ["/container", "/container", "AssumeRole"]),
        (f"[profile site]\n{ROLE}source_profile = base\n[profile base]\ncredential_process = {{program}}\n", ["AssumeRole"]),
        ("[profile site]\nregion = eu-west-2\n", ["/container"]),
    ],
    ids=["role", "chain of roles", "web identity", "sso", "role of sso", "role of a container", "role of a program", "container"],
)  # fmt: skip
def test_every_provider_gives_credentials_in_one_go(  # noqa: PLR0917 - fixtures, and a row.
    configured: Callable[[str], Path],
    providers: Providers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    config: str,
    asked: list[str],
) -> None:
    (tmp_path / "token").write_text("a token")
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho \'{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "canary"}\'\n')
    program.chmod(0o700)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{providers.url}/container")
    home = configured(config.format(token=tmp_path / "token", program=program)).parent
    cached_login(home, "https://example.org/start", hours=1)
    providers.life = 300.0  # That little is left is no reason to ask twice.
    found = given("site")
    assert providers.asked == asked
    assert found.keys.token == f"TOKEN{len(asked)}"
    assert found.expires is not None
    assert 200 < (found.expires - datetime.now(UTC)).total_seconds() < 310


def test_what_the_aws_cli_was_told_a_code_for_is_used_and_nothing_is_written(
    configured: Callable[[str], Path], providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = configured(SITE + MFA)
    cache = folder / "cli" / "cache"
    assert "wants an MFA code" in str(reason("site"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    cli = botocore.session.Session(profile="site")
    role = cli.get_component("credential_provider").get_provider("assume-role")
    assert isinstance(role, AssumeRoleProvider)
    role.cache, role._prompter = JSONFileCache(str(cache)), lambda _: "123456"  # As the AWS CLI does.
    role.load().get_frozen_credentials()
    (kept,) = cache.iterdir()
    before = kept.read_bytes()
    assert given("site").keys.token == "TOKEN1"
    kept.write_text("[]")
    assert "wants an MFA code" in str(reason("site")), "a file that is damaged is none"
    kept.write_bytes(before)
    configured(SITE)
    assert given("site").keys.token == "TOKEN2"
    assert [path.read_bytes() for path in cache.iterdir()] == [before]
    assert providers.asked == ["AssumeRole"] * 2


# Everything else is a reason

PROGRAMS = [
    ("/no/such/program", "No such file"),
    ("false", "ended with exit code 1"),
    ("sh -c 'kill -9 $$'", "was ended by signal 9"),
    ("true", "is no JSON that can be used"),
    ("echo canary", "is no JSON that can be used"),
    ("echo []", "cannot be used"),
    ("echo null", "cannot be used"),
    ("printf '\\\\377'", "is no JSON that can be used"),
    ("""echo '{"Version": 2, "AccessKeyId": "canary", "SecretAccessKey": "canary"}'""", 'no "Version": 1'),
    ("""echo '{"AccessKeyId": "canary", "SecretAccessKey": "canary"}'""", 'no "Version": 1'),
    ("""echo '{"Version": 1, "AccessKeyId": "canary"}'""", "lacks AccessKeyId or SecretAccessKey"),
    ("""echo '{"Version": 1, "AccessKeyId": 7, "SecretAccessKey": 8}'""", "access key is no text"),
    ("""echo '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "canary", "SessionToken": 9}'""", "session token is no text"),
    ("""echo '{"Version": 1, "AccessKeyId": "", "SecretAccessKey": "canary"}'""", "access key is empty"),
    ("""echo '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "canary", "Expiration": "soon"}'""", "is no JSON that can be used"),
    (
        """echo '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "canary", "SessionToken": "t", "Expiration": "2020-01-01T00:00:00Z"}'""",
        "have expired",
    ),
    ("sh -c 'yes canary | head -c 1000000'", "wrote more than 64 KiB"),
    ("yes canary", "wrote more than 64 KiB"),
    ("sh -c 'read answer; echo canary; exit 3'", "exit code 3"),
    ("sh -c 'exec 3</dev/tty && exit 4; exit 5'", "exit code"),
    ("'unbalanced", "can be used"),
]  # fmt: skip


@fault(128, 129)
@pytest.mark.parametrize(("command", "why"), PROGRAMS, ids=[command[:24] for command, _ in PROGRAMS])
def test_whatever_a_program_does_instead_is_a_reason(configured: Callable[[str], Path], command: str, why: str) -> None:
    configured(f"[profile site]\ncredential_process = {command}\n")
    assert why in str(reason("site"))


@fault(129)
def test_a_program_has_no_terminal(configured: Callable[[str], Path], tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f"import os; open({str(told)!r}, 'w').write(f'{{os.getsid(0) == os.getpid()}} {{os.isatty(0)}}')"
    program = tmp_path / "program.py"
    program.write_text(script)
    configured(f"[profile site]\ncredential_process = {sys.executable} -S {program}\n")
    reason("site")
    assert told.read_text() == "True False", "of a session of its own, it can open none"


@fault(129)
def test_the_program_of_a_source_profile_has_no_terminal_either(
    configured: Callable[[str], Path], providers: Providers, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    program = tmp_path / "program.py"
    program.write_text(f"import os; open({str(told)!r}, 'w').write(f'{{os.getsid(0) == os.getpid()}}')")
    command = f"credential_process = {sys.executable} -S {program}\n"
    configured(f"[profile site]\n{ROLE}source_profile = base\n[profile base]\n{command}")
    reason("site")
    assert told.read_text() == "True"


@fault(129)
def test_what_a_program_leaves_behind_may_keep_its_pipe_open(configured: Callable[[str], Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\ncat {pipe} &\necho \'{{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s"}}\'\n'
    )
    program.chmod(0o700)
    configured(f"[profile site]\ncredential_process = {program}\n")
    assert given("site").keys.access_key == "A"
    with suppress(OSError):  # It may not have begun to read.
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


@fault(129)
def test_a_program_that_is_not_waited_for_is_ended_with_all_that_it_started(
    configured: Callable[[str], Path], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nexec 3>{pipe}\necho $$ >&3\nsleep 600 &\nwait\n")
    program.chmod(0o700)
    configured(f"[profile site]\ncredential_process = {program}\n")

    async def scenario() -> None:
        asking = asyncio.create_task(ask(Source(profile="site"), Attempt.credentials, 60.0))
        with await asyncio.to_thread(pipe.open, "rb", buffering=0) as reading:
            begun = await asyncio.to_thread(reading.read, 16)
            asking.cancel()
            await asyncio.wait([asking])
            try:
                assert select.select([reading], [], [], 20.0)[0], "all of them let go of the pipe"
                assert reading.read(16) == b""
            finally:
                with suppress(ProcessLookupError):  # Where they did not, they are not left behind.
                    os.killpg(int(begun), signal.SIGKILL)
        assert asking.cancelled()

    run(asyncio.wait_for(scenario(), 60))


REFUSED = Reply(
    403,
    "<ErrorResponse><Error><Code>AccessDenied</Code><Message>canary</Message></Error></ErrorResponse>",
    "text/xml",
)
STS_ANSWERS = [
    (Reply(503, "upstream connect error: canary"), "did not answer as AWS does"),
    (Reply(502, "<html>canary", "text/html"), "answered with 502, and not as AWS does"),
    (HTML, "cannot be used|did not answer|lacks"),
    (Reply(200, ""), "cannot be used|did not answer|lacks"),
    (Reply(200, "canary"), "did not answer as AWS does"),
    (Reply(200, '{"canary": 1}', "application/json"), "did not answer as AWS does"),
    (Reply(200, "<AssumeRoleResponse/>", "text/xml"), "lacks|cannot be used|did not answer"),
    (Reply(200, sts_answer("AssumeRole", "canary", datetime.now(UTC))[:300], "text/xml"), "did not answer as AWS does"),
    (Reply(200, sts_answer("AssumeRole", "a b", datetime.now(UTC) + timedelta(1)), "text/xml"), "session token has a blank"),
    (Reply(200, sts_answer("AssumeRole", "canary", datetime.now(UTC) - timedelta(1)), "text/xml"), "have expired"),
    (REFUSED, "AssumeRole was refused: AccessDenied"),
    (Reply(307, ""), "refused|did not answer"),
]  # fmt: skip


@fault(128)
@pytest.mark.parametrize(("answer", "why"), STS_ANSWERS)
def test_whatever_sts_answers_instead_is_a_reason(
    configured: Callable[[str], Path], providers: Providers, answer: Reply, why: str
) -> None:
    configured(SITE)
    providers.fault = lambda _: answer
    told = str(reason("site"))
    assert any(word in told for word in why.split("|")), told


CONTAINER_ANSWERS = [
    Reply(500, "canary"),
    Reply(200, "canary"),
    Reply(200, ""),
    Reply(200, "[]"),
    Reply(200, "null"),
    Reply(200, '{"AccessKeyId": "canary"}'),
    Reply(200, '{"AccessKeyId": 1, "SecretAccessKey": 2, "Token": 3, "Expiration": 4}'),
    Reply(200, '{"AccessKeyId": "a", "SecretAccessKey": "canary", "Token": "t", "Expiration": "2020-01-01T00:00:00Z"}'),
    Reply(200, '{"AccessKeyId": "a", "SecretAccessKey": "canary", "Token": "t", "Expiration": "soon"}'),
    HTML,
    Reply(403, "canary"),
]


@fault(128)
@pytest.mark.parametrize("answer", CONTAINER_ANSWERS)
def test_whatever_a_container_answers_instead_is_a_reason(
    configured: Callable[[str], Path], providers: Providers, monkeypatch: pytest.MonkeyPatch, answer: Reply
) -> None:
    configured("")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{providers.url}/container")
    providers.fault = lambda _: answer
    assert "this container's role" in str(reason())


@fault(128, 130)
@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}, "this container's role gave none"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.org/"}, "Unsupported host"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "no URL"}, "cannot be used|Unsupported host|gave none"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "canary\n"}, "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/file", "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/a"}, "/no/such/file No such file"),
        ({"AWS_ACCESS_KEY_ID": "canary"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "{url}"}, "there are none"),
        ({"AWS_METADATA_SERVICE_TIMEOUT": "soon"}, "cannot be used"),
        ({"AWS_CREDENTIAL_FILE": "/no/such/file"}, "/no/such/file"),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_variables_name_instead_is_a_reason(
    configured: Callable[[str], Path],
    providers: Providers,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    why: str,
) -> None:
    configured("")
    providers.fault = lambda _: HTML
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(url=providers.url))
    told = str(reason())
    assert any(word in told for word in why.split("|")), told


@fault(128)
@pytest.mark.parametrize(
    ("config", "login"),
    [
        (f"[default]\n{LEGACY_SSO}", "aws sso login"),
        (f"[profile site]\n{LEGACY_SSO}", "aws sso login --profile site"),
        (f"[profile site]\n{SSO}sso_session = ours\n{SSO_SESSION}", "aws sso login --profile site"),
        (f"[profile base]\n{LEGACY_SSO}[profile site]\n{ROLE}source_profile = base\n", "aws sso login --profile base"),
    ],
    ids=["default", "legacy", "session", "role"],
)
@pytest.mark.parametrize("login_is", ["none", "over", "refused", "damaged"])
def test_a_login_that_is_over_is_said_with_the_command_that_renews_it(
    configured: Callable[[str], Path], providers: Providers, config: str, login: str, login_is: str
) -> None:
    home = configured(config).parent
    for name in ("https://example.org/start", "ours"):
        if login_is != "none":
            cached_login(home, name, hours=-1 if login_is == "over" else 1)
        if login_is == "damaged":
            for path in (home / ".aws" / "sso" / "cache").iterdir():
                path.write_text("canary")
    providers.fault = lambda _: (
        Reply(401, '{"message": "canary"}', "application/json") if login_is == "refused" else None
    )
    error = reason(None if config.startswith("[default]") else "site")
    assert error.message == "no usable AWS credentials: the login of single sign-on has expired, or there is none"
    assert error.hint == login


@fault(128)
@pytest.mark.parametrize("answer", [Reply(403, '{"__type": "ForbiddenException", "message": "canary"}', "application/json"), Reply(500, "canary"), HTML, Reply(200, "canary"), Reply(200, '{"roleCredentials": {}}', "application/json"), Reply(200, '{"roleCredentials": {"accessKeyId": 1, "expiration": "soon"}}', "application/json")], ids=lambda reply: f"{reply.status} {reply.body[:9]}")  # fmt: skip
def test_whatever_single_sign_on_answers_instead_is_a_reason(
    configured: Callable[[str], Path], providers: Providers, answer: Reply
) -> None:
    home = configured(f"[profile site]\n{LEGACY_SSO}").parent
    cached_login(home, "https://example.org/start", hours=1)
    providers.fault = lambda _: answer
    reason("site")
    assert providers.asked == ["/federation/credentials"]


@fault(128)
@pytest.mark.parametrize(
    ("config", "why"),
    [
        (f"[profile site]\n{ROLE}source_profile = nowhere\n", "nowhere"),
        (f"[profile site]\n{ROLE}source_profile = other\n[profile other]\n{ROLE}source_profile = site\n", "Infinite loop|cannot be used"),
        (f"[profile site]\n{ROLE}", "cannot be used|source_profile|neither|incomplete"),
        (f"[profile site]\n{ROLE}credential_source = Nowhere\n", "Nowhere|cannot be used"),
        (f"[profile site]\n{ROLE}credential_source = Environment\n", "Environment|cannot be used|gave none|No credentials"),
        (f"[profile site]\n{SSO}sso_session = nowhere\n", "nowhere"),
        ("[profile site]\nsso_account_id = 1\n", "missing required configuration"),
        ("[profile site]\nlogin_session = arn:aws:iam::000000000000:user/a\n", "`aws login` is not known here|expired|cannot be used|none"),
        ("[profile site]\naws_access_key_id = canary\n", "aws_secret_access_key"),
        (f"{SITE}{MFA}", "wants an MFA code"),
        (f"{SITE}[profile far]\n{ROLE}source_profile = near\n[profile near]\n{ROLE}{MFA}source_profile = base\n", "wants an MFA code"),
        (SITE.replace("canary", "canary\n  canary"), "secret key has a line end in it (the keys that the role is assumed with)"),
    ],
    ids=["no source", "loop", "no source named", "no such kind", "no variables", "no session", "half of sso", "aws login", "half of keys", "MFA", "MFA below", "line end below"],
)  # fmt: skip
def test_whatever_a_profile_lacks_is_a_reason(
    configured: Callable[[str], Path], providers: Providers, config: str, why: str
) -> None:
    configured(config)
    told = str(reason("far" if "[profile far]" in config else "site"))
    assert any(word in told for word in why.split("|")), told
    assert providers.asked == []


@fault(128)
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[default]\naws_access_key_id = \xff\xfe\naws_secret_access_key = canary\n", "credentials cannot be read"),
        (b"aws_secret_access_key = canary\n", "credentials cannot be read"),
        (b"[default]\naws_access_key_id = a\n[default]\naws_secret_access_key = canary\n", "credentials cannot be read"),
        (b"[default]\naws_access_key_id = a\n", "aws_secret_access_key"),
        (b"[default]\naws_access_key_id =\naws_secret_access_key = canary\n", "access key is empty"),
        (b"[default]\naws_access_key_id = a\naws_secret_access_key =\n", "secret key is empty"),
        (b"[default]\naws_access_key_id = a b\naws_secret_access_key = canary\n", "access key has a blank in it"),
        (b"[default]\naws_access_key_id = a\naws_secret_access_key = canary # mine\n", "secret key has a blank in it"),
        (b"[default]\naws_access_key_id = a\naws_secret_access_key = canary\naws_session_token = canary\n canary\n", "session token has a line end"),
        (b"[other]\naws_access_key_id = a\naws_secret_access_key = canary\n", "there are none"),
        (b"", "there are none"),
        ("folder", "is a folder"),
        ("no rights", "may not be read"),
        ("pipe", "is a pipe"),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_in_place_of_the_credentials_file_is_a_reason(
    configured: Callable[[str], Path], content: bytes | str, why: str
) -> None:
    path = configured("") / "credentials"
    match content:
        case bytes():
            path.write_bytes(content)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.touch()
            path.chmod(0)
            if os.access(path, os.R_OK):
                pytest.skip("root may read everything")

    async def opened() -> None:
        async with open_session(Source(), connections=1, stall_seconds=1):
            pass

    with pytest.raises(CredentialsError) as caught:
        run(opened())
    assert why in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@fault(130)
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("{}\r", "line end"), ("{}\n", "line end"), ("\n{}", "line end"), ("{}\r\n{}", "line end"), ("{} ", "blank"),
        (" {}", "blank"), ("{}\t", "blank"), ("{}\u00a0", "blank"), ("{}\x1b", "character"), ("{}\ufeff", "character"),
        ("{}\ud800", "character"),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_key_that_cannot_be_sent_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str
) -> None:
    if "\ud800" in value:
        monkeypatch.setitem(os.environ, "LANG", "C.UTF-8")
        value = value.replace("\ud800", "\udc80")  # A byte that is no UTF-8.
    monkeypatch.setenv(name, value.format("canary", "canary"))
    error = reason()
    assert what in str(error)
    assert f"({name})" in str(error)


def test_a_secret_key_that_is_not_ascii_is_sent_by_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim-ä")
    assert given().keys.secret_key == "geheim-ä"


def exceptions() -> list[Exception]:
    """One of every kind that botocore and Python have, each with a secret in it."""
    made: list[Exception] = []
    for kind in vars(botocore.exceptions).values():
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == botocore.exceptions.__name__:
            fields = [
                "error",
                "error_msg",
                "msg",
                "provider",
                "endpoint_url",
                "path",
                "cred_var",
                "profile",
                "proxy_url",
            ]
            with suppress(Exception):
                made.append(kind(**dict.fromkeys([*fields, *_fields(kind)], "canary")))
    for kind in vars(builtins).values():
        if inspect.isclass(kind) and issubclass(kind, Exception):
            with suppress(TypeError):
                made.append(kind("canary"))
    made.append(UnicodeDecodeError("utf-8", b"canary", 0, 1, "canary"))
    made.append(OSError(5, "Input/output error"))
    return made


def _fields(kind: Any) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if name]


QUOTED = (
    *(
        botocore.exceptions.InvalidConfigError,
        botocore.exceptions.PartialCredentialsError,
        botocore.exceptions.ConfigNotFound,
    ),
    *(botocore.exceptions.ProfileNotFound, botocore.exceptions.ConfigParseError, KeyError),
)
"""What is quoted: names of files, profiles and keys."""


@fault(128)
def test_whatever_a_provider_raises_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = exceptions()
    assert len(raised) > 150
    cores = botocore.session.Session.get_component
    provider, core = EnvProvider(), _Core(Source())
    monkeypatch.setattr("nccid_fetch.store.providers._Core", lambda _: core)
    monkeypatch.setattr(
        botocore.session.Session,
        "get_component",
        lambda core, name: (
            SimpleNamespace(providers=[provider]) if name == "credential_provider" else cores(core, name)
        ),
    )
    for error in raised:
        monkeypatch.setattr(provider, "load", Mock(side_effect=error))
        try:
            Attempt(Source()).credentials()
        except (botocore.exceptions.ProfileNotFound, botocore.exceptions.ConfigParseError) as of_files:
            told: RunError = configuration_error(of_files, Source())
        except CredentialsError as of_provider:
            told = of_provider
        assert told.hint
        is_about_files = isinstance(error, botocore.exceptions.ProfileNotFound | botocore.exceptions.ConfigParseError)
        assert isinstance(told, UsageError if is_about_files else CredentialsError), error
        if not isinstance(error, QUOTED):
            assert "canary" not in str(told), error


# Never a question, in time


@fault(129)
def test_a_provider_that_blocks_blocks_neither_the_loop_nor_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    def load(_: EnvProvider) -> None:
        threads.append(threading.current_thread())
        release.wait()

    monkeypatch.setattr(EnvProvider, "load", load)
    turns: list[int] = []

    async def scenario() -> None:
        asking = asyncio.create_task(ask(Source(), Attempt.credentials, 0.2))
        while not asking.done():
            turns.append(1)
            await asyncio.sleep(0)
        with pytest.raises(CredentialsError, match=r"AWS_SECRET_ACCESS_KEY gave none within 0\.2 s"):
            asking.result()

    run(scenario())
    assert len(turns) > 10
    assert [thread.daemon for thread in threads] == [True], "one that hangs holds up no end of the process"
    release.set()


@fault(129)
def test_providers_are_waited_for_no_longer_than_the_run_may_be_held() -> None:
    for retry_for, seconds in ((0.0, PROVIDERS_SECONDS_MIN), (30.0, 30.0), (36_000.0, PROVIDERS_SECONDS_MAX)):
        assert _patience(Governor(retry_for_seconds=retry_for)) == seconds


@fault(129)
@pytest.mark.parametrize("what", ["sts", "sso", "container"])
def test_a_service_that_never_answers_is_named_in_time(
    configured: Callable[[str], Path], providers: Providers, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    providers.hangs = True
    text = {"sts": SITE, "sso": f"[profile site]\n{LEGACY_SSO}", "container": "[profile site]\n"}[what]
    cached_login(configured(text).parent, "https://example.org/start", hours=1)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{providers.url}/container")
    name = {"sts": "an assumed role", "sso": "single sign-on", "container": "this container's role"}[what]
    assert f"{name} gave none within 0.5 seconds" in str(reason("site", seconds=0.5))


@fault(129)
def test_max_duration_ends_a_run_whose_credentials_do_not_come(
    configured: Callable[[str], Path],
    dest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nccid_fetch.store.session.PROVIDERS_SECONDS_MAX", 8.0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    configured(f"[profile site]\ncredential_process = cat {pipe}\n")
    code = exit_code_of("get", "data", "--profile", "site", "--dest", dest, "--max-duration", "1s", "--retry-for", "1h")
    assert code == 10, capsys.readouterr().err


@fault(128)
@pytest.mark.parametrize("command", [("get", "data"), ("ls",), ("plan", "data"), ("doctor",)], ids=" ".join)
def test_at_the_start_a_reason_is_4_and_no_defect(
    configured: Callable[[str], Path], dest: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    configured(SITE + MFA)
    options = [] if command == ("ls",) else ["--dest", dest]
    code = exit_code_of(*command, "--profile", "site", "--endpoint-url", "http://127.0.0.1:1", *options)
    told = "".join(capsys.readouterr())
    assert code == 4
    assert "wants an MFA code" in told
    assert "aws sts get-caller-identity --profile site" in told
    assert "defect" not in told


# In a run


class Giver:
    """Gives credentials that live for a while, or none."""

    def __init__(self, *lives: float | None) -> None:
        self.lives = list(lives)
        self.asked = 0

    async def __call__(self) -> Provided:
        self.asked += 1
        life = self.lives.pop(0)
        if life is None:
            raise CredentialsError("no usable AWS credentials: none")
        return provided(f"TOKEN{self.asked}", life)


def provided(token: str, life: float) -> Provided:
    return Provided(ReadOnlyCredentials("A", "s", token), "assume-role", datetime.now(UTC) + timedelta(seconds=life))


async def asked(current: _Current, times: int = 1) -> list[str | None]:
    """Ask for credentials at once, and return their tokens; None for none."""

    async def token() -> str | None:
        try:
            return str((await current.get_frozen_credentials()).token)
        except CredentialsError:
            return None

    return await asyncio.gather(*(token() for _ in range(times)))


@fault(128)
@pytest.mark.parametrize(
    ("left", "lives", "tokens", "times_asked"),
    [
        (3600.0, [], ["FIRST", "FIRST"], 0),
        (600.0, [3600.0], ["TOKEN1", "TOKEN1"], 1),
        (600.0, [None, None], ["FIRST", "FIRST"], 2),
        (600.0, [None, 3600.0], ["FIRST", "TOKEN2"], 2),
        (600.0, [-1.0, 3600.0], [None, "TOKEN2"], 2),
        (-1.0, [None, None], [None, None], 2),
        (-1.0, [None, 3600.0], [None, "TOKEN2"], 2),
    ],
    ids=["long good", "renewed", "not renewed, still good", "later", "given expired", "over", "over, later"],
)
def test_a_renewal_that_fails_matters_when_the_credentials_have_ended(
    monkeypatch: pytest.MonkeyPatch, left: float, lives: list[float | None], tokens: list[str | None], times_asked: int
) -> None:
    monkeypatch.setattr("nccid_fetch.store.session.ASK_SECONDS", 0.0)
    giver = Giver(*lives)

    async def scenario() -> list[str | None]:
        current = _Current(provided("FIRST", left), giver)
        return [*(await asked(current)), *(await asked(current))]

    assert run(scenario()) == tokens
    assert giver.asked == times_asked


@fault(129)
def test_one_request_at_a_time_asks_and_the_others_take_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> list[str | None]:
        come = asyncio.Event()

        async def slow() -> Provided:
            await come.wait()
            return provided("NEW", 3600.0)

        current = _Current(provided("OLD", 60.0), slow)
        monkeypatch.setattr(current, "_due", 0.0)
        first = asyncio.create_task(asked(current))
        await asyncio.sleep(0)
        others = await asked(current, 5)
        come.set()
        return [*others, *(await first), *(await asked(current))]

    assert run(scenario()) == ["OLD"] * 5 + ["NEW"] * 2


def test_what_was_read_anew_meanwhile_is_not_replaced_by_an_older_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> list[str | None]:
        async def slow() -> Provided:
            current.take(provided("NEWER", 3600.0))
            return provided("NEW", 3600.0)

        current = _Current(provided("OLD", 60.0), slow)
        monkeypatch.setattr(current, "_due", 0.0)
        return await asked(current)

    assert run(scenario()) == ["NEWER"]


@fault(128)
def test_a_run_outlives_a_role_whose_renewal_fails_until_it_succeeds(
    configured: Callable[[str], Path], providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(SITE)
    monkeypatch.setattr("nccid_fetch.store.session.ASK_SECONDS", 0.0)
    providers.life = 300.0

    async def scenario() -> list[str | None]:
        async with open_session(Source(profile="site"), connections=1, stall_seconds=1) as session:
            tokens = []
            for answer in (HTML, Reply(503, "canary"), REFUSED, None):
                providers.fault = lambda _, answer=answer: answer  # type: ignore[misc]
                keys = await session.credentials()
                assert keys is not None
                tokens.append(keys.token)
            providers.fault = lambda _: HTML
            with pytest.raises(CredentialsError):
                await session.renew()
            configured("")
            with pytest.raises(CredentialsError, match="site"):
                await session.renew()
            return tokens

    first, second, third, renewed = run(scenario())
    assert first == second == third != renewed


# As strictly as S3


@fault(22, 120)
@pytest.mark.parametrize(
    ("way", "variables", "config", "outcome"),
    [
        ("direct", {}, "", "not trusted"),
        ("proxied", {}, "", "not trusted"),
        ("direct", {"AWS_CA_BUNDLE": ""}, "", "not trusted"),
        ("direct", {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}, "", "not trusted"),
        ("direct", {"AWS_CA_BUNDLE": "{ca}"}, "", "given"),
        ("proxied", {"AWS_CA_BUNDLE": "{ca}"}, "", "given"),
        ("direct", {"REQUESTS_CA_BUNDLE": "{ca}"}, "", "given"),
        ("proxied", {}, "ca_bundle = ~/.aws/ca.pem\n", "given"),
        ("direct", {"AWS_CA_BUNDLE": "{ca}", "STS_HOST": "localhost"}, "", "not trusted"),
        ("proxied", {"AWS_CA_BUNDLE": "{ca}", "STS_HOST": "localhost"}, "", "not trusted"),
    ],
    ids=str,
)
def test_sts_is_asked_as_strictly_as_s3(  # noqa: PLR0917 - fixtures, and a row.
    configured: Callable[[str], Path],
    providers: Providers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    way: str,
    variables: dict[str, str],
    config: str,
    outcome: str,
) -> None:
    certificate = self_signed(tmp_path_factory.mktemp("certificate"))
    folder = configured(SITE + config)
    (folder / "ca.pem").write_bytes(certificate.path.read_bytes())
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(ca=folder / "ca.pem"))
    with (
        Relay(providers.port, tls=certificate.context) as tls,
        Relay(tls.port, connect=b"HTTP/1.1 200 Connection established\r\n\r\n") as proxy,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"https://{variables.get('STS_HOST', '127.0.0.1')}:{tls.port}")
        if way == "proxied":
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        if outcome == "given":
            assert given("site").keys.token == "TOKEN1"
        else:
            assert outcome in str(reason("site"))
            assert providers.asked == []
        assert bool(proxy.heads) is (way == "proxied")
