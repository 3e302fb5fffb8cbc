"""A scheduled entry: what is to be done, when, and with what."""

from dataclasses import dataclass

from broker.contract import Lane
from broker.runs import EntryStatus
from producers.schedule.action import Action
from producers.schedule.quiet import QuietHours
from producers.schedule.sources import Source
from producers.schedule.timetable import Timetable


@dataclass(frozen=True)
class Entry:
    """One line of the schedule. ``rescan`` has a source, ``verify`` may have one.

    ``collection`` is the one it is about; empty for the one that is configured. No run is begun in
    the ``quiet`` hours; it begins when they end. Times are Unix times in ms.
    """

    name: str
    timetable: Timetable
    action: Action = Action.RESCAN
    source: Source | None = None
    lane: Lane = Lane.BULK
    quiet: QuietHours | None = None
    collection: str = ""

    def begins_at(self, due_ms: int, now_ms: int) -> int:
        """When a run that was due at ``due_ms`` may begin; not in the past."""
        return self.not_quiet_at(max(due_ms, now_ms))

    def not_quiet_at(self, ms: int) -> int:
        """The first time from ``ms`` on that is not in the quiet hours."""
        return ms if self.quiet is None else self.quiet.over_at(ms)

    def status(self, next_ms: int | None) -> EntryStatus:
        """The entry as people are told of it, with when the next run begins."""
        return EntryStatus(
            name=self.name,
            cron=self.timetable.cron,
            timezone=self.timetable.timezone,
            action=self.action.value,
            source="" if self.source is None else str(self.source),
            next_ms=next_ms,
        )
