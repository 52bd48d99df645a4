"""AWS's own settings: what each comes to for the AWS CLI and for every way in which we ask, side by side.

All requests go through a proxy that notes them: of http, whose they are; of https, which host they are for.
"""

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import pytest
from botocore.configprovider import (
    BOTOCORE_DEFAUT_SESSION_VARIABLES,
    DEFAULT_PROXIES_CONFIG_VARS,
    DEFAULT_S3_CONFIG_VARS,
)

from nccid_fetch.cli.awsfiles import said
from nccid_fetch.errors import NccidFetchError
from nccid_fetch.governor import Governor
from nccid_fetch.model import ETag, RemoteObject
from nccid_fetch.settings import Source
from nccid_fetch.store.fast import FastReader
from nccid_fetch.store.pages import Lister
from nccid_fetch.store.reference import ReferenceReader
from nccid_fetch.store.session import Session, open_session
from nccid_fetch.warehouse import BUCKET

from .catalogue import fault
from .conftest import run

OBJECT = RemoteObject("training/ct/a.dcm", 1, ETag(hashlib.md5(b"a").hexdigest()), 0)
LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    f"<Name>{BUCKET}</Name><Prefix>training/ct/</Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys>"
    "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated></ListBucketResult>"
).encode()
CLI = """
import contextlib, functools, io, json, os, sys
from awscli.clidriver import create_clidriver
from botocore.loaders import JSONFileLoader
JSONFileLoader.load_file = functools.cache(JSONFileLoader.load_file)
JSONFileLoader.__hash__, JSONFileLoader.__eq__ = lambda self: 0, lambda self, other: True
own = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}
for line in sys.stdin:
    wanted = json.loads(line)
    os.environ.clear()
    os.environ.update(own | wanted["environment"])
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = create_clidriver().main(wanted["arguments"])
        except BaseException as error:
            code = repr(error)
    print(json.dumps([code, told.getvalue()]), flush=True)
"""


class Asked(NamedTuple):
    """What a request tells: the bucket's address, and whose signature it is; of https, the host alone."""

    address: str
    key: str = ""
    region: str = ""
    token: str = ""


class Recorder:
    """A proxy that notes what it is asked for: it is the server of all http, and lets no https through."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def __enter__(self) -> Self:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                recorder.asked.append(_asked(self))
                is_listing = "list-type" in self.path
                body = LISTING if is_listing else b"<Error><Code>NoSuchKey</Code></Error>"
                self.send_response(200 if is_listing else 404)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_CONNECT(self) -> None:
                recorder.asked.append(Asked(self.path))
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _asked(request: BaseHTTPRequestHandler) -> Asked:
    url = urlsplit(request.path)
    path = f"/{BUCKET}" if url.path.startswith(f"/{BUCKET}") else ""
    signed = re.search(r"Credential=([^/]*)/\d+/([^/]*)/", request.headers.get("Authorization", ""))
    assert signed
    return Asked(f"{url.netloc}{path}", signed[1], signed[2], request.headers.get("X-Amz-Security-Token", ""))


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        yield server


@pytest.fixture(scope="module")
def aws() -> Iterator[Callable[[dict[str, str], list[str]], tuple[Any, str]]]:
    """The AWS CLI, loaded once: takes an environment and arguments, and returns its exit code and stdout."""
    with subprocess.Popen([sys.executable, "-c", CLI], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def call(environment: dict[str, str], arguments: list[str]) -> tuple[Any, str]:
            process.stdin.write(json.dumps({"environment": environment, "arguments": arguments}).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            code, told = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return code, told

        yield call
        process.stdin.close()


async def by_listing(session: Session) -> object:
    return await Lister(session).page("training/ct/")


async def by_fast(session: Session) -> object:
    async with FastReader(session, connections=1).get(OBJECT) as body:
        return [chunk async for chunk in body.chunks()]


async def by_reference(session: Session) -> object:
    async with ReferenceReader(session).get(OBJECT) as body:
        return [chunk async for chunk in body.chunks()]


def ours(recorder: Recorder, profile: str | None) -> dict[str, list[Asked]]:
    """What each of our ways asks for."""
    found: dict[str, list[Asked]] = {}

    async def go() -> None:
        async with open_session(Source(profile=profile, allow_http=True), connections=1, stall_seconds=5.0) as session:
            for way in (by_listing, by_fast, by_reference):
                recorder.asked.clear()
                session.governor = Governor()  # That one is refused by the proxy holds no other.
                with suppress(NccidFetchError):
                    await way(session)
                found[way.__name__] = list(dict.fromkeys(recorder.asked))

    recorder.asked.clear()
    with suppress(NccidFetchError):
        run(go())
    return found or {"at the start": list(dict.fromkeys(recorder.asked))}


KEYS = "aws_access_key_id = AKIAFILE000000000000\naws_secret_access_key = s\n"
HERE = "region = eu-west-2\nendpoint_url = http://s3.test\n"
DEFAULT = f"[default]\n{KEYS}{HERE}"
TWO = f"{DEFAULT}[profile a]\n{KEYS.replace('FILE', 'AAAA')}{HERE}[profile b]\n{KEYS.replace('FILE', 'BBBB')}{HERE}"
AWS = f"[default]\n{KEYS}region = eu-west-2\n"
OWN_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAENVI000000000000", "AWS_SECRET_ACCESS_KEY": "s"}
SERVICES = "services = ours\n[services ours]\ns3 =\n  endpoint_url = http://of-services.test\n"

CHANGE_NOTHING = {
    "AWS_AUTH_SCHEME_PREFERENCE": "sigv4a",
    "AWS_SIGV4A_SIGNING_REGION_SET": "*",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "AWS_DEFAULTS_MODE": "standard",
    "AWS_RETRY_MODE": "adaptive",
    "AWS_MAX_ATTEMPTS": "7",
    "AWS_SDK_UA_APP_ID": "nccid",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled",
    "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
    "NO_PROXY": "other.test,.elsewhere.test",
}

Row = tuple[str, dict[str, str], str, str]
ROWS: dict[str, Row] = {
    # What it is about: the profile that is named, variables, AWS's configuration file, and its credentials file.
    "region: profile": ("", {}, f"[default]\n{KEYS}region = eu-west-3\nendpoint_url = http://s3.test\n", ""),
    "region: AWS_DEFAULT_REGION": ("", {"AWS_DEFAULT_REGION": "eu-north-1"}, DEFAULT, ""),
    "region: none that there is": ("", {}, DEFAULT.replace("eu-west-2", "not a region"), ""),
    "profile: AWS_PROFILE": ("", {"AWS_PROFILE": "a"}, TWO, ""),
    "profile: AWS_DEFAULT_PROFILE first": ("", {"AWS_PROFILE": "a", "AWS_DEFAULT_PROFILE": "b"}, TWO, ""),
    "profile: --profile, over variables": ("b", {"AWS_PROFILE": "a", **OWN_KEYS}, TWO, ""),
    "profile: variables, over AWS_PROFILE": ("", {"AWS_PROFILE": "a", **OWN_KEYS}, TWO, ""),
    "profile: in quotes": ("my site", {}, TWO.replace("profile a", 'profile "my site"'), ""),
    "profile: without its word": ("a", {}, TWO.replace("profile a", "a"), ""),
    "profile: not there": ("c", {}, TWO, ""),
    "token: AWS_SESSION_TOKEN": ("", {**OWN_KEYS, "AWS_SESSION_TOKEN": "t"}, DEFAULT, ""),
    "token: AWS_SECURITY_TOKEN": ("", {**OWN_KEYS, "AWS_SECURITY_TOKEN": "t"}, DEFAULT, ""),
    "token: profile": ("", {}, DEFAULT + "aws_session_token = t\n", ""),
    "config_file": ("", {"AWS_CONFIG_FILE": "~/.aws/../.aws/config"}, TWO, ""),
    "config_file: with a variable": ("", {"AWS_CONFIG_FILE": "$HOME/.aws/config"}, TWO, ""),
    "credentials_file": ("", {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}, f"[default]\n{HERE}", f"[default]\n{KEYS}"),
    "credentials_file: over config_file": ("", {}, DEFAULT, f"[default]\n{KEYS.replace('FILE', 'CRED')}region = eu-west-1\n"),
    "comments": ("", {}, f"# a\n; b\n[default]\n# c\n{KEYS}; d\n{HERE}  # e\ns3 =\n  # f\n  addressing_style = path\n", ""),
    "comments: behind a value": ("", {}, DEFAULT.replace("eu-west-2", "eu-west-2 # London"), ""),
    "comments: behind an endpoint": ("", {}, DEFAULT.replace("s3.test", "s3.test # ours"), ""),
    "form: colons, capitals, CRLF": ("", {}, DEFAULT.replace(" = ", ": ").replace("region", "REGION").replace("\n", "\r\n"), ""),
    "form: byte-order mark": ("", {}, "\ufeff" + DEFAULT, ""),
    "form: twice the same section": ("", {}, DEFAULT + DEFAULT, ""),
    "endpoint: AWS_ENDPOINT_URL": ("", {"AWS_ENDPOINT_URL": "http://global.test"}, DEFAULT, ""),
    "endpoint: AWS_ENDPOINT_URL_S3": ("", {"AWS_ENDPOINT_URL": "http://global.test", "AWS_ENDPOINT_URL_S3": "http://one.test"}, DEFAULT, ""),
    "endpoint: services": ("", {}, DEFAULT + SERVICES, ""),
    "endpoint: with a path": ("", {"AWS_ENDPOINT_URL": "http://global.test:8080"}, AWS, ""),
    "ignore_configured_endpoint_urls": ("", {"AWS_ENDPOINT_URL": "http://g.test", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, DEFAULT, ""),
    "ignore_configured_endpoint_urls: profile": ("", {}, DEFAULT + "ignore_configured_endpoint_urls = true\n", ""),
    "addressing_style: path": ("", {}, DEFAULT + "s3 =\n  addressing_style = path\n", ""),
    "addressing_style: virtual": ("", {}, DEFAULT + "s3 =\n  addressing_style = virtual\n", ""),
    "addressing_style: path, of AWS": ("", {}, AWS + "s3 =\n  addressing_style = path\n", ""),
    "addressing_style: none that there is": ("", {}, DEFAULT + "s3 =\n  addressing_style = sideways\n", ""),
    "use_accelerate_endpoint": ("", {}, AWS + "s3 =\n  use_accelerate_endpoint = true\n", ""),
    "use_dualstack_endpoint": ("", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}, AWS, ""),
    "use_dualstack_endpoint: s3": ("", {}, AWS + "s3 =\n  use_dualstack_endpoint = true\n", ""),
    "use_fips_endpoint": ("", {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_DEFAULT_REGION": "us-east-2"}, AWS, ""),
    "use_fips_endpoint: profile": ("", {"AWS_DEFAULT_REGION": "us-gov-west-1"}, AWS + "use_fips_endpoint = true\n", ""),
    "us_east_1_regional_endpoint": ("", {"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional", "AWS_DEFAULT_REGION": "us-east-1"}, AWS, ""),
    "us_east_1_regional_endpoint: profile": ("", {"AWS_DEFAULT_REGION": "us-east-1"}, AWS + "s3 =\n  us_east_1_regional_endpoint = legacy\n", ""),
    "sts_regional_endpoints": ("site", {"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, f"{AWS}[profile site]\nregion = eu-west-2\nrole_arn = arn:aws:iam::000000000000:role/a\nsource_profile = default\n", ""),
    "sts_regional_endpoints: regional": ("site", {}, f"{AWS}[profile site]\nregion = eu-west-2\nrole_arn = arn:aws:iam::000000000000:role/a\nsource_profile = default\n", ""),
    "what changes no request of ours": ("", CHANGE_NOTHING, DEFAULT + "tcp_keepalive = true\ns3 =\n  payload_signing_enabled = true\n", ""),
    "no_proxy: the endpoint": ("", {"NO_PROXY": "127.0.0.1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, AWS, ""),
    "no_proxy: the bucket": ("", {"NO_PROXY": f"{BUCKET}.s3.eu-west-2.amazonaws.com"}, AWS, ""),
    "proxy: in lower case": ("", {"HTTP_PROXY": "", "http_proxy": "{proxy}"}, DEFAULT, ""),
}  # fmt: skip


@pytest.fixture
def environment(scrubbed_environment: Path, recorder: Recorder) -> dict[str, str]:
    """What the AWS CLI and we start from: nothing but a home folder, and the proxy."""
    (scrubbed_environment / ".aws").mkdir()
    proxy = f"http://127.0.0.1:{recorder.port}"
    return {
        "HOME": str(scrubbed_environment),
        "PATH": "/usr/bin:/bin",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
    }


@fault(131)
@pytest.mark.parametrize("about", ROWS)
def test_a_setting_leads_where_it_leads_the_aws_cli(
    recorder: Recorder,
    aws: Callable[[dict[str, str], list[str]], tuple[Any, str]],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    about: str,
) -> None:
    profile, variables, config, credentials = ROWS[about]
    home = Path(environment["HOME"])
    (home / ".aws" / "config").write_text(config)
    (home / ".aws" / "credentials").write_text(credentials)
    environment |= {name: value.format(proxy=environment["HTTP_PROXY"]) for name, value in variables.items()}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    named = ["--profile", profile] if profile else []
    recorder.asked.clear()
    aws(environment, ["s3api", "list-objects-v2", "--bucket", BUCKET, *named])
    theirs = list(dict.fromkeys(recorder.asked))
    for way, asked in ours(recorder, profile or None).items():
        assert asked == theirs, way
    if not about.startswith(("region", "profile:")):
        return
    told = dict(re.findall(r"^ *(\w+) +(\S+)", aws(environment, ["configure", "list", *named])[1], re.MULTILINE))
    if "eu-" in told.get("region", ""):
        shown = said("region", profile or None)
        assert shown is not None
        assert shown.value.split()[0] == told["region"]


NOTHING = "what changes no request of ours"
SETTINGS = {
    # Every setting that botocore knows: the rows above that are about it, or what becomes of it here.
    **{name: name for name in ("region", "profile", "config_file", "credentials_file", "addressing_style")},
    **{name: name for name in ("ignore_configured_endpoint_urls", "use_accelerate_endpoint", "use_dualstack_endpoint")},
    **{name: name for name in ("use_fips_endpoint", "us_east_1_regional_endpoint", "sts_regional_endpoints")},
    **dict.fromkeys(("payload_signing_enabled", "tcp_keepalive", "auth_scheme_preference", "sigv4a_signing_region_set"), NOTHING),
    **dict.fromkeys(("request_checksum_calculation", "response_checksum_validation", "defaults_mode"), NOTHING),
    **dict.fromkeys(("retry_mode", "max_attempts", "user_agent_appid", "account_id_endpoint_mode"), NOTHING),
    "disable_host_prefix_injection": NOTHING,
    "ca_bundle": "test_tls.py",
    **dict.fromkeys(("metadata_service_timeout", "metadata_service_num_attempts"), "the machine's role, as botocore asks it"),
    **dict.fromkeys(("ec2_metadata_service_endpoint", "ec2_metadata_service_endpoint_mode"), "the same"),
    **dict.fromkeys(("ec2_metadata_v1_disabled", "imds_use_ipv6"), "the same"),
    **dict.fromkeys(("data_path", "api_versions", "parameter_validation", "endpoint_discovery_enabled"), "of no request of ours"),
    **dict.fromkeys(("csm_enabled", "csm_host", "csm_port", "csm_client_id"), "of no request of ours"),
    **dict.fromkeys(("request_min_compression_size_bytes", "disable_request_compression"), "of no request of ours"),
    **dict.fromkeys(("use_arn_region", "s3_disable_multiregion_access_points"), "of ARNs, which are no bucket here"),
    "s3_disable_express_session_auth": "of directory buckets, which are refused",
    **dict.fromkeys(("proxy_ca_bundle", "proxy_client_cert", "proxy_use_forwarding_for_https"), "of code, not of files"),
}  # fmt: skip


@fault(131)
def test_every_setting_of_botocore_has_been_looked_at() -> None:
    known = {*BOTOCORE_DEFAUT_SESSION_VARIABLES, *DEFAULT_S3_CONFIG_VARS, *DEFAULT_PROXIES_CONFIG_VARS}
    assert not known - SETTINGS.keys()
    rows = {about.partition(":")[0] for about in ROWS}
    assert NOTHING in rows
    assert not [name for name, row in SETTINGS.items() if " " not in row and ".py" not in row and row not in rows]
