"""A scheduled entry: what it does, and when."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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


EPOCH: Final = datetime(1970, 1, 1)
CRONTAB_FIELDS: Final = 5
"""Fields of an expression without seconds."""


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
    are handled as in Debian's cron. An expression `for fixed times <is_fixed>` runs right after a
    change that skips its time, and only the first time if it comes twice. Any other runs whenever
    the clock shows a time that matches. Times are Unix times in ms. Raises ValueError, which says
    what is wrong.
    """

    cron: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        zone_named(self.timezone)
        try:
            never = next(CronSim(self.cron, EPOCH), None) is None
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

    @cached_property
    def is_fixed(self) -> bool:
        """True if ``cron`` has five fields, of which neither minute nor hour begins with ``*``."""
        fields = self.cron.split()
        return len(fields) == CRONTAB_FIELDS and not any(field[0] == "*" for field in fields[:2])

    def next_after(self, ms: int) -> int | None:
        """Return the first time after ``ms``; None if there is none within 50 years."""
        folds = (0,) if self.is_fixed else (0, 1)
        times = [self._next_after(ms, fold) for fold in folds]
        return min((time for time in times if time is not None), default=None)

    def _next_after(self, ms: int, fold: int) -> int | None:
        """Return the first time after ``ms``, taking each repeated time only in its pass ``fold``.

        Within one pass, later times of day are later, so they can be searched in order. CronSim
        only gets times of day: with a time zone, it leaves out times after a change of half an hour
        or at midnight.
        """
        now = datetime.fromtimestamp(ms / 1000, self.zone)
        # In the first pass of a repeated hour, the second one begins earlier on the clock.
        offset = now.replace(fold=max(now.fold, fold)).utcoffset()
        assert offset is not None
        start = now.astimezone(UTC).replace(tzinfo=None) + offset
        for wall in CronSim(self.cron, start):
            time = self._time(wall.replace(fold=fold))
            if time is not None and time > ms:
                return time
        return None

    def _time(self, wall: datetime) -> int | None:
        """Return the time at which clocks show ``wall``.

        If they skip it, that is the end of what they skip, or None if ``cron`` is not for fixed
        times.
        """
        while not self._exists(wall):
            if not self.is_fixed:
                return None
            wall += timedelta(minutes=1)
        return int(wall.replace(tzinfo=self.zone).timestamp() * 1000)

    def _exists(self, wall: datetime) -> bool:
        back = wall.replace(tzinfo=self.zone).astimezone(UTC).astimezone(self.zone)
        return back.replace(tzinfo=None) == wall


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
