"""A scheduled entry: what it does, and when."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ingestq.broker.schedule.runs import EntryStatus
from ingestq.core.documents import DEFAULT_COLLECTION, Lane
from producers.schedule.sources import Source


class Action(StrEnum):
    """The action of a scheduled run.

    ``rescan`` queues what its source has, and deletes what it no longer has; ``reindex`` rebuilds
    the collection with the current settings; ``verify`` compares the index with its ledger,
    and with the source if there is one, and repairs it.
    """

    RESCAN = "rescan"
    REINDEX = "reindex"
    VERIFY = "verify"


EPOCH: Final = datetime.fromtimestamp(0, UTC)


def zone_named(name: str) -> ZoneInfo:
    """Return the time zone ``name``. Raises ValueError if it does not exist."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:  # ZoneInfoNotFoundError; a folder of zones
        raise ValueError(
            f"timezone is {name!r}: there is no such time zone; write one like Europe/Berlin or UTC"
        ) from error


@dataclass(frozen=True)
class Timetable:
    """A cron expression in a time zone.

    ``cron`` has five fields, or six with seconds first; ``timezone`` is an IANA name. Clock changes
    are handled as in Debian's cron: a time in the skipped hour runs right after it, and a time in
    the repeated hour runs once; an expression with ``*`` for the minute or the hour is not
    affected. Times are Unix times in ms. Raises ValueError, which says what is wrong.
    """

    cron: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        zone = self.zone
        try:
            never = next(CronSim(self.cron, EPOCH.astimezone(zone)), None) is None
        except CronSimError as error:
            raise ValueError(
                f"cron is {self.cron!r}: {str(error).lower()}; write minute, hour, day of month, "
                'month and day of week, as in "0 3 * * mon-fri"'
            ) from error
        if never:
            raise ValueError(f"cron is {self.cron!r}: there is no such time")

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return zone_named(self.timezone)

    def next_after(self, ms: int) -> int | None:
        """Return the first time after ``ms``; None if there is none within 50 years."""
        start = datetime.fromtimestamp(ms / 1000, self.zone)
        # In a repeated hour, the first times found may be those of its first pass.
        times = (int(time.timestamp() * 1000) for time in CronSim(self.cron, start))
        return next((time for time in times if time > ms), None)


@dataclass(frozen=True)
class ScheduledEntry:
    """One ``[[schedule]]`` table. ``rescan`` has a source, ``verify`` may have one.

    ``collection`` is the public name of the collection that the run is for.
    """

    name: str
    timetable: Timetable
    action: Action = Action.RESCAN
    source: Source | None = None
    lane: Lane = Lane.BULK
    collection: str = DEFAULT_COLLECTION

    def status(self, next_ms: int | None) -> EntryStatus:
        """Return the entry for display, with the time at which its next run begins (Unix ms)."""
        return EntryStatus(
            name=self.name,
            cron=self.timetable.cron,
            timezone=self.timetable.timezone,
            action=self.action.value,
            source="" if self.source is None else str(self.source),
            next_ms=next_ms,
        )
