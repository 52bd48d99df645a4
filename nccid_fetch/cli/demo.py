"""`demo`: the main job on a synthetic warehouse, on an S3 server in this process."""

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from nccid_fetch.demo import require_extra
from nccid_fetch.errors import UsageError
from nccid_fetch.warehouse import BUCKET

from . import options
from .fetching import fetch
from .flags import Format
from .output import note, print_json
from .records.keeping import Records

_CONCURRENCY = 64
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def serve(values: options.Values) -> None:
    """Keep a server with the synthetic warehouse up until a signal comes, which is how it is meant to end."""
    require_extra()
    # Before there are threads, which inherit it: a signal that finds one where it is not blocked ends the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    from nccid_fetch.demo.server import DemoServer  # noqa: PLC0415 - an extra.
    from nccid_fetch.demo.synthetic import warehouse  # noqa: PLC0415

    with DemoServer() as server:
        count = server.load(warehouse())
        if Format(values["format_"]) is Format.JSON:  # Now, as whoever reads it wants to use it.
            print_json({"schema": "nccid-fetch/serve/1", "environment": server.environment, "exit_code": 0})
        else:
            for name, value in server.environment.items():
                print(f"export {name}={value}")
            sys.stdout.flush()
        note(f"{count} objects in {BUCKET}; with these variables set, any S3 client finds them. Ctrl-C ends it.")
        signal.sigwait(_ENDING)


def demonstrate(values: options.Values, records: Records) -> None:
    """Fetch everything twice.

    Raises:
        UsageError: The extra is missing, or the destination holds something already.
    """
    require_extra()
    # The bucket has the real one's name, so nothing else would keep made-up patients out of a tree of real ones.
    if values["dest"] is not None and values["dest"].is_dir() and any(values["dest"].iterdir()):
        raise UsageError(f"--dest {values['dest']} is not empty", hint="name a folder that does not exist yet")
    from nccid_fetch.demo.server import DemoServer  # noqa: PLC0415 - an extra.
    from nccid_fetch.demo.synthetic import warehouse  # noqa: PLC0415

    with ExitStack() as stack:
        server = stack.enter_context(DemoServer())
        dest = values["dest"] or Path(stack.enter_context(TemporaryDirectory(prefix="nccid-demo-")))
        count = server.load(warehouse())
        # The server is the one to ask, whatever this shell and ~/.aws are set up for, and no proxy leads to it.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(server.environment)
        os.environ.update(dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull))
        os.environ.update(dict.fromkeys(("NO_PROXY", "no_proxy"), "*"))
        fetching = _defaults() | {name: values[name] for name in options.OUTPUT} | {"dest": dest}
        human = Format(values["format_"]) in {Format.AUTO, Format.HUMAN}
        if human:
            print(f"A synthetic warehouse of {count} objects is at {server.endpoint_url}.")
            print(f"$ nccid-fetch all --concurrency {_CONCURRENCY} --dest {dest}\n", flush=True)
            _fetched(fetching, records)
            print("\nThe same command once more: nothing is fetched twice.\n", flush=True)
        _fetched(fetching, records)


def _defaults() -> options.Values:
    given = (options.FETCH | options.SOURCE).items()
    return {name: default for name, (_, default) in given if name not in options.DURATIONS} | {
        "concurrency": _CONCURRENCY
    }


def _fetched(values: options.Values, records: Records) -> None:
    """Run `all` and go on if all is well.

    Raises:
        typer.Exit: It is not.
    """
    try:
        fetch("all", values, records)
    except typer.Exit as end:
        if end.exit_code:
            raise
