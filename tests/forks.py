"""The command line as a process that costs a hundredth of one.

A server loads the program once and forks for every call; `nccid-fetch` on the PATH of a document's sandbox is a small client of it. So a
block of a document may start the program in a pipe, in the background, from cron or twenty times over, as its reader would, and
a start costs milliseconds. `python -m tests.forks SOCKET` serves; `CLIENT` is the client's source.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

CLIENT = """\
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({socket!r})
    call = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(call).encode()], [0, 1, 2])
    process = int(server.recv(16))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: os.kill(process, number))
    code = server.recv(16)
sys.exit(int(code) if code else 128 + signal.SIGKILL)
"""


def serve(path: str) -> None:
    """Answer calls until a signal ends it."""
    _load()
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # Nobody waits for the children: they tell their exit code themselves.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            with connection:
                message, descriptors, _, _ = socket.recv_fds(connection, 1 << 18, 3)
                if os.fork() == 0:
                    listener.close()
                    _answer(connection, json.loads(message), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)


def _load() -> None:
    import botocore.session  # noqa: PLC0415
    from botocore.loaders import JSONFileLoader  # noqa: PLC0415

    from nccid_fetch import api  # noqa: F401, PLC0415
    from nccid_fetch.cli import commands, fetching, listing  # noqa: F401, PLC0415

    JSONFileLoader.load_file = cache(JSONFileLoader.load_file)
    botocore.session.Session().create_client("s3", "eu-west-2")
    gc.freeze()


def _answer(connection: socket.socket, call: dict[str, Any], descriptors: list[int]) -> None:
    """Be the command from here on."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        time.tzset()
        sys.argv = ["nccid-fetch", *call["arguments"]]
        connection.send(str(os.getpid()).encode())
        from nccid_fetch.cli.main import main  # noqa: PLC0415

        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stderr.flush()
    finally:
        with contextlib.suppress(OSError):
            connection.send(str(code).encode())
        os._exit(code)


def client(path: Path, interpreter: str) -> str:
    """Return a program that calls the server that listens at a path."""
    return f"#!{interpreter} -ISs\n{CLIENT.format(socket=str(path))}"


if __name__ == "__main__":
    serve(sys.argv[1])
