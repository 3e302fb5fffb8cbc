"""Prepares a model for use: finds it in the cache, or builds its cache entry first."""

import asyncio
import time

import structlog

from ingestq.core import events
from ingestq.core.errors import ModelUnavailable, PoolFailure
from worker.embedding.cache import CacheEntry, Card, EntryCard, ModelCache, cache_key
from worker.embedding.config import EmbeddingConfig, check_weights, find_model
from worker.process_pool.limits import ProcessKind, ProcessLimits
from worker.process_pool.pool import START_SECONDS, Processes

log = structlog.get_logger()


async def prepare_model(config: EmbeddingConfig) -> CacheEntry[Card]:
    """Return the model's cache entry; build it first if there is none.

    Raises ModelUnavailable if there is no such model, it cannot be loaded, or the default model's
    weights have the wrong digest; UsageError if the backend cannot compute the model, or the cache
    cannot be written.
    """
    entry = await asyncio.to_thread(_cached, config)
    if entry is not None:
        return entry
    log.info(events.MODEL_PREPARING, model=config.model, cache=str(config.cache_dir))
    started = time.monotonic()
    await asyncio.to_thread(check_weights, config.model)
    await _build_in_process(config)
    entry = await asyncio.to_thread(_cached, config)
    if entry is None:
        raise ModelUnavailable(
            f"the model {config.model!r} was prepared, but its cache entry is no longer in "
            f"{config.cache_dir}"
        )
    _log_ready(entry.card, config, time.monotonic() - started)
    return entry


def log_fallback(model: str, card: EntryCard) -> None:
    """Log why faster engines do not compute ``model``, if there are any."""
    if card.rejected:
        log.warning(
            events.MODEL_FALLBACK,
            model=model,
            backend=card.engine,
            arithmetic=card.arithmetic,
            rejected="; ".join(card.rejected),
        )


def _log_ready(card: Card, config: EmbeddingConfig, seconds: float) -> None:
    log_fallback(config.model, card)
    log.info(
        events.MODEL_READY,
        model=config.model,
        backend=card.engine,
        arithmetic=card.arithmetic,
        cosine=None if card.proof is None else round(card.proof.cosine_min, 6),
        seconds=round(seconds, 1),
    )


def _cached(config: EmbeddingConfig) -> CacheEntry[Card] | None:
    files = find_model(config.model)
    if files is None:
        return None
    key = cache_key(files.revision, config.backend, config.precision)
    return ModelCache(config.cache_dir, Card).load(key)


async def _build_in_process(config: EmbeddingConfig) -> None:
    """Build the entry in a process of its own: the worker must not import torch."""
    processes = Processes(1, ProcessLimits(ProcessKind.EMBEDDING))
    try:
        await processes.run(START_SECONDS, _build, config)
    except (ModelUnavailable, PoolFailure) as error:
        raise ModelUnavailable(
            f"the model {config.model!r} cannot be loaded ({error}); set INGESTQ_MODEL to the name "
            "of a sentence-transformers model or to a folder that holds one"
        ) from error
    finally:
        await processes.stop()


def _build(config: EmbeddingConfig) -> None:
    from worker.embedding.build import build

    build(config)
