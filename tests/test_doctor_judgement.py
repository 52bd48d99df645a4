"""What `doctor` sees, and what it makes of it: each examination by itself."""

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nccid_fetch.doctor.findings import Area, Examination, Finding, State, again
from nccid_fetch.doctor.in_time import in_time
from nccid_fetch.doctor.judge_access import Asker, Place, of_clock, of_error, of_identity, of_place
from nccid_fetch.doctor.judge_destination import EVERYTHING_BYTES, findings_of
from nccid_fetch.doctor.premises import Premises, look_at
from nccid_fetch.doctor.records import Damaged, Healthy, Held, Newer, health_of
from nccid_fetch.errors import CredentialsError, EndpointError, UntrustedError
from nccid_fetch.filesystem import user_name
from nccid_fetch.journal import Journal
from nccid_fetch.model import ETag, Record, Space, VerifiedBy
from nccid_fetch.schema import VERSION
from nccid_fetch.settings import Source
from nccid_fetch.store.identity import Identity, account_of, identity_of, is_aws, method_of, region_origin, shortened
from nccid_fetch.store.session import open_session
from nccid_fetch.store.witness import Answered, Encryption, Witness
from nccid_fetch.traits import Traits, modes_text

from .catalogue import fault
from .conftest import run

SOURCE, DEST = Source(), Path("/data/nccid")
ASKER = Asker(source=SOURCE, dest=DEST, method="env", url="https://s3.example.org/bucket")
NOW = datetime(2026, 11, 25, 18, tzinfo=UTC)
GOOD = Premises(is_there=True, nearest=DEST, space=Space(10 * EVERYTHING_BYTES, None), mode=0o700, traits=Traits())


def judged(seen: Premises, open_files: int | None = 8192, **source: Any) -> dict[str, Finding]:
    findings = list(findings_of(seen, Source(**source), DEST, open_files))
    assert all(finding.area is Area.DESTINATION for finding in findings)
    return {finding.what: finding for finding in findings}


# --- Findings -------------------------------------------------------------------------------------


def test_a_problem_without_a_next_step_or_an_exit_code_cannot_be_said() -> None:
    for step in ({}, {"command": "ls"}, {"exit_code": 9}, {"command": "ls", "exit_code": 1}):
        with pytest.raises(AssertionError):
            Finding(Area.SOURCE, "clock", State.PROBLEM, "is slow", **step)
    with pytest.raises(AssertionError):
        Finding(Area.SOURCE, "clock", State.NOTE, "is slow", exit_code=4)


@pytest.mark.parametrize(("codes", "code"), [([], 0), ([5], 5), ([5, 4], 4), ([4, 5, 9], 9)])
def test_of_several_exit_codes_the_contracts_first_counts(codes: list[int], code: int) -> None:
    findings = tuple(Finding(Area.SOURCE, f"{each}", State.PROBLEM, "", "", "ls", each) for each in codes)
    assert Examination(source=SOURCE, dest=DEST, endpoint="", parts=(), findings=findings).exit_code == code


def test_a_command_is_typed_for_the_same_source_and_quoted() -> None:
    source = Source(
        profile="my profile", group="validation", endpoint_url="https://s3.example.org", no_sign_request=True
    )
    assert again(source, Path("/data/my files"), "doctor", region="eu-west-1") == (
        "nccid-fetch doctor --group validation --profile 'my profile' --region eu-west-1"
        " --endpoint-url https://s3.example.org --no-sign-request --dest '/data/my files'"
    )


# --- Who the credentials are ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "account"),
    [
        ("ASIAQNZGKIQY56JQ7WML", "029608264753"),  # A published pair.
        ("AKIAIOSFODNN7EXAMPLE", None),  # Of the old kind, which has no account in it.
        ("test", None),
        ("AKIA0000000000000000", None),
        ("", None),
    ],
)
def test_the_account_is_read_from_keys_that_have_it(key: str, account: str | None) -> None:
    assert account_of(key) == account


def test_a_key_is_shown_by_its_ends_and_a_short_one_not_at_all() -> None:
    assert shortened("ASIAQNZGKIQY56JQ7WML") == "ASIA...7WML"
    assert shortened("short-one") == "..."


def test_only_aws_endpoints_are_awss() -> None:
    assert is_aws("bucket.s3.eu-west-2.amazonaws.com")
    assert not is_aws("amazonaws.com.example.org:443")


def identity_in(source: Source) -> Identity | None:
    async def asked() -> Identity | None:
        async with open_session(source, connections=1, stall_seconds=1) as session:
            return await identity_of(session)

    return run(asked())


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    given = f'{{"Version": 1, "AccessKeyId": "{"A" * 20}", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": "{ends}"}}'
    config = tmp_path / "config"
    config.write_text(
        "[profile keys]\naws_access_key_id = BBBBBBBBBBBBBBBBBBBB\naws_secret_access_key = s\nregion = eu-west-1\n"
        f"[profile program]\ncredential_process = echo '{given}'\n"
        "[profile single]\nsso_session = my\nsso_account_id = 1\nsso_role_name = r\n"
        "[sso-session my]\nsso_region = eu-west-2\nsso_start_url = https://sso.example.org\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return config


@pytest.mark.usefixtures("profiles")
def test_credentials_say_where_they_came_from_and_whether_they_renew_themselves() -> None:
    by_variables = identity_in(SOURCE)
    assert by_variables == Identity(method="env", key="...")
    by_file = identity_in(Source(profile="keys"))
    assert by_file == Identity(method="config-file", profile="keys", key="BBBB...BBBB")
    by_program = identity_in(Source(profile="program"))
    assert by_program is not None
    assert (by_program.method, by_program.is_temporary, by_program.renews) == ("custom-process", True, True)
    assert by_program.expires is not None
    assert identity_in(Source(no_sign_request=True)) is None


@pytest.mark.usefixtures("profiles")
def test_variables_that_end_do_not_renew_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (datetime.now(UTC) + timedelta(hours=1)).isoformat())
    found = identity_in(SOURCE)
    assert found is not None
    assert (found.is_temporary, found.renews, found.expires is not None) == (True, False, True)


@pytest.mark.usefixtures("profiles")
def test_how_a_profile_gets_its_credentials_is_known_without_getting_any() -> None:
    assert method_of(Source(profile="single")) == "sso"
    assert method_of(Source(profile="program")) == "custom-process"
    assert method_of(Source(profile="keys")) == "shared-credentials-file"
    assert method_of(SOURCE) is None


@pytest.mark.usefixtures("profiles")
def test_where_the_region_was_set_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_origin(SOURCE) == "the default"
    assert region_origin(Source(profile="keys")) == "profile keys"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert region_origin(Source(profile="keys")) == "AWS_DEFAULT_REGION"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert region_origin(Source(profile="keys")) == "AWS_REGION"
    assert region_origin(Source(region="eu-west-2")) == "--region"


@pytest.mark.parametrize(
    ("hours", "renews", "state"), [(5, False, State.NOTE), (13, False, State.OK), (5, True, State.OK)]
)
def test_a_night_has_to_fit_into_credentials_that_nobody_renews(hours: int, *, renews: bool, state: State) -> None:
    identity = Identity(method="env", is_temporary=True, renews=renews, expires=NOW + timedelta(hours=hours))
    found = {finding.what: finding for finding in of_identity(identity, NOW, ASKER)}
    assert found["expiry"].state is state
    assert f"in {hours}.0 hours" in found["expiry"].found
    assert bool(found["expiry"].command) == (state is State.NOTE)


@pytest.mark.parametrize(
    ("method", "are_wrong", "command"),
    [
        ("sso", False, "aws sso login --profile p"),
        ("custom-process", False, "aws configure get credential_process --profile p"),
        ("assume-role", True, "aws sts get-caller-identity --profile p"),
        ("env", False, "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"),
        ("env", True, "aws configure --profile nccid && nccid-fetch doctor --profile nccid --dest /data/nccid"),
        ("shared-credentials-file", True, "aws configure --profile p"),
        ("shared-credentials-file", False, '${EDITOR:-vi} "${AWS_SHARED_CREDENTIALS_FILE:-$HOME/.aws/credentials}"'),
        (None, False, "aws configure --profile p"),
    ],
)
def test_how_credentials_are_renewed_depends_on_where_they_come_from(
    method: str | None, command: str, *, are_wrong: bool
) -> None:
    asker = replace(ASKER, method=method, profile="p")
    found = of_error(CredentialsError("no", are_wrong=are_wrong), asker)
    assert (found.area, found.exit_code, found.command) == (Area.CREDENTIALS, 4, command)


# --- The endpoint ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "state", "code"),
    [(0.4, State.OK, 0), (-59, State.OK, 0), (61, State.NOTE, 0), (-899, State.NOTE, 0), (-900, State.PROBLEM, 4)],
)
def test_a_clock_is_a_problem_where_s3_refuses_it(seconds: float, state: State, code: int) -> None:
    found = of_clock(seconds)
    assert (found.state, found.exit_code) == (state, code)
    assert (found.command is None) == (state is State.OK)
    assert abs(seconds) < 2 or ("ahead of" if seconds > 0 else "behind") in found.found


def test_half_of_the_round_trip_is_not_taken_for_an_offset_of_the_clock() -> None:
    assert Answered(sent=1000.0, received=1010.0, date=1005.0).offset_seconds == -0.5
    assert Answered(sent=1000.0, received=1001.0).offset_seconds is None


def test_the_witness_remembers_the_quickest_answer_and_the_servers_time() -> None:
    class Http:
        dates = iter(["Wed, 25 Nov 2026 18:00:00 GMT", None, "yesterday"])

        async def send(self, _: object) -> object:
            return SimpleNamespace(headers={"date": next(self.dates)})

    session: Any = SimpleNamespace(http=Http())
    times = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    witness = Witness(session, lambda: next(times))

    async def ask() -> None:
        for _ in range(3):
            await session.http.send("request")

    run(ask())
    assert [answer.date for answer in witness.answers] == [NOW.timestamp(), None, None]
    assert witness.quickest == Answered(0.0, 3.0, NOW.timestamp())


def test_a_proxy_is_shown_without_its_password() -> None:
    place = Place(
        url="https://s3.example.org/b", region="r", region_origin="o", proxy="http://user:canary@proxy.example:3128"
    )
    for quickest in (None, Answered(0.0, 0.1)):
        told = " ".join(finding.found for finding in of_place(place, Encryption("TLSv1.3", "Amazon"), quickest))
        assert "proxy.example:3128" in told
        assert "canary" not in told


def test_a_way_without_encryption_is_a_note_beyond_this_machine() -> None:
    place = Place(url="http://s3.example.org/b", region="r", region_origin="o")
    assert {finding.what: finding.state for finding in of_place(place, None, None)}["encryption"] is State.NOTE
    here = replace(place, url="http://127.0.0.1:9/b")
    assert "encryption" not in {finding.what for finding in of_place(here, None, None)}


def test_a_certificate_that_is_not_trusted_is_told_from_an_endpoint_that_is_gone() -> None:
    error = EndpointError("it shows a certificate that is not trusted")
    error.__cause__ = UntrustedError()
    found = of_error(error, ASKER)
    assert (found.what, found.exit_code) == ("certificate", 5)
    assert found.command == "openssl s_client -connect s3.example.org:443 -showcerts </dev/null"


# --- The destination ------------------------------------------------------------------------------


def test_a_good_destination_has_nothing_but_well() -> None:
    assert {finding.state for finding in judged(GOOD).values()} == {State.OK}


@pytest.mark.parametrize(
    ("seen", "what", "state", "command"),
    [
        ({"is_folder": False}, "folder", State.PROBLEM, "nccid-fetch doctor --dest nccid-data"),
        ({"is_root": True}, "folder", State.PROBLEM, "nccid-fetch doctor --dest nccid-data"),
        ({"refusal": "no", "is_read_only": True}, "folder", State.PROBLEM, "findmnt --target /data/nccid"),
        ({"refusal": "no"}, "folder", State.PROBLEM, "chmod u+rwx /data/nccid"),
        ({"refusal": "no", "owner": "root"}, "folder", State.PROBLEM, "ls -ld /data/nccid"),
        ({"owner": "root"}, "owner", State.NOTE, 'sudo chown -R "$USER" /data/nccid'),
        ({"refusal": "no", "is_full": True}, "space", State.PROBLEM, "df -h /data/nccid"),
        ({"space": Space(999_999_999, None)}, "space", State.PROBLEM, "df -h /data/nccid"),
        ({"space": Space(1_000_000_000, None)}, "space", State.NOTE, "nccid-fetch plan --dest /data/nccid"),
        ({"space": Space(10 * EVERYTHING_BYTES, 999)}, "files", State.PROBLEM, "df -i /data/nccid"),
        ({"space": Space(10 * EVERYTHING_BYTES, 1000)}, "files", State.NOTE, "nccid-fetch plan --dest /data/nccid"),
        ({"mode": 0o701}, "permissions", State.PROBLEM, "chmod 700 /data/nccid"),
        ({"mode": 0o750}, "permissions", State.NOTE, "chmod 700 /data/nccid"),
        ({"mode": 0o701, "owner": "root"}, "permissions", State.PROBLEM, "ls -ld /data/nccid"),
        ({"mode": 0o777, "traits": Traits(mode=0o777)}, "permissions", State.NOTE, "findmnt --target /data/nccid"),
        ({"traits": Traits(mode=0o755, refusal="no")}, "permissions", State.NOTE, "findmnt --target /data/nccid"),
        ({"traits": Traits(keeps_times=False)}, "times", State.NOTE, "findmnt --target /data/nccid"),
        ({"remote": "NFS"}, "file system", State.NOTE, "df -hT /data/nccid"),
        ({"traits": Traits(folds=True)}, "names", State.NOTE, "nccid-fetch plan --dest /data/nccid"),
        ({"name_bytes_max": 143}, "names", State.NOTE, "getconf NAME_MAX /data/nccid"),
        ({"unreadable": ("no", None)}, "journal", State.PROBLEM, "ls -la /data/nccid/.nccid-fetch"),
        ({"health": Held()}, "journal", State.NOTE, "nccid-fetch status --dest /data/nccid"),
        ({"health": Damaged(why="no")}, "journal", State.NOTE, "nccid-fetch all --dest /data/nccid"),
        ({"health": Newer(version=9)}, "journal", State.PROBLEM, "pip install --upgrade nccid-fetch"),
    ],
    ids=str,
)
def test_what_a_destinations_state_means(seen: dict[str, Any], what: str, state: State, command: str) -> None:
    found = judged(replace(GOOD, **seen))[what]
    assert (found.state, found.command) == (state, command)
    assert found.hint


@fault(139)
@pytest.mark.parametrize("is_there", [True, False])
def test_modes_that_are_not_kept_are_found_out_as_a_run_does_and_no_chmod_is_advised(
    dest: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    if is_there:
        dest.mkdir()

    def refused(descriptor: int, mode: int) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refused)
    seen = look_at(dest)
    assert (seen.refusal, seen.traits) == (None, Traits(refusal="Operation not permitted"))
    found = judged(seen)["permissions"]
    assert (found.state, found.found) == (State.OK, modes_text(Traits(refusal="Operation not permitted")))
    assert all("chmod" not in str(finding) for finding in judged(seen).values())


@fault(142)
def test_a_state_folder_of_another_user_is_said_to_be_that(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dest / ".nccid-fetch").mkdir(parents=True)
    owner = user_name(dest.stat().st_uid)

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("nccid_fetch.doctor.premises.tempfile.TemporaryFile", refused)
    monkeypatch.setattr("nccid_fetch.doctor.premises.os.geteuid", lambda: 4321)
    assert look_at(dest).refusal == f".nccid-fetch in it belongs to {owner}"


def test_a_plan_is_asked_of_the_same_source_as_the_doctor() -> None:
    source = replace(SOURCE, profile="nccid")
    for space in (Space(1_000_000_000, None), Space(10 * EVERYTHING_BYTES, 1000)):
        found = findings_of(replace(GOOD, space=space), source, Path("/data/nccid"), 8192)
        commands = [finding.command for finding in found if finding.state is State.NOTE]
        assert commands == ["nccid-fetch plan --profile nccid --dest /data/nccid"]


def test_what_is_there_already_needs_no_room() -> None:
    there = Healthy(bucket=SOURCE.bucket, group="training", objects=11_000_000, bytes=EVERYTHING_BYTES)
    seen = replace(GOOD, space=Space(2_000_000_000, 2000), health=there)
    assert judged(seen)["space"].state is State.OK
    assert judged(replace(seen, health=None))["space"].state is State.NOTE


@fault(145)
@pytest.mark.parametrize(
    ("missing", "free", "space", "files"),
    [
        ((0, 0), Space(1, 1), State.OK, None),
        ((500, 1), Space(500, 1), State.OK, None),
        ((500, 2), Space(499, 1), State.PROBLEM, State.PROBLEM),
        ((2_000_000_000, 2000), Space(999_999_999, 999), State.PROBLEM, State.PROBLEM),
        ((2_000_000_000, 2000), Space(1_000_000_000, 1000), State.NOTE, State.NOTE),
        ((2_000_000_000, 2000), Space(2_000_000_000, 2000), State.OK, None),
    ],
)
def test_little_room_is_enough_for_little_that_is_still_to_come(
    missing: tuple[int, int], free: Space, space: State, files: State | None
) -> None:
    """A tree that is complete needs none."""
    have = Healthy(
        bucket=SOURCE.bucket,
        group="training",
        objects=10,
        bytes=1000,
        listed_objects=10 + missing[1],
        listed_bytes=1000 + missing[0],
    )
    found = judged(replace(GOOD, space=free, health=have))
    assert found["space"].state is space
    assert (found["files"].state if "files" in found else None) is files


def test_a_disk_that_takes_nothing_is_a_problem_even_of_a_complete_tree() -> None:
    have = Healthy(bucket=SOURCE.bucket, group="training", objects=10, bytes=1000, listed_objects=10, listed_bytes=1000)
    found = judged(replace(GOOD, refusal="no", is_full=True, space=Space(0, None), health=have))
    assert found["space"].state is State.PROBLEM


@pytest.mark.parametrize(
    ("gigabytes", "files", "state"), [(30, 20, State.OK), (31, 20, State.NOTE), (30, 3000, State.NOTE)]
)
def test_what_was_last_listed_is_what_room_is_needed_for(gigabytes: int, files: int, state: State) -> None:
    listed = Healthy(
        bucket=SOURCE.bucket,
        group="training",
        objects=10,
        bytes=10_000_000_000,
        listed_objects=files,
        listed_bytes=gigabytes * 1_000_000_000,
    )
    found = judged(replace(GOOD, space=Space(20_000_000_000, 1500), health=listed))
    assert max((finding.state for finding in found.values()), key=list(State).index) is state


@pytest.mark.parametrize(
    ("files", "state"), [(None, State.OK), (240, State.OK), (239, State.NOTE), (51, State.NOTE), (50, State.PROBLEM)]
)
def test_open_files_are_held_against_the_objects_in_flight_that_are_usual(files: int | None, state: State) -> None:
    found = judged(GOOD, files)["open files"]
    assert found.state is state
    assert (found.command == "sudo prlimit --pid $$ --nofile=8192:8192") == (state is not State.OK)


def test_a_destination_that_may_not_be_written_is_not_tried(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    seen = look_at(dest)
    assert (seen.refusal, seen.traits) == ("it may not be written", None)


@pytest.mark.parametrize("has_state", [True, False])
def test_what_is_tried_is_tried_in_the_state_folder_and_never_in_the_tree(
    dest: Path, monkeypatch: pytest.MonkeyPatch, *, has_state: bool
) -> None:
    (dest / ".nccid-fetch").mkdir(parents=True) if has_state else dest.mkdir()
    tried = []

    def try_it(folder_fd: int, wanted: int) -> Traits:
        tried.append(os.path.samestat(os.fstat(folder_fd), (dest / ".nccid-fetch").stat()))
        return Traits(wanted=wanted)

    monkeypatch.setattr("nccid_fetch.doctor.premises.find_traits", try_it)
    look_at(dest)
    assert tried == [True]
    assert (dest / ".nccid-fetch").exists() == has_state


def test_a_state_folder_that_is_a_link_is_not_followed(dest: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    dest.mkdir()
    (dest / ".nccid-fetch").symlink_to(tmp_path / "elsewhere")
    seen = look_at(dest)
    assert seen.unreadable is not None
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_disk_that_hangs_is_not_waited_for() -> None:
    let_go = threading.Event()
    with pytest.raises(TimeoutError):
        run(in_time(let_go.wait, 0.01))
    let_go.set()
    assert run(in_time(lambda: 1, 60.0)) == 1
    with pytest.raises(ZeroDivisionError):
        run(in_time(lambda: 1 // 0, 60.0))


# --- The journal ----------------------------------------------------------------------------------


@pytest.fixture
def journal(dest: Path) -> Iterator[Journal]:
    (dest / ".nccid-fetch").mkdir(parents=True)
    opened = Journal.open(dest, bucket="bucket", group="training", endpoint="")
    assert opened is not None
    with closing(opened):
        with opened.run("get", []):
            opened.note_listing("ct", 3, 70, is_whole=True, endpoint="")
            opened.commit([("training/ct/a", Record(7, ETag("a"), 0, VerifiedBy.MD5))])
        yield opened


def beside(dest: Path) -> list[str]:
    return sorted(path.name for path in (dest / ".nccid-fetch").iterdir())


def test_a_journal_that_was_closed_in_order_is_read_and_nothing_is_left_beside_it(dest: Path, journal: Journal) -> None:
    journal.close()
    found = health_of(dest)
    assert isinstance(found, Healthy)
    assert (found.bucket, found.group, found.objects, found.bytes, found.ended) == ("bucket", "training", 1, 7, True)
    assert (found.listed_objects, found.listed_bytes) == (3, 70)
    assert found.last_run is not None
    assert found.last_run[0] == "get"
    assert beside(dest) == ["journal.sqlite"]


def test_no_journal_is_none(dest: Path) -> None:
    assert health_of(dest) is None


KILLED = """
import os, sys
from pathlib import Path
from nccid_fetch.journal import Journal
journal = Journal.open(Path(sys.argv[1]), bucket="bucket", group="training", endpoint="")
with journal.run("all", []):
    os._exit(0)
"""


def test_what_a_killed_run_left_is_read_as_it_is_and_stays_as_it_is(dest: Path, journal: Journal) -> None:
    journal.close()
    subprocess.run([sys.executable, "-c", KILLED, str(dest)], check=True)
    left = beside(dest), {path: path.read_bytes() for path in (dest / ".nccid-fetch").iterdir()}
    assert left[0] == ["journal.sqlite", "journal.sqlite-wal"]
    found = health_of(dest)
    assert isinstance(found, Healthy)
    assert (found.objects, found.ended) == (1, False)
    assert found.last_run is not None
    assert found.last_run[0] == "all"
    assert (beside(dest), {path: path.read_bytes() for path in (dest / ".nccid-fetch").iterdir()}) == left


@pytest.mark.parametrize("damage", ["head", "middle", "end"])
def test_damage_is_found_wherever_it_is(dest: Path, journal: Journal, damage: str) -> None:
    journal.close()
    path = Journal.path(dest)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'object'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    if damage == "end":
        del data[-size:]
    else:
        start = 0 if damage == "head" else (page - 1) * size
        data[start : start + 100] = b"\xff" * 100
    path.write_bytes(data)
    before = path.read_bytes()
    assert isinstance(health_of(dest), Damaged)
    assert path.read_bytes() == before
    assert "journal.sqlite" in beside(dest)


def test_a_journal_of_a_newer_version_is_told_by_it(dest: Path, journal: Journal) -> None:
    journal.close()
    with closing(sqlite3.connect(Journal.path(dest))) as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
    assert health_of(dest) == Newer(version=VERSION + 1)


def test_a_journal_that_takes_long_is_looked_through_in_part(
    dest: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.close()
    monkeypatch.setattr("nccid_fetch.doctor.records._STEPS", 1)
    times = iter([0.0])
    found = health_of(dest, lambda: next(times, 1e9))
    assert isinstance(found, Healthy)
    assert not found.looked_through
    assert (
        "that there was time for" in judged(replace(GOOD, health=replace(found, bucket=SOURCE.bucket)))["journal"].found
    )
