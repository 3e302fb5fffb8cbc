"""The fast backend for static models: a text's vector is the mean of those of its tokens, which are
looked up in a table.

Neither torch nor sentence-transformers is imported, and all processes share one table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.embedding.backends import CachedModel, Vectors, unit_length
from worker.embedding.cache import TABLE, TOKENIZER, Card
from worker.text.word_tokens import token_ids


class StaticModel(CachedModel):
    """A table of the cache, and the tokens of which it has the vectors."""

    def __init__(self, folder: Path, card: Card) -> None:
        super().__init__(card)
        self._table = np.load(folder / TABLE, mmap_mode="r")
        self._tokens = token_ids((folder / TOKENIZER).read_text())

    def _embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self._card.dimension), np.float32)
        for row, ids in zip(rows, self._tokens.read(texts), strict=True):
            if ids:
                np.mean(self._table[ids], axis=0, out=row)
        return unit_length(rows)
