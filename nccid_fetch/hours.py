"""`--window`: outside of its hours a run asks for nothing, and goes on by itself when they begin."""

from .clock import Clock
from .governor import Governor
from .timetable import Window, seconds_to

LOOK_SECONDS = 10.0
"""How often the clock on the wall is looked at: it may be set, and a machine that slept wakes up at another hour."""


async def keep_hours(window: Window | None, governor: Governor, clock: Clock) -> None:
    """Shut the run outside of its hours and open it within, for as long as it is let.

    Args:
        window: The hours; None for all, of which nothing has to be kept.
        governor: What every request passes through.
        clock: Time: of the day, and the one that only goes forward.
    """
    is_open = True
    while window is not None:
        local = clock.local()
        changes_at = window.changes_at(local)
        seconds = seconds_to(changes_at, local)
        if window.is_open(local) is not is_open:
            is_open = not is_open
            if is_open:
                governor.open()
            else:
                governor.shut(changes_at, seconds)
        await clock.sleep(min(LOOK_SECONDS, seconds))
