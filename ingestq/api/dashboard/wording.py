"""Formats numbers, times and excerpts for people."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

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


WORD: Final = re.compile(r"\w+")
COMMON_WORDS: Final = frozenset(
    WORD.findall(
        "a an and are as at be by can did do does for from had has have how if in into is it its "
        "no not of on or our so than that the their then there these they this to was we were what "
        "when where which who whom whose why will with you your"
    )
)
"""Words that are in every text, so that highlighting them says nothing."""

EXCERPT_CHARACTERS: Final = 600
BEFORE_CHARACTERS: Final = 150
"""How much of the text before the first highlighted word is in an excerpt."""


def excerpt(text: str, query: str) -> str:
    """Return ``text``; if it is long, the part around the first word of ``query``."""
    if len(text) <= EXCERPT_CHARACTERS:
        return text
    first = next(_matches(text, query), None)
    start = max(0, (0 if first is None else first.start()) - BEFORE_CHARACTERS)
    end = min(len(text), start + EXCERPT_CHARACTERS)
    start = end - EXCERPT_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def highlighted(text: str, query: str) -> Markup:
    """Return ``text`` as HTML with the words of ``query`` highlighted, whatever their case.

    Words that are in every text are highlighted only if the query has no others.
    """
    parts: list[Markup] = []
    end = 0
    for found in _matches(text, query):
        parts += (escape(text[end : found.start()]), Markup("<mark>{}</mark>").format(found[0]))
        end = found.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def _matches(text: str, query: str) -> Iterator[re.Match[str]]:
    words = {word.casefold() for word in WORD.findall(query)}
    wanted = words - COMMON_WORDS or words
    return (word for word in WORD.finditer(text) if word[0].casefold() in wanted)
