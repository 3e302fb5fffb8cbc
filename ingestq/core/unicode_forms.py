"""Text that differs only in Unicode's normal form: to a person it is the same.

macOS names files with accents as characters of their own (NFD), and keyboards type them composed
(NFC). Ids and sources are stored as they are, because a path has to open its file; whoever types
one means all its forms. All other text is stored composed.
"""

import re
import unicodedata
from typing import Final

MAX_MARKS: Final = 30
"""Combining marks after a letter, as in Unicode's stream-safe text (UAX 15). To put more of them in
order takes quadratic time, and no language has them."""
_MANY_SIGNS: Final = re.compile(rf"[^\w\x00-\x7f]{{{MAX_MARKS + 1},}}+")
"""No combining mark is a letter or digit to Python."""


def composed(text: str) -> str:
    """Return ``text`` in NFC, which is the same for all forms of it. Takes linear time.

    A letter loses marks of which it has too many.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", without_many_marks(text))


def without_many_marks(text: str) -> str:
    """Return ``text`` without combining marks of which more than `MAX_MARKS` stand together."""
    return _MANY_SIGNS.sub(_shortened, text)


def _shortened(signs: re.Match[str]) -> str:
    kept, marks = [], 0
    for sign in signs[0]:
        marks = marks + 1 if unicodedata.combining(sign) else 0
        if marks <= MAX_MARKS:
            kept.append(sign)
    return "".join(kept)


def composed_if_other(text: str) -> str | None:
    """Return ``text`` in NFC; None if it already is."""
    return None if unicodedata.is_normalized("NFC", text) else composed(text)


def usual_forms(text: str) -> tuple[str, ...]:
    """Return ``text`` itself, and in NFC and NFD if it differs in them."""
    return tuple(dict.fromkeys((text, composed(text), unicodedata.normalize("NFD", text))))
