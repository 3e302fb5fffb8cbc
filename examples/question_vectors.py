"""The vectors of questions, for the examples that read the index without ingestq.

They have to come from the model that made the index, which is INGESTQ_MODEL there.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

MODEL = os.environ.get("MODEL", "sentence-transformers/all-MiniLM-L6-v2")

Embed = Callable[[str], list[float]]


def embed(question: str) -> list[float]:
    """Return the vector of a question."""
    vector: list[float] = _model().encode(question, normalize_embeddings=True).tolist()
    return vector


@cache
def _model() -> Any:
    from sentence_transformers import SentenceTransformer  # takes seconds to import

    return SentenceTransformer(MODEL)
