"""Texts with their number of tokens, as the embedding pool takes them."""

from collections.abc import Iterable

from worker.text.parts import SizedText

CHARACTERS_PER_TOKEN = 4


def sized(texts: Iterable[str]) -> list[SizedText]:
    """Return ``texts`` with about as many tokens as prose of that length has."""
    return [SizedText(text, len(text) // CHARACTERS_PER_TOKEN) for text in texts]
