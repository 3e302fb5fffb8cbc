"""Text that does nothing to a terminal: control characters are escaped.

Names and documents may contain anything: escape sequences that change the terminal, line breaks
that fake a line of output, characters that reverse the direction of writing.
"""

import unicodedata
from typing import Final

from ingestq.core.urls import without_secrets

JOINERS: Final = "\u200c\u200d"
"""Invisible, but some scripts cannot be written without them."""


def printable(text: str) -> str:
    """Return ``text`` as one line that shows what it is, escaped as in Python."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return the lines of ``text``, each printable, without secrets of URLs."""
    return "\n".join(map(printable, without_secrets(text).split("\n")))


def printable_json(text: str, encoding: str) -> str:
    """Return the JSON ``text`` with its meaning, but harmless and within ``encoding``.

    What a terminal would not show as it is, or what the encoding lacks, is escaped as JSON does it.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_in_json(character, encoding) for character in text)


def _in_json(character: str, encoding: str) -> str:
    if _is_harmless(character):
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            pass
        else:
            return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _is_harmless(character: str) -> bool:
    return (
        character.isprintable() or unicodedata.category(character) == "Zs" or character in JOINERS
    )
