"""Reranks with a cross encoder on this machine, in a process of its own.

The first half of this module is the side of the search, the second half runs in the process. The
second half imports an engine inside a function, because a search must not load one.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import structlog

from ingestq.core import events
from ingestq.core.errors import (
    IngestqError,
    ModelUnavailable,
    RerankerUnavailable,
    in_one_line,
)
from worker.embedding.cache import CacheEntry, ModelCache
from worker.embedding.config import cores, find_model
from worker.embedding.preparation import log_fallback
from worker.process_pool.limits import ProcessKind, ProcessLimits
from worker.process_pool.pool import START_SECONDS, Processes, retry_once
from worker.reranking.card import CrossEncoderCard, cross_encoder_key
from worker.reranking.config import HUB_NAMESPACE, RerankerConfig

log = structlog.get_logger()

SLICE_TEXTS: Final = 16
"""Texts that are scored at once: so many are scored in vain after a search has given up."""
SLICE_SECONDS: Final = 60.0
"""A process that takes longer over them hangs, and is killed."""
SLICES_PER_PROCESS: Final = 4096
"""The process is replaced after this many, which bounds the memory that it leaks."""


class CrossEncoderProcess:
    """A `Scorer` that runs the model in a process."""

    def __init__(self, config: RerankerConfig) -> None:
        self._config = config
        self._processes: Processes | None = None
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[list[float]]] = set()

    async def prepare(self) -> None:
        """See `Scorer`; the model is converted the first time."""
        try:
            entry = await prepare_cross_encoder(self._config)
            threads = cores()
            limits = self._config.limits
            if limits.cpu_seconds is not None:
                limits = replace(limits, cpu_seconds=limits.cpu_seconds * threads)
            self._processes = Processes(
                1,
                limits,
                initialize,
                (CrossEncoderProcessConfig(self._config.model, entry, threads),),
                max_tasks=SLICES_PER_PROCESS,
            )
            await self._run("ready?", ["ready"])
        except IngestqError as error:
            await self.stop()
            raise RerankerUnavailable(f"the reranker cannot be used: {error}") from error

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `Scorer`. When it is cancelled, the texts that are being scored are not."""
        by_length = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        scores = [0.0] * len(texts)
        async with self._turn:
            for start in range(0, len(by_length), SLICE_TEXTS):
                positions = by_length[start : start + SLICE_TEXTS]
                found = await self._run(query, [texts[position] for position in positions])
                for position, score in zip(positions, found, strict=True):
                    scores[position] = score
        return scores

    async def stop(self) -> None:
        """See `Scorer`."""
        if self._processes is not None:
            await self._processes.stop()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, query: str, texts: Sequence[str]) -> list[float]:
        """Score in the process. It is not ended if the caller is cancelled: loading takes long."""
        assert self._processes is not None, "`prepare` comes first"
        scoring = partial(self._processes.run, SLICE_SECONDS, score_texts, query, texts)
        running = asyncio.ensure_future(retry_once(scoring))
        self._running.add(running)
        running.add_done_callback(self._end)
        return await asyncio.shield(running)

    def _end(self, running: asyncio.Task[list[float]]) -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # of what nobody waits for any more


async def prepare_cross_encoder(config: RerankerConfig) -> CacheEntry[CrossEncoderCard]:
    """Return the model's cache entry; build it first if there is none.

    Raises ModelUnavailable if it is no cross encoder or cannot be loaded, and UsageError if the
    cache cannot be written.
    """
    entry = await asyncio.to_thread(_cached, config)
    if entry is not None:
        return entry
    log.info(events.MODEL_PREPARING, model=config.model, cache=str(config.cache_dir))
    builders = Processes(1, ProcessLimits(ProcessKind.EMBEDDING))
    try:
        await builders.run(START_SECONDS, _build, config)
    except IngestqError as error:
        raise ModelUnavailable(
            f"{config.model!r} cannot be loaded ({error}); set INGESTQ_RERANKER to the name or "
            "folder of a cross encoder, or to the URL of text-embeddings-inference"
        ) from error
    finally:
        await builders.stop()
    entry = await asyncio.to_thread(_cached, config)
    if entry is None:
        raise ModelUnavailable(
            f"{config.model!r} was prepared, but its cache entry is no longer in {config.cache_dir}"
        )
    log_fallback(config.model, entry.card)
    log.info(
        events.MODEL_READY,
        model=config.model,
        backend=entry.card.engine,
        arithmetic=entry.card.arithmetic,
    )
    return entry


def _cached(config: RerankerConfig) -> CacheEntry[CrossEncoderCard] | None:
    files = find_model(config.model, HUB_NAMESPACE)
    if files is None:
        return None
    cache = ModelCache(config.cache_dir, CrossEncoderCard)
    return cache.load(cross_encoder_key(files.revision, config.precision))


def _build(config: RerankerConfig) -> None:
    """Build the entry in a process of its own: a search must not import torch."""
    from worker.reranking.build import build_cross_encoder

    build_cross_encoder(config)


# From here on: what runs in the process.


class LoadedCrossEncoder(Protocol):
    """A cross encoder that is loaded."""

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text."""
        ...


@dataclass(frozen=True)
class CrossEncoderProcessConfig:
    """The model to load, its cache ``entry``, and how many threads the process may use."""

    model: str
    entry: CacheEntry[CrossEncoderCard]
    threads: int


_model: LoadedCrossEncoder


def initialize(config: CrossEncoderProcessConfig) -> None:
    """Load the model. Raises ModelUnavailable."""
    global _model
    folder, card = config.entry.folder, config.entry.card
    try:
        if card.engine == "openvino":
            from worker.reranking.openvino import OpenVinoCrossEncoder

            _model = OpenVinoCrossEncoder(folder, card, config.threads)
        else:
            from worker.reranking.torch import TorchCrossEncoder

            _model = TorchCrossEncoder.of(config.model, config.threads)
    except MemoryError:
        raise
    except Exception as error:
        raise ModelUnavailable(f"the model cannot be loaded: {in_one_line(error)}") from error


def score_texts(query: str, texts: Sequence[str]) -> list[float]:
    """Return the score of each text."""
    return _model.score(query, texts)
