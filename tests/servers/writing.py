"""Storing objects on a server that takes them by S3 alone. The package itself cannot."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

from botocore.config import Config
from botocore.handlers import add_expect_header
from botocore.session import get_session


class Writer:
    """A client that may write.

    Args:
        client: botocore's.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        self._client.create_bucket(Bucket=bucket)

    def put(self, bucket: str, objects: Iterable[tuple[str, bytes]], **options: Any) -> None:
        """Store objects, each with further options of PutObject."""
        with ThreadPoolExecutor(8) as threads:
            stored = [
                threads.submit(self._client.put_object, Bucket=bucket, Key=key, Body=body, **options)
                for key, body in objects
            ]
            for each in stored:
                each.result()

    def put_in_parts(self, bucket: str, key: str, parts: Sequence[bytes]) -> None:
        """Store an object by a multipart upload."""
        where = {"Bucket": bucket, "Key": key}
        where["UploadId"] = self._client.create_multipart_upload(**where)["UploadId"]
        done = [
            {"PartNumber": number, "ETag": self._client.upload_part(**where, PartNumber=number, Body=body)["ETag"]}
            for number, body in enumerate(parts, 1)
        ]
        self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})


@contextmanager
def writing(endpoint_url: str, access_key: str, secret_key: str) -> Iterator[Writer]:
    """Open a client that may write; in path style, and as older servers want it."""
    client = get_session().create_client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="eu-west-2",
        config=Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            max_pool_connections=8,
        ),
    )
    # Or it would wait for a word from the server before each body, and now and then for a minute.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    with closing(client):
        yield Writer(client)
