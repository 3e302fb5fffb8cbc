"""When scheduled entries are due."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given
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


def test_clock_changes() -> None:
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
