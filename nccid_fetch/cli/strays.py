"""What Python and the libraries would write to stderr by themselves: in our words, or not at all.

A library's warning may have a request in it, token and all; the `repr` of a connection has a proxy's password; a
message of anybody may have a key that speaks to the terminal. None of it goes past `note`, and of what is not ours only
the kind is told. What it means for the run comes back as an error all the same, and is said once.
"""

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .output import note

_LIBRARIES = ("aioboto3", "aiobotocore", "aiohttp", "asyncio", "boto3", "botocore", "urllib3")
_SILENT = logging.CRITICAL + 1
_is_quiet = False


@contextmanager
def caught(*, quiet: bool) -> Iterator[None]:
    """Take over whatever would be written past us, while the block lasts; the libraries' loggers stay silent.

    Args:
        quiet: Say nothing of it at all.
    """
    global _is_quiet  # noqa: PLW0603 - the hooks are the interpreter's, of which there is one.
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(_SILENT)
    _is_quiet = quiet
    before = warnings.showwarning, sys.unraisablehook, threading.excepthook
    warnings.showwarning = _on_warning
    sys.unraisablehook = lambda left: _say(left.exc_type, "where nobody could hear it")
    threading.excepthook = lambda left: _say(left.exc_type, "in a thread")
    try:
        yield
    finally:
        warnings.showwarning, sys.unraisablehook, threading.excepthook = before


def on_loop_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say that something was left behind in the event loop."""
    error = context.get("exception")
    if error is not None:
        _say(type(error), "where nobody waited for it")


def _on_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:  # noqa: ANN401, ARG001
    _say(category, "as a warning")


def _say(kind: type[BaseException] | None, where: str) -> None:
    if not _is_quiet:
        note(f"note: a {kind.__name__ if kind else 'problem'} came up {where}; if the run went well, it did no harm")
