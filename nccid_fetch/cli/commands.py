"""The commands: what each is called, what it takes, and its help."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from nccid_fetch.errors import RunError, UsageError

from . import options

if TYPE_CHECKING:
    from .records.keeping import Records

app = typer.Typer(name="nccid-fetch", pretty_exceptions_enable=False, add_completion=False)


def run(arguments: list[str]) -> NoReturn:
    """Run the command line and exit."""
    try:
        code = app(arguments or ["--help"], prog_name="nccid-fetch", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        from .output import print_error  # noqa: PLC0415 - here and below: --help needs none of it.

        print_error(_usage_error(error))
        sys.exit(UsageError.exit_code)
    sys.exit(code if arguments else UsageError.exit_code)


def _usage_error(error: Any) -> UsageError:  # noqa: ANN401 - typer does not export the class of all of these.
    """Say what typer found wrong with the command line in our words: one sentence and the next step."""
    message = error.format_message().rstrip(".").replace("'['", "'").replace("']'", "'")  # A list of variables.
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "nccid-fetch"
    return UsageError(f"{message[:1].lower()}{message[1:]}", hint=f"{command} --help shows what there is")


@app.callback()
def _root(_: options.Version = False) -> None:
    """Fetch the National COVID-19 Chest Imaging Database: resumable, and every byte verified."""


@contextmanager
def _ending(values: options.Values) -> Iterator["Records"]:
    """Turn whatever ends a command into one sentence, an exit code, and the end of its records."""
    from .records.keeping import Records  # noqa: PLC0415

    records = Records(values)
    code, defect = 0, None
    try:
        records.open()
        yield records
    except typer.Exit as end:
        code = end.exit_code
    except BrokenPipeError:
        # Whoever reads has seen enough, as in `ls | head`. What is still to be flushed must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except UsageError as error:
        from .output import print_error  # noqa: PLC0415

        print_error(error)
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the last one that can say anything.
        from .runner import report_failure  # noqa: PLC0415

        defect = None if isinstance(error, RunError) else error
        code = report_failure(error, debug=values["debug"], at_end=records.end)
    records.end(code, defect)
    raise typer.Exit(code)


@app.command("all")
@options.takes(options.FETCH, options.SOURCE, options.OUTPUT, options.RECORDS)
def fetch_all(values: options.Values) -> None:
    """Fetch every part that the credentials allow.

    Example: nccid-fetch all --dest /data/nccid --concurrency 64
    """
    from .fetching import fetch  # noqa: PLC0415

    with _ending(values) as records:
        fetch("all", values, records)


@app.command("get")
@options.takes(
    {"parts": (options.Parts, None), "plan": (options.PlanFile, None)},
    options.FETCH,
    options.SOURCE,
    options.OUTPUT,
    options.RECORDS,
)
def get(values: options.Values) -> None:
    """Fetch the named parts, or carry out a plan.

    Example: nccid-fetch get data xray-metadata xray --dest /data/nccid
    """
    from .fetching import fetch  # noqa: PLC0415

    with _ending(values) as records:
        if bool(values["parts"]) == bool(values["plan"]):
            raise UsageError("get takes the names of parts, or --plan FILE", hint="nccid-fetch all fetches everything")
        fetch("get", values, records)


@app.command("plan")
@options.takes(
    {"parts": (options.Parts, None), "output": (options.PlanOutput, None)},
    options.SELECT,
    options.SOURCE,
    options.OUTPUT,
)
def plan(values: options.Values) -> None:
    """List and decide, download nothing.

    Example: nccid-fetch plan ct --output plan.jsonl, and later: nccid-fetch get --plan plan.jsonl
    """
    from .fetching import plan as make_plan  # noqa: PLC0415

    with _ending(values) as records:
        make_plan("plan", values, records)


@app.command("ls")
@options.takes(
    {"prefix": (options.Prefix, ""), "summary": (options.OnlySummary, False)},
    options.PATIENCE,
    options.SOURCE,
    options.OUTPUT,
)
def ls(values: options.Values) -> None:
    """List the objects under a prefix of the group.

    Example: nccid-fetch ls ct/Covid0000, or: nccid-fetch ls --summary
    """
    from .listing import show  # noqa: PLC0415

    with _ending(values):
        show(values)


@app.command("demo")
@options.takes({"serve": (options.Serve, False), "dest": (options.DemoDest, None)}, options.OUTPUT)
def demo(values: options.Values) -> None:
    """Try it on a synthetic warehouse, without credentials.

    Starts an S3 server in this process, fetches everything from it, then again: nothing comes twice.
    """
    from .demo import demonstrate, serve  # noqa: PLC0415

    with _ending(values) as records:
        if values["serve"]:
            serve(values)
        else:
            demonstrate(values, records)
