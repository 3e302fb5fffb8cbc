"""What the model cache keeps of a cross encoder, and where."""

from typing import Final

from worker.embedding.cache import CacheKey, EntryCard, cache_key
from worker.embedding.config import Backend, Precision

KIND: Final = "cross encoder, format 1"
"""Part of the revision in the cache's keys: the same folder may be prepared as either kind."""


class CrossEncoderCard(EntryCard, frozen=True, kw_only=True):
    """A prepared cross encoder, and the fastest engine that computes it here.

    With ``has_types`` the model is told which tokens are of the query. ``difference`` is the
    largest one to a score of sentence-transformers, as a share of the range of the scores.
    """

    has_types: bool = False
    difference: float | None = None


def cross_encoder_key(revision: str, precision: Precision) -> CacheKey:
    """Return the key of the cache entry of a cross encoder."""
    return cache_key(f"{KIND}, {revision}", Backend.AUTO, precision)
