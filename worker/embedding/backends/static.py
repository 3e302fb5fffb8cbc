"""Fast backend for static models: a text's vector is the mean of its tokens' vectors in a table.

It imports neither torch nor sentence-transformers, and all processes share one memory-mapped table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.embedding.backends import CachedModel, Vectors, unit_length
from worker.embedding.cache import TABLE, TOKENIZER, Card
from worker.text.chunking.word_tokens import token_ids


class StaticModel(CachedModel):
    """A static model: a table of token vectors, and the tokenizer."""

    def __init__(self, folder: Path, card: Card) -> None:
        super().__init__(card)
        # As a plain array, for each index into a memmap makes another one.
        self._table = np.asarray(np.load(folder / TABLE, mmap_mode="r"))
        self._tokens = token_ids((folder / TOKENIZER).read_text(encoding="utf-8"))

    def _embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self._card.dimension), np.float32)
        for row, ids in zip(rows, self._tokens.read(texts), strict=True):
            if ids:
                np.mean(self._table.take(ids, axis=0), axis=0, out=row)
        return unit_length(rows)
