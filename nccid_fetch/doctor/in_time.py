"""Work that may hang, with an end to the wait for it: neither a doctor nor a run may hang on what is ill."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_time(function: Callable[[], T], seconds: float) -> T:
    """Run a blocking function in a thread and return what it returns.

    The thread is one that nobody waits for: a disk that hangs would hold up the end of the process as well.

    Args:
        function: What to run.
        seconds: How long to wait for it.

    Raises:
        TimeoutError: It is still at work, and is left to it.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            done, value = outcome.set_result, function()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits.
            tell(outcome.set_exception, error)
        else:
            tell(done, value)

    def tell(say: Callable[..., None], what: object) -> None:
        with suppress(RuntimeError):  # The loop is over.
            loop.call_soon_threadsafe(lambda: None if outcome.done() else say(what))

    threading.Thread(target=work, name="in-time", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await outcome
