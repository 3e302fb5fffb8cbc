"""What computes vectors."""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

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
    """``rows``, each divided by its length."""
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
    return unit
