"""Formats numbers, times and found texts for people."""

from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from ingestq.core.excerpts import matches

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
JUST_NOW_SECONDS: Final = 10
"""Ages below a minute are rounded to this, so that they do not change all the time."""
LONGEST_ID: Final = 200
"""Longer ids lose their beginning: file names differ at the end."""


def number(value: float) -> str:
    """Format a whole number, with commas between thousands."""
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """Format a number that may be small, with one decimal."""
    return f"{value:,.1f}"


def duration(seconds: float) -> str:
    """Format a duration with about two digits."""
    if seconds < JUST_NOW_SECONDS:
        return f"{seconds:.1f} s"
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < DAY:
        hours, rest = divmod(int(seconds), HOUR)
        return f"{hours} h {rest // MINUTE} min"
    days, rest = divmod(int(seconds), DAY)
    return f"{days:,} d {rest // HOUR} h"


def age(seconds: float) -> str:
    """Format how long ago something happened; the future (clocks differ) is "just now"."""
    if seconds < JUST_NOW_SECONDS:
        return "just now"
    if seconds < MINUTE:
        return f"{int(seconds / JUST_NOW_SECONDS) * JUST_NOW_SECONDS} s ago"
    if seconds < HOUR:
        return f"{int(seconds / MINUTE)} min ago"
    if seconds < DAY:
        return f"{int(seconds / HOUR)} h ago"
    return f"{int(seconds / DAY):,} d ago"


def until(seconds: float) -> str:
    """Format how soon something will happen."""
    return "now" if seconds < 1 else f"in {duration(seconds)}"


def moment(unix_ms: float) -> str:
    """Format a time to the second, in UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(unix_ms: float) -> str:
    """Format a time for programs (ISO 8601)."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds")


def tail(name: str) -> str:
    """Return ``name``, or its end if it is very long."""
    return name if len(name) <= LONGEST_ID else "…" + name[-LONGEST_ID:]


def highlighted(text: str, query: str) -> Markup:
    """Return ``text`` as HTML with what it has of ``query`` highlighted; see `matches`."""
    parts: list[Markup] = []
    end = 0
    for found in matches(text, query):
        marked = Markup("<mark>{}</mark>").format(text[found.start : found.end])
        parts += (escape(text[end : found.start]), marked)
        end = found.end
    parts.append(escape(text[end:]))
    return Markup("").join(parts)
