"""The embedded S3 server of the demo: moto, in this process, on a port of the loopback interface.

moto keeps its buckets in the process and not in the server, which makes loading fast and has a price: two demo
servers at a time would share them, and the first to close would empty both.
"""

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from nccid_fetch import warehouse

from . import require_extra

require_extra()  # Before the imports that would fail without it, so that the message is ours.

from moto.core.base_backend import BackendDict  # noqa: E402
from moto.core.model_instances import reset_model_data  # noqa: E402
from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.moto_server.threaded_moto_server import ThreadedMotoServer  # noqa: E402
from moto.s3.models import S3Backend, s3_backends  # noqa: E402

from .synthetic import SyntheticObject  # noqa: E402

_HOST = "127.0.0.1"
_PARTITION = "aws"
_ENCRYPTION = {"Rule": {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}}


class DemoServer:
    """An S3 server that lives as long as its `with` block.

    Its answers are those of the real bucket in what matters to a download: the ETag is the MD5 of the body, the
    objects say that they are encrypted with AES256, and `If-Match` and `Range` are obeyed. Any credentials will do.
    """

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(_HOST, 0, verbose=False)
        self._log = logging.getLogger("werkzeug")
        self._log_level = self._log.level

    def __enter__(self) -> Self:
        self._log_level = self._log.level
        self._log.setLevel(logging.ERROR)  # It reports every request, patients and all.
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        self._log.setLevel(self._log_level)
        BackendDict.reset()
        reset_model_data()

    @property
    def endpoint_url(self) -> str:
        """Where the server listens."""
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send any S3 client here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo-secret",
            "AWS_REGION": warehouse.REGION,
            "AWS_DEFAULT_REGION": warehouse.REGION,
        }

    def load(self, objects: Iterable[SyntheticObject], bucket: str = warehouse.BUCKET) -> int:
        """Put objects into a bucket, which is made if need be, without the detour over HTTP.

        Args:
            objects: What to put. A key that is there already is replaced.
            bucket: The bucket's name.

        Returns:
            How many objects were put.
        """
        backend: S3Backend = s3_backends[DEFAULT_ACCOUNT_ID][_PARTITION]
        if bucket not in backend.buckets:
            backend.create_bucket(bucket, warehouse.REGION)
            backend.put_bucket_encryption(bucket, _ENCRYPTION)
        count = 0
        for count, item in enumerate(objects, start=1):  # noqa: B007 - the last number is the count.
            key = backend.put_object(bucket, item.key, item.body, disable_notification=True)
            # moto computes it when it is first asked for, and without its lock: two requests at once could spoil it.
            _ = key.etag
        return count
