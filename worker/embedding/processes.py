"""Embedding processes: each loads the model once and computes vectors.

The first half of this module is the worker's side, the second half runs in the processes. The
second half imports a backend inside a function, because the worker must not load one, and each
process needs only one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

from ingestq.core import metrics
from ingestq.core.errors import ModelUnavailable, in_one_line
from ingestq.core.metrics import PipelineStage
from worker.embedding.backends import LoadedModel, Vectors, truncated
from worker.embedding.cache import CacheEntry, Card
from worker.embedding.config import EmbeddingConfig, cores
from worker.process_pool.limits import LimitsReport, ProcessLimits
from worker.process_pool.pool import Processes, retry_once

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
    """The model to load, its cache ``entry``, and how many threads the process may use.

    Vectors are truncated to ``dimensions``.
    """

    model: str
    entry: CacheEntry[Card]
    threads: int
    dimensions: int | None = None


class EmbeddingProcesses:
    """See `worker.embedding.batcher.Embedder`. `begin` or the first text starts the processes."""

    def __init__(self, config: EmbeddingConfig, entry: CacheEntry[Card]) -> None:
        self.slots = entry.card.gpu_processes or config.pool_size
        self.batch_texts = BATCH_TEXTS
        self.batch_tokens = _batch_tokens(entry.card)
        threads = max(1, cores() // self.slots)
        self._processes = Processes(
            self.slots,
            _limits_of(config.embedding_limits, entry.card, threads),
            initialize,
            (EmbeddingProcessConfig(config.model, entry, threads, config.dimensions),),
            max_tasks=BATCHES_PER_PROCESS,
        )

    def begin(self) -> None:
        """Start a process before there is a text."""
        self._processes.begin()

    @property
    def has_begun(self) -> bool:
        """See `Processes.has_begun`."""
        return self._processes.has_begun

    @property
    def start_seconds(self) -> float | None:
        """See `Processes.start_seconds`."""
        return self._processes.start_seconds

    async def embed_each(self, texts: Sequence[str]) -> Sequence[Vectors]:
        """See `Embedder`."""
        embedded = await self._processes.run(EMBED_SECONDS, embed_documents, texts)
        metrics.observe(metrics.STAGE_SECONDS, embedded.seconds, PipelineStage.EMBED.value)
        return list(embedded.vectors)

    async def embed_query(self, text: str) -> Vectors:
        """See `Embedder`."""
        return await retry_once(partial(self._processes.run, EMBED_SECONDS, embed_query, text))

    async def report_limits(self) -> LimitsReport:
        """Return the limits that are in force in a process."""
        return await self._processes.report_limits()

    async def stop(self) -> None:
        """End the processes at once. Stopping twice, or before starting, is fine."""
        await self._processes.stop()


def _batch_tokens(card: Card) -> int:
    if card.static:
        return STATIC_BATCH_TOKENS
    return GPU_BATCH_TOKENS if card.gpus else BATCH_TOKENS


def _limits_of(limits: ProcessLimits, card: Card, threads: int) -> ProcessLimits:
    """Return the limits of a process with so many ``threads``, which is not limited in memory on a
    GPU: CUDA reserves far more than it uses.
    """
    cpu = None if limits.cpu_seconds is None else limits.cpu_seconds * threads
    memory = None if card.gpus else limits.memory_bytes
    return replace(limits, cpu_seconds=cpu, memory_bytes=memory)


# From here on: what runs in the processes.

_model: LoadedModel
_dimensions: int | None


def initialize(config: EmbeddingProcessConfig) -> None:
    """Load the model. Raises ModelUnavailable."""
    global _model, _dimensions
    _dimensions = config.dimensions
    try:
        _model = _load(config)
    except MemoryError:
        raise
    except Exception as error:
        raise ModelUnavailable(f"the model cannot be loaded: {in_one_line(error)}") from error


def _load(config: EmbeddingProcessConfig) -> LoadedModel:
    folder, card = config.entry.folder, config.entry.card
    match card.engine:
        case "cuda":
            from worker.embedding.backends.cuda import CudaModel

            return CudaModel.of(config.model, folder, card)
        case "openvino":
            from worker.embedding.backends.openvino import OpenVinoModel

            return OpenVinoModel(folder, card, config.threads)
        case "table":
            from worker.embedding.backends.static import StaticModel

            return StaticModel(folder, card)
        case "torch":
            from worker.embedding.backends.torch import TorchModel

            return TorchModel.of(config.model, card, config.threads)


class EmbeddedTexts(NamedTuple):
    """The vectors of texts, shape (texts, dimension), which took so many ``seconds``."""

    vectors: Vectors
    seconds: float


def embed_documents(texts: Sequence[str]) -> EmbeddedTexts:
    """Embed chunks of documents."""
    began = time.perf_counter()
    vectors = truncated(_model.embed_documents(texts), _dimensions)
    return EmbeddedTexts(vectors, time.perf_counter() - began)


def embed_query(text: str) -> Vectors:
    """Embed a search query; shape (dimension,)."""
    return truncated(_model.embed_query(text), _dimensions)
