"""Hours of the day in which nothing is begun."""

import re
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from typing import Final, Self

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
