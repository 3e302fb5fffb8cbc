"""What the models of the cache have in common: the prompts that their card names."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from worker.embedding.backends import Vectors
from worker.embedding.cache import Card


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
        """The vectors of ``texts``, which have their prompts; shape (texts, dimension)."""
