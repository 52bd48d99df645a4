"""Whether what is planned fits on the disk: told once when it cannot, and told at the end when it did not.

Counted is what is known for sure to be needed: the bytes and the number of the files to be fetched, without folders,
without what a file system adds to them, and without what may still turn out to be wrong. So the truth is never less, and
running out of room is found out by running out of it.
"""

from .errors import DestinationFullError
from .events import Committed, Event, Fetched, PagePlanned, Report, RoomShort
from .model import Fetch, Space
from .units import size_text


class Room:
    """Listens to a run, and passes on what it hears.

    Args:
        report: Who wants to know.

    Attributes:
        free: What was free when the run began; None while nobody has looked.
    """

    def __init__(self, report: Report) -> None:
        self.free: Space | None = None
        self._report = report
        self._planned_bytes = self._planned_files = 0
        self._grown_bytes = self._grown_files = 0
        self._came_bytes = self._came_files = 0
        self._is_told = False

    def __call__(self, event: Event) -> None:
        """Count what is planned and what came, by the page and by the batch."""
        self._report(event)
        match event:
            case PagePlanned(_, decisions):
                self._plan([decision for decision in decisions if type(decision) is Fetch])
            case Committed(outcomes):
                came = [outcome.remote.size for outcome in outcomes if type(outcome) is Fetched]
                self._came_bytes += sum(came)
                self._came_files += len(came)

    def _plan(self, fetches: list[Fetch]) -> None:
        replaced = [fetch.replaces.size for fetch in fetches if fetch.replaces is not None]
        size = sum(fetch.remote.size for fetch in fetches)
        self._planned_bytes += size
        self._planned_files += len(fetches)
        self._grown_bytes += size - sum(replaced)
        self._grown_files += len(fetches) - len(replaced)
        free = self.free
        if self._is_told or free is None:
            return
        if self._grown_bytes > free.bytes or (free.files is not None and self._grown_files > free.files):
            self._is_told = True
            self._report(RoomShort(self._grown_bytes, self._grown_files, free.bytes, free.files))

    def told(self, error: DestinationFullError) -> DestinationFullError:
        """Return an error that also says how much is still to come, at least."""
        size, files = self._planned_bytes - self._came_bytes, self._planned_files - self._came_files
        if files <= 0:
            return error
        return DestinationFullError(
            f"{error.message}; at least {size_text(max(size, 0))} in {files:,} files are still to come", error.hint
        )
