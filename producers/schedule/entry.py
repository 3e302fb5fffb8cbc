"""A scheduled entry: what to do, and when."""

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
    """What a run does.

    ``rescan`` queues what its source has, and removes what it does not have any more; ``reindex``
    builds the collection with the settings as they are; ``verify`` compares and repairs.
    """

    RESCAN = "rescan"
    REINDEX = "reindex"
    VERIFY = "verify"


EPOCH: Final = datetime.fromtimestamp(0, UTC)


def zone_named(name: str) -> ZoneInfo:
    """The time zone ``name``. Raises ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:  # ZoneInfoNotFoundError; a folder of zones
        raise ValueError(
            f"timezone is {name!r}: there is no such time zone; write one like Europe/Berlin or UTC"
        ) from error


@dataclass(frozen=True)
class Timetable:
    """``cron`` has five fields, or six with seconds before them; ``timezone`` is an IANA name.

    Clock changes are met as Debian's cron does: a time of day in the hour that is left out comes
    right after it, and one in the hour that comes twice comes once; what has a ``*`` for the minute
    or the hour goes on as it does. Times are Unix times in ms. Raises ValueError that says what is
    wrong.
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
        return zone_named(self.timezone)

    def next_after(self, ms: int) -> int | None:
        """The first time after ``ms``; None if there is none within 50 years."""
        start = datetime.fromtimestamp(ms / 1000, self.zone)
        # In an hour that comes twice, times may be found that were in the first one.
        times = (int(time.timestamp() * 1000) for time in CronSim(self.cron, start))
        return next((time for time in times if time > ms), None)


@dataclass(frozen=True)
class ScheduledEntry:
    """One line of the schedule. ``rescan`` has a source, ``verify`` may have one.

    ``collection`` is the one it is about; empty for the one that is configured.
    """

    name: str
    timetable: Timetable
    action: Action = Action.RESCAN
    source: Source | None = None
    lane: Lane = Lane.BULK
    collection: str = DEFAULT_COLLECTION

    def status(self, next_ms: int | None) -> EntryStatus:
        """Return the entry as people are told of it, with when its next run begins (Unix ms)."""
        return EntryStatus(
            name=self.name,
            cron=self.timetable.cron,
            timezone=self.timetable.timezone,
            action=self.action.value,
            source="" if self.source is None else str(self.source),
            next_ms=next_ms,
        )
