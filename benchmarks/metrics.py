"""Measure what metrics cost: ``python -m benchmarks.metrics``.

The same work runs with and without metrics, in turns, in one process. What is compared is the
processor time of that process, in which all metrics are recorded: no-op jobs through a worker, and
chunks through the batcher. The time that the embedding processes take is measured beside it.
"""

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from arq.worker import func
from rich.console import Console

from ingestq.app.composition import Broker
from ingestq.app.settings import load_settings
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.client.client import new_submission
from ingestq.core.documents import DEFAULT_COLLECTION, Document, Lane
from ingestq.core.jobs import INGEST, IngestBatch
from ingestq.core.log_setup import configure_logging
from ingestq.core.results import ChunkCounts
from ingestq.embedded.redis import embedded_redis
from ingestq.monitoring.monitor import recorded
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import Indexed, Outcome
from worker.text.parts import SizedText

ROUNDS: Final = 7
JOBS: Final = 2000
MAX_JOBS: Final = 40
CHUNKS: Final = 128
CHUNK_TOKENS: Final = 120
CHUNK: Final = "The ferry leaves the eastern pier at nine and carries people, cars and cargo. " * 8
POLL_SECONDS: Final = 0.005

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def _metrics(on: bool) -> AsyncIterator[None]:
    async with AsyncExitStack() as opened:
        if on:
            await opened.enter_async_context(recorded())
        yield


async def _index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    return [Indexed(ChunkCounts(embedded=4))] * len(batch.documents)


async def _jobs(broker: Broker) -> None:
    """Queue no-op jobs and run them."""
    note = partial(Document, version=1, source="s", text="x", collection=DEFAULT_COLLECTION)
    batches = [
        IngestBatch(documents=(note(doc_id=str(i)),), submission=new_submission())
        for i in range(JOBS)
    ]
    await broker.queue.enqueue(batches)
    leases = LeaseQueue(broker.redis, broker.config, 15, {DEFAULT_COLLECTION: "documents__bench"})
    worker = LeaseWorker(
        [func(_index, name=INGEST)], leases, max_jobs=MAX_JOBS, drain_seconds=30, ctx={}
    )
    running = asyncio.create_task(worker.run_until_stopped())
    while not await broker.queue.is_empty():  # noqa: ASYNC110 - Redis is asked
        await asyncio.sleep(POLL_SECONDS)
    worker.stop()
    await running


async def _embed(model: ModelPool) -> None:
    await model.embed(Lane.BULK, [SizedText(CHUNK, CHUNK_TOKENS)] * CHUNKS)


async def _compare(name: str, items: int, work: Work) -> None:
    """Run ``work`` in turns with and without metrics; print the processor time of an item."""
    for on in (False, True):  # warm up
        async with _metrics(on):
            await work()
    own: dict[bool, list[float]] = {False: [], True: []}
    wall: dict[bool, list[float]] = {False: [], True: []}
    for i in range(2 * ROUNDS):
        on = i % 4 in (1, 2)
        async with _metrics(on):
            cpu, began = time.process_time(), time.perf_counter()
            await work()
            own[on].append((time.process_time() - cpu) / items)
            wall[on].append((time.perf_counter() - began) / items)
    off_us, on_us = (statistics.median(own[on]) * 1e6 for on in (False, True))
    off_wall, on_wall = (statistics.median(wall[on]) * 1e6 for on in (False, True))
    Console(width=200).print(
        f"{name}: {off_us:.1f} us of the worker's processor time without, {on_us:.1f} us with "
        f"({on_us - off_us:+.1f} us, {(on_us / off_us - 1):+.1%}); {off_wall:.0f} us of time "
        f"without, {on_wall:.0f} us with",
        highlight=False,
    )


async def main() -> None:
    """Measure and print."""
    configure_logging(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as folder:
        async with embedded_redis(Path(folder)) as url:
            config = BrokerConfig(url)
            async with connected(config) as redis:
                broker = Broker(redis, config)
                await _compare("a no-op job", JOBS, lambda: _jobs(broker))
    processes = os.cpu_count() or 1
    config_of_model = EmbeddingConfig(load_settings().cache_dir, pool_size=processes)
    async with ModelPool(config_of_model) as model:
        await _compare("a chunk", CHUNKS, lambda: _embed(model))


if __name__ == "__main__":
    asyncio.run(main())
