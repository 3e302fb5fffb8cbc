"""Configuration of the reranker, and the protocol of what computes its scores.

Loads none of the worker's packages: the settings, which every command reads, import this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from ingestq.core.urls import secrets_in
from worker.embedding.config import Precision
from worker.process_pool.limits import EMBEDDING_LIMITS, ProcessLimits

DEFAULT_CANDIDATES: Final = 50
"""Hits of a search that are reranked: beyond them, better ones are rare."""
DEFAULT_SECONDS: Final = 2
"""How long a search waits for scores, once the model is loaded: about as long as its user does."""
HUB_NAMESPACE: Final = "cross-encoder"
"""Namespace in which sentence-transformers looks for a cross encoder whose name has none."""


@dataclass(frozen=True)
class RerankerConfig:
    """A reranker: the cross encoder ``model``, or the endpoint at ``url`` if there is one.

    The first ``candidates`` hits of a search are reranked. If that takes more than ``seconds``, the
    search answers without. ``cache_dir`` holds prepared models; ``limits`` bound the process that
    runs one, in the class of arithmetic ``precision``.
    """

    cache_dir: Path
    model: str = ""
    url: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    candidates: int = DEFAULT_CANDIDATES
    seconds: float = DEFAULT_SECONDS
    limits: ProcessLimits = EMBEDDING_LIMITS
    precision: Precision = Precision.EXACT

    @property
    def secrets(self) -> list[str]:
        """What messages must not show."""
        key = [self.api_key] if self.api_key else []
        return [*key, *(secrets_in(self.url) if self.url else ())]


class Scorer(Protocol):
    """Computes how well texts answer a query: a model on this machine, or an endpoint."""

    async def prepare(self) -> None:
        """Make it ready, which may take long the first time.

        Raises RerankerUnavailable.
        """
        ...

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text, higher for a better one. Raises RerankerUnavailable."""
        ...

    async def stop(self) -> None:
        """End what it has started. Stopping twice, or before `prepare`, is fine."""
        ...
