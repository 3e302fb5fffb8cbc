"""Marks the words of a question in a text that was found."""

import re
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


def marked(text: str, question: str) -> Markup:
    """``text`` for HTML, with the words of ``question`` marked, whatever their case.

    Words that are in every text are marked only if the question has no others.
    """
    asked = {word.casefold() for word in WORD.findall(question)}
    wanted = asked - COMMON_WORDS or asked
    parts: list[Markup] = []
    end = 0
    for found in WORD.finditer(text):
        if found[0].casefold() in wanted:
            parts += (
                escape(text[end : found.start()]),
                Markup("<mark>{}</mark>").format(found[0]),
            )
            end = found.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)
