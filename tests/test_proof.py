"""The ladder of proofs: what each kind of object can be held against, what that costs, and what is no proof."""

import shutil
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from nccid_fetch.digests import new_checksum
from nccid_fetch.errors import DestinationError
from nccid_fetch.model import VerifiedBy
from nccid_fetch.settings import Existing, Transport, Verify

from .catalogue import fault
from .oracle import Run, check_tree, fetch, files_of, md5_hex, remote_of, snapshot
from .servers.scripted import Action, Body, CorruptBody, Drop, NoParts, ScriptedS3, Status

KEY = "training/ct/Covid1/1.2/1.2.3/a.dcm"
DATA = bytes(range(256)) * 4
OPAQUE = md5_hex(b"what KMS makes of it")
KMS = {"x-amz-server-side-encryption": "aws:kms"}
SSE_C = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
UNIFORM, RAGGED = [500, 500, 24], [100, 500, 424]
BOTH = pytest.mark.parametrize("transport", [Transport.FAST, Transport.AIOBOTO3])


pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.put(KEY, DATA)
        yield server


def heads(s3: ScriptedS3) -> list[str]:
    """Return for each HEAD the part that it was of, `whole` for none."""
    return [seen.query.get("partNumber", "whole") for seen in s3.requests if seen.operation == "head"]


def proof_of(run: Run) -> VerifiedBy:
    """Return how the one object of a run was proved."""
    assert run.exit_code == 0, run.reasons
    (proof,) = run.tally.verified.elements()
    return proof


def crc32(data: bytes) -> str:
    return b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


# --- Downloaded -----------------------------------------------------------------------------------


@BOTH
def test_an_md5_is_proof_and_costs_no_request(s3: ScriptedS3, dest: Path, transport: Transport) -> None:
    assert proof_of(fetch(s3, dest, transport=transport)) is VerifiedBy.MD5
    assert heads(s3) == []


def test_an_md5_in_upper_case_is_the_same_md5(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=md5_hex(DATA).upper())
    assert proof_of(fetch(s3, dest)) is VerifiedBy.MD5
    assert fetch(s3, dest).tally.skipped.objects == 1


@fault(42)
@BOTH
@pytest.mark.parametrize(
    ("parts", "asked"),
    [
        *((UNIFORM, ["1"]), ([len(DATA)], ["1"]), ([512, 512], ["1"]), (RAGGED, ["1", "2", "3"])),
        ([400, 200, 424], ["1", "1", "2", "3"]),
    ],
    ids=["uniform", "a single part", "two equal parts", "ragged", "with the sum of even ones"],
)
def test_a_multipart_etag_is_rebuilt_from_the_sizes_of_its_parts(
    s3: ScriptedS3, dest: Path, transport: Transport, parts: list[int], asked: list[str]
) -> None:
    s3.put(KEY, DATA, parts=parts)
    assert proof_of(fetch(s3, dest, transport=transport)) is VerifiedBy.MULTIPART_MD5
    assert [part for part in heads(s3) if part != "whole"] == asked
    assert "whole" not in heads(s3)  # Both readers have seen the headers.


@fault(42)
@pytest.mark.parametrize("parts", [UNIFORM, RAGGED])
def test_a_multipart_object_with_a_wrong_byte_is_a_mismatch(s3: ScriptedS3, dest: Path, parts: list[int]) -> None:
    s3.put(KEY, DATA, parts=parts)
    s3.script("get", CorruptBody(), count=None)
    run = fetch(s3, dest)
    assert (run.exit_code, run.reasons) == (1, {KEY: "digest_mismatch"})
    assert check_tree(dest, snapshot(s3)) == set()


@fault(42)
def test_a_multipart_object_whose_parts_nobody_knows_counts_as_size(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=f"{OPAQUE}-3")  # A server that answers `partNumber` with the whole object.
    assert proof_of(fetch(s3, dest)) is VerifiedBy.SIZE


@fault(43)
@BOTH
@pytest.mark.parametrize("headers", [KMS, SSE_C, {"x-amz-server-side-encryption": "aws:kms:dsse"}])
def test_an_etag_under_kms_is_no_md5_and_no_corruption(
    s3: ScriptedS3, dest: Path, transport: Transport, headers: dict[str, str]
) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=headers)
    assert proof_of(fetch(s3, dest, transport=transport)) is VerifiedBy.SIZE
    assert heads(s3) == ["whole"]
    assert check_tree(dest, snapshot(s3)) == {KEY}


@fault(43)
@BOTH
def test_an_etag_under_kms_that_is_the_md5_is_proof(s3: ScriptedS3, dest: Path, transport: Transport) -> None:
    s3.put(KEY, DATA, headers=KMS)
    assert proof_of(fetch(s3, dest, transport=transport)) is VerifiedBy.MD5
    assert heads(s3) == []


@pytest.mark.parametrize("etag", [f"{OPAQUE}-2", "not-hex-at-all"])
def test_a_multipart_or_foreign_etag_under_kms_counts_as_size(s3: ScriptedS3, dest: Path, etag: str) -> None:
    s3.put(KEY, DATA, etag=etag, headers=KMS)
    assert proof_of(fetch(s3, dest)) is VerifiedBy.SIZE


@fault(43)
def test_without_kms_an_etag_that_is_not_the_md5_is_corruption(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=OPAQUE)
    run = fetch(s3, dest)
    assert (run.exit_code, run.reasons) == (1, {KEY: "digest_mismatch"})
    assert check_tree(dest, snapshot(s3)) == set()


CHECKSUMS: dict[str, Callable[[bytes], str]] = {
    "x-amz-checksum-crc32": crc32,
    "x-amz-checksum-sha256": lambda data: b64encode(sha256(data).digest()).decode(),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_of_the_whole_object_proves_it_where_the_etag_cannot(s3: ScriptedS3, dest: Path, name: str) -> None:
    headers = KMS | {name: CHECKSUMS[name](DATA), "x-amz-checksum-type": "FULL_OBJECT"}
    s3.put(KEY, DATA, etag=OPAQUE, headers=headers)
    assert proof_of(fetch(s3, dest)) is VerifiedBy.CHECKSUM
    assert heads(s3) == ["whole"]


def test_s3s_own_crc64_is_proof_where_it_can_be_computed(s3: ScriptedS3, dest: Path) -> None:
    digest = new_checksum("CRC64NVME")
    value = "AAAAAAAAAAA="
    if digest is not None:
        digest.update(DATA)
        value = b64encode(digest.digest()).decode()
    headers = KMS | {"x-amz-checksum-crc64nvme": value, "x-amz-checksum-type": "FULL_OBJECT"}
    s3.put(KEY, DATA, etag=OPAQUE, headers=headers)
    assert proof_of(fetch(s3, dest)) is (VerifiedBy.SIZE if digest is None else VerifiedBy.CHECKSUM)


@BOTH
def test_a_checksum_that_differs_is_a_mismatch(s3: ScriptedS3, dest: Path, transport: Transport) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS | {"x-amz-checksum-crc32": crc32(b"other")})
    run = fetch(s3, dest, transport=transport)
    assert (run.exit_code, run.reasons) == (1, {KEY: "digest_mismatch"})
    assert check_tree(dest, snapshot(s3)) == set()


@fault(44)
@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-crc32": crc32(b"of parts"), "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-crc32": f"{crc32(b'of parts')}-3"},
    ],
    ids=["by its type", "by its form"],
)
def test_a_checksum_of_checksums_is_ignored(s3: ScriptedS3, dest: Path, headers: dict[str, str]) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS | headers)
    assert proof_of(fetch(s3, dest)) is VerifiedBy.SIZE


@fault(45)
@BOTH
@pytest.mark.parametrize(
    ("parts", "headers", "proof"),
    [
        (None, {"x-amz-checksum-type": "FULL_OBJECT"}, VerifiedBy.MD5),
        (UNIFORM, {"x-amz-checksum-type": "FULL_OBJECT"}, VerifiedBy.MULTIPART_MD5),
        (UNIFORM, KMS, VerifiedBy.SIZE),
    ],
    ids=["beside an MD5", "beside a multipart ETag", "of parts and beside nothing"],
)
def test_a_checksum_of_a_part_that_a_server_gives_for_the_objects_never_fails_it(
    s3: ScriptedS3,
    dest: Path,
    *,
    transport: Transport,
    parts: list[int] | None,
    headers: dict[str, str],
    proof: VerifiedBy,
) -> None:
    s3.put(KEY, DATA, parts=parts, headers=headers | {"x-amz-checksum-crc32": crc32(DATA[:500])})
    run = fetch(s3, dest, transport=transport)
    assert proof_of(run) is proof
    assert run.tally.retries == 0, "a client held it against the body by itself"


@fault(45)
def test_a_checksum_that_is_not_known_here_never_fails_an_object(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS | {"x-amz-checksum-xxhash128": "AAAA"})
    assert proof_of(fetch(s3, dest)) is VerifiedBy.SIZE


def test_with_verify_size_nothing_is_hashed_or_asked_and_it_counts_as_size(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, parts=UNIFORM)
    assert proof_of(fetch(s3, dest, verify=Verify.SIZE)) is VerifiedBy.SIZE
    assert heads(s3) == []


def test_require_verified_is_not_met_by_size_alone(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS)
    assert fetch(s3, dest, require_verified=True).exit_code == 3
    s3.put(KEY, DATA)
    assert fetch(s3, dest, require_verified=True).exit_code == 0


def test_require_verified_is_not_met_by_what_an_earlier_run_knew_by_size_alone(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS)
    assert fetch(s3, dest).exit_code == 0
    run = fetch(s3, dest, require_verified=True)
    assert run.exit_code == 3
    assert s3.gets() == 1, "nothing can prove it, so it is not downloaded again to be just as little proved"


def test_require_verified_is_not_met_by_skipping_what_no_digest_ever_proved(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, parts=UNIFORM)
    fetch(s3, dest, verify=Verify.SIZE)
    run = fetch(s3, dest, require_verified=True)
    assert (run.exit_code, run.tally.skipped.objects) == (3, 1)


def test_require_verified_is_met_by_skipping_what_was_proved(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA)
    fetch(s3, dest)
    run = fetch(s3, dest, require_verified=True)
    assert (run.exit_code, run.tally.skipped.objects) == (0, 1)


def test_require_verified_proves_what_an_earlier_run_took_by_its_size(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA)
    assert proof_of(fetch(s3, dest, verify=Verify.SIZE)) is VerifiedBy.SIZE
    run = fetch(s3, dest, require_verified=True)
    assert (run.exit_code, run.tally.adopted.objects, s3.gets()) == (0, 1, 1)
    assert fetch(s3, dest, require_verified=True).tally.skipped.objects == 1


def test_a_head_that_hiccups_costs_no_body(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, parts=UNIFORM)
    s3.script("head", Status(503, "SlowDown"), count=3)
    assert proof_of(fetch(s3, dest)) is VerifiedBy.MULTIPART_MD5
    assert s3.gets() == 1


# --- Found on disk --------------------------------------------------------------------------------


def forget(s3: ScriptedS3, dest: Path) -> int:
    """Fetch it, lose the journal, and return how many GETs that took."""
    assert fetch(s3, dest).exit_code == 0
    shutil.rmtree(dest / ".nccid-fetch")
    return s3.gets()


def set_aside(dest: Path) -> list[bytes]:
    return [path.read_bytes() for path in (dest / ".nccid-fetch").rglob("quarantine/**/*") if path.is_file()]


def test_a_file_is_adopted_by_its_md5(s3: ScriptedS3, dest: Path) -> None:
    gets = forget(s3, dest)
    assert proof_of(fetch(s3, dest)) is VerifiedBy.MD5
    assert (s3.gets(), heads(s3)) == (gets, [])


@fault(42)
@pytest.mark.parametrize("parts", [UNIFORM, RAGGED])
def test_a_file_is_adopted_by_its_multipart_etag(s3: ScriptedS3, dest: Path, parts: list[int]) -> None:
    s3.put(KEY, DATA, parts=parts)
    gets = forget(s3, dest)
    run = fetch(s3, dest)
    assert run.tally.adopted.objects == 1
    assert proof_of(run) is VerifiedBy.MULTIPART_MD5
    assert s3.gets() == gets


def test_a_file_is_adopted_by_its_checksum(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS | {"x-amz-checksum-crc32": crc32(DATA)})
    gets = forget(s3, dest)
    assert proof_of(fetch(s3, dest)) is VerifiedBy.CHECKSUM
    assert s3.gets() == gets


def test_a_file_that_nothing_proves_is_fetched_and_if_it_is_equal_not_set_aside(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, etag=OPAQUE, headers=KMS)
    gets = forget(s3, dest)
    run = fetch(s3, dest)
    assert (run.tally.fetched.objects, run.tally.adopted.objects) == (1, 0)
    assert s3.gets() == gets + 1
    assert set_aside(dest) == []
    assert check_tree(dest, snapshot(s3)) == {KEY}


@pytest.mark.parametrize("headers", [{}, KMS])
def test_a_file_of_the_right_length_that_differs_is_set_aside(
    s3: ScriptedS3, dest: Path, headers: dict[str, str]
) -> None:
    s3.put(KEY, DATA, etag=OPAQUE if headers else None, headers=headers)
    forget(s3, dest)
    files_of(dest)[KEY].write_bytes(DATA[::-1])
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.fetched.objects) == (0, 1)
    assert set_aside(dest) == [DATA[::-1]]
    assert check_tree(dest, snapshot(s3)) == {KEY}


def test_a_file_that_differs_is_left_alone_if_it_is_to_be_kept(s3: ScriptedS3, dest: Path) -> None:
    forget(s3, dest)
    gets = s3.gets()
    files_of(dest)[KEY].write_bytes(DATA[::-1])
    run = fetch(s3, dest, existing=Existing.KEEP)
    assert (run.exit_code, run.reasons) == (1, {KEY: "conflict"})
    assert s3.gets() == gets
    assert files_of(dest)[KEY].read_bytes() == DATA[::-1]


def test_a_server_that_hiccups_over_a_proof_is_asked_again_before_anything_is_fetched(
    s3: ScriptedS3, dest: Path
) -> None:
    s3.put(KEY, DATA, parts=UNIFORM)
    gets = forget(s3, dest)
    s3.script("head", Status(500, "InternalError"), count=2)
    run = fetch(s3, dest)
    assert run.tally.adopted.objects == 1
    assert s3.gets() == gets


def test_an_object_gone_or_closed_since_it_was_listed_says_so_where_a_file_is_there(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, parts=UNIFORM)
    forget(s3, dest)
    s3.allow_get = lambda key: False
    assert fetch(s3, dest).reasons == {KEY: "denied"}
    assert remote_of(s3, KEY).size == len(DATA)
    assert not isinstance(fetch(s3, dest).error, DestinationError)


# --- Parts that cannot be asked for ---------------------------------------------------------------


USUAL = bytes(range(256)) * (10 * 1024)
"""Two and a half MiB."""
NO_PARTS: dict[str, Action] = {
    "the whole object": NoParts(),
    "not implemented": NoParts(Status(501, "NotImplemented")),
    "no such argument": NoParts(Status(400, "InvalidArgument")),
    "no such part": NoParts(Status(416, "InvalidPartNumber")),
    "no such method": NoParts(Status(405, "MethodNotAllowed")),
    "denied": NoParts(Status(403, "AccessDenied")),
    "a firewall's page": NoParts(Body(b"<html>Blocked</html>", status=403)),
    "a server error": NoParts(Status(500, "InternalError")),
    "no answer": NoParts(Drop()),
}


def without_parts(s3: ScriptedS3, instead: Action, sizes: list[int], body: bytes = USUAL) -> None:
    """Store an object that was uploaded in parts, and let requests of one be answered like this."""
    s3.put(KEY, body, parts=sizes)
    s3.script("head", instead, count=None)
    s3.script("get", instead, count=None)


@fault(137)
@pytest.mark.parametrize("instead", NO_PARTS.values(), ids=NO_PARTS)
def test_parts_that_cannot_be_asked_for_have_usual_sizes(s3: ScriptedS3, dest: Path, instead: Action) -> None:
    without_parts(s3, instead, [1 << 20, 1 << 20, 1 << 19])
    gets = forget_bodies(s3, dest)
    run = fetch(s3, dest)
    assert (run.tally.adopted.objects, run.tally.retries) == (1, 0)
    assert proof_of(run) is VerifiedBy.MULTIPART_MD5
    assert bodies(s3) == gets == 1, "nothing is downloaded again after the state folder was deleted"


def bodies(s3: ScriptedS3) -> int:
    """Count the GETs of the object itself, not of one of its parts."""
    return sum(seen.operation == "get" and "partNumber" not in seen.query for seen in s3.requests)


def forget_bodies(s3: ScriptedS3, dest: Path) -> int:
    """Fetch an object, which is proved; lose the journal; return how many bodies that took."""
    assert proof_of(fetch(s3, dest)) is VerifiedBy.MULTIPART_MD5
    shutil.rmtree(dest / ".nccid-fetch")
    return bodies(s3)


@fault(137)
@BOTH
@pytest.mark.parametrize("size", [0, 1, len(USUAL)])
def test_an_upload_of_one_part_needs_no_size(s3: ScriptedS3, dest: Path, transport: Transport, size: int) -> None:
    without_parts(s3, NO_PARTS["denied"], [size], USUAL[:size])
    assert proof_of(fetch(s3, dest, transport=transport)) is VerifiedBy.MULTIPART_MD5


@fault(137)
def test_a_file_that_no_usual_size_proves_is_fetched_again_and_the_old_one_set_aside(
    s3: ScriptedS3, dest: Path
) -> None:
    without_parts(s3, NO_PARTS["not implemented"], [1 << 20, 1 << 20, 1 << 19])
    forget_bodies(s3, dest)
    changed = USUAL[:-1] + b"\0"
    files_of(dest)[KEY].write_bytes(changed)
    run = fetch(s3, dest)
    assert (run.exit_code, run.tally.fetched.objects, proof_of(run)) == (0, 1, VerifiedBy.MULTIPART_MD5)
    assert set_aside(dest) == [changed]


@fault(137)
def test_an_unusual_size_is_no_mismatch(s3: ScriptedS3, dest: Path) -> None:
    without_parts(s3, NO_PARTS["not implemented"], [1_234_567, len(USUAL) - 1_234_567])
    assert proof_of(fetch(s3, dest)) is VerifiedBy.SIZE


@fault(38, 137)
def test_a_denial_of_parts_of_an_unusual_size_is_no_reason_to_take_a_body_by_its_size(
    s3: ScriptedS3, dest: Path
) -> None:
    """It may come of credentials that have expired: the answer to a HEAD does not say why."""
    without_parts(s3, NO_PARTS["denied"], [1_234_567, len(USUAL) - 1_234_567])
    assert fetch(s3, dest).reasons == {KEY: "denied"}


@fault(137)
def test_a_server_in_trouble_is_asked_again_for_parts_of_unusual_sizes(s3: ScriptedS3, dest: Path) -> None:
    s3.put(KEY, DATA, parts=RAGGED)
    s3.script("head", Status(500, "InternalError"), count=3)
    run = fetch(s3, dest)
    assert proof_of(run) is VerifiedBy.MULTIPART_MD5
    assert run.tally.retries == 3


@fault(137)
def test_an_object_that_was_replaced_says_so_also_when_its_parts_are_asked_for(s3: ScriptedS3, dest: Path) -> None:
    without_parts(s3, NoParts(Status(412, "PreconditionFailed")), [1 << 20, 1 << 20, 1 << 19])
    assert fetch(s3, dest).reasons == {KEY: "changed"}
