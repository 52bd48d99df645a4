"""Who listens to a run: set up here, told of each event in this order, and let go of here."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from nccid_fetch.events import Event, Report
from nccid_fetch.summary import Tally

from . import options
from .display import shown
from .flags import Format
from .narration import Narrator
from .records.keeping import Records


@asynccontextmanager
async def audience(
    values: options.Values, tally: Tally, records: Records, others: Sequence[Report] = ()
) -> AsyncIterator[Report]:
    """Have everyone listen who is to hear of a run, while the block lasts.

    Each is a call that takes an event, on the event loop, and must not block. The tally comes first: the others may
    look at it. A run that does not end in time is left, and this block with it; so nothing that has to be kept waits
    for its end.

    Args:
        values: What was asked for.
        tally: The numbers.
        records: What is kept of it.
        others: Who else is to hear of it.
    """
    spoken = Format(values["format_"])
    async with AsyncExitStack() as stack:
        listeners: list[Report] = [
            tally,
            Narrator(verbose=values["verbose"], quiet=spoken is Format.QUIET, log=records.tell),
            *others,
        ]
        if records.events is not None:
            listeners.append(records.events)
        if records.metrics is not None:
            listeners.append(records.metrics)
            await stack.enter_async_context(records.metrics.kept(tally))
        await stack.enter_async_context(shown(tally, quiet=spoken in {Format.QUIET, Format.JSON}))

        def tell(event: Event) -> None:
            for listen in listeners:
                listen(event)

        yield tell
