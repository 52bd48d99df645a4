"""The commands: what each is called, what it takes, and its help."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter
from typing import TYPE_CHECKING, NoReturn

import typer

from nccid_fetch.errors import DestinationError, RunError, UsageError

from . import completion, flags, options
from .help import AFTERWARDS, FETCH, LOOK_FIRST, SET_UP, Command, Group
from .signals import ignore_questions

if TYPE_CHECKING:
    from .records.keeping import Records

app = typer.Typer(
    name=completion.PROGRAM,
    cls=Group,
    rich_markup_mode=None,  # See `help`.
    pretty_exceptions_enable=False,
    add_completion=False,  # See `completion`.
    epilog="""
        nccid-fetch demo
        nccid-fetch plan --profile nccid --dest /data/nccid
        nccid-fetch all --profile nccid --dest /data/nccid
    """,
)


def run(arguments: list[str]) -> NoReturn:
    """Run the command line and exit."""
    completion.prepare()
    try:
        code = app(arguments or ["--help"], prog_name=completion.PROGRAM, standalone_mode=False)
    except UsageError as error:  # The configuration file's.
        _end_with(error)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        from .usage import usage_error  # noqa: PLC0415 - here and below: --help needs none of it.

        _end_with(usage_error(error))
    ignore_questions()
    sys.exit(code if arguments else UsageError.exit_code)


def _end_with(error: UsageError) -> NoReturn:
    from .output import print_error  # noqa: PLC0415

    print_error(error)
    ignore_questions()
    sys.exit(UsageError.exit_code)


@app.callback()
def _root(_: flags.Version = False) -> None:
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
        _leave_stdout()  # Whoever reads has seen enough, as in `ls | head`.
        code = 128 + signal.SIGPIPE
    except UsageError as error:
        from .origins import located  # noqa: PLC0415
        from .output import print_error  # noqa: PLC0415

        print_error(located(error, values["context"]))
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the last one that can say anything.
        from .runner import report_failure  # noqa: PLC0415

        failure = _of_stdout(error)
        defect = None if isinstance(failure, RunError) else failure
        code = report_failure(failure, debug=values["debug"], at_end=records.end)
    records.end(code, defect)
    raise typer.Exit(code)


def _leave_stdout() -> None:
    """Write nothing more to stdout: what is still to be flushed must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_stdout(error: Exception) -> Exception:
    """Return what there is to say where stdout is a file for which there is no room; any other error as it is.

    All else that is written has a name, and what becomes of it is said by whoever writes it.
    """
    from nccid_fetch.diagnosis import FULL  # noqa: PLC0415

    if not isinstance(error, OSError) or error.errno not in FULL or error.filename is not None:
        return error
    _leave_stdout()
    hint = "make room where it goes; what a run has verified is in place"
    return DestinationError(f"stdout cannot be written: {error.strerror}", hint=hint)


def _command(name: str, panel: str, examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command.

    Args:
        name: What it is called.
        panel: What it is for: one of `help.COMMAND_PANELS`.
        examples: Two to four command lines, one a line, that can be copied as they are.
    """
    return app.command(name, cls=Command, rich_help_panel=panel, epilog=examples)


@_command(
    "all",
    FETCH,
    """
    nccid-fetch all --profile nccid --dest /data/nccid
    nccid-fetch all --dest /data/nccid --concurrency auto
    nccid-fetch all --dest /data/nccid --exclude 'ct/*' --exclude 'mri/*'
    nccid-fetch all --dest /data/nccid --format json > summary.json
    """,
)
@options.takes(options.FETCH, options.SOURCE, options.OUTPUT, options.RECORDS)
def fetch_all(values: options.Values) -> None:
    """Fetch every part that the credentials allow."""
    from .fetching import fetch  # noqa: PLC0415

    with _ending(values) as records:
        fetch("all", values, records)


@_command(
    "get",
    FETCH,
    """
    nccid-fetch get data xray-metadata xray --dest /data/nccid
    nccid-fetch get ct --include 'ct/Covid00*' --dest /data/nccid
    nccid-fetch get --plan plan.jsonl --dest /data/nccid
    """,
)
@options.takes(
    {"parts": (flags.Parts, None), "plan": (flags.PlanFile, None)},
    options.FETCH,
    options.SOURCE,
    options.OUTPUT,
    options.RECORDS,
)
def get(values: options.Values) -> None:
    """Fetch the named parts, or carry out a plan."""
    from .fetching import fetch  # noqa: PLC0415

    with _ending(values) as records:
        if bool(values["parts"]) == bool(values["plan"]):
            raise UsageError("get takes the names of parts, or --plan FILE", hint="nccid-fetch all fetches everything")
        fetch("get", values, records)


@_command(
    "plan",
    LOOK_FIRST,
    """
    nccid-fetch plan --dest /data/nccid
    nccid-fetch plan ct --dest /data/nccid --output plan.jsonl
    nccid-fetch plan data --format json
    """,
)
@options.takes(
    {"parts": (flags.Parts, None), "output": (flags.PlanOutput, None)},
    options.SELECT,
    options.SOURCE,
    options.OUTPUT,
)
def plan(values: options.Values) -> None:
    """List and decide, download nothing. 'get --plan' carries out what '--output' wrote."""
    from .fetching import plan as make_plan  # noqa: PLC0415

    with _ending(values) as records:
        make_plan("plan", values, records)


@_command(
    "ls",
    LOOK_FIRST,
    """
    nccid-fetch ls --summary
    nccid-fetch ls ct/Covid0000
    nccid-fetch ls data --group validation | head
    """,
)
@options.takes(
    {"prefix": (flags.Prefix, ""), "summary": (flags.OnlySummary, False)},
    options.PATIENCE,
    options.SOURCE,
    options.OUTPUT,
)
def ls(values: options.Values) -> None:
    """List the objects under a prefix of the group."""
    from .listing import show  # noqa: PLC0415

    with _ending(values):
        show(values)


@_command(
    "doctor",
    LOOK_FIRST,
    """
    nccid-fetch doctor --profile nccid --dest /data/nccid
    nccid-fetch doctor --format json --dest /data/nccid
    """,
)
@options.takes({"dest": options.SELECT["dest"]}, options.SOURCE, options.OUTPUT)
def doctor(values: options.Values) -> None:
    """Find out whether a run will work, and what to do if not.

    Looks at access part by part, endpoint, clock, disk, permissions and journal, and changes nothing.
    """
    from .doctor import show  # noqa: PLC0415

    with _ending(values):
        show(values)


@_command(
    "status",
    AFTERWARDS,
    """
    nccid-fetch status --dest /data/nccid
    nccid-fetch status --watch --dest /data/nccid
    nccid-fetch status --format json --dest /data/nccid
    """,
)
@options.takes({"watch": (flags.Watch, False), "dest": options.SELECT["dest"]}, options.OUTPUT)
def status(values: options.Values) -> None:
    """Say what DEST holds against what was last listed, and how the run over it goes. Needs no network."""
    from .status import show  # noqa: PLC0415

    with _ending(values):
        show(values)


@_command(
    "config",
    SET_UP,
    """
    nccid-fetch config
    nccid-fetch config --concurrency auto --format json
    nccid-fetch config --example > ~/.config/nccid-fetch/config.toml
    """,
)
@options.takes({"example": (flags.Example, False)}, options.FETCH, options.RECORDS, options.SOURCE, options.OUTPUT)
def config(values: options.Values) -> None:
    """Show every option's value and its source."""
    from .config import print_example, show  # noqa: PLC0415

    with _ending(values):
        if values["example"]:
            print_example(values)
        else:
            show(values)


@_command(
    "completion",
    SET_UP,
    """
    eval "$(nccid-fetch completion bash)"
    nccid-fetch completion bash > ~/.local/share/bash-completion/completions/nccid-fetch
    nccid-fetch completion zsh > ~/.zfunc/_nccid-fetch
    nccid-fetch completion fish > ~/.config/fish/completions/nccid-fetch.fish
    """,
)
@options.takes({"shell": (flags.ShellName, Parameter.empty)}, options.OUTPUT)
def completion_script(values: options.Values) -> None:
    """Print the completion script of a shell.

    With it, the tab key completes commands, options, parts, profiles and files.
    """
    with _ending(values):
        script = completion.script(values["shell"])
        if values["format_"] is flags.Format.JSON:
            from .output import print_json  # noqa: PLC0415

            print_json({"schema": "nccid-fetch/completion/1", "script": script, "exit_code": 0})
        else:
            print(script, flush=True)


@_command(
    "demo",
    SET_UP,
    """
    nccid-fetch demo
    nccid-fetch demo --dest /tmp/nccid-demo
    nccid-fetch demo --serve
    """,
)
@options.takes({"serve": (flags.Serve, False), "dest": (flags.DemoDest, None)}, options.OUTPUT)
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
