"""`doctor`, run as its user does: each of ten prepared problems is named, with the next step; and the pages are kept as texts."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nccid_fetch.clock import Clock
from nccid_fetch.doctor import premises
from nccid_fetch.doctor.examination import examine
from nccid_fetch.journal import Journal
from nccid_fetch.model import Space
from nccid_fetch.settings import Source
from nccid_fetch.traits import Traits, find_traits
from nccid_fetch.warehouse import BUCKET, OTHER_PARTS, PARTS

from . import snapshots
from .commandline import exit_code_of
from .conftest import run
from .servers.rclone import RcloneS3
from .servers.scripted import Do, Page, Redirect, ScriptedS3, Stall, Status
from .servers.tls import Relay, self_signed

PLENTY = Space(4_000_000_000_000, None)
KEYS = {part: f"training/{part}/Covid0000/a" for part in PARTS}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def finding(self, what: str) -> dict[str, Any]:
        """The one finding of this name, of `--format json`."""
        (found,) = [finding for finding in self.json["findings"] if finding["what"] == what]
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Ended]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process, on a machine that has all that a run needs."""
    monkeypatch.setattr("nccid_fetch.doctor.premises.space_of", lambda _: PLENTY)
    monkeypatch.setattr("nccid_fetch.doctor.premises.remote_name", lambda _: None)
    monkeypatch.setattr("nccid_fetch.doctor.premises.find_traits", lambda *_: Traits())
    monkeypatch.setattr("nccid_fetch.cli.doctor.raise_descriptor_limit", lambda: 8192)
    # A machine may be busy with other work.
    for bound in ("ANSWER_SECONDS", "ACCESS_SECONDS", "DISK_SECONDS"):
        monkeypatch.setattr(f"nccid_fetch.doctor.examination.{bound}", 100.0)
    monkeypatch.setattr("nccid_fetch.store.session.PROVIDERS_SECONDS_MIN", 100.0)

    def run(*arguments: object) -> Ended:
        return Ended(exit_code_of(*arguments), *capsys.readouterr())

    return run


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    """A server with an object in every part, to whose readers nothing but the parts is granted."""
    with ScriptedS3() as server:
        server.allow_list = lambda prefix, _: prefix != "training/"
        for key in KEYS.values():
            server.put(key, b"ab")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        yield server


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    folder = tmp_path / "nccid"
    folder.mkdir(mode=0o700)
    return folder


def scrubbed(text: str, dest: Path) -> str:
    """A page without what differs from one day, or machine, to the next."""
    text = text.replace(str(dest.parent), "/data")
    text = re.sub(r"127\.0\.0\.1:\d+", "s3.example.org", text)
    text = re.sub(r"within [\d,]+ ms", "within 12 ms", text)
    text = re.sub(r"this machine's clock is \d s .* the server's", "it is the server's, to the second or two", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-11-25T19:00:00Z", text)


# --- Ten prepared problems ------------------------------------------------------------------------


def wrong_key(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.script("list", Status(403, "InvalidAccessKeyId"), count=None)


def expired_key(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    s3.script("list", Status(400, "ExpiredToken"), count=None)


def one_part_denied(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.allow_list = lambda prefix, _: prefix not in {"training/", "training/xray/"}


def wrong_region(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.script("list", Status(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}), count=None)


def clock_20_minutes_off(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=20), usegmt=True)
    s3.script("list", Status(403, "RequestTimeTooSkewed", headers={"Date": date}), count=None)


def full_disk(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nccid_fetch.doctor.premises.space_of", lambda _: Space(0, 12))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)


def read_only_dest(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))


def world_readable_dest(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest.chmod(0o755)


def low_descriptor_limit(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nccid_fetch.cli.doctor.raise_descriptor_limit", lambda: 128)


def damaged_journal(s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_of(dest).close()
    Journal.path(dest).write_bytes(b"something else " * 1000)


def journal_of(dest: Path, bucket: str = BUCKET) -> Journal:
    (dest / ".nccid-fetch").mkdir(exist_ok=True)
    journal = Journal.open(dest, bucket=bucket, group="training", endpoint="")
    assert journal is not None
    return journal


TEN = [
    (wrong_key, 4, "credentials", "aws configure --profile nccid && nccid-fetch doctor --profile nccid --dest {dest}"),
    (expired_key, 4, "credentials", "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"),
    (one_part_denied, 0, "parts", "nccid-fetch all --dest {dest}"),
    (wrong_region, 5, "region", "nccid-fetch doctor --region eu-west-1 --dest {dest}"),
    (clock_20_minutes_off, 4, "clock", "sudo timedatectl set-ntp true"),
    (full_disk, 9, "space", "df -h {dest}"),
    (read_only_dest, 9, "folder", "findmnt --target {dest}"),
    (world_readable_dest, 9, "permissions", "chmod 700 {dest}"),
    (low_descriptor_limit, 0, "open files", "sudo prlimit --pid $$ --nofile=8192:8192"),
    (damaged_journal, 0, "journal", "nccid-fetch all --dest {dest}"),
]


@pytest.mark.parametrize(("prepare", "code", "what", "command"), TEN, ids=[case[0].__name__ for case in TEN])
def test_each_prepared_problem_is_named_with_the_next_step(
    cli: Cli,
    s3: ScriptedS3,
    dest: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    prepare: Any,
    code: int,
    what: str,
    command: str,
) -> None:
    prepare(s3, dest, monkeypatch)
    page = cli("doctor", "--dest", dest)
    told = cli("doctor", "--dest", dest, "--format", "json")
    assert page.code == told.code == told.json["exit_code"] == code
    finding = told.finding(what)
    assert finding["state"] == ("problem" if code else "note")
    assert (finding["command"], finding["exit_code"]) == (command.format(dest=dest), code)
    assert finding["hint"]
    assert page.err == told.err == ""
    snapshots.check(f"doctor/{prepare.__name__}", scrubbed(page.out, dest))


def test_quiet_says_what_is_in_the_way_and_no_more(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_part_denied(s3, dest, monkeypatch)
    assert cli("doctor", "--dest", dest, "--format", "quiet") == Ended(0, "", "")
    dest.chmod(0o755)
    assert cli("doctor", "--dest", dest, "--format", "quiet") == Ended(
        9,
        "",
        f"error: permissions: {dest} is open to every user of this machine (mode 755)\n"
        f"hint: close it: they are patients' data: chmod 700 {dest}\n",
    )


def test_the_page_of_a_machine_that_is_ready(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    ended = cli("doctor", "--dest", dest)
    assert (ended.code, ended.err) == (0, "")
    snapshots.check("doctor/ready", scrubbed(ended.out, dest))


def test_every_page_that_is_kept_is_one_of_these() -> None:
    kept = {path.stem for path in (snapshots.FOLDER / "doctor").glob("*.txt")}
    assert kept == {"ready", *(case[0].__name__ for case in TEN)}


# --- The same, for real ---------------------------------------------------------------------------


def test_a_real_server_that_checks_signatures_knows_neither_a_wrong_key_nor_a_wrong_secret(
    cli: Cli, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "buckets" / BUCKET / "training" / "data").mkdir(parents=True)
    (tmp_path / "buckets" / BUCKET / "training" / "data" / "a").write_bytes(b"ab")
    with RcloneS3(tmp_path / "buckets", tmp_path / "rclone.log") as rclone:
        for name, value in rclone.environment.items():
            monkeypatch.setenv(name, value)
        good = cli("doctor", "--dest", dest, "--format", "json")
        assert good.code == 0
        assert good.json["parts"]["data"] == {"listed": "granted", "read": "granted", "message": ""}
        assert good.json["parts"]["ct"]["listed"] == "absent"
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
            monkeypatch.setenv(name, "wrong")
            wrong = cli("doctor", "--dest", dest, "--format", "json")
            assert wrong.code == 4
            assert wrong.finding("credentials")["command"].startswith("aws configure")


SCENE = """
import json, os, subprocess, sys
disk, endpoint = sys.argv[1], sys.argv[2]

def run():
    command = [sys.executable, "-m", "nccid_fetch", "doctor", "--dest", disk, "--endpoint-url", endpoint]
    done = subprocess.run([*command, "--format", "json"], check=False, capture_output=True, text=True, timeout=110)
    print(json.dumps([done.returncode, json.loads(done.stdout), sorted(os.listdir(disk))]))

with open(f"{disk}/filler", "wb") as filler:
    try:
        filler.write(bytes(2 << 20))
    except OSError:
        pass
os.chmod(disk, 0o700)
run()
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
run()
"""


def test_a_real_disk_that_is_full_and_one_that_is_read_only(s3: ScriptedS3, tmp_path: Path) -> None:
    from .test_full_disk import on_small_disk  # noqa: PLC0415 - skips where none can be mounted.

    full, read_only = map(json.loads, on_small_disk(tmp_path, "size=1m", SCENE, s3.endpoint_url))
    for (code, found, left), what in ((full, "space"), (read_only, "folder")):
        assert code == 9
        assert left == ["filler"]
        assert what in {finding["what"] for finding in found["findings"] if finding["state"] == "problem"}


def test_a_real_limit_on_open_files_is_the_one_that_is_named(s3: ScriptedS3, dest: Path) -> None:
    command = ["sh", "-c", 'ulimit -n 128 && exec "$@"', "sh", sys.executable, "-m", "nccid_fetch", "doctor"]
    done = subprocess.run(
        [*command, "--dest", str(dest), "--format", "json"], capture_output=True, text=True, timeout=110, check=False
    )
    (found,) = [finding for finding in json.loads(done.stdout)["findings"] if finding["what"] == "open files"]
    assert found["found"] == "128 files may be open: enough for 26 of 64 objects in flight"


# --- What an examination leaves, and what it asks -------------------------------------------------


def everything(folder: Path) -> dict[str, tuple[int, ...]]:
    found = {str(path): path.stat() for path in (folder, *folder.rglob("*"))}
    return {path: (of.st_mode, of.st_size, of.st_ino, of.st_mtime_ns) for path, of in found.items()}


def test_nothing_is_changed_and_no_destination_is_made(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nccid_fetch.doctor.premises.find_traits", find_traits)  # Which makes a file to find out.
    before = everything(dest)
    assert cli("doctor", "--dest", dest / "new" / "one").code == 0
    assert everything(dest) == before
    assert cli("doctor", "--dest", dest).code == 0
    assert everything(dest) == before
    assert cli("get", "data", "--dest", dest).code == 0
    before, journal = everything(dest), Journal.path(dest).read_bytes()
    assert cli("doctor", "--dest", dest).code == 0
    assert (everything(dest), Journal.path(dest).read_bytes()) == (before, journal)


def test_little_is_asked_and_nothing_that_readers_may_not(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    assert cli("doctor", "--dest", dest).code == 0
    listings = [seen for seen in s3.requests if seen.operation == "list"]
    assert sorted(seen.query["prefix"] for seen in listings) == sorted(
        ["training/", *(f"training/{part}/" for part in (*PARTS, *OTHER_PARTS))]
    )
    assert {seen.query["max-keys"] for seen in listings if seen.query["prefix"] != "training/"} == {"1"}
    gets = [seen for seen in s3.requests if seen.operation == "get"]
    assert sorted(seen.key for seen in gets) == sorted(KEYS.values())
    assert {seen.headers["range"] for seen in gets} == {"bytes=0-0"}
    assert all("if-match" in seen.headers for seen in gets)
    assert len(s3.requests) == len(listings) + len(gets)


def test_a_part_that_no_document_names_is_examined_where_it_can_be_known(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.allow_list = lambda *_: True
    s3.put("training/unknown/Covid0000/a", b"ab")
    s3.delete(KEYS["mri"])
    parts = cli("doctor", "--dest", dest, "--format", "json").json["parts"]
    assert (parts["unknown"]["listed"], parts["unknown"]["read"]) == ("granted", "granted")
    assert (parts["mri"]["listed"], parts["mri"]["read"]) == ("absent", "-")


def test_a_folder_marker_is_passed_over_and_an_object_without_bytes_is_read_without_a_range(
    cli: Cli, s3: ScriptedS3, dest: Path
) -> None:
    s3.put("training/ct/", b"")
    s3.put("training/mri/", b"")
    s3.delete(KEYS["mri"])
    s3.put(KEYS["xray"], b"")
    parts = cli("doctor", "--dest", dest, "--format", "json").json["parts"]
    assert (parts["ct"]["listed"], parts["ct"]["read"]) == ("granted", "granted")
    assert (parts["mri"]["listed"], parts["mri"]["read"]) == ("empty", "-")
    assert (parts["xray"]["listed"], parts["xray"]["read"]) == ("granted", "granted")
    assert [seen.headers.get("range") for seen in s3.requests if seen.key == KEYS["xray"]] == [None]


# --- Access, part by part -------------------------------------------------------------------------


def test_a_part_that_may_be_listed_and_not_read_is_4_and_its_reason_is_told(
    cli: Cli, s3: ScriptedS3, dest: Path
) -> None:
    s3.script("get", Status(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), key=KEYS["ct"], count=None)
    s3.allow_get = lambda key: key != KEYS["mri"]
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 4
    assert "(KMS)" in ended.finding("ct")["found"]
    assert "the credentials may not read it" in ended.finding("mri")["found"]
    assert ended.finding("ct")["command"].startswith(
        "nccid-fetch get data ct-metadata mri-metadata xray-metadata xray "
    )


def test_an_archived_object_is_a_note(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEYS["ct"], b"ab", storage_class="GLACIER")
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 0
    assert ended.json["parts"]["ct"]["read"] == "archived"
    assert ended.finding("ct")["state"] == "note"


def test_no_part_granted_is_4(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.allow_list = lambda *_: False
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert (ended.code, ended.finding("parts")["command"]) == (4, "aws configure list-profiles")


def test_a_group_with_nothing_in_it_is_4(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    ended = cli("doctor", "--dest", dest, "--group", "validation", "--format", "json")
    assert ended.code == 4
    assert "group validation" in ended.finding("parts")["found"]


@pytest.mark.usefixtures("no_pauses")
def test_a_part_whose_listing_breaks_is_5_and_the_others_are_examined(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.script("list", Page(b"<html>"), key="training/ct/", count=None)
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 5
    assert ended.json["parts"]["ct"]["listed"] == "-"
    assert ended.json["parts"]["mri"]["read"] == "granted"
    s3.script("list", Page(b"<html>"), key="training/mri/", count=None)
    assert (
        len(
            [
                found
                for found in cli("doctor", "--dest", dest, "--format", "json").json["findings"]
                if found["exit_code"]
            ]
        )
        == 1
    )


# --- The endpoint ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "answer",
    [Page(b"<html>Welcome to the hotel</html>"), Redirect("http://hotel.example/")],
    ids=["portal", "redirect"],
)
def test_an_endpoint_that_is_no_s3_is_5_and_its_clock_is_nobodys(
    cli: Cli, s3: ScriptedS3, dest: Path, answer: Any
) -> None:
    s3.allow_list = lambda *_: True
    s3.script("list", answer, count=None)
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 5
    assert ended.finding("endpoint")["command"] == f"curl --head --max-time 20 {s3.endpoint_url}/{BUCKET}"
    assert "clock" not in {finding["what"] for finding in ended.json["findings"]}


def test_an_endpoint_that_is_not_there_is_said_at_once(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    s3.leave()
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 5
    assert ended.finding("endpoint")["found"].endswith("cannot be reached")
    assert ended.finding("folder")["state"] == "ok"


@pytest.mark.parametrize("bound", ["ANSWER_SECONDS", "ACCESS_SECONDS"])
def test_an_endpoint_that_says_nothing_is_not_waited_for(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(f"nccid_fetch.doctor.examination.{bound}", 0.2)
    s3.script("list", Stall(), count=None)
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 5
    assert "endpoint" in {finding["what"] for finding in ended.json["findings"] if finding["state"] == "problem"}


def test_a_disk_that_takes_its_time_is_looked_at_meanwhile(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_looked_at, seen = threading.Event(), []

    def look_at(dest: Path) -> object:
        is_looked_at.set()
        return premises.look_at(dest)

    monkeypatch.setattr("nccid_fetch.doctor.examination.look_at", look_at)
    s3.script("list", Do(lambda: seen.append(is_looked_at.wait(10))), key="training/")
    assert cli("doctor", "--dest", dest).code == 0
    assert seen == [True]


def test_an_endpoint_that_asks_for_time_is_not_given_it(s3: ScriptedS3, dest: Path) -> None:
    async def never(seconds: float) -> None:
        raise AssertionError(f"waited for {seconds} s")

    s3.script("list", Status(503, "SlowDown", headers={"Retry-After": "30"}), count=None)
    found = run(examine(Source(endpoint_url=s3.endpoint_url), dest, clock=Clock(sleep=never)))
    (endpoint,) = [finding for finding in found.problems if finding.what == "endpoint"]
    assert endpoint.exit_code == 5
    assert "asks to slow down" in endpoint.found


def test_a_certificate_that_nobody_knows_is_named_and_one_that_is_trusted_is_told_by_its_issuer(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    with Relay(int(s3.endpoint_url.rpartition(":")[2]), tls=certificate.context) as tls:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{tls.port}")
        unknown = cli("doctor", "--dest", dest, "--format", "json")
        assert (unknown.code, unknown.finding("certificate")["exit_code"]) == (5, 5)
        assert "AWS_CA_BUNDLE" in unknown.finding("certificate")["hint"]
        assert s3.requests == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
        trusted = cli("doctor", "--dest", dest, "--format", "json")
        assert trusted.code == 0
        assert trusted.finding("encryption")["found"].startswith("TLSv1.3, with a certificate by ")


def test_no_such_bucket_is_4(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    ended = cli("doctor", "--dest", dest, "--bucket", "another", "--format", "json")
    assert (ended.code, ended.finding("bucket")["command"]) == (4, f"nccid-fetch doctor --dest {dest}")


# --- Credentials ----------------------------------------------------------------------------------


def test_without_credentials_the_endpoint_is_examined_all_the_same(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3.expects_refusals = True
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 4
    assert ended.finding("credentials")["command"] == "aws configure --profile nccid"
    assert ended.finding("endpoint")["state"] == "ok"
    assert ended.json["parts"] == {}
    assert not any("authorization" in seen.headers for seen in s3.requests)
    s3.script("list", Status(401, "Unauthorized"))
    again = cli("doctor", "--dest", dest, "--format", "json")
    assert len([finding for finding in again.json["findings"] if finding["state"] == "problem"]) == 1


def test_whoever_gives_credentials_and_hangs_is_not_waited_for(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    # It ends with this test, as its input does: what hangs for ever would be left behind.
    config.write_text("[profile slow]\ncredential_process = sleep 5\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setattr("nccid_fetch.store.session.PROVIDERS_SECONDS_MIN", 0.2)
    s3.expects_refusals = True  # The endpoint is asked all the same, without a signature.
    ended = cli("doctor", "--dest", dest, "--profile", "slow", "--format", "json")
    assert ended.code == 4
    assert ended.finding("credentials")["command"] == "aws configure get credential_process --profile slow"


def test_no_key_is_shown_but_its_ends_and_no_secret_at_all(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAQNZGKIQY56JQ7WML")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    s3.secrets["ASIAQNZGKIQY56JQ7WML"] = "canary-secret"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token")
    monkeypatch.setenv("HTTP_PROXY", "http://user:canary-password@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for spoken in ("human", "json"):
        ended = cli("doctor", "--dest", dest, "--format", spoken, "--debug")
        assert "ASIA...7WML, temporary" in ended.out
        assert "canary" not in ended.out + ended.err
        assert "ASIAQNZ" not in ended.out + ended.err


# --- The destination ------------------------------------------------------------------------------


def test_a_journal_that_a_run_holds_is_a_note_and_the_rest_goes_on(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    with closing(journal_of(dest)):
        ended = process("--dest", dest)
    assert ended.code in {0, 9}  # Space and limits are this machine's own.
    assert ended.finding("journal")["state"] == "note"
    assert ended.finding("journal")["command"] == f"nccid-fetch status --dest {dest}"


def process(*arguments: object) -> Ended:
    """Run it as a process of its own: a lock keeps out other processes."""
    command = [sys.executable, "-m", "nccid_fetch", "doctor", "--format", "json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_a_journal_of_another_bucket_is_a_finding_here(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    journal_of(dest, bucket="another").close()
    ended = cli("doctor", "--dest", dest, "--format", "json")
    assert ended.code == 9
    assert ended.finding("journal")["command"] == f"nccid-fetch doctor --bucket another --dest {dest}"


@pytest.mark.parametrize("kind", ["file", "below a file", "root"])
def test_a_dest_that_can_be_none_is_a_finding_here(cli: Cli, s3: ScriptedS3, dest: Path, kind: str) -> None:
    file = dest / "file"
    file.write_text("mine")
    ended = cli(
        "doctor", "--dest", {"file": file, "below a file": file / "a", "root": Path("/")}[kind], "--format", "json"
    )
    assert (ended.code, ended.finding("folder")["state"]) == (9, "problem")
    assert file.read_text() == "mine"


def test_what_is_wrong_with_the_destination_comes_before_access_and_access_before_the_endpoint(
    cli: Cli, s3: ScriptedS3, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.script("list", Page(b"<html>"), key="training/ct/", count=None)
    assert cli("doctor", "--dest", dest).code == 5
    s3.allow_get = lambda key: key != KEYS["mri"]
    assert cli("doctor", "--dest", dest).code == 4
    dest.chmod(0o755)
    assert cli("doctor", "--dest", dest).code == 9


def test_what_is_wrong_with_the_command_line_is_2(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    for wrong in (["--profile", "nobody"], ["--group", "test"], ["--endpoint-url", "http://s3.example.org"], ["ct"]):
        ended = cli("doctor", "--dest", dest, *wrong)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.count("error: ") == 1


def test_a_page_has_no_ansi_where_it_is_no_terminal(cli: Cli, s3: ScriptedS3, dest: Path) -> None:
    assert "\x1b" not in cli("doctor", "--dest", dest).out
