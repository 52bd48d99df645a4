"""The main job as a user has it done: real processes, against an S3 server that others wrote, judged by others' tools.

The tree is the demo's. The judges are the AWS CLI, rclone and pydicom; what they say counts, not what we say.
"""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from nccid_fetch.demo.synthetic import warehouse, write_tree
from nccid_fetch.warehouse import BUCKET, PARTS

from .servers.rclone import ACCESS_KEY, SECRET_KEY, RcloneS3

BIN = Path(sys.executable).parent
AWS = BIN / "aws"
ALL_PARTS = (*PARTS, "unknown", "unknown-metadata")
FIRST_MODIFIED = 1_614_600_000  # 2021-03-01; every object a second later than the one before.

needs_aws = pytest.mark.skipif(not AWS.exists(), reason="the AWS CLI is not installed beside this Python")


@dataclass(frozen=True)
class Source:
    """The server and what it serves."""

    s3: RcloneS3
    tree: Path

    @property
    def files(self) -> dict[str, Path]:
        """Path below the group: file on the server."""
        return _files(self.tree / "training")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send any client to the server."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "NCCID_"))} | self.s3.environment

    def start(self, *command: object) -> "subprocess.Popen[bytes]":
        """Start any client against the server, and do not wait for it."""
        silent = subprocess.DEVNULL
        return subprocess.Popen([str(word) for word in command], env=self.environment, stdout=silent, stderr=silent)

    def run(self, *command: object) -> "subprocess.CompletedProcess[str]":
        """Run any client against the server."""
        return subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def fetch_all(self, dest: Path, transport: str = "auto") -> dict[str, Any]:
        """Run `nccid-fetch all` and return its summary."""
        command = [BIN / "nccid-fetch", "all", "--concurrency", "64", "--dest", dest, "--transport", transport]
        done = self.run(*command, "--format", "json")
        assert (done.returncode, done.stderr) == (0, "")
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary

    def differences_by_aws(self, dest: Path) -> str:
        """What `aws s3 sync` would still do."""
        done = self.run(AWS, "s3", "sync", f"s3://{BUCKET}/training", dest, "--dryrun")
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    folder = tmp_path_factory.mktemp("s3")
    tree = folder / "buckets" / BUCKET
    write_tree(tree, warehouse())
    for number, path in enumerate(sorted(_files(tree).values())):
        os.utime(path, (FIRST_MODIFIED + number, FIRST_MODIFIED + number))
    with RcloneS3(folder / "buckets", folder / "rclone.log") as s3:
        yield Source(s3, tree)


@pytest.fixture(scope="module", params=["auto", "aioboto3"])
def fetched(
    request: pytest.FixtureRequest, source: Source, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, dict[str, Any]]:
    """The destination after a first run, the transport that made it, and that run's summary."""
    dest = tmp_path_factory.mktemp("fetched") / "new" / "nccid"
    return dest, request.param, source.fetch_all(dest, request.param)


Fetched = tuple[Path, str, dict[str, Any]]


def _files(folder: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.is_file() and ".nccid-fetch" not in path.parts
    }


def test_everything_arrives_byte_for_byte_and_nothing_besides(source: Source, fetched: Fetched) -> None:
    dest, _, summary = fetched
    there, here = source.files, _files(dest)
    assert here.keys() == there.keys()
    assert all(here[name].read_bytes() == path.read_bytes() for name, path in there.items())
    assert not list((dest / ".nccid-fetch" / "staged").iterdir())

    everything = {"objects": len(there), "bytes": sum(path.stat().st_size for path in there.values())}
    assert summary["listed"] == summary["fetched"] == everything
    assert summary["verified"] == {"md5": len(there), "multipart_md5": 0, "checksum": 0, "size": 0}
    assert {part: fate["state"] for part, fate in summary["parts"].items()} == dict.fromkeys(ALL_PARTS, "complete")


def test_files_are_private_and_have_the_time_of_their_objects(source: Source, fetched: Fetched) -> None:
    dest, _, _ = fetched
    here = _files(dest)
    assert {name: path.stat().st_mtime for name, path in here.items()} == {
        name: path.stat().st_mtime for name, path in source.files.items()
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in here.values()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in [dest, *dest.rglob("*")] if path.is_dir()} == {0o700}


@needs_aws
def test_aws_s3_sync_finds_nothing_to_do(source: Source, fetched: Fetched) -> None:
    assert source.differences_by_aws(fetched[0]) == ""


def test_rclone_check_finds_no_difference(source: Source, fetched: Fetched) -> None:
    remote = f":s3,provider=Rclone,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY}"
    remote += f",endpoint='{source.s3.endpoint_url}':{BUCKET}/training"
    done = source.run(
        BIN / "rclone",
        "--config",
        os.devnull,
        "check",
        "--checksum",
        remote,
        fetched[0],
        "--exclude",
        "/.nccid-fetch/**",
    )
    assert done.returncode == 0, done.stderr
    assert "0 differences found" in done.stderr
    assert f"{len(source.files)} matching files" in done.stderr
    assert "could not be checked" not in done.stderr


def test_every_image_opens_in_pydicom(fetched: Fetched) -> None:
    images = [path for path in _files(fetched[0]).values() if path.suffix in {".dcm", ".DCM"}]
    assert {path.suffix for path in images} == {".dcm", ".DCM"}
    for path in images:
        image = dcmread(path)
        assert (image.PatientID, image.StudyInstanceUID, image.SeriesInstanceUID) == path.parts[-4:-1]


def test_a_second_run_and_one_without_the_state_folder_get_no_object(source: Source, fetched: Fetched) -> None:
    dest, transport, first = fetched
    gets = source.s3.object_gets()
    assert gets >= first["listed"]["objects"]

    assert source.fetch_all(dest, transport)["skipped"] == first["listed"]

    shutil.rmtree(dest / ".nccid-fetch")
    again = source.fetch_all(dest, transport)
    assert again["adopted"] == first["listed"]
    assert again["verified"] == first["verified"]

    assert source.s3.object_gets() == gets


@needs_aws
def test_a_tree_made_by_aws_s3_sync_is_adopted_without_a_download(source: Source, tmp_path: Path) -> None:
    done = source.run(AWS, "s3", "sync", f"s3://{BUCKET}/training", tmp_path, "--only-show-errors")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    gets = source.s3.object_gets()

    summary = source.fetch_all(tmp_path)

    assert summary["adopted"] == summary["listed"]
    assert summary["listed"]["objects"] == len(source.files)
    assert source.s3.object_gets() == gets
    assert {stat.S_IMODE(path.stat().st_mode) for path in _files(tmp_path).values()} == {0o600}


@needs_aws
def test_the_judge_from_aws_does_see_a_file_that_is_missing_or_old(source: Source, tmp_path: Path) -> None:
    """Guards the guard: were `--dryrun` silent for any other reason, its silence would prove nothing."""
    training = source.tree / "training"
    shutil.copytree(training, tmp_path, dirs_exist_ok=True)
    missing, old = sorted(_files(tmp_path / "data").values())[:2]
    missing.unlink()
    old.write_bytes(b"?")
    said = source.differences_by_aws(tmp_path)
    assert said.count("(dryrun) download:") == 2
    assert missing.name in said
    assert old.name in said


def test_ten_kills_and_one_last_run_leave_the_right_tree_and_no_stray_file(source: Source, tmp_path: Path) -> None:
    """SIGKILL comes at a seeded number of objects asked for since the start of each run; transports take turns."""
    chance = random.Random(10)
    dest = tmp_path / "dest"
    killed = 0
    for transport in ["auto", "aioboto3"] * 5:
        command = [BIN / "nccid-fetch", "all", "--concurrency", "64", "--dest", dest, "--transport", transport]
        moment = source.s3.object_gets() + chance.randrange(700)
        with source.start(*command) as process:
            while process.poll() is None and source.s3.object_gets() < moment:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
            process.kill()
            killed += process.wait() == -signal.SIGKILL
    assert killed
    summary = source.fetch_all(dest)
    assert summary["exit_code"] == 0
    assert source.differences_by_aws(dest) == ""
    assert {path: file.read_bytes() for path, file in _files(dest).items()} == {
        path: file.read_bytes() for path, file in source.files.items()
    }
    assert sorted(path.name for path in (dest / ".nccid-fetch").rglob("*")) == [
        "journal.sqlite",
        "staged",
        "status.json",
    ]
