"""Embedding processes: each loads the model once and computes vectors.

The first half of this module is the worker's side, the second half runs in the processes. The
second half imports a backend inside a function, because the worker must not load one, and each
process needs only one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ingestq.core.errors import ModelUnavailable, in_one_line
from worker.embedding.backends import LoadedModel, Vectors
from worker.embedding.cache import CacheEntry, Card
from worker.embedding.config import EmbeddingConfig, cores
from worker.process_pool import Processes, become_pool_process, retry_once

BATCH_TEXTS: Final = 128
"""More vectors at once would delay the event loop when they arrive."""
BATCH_TOKENS: Final = 2048
"""A quarter of a second of work for a core: an upload waits no longer, a dead process loses no
more."""
GPU_BATCH_TOKENS: Final = 65_536
STATIC_BATCH_TOKENS: Final = 262_144
"""A static model's look-ups cost less than sending the texts to the process."""
EMBED_SECONDS: Final = 300.0
"""A process that takes longer over a batch hangs, and is killed."""
BATCHES_PER_PROCESS: Final = 4096
"""A process is replaced after this many, which bounds the memory that it leaks."""


@dataclass(frozen=True)
class EmbeddingProcessConfig:
    """The model to load, its cache ``entry``, and how many threads the process may use."""

    model: str
    entry: CacheEntry
    threads: int


class EmbeddingProcesses:
    """See `worker.embedding.batcher.Embedder`. The first text starts the processes."""

    def __init__(self, config: EmbeddingConfig, entry: CacheEntry) -> None:
        self.slots = entry.card.gpus or config.pool_size
        self.batch_texts = BATCH_TEXTS
        self.batch_tokens = _batch_tokens(entry.card)
        threads = max(1, cores() // self.slots)
        self._processes = Processes(
            self.slots,
            initialize,
            (EmbeddingProcessConfig(config.model, entry, threads),),
            max_tasks=BATCHES_PER_PROCESS,
        )

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Vectors]:
        """See `Embedder`."""
        return list(await self._processes.run(EMBED_SECONDS, embed_documents, texts))

    async def embed_query(self, text: str) -> Vectors:
        """See `Embedder`."""
        return await retry_once(partial(self._processes.run, EMBED_SECONDS, embed_query, text))

    async def stop(self) -> None:
        """End the processes at once. Stopping twice, or before starting, is fine."""
        await self._processes.stop()


def _batch_tokens(card: Card) -> int:
    if card.static:
        return STATIC_BATCH_TOKENS
    return GPU_BATCH_TOKENS if card.gpus else BATCH_TOKENS


# From here on: what runs in the processes.

_model: LoadedModel
_load_error: str | None = None


def initialize(config: EmbeddingProcessConfig) -> None:
    """Load the model. An error is kept and raised by the first task, where it can be caught."""
    global _model, _load_error
    become_pool_process()
    try:
        _model = _load(config)
    except Exception as error:
        _load_error = in_one_line(error)


def _load(config: EmbeddingProcessConfig) -> LoadedModel:
    folder, card = config.entry.folder, config.entry.card
    match card.engine:
        case "openvino":
            from worker.embedding.backends.openvino import OpenVinoModel

            return OpenVinoModel(folder, card, config.threads)
        case "table":
            from worker.embedding.backends.static import StaticModel

            return StaticModel(folder, card)
        case "torch":
            from worker.embedding.backends.torch import TorchModel

            return TorchModel.of(config.model, card, config.threads)


def embed_documents(texts: Sequence[str]) -> Vectors:
    """Embed chunks of documents; shape (texts, dimension). Raises ModelUnavailable."""
    _check_loaded()
    return _model.embed_documents(texts)


def embed_query(text: str) -> Vectors:
    """Embed a search query; shape (dimension,). Raises ModelUnavailable."""
    _check_loaded()
    return _model.embed_query(text)


def _check_loaded() -> None:
    if _load_error is not None:
        raise ModelUnavailable(f"the model cannot be loaded: {_load_error}")
