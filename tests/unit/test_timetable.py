"""When scheduled entries are due."""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from producers.schedule.entry import Timetable

BERLIN = ZoneInfo("Europe/Berlin")

moments = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: int(moment.timestamp() * 1000)
)
zones = st.sampled_from(sorted(available_timezones()))
crons = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["*", "*/15", "0", "30", "59"]),
    st.sampled_from(["*", "*/6", "0", "2", "23", "1-3"]),
    st.sampled_from(["*", "1", "31", "L"]),
    st.sampled_from(["*", "mon-fri", "0", "7", "wed#2", "5L"]),
)


def ms(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1000)


@given(crons, zones, moments)
def test_next_after_is_later_and_skips_no_time(cron: str, zone: str, now: int) -> None:
    timetable = Timetable(cron, zone)
    following = timetable.next_after(now)
    assert following is not None
    assert following > now
    assert timetable.next_after(following - 1) == following
    between = (now + following) // 2
    if between > now:
        assert timetable.next_after(between) == following


@given(st.text("0123456789*/-,#LWmonja ", max_size=20) | st.text(max_size=8), st.text(max_size=8))
def test_any_text_is_a_timetable_or_a_value_error(cron: str, zone: str) -> None:
    for timezone in ("UTC", "Europe/Berlin", zone):
        try:
            timetable = Timetable(cron, timezone)
        except ValueError:
            continue
        assert timetable.next_after(0) is not None


CONFIGURATION = Path(__file__).parents[2] / "docs" / "configuration.md"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CHANGING = [
    "Africa/Casablanca",  # changes four times in some years
    "America/Havana",  # changes at midnight
    "America/New_York",
    "America/Sao_Paulo",  # changed at midnight, until 2019
    "America/St_Johns",  # changed at one minute past midnight, until 2011
    "Antarctica/Troll",  # changes by two hours
    "Asia/Beirut",
    "Asia/Pyongyang",  # moved by half an hour, twice
    "Australia/Lord_Howe",  # changes by half an hour
    "Europe/Berlin",
    "Pacific/Apia",  # skipped a day
]


@cache
def clock_changes(zone: str) -> list[datetime]:
    """Return the first minute of each new offset of ``zone`` from 2005 to 2030, in UTC."""
    info, changes = ZoneInfo(zone), []

    def offset(moment: datetime) -> timedelta | None:
        return moment.astimezone(info).utcoffset()

    moment = datetime(2005, 1, 1, tzinfo=UTC)
    while moment.year < 2031:
        if offset(moment) != offset(moment + DAY):
            minutes = (moment + MINUTE * i for i in itertools.count(1))
            moment = next(minute for minute in minutes if offset(minute) != offset(minute - MINUTE))
            changes.append(moment)
        else:
            moment += DAY
    return changes


around_a_change = st.sampled_from(CHANGING).flatmap(
    lambda zone: st.tuples(st.just(zone), st.sampled_from(clock_changes(zone)))
)
minutes_of_cron = st.sampled_from(["*", "*/20", "*/7", "0", "30", "15,45", "0-59", "59"])
hours_of_cron = st.sampled_from(["*", "*/2", "0", "1", "2", "3", "1-3", "23,0", "0-23"])


def times(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return the times from ``start`` until ``end``."""
    timetable, found = Timetable(cron, zone), [int(start.timestamp() * 1000) - 1]
    while found[-1] < end.timestamp() * 1000:
        following = timetable.next_after(found[-1])
        assert following is not None
        assert following > found[-1]
        found.append(following)
    return [datetime.fromtimestamp(time / 1000, UTC) for time in found[1:-1]]


def minutes_passed(wall: datetime, until: datetime) -> Iterator[datetime]:
    while wall <= until:
        yield wall
        wall += MINUTE


@settings(max_examples=50, deadline=None)
@given(
    around_a_change,
    minutes_of_cron,
    hours_of_cron,
    st.sampled_from(["* * *", "* * sun", "* * mon-fri"]),
)
def test_no_time_around_a_clock_change_is_left_out_or_added(
    change: tuple[str, datetime], minutes: str, hours: str, days: str
) -> None:
    """Minute by minute, the clock shows a time that matches, or has passed one for fixed times."""
    zone, moment = change
    start, end = moment - 26 * HOUR, moment + 26 * HOUR
    cron = f"{minutes} {hours} {days}"
    fields = CronSim(cron, datetime(2000, 1, 1))

    def matches(wall: datetime) -> bool:
        in_hour = wall.minute in fields.minutes and wall.hour in fields.hours
        return in_hour and fields.match_day(wall.date())

    is_fixed = "*" not in minutes + hours
    info, expected = ZoneInfo(zone), []
    latest = start.astimezone(info).replace(tzinfo=None) - MINUTE
    for minute in (start + MINUTE * i for i in range(int((end - start) / MINUTE))):
        wall = minute.astimezone(info).replace(tzinfo=None)
        shown = minutes_passed(latest + MINUTE, wall) if is_fixed else (wall,)
        latest = max(latest, wall)
        if any(map(matches, shown)):
            expected.append(minute)
    assert times(cron, zone, start, end) == expected


@given(around_a_change, st.integers(0, 23), st.integers(0, 59))
@example(("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)), 0, 0)  # the 30th is skipped
def test_a_fixed_time_comes_once_in_a_night_that_a_clock_changes(
    change: tuple[str, datetime], hour: int, minute: int
) -> None:
    zone, moment = change
    before = (moment - MINUTE).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    after = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    midnight = min(before, after).replace(hour=0, minute=0)
    start, end = (
        day.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        for day in (midnight - DAY, max(before, after).replace(hour=0, minute=0) + 2 * DAY)
    )
    days = (max(before, after).date() - midnight.date()).days + 3
    # Where a whole day is skipped, its run comes right after, at once with one that is due then.
    coincide = after - before > DAY and (hour, minute) == (after.hour, after.minute)
    assert len(times(f"{minute} {hour} * * *", zone, start, end)) == days - coincide


def test_with_seconds_the_clock_is_followed() -> None:
    every_half_minute = Timetable("*/30 59 1 * * *", "Europe/Berlin")
    first = every_half_minute.next_after(ms("2026-03-29T01:59:10"))
    assert first == ms("2026-03-29T01:59:30")
    skipped = Timetable("0 30 2 * * *", "Europe/Berlin")
    assert skipped.next_after(first) == ms("2026-03-30T02:30")
    twice = skipped.next_after(ms("2026-10-25T02:30"))
    assert twice == ms("2026-10-25T02:30", fold=1)


def _examples() -> list[tuple[str, str, str]]:
    """Return the rows of the table of clock changes in the documentation."""
    text = CONFIGURATION.read_text(encoding="utf-8").partition("\n## Clock changes\n")[2]
    rows = re.findall(r"^\| `([^`]+ [^`]+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert len(rows) > 5
    return rows


@pytest.mark.parametrize(("cron", "spring", "autumn"), _examples())
def test_the_documented_examples_are_true(cron: str, spring: str, autumn: str) -> None:
    for day, documented in (("2026-03-29", spring), ("2026-10-25", autumn)):
        found = times(
            cron,
            "Europe/Berlin",
            datetime.fromisoformat(f"{day}T00:30").replace(tzinfo=BERLIN),
            datetime.fromisoformat(f"{day}T04:00").replace(tzinfo=BERLIN),
        )
        shown = ", ".join(f"{time.astimezone(BERLIN):%H:%M %Z}" for time in found) or "never"
        assert shown == documented
