"""The journal: what it remembers, who may hold it, and what is left of it after a kill, damage or a full disk."""

import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nccid_fetch import journal as module
from nccid_fetch import schema, sqlitefile
from nccid_fetch.errors import DestinationBusyError, DestinationError, Reason, UsageError
from nccid_fetch.failures import UNLISTED
from nccid_fetch.filesystem import user_name
from nccid_fetch.journal import Journal
from nccid_fetch.keys import STATE_FOLDER
from nccid_fetch.model import ETag, Record, VerifiedBy
from nccid_fetch.schema import VERSION
from nccid_fetch.settings import Durability
from nccid_fetch.sqlitefile import alone, set_aside

from .catalogue import fault

BUCKET, GROUP, ENDPOINT = "a-bucket", "training", "https://s3.example.org"
MD5 = ETag("9e107d9d372bb6826bd81d3542a419d6")
NOW = 1_600_000_000_123_000_000
RECORD = Record(10, MD5, NOW, VerifiedBy.MD5)


def new_dest(folder: Path) -> Path:
    """Make a destination as `open_destination` leaves it."""
    dest = folder / "dest"
    (dest / STATE_FOLDER).mkdir(parents=True, mode=0o700)
    return dest


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return new_dest(tmp_path)


@contextmanager
def opened(dest: Path, *, bucket: str = BUCKET, group: str = GROUP, boot: str | None = "boot") -> Iterator[Journal]:
    """Open a journal, made if it is missing, and close it."""
    journal = Journal.open(dest, bucket=bucket, group=group, endpoint=ENDPOINT, boot=boot)
    assert journal is not None
    with closing(journal):
        yield journal


@contextmanager
def plainly(dest: Path) -> Iterator[sqlite3.Connection]:
    """Open the file as any SQLite tool would."""
    with closing(sqlite3.connect(Journal.path(dest))) as connection:
        yield connection


def rows_of(dest: Path, query: str) -> list[tuple[object, ...]]:
    with plainly(dest) as connection:
        return connection.execute(query).fetchall()


# ---- What is remembered


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        Record(0, MD5, 0, VerifiedBy.SIZE),
        Record(5 << 40, ETag(f"{MD5}-10000"), NOW, VerifiedBy.MULTIPART_MD5),
        Record((1 << 63) - 1, ETag(MD5.upper()), NOW, VerifiedBy.CHECKSUM),
        Record(1, ETag(""), NOW, VerifiedBy.MD5),
        Record(1, ETag("not a digest \u00e9\n"), NOW, VerifiedBy.MD5),
        Record(1, ETag("abcd"), NOW, VerifiedBy.MD5),
        Record(1, ETag("9" * 64), NOW, VerifiedBy.MD5),
        Record(1, MD5, 1_000_000, VerifiedBy.MD5),
        Record(1, MD5, -1_000_000, VerifiedBy.MD5),
    ],
)
def test_a_record_is_remembered_as_it_is_also_by_the_next_run(dest: Path, record: Record) -> None:
    key = "training/ct/a\nb \u00e9 e\u0301.dcm"
    with opened(dest) as journal:
        journal.commit([(key, record)])
        assert journal.records([key]) == {key: record}
    with opened(dest) as journal:
        assert journal.records([key]) == {key: record}
        assert isinstance(journal.records([key])[key].etag, ETag)


def test_times_are_kept_to_the_millisecond(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD._replace(modified_ns=NOW + 999_999))])
        assert journal.records(["training/ct/a"])["training/ct/a"].modified_ns == NOW


def test_what_sqlite_has_no_number_for_is_no_defect(dest: Path) -> None:
    """A server that lists times in the year 9999, which ext4 ends before, or more bytes than there are."""
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD._replace(mtime_ns=1 << 63))])
        assert journal.records(["training/ct/a"]) == {"training/ct/a": RECORD}
        journal.note_listing("ct", 1, 1 << 64, is_whole=True, endpoint="")
        assert journal.listed()["ct"].bytes == (1 << 63) - 1


def test_an_md5_takes_16_bytes_and_any_other_etag_stays_text(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit(
            [
                ("training/ct/a", RECORD),
                ("training/ct/b", RECORD._replace(etag=ETag(MD5.upper()))),
                ("training/ct/c", RECORD._replace(etag=ETag(f"{MD5}-2"))),
            ]
        )
    assert rows_of(dest, "SELECT typeof(etag), length(etag) FROM object ORDER BY name") == [
        ("blob", 16),
        ("text", 32),
        ("text", 34),
    ]


@fault(110)
def test_a_later_record_of_a_key_takes_the_place_of_the_earlier(dest: Path) -> None:
    later = Record(11, ETag("0" * 32), NOW + 1_000_000, VerifiedBy.CHECKSUM)
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
        journal.commit([("training/ct/a", later)])
        assert journal.records(["training/ct/a"]) == {"training/ct/a": later}


# Folders inside folders, names that sort around the slash, and letters of one to four bytes.
KEYS = st.text("/!0ab\u00e9\u4e2d\U0001f600", min_size=1, max_size=7).map("training/{}".format)


@given(st.dictionaries(KEYS, st.integers(0, 9), max_size=30), st.sets(KEYS, max_size=30), st.randoms())
@settings(max_examples=60)
def test_the_records_of_a_page_are_those_that_brute_force_finds(
    stored: dict[str, int], others: set[str], chance: Random
) -> None:
    records = {key: RECORD._replace(size=size) for key, size in stored.items()}
    page = sorted(
        {*chance.sample(sorted(stored), chance.randint(0, len(stored))), *others}, key=lambda key: key.encode()
    )
    with tempfile.TemporaryDirectory() as folder, opened(new_dest(Path(folder))) as journal:
        journal.commit(records.items())
        assert journal.records(page) == {key: records[key] for key in page if key in records}


def test_the_records_of_a_page_are_found_though_the_keys_come_in_no_order(dest: Path) -> None:
    """A plan that was cut down by hand need not be sorted."""
    keys = ["training/ct/b/2", "training/ct/a", "training/ct/b/1", "training/ct/c", "training/ct/a0"]
    with opened(dest) as journal:
        journal.commit((key, RECORD) for key in keys)
        assert journal.records(keys) == dict.fromkeys(keys, RECORD)


def test_nothing_is_remembered_of_an_empty_page(dest: Path) -> None:
    with opened(dest) as journal:
        assert journal.records([]) == {}


# ---- Batches


@fault(107)
def test_a_batch_that_breaks_leaves_nothing_of_itself(dest: Path) -> None:
    def broken() -> Iterator[tuple[str, Record]]:
        yield "training/ct/new/b", RECORD
        raise KeyError

    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
        with pytest.raises(KeyError):
            journal.commit(broken())
        assert journal.records(["training/ct/a", "training/ct/new/b"]) == {"training/ct/a": RECORD}
    assert rows_of(dest, "SELECT key FROM objects") == [("training/ct/a",)]


def test_a_batch_whose_failures_break_records_no_file_either(dest: Path) -> None:
    with opened(dest) as journal:
        with pytest.raises(AttributeError):
            journal.commit([("training/ct/a", RECORD)], [("training/ct/b", Reason.GONE, None)])  # type: ignore[list-item]
        assert journal.records(["training/ct/a"]) == {}


def test_a_folder_first_seen_in_a_batch_that_broke_is_made_by_the_next(dest: Path) -> None:
    """The number that the broken batch gave it is forgotten: it may go to another folder."""

    def broken() -> Iterator[tuple[str, Record]]:
        yield "training/ct/one/a", RECORD
        raise KeyError

    with opened(dest) as journal:
        with pytest.raises(KeyError):
            journal.commit(broken())
        journal.commit([("training/ct/two/a", RECORD)])
        journal.commit([("training/ct/one/b", RECORD)])
    assert rows_of(dest, "SELECT key FROM objects ORDER BY key") == [("training/ct/one/b",), ("training/ct/two/a",)]


def test_failures_are_kept_with_reason_and_message_beside_the_files(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)], [("training/ct/b", Reason.GONE, "it was deleted")])
    assert rows_of(dest, "SELECT * FROM failure") == [("training/ct/b", "gone", "it was deleted")]
    assert rows_of(dest, "SELECT key FROM objects") == [("training/ct/a",)]


def test_a_key_that_is_no_text_can_be_named_among_the_failures(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([], [("training/ct/\ud800", Reason.UNSAFE_KEY, "\udcff"), ("training/a\0b", Reason.GONE, "")])
    assert rows_of(dest, "SELECT key, message FROM failure ORDER BY key DESC") == [
        ("training/ct/\\ud800", "\\udcff"),
        ("training/a\0b", ""),
    ]


FAILED = ("training/ct-metadata/a", "training/ct/a", "training/ct/z/\U0001f600", "training/ct0/a", "training/data/a")


def failed_keys(dest: Path) -> set[object]:
    return {key for (key,) in rows_of(dest, "SELECT key FROM failure")}


@fault(150)
def test_a_run_that_looks_at_nothing_forgets_no_failure(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([], [(key, Reason.GONE, "") for key in FAILED])
        with journal.run("get", ["training/ct/", "training/data/"]):
            journal.failures.look_again(["training/ct/a"], [])
    assert failed_keys(dest) == {*FAILED}


@fault(150)
def test_a_failure_is_forgotten_when_its_object_is_in_place_and_when_a_whole_listing_has_it_no_more(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([], [(key, Reason.GONE, "") for key in FAILED])
        with journal.run("get", ["training/ct/", "training/data/"]):
            journal.failures.look_again(["training/ct/a", "training/ct/b"], ["training/ct/b"])
            journal.failures.forget_unlisted("training/ct/")
            assert failed_keys_of(journal) == {*FAILED} - {"training/ct/z/\U0001f600"}
            journal.failures.look_again(["training/data/a"], ["training/data/a"])
            assert failed_keys_of(journal) == {*FAILED} - {"training/ct/z/\U0001f600", "training/data/a"}
            journal.commit([("training/ct/a", RECORD)], [("training/ct/c", Reason.CHANGED, "")])
    assert failed_keys(dest) == {"training/ct-metadata/a", "training/ct0/a", "training/ct/c"}


def failed_keys_of(journal: Journal) -> set[object]:
    return {key for (key,) in journal._connection.execute("SELECT key FROM failure")}


def test_whether_anything_failed_is_known_without_asking_the_disk(dest: Path) -> None:
    """The event loop asks, and only the journal's thread may use the connection."""
    asked: list[str] = []
    with opened(dest) as journal:
        with journal.run("get", ["training/ct/"]):
            journal._connection.set_trace_callback(asked.append)
            assert (journal.failures.any, asked) == (False, [])
            journal.commit([], [("training/ct/a", Reason.GONE, "")])
            assert journal.failures.any
        with journal.run("get", ["training/ct/"]):
            asked.clear()
            assert (journal.failures.any, asked) == (True, [])


@fault(150)
def test_a_listing_forgets_no_failure_of_its_own_run(dest: Path) -> None:
    with opened(dest) as journal, journal.run("get", ["training/ct/"]):
        journal.commit([], [("training/ct/a", Reason.GONE, "")])
        journal.failures.forget_unlisted("training/ct/")
    assert failed_keys(dest) == {"training/ct/a"}


@fault(150)
def test_a_failure_whose_key_is_no_text_is_forgotten_as_well(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([], [("training/ct/\ud800", Reason.LOCAL_ERROR, "")])
        journal.failures.forget(["training/ct/\ud800"])
    assert failed_keys(dest) == set()


def test_a_run_is_noted_from_its_beginning_to_its_end_however_it_ends(dest: Path) -> None:
    with opened(dest) as journal:
        with journal.run("all", []):
            assert journal._connection.execute("SELECT command, ended FROM run").fetchall() == [("all", None)]
        with pytest.raises(KeyError), journal.run("get", []):
            raise KeyError
    stamp = "20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z"
    ended = f"SELECT command, started GLOB '{stamp}', ended GLOB '{stamp}', started <= ended FROM run ORDER BY id"
    assert rows_of(dest, ended) == [("all", 1, 1, 1), ("get", 1, 1, 1)]


def test_of_twins_the_first_to_ask_owns_the_name_also_in_the_next_run(dest: Path) -> None:
    with opened(dest) as journal:
        assert journal.own_names([("ct/a", "training/ct/A"), ("ct/a", "training/ct/a"), ("ct/b", "training/ct/b")]) == [
            "training/ct/A",
            "training/ct/A",
            "training/ct/b",
        ]
    with opened(dest) as journal:
        assert journal.own_names([("ct/a", "training/ct/a")]) == ["training/ct/A"]


def test_names_that_cannot_be_owned_leave_the_journal_ready_for_the_next_batch(dest: Path) -> None:
    with opened(dest) as journal:
        with pytest.raises(sqlite3.Error):
            journal.own_names([("ct/a", "training/ct/a"), ("ct/b", object())])  # type: ignore[list-item]
        journal.commit([("training/ct/b", RECORD)])
        assert journal.own_names([("ct/a", "training/ct/A")]) == ["training/ct/A"]


# ---- Whose it is


@fault(103)
def test_it_belongs_to_one_bucket_and_group(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
    for bucket, group in (("other", GROUP), (BUCKET, "validation")):
        with (
            pytest.raises(UsageError, match="belongs to group training of bucket a-bucket") as refusal,
            opened(dest, bucket=bucket, group=group),
        ):
            pass
        assert refusal.value.exit_code == 2
    with opened(dest) as journal:  # The refused runs have let go of it.
        assert journal.records(["training/ct/a"]) == {"training/ct/a": RECORD}
    assert rows_of(dest, "SELECT bucket, group_name, endpoint FROM identity") == [(BUCKET, GROUP, ENDPOINT)]


@fault(102)
def test_a_journal_of_a_newer_version_is_refused_and_not_touched(dest: Path) -> None:
    with opened(dest):
        pass
    with plainly(dest) as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(UsageError, match="newer nccid-fetch") as refusal, opened(dest):
        pass
    assert refusal.value.hint == "upgrade nccid-fetch"
    assert rows_of(dest, "PRAGMA user_version") == [(VERSION + 1,)]


def test_a_missing_journal_stays_missing_unless_an_endpoint_is_given(dest: Path) -> None:
    assert Journal.open(dest, bucket=BUCKET, group=GROUP) is None
    assert Journal.open(dest / "missing", bucket=BUCKET, group=GROUP) is None
    assert list((dest / STATE_FOLDER).iterdir()) == []


# ---- The lock

OPEN = f"""
import sys
from pathlib import Path
from nccid_fetch import journal as module
from nccid_fetch.errors import DestinationBusyError
from nccid_fetch.journal import Journal
from nccid_fetch.model import ETag, Record, VerifiedBy
try:
    journal = Journal.open(Path(sys.argv[1]), bucket={BUCKET!r}, group={GROUP!r}, endpoint="")
except DestinationBusyError as error:
    print("busy", error.exit_code)
    sys.exit()
"""


def in_another_process(dest: Path, code: str = "print('opened'); journal.close()") -> str:
    command = [sys.executable, "-c", OPEN + code, str(dest)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=110).stdout.strip()


def test_a_second_process_is_refused_until_the_first_lets_go(dest: Path) -> None:
    with opened(dest):
        assert in_another_process(dest) == "busy 75"
    assert in_another_process(dest) == "opened"


def test_a_second_run_in_one_process_is_refused_and_does_not_break_the_lock_of_the_first(dest: Path) -> None:
    """POSIX locks go when a process closes any descriptor of the file, so the second may not even open it."""
    with opened(dest) as journal:
        for endpoint in (ENDPOINT, None):
            with pytest.raises(DestinationBusyError):
                Journal.open(dest, bucket=BUCKET, group=GROUP, endpoint=endpoint)
        assert in_another_process(dest) == "busy 75"
        journal.commit([("training/ct/a", RECORD)])
        assert journal.records(["training/ct/a"]) == {"training/ct/a": RECORD}


@fault(88, 107)
def test_what_a_killed_writer_committed_is_there_and_nothing_of_its_open_batch(dest: Path) -> None:
    code = f"""
journal.commit([(f"training/ct/{{i}}", Record(i, ETag({str(MD5)!r}), 0, VerifiedBy.MD5)) for i in range(500)])
run = journal.run("all", [])
run.__enter__()
def batch():
    yield "training/ct/open", Record(1, ETag(""), 0, VerifiedBy.MD5)
    print("in the middle", flush=True)
    sys.stdin.read()
journal.commit(batch())
"""
    with subprocess.Popen(
        [sys.executable, "-c", OPEN + code, str(dest)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "in the middle\n"
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.wait(timeout=110) == -signal.SIGKILL
    keys = [f"training/ct/{number}" for number in range(500)]
    with opened(dest) as journal:
        records = journal.records([*keys, "training/ct/open"])
        assert records == {key: Record(size, MD5, 0, VerifiedBy.MD5) for size, key in enumerate(keys)}
    assert rows_of(dest, "SELECT command, ended FROM run") == [("all", None)]
    assert rows_of(dest, "PRAGMA integrity_check") == [("ok",)]


# ---- The file


def test_a_commit_waits_until_the_disk_has_it(dest: Path) -> None:
    with opened(dest) as journal:
        assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


@fault(109)
def test_after_a_run_exactly_one_file_remains(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
        assert {path.name for path in (dest / STATE_FOLDER).iterdir()} == {"journal.sqlite", "journal.sqlite-wal"}
    assert [path.name for path in (dest / STATE_FOLDER).iterdir()] == ["journal.sqlite"]


@fault(82, 118)
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_nobody_else_may_read_it_whatever_the_umask(dest: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with opened(dest) as journal:
            journal.commit([("training/ct/a", RECORD)])
            for path in (dest / STATE_FOLDER).iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    finally:
        os.umask(before)


def test_people_read_it_through_a_view_with_any_sqlite_tool(dest: Path) -> None:
    with opened(dest) as journal:
        journal.commit(
            [
                ("training/ct/Covid1/a.dcm", RECORD),
                ("training/data/b.json", Record(1, ETag("AB-2"), 0, VerifiedBy.MULTIPART_MD5)),
                ("training/data/c.json", Record(2, ETag(""), 0, VerifiedBy.CHECKSUM)),
                ("training/data/d.json", Record(3, ETag(""), 0, VerifiedBy.SIZE)),
            ]
        )
    assert rows_of(dest, "SELECT key, size, etag, modified, verified_by FROM objects ORDER BY key") == [
        ("training/ct/Covid1/a.dcm", 10, str(MD5), "2020-09-13T12:26:40Z", "md5"),
        ("training/data/b.json", 1, "AB-2", "1970-01-01T00:00:00Z", "multipart_md5"),
        ("training/data/c.json", 2, "", "1970-01-01T00:00:00Z", "checksum"),
        ("training/data/d.json", 3, "", "1970-01-01T00:00:00Z", "size"),
    ]


def nccid_keys(count: int) -> Iterator[str]:
    """Yield keys as NCCID has them, 500 to a series, with names of 64 characters."""
    for number in range(count):
        series = number // 500
        yield (
            f"training/ct/Covid{series // 4:07}/1.2.826.0.1.3680043.9.3218.1.1.{series // 2:018}/"
            f"1.2.826.0.1.3680043.9.3218.1.1.{series:018}/{number:060}.dcm"
        )


def test_an_object_takes_no_more_than_140_bytes(dest: Path) -> None:
    count = 20_000
    keys = list(nccid_keys(count))
    assert len(keys[0].rpartition("/")[2]) == 64
    with opened(dest) as journal:
        for begin in range(0, count, 1000):
            journal.commit(
                (key, Record(500_000 + begin, ETag(f"{begin:032x}"), NOW, VerifiedBy.MD5))
                for key in keys[begin : begin + 1000]
            )
    assert Journal.path(dest).stat().st_size / count <= 140
    assert rows_of(dest, "SELECT count(*) FROM folder") == [(count // 500,)]


def test_no_query_reads_more_rows_than_it_needs(dest: Path) -> None:
    """Opening, a page and a batch cost the same in a journal of eleven million rows: no query scans a table of them."""
    queries: list[str] = []
    keys = list(nccid_keys(1000))
    clinical = [f"training/data/Covid{number:04}/status_2020-05-01.json" for number in range(1000)]
    with opened(dest) as journal:
        journal.commit((key, RECORD) for key in keys + clinical)
    connect = sqlite3.connect

    def listening(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(queries.append)
        return connection  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nccid_fetch.journal.sqlite3.connect", listening)
        with opened(dest) as journal, journal.run("get", ["training/ct/"]):
            assert len(journal.records(keys)) == 1000
            assert len(journal.records(clinical)) == 1000
            journal.commit([(keys[0], RECORD)], [(keys[1], Reason.GONE, "")])
            journal.failures.look_again(keys, keys[2:4])
            journal.failures.forget_unlisted("training/ct/")
            journal.own_names([("a", "A")])
    asked = [query for query in queries if query.partition(" ")[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}]
    found = [query for query in asked if " JOIN object " in query]
    assert len(found) == 3  # One per series of the first page, and one for all the folders of the second.
    with plainly(dest) as connection:
        connection.execute(UNLISTED)
        plans = {
            query: [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")] for query in set(asked)
        }
    small = ("SCAN identity", "SCAN unflushed", "SCAN sqlite_schema", "SCAN sqlite_master", "SCAN CONSTANT ROW")
    scans = {
        query: step for query, steps in plans.items() for step in steps if step.startswith("SCAN") and step not in small
    }
    assert scans == {}


def test_keys_far_apart_do_not_read_what_lies_between(dest: Path) -> None:
    patients = [f"training/data/Covid{number:04}/status_2020-05-01.json" for number in range(1000)]
    far_apart = patients[::100]
    with opened(dest) as journal:
        journal.commit((key, RECORD) for key in patients)
        assert set(journal.records(far_apart)) == set(far_apart)
        rows = list(journal._rows({key[: key.rfind("/") + 1]: ["status_2020-05-01.json"] for key in far_apart}, 20))
    assert len(rows) == len(far_apart)


def test_opening_a_large_journal_does_no_more_work_than_opening_a_small_one(tmp_path: Path) -> None:
    """Work is what SQLite's virtual machine does, counted by its progress handler, not time."""

    def steps_to_open(dest: Path) -> int:
        steps = 0
        connect = sqlite3.connect

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        def counting(*args: object, **options: object) -> sqlite3.Connection:
            connection = connect(*args, **options)  # type: ignore[call-overload]
            connection.set_progress_handler(step, 1)
            return connection  # type: ignore[no-any-return]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nccid_fetch.journal.sqlite3.connect", counting)
            with opened(dest):
                return steps

    small, large = new_dest(tmp_path / "small"), new_dest(tmp_path / "large")
    for dest in (small, large):
        with opened(dest):
            pass
    with plainly(large) as connection:
        connection.execute("INSERT INTO folder (id, prefix) VALUES (1, 'training/ct/')")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
            " INSERT INTO object SELECT 1, printf('%010d', i), 1, x'00', 1, 1, 0, NULL FROM n"
        )
        connection.commit()
    assert steps_to_open(large) == steps_to_open(small) > 0


# ---- Versions

VERSION_1 = """
CREATE TABLE identity (bucket TEXT NOT NULL, group_name TEXT NOT NULL, endpoint TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE folder (id INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE);
CREATE TABLE object (
    folder INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, etag NOT NULL,
    modified INTEGER NOT NULL, verified_by INTEGER NOT NULL, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE TABLE failure (key TEXT PRIMARY KEY, reason TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE twin (folded TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (id INTEGER PRIMARY KEY, command TEXT NOT NULL, started TEXT NOT NULL, ended TEXT);
CREATE VIEW objects AS SELECT
    prefix || name AS key, size, iif(typeof(etag) = 'blob', lower(hex(etag)), etag) AS etag,
    strftime('%Y-%m-%dT%H:%M:%SZ', modified / 1000, 'unixepoch') AS modified,
    CASE verified_by WHEN 1 THEN 'md5' WHEN 2 THEN 'multipart_md5' WHEN 3 THEN 'checksum' ELSE 'size' END AS verified_by
    FROM object JOIN folder ON folder.id = object.folder;
INSERT INTO identity VALUES ('a-bucket', 'training', 'https://s3.example.org', '2026-01-01T00:00:00Z');
INSERT INTO folder VALUES (1, 'training/ct/');
INSERT INTO object VALUES (1, 'a', 10, x'9e107d9d372bb6826bd81d3542a419d6', 1600000000123, 1);
INSERT INTO run VALUES (1, 'all', '2026-01-01T00:00:00Z', NULL);
PRAGMA user_version=1;
"""


def old_journal(dest: Path) -> None:
    with plainly(dest) as connection:
        connection.executescript(VERSION_1)


def schema_of(dest: Path) -> list[tuple[object, ...]]:
    """Return what each table and view has: its columns by name, type and default."""
    names = [
        str(name) for (name,) in rows_of(dest, "SELECT name FROM sqlite_schema WHERE type <> 'index' ORDER BY name")
    ]
    return [(name, row) for name in names for row in rows_of(dest, f"PRAGMA table_info({name})")]


@fault(102)
def test_a_journal_of_version_1_becomes_one_of_today_and_forgets_nothing(tmp_path: Path) -> None:
    old, new = new_dest(tmp_path / "old"), new_dest(tmp_path / "new")
    old_journal(old)
    with opened(new):
        pass
    with opened(old) as journal:
        assert journal.records(["training/ct/a"]) == {"training/ct/a": RECORD}
        journal.commit([("training/ct/b", RECORD)])
    assert rows_of(old, "SELECT key FROM objects") == [("training/ct/a",), ("training/ct/b",)]
    assert rows_of(old, "PRAGMA user_version") == [(VERSION,)]
    assert schema_of(old) == schema_of(new)


@fault(102)
def test_a_change_of_version_that_breaks_off_changes_nothing(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_journal(dest)
    before = schema_of(dest)
    with monkeypatch.context() as patch:
        patch.setattr(
            module, "MIGRATION", schema.MIGRATION | {1: schema.MIGRATION[1] + "INSERT INTO nothing VALUES (1);"}
        )
        with pytest.raises(DestinationError), opened(dest):
            pass
    assert (schema_of(dest), rows_of(dest, "PRAGMA user_version")) == (before, [(1,)])
    with opened(dest) as journal:
        assert journal.records(["training/ct/a"]) == {"training/ct/a": RECORD}


@fault(102, 103)
def test_a_journal_of_version_1_that_belongs_to_another_group_stays_one(dest: Path) -> None:
    old_journal(dest)
    before = schema_of(dest)
    with pytest.raises(UsageError, match="belongs to group training"), opened(dest, group="validation"):
        pass
    assert (schema_of(dest), rows_of(dest, "PRAGMA user_version")) == (before, [(1,)])


# ---- What was not flushed


def is_in_doubt(dest: Path, key: str, boot: str | None) -> bool:
    with opened(dest, boot=boot) as journal:
        return journal.records([key])[key].in_doubt


@fault(110)
@pytest.mark.parametrize("now", ["2030-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
def test_what_is_in_doubt_is_known_by_runs_and_boots_whatever_the_clock_says(
    dest: Path, monkeypatch: pytest.MonkeyPatch, now: str
) -> None:
    with opened(dest, boot="first") as journal, journal.run("all", [], Durability.NONE):
        journal.commit([("training/ct/a", RECORD)])
    monkeypatch.setattr(module, "now_text", lambda: now)
    with opened(dest, boot="second") as journal, journal.run("all", []):
        journal.commit([("training/ct/b", RECORD)])
        assert journal.records(["training/ct/a", "training/ct/b"]) == {
            "training/ct/a": RECORD._replace(in_doubt=True),
            "training/ct/b": RECORD,
        }
    assert [is_in_doubt(dest, "training/ct/a", boot) for boot in ("first", "second", None)] == [False, True, True]
    assert rows_of(dest, "SELECT id FROM run ORDER BY id") == [(1,), (2,)]


def test_a_newer_time_leaves_what_is_in_doubt_in_doubt(dest: Path) -> None:
    with opened(dest, boot="first") as journal, journal.run("all", [], Durability.NONE):
        journal.commit([("training/ct/a", RECORD)])
    with opened(dest, boot="first") as journal, journal.run("all", []):
        journal.retime([("training/ct/a", NOW + 1_000_000, NOW + 1_000_000)])
        assert journal.records(["training/ct/a"]) == {"training/ct/a": RECORD._replace(modified_ns=NOW + 1_000_000)}
    assert is_in_doubt(dest, "training/ct/a", "second")


def test_a_run_that_flushes_nothing_does_not_wait_for_its_commits_either(dest: Path) -> None:
    with opened(dest) as journal:
        for durability, synchronous in ((Durability.BATCH, 2), (Durability.FILE, 2), (Durability.NONE, 1)):
            with journal.run("all", [], durability):
                assert journal._connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        with journal.run("all", []):
            assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)


# ---- Other machines' file systems, and other people's tools


@fault(105)
def test_on_another_machines_file_system_there_is_no_wal_and_nothing_is_left_behind(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(dest) as journal:  # As on a tree that was copied there from a disk of one's own.
        journal.commit([("training/ct/a", RECORD)])
        assert journal.remote is None
    monkeypatch.setattr("nccid_fetch.sqlitefile.type_of", lambda descriptor: 0x6969)
    with opened(dest) as journal:
        assert journal.remote == "NFS"
        journal.commit([("training/ct/b", RECORD)])
        assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
        assert {path.name for path in (dest / STATE_FOLDER).iterdir()} == {"journal.sqlite", "journal.sqlite-journal"}
        assert in_another_process(dest) == "busy 75"
    assert [path.name for path in (dest / STATE_FOLDER).iterdir()] == ["journal.sqlite"]
    with opened(dest) as journal:
        assert set(journal.records(["training/ct/a", "training/ct/b"])) == {"training/ct/a", "training/ct/b"}


@fault(105)
@pytest.mark.parametrize(
    ("code", "number", "hint"),
    [
        *(
            (code, number, "its file system does not lock files")
            for code in (
                sqlite3.SQLITE_PROTOCOL,
                sqlite3.SQLITE_IOERR_LOCK,
                sqlite3.SQLITE_IOERR_RDLOCK,
                sqlite3.SQLITE_BUSY,
            )
            for number in (errno.ENOLCK, errno.EOPNOTSUPP)
        ),
        (sqlite3.SQLITE_IOERR_LOCK, errno.EIO, "check the disk"),
        (sqlite3.SQLITE_IOERR_RDLOCK, errno.EIO, "check the disk"),
        (sqlite3.SQLITE_IOERR_READ, errno.EIO, "check the disk"),
        (sqlite3.SQLITE_IOERR_LOCK, None, "check the disk"),
        (sqlite3.SQLITE_CANTOPEN, errno.ENOLCK, "check the disk"),
    ],
)
def test_where_no_lock_can_be_had_that_is_said_and_of_a_disk_that_fails_it_is_not(
    dest: Path, monkeypatch: pytest.MonkeyPatch, code: int, number: int | None, hint: str
) -> None:
    def lockf(*_: object) -> None:
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("nccid_fetch.sqlitefile.fcntl.lockf", lockf)

    def refused(*arguments: object, **options: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("locking protocol")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr("nccid_fetch.sqlitefile.sqlite3.connect", refused)
    with pytest.raises(DestinationError, match="locking protocol") as refusal, opened(dest):
        pass
    assert (refusal.value.hint or "").startswith(hint)
    assert list((dest / STATE_FOLDER).glob("tmp*")) == []


@fault(108)
def test_another_tool_is_kept_out_during_a_run_and_harms_nothing(dest: Path) -> None:
    look = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM objects').fetchall())"
    command = [sys.executable, "-c", look, str(Journal.path(dest))]
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
        found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
        assert "database is locked" in found.stderr
        journal.commit([("training/ct/b", RECORD)])
    assert subprocess.run(command, check=True, capture_output=True, timeout=110).stdout.count(b"training/ct/") == 2
    assert rows_of(dest, "PRAGMA integrity_check") == [("ok",)]


@fault(106)
def test_the_wal_stays_small_however_much_is_committed(dest: Path) -> None:
    sizes = []
    with opened(dest) as journal:
        for begin in range(0, 60_000, 1000):
            journal.commit((f"training/ct/{number:064}", RECORD) for number in range(begin, begin + 1000))
            sizes.append(Journal.path(dest).with_name("journal.sqlite-wal").stat().st_size)
    assert max(sizes) < 8 << 20
    assert sizes[-1] < 2 * sizes[len(sizes) // 2]


# ---- Damage


def damaged_files(dest: Path) -> list[Path]:
    return sorted((dest / STATE_FOLDER).glob("journal.sqlite.damaged-*"))


@fault(101)
@pytest.mark.parametrize(
    "damage",
    ["not a database", "truncated", "zero-filled", "header overwritten", "schema overwritten", "table overwritten"],
)
def test_a_damaged_journal_is_set_aside_and_made_anew(dest: Path, damage: str) -> None:
    with opened(dest) as journal:
        journal.commit((f"training/ct/{number:064}", RECORD) for number in range(1000))
    path = Journal.path(dest)
    data = path.read_bytes()
    spoiled = {
        "not a database": b"this is a text\n" * 1000,
        "truncated": data[: len(data) // 2],
        "zero-filled": bytes(len(data)),
        "header overwritten": bytes(100) + data[100:],
        "table overwritten": data[: 8 * 4096] + b"\xff" * 4096 + data[9 * 4096 :],
        "schema overwritten": data[:100] + b"\xff" * 3996 + data[4096:],
    }[damage]
    path.write_bytes(spoiled)
    path.with_name("journal.sqlite-wal").write_bytes(b"left over")
    assert Journal.open(dest, bucket=BUCKET, group=GROUP) is None  # Who only looks does not touch it.
    assert path.read_bytes() == spoiled
    with opened(dest) as journal:
        assert journal.records(["training/ct/" + "0" * 64]) == {}
        journal.commit([("training/ct/a", RECORD)])
    (aside,) = damaged_files(dest)
    assert aside.read_bytes() == spoiled
    assert rows_of(dest, "SELECT key FROM objects") == [("training/ct/a",)]
    assert {found.name for found in (dest / STATE_FOLDER).iterdir()} == {"journal.sqlite", aside.name}


@fault(101)
def test_damage_that_shows_only_later_ends_the_run_with_a_way_out(dest: Path) -> None:
    keys = spoil(dest)
    with opened(dest) as journal, pytest.raises(DestinationError, match="is damaged") as failure:
        journal.records(keys)
    assert "the next run begins a new one" in (failure.value.hint or "")
    assert damaged_files(dest) == [], "who only looks changes nothing"
    with opened(dest) as journal, journal.run("get", []), pytest.raises(DestinationError, match="is damaged"):
        journal.records(keys)
    assert len(damaged_files(dest)) == 1
    with opened(dest) as journal:
        assert journal.records(keys) == {}


def spoil(dest: Path) -> list[str]:
    """Damage a journal where only those who ask for its records see it; return the keys that it had."""
    keys = [f"training/ct/{number:064}" for number in range(5000)]
    with opened(dest) as journal:
        journal.commit((key, RECORD) for key in keys)
    path = Journal.path(dest)
    data = bytearray(path.read_bytes())
    for page in range(9 * 4096, len(data), 4096):
        data[page : page + 16] = b"\xff" * 16
    path.write_bytes(data)
    return keys


@fault(101, 143)
@pytest.mark.parametrize("moment", ["before it has another name", "before it is closed"])
def test_while_a_damaged_journal_is_set_aside_there_is_never_a_second_run(
    dest: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A run that waits for the lock must not get that of the journal which goes, and another one that of the new one."""
    keys = spoil(dest)
    second: list[str] = []
    rename = Path.rename

    def looking(path: Path, target: Path) -> Path:
        if moment == "before it has another name":
            second.append(in_another_process(dest))
            return rename(path, target)
        found = rename(path, target)
        second.append(in_another_process(dest))
        return found

    monkeypatch.setattr(Path, "rename", looking)
    with opened(dest) as journal, journal.run("get", []), pytest.raises(DestinationError, match="is damaged"):
        journal.records(keys)
    assert second == ["busy 75" if moment == "before it has another name" else "opened"]
    monkeypatch.undo()
    assert len(damaged_files(dest)) == 1
    with opened(dest) as journal:
        assert journal.records(keys) == {}


@fault(101, 143)
def test_a_new_journal_that_is_open_is_not_touched_when_the_damaged_one_is_closed(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = spoil(dest)
    opens: list[Journal] = []
    rename = Path.rename

    def begin_another(path: Path, target: Path) -> Path:
        found = rename(path, target)
        another = Journal.open(dest, bucket=BUCKET, group=GROUP, endpoint=ENDPOINT)
        assert another is not None
        another.commit([("training/ct/new", RECORD)])
        opens.append(another)
        return found

    monkeypatch.setattr(Path, "rename", begin_another)
    with opened(dest) as journal, journal.run("get", []), pytest.raises(DestinationError, match="is damaged"):
        journal.records(keys)
    monkeypatch.undo()
    (another,) = opens
    assert Journal.path(dest).with_name("journal.sqlite-wal").exists()
    assert in_another_process(dest) == "busy 75"
    another.commit([("training/ct/newer", RECORD)])
    another.close()
    assert rows_of(dest, "SELECT key FROM objects") == [("training/ct/new",), ("training/ct/newer",)]
    assert rows_of(dest, "PRAGMA integrity_check") == [("ok",)]


@fault(101, 143)
def test_of_two_runs_that_find_the_same_damage_one_begins_and_the_other_is_turned_away(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal.path(dest).write_bytes(b"this is a text\n" * 1000)
    second: list[str] = []

    def looking(path: Path) -> None:
        second.append(in_another_process(dest))
        set_aside(path)

    monkeypatch.setattr(module, "set_aside", looking)
    with opened(dest) as journal:
        assert second == ["busy 75"]
        assert in_another_process(dest) == "busy 75"
        journal.commit([("training/ct/a", RECORD)])
    assert len(damaged_files(dest)) == 1
    assert rows_of(dest, "SELECT key FROM objects") == [("training/ct/a",)]


@fault(101, 143)
def test_a_run_that_found_damage_does_not_set_aside_what_another_has_begun_since(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal.path(dest).write_bytes(b"this is a text\n" * 1000)
    others: list[Journal] = []

    @contextmanager
    def late(folder: Path, place: Path) -> Iterator[None]:
        monkeypatch.setattr(module, "alone", alone)
        another = Journal.open(dest, bucket=BUCKET, group=GROUP, endpoint=ENDPOINT)
        assert another is not None
        others.append(another)
        with alone(folder, place):
            yield

    monkeypatch.setattr(module, "alone", late)
    with pytest.raises(DestinationBusyError), opened(dest):
        pass
    (another,) = others
    another.commit([("training/ct/a", RECORD)])
    another.close()
    assert len(damaged_files(dest)) == 1
    assert rows_of(dest, "SELECT key FROM objects") == [("training/ct/a",)]


@fault(143)
def test_a_run_that_got_the_lock_of_a_journal_that_was_set_aside_meanwhile_takes_the_new_one(
    dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
    connected = sqlitefile._connected

    def late(path: Path, *, is_remote: bool) -> sqlite3.Connection:
        connection = connected(path, is_remote=is_remote)
        if not damaged_files(dest):
            set_aside(path)
        return connection

    monkeypatch.setattr(sqlitefile, "_connected", late)
    with opened(dest) as journal:
        assert journal.records(["training/ct/a"]) == {}
        monkeypatch.undo()
        assert in_another_process(dest) == "busy 75"


@fault(143)
def test_what_is_set_aside_in_the_same_second_is_all_kept(dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 11, 30, 12, tzinfo=tz)

    monkeypatch.setattr(sqlitefile, "datetime", Noon)
    for content in (b"first", b"second", b"third"):
        Journal.path(dest).write_bytes(content)
        set_aside(Journal.path(dest))
    name = "journal.sqlite.damaged-20261130T120000Z"
    found = {path.name: path.read_bytes() for path in damaged_files(dest)}
    assert found == {name: b"first", f"{name}-2": b"second", f"{name}-3": b"third"}


@fault(142)
@pytest.mark.parametrize("place", ["", "journal.sqlite"])
def test_a_state_folder_of_another_user_is_named_as_that(
    dest: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with opened(dest):
        pass
    closed = Journal.path(dest).parent / place
    lstat = Path.lstat

    def refused(path: Path) -> os.stat_result:
        if closed in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return lstat(path)

    def unopened(*_: object, **__: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(Path, "lstat", refused)
    monkeypatch.setattr("nccid_fetch.sqlitefile.os.geteuid", lambda: 4321)
    monkeypatch.setattr("nccid_fetch.sqlitefile.os.access", lambda *_: False)
    monkeypatch.setattr("nccid_fetch.sqlitefile.sqlite3.connect", unopened)
    with pytest.raises(DestinationError) as refusal, opened(dest):
        pass
    owner = user_name(closed.stat().st_uid)
    assert refusal.value.message == f"{closed} belongs to {owner}, and is closed to you"
    assert "choose a --dest of your own" in (refusal.value.hint or "")


def test_an_empty_file_is_a_journal_that_is_not_written_yet(dest: Path) -> None:
    Journal.path(dest).touch()
    with opened(dest) as journal:
        journal.commit([("training/ct/a", RECORD)])
    assert damaged_files(dest) == []


def test_a_database_of_somebody_else_is_refused_and_not_touched(dest: Path) -> None:
    with plainly(dest) as connection:
        connection.execute("CREATE TABLE folder (mine)")
    with pytest.raises(DestinationError, match=r"journal\.sqlite cannot be read or written"), opened(dest):
        pass
    assert rows_of(dest, "SELECT name FROM sqlite_schema") == [("folder",)]


@fault(112)
@pytest.mark.parametrize("target", ["missing", "present"])
@pytest.mark.parametrize("name", ["journal.sqlite", "journal.sqlite-wal"])
def test_no_link_in_the_place_of_its_files_is_followed(dest: Path, name: str, target: str) -> None:
    outside = dest.parent / "outside"
    if target == "present":
        outside.write_bytes(b"")
        outside.chmod(0o644)
    (dest / STATE_FOLDER / name).symlink_to(outside)
    with pytest.raises(DestinationError), opened(dest):
        pytest.fail("it was opened through a link")
    if target == "present":
        assert outside.read_bytes() == b""
        assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    else:
        assert not outside.exists()


@pytest.mark.parametrize("endpoint", [ENDPOINT, None])
def test_a_state_folder_that_is_a_link_is_not_followed(tmp_path: Path, endpoint: str | None) -> None:
    other = new_dest(tmp_path / "other")
    with opened(other):
        pass
    before = Journal.path(other).stat()
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / STATE_FOLDER).symlink_to(other / STATE_FOLDER)
    with pytest.raises(DestinationError, match="is not this tool's"):
        Journal.open(dest, bucket=BUCKET, group=GROUP, endpoint=endpoint)
    assert Journal.path(other).stat() == before


def test_a_folder_in_its_place_is_refused(dest: Path) -> None:
    Journal.path(dest).mkdir()
    with pytest.raises(DestinationError, match="is not this tool's"), opened(dest):
        pass


@fault(61, 106)
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a tiny file system")
def test_a_disk_that_is_full_for_the_journal_alone_ends_the_run_and_keeps_what_was_committed(dest: Path) -> None:
    script = 'mount -t tmpfs -o size=256k tmpfs "$1/.nccid-fetch" && exec "$2" -c "$3" "$1"'
    code = """
from nccid_fetch.errors import DestinationError
def batch(first):
    return [(f"training/ct/{i:064}", Record(i, ETag(""), 0, VerifiedBy.MD5)) for i in range(first, first + 100)]
done = 0
try:
    while True:
        journal.commit(batch(done))
        done += 100
except DestinationError as error:
    print(error.exit_code, error.message)
keys = [key for key, _ in batch(done)]
print(done > 0, len(journal.records([key for key, _ in batch(0)])), len(journal.records(keys)))
journal.close()
"""
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(dest), sys.executable, OPEN + code]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    if found.returncode != 0 and found.stderr.startswith(("mount", "unshare")):
        pytest.skip(f"no tiny file system can be mounted here: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr
    first, second = found.stdout.splitlines()
    assert first.startswith("9 ")
    assert "disk is full" in first
    assert second == "True 100 0"
