"""What gives credentials, on loopback: STS, single sign-on and a container's endpoint in one, which fail on command."""

import json
import threading
from collections.abc import Callable  # noqa: TC003 - kept with the rest.
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs

KEY, SECRET = "test", "test-secret"
"""What is given is what the tests' environment has, so that an S3 server that verifies signatures knows it."""


class Reply(NamedTuple):
    """An answer that is not the truth."""

    status: int
    body: str
    kind: str = "text/plain"


class Providers:
    """Answers requests for credentials. Each set has a session token of its own: TOKEN1, TOKEN2, ...

    Attributes:
        asked: What was asked for, in order: STS's action, else the path.
        life: How long credentials live, in seconds.
        fault: Returns what is answered in place of the truth to a request for this; None for the truth.
        hangs: Requests get no answer before the server ends.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.life = 3600.0
        self.fault: Callable[[str], Reply | None] = lambda _: None
        self.hangs = False
        self._given = 0
        self._end = threading.Event()

    def __enter__(self) -> Self:
        providers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                providers._answer(self)

            do_POST = do_PUT = do_GET  # noqa: N815 - their names.

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode()
        wanted = parse_qs(body).get("Action", [request.path.partition("?")[0]])[0]
        self.asked.append(wanted)
        if self.hangs:
            self._end.wait()
            return
        reply = self.fault(wanted) or self._truth(wanted)
        data = reply.body.encode()
        request.send_response(reply.status)
        request.send_header("Content-Type", reply.kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _truth(self, wanted: str) -> Reply:
        self._given += 1
        token = f"TOKEN{self._given}"
        ends = datetime.now(UTC) + timedelta(seconds=self.life)
        if wanted.startswith("Assume"):
            return Reply(200, sts_answer(wanted, token, ends), "text/xml")
        if wanted == "/federation/credentials":
            keys = {"accessKeyId": KEY, "secretAccessKey": SECRET, "sessionToken": token}
            return _json({"roleCredentials": {**keys, "expiration": int(ends.timestamp() * 1000)}})
        if wanted == "/container":
            return _json(
                {
                    "AccessKeyId": KEY,
                    "SecretAccessKey": SECRET,
                    "Token": token,
                    "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
                }
            )
        return Reply(404, "{}", "application/json")


def sts_answer(action: str, token: str, ends: datetime) -> str:
    """Return what STS answers when a role was assumed."""
    keys = f"<AccessKeyId>{KEY}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>{keys}'
        f"<SessionToken>{token}</SessionToken><Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
        "<AssumedRoleUser><Arn>arn:aws:sts::000000000000:assumed-role/reader/a</Arn><AssumedRoleId>A:a</AssumedRoleId>"
        f"</AssumedRoleUser></{action}Result></{action}Response>"
    )


def _json(content: object) -> Reply:
    return Reply(200, json.dumps(content), "application/json")
