"""What a run would begin, told in the run's own events: for `plan` and `--dry-run`, which carry nothing out."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from .admission import Due
from .events import Committed, Event, Failed, PagePlanned, Report
from .model import Decision, Refuse, Skip
from .settings import OnFailure, Settings
from .stopping import Brake
from .warehouse import part_of


class Foresight:
    """Stands between a planner and the listeners.

    ======================================  ======================  =================================================
    What was decided                        Nothing may stop it     An option may stop the run
    ======================================  ======================  =================================================
    skip                                    told with its page      told with its page
    fetch, check                            told with its page      told when it is begun, or at the end as not begun
    refuse                                  the same, as failed     the same, as failed when it is begun
    ======================================  ======================  =================================================

    Attributes:
        may_stop: Whether `--max-patients`, `--max-bytes` or `--on-failure` may stop the run.

    Args:
        group: The group that keys begin with.
        settings: What may stop the run.
        report: Who wants to know.
        brake: Is told of what is refused.
    """

    def __init__(self, group: str, settings: Settings, report: Report, brake: Brake) -> None:
        self.may_stop = settings.takes_whole_patients or settings.on_failure is OnFailure.STOP
        self._group = group
        self._report = report
        self._brake = brake
        self._waiting: dict[int, Decision] = {}

    def __call__(self, event: Event) -> None:
        """Pass an event on, or as much of a page as is known to be begun."""
        if not isinstance(event, PagePlanned):
            self._report(event)
        elif not self.may_stop:
            self._report(event)
            self._refuse(event.decisions)
        else:
            skipped = [decision for decision in event.decisions if isinstance(decision, Skip)]
            if skipped:
                self._report(replace(event, decisions=skipped))
            self._waiting |= {id(due): due for due in event.decisions if not isinstance(due, Skip)}

    def begin(self, due: Sequence[Due]) -> None:
        """Tell what the run begins."""
        for one in due:
            del self._waiting[id(one)]
        self._tell(due, begun=True)
        self._refuse(due)

    def end(self) -> None:
        """Tell what the run does not begin."""
        self._tell(list(self._waiting.values()), begun=False)
        self._waiting.clear()

    def _tell(self, decisions: Sequence[Decision], *, begun: bool) -> None:
        for part, some in groupby(decisions, lambda decision: part_of(decision.remote.key, self._group)):
            self._report(PagePlanned(part, list(some), begun=begun))

    def _refuse(self, decisions: Sequence[Decision]) -> None:
        """Tell refused objects as failed: no server and no file can change that."""
        refused = [Failed(d.remote, d.reason, d.message) for d in decisions if isinstance(d, Refuse)]
        if refused:
            self._report(Committed(refused))
            self._brake.failed(refused[0])
