"""Backends, which compute vectors: their protocol, and what those on this machine share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from worker.embedding.cache import Card

Vectors = npt.NDArray[np.float32]

SHORTEST: Final = 1e-12
"""Lower bound of the divisor: a zero vector stays zero instead of becoming NaN."""


class LoadedModel(Protocol):
    """A model that is loaded in an embedding process. Vectors are float32 of unit length."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed chunks of documents; shape (texts, dimension)."""
        ...

    def embed_query(self, text: str) -> Vectors:
        """Embed a search query; shape (dimension,)."""
        ...


def unit_length(rows: Vectors) -> Vectors:
    """Return ``rows``, each divided by its length; or one vector."""
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), SHORTEST)
    return unit


def truncated(rows: Vectors, dimensions: int | None) -> Vectors:
    """Return the first ``dimensions`` numbers of each of ``rows``, of unit length; None is all.

    Models that are trained for it have the most important numbers first (Matryoshka Representation
    Learning: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147).
    """
    if dimensions is None or dimensions == rows.shape[-1]:
        return rows
    return unit_length(rows[..., :dimensions])


class CachedModel(ABC):
    """A `LoadedModel` that is loaded from a cache entry."""

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
        """Embed ``texts``, which include their prompts; shape (texts, dimension)."""
