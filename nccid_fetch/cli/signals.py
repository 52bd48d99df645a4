"""Signals: who hears them, and when.

A run is told of them, and ends in order. Before it begins there is nothing to bring to an end, and the process ends at once; so
it does once a run is over. The handlers run in the main thread, which during a run does nothing but wait for them.

Two signals end nothing: SIGUSR1 asks a run how far it is, SIGUSR2 turns its --bwlimit off and on. Whoever sends one cannot know
whether the run has just ended; so where there is none, they do nothing.
"""

import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from nccid_fetch.errors import LimitError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
STATE: int = signal.SIGUSR1
TOGGLE: int = signal.SIGUSR2
CPU_TIME_USED = "the CPU time that is allowed here (ulimit -t) is used up"
QUESTIONS = (STATE, TOGGLE)
_last_acts: list[Callable[[], object]] = []


def exit_code_of(number: int) -> int:
    """Return what a process exits with that a signal ends; for the CPU time that is used up, what a limit is."""
    return LimitError.exit_code if number == signal.SIGXCPU else 128 + number


def end_at_once(number: int) -> NoReturn:
    """End the process as a signal does, without a word and without waiting for any thread."""
    leave(exit_code_of(number))


def end_unbegun(number: int) -> NoReturn:
    """End the process where no run has begun. Only of a limit is there something to say."""
    if number == signal.SIGXCPU:
        os.write(2, f"error: {CPU_TIME_USED}\nhint: raise that limit, and run the same command again\n".encode())
    end_at_once(number)


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
    signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, *QUESTIONS))


def hear_of_cpu_time() -> None:
    """Have SIGXCPU come a second before the kernel ends the process, where CPU time is limited."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY and hard > 1 and not 0 < soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (hard - 1, hard))


def outlive_questions() -> None:
    """Let the signals that ask for something not end the process, as the system would have it, from now on.

    They are heard and not ignored: what is ignored stays so in every program that is started from here.
    """
    for number in QUESTIONS:
        signal.signal(number, lambda *_: None)


def ignore_questions() -> None:
    """Let them do nothing while Python ends, which puts back what the system would have."""
    for number in QUESTIONS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def going_to(hear: Callable[[int], object], numbers: Sequence[int] = (*ENDING, *QUESTIONS)) -> Iterator[None]:
    """Let signals go to a function, while the block lasts.

    Args:
        hear: Called in the main thread, between any two of its steps, with the signal's number.
        numbers: Which signals.
    """

    def handle(number: int, _: FrameType | None) -> None:
        hear(number)

    heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]  # nohup ignores SIGHUP.
    before = [(number, signal.signal(number, handle)) for number in heard]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
