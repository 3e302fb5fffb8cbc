"""The fast backend for static models: a text's vector is the mean of those of its tokens, which are
looked up in a table.

Neither torch nor sentence-transformers is imported, and all processes share one table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.embedding.backends import Vectors, unit_length
from worker.embedding.cache import TABLE, TOKENIZER, Card
from worker.word_tokens import token_ids


class StaticModel:
    """The model of a cache entry; see `worker.embedding.backends.LoadedModel`."""

    def __init__(self, folder: Path, card: Card) -> None:
        self._table = np.load(folder / TABLE, mmap_mode="r")
        self._tokens = token_ids((folder / TOKENIZER).read_text())
        self._card = card

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """See `LoadedModel`."""
        return self._embed([self._card.document_prompt + text for text in texts])

    def embed_query(self, text: str) -> Vectors:
        """See `LoadedModel`."""
        vector: Vectors = self._embed([self._card.query_prompt + text])[0]
        return vector

    def _embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self._card.dimension), np.float32)
        for row, ids in zip(rows, self._tokens.read(texts), strict=True):
            if ids:
                np.mean(self._table[ids], axis=0, out=row)
        return unit_length(rows)
