"""Texts as the pool wants them: with the tokens that somebody counted."""

from collections.abc import Iterable

from worker.text.parts import SizedText

CHARACTERS_A_TOKEN = 4


def sized(texts: Iterable[str]) -> list[SizedText]:
    """``texts`` with about as many tokens as prose of that length has."""
    return [SizedText(text, len(text) // CHARACTERS_A_TOKEN) for text in texts]
