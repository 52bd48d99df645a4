"""Tasks that cannot end in silence."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def loud(work: Callable[P, Awaitable[T]], *arguments: P.args, **options: P.kwargs) -> T:
    """Do a task's work, and take a cancellation that nobody asked for as the defect it is.

    A task group takes a task that ends as cancelled for one that has ended well. But a `CancelledError` may also come out of a
    library, or of a future that somebody else gave up; then whoever waits for this task's work would wait for ever.

    Args:
        work: What to do; called here, so that a task that is cancelled before its first step leaves nothing begun.
        arguments: What with.
        options: What with, by name.

    Raises:
        RuntimeError: It was cancelled by nobody.
    """
    try:
        return await work(*arguments, **options)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            raise
        raise RuntimeError(f"{task.get_name()} was cancelled by nobody") from error
