"""When scheduled entries are due, and when they may begin."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.schedule.entry import MINUTE_MS, QuietHours, ScheduledEntry, Timetable

BERLIN = ZoneInfo("Europe/Berlin")
DAY_MS = 24 * 60 * MINUTE_MS

moments = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: int(moment.timestamp() * 1000)
)
zones = st.sampled_from(sorted(available_timezones()))
hours = st.builds(time, st.integers(0, 23), st.integers(0, 59))
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
def test_the_next_time_is_after_now_and_nothing_is_left_out(cron: str, zone: str, now: int) -> None:
    timetable = Timetable(cron, zone)
    following = timetable.next_after(now)
    assert following is not None
    assert following > now
    assert timetable.next_after(following - 1) == following
    between = (now + following) // 2
    if between > now:
        assert timetable.next_after(between) == following


@given(st.text("0123456789*/-,#LWmonja ", max_size=20) | st.text(max_size=8), st.text(max_size=8))
def test_whatever_is_written_is_a_timetable_or_said_to_be_none(cron: str, zone: str) -> None:
    for timezone in ("UTC", "Europe/Berlin", zone):
        try:
            timetable = Timetable(cron, timezone)
        except ValueError:
            continue
        assert timetable.next_after(0) is not None


def test_clocks_that_are_changed() -> None:
    nightly = Timetable("30 2 * * *", "Europe/Berlin")
    # 02:00 becomes 03:00: there is no 02:30.
    spring = nightly.next_after(ms("2026-03-29T00:00"))
    assert spring == ms("2026-03-29T03:00")
    assert nightly.next_after(spring) == ms("2026-03-30T02:30")
    # 03:00 becomes 02:00: 02:30 comes twice, and the run once.
    autumn = nightly.next_after(ms("2026-10-25T00:00"))
    assert autumn == ms("2026-10-25T02:30")
    assert nightly.next_after(autumn) == ms("2026-10-26T02:30")
    assert nightly.next_after(ms("2026-10-25T02:10", fold=1)) == ms("2026-10-26T02:30")
    # What runs every hour goes on every hour.
    hourly = Timetable("0 * * * *", "Europe/Berlin")
    assert hourly.next_after(ms("2026-10-25T02:00")) == ms("2026-10-25T02:00", fold=1)


quiets = st.builds(
    lambda start, end, zone: (start, end, ZoneInfo(zone)), hours, hours, zones
).filter(lambda parts: parts[0] != parts[1])


@given(quiets, moments, moments)
def test_nothing_begins_in_quiet_hours(
    parts: tuple[time, time, ZoneInfo], due: int, now: int
) -> None:
    quiet = QuietHours(*parts)
    entry = ScheduledEntry("e", Timetable("0 3 * * *"), quiet=quiet)
    begins = entry.begins_at(due, now)
    assert begins >= max(due, now)
    assert not quiet.contain(begins)
    assert begins - max(due, now) <= DAY_MS + 60 * MINUTE_MS  # a day may have 25 hours
    if begins > max(due, now):
        assert quiet.contain(begins - 1)


@given(moments)
def test_without_quiet_hours_what_is_due_begins(now: int) -> None:
    entry = ScheduledEntry("e", Timetable("0 3 * * *"))
    assert entry.begins_at(now - 1, now) == now
    assert entry.begins_at(now + 1, now) == now + 1


def test_quiet_hours_may_cross_midnight() -> None:
    quiet = QuietHours.parse("22:30-6:00", BERLIN)
    assert str(quiet) == "22:30-06:00"
    assert quiet.over_at(ms("2026-07-01T23:15")) == ms("2026-07-02T06:00")
    assert quiet.over_at(ms("2026-07-02T00:00")) == ms("2026-07-02T06:00")
    assert quiet.over_at(ms("2026-07-02T06:00")) == ms("2026-07-02T06:00")
    assert quiet.contain(ms("2026-07-01T22:30"))
    assert not quiet.contain(ms("2026-07-01T22:29"))


def test_quiet_hours_that_end_in_the_hour_that_is_left_out() -> None:
    quiet = QuietHours.parse("01:00-02:30", BERLIN)
    assert quiet.over_at(ms("2026-03-29T01:30")) == ms("2026-03-29T03:00")


@pytest.mark.parametrize("hours", ["8-18", "08:00-08:00", "08:00-24:00", "08:00", "", "08:60-9:00"])
def test_what_are_no_quiet_hours_is_said(hours: str) -> None:
    with pytest.raises(ValueError, match="quiet_hours is '"):
        QuietHours.parse(hours, UTC)


def test_a_run_that_is_due_in_quiet_hours_begins_when_they_end() -> None:
    quiet = QuietHours.parse("08:00-18:00", BERLIN)
    entry = ScheduledEntry("e", Timetable("0 12 * * *", "Europe/Berlin"), quiet=quiet)
    noon = ms("2026-07-01T12:00")
    assert entry.begins_at(noon, noon) == ms("2026-07-01T18:00")
    # One that was missed at night waits as well.
    assert entry.begins_at(noon - int(timedelta(hours=9) / timedelta(milliseconds=1)), noon) == ms(
        "2026-07-01T18:00"
    )
