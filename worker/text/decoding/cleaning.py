"""Removes what a terminal would not show from text, and composes it (NFC).

Lines are cleaned one by one, and lines of extreme length in pieces, so that a text may be cleaned
part by part: see `first_piece`.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from ingestq.core.unicode_forms import composed

PIECE_CHARACTERS: Final = 64 * 1024
"""A line that is longer is cleaned in pieces."""
STATE_CHARACTERS: Final = 512
"""What a longer part of a line shows is no progress."""

CONTROLS: Final = "".join(
    chr(code) for code in (*range(0x20), 0x7F) if chr(code) not in "\t\n\v\f\r"
)
BAD_BYTES: Final = re.compile("[\udc80-\udcff]+")
"""Bytes that are not UTF-8, as Python's ``surrogateescape`` gives them."""
UNCLEAN: Final = re.compile(f"[{re.escape(CONTROLS)}\x80-\x84\x86-\x9f\udc80-\udcff\ufeff]+")
"""Control characters but for white space, bytes that are not UTF-8, and byte order marks."""
ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI: colours, erasing, moving the cursor
    r"|\x1b[\]PX^_][^\x07\x1b\x9c\n]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC and others: titles, links
    r"|\x1b[ -/]{1,4}[0-~]"  # character sets
    r"|\x1b[78=>c\\]"
    r"|[\x0e\x0f]"
)
"""See ECMA-48."""
OVERSTRIKE: Final = re.compile(r"[^\n\x08]\x08")
"""Bold and underlined text, as man pages have it."""
RETURNS_AND_FEED: Final = re.compile(r"(?<!\r)\r{2,}+\n")
BLANK: Final = re.compile(
    r"[\s\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*+"
)
"""White space, and what Unicode lets be ignored: zero-width characters, fillers, marks of writing
direction."""
NO_LETTERS: Final = re.compile(r"[\W\d_]+")


def clean(text: str) -> str:
    """Return ``text`` as a reader sees it, in NFC.

    Escape sequences, states of progress that the next one overwrote, and byte order marks are
    removed; other control characters become spaces, and bytes that are not UTF-8 the replacement
    character. Takes linear time.
    """
    return text if _is_clean(text) else "".join(map(_cleaned, _pieces(text)))


def is_blank(text: str) -> bool:
    """Return whether a reader sees nothing of ``text``."""
    return BLANK.fullmatch(text) is not None


def first_piece(text: str, *, is_all: bool) -> str | None:
    """Return the part of ``text``, from its start, that can be cleaned without the rest.

    None if it depends on what follows; never if ``is_all`` there is. Parts of a text that this
    function cuts off one by one are, cleaned and joined, the clean text.
    """
    if len(text) <= PIECE_CHARACTERS:
        return text if is_all else None
    end = text.rfind("\n", 0, PIECE_CHARACTERS) + 1 or text.rfind(" ", 0, PIECE_CHARACTERS) + 1
    return text[: end or PIECE_CHARACTERS]


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        piece = first_piece(text[start : start + PIECE_CHARACTERS + 1], is_all=True)
        assert piece is not None
        yield piece
        start += len(piece)


def _is_clean(text: str) -> bool:
    if "\r" in text and text.count("\r") != text.count("\r\n"):
        return False
    if text.isascii():
        return not any(control in text for control in CONTROLS)  # faster than any pattern
    return UNCLEAN.search(text) is None and unicodedata.is_normalized("NFC", text)


def _cleaned(piece: str) -> str:
    if _is_clean(piece):
        return piece
    piece = BAD_BYTES.sub("\ufffd", piece)
    piece = OVERSTRIKE.sub("", ESCAPES.sub("", piece)).replace("\ufeff", "")
    if "\r" in piece:
        lines = RETURNS_AND_FEED.sub("\r\n", piece).split("\n")
        ended = [_without_overwritten(line, ended=True) for line in lines[:-1]]
        piece = "\n".join([*ended, _without_overwritten(lines[-1], ended=False)])
    return composed(UNCLEAN.sub(" ", piece))


def _without_overwritten(line: str, *, ended: bool) -> str:
    """Return ``line`` without the states of progress in it that the next one overwrote.

    Such states are separated by carriage returns, and differ in numbers and signs only. Whatever
    else is so separated stays, because old files have carriage returns as line ends; in these, a
    line is not ``ended`` by a line feed.
    """
    states = line.removesuffix("\r").split("\r")
    if len(states) == 1:
        return line
    names = [_letters(state) for state in states]
    kept = [
        state
        for index, state in enumerate(states[:-1])
        if not _overwrites(names[index + 1], names[index])
        or not ((ended and names[index]) or "%" in state or not state.strip())
    ]
    return "\r".join([*kept, states[-1]]) + "\r" * line.endswith("\r")


def _letters(state: str) -> str | None:
    return NO_LETTERS.sub("", state) if len(state) <= STATE_CHARACTERS else None


def _overwrites(after: str | None, before: str | None) -> bool:
    return after is not None and before is not None and after.startswith(before)
