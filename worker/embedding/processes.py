"""Embedding processes, as the worker sees them."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from worker.embedding import process as child
from worker.embedding.backends import Vectors
from worker.embedding.cache import CacheEntry, Card
from worker.embedding.config import EmbeddingConfig, cores
from worker.embedding.process import EmbeddingProcessConfig
from worker.process_pool import Processes, retry_once

BATCH_TEXTS: Final = 128
"""More vectors at once would hold up the event loop when they arrive."""
BATCH_TOKENS: Final = 2048
"""A quarter of a second of work for a core: an upload waits no longer, a child loses no more."""
GPU_BATCH_TOKENS: Final = 65_536
STATIC_BATCH_TOKENS: Final = 262_144
"""Vectors that are looked up cost less than handing the texts over."""
EMBED_SECONDS: Final = 300.0
"""A child that takes longer over a batch hangs, and is killed."""
BATCHES_PER_PROCESS: Final = 4096
"""Then it is replaced, so that memory it does not give back is bounded."""


class EmbeddingProcesses:
    """See `worker.embedding.batcher.Embedder`. The processes start with the first text."""

    def __init__(self, config: EmbeddingConfig, entry: CacheEntry) -> None:
        self.slots = entry.card.gpus or config.pool_size
        self.batch_texts = BATCH_TEXTS
        self.batch_tokens = _batch_tokens(entry.card)
        threads = max(1, cores() // self.slots)
        self._processes = Processes(
            self.slots,
            child.initialize,
            (EmbeddingProcessConfig(config.model, entry, threads),),
            max_tasks=BATCHES_PER_PROCESS,
        )

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Vectors]:
        """See `Embedder`."""
        return list(await self._processes.run(EMBED_SECONDS, child.embed_documents, texts))

    async def embed_query(self, text: str) -> Vectors:
        """See `Embedder`."""
        return await retry_once(
            partial(self._processes.run, EMBED_SECONDS, child.embed_query, text)
        )

    async def stop(self) -> None:
        """End the processes at once. Stopping twice, or before starting, is fine."""
        await self._processes.stop()


def _batch_tokens(card: Card) -> int:
    if card.static:
        return STATIC_BATCH_TOKENS
    return GPU_BATCH_TOKENS if card.gpus else BATCH_TOKENS
