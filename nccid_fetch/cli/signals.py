"""Signals: who hears them, and when.

A run is told of them, and ends in order. Before it begins there is nothing to bring to an end, and the process ends at once; so
it does once a run is over. The handlers run in the main thread, which during a run does nothing but wait for them.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_last_acts: list[Callable[[], object]] = []


def end_at_once(number: int) -> NoReturn:
    """End the process as a signal does, without a word and without waiting for any thread."""
    leave(128 + number)


def leave(code: int) -> NoReturn:
    """End the process with an exit code, without waiting for any thread."""
    for act in _last_acts:
        with suppress(Exception):  # Whatever it is, the process ends.
            act()
    os._exit(code)


@contextmanager
def ending_with(act: Callable[[], object]) -> Iterator[None]:
    """Have something done where the process ends at once while the block lasts. It must not wait for anything."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


def leave_to_main_thread() -> None:
    """Have no signal delivered to this thread, nor to those that it starts.

    Where one waits for the main thread already, the system hands the next to any other, and that does not wake the main thread.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


@contextmanager
def going_to(hear: Callable[[int], object]) -> Iterator[None]:
    """Let the signals that end a process go to a function instead, while the block lasts.

    Args:
        hear: Called in the main thread, between any two of its steps, with the signal's number.
    """

    def handle(number: int, _: FrameType | None) -> None:
        hear(number)

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP.
    before = [(number, signal.signal(number, handle)) for number in heard]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
