"""Programs that give credentials: one that nobody waits for any more is ended, and not left to hang behind our back."""

import asyncio
from contextlib import suppress
from typing import Any

ENDED_SECONDS = 1.0
"""A program that was killed is gone by then."""


async def start(*command: str, **options: Any) -> "Program":  # noqa: ANN401 - passes on what it is given.
    """Start a program, as `asyncio.create_subprocess_exec` does.

    Whoever is cancelled meanwhile gets away when it has begun, which takes no time: to be cancelled in between leaves an
    event loop that cannot be closed.
    """
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*command, **options))
    try:
        return Program(await asyncio.shield(starting))
    except asyncio.CancelledError:
        with suppress(OSError):  # It cannot be started, or has ended.
            (await starting).kill()
        raise


class Program:
    """A program that was started.

    Args:
        process: Its process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """What it ended with."""
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return what it wrote, when it has ended."""
        try:
            return await self._process.communicate()
        except asyncio.CancelledError:
            self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - ends it, and closes its pipes.
            with suppress(TimeoutError):
                async with asyncio.timeout(ENDED_SECONDS):
                    await self._process.wait()
            raise
