"""All records of a command: opened before anything can go wrong, and brought to their end after everything has."""

import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nccid_fetch import __version__
from nccid_fetch.cli import options
from nccid_fetch.cli.closing import print_summary
from nccid_fetch.cli.flags import Format
from nccid_fetch.cli.output import answer, heard_by, note, objects_text, print_json
from nccid_fetch.errors import UsageError
from nccid_fetch.keys import printable
from nccid_fetch.streams import STDIN, STDOUT, descriptor_of
from nccid_fetch.summary import Summary
from nccid_fetch.units import size_text, time_text

if TYPE_CHECKING:
    from nccid_fetch.cli.narration import Sentence

    from .log import Log
    from .metrics import Metrics
    from .stream import EventStream

PATIENCE_SECONDS = 5.0
"""How long a command waits at its end for each record to be written."""
HASTE_SECONDS = 0.2
"""How long after a signal: the last words of a run have a second in all."""
_SIGNALLED = 128
_INPUTS = ("config", "plan")
"""The options that read a file."""
_OUTPUTS = ("events", "output", "log_file", "metrics")
"""The options that write to one."""
_ELSEWHERE = "name another file"
_UNSAID = {"--on-finish": "(given)"}
"""Options whose values are not repeated: a command may have the address of a chat in it, which is a password."""
_PASSWORD = re.compile(r"(?<=//)\S*@")
"""Up to the last @: what is none of a URL, as a password with one of its own, is written down before it is refused."""
_RUNS = ("all", "get", "plan")
"""The commands whose stdout has nothing but the summary, so that events may take its place."""


class Records:
    """What a command keeps besides what it says.

    Attributes:
        events: The stream of events, if there is one.
        metrics: The numbers for Prometheus, if they are kept.
        summary: What a run came to; None until it has ended, and for commands that are no run.

    Args:
        values: What was asked for.
    """

    def __init__(self, values: options.Values) -> None:
        self.events: EventStream | None = None
        self.metrics: Metrics | None = None
        self.summary: Summary | None = None
        self._values = values
        self._command = str(values["context"].info_name)
        self._spoken = Format(values["format_"])
        self._stdout_owner: str | None = None
        self._log: Log | None = None
        self._last_words: list[str] = []
        self._hearing = ExitStack()
        answer.is_given = False

    @property
    def tell(self) -> "Callable[[Sentence], object] | None":
        """Who takes sentences for the log; None where there is none."""
        return self._log.tell if self._log is not None else None

    def open(self) -> None:
        """Open all that was asked for, the log first, so that it has what goes wrong with the others.

        Raises:
            UsageError: A file cannot be written.
        """
        values, command = self._values, self._command
        self._check_files()
        self._hearing.enter_context(heard_by(self._hear))
        source = {name: values.get(name) for name in ("bucket", "group")}
        dest = None if values.get("dest") is None else str(values["dest"])
        facts = {"version": __version__, **source, "dest": dest}
        if values["log_file"] is not None:
            from .log import Log  # noqa: PLC0415 - here and below: most commands keep none of it.

            log = Log(values["log_file"], values["log_format"], on_failure=_saying("--log-file", values["log_file"]))
            given = dict(_given(values["context"]))
            told = "".join(f" {_as_typed(name, value)}" for name, value in given.items())
            text = f"nccid-fetch {__version__} begins: {command}{told}"
            log.write("info", text, command=command, **facts, options=given)
            if source["bucket"] is not None:
                log.write("info", f"from {source['bucket']}/{source['group']}{f' to {dest}' if dest else ''}")
            self._log = log
        if values["events"] is not None:
            from .stream import EventStream  # noqa: PLC0415

            self.events = EventStream(values["events"], on_failure=_saying("--events", values["events"]))
            self.events.begin(command, facts)
        if values.get("metrics") is not None:
            from .metrics import Metrics  # noqa: PLC0415

            labels = {"group": str(source["group"]), "dest": str(Path(str(dest)).absolute())}
            self.metrics = Metrics(values["metrics"], labels, on_failure=_saying("--metrics", values["metrics"]))

    def _check_files(self) -> None:
        """Refuse two options that read or write one file, stdin or stdout. A device may be given to many.

        Raises:
            UsageError: There are two.
        """
        owners: dict[int | str, str] = {}
        for name in (*_INPUTS, *_OUTPUTS):
            path = self._values.get(name)
            if path is None:
                continue
            number = descriptor_of(path, STDIN if name in _INPUTS else STDOUT)
            if number is None and os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - never raise.
                continue
            place = os.path.realpath(path) if number is None else number
            option = f"--{name.replace('_', '-')} {path}"
            if (owner := owners.setdefault(place, option)) is not option:
                what = "one file" if number is None else {STDIN: "stdin", STDOUT: "stdout"}.get(number, "one stream")
                raise UsageError(f"{owner} and {option} cannot both have {what}", hint=_ELSEWHERE)
        taken = self._stdout_owner = owners.get(STDOUT)
        if taken is not None and self._command not in _RUNS:
            raise UsageError(f"{taken} would mix with what {self._command} writes to stdout", hint=_ELSEWHERE)
        if taken is not None and self._spoken is Format.JSON and not taken.startswith("--events"):
            raise UsageError(f"{taken} would mix with --format json on stdout", hint=_ELSEWHERE)

    def stdout(self) -> AbstractContextManager[object]:
        """Have the summary go to stderr while the block lasts, if an option has stdout. Events have it in JSON themselves."""
        if self._stdout_owner is None:
            return nullcontext()
        return redirect_stdout(io.StringIO() if self._spoken is Format.JSON else sys.stderr)

    def end(self, code: int, defect: BaseException | None = None) -> None:
        """Bring all records to their end, and run what is to be run then. Never raises.

        Args:
            code: What the command exits with.
            defect: An error that is not one of ours.
        """
        seconds = PATIENCE_SECONDS if code < _SIGNALLED else HASTE_SECONDS
        if self._spoken is Format.JSON and not answer.is_given and code != UsageError.exit_code:
            with suppress(OSError):
                print_json(self._ended(code))
        if self.events is not None and not self.events.end(code, self.summary, seconds):
            _say("warning: --events: the last lines were not taken in time")
        if self.metrics is not None and not self.metrics.end(code, seconds):
            _say("warning: --metrics: the last numbers were not written in time")
        if self._values.get("on_finish") is not None and code != UsageError.exit_code:
            with suppress(OSError):  # As in `_say`.
                self._finish(self._values["on_finish"], code)
        if self._log is not None:
            if defect is not None:
                for line in "".join(traceback.format_exception(defect)).splitlines():
                    self._log.write("error", line)
            self._log.write("info", _ended_text(code, self.summary), **_ended_facts(code, self.summary))
            self._log.close(seconds)
        self._hearing.close()

    def _hear(self, text: str) -> None:
        if self._log is not None:
            self._log.hear(text)
        if self.summary is not None:  # The run is over, and this is what there is to say about it.
            self._last_words.append(printable(text))

    def _ended(self, code: int) -> dict[str, Any]:
        """Return the least that a program is told at the end."""
        return {"schema": "nccid-fetch/ended/1", "command": self._command, "exit_code": code}

    def _finish(self, command: str, code: int) -> None:
        from .finish import FINISH_SECONDS, run_on_finish  # noqa: PLC0415

        facts = {"EXIT_CODE": str(code), "COMMAND": self._command}
        if self.summary is not None:
            source, dest = self.summary.source, str(self.summary.settings.dest.absolute())
            facts |= {"DEST": dest, "BUCKET": source.bucket, "GROUP": source.group}
        run_on_finish(
            command,
            self._told(code),
            {f"NCCID_FETCH_{name}": value for name, value in facts.items()},
            seconds=FINISH_SECONDS if code < _SIGNALLED else HASTE_SECONDS,
            go_on=code >= _SIGNALLED,
        )

    def _told(self, code: int) -> str:
        """Return what `--on-finish` reads: what a person, or with `--format json` a program, is told at the end."""
        if self._spoken is Format.JSON:
            return json.dumps(self._ended(code) if self.summary is None else self.summary.as_dict(), indent=2) + "\n"
        with redirect_stdout(io.StringIO()) as out:
            if self.summary is not None and self.summary.tally.listed.objects:
                print_summary(self.summary)
            else:
                print(f"nccid-fetch {self._command} ended with {code}")
            for line in self._last_words:
                print(line)
        return out.getvalue()


def _say(text: str) -> None:
    with suppress(OSError):  # Nobody reads stderr any more; the other records are to have their end.
        note(text)


def _saying(option: str, path: Path) -> Callable[[OSError], object]:
    """Return what says once that a record cannot be written any more."""

    def say(error: OSError) -> None:
        why = "nobody reads it any more" if isinstance(error, BrokenPipeError) else error.strerror
        note(f"warning: {option} {path} cannot be written: {why}; the run goes on without it")

    return say


def _given(context: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - typer's own context.
    """Yield what was given on the command line, in the environment or in a file, as it may be written down."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name)
        source = context.get_parameter_source(parameter.name)
        if value is None or source is None or source.name == "DEFAULT":
            continue
        name = next(iter(parameter.opts), parameter.name)
        text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield name, _UNSAID.get(name, _PASSWORD.sub("***@", text))


def _as_typed(name: str, value: str) -> str:
    if value == "True":
        return name
    return f"{name} {value}" if name.startswith("-") else value


def _ended_text(code: int, summary: Summary | None) -> str:
    if summary is None:
        return f"ended with {code}"
    tally = summary.tally
    numbers = ", ".join(
        f"{word} {objects_text(count.objects)} ({size_text(count.bytes)})"
        for word, count in (
            ("listed", tally.listed),
            ("fetched", tally.fetched),
            ("adopted", tally.adopted),
            ("skipped", tally.skipped),
        )
    )
    return (
        f"ended with {code} after {time_text(summary.duration_seconds)}: {numbers}, "
        f"refused {tally.refused:,}, failed {tally.failed:,}"
    )


def _ended_facts(code: int, summary: Summary | None) -> Mapping[str, Any]:
    numbers = {} if summary is None else summary.as_dict()
    kept = ("duration_seconds", "listed", "fetched", "adopted", "skipped", "refused", "failed", "verified", "parts")
    return {name: numbers[name] for name in kept if name in numbers} | {"exit_code": code}
