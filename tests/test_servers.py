"""The servers under the other tests: the scripted one tells the truth, and each lie as described; rclone serves."""

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from .servers.rclone import RcloneS3
from .servers.scripted import (
    MODIFIED,
    Action,
    Body,
    Chunked,
    CorruptBody,
    Cut,
    Do,
    Drip,
    Drop,
    Endless,
    Hold,
    IgnoreRange,
    Page,
    Redirect,
    ScriptedS3,
    Stall,
    Status,
)

BUCKET = "nccid-data-warehouse-prod"
KEY = "training/ct/a.dcm"
DATA = bytes(range(256)) * 4


@pytest.fixture
def s3() -> Iterator[ScriptedS3]:
    with ScriptedS3() as server:
        server.is_public = True  # For what asks without a client.
        server.secrets["reader"] = "secret"
        server.put(KEY, DATA)
        yield server


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    base = tmp_path_factory.mktemp("rclone")
    (base / "data" / BUCKET).mkdir(parents=True)
    with RcloneS3(base / "data", base / "log") as server:
        yield server


def client(endpoint_url: str, access_key: str = "reader", secret_key: str = "secret") -> Any:
    return get_session().create_client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="eu-west-2",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def boto(s3: ScriptedS3) -> Iterator[Any]:
    with closing(client(s3.endpoint_url)) as made:
        yield made


def listed(boto: Any, **options: Any) -> list[str]:
    """Keys and common prefixes, page after page."""
    pages = boto.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, **options)
    return [
        row.get("Key") or row["Prefix"]
        for page in pages
        for row in [*page.get("Contents", []), *page.get("CommonPrefixes", [])]
    ]


def refusal(call: Any, /, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(Bucket=BUCKET, **arguments)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def connect(s3: ScriptedS3) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(s3.endpoint_url.removeprefix("http://"), timeout=10)


def ask(s3: ScriptedS3, target: str = f"/{BUCKET}/{KEY}", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """One GET on a connection of its own, the body read to its end."""
    with closing(connect(s3)) as wire:
        wire.request("GET", target, headers=headers)
        response = wire.getresponse()
        return response, response.read()


def raw(s3: ScriptedS3, want: int) -> bytes:
    """The bytes on the wire after the head: `want` of them, or what there is before the end."""
    with socket.create_connection(("127.0.0.1", int(s3.endpoint_url.rpartition(":")[2])), 10) as wire:
        wire.sendall(f"GET /{BUCKET}/{KEY} HTTP/1.1\r\nHost: s3\r\n\r\n".encode())
        stream = wire.makefile("rb")
        with closing(stream):
            while stream.readline() not in (b"\r\n", b""):
                pass
            return stream.read(want)


# The truth


def test_listings_are_paged_in_byte_order(s3: ScriptedS3, boto: Any) -> None:
    keys = ["a-b/1", "a/1", "a/2", "a/../b", "a//b", "a b+%2F", "é", "\U0001f600", "\ufb00", "x\x01y", KEY]
    for key in keys:
        s3.put(key, b"x")
    in_order = sorted(keys, key=str.encode)
    for page_size in (1, 2, 1000):
        assert listed(boto, PaginationConfig={"PageSize": page_size}) == in_order
    assert listed(boto, Prefix="a/") == ["a/../b", "a//b", "a/1", "a/2"]
    assert listed(boto, StartAfter="a/1", Prefix="a") == ["a/2"]
    assert listed(boto, Prefix="none") == []
    for page_size in (1, 3, 1000):
        rolled = listed(boto, Delimiter="/", PaginationConfig={"PageSize": page_size})
        assert sorted(rolled, key=str.encode) == [
            *["a b+%2F", "a-b/", "a/", "training/", "x\x01y", "é", "\ufb00", "\U0001f600"]
        ]


def test_a_page_looks_like_that_of_s3(s3: ScriptedS3) -> None:
    s3.put("a b", b"", modified=datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC), storage_class="GLACIER")
    response, body = ask(s3, f"/{BUCKET}?list-type=2&max-keys=1&encoding-type=url")
    assert response.getheader("Content-Type") == "application/xml"
    assert body.decode().startswith(
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix></Prefix><NextContinuationToken>"
    )
    assert body.decode().endswith(
        "<KeyCount>1</KeyCount><MaxKeys>1</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        "<Contents><Key>a+b</Key><LastModified>2020-02-03T04:05:06.000Z</LastModified>"
        "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>0</Size>"
        "<StorageClass>GLACIER</StorageClass></Contents></ListBucketResult>"
    )
    assert b"<Key>a b</Key>" in ask(s3, f"/{BUCKET}?list-type=2")[1]
    assert ask(s3, f"/{BUCKET}?list-type=2&continuation-token=x")[0].status == 400


def test_virtual_listings_are_paged_from_a_function(s3: ScriptedS3, boto: Any) -> None:
    def virtual(start_after: str, prefix: str, limit: int) -> list[tuple[str, int, str, datetime]]:
        first = int(start_after.removesuffix("\U0010ffff").strip("v/") or -1) + 1
        return [(f"v{number:07}", number, "0" * 32, MODIFIED) for number in range(first, min(first + limit, 2500))]

    s3.virtual = virtual
    assert listed(boto) == [f"v{number:07}" for number in range(2500)]
    assert [seen.operation for seen in s3.requests] == ["list"] * 3


def test_objects_are_served_as_s3_serves_them(s3: ScriptedS3, boto: Any) -> None:
    whole = boto.get_object(Bucket=BUCKET, Key=KEY, IfMatch=f'"{md5(DATA).hexdigest()}"')
    assert whole["Body"].read() == DATA
    assert (whole["LastModified"], whole["ServerSideEncryption"]) == (MODIFIED, "AES256")
    for asked, expected in {"bytes=2-4": DATA[2:5], "bytes=1000-": DATA[1000:], "bytes=-3": DATA[-3:]}.items():
        part = boto.get_object(Bucket=BUCKET, Key=KEY, Range=asked)
        assert (part["ResponseMetadata"]["HTTPStatusCode"], part["Body"].read()) == (206, expected)
    assert part["ContentRange"] == "bytes 1021-1023/1024"
    head = boto.head_object(Bucket=BUCKET, Key=KEY)
    assert (head["ContentLength"], head["ETag"]) == (1024, whole["ETag"])
    assert s3.gets() == s3.gets(KEY) == 4
    assert s3.gets("other") == 0


def test_what_cannot_be_served_is_refused(s3: ScriptedS3, boto: Any) -> None:
    s3.put("archived", b"x", storage_class="DEEP_ARCHIVE")
    s3.put("empty", b"")
    assert refusal(boto.get_object, Key=KEY, IfMatch='"other"') == (412, "PreconditionFailed")
    assert refusal(boto.get_object, Key=KEY, Range="bytes=1024-") == (416, "InvalidRange")
    assert refusal(boto.get_object, Key="empty", Range="bytes=0-") == (416, "InvalidRange")
    assert refusal(boto.get_object, Key="archived") == (403, "InvalidObjectState")
    assert refusal(boto.get_object, Key="missing") == (404, "NoSuchKey")
    assert refusal(boto.head_object, Key="missing") == (404, "404")
    s3.hide_missing = True
    assert refusal(boto.get_object, Key="missing") == (403, "AccessDenied")
    s3.allow_get = lambda key: key != KEY
    s3.allow_list = lambda prefix, delimiter: (prefix, delimiter) == ("training/", "/")
    assert refusal(boto.get_object, Key=KEY) == (403, "AccessDenied")
    assert refusal(boto.list_objects_v2, Prefix="training/") == (403, "AccessDenied")
    assert listed(boto, Prefix="training/", Delimiter="/") == ["training/ct/"]
    assert ask(s3, f"/other/{KEY}")[0].status == 404


def test_parts_of_a_multipart_upload_show_in_head(s3: ScriptedS3, boto: Any) -> None:
    s3.put("big", DATA, parts=[512, 500, 12], headers={"x-amz-checksum-crc32": "AAAAAA==-3"})
    etag = md5(b"".join(md5(each).digest() for each in (DATA[:512], DATA[512:1012], DATA[1012:]))).hexdigest()
    heads = [boto.head_object(Bucket=BUCKET, Key="big", PartNumber=number) for number in (1, 2, 3)]
    assert [head["ContentLength"] for head in heads] == [512, 500, 12]
    assert {(head["PartsCount"], head["ETag"]) for head in heads} == {(3, f'"{etag}-3"')}
    assert {head["ResponseMetadata"]["HTTPStatusCode"] for head in heads} == {206}
    assert heads[1]["ContentRange"] == "bytes 512-1011/1024"
    assert "PartsCount" not in boto.head_object(Bucket=BUCKET, Key=KEY, PartNumber=1)
    assert refusal(boto.head_object, Key="big", PartNumber=4)[0] == 416
    assert "ChecksumCRC32" not in heads[0]
    assert boto.head_object(Bucket=BUCKET, Key="big", ChecksumMode="ENABLED")["ChecksumCRC32"] == "AAAAAA==-3"


@pytest.mark.parametrize("key", ["a/../b", "./a", "a//b", "/a", "a%2Fb", "a+b c?d#e", "é", "\udcff", "folder/"])
def test_keys_arrive_as_they_are(s3: ScriptedS3, key: str) -> None:
    path = f"/{BUCKET}/{quote(key.encode('utf-8', 'surrogateescape'))}"
    s3.put(key, key.encode("utf-8", "surrogateescape"))
    _, body = ask(s3, f"{path}?x-id=GetObject")
    assert body == key.encode("utf-8", "surrogateescape")
    seen = s3.requests[-1]
    assert (seen.method, seen.path_raw, seen.key, seen.query) == ("GET", path, key, {"x-id": "GetObject"})
    listing = ask(s3, f"/{BUCKET}?list-type=2&prefix={quote(key.encode('utf-8', 'surrogateescape'))}")[1]
    assert b"<KeyCount>1</KeyCount>" in listing


def test_a_header_may_be_no_utf8(s3: ScriptedS3) -> None:
    s3.put("x", b"", headers={"X-Amz-Meta-Name": "caf\xe9", "x-amz-server-side-encryption": "aws:kms"})
    response, _ = ask(s3, f"/{BUCKET}/x")
    assert response.getheader("x-amz-meta-name") == "caf\xe9"
    assert response.getheader("x-amz-server-side-encryption") == "aws:kms"


def test_connections_are_kept_and_requests_counted(s3: ScriptedS3) -> None:
    with closing(connect(s3)) as wire:
        for method in ("GET", "HEAD", "PUT", "GET"):
            wire.request(method, f"/{BUCKET}/{KEY}", headers={"X-Seen": "YES"})
            local = wire.sock.getsockname()
            response = wire.getresponse()
            assert response.status == (405 if method == "PUT" else 200)
            assert response.read() == {"GET": DATA, "HEAD": b""}.get(method, b"") or method == "PUT"
            assert wire.sock.getsockname() == local
    assert [seen.operation for seen in s3.requests] == ["get", "head", "get", "get"]
    assert {seen.headers["x-seen"] for seen in s3.requests} == {"YES"}
    assert s3.in_flight_max == 1


# The lies


def test_a_script_is_read_in_order(s3: ScriptedS3) -> None:
    s3.put("other", b"other")
    s3.script("get", Status(503, "SlowDown"), key=KEY, after=1, count=2)
    s3.script("get", Status(500, "InternalError"), count=None, after=2)
    s3.script("head", Drop(), count=None)
    assert ask(s3, f"/{BUCKET}/other")[0].status == 200
    assert [ask(s3)[0].status for _ in range(5)] == [200, 503, 503, 500, 500]


@pytest.mark.parametrize("after", [0, 1, 512, 1023])
def test_a_body_is_cut_by_fin(s3: ScriptedS3, after: int) -> None:
    s3.script("get", Cut(after))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(s3)
    assert caught.value.partial == DATA[:after]
    assert ask(s3)[1] == DATA


def test_a_body_is_cut_by_reset(s3: ScriptedS3) -> None:
    s3.script("get", Cut(512, reset=True))
    with pytest.raises(ConnectionResetError):
        raw(s3, len(DATA))


def test_a_stalled_body_says_nothing_more(s3: ScriptedS3) -> None:
    s3.script("get", Stall(5), count=2)
    with closing(connect(s3)) as wire:
        wire.request("GET", f"/{BUCKET}/{KEY}")
        response = wire.getresponse()
        assert response.read(5) == DATA[:5]
        wire.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            wire.sock.recv(1)
        response.close()
    left_open = connect(s3)
    left_open.request("GET", f"/{BUCKET}/{KEY}")
    with closing(left_open), left_open.getresponse() as response:
        assert response.read(5) == DATA[:5]
        s3.stop()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()


def test_a_dripped_body_waits_for_its_gate(s3: ScriptedS3) -> None:
    gate = threading.Event()
    s3.script("get", Drip(100, gate))
    s3.script("get", Drip(1000, every=0.001))
    with closing(connect(s3)) as wire:
        wire.request("GET", f"/{BUCKET}/{KEY}")
        response = wire.getresponse()
        assert response.read(100) == DATA[:100]
        gate.set()
        assert response.read() == DATA[100:]
    assert ask(s3)[1] == DATA


@pytest.mark.parametrize(
    ("lie", "status", "length", "body"),
    [
        (Body(b"wrong"), 200, "5", b"wrong"),
        (Body(b"<html>", headers={"Content-Type": "text/html"}), 200, "6", b"<html>"),
        (Body(b"<Error/>", etag=None), 200, "8", b"<Error/>"),
        (Body(b"short", content_length=False), 200, None, b"short"),
        (Body(b"longer", content_length=3), 200, "3", b"lon"),
        (Body(b"oops", status=502), 502, "4", b"oops"),
        (Chunked(b"rechunked"), 200, None, b"rechunked"),
        (Chunked(b""), 200, None, b""),
        (CorruptBody(), 200, "1024", DATA[:512] + b"\x01" + DATA[513:]),
        (IgnoreRange(), 200, "1024", DATA),
    ],
    ids=str,
)
def test_other_bytes_than_the_objects(
    s3: ScriptedS3, lie: Action, status: int, length: str | None, body: bytes
) -> None:
    s3.script("get", lie)
    with closing(connect(s3)) as wire:
        wire.request("GET", f"/{BUCKET}/{KEY}", headers={"Range": "bytes=0-1"} if lie == IgnoreRange() else {})
        response = wire.getresponse()
        assert (response.status, response.getheader("Content-Length"), response.read()) == (status, length, body)
        assert response.getheader("ETag") == (None if "etag=None" in str(lie) else f'"{md5(DATA).hexdigest()}"')
        assert response.getheader("Content-Range") is None
        wire.request("GET", f"/{BUCKET}/{KEY}")
        assert wire.getresponse().read() == DATA


def test_more_bytes_than_promised_are_on_the_wire(s3: ScriptedS3) -> None:
    s3.script("get", Body(b"longer", content_length=3, etag="other"))
    assert raw(s3, 100) == b"longer"


def test_an_endless_body_goes_on_until_the_client_leaves(s3: ScriptedS3) -> None:
    s3.script("get", Endless())
    assert len(raw(s3, 3_000_000)) == 3_000_000
    assert ask(s3)[1] == DATA


def test_errors_and_redirects_are_answered(s3: ScriptedS3, boto: Any) -> None:
    s3.script("get", Status(503, "SlowDown", "Reduce <your> rate", {"Retry-After": "7"}))
    s3.script("get", Redirect("http://127.0.0.1:1/elsewhere"))
    s3.script("head", Status(503, "SlowDown"))
    slow, body = ask(s3)
    assert (slow.status, slow.getheader("Retry-After")) == (503, "7")
    assert b"<Error><Code>SlowDown</Code><Message>Reduce &lt;your&gt; rate</Message>" in body
    elsewhere, _ = ask(s3)
    assert (elsewhere.status, elsewhere.getheader("Location")) == (307, "http://127.0.0.1:1/elsewhere")
    assert refusal(boto.head_object, Key=KEY) == (503, "503")


def test_a_page_is_rewritten(s3: ScriptedS3) -> None:
    s3.script("list", Page(lambda honest: honest.replace(b"<IsTruncated>false", b"<IsTruncated>true")))
    s3.script("list", Page(b"<html>"), key="training/")
    assert b"<IsTruncated>true<" in ask(s3, f"/{BUCKET}?list-type=2")[1]
    assert ask(s3, f"/{BUCKET}?list-type=2&prefix=training/")[1] == b"<html>"


def test_objects_change_between_request_and_answer(s3: ScriptedS3) -> None:
    s3.script("get", Do(lambda: s3.put(KEY, b"second")))
    s3.script("get", Do(lambda: s3.delete(KEY), then=Drop()))
    assert ask(s3)[1] == b"second"
    with pytest.raises(http.client.RemoteDisconnected):
        ask(s3)
    assert ask(s3)[0].status == 404


def test_a_failing_callback_is_not_kept_quiet() -> None:
    server = ScriptedS3()
    server.is_public = True
    server.script("get", Do(lambda: 1 // 0))
    with pytest.raises(ZeroDivisionError), server, pytest.raises(http.client.RemoteDisconnected):
        ask(server)


def test_held_requests_are_in_flight_together(s3: ScriptedS3) -> None:
    everyone = threading.Barrier(32)
    s3.script("get", Do(everyone.wait), count=None)
    with ThreadPoolExecutor(32) as pool:
        assert {body for _, body in pool.map(lambda _: ask(s3), range(32))} == {DATA}
    assert s3.in_flight_max == 32


def test_a_held_request_is_answered_after_the_event(s3: ScriptedS3) -> None:
    event = threading.Event()
    s3.script("get", Hold(event))
    s3.script("head", Do(event.set))
    with closing(connect(s3)) as held, closing(connect(s3)) as other:
        held.request("GET", f"/{BUCKET}/{KEY}")
        other.request("HEAD", f"/{BUCKET}/{KEY}")
        assert other.getresponse().status == 200
        assert held.getresponse().read() == DATA


def test_the_server_ends_with_requests_in_the_air() -> None:
    threads = threading.active_count()
    arrived = threading.Event()
    with ScriptedS3() as server, closing(connect(server)) as unread, closing(connect(server)) as held:
        server.is_public = True
        server.put(KEY, bytes(20_000_000))
        server.script("get", Do(arrived.set, then=Hold(threading.Event())), after=1)
        unread.request("GET", f"/{BUCKET}/{KEY}")
        with unread.getresponse():
            held.request("GET", f"/{BUCKET}/{KEY}")
            assert arrived.wait(60)
            server.stop()
            with pytest.raises(ConnectionError):
                held.getresponse()
    assert threading.active_count() == threads


# Signatures


def test_what_is_not_signed_or_signed_wrongly_is_refused_and_no_script_is_asked() -> None:
    with ScriptedS3() as s3:
        s3.expects_refusals = True
        s3.put(KEY, DATA)
        s3.script("get", Body(b"a lie"))
        assert ask(s3)[0].status == 403
        for keys, code in {
            ("test", "wrong"): "SignatureDoesNotMatch",
            ("another", "secret"): "InvalidAccessKeyId",
        }.items():
            with closing(client(s3.endpoint_url, *keys)) as boto:
                assert refusal(boto.get_object, Key=KEY) == (403, code)
        with closing(client(s3.endpoint_url, "test", "test-secret")) as boto:
            assert boto.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == b"a lie"
        s3.region = "us-east-1"
        with closing(client(s3.endpoint_url, "test", "test-secret")) as boto:
            assert refusal(boto.list_objects_v2) == (400, "AuthorizationHeaderMalformed")


def test_a_wrong_signature_that_is_not_expected_fails_the_test() -> None:
    with (
        pytest.raises(AssertionError, match="does not match"),
        ScriptedS3() as s3,
        closing(client(s3.endpoint_url, "test", "wrong")) as boto,
    ):
        refusal(boto.get_object, Key=KEY)


# rclone's server


def test_rclone_serves_the_folder_and_logs_its_gets(rclone: RcloneS3) -> None:
    bucket = rclone.folder / BUCKET
    names = ["a-b/1", "a.txt", "a/1", "b +%2F", "é"]
    for name in names:
        (bucket / name).parent.mkdir(exist_ok=True)
        (bucket / name).write_bytes(name.encode())
    keys = rclone.environment["AWS_ACCESS_KEY_ID"], rclone.environment["AWS_SECRET_ACCESS_KEY"]
    with closing(client(rclone.endpoint_url, *keys)) as boto:
        assert listed(boto, PaginationConfig={"PageSize": 2}) == names
        before = rclone.object_gets()
        assert [boto.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names] == [
            name.encode() for name in names
        ]
        assert (rclone.object_gets() - before, rclone.object_gets("b +%2F")) == (len(names), 1)
        (bucket / "a.txt").unlink()
        (bucket / "a" / "2").write_bytes(b"new")
        assert listed(boto) == ["a-b/1", "a/1", "a/2", "b +%2F", "é"]


def test_rclone_checks_signatures(rclone: RcloneS3) -> None:
    with closing(client(rclone.endpoint_url, rclone.environment["AWS_ACCESS_KEY_ID"], "wrong")) as boto:
        assert refusal(boto.get_object, Key="any") == (403, "SignatureDoesNotMatch")
    with closing(client(rclone.endpoint_url, "nobody", "wrong")) as boto:
        assert refusal(boto.list_objects_v2) == (403, "InvalidAccessKeyId")
    assert rclone.object_gets("any") == 0


def test_rclone_that_cannot_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{RcloneS3.__module__}.SECRET_KEY", "one,two")
    with pytest.raises(RuntimeError, match="rclone ended"), RcloneS3(tmp_path, tmp_path / "log"):
        pass
