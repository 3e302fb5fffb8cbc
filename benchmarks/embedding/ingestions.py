"""A folder ingested by a worker in a process of its own, with Redis and Qdrant in the loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.embedding.processes import Asked, asked
from benchmarks.embedding.qdrant import SearchFilter
from benchmarks.embedding.resources import Memory, children_cpu_seconds, cpu_seconds, memory
from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.display import NoDisplay
from ingestq.core.jobs import INGEST
from ingestq.core.results import JobResult
from producers.files.walk import ReadOptions, ScanRecord, observe

MODULE: Final = "benchmarks.embedding.worker"


class NotIndexed(RuntimeError):
    """Not every document could be indexed."""


@dataclass(frozen=True)
class Lag:
    """Milliseconds that the worker's event loop was late, at each of so many looks."""

    samples: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class Ingested:
    """``seconds``: from the claim of the first job to the end of the last, as the worker wrote them
    down. The processor times are seconds, too. ``memory`` is that of the worker when all was done.
    """

    chunks: int
    seconds: float
    lag: Lag
    memory: Memory
    worker_cpu: float
    children_cpu: float
    qdrant_cpu: float | None

    @property
    def rate(self) -> float:
        """Chunks a second."""
        return self.chunks / self.seconds


@dataclass(frozen=True)
class Working:
    """A worker with its model loaded, and what it writes to."""

    broker: Broker
    process: Asked
    qdrant: SearchFilter
    collection: str


@asynccontextmanager
async def working(
    broker: Broker, qdrant: SearchFilter, folder: Path, name: str, settings: Mapping[str, str]
) -> AsyncIterator[Working]:
    """Start a worker on an empty queue and an empty collection, with ``settings`` besides."""
    await awaited(broker.redis.flushall())
    collection = qdrant.new_collection(name)
    env = {
        "INGESTQ_REDIS_URL": broker.config.url,
        "INGESTQ_QDRANT_URL": qdrant.url,
        "INGESTQ_COLLECTION": collection,
        "INGESTQ_DATA_DIR": str(folder),
        **settings,
    }
    async with asked(MODULE, log=folder / f"{name}.log", env=env) as process:
        yield Working(replace(broker, collection=collection), process, qdrant, collection)


async def ingest(worker: Working, path: Path) -> Ingested:
    """Queue the files under ``path`` as ``ingestq add`` does, and wait until they are indexed."""
    parent = worker.process.pid
    qdrant = [] if worker.qdrant.pid is None else [worker.qdrant.pid]
    await worker.process.ask(lag=True)  # forget what was before
    before = [cpu_seconds(parent), children_cpu_seconds(parent), cpu_seconds(*qdrant)]
    chunks, results = await _add(worker.broker, path)
    after = [cpu_seconds(parent), children_cpu_seconds(parent), cpu_seconds(*qdrant)]
    lag = msgspec.convert(await worker.process.ask(lag=True), Lag)
    first = min(result.started_ms for result in results)
    last = max(result.finished_ms for result in results)
    parent_cpu, children_cpu, qdrant_cpu = (b - a for a, b in zip(before, after, strict=True))
    return Ingested(
        chunks=chunks,
        seconds=(last - first) / 1000,
        lag=lag,
        memory=memory(parent),
        worker_cpu=parent_cpu,
        children_cpu=children_cpu,
        qdrant_cpu=qdrant_cpu if qdrant else None,
    )


async def _add(broker: Broker, path: Path) -> tuple[int, list[JobResult]]:
    """How many chunks were embedded, and what the worker wrote down of each job."""
    known = await _results(broker)
    sightings = ScanRecord()
    ingestion = Ingestion(broker.client, NoDisplay())
    found = observe([path], None, broker.queue.now, ReadOptions(), sightings)
    sweeps = partial(sightings.sweeps, allow_mass_delete=False)
    async with asyncio.TaskGroup() as group:
        group.create_task(ingestion.produce(found, sweeps))
        group.create_task(ingestion.follow(until_queue_is_empty=True))
    summary = await ingestion.summary(broker.collection)
    if summary.failed or summary.documents.total != summary.documents.indexed:
        raise NotIndexed(str(summary.failed or summary.documents))
    results = await _results(broker)
    new = [results[key] for key in results.keys() - known.keys()]
    return summary.chunks.embedded, [result for result in new if result.function == INGEST]


async def _results(broker: Broker) -> dict[bytes, JobResult]:
    names = [key async for key in broker.redis.scan_iter(keys.RESULT + "*", count=1000)]
    written = await broker.redis.mget(names) if names else []
    return {
        name: msgspec.msgpack.decode(result, type=JobResult)
        for name, result in zip(names, written, strict=True)
        if result is not None
    }
