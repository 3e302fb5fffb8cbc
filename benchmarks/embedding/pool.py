"""The embedding pool by itself, and inside a worker. Adapt this module when the pool changes."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import numpy as np

from benchmarks.embedding.agreement import Matrix
from benchmarks.embedding.resources import descendants
from ingestq.app.composition import embedding_config
from ingestq.app.settings import Settings
from ingestq.core.documents import Document, Lane
from worker.consumer.job_functions import INGESTOR, Ingestor
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.pool import ModelPool
from worker.embedding.preparation import prepare_model
from worker.embedding.processes import EmbeddingProcesses
from worker.text.parts import SizedText
from worker.text.small_texts import SMALL_BYTES

BATCH_TOKENS: Final = 4096
"""A batch takes a process about half a second; sending it costs nothing beside that."""
WARM_UPS: Final = 20


def perfect_batches(
    texts: Sequence[str], tokens: Sequence[int], multiple: int
) -> list[Sequence[str]]:
    """Return ``texts`` by length, the longest first, in batches of about equal numbers of tokens.

    The number of batches is a multiple of ``multiple``, the number of processes, so that all of
    them end at the same time.
    """
    order = sorted(range(len(texts)), key=lambda i: -tokens[i])
    rounds = -(-sum(tokens) // (BATCH_TOKENS * multiple))
    share = sum(tokens) / (rounds * multiple)
    batches: list[list[str]] = [[] for _ in range(rounds * multiple)]
    before = 0
    for i in order:
        batches[min(int(before / share), len(batches) - 1)].append(texts[i])
        before += tokens[i]
    return [batch for batch in batches if batch]


class RawCeiling:
    """The ``count`` embedding processes of a pool, each of which has one core."""

    def __init__(self, processes: EmbeddingProcesses, pids: Sequence[int]) -> None:
        self._processes = processes
        self.count = processes.slots
        self.pids = pids

    async def seconds(self, texts: Sequence[str], tokens: Sequence[int], at_work: int) -> float:
        """Return how long ``at_work`` of the processes take to embed ``texts``.

        The others are idle, so each has the same threads as when all work.
        """
        permits = asyncio.Semaphore(at_work)

        async def embed(batch: Sequence[str]) -> None:
            async with permits:
                rows = await self._processes.embed_each(batch)
            assert len(rows) == len(batch)

        batches = perfect_batches(texts, tokens, at_work)
        started = time.perf_counter()
        await asyncio.gather(*map(embed, batches))
        return time.perf_counter() - started


@asynccontextmanager
async def open_embedding_processes(settings: Settings) -> AsyncIterator[RawCeiling]:
    """Start the processes as a worker does; yield once all have loaded the model."""
    config = embedding_config(settings, settings.pool_size)
    entry = await prepare_model(config)
    others = descendants(os.getpid())
    processes = EmbeddingProcesses(config, entry)
    try:
        # A process may take two batches while another one still loads the model.
        for _ in range(WARM_UPS):
            await asyncio.gather(
                *(processes.embed_each(["warm up"]) for _ in range(processes.slots))
            )
        pids = [pid for pid in descendants(os.getpid()) if pid not in others]
        yield RawCeiling(processes, pids)
    finally:
        await processes.stop()


async def warm_up(worker: LeaseWorker) -> None:
    """Make a worker's pool start its processes and load its models, which it does on demand."""
    model = _model(worker)
    text = "A text. " * SMALL_BYTES  # small ones would share one process
    document = Document(doc_id="warm up", version=1, source="warm up", text=text)
    for _ in range(WARM_UPS):
        tasks = range(2 * model.config.pool_size)
        prepared = [model.prepare(Lane.INTERACTIVE, document, None) for _ in tasks]
        embedded = [
            model.embed(Lane.INTERACTIVE, [SizedText("A text. " * 100, 300)]) for _ in tasks
        ]
        await asyncio.gather(*prepared, *embedded)


async def query_vectors(worker: LeaseWorker, texts: Sequence[str]) -> Matrix:
    """Return the vectors that a worker's own pool makes of queries."""
    queries = await asyncio.gather(*map(_model(worker).embed_query, texts))
    return np.asarray([query.dense for query in queries], dtype=np.float32)


def _model(worker: LeaseWorker) -> ModelPool:
    ingestor: Ingestor = worker.ctx[INGESTOR]
    [ports] = ingestor.collections.values()
    model = ports.model
    assert isinstance(model, ModelPool)
    return model
