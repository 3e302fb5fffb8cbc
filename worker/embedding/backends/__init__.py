"""What computes vectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from worker.embedding.cache import Card

Vectors = npt.NDArray[np.float32]

SHORTEST: Final = 1e-12
"""A vector that is nearly 0 stays so instead of becoming no number."""


class LoadedModel(Protocol):
    """A model in a process of the pool. Vectors are float32 of unit length."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed chunks of documents; shape (texts, dimension)."""
        ...

    def embed_query(self, text: str) -> Vectors:
        """Embed what somebody searches for; shape (dimension,)."""
        ...


def unit_length(rows: Vectors) -> Vectors:
    """Return ``rows``, each divided by its length."""
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
    return unit


class CachedModel(ABC):
    """The model of a cache entry; see `worker.embedding.backends.LoadedModel`."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """See `LoadedModel`."""
        return self._embed([self._card.document_prompt + text for text in texts])

    def embed_query(self, text: str) -> Vectors:
        """See `LoadedModel`."""
        vector: Vectors = self._embed([self._card.query_prompt + text])[0]
        return vector

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> Vectors:
        """Embed ``texts``, which have their prompts; shape (texts, dimension)."""
