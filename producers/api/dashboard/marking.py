"""Marks the words of a question in a text that was found."""

import re
from collections.abc import Iterator
from typing import Final

from markupsafe import Markup, escape

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
