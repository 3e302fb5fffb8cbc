"""Texts with their number of tokens: as the embedding pool takes them, and as chunks."""

from collections.abc import Iterable

from worker.text.parts import Chunk, SizedText

CHARACTERS_PER_TOKEN = 4


def sized(texts: Iterable[str]) -> list[SizedText]:
    """Return ``texts`` with about as many tokens as prose of that length has."""
    return [SizedText(text, len(text) // CHARACTERS_PER_TOKEN) for text in texts]


def chunks_of(texts: Iterable[str]) -> list[Chunk]:
    """Return chunks with ``texts`` as their bodies, and without context."""
    return [Chunk(text, "", tokens) for text, tokens in sized(texts)]
