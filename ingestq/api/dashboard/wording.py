"""Numbers, times and excerpts as people read them."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
JUST_NOW_SECONDS: Final = 10
"""Ages below a minute are told in steps of this, so that they do not change all the time."""
LONGEST_ID: Final = 200
"""Of an id that is longer, the beginning is left out: files differ at the end."""


def number(value: float) -> str:
    """A whole number, with commas between thousands."""
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """A number that may be small, with one decimal."""
    return f"{value:,.1f}"


def duration(seconds: float) -> str:
    """How long something takes: with two digits, more or less."""
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
    """How long ago something happened; what is in the future (clocks differ) is just now."""
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
    """How soon something will happen."""
    return "now" if seconds < 1 else f"in {duration(seconds)}"


def moment(unix_ms: float) -> str:
    """A time, exactly enough: to the second, in UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(unix_ms: float) -> str:
    """A time for programs (ISO 8601)."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds")


def tail(name: str) -> str:
    """``name``, or its end if it is very long."""
    return name if len(name) <= LONGEST_ID else "…" + name[-LONGEST_ID:]


WORD: Final = re.compile(r"\w+")
COMMON_WORDS: Final = frozenset(
    WORD.findall(
        "a an and are as at be by can did do does for from had has have how if in into is it its "
        "no not of on or our so than that the their then there these they this to was we were what "
        "when where which who whom whose why will with you your"
    )
)
"""They are in every text, so to mark them says nothing."""

EXCERPT_CHARACTERS: Final = 600
BEFORE_CHARACTERS: Final = 150
"""So much of what comes before the first word that is marked is in an excerpt."""


def excerpt(text: str, question: str) -> str:
    """``text``, or the part of it where the words of ``question`` begin, if it is long."""
    if len(text) <= EXCERPT_CHARACTERS:
        return text
    first = next(_found(text, question), None)
    start = max(0, (0 if first is None else first.start()) - BEFORE_CHARACTERS)
    end = min(len(text), start + EXCERPT_CHARACTERS)
    start = end - EXCERPT_CHARACTERS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def marked(text: str, question: str) -> Markup:
    """``text`` for HTML, with the words of ``question`` marked, whatever their case.

    Words that are in every text are marked only if the question has no others.
    """
    parts: list[Markup] = []
    end = 0
    for found in _found(text, question):
        parts += (escape(text[end : found.start()]), Markup("<mark>{}</mark>").format(found[0]))
        end = found.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def _found(text: str, question: str) -> Iterator[re.Match[str]]:
    asked = {word.casefold() for word in WORD.findall(question)}
    wanted = asked - COMMON_WORDS or asked
    return (word for word in WORD.finditer(text) if word[0].casefold() in wanted)
