"""Tasks that cannot end in silence."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def loud(work: Coroutine[Any, Any, T]) -> T:
    """Do a task's work, and take a cancellation that nobody asked for as the defect it is.

    A task group takes a task that ends as cancelled for one that has ended well. But a `CancelledError` may also come out of a
    library, or of a future that somebody else gave up; then whoever waits for this task's work would wait for ever.

    Raises:
        RuntimeError: It was cancelled by nobody.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            raise
        raise RuntimeError(f"{task.get_name()} was cancelled by nobody") from error
