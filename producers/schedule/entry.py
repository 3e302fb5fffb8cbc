"""A scheduled entry: what to do, and when."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from enum import StrEnum
from functools import cached_property
from typing import Final, Self
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


MINUTE_MS: Final = 60_000
_HOURS: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})", re.ASCII)


@dataclass(frozen=True)
class QuietHours:
    """From ``start`` until before ``end``, on the clocks of ``zone``; may cross midnight."""

    start: time
    end: time
    zone: tzinfo

    @classmethod
    def parse(cls, hours: str, zone: tzinfo) -> Self:
        """Read ``HH:MM-HH:MM``. Raises ValueError that says what is wrong."""
        matched = _HOURS.fullmatch(hours.strip())
        try:
            if matched is None:
                raise ValueError("not two times of day")
            numbers = [int(number) for number in matched.groups()]
            start, end = time(numbers[0], numbers[1]), time(numbers[2], numbers[3])
            if start == end:
                raise ValueError("nothing would ever be begun")
        except ValueError as error:
            raise ValueError(
                f'quiet_hours is {hours!r}: {error}; write them as in "08:00-18:00"'
            ) from error
        return cls(start, end, zone)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def contain(self, ms: int) -> bool:
        """Whether it is quiet at a Unix time in ms."""
        now = datetime.fromtimestamp(ms / 1000, self.zone).time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def over_at(self, ms: int) -> int:
        """The first time from ``ms`` on at which it is not quiet.

        Looked for minute by minute: a day in which clocks are changed has other hours than most.
        """
        while self.contain(ms):
            ms += MINUTE_MS - ms % MINUTE_MS
        return ms


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

    It is about ``collection``. No run is begun in the ``quiet`` hours; it begins when they end.
    Times are Unix times in ms.
    """

    name: str
    timetable: Timetable
    action: Action = Action.RESCAN
    source: Source | None = None
    lane: Lane = Lane.BULK
    quiet: QuietHours | None = None
    collection: str = DEFAULT_COLLECTION

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
