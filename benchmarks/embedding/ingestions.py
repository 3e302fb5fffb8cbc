"""Ingest a folder with a worker in a process of its own, through Redis and into Qdrant."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.embedding.processes import JsonProcess, open_process
from benchmarks.embedding.qdrant import BenchQdrant
from benchmarks.embedding.resources import Memory, children_cpu_seconds, cpu_seconds, memory
from benchmarks.ingestions import run
from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.jobs import INGEST
from ingestq.core.results import JobResult

MODULE: Final = "benchmarks.embedding.worker"


class NotIndexedError(RuntimeError):
    """A document could not be indexed."""


@dataclass(frozen=True)
class Lag:
    """Milliseconds by which the worker's event loop was late, over ``samples`` samples."""

    samples: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class IngestResult:
    """``seconds``: from the claim of the first job to the end of the last, as the worker
    recorded them. CPU times are in seconds. ``memory`` is the worker's once all was indexed.
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
class RunningWorker:
    """A worker with its model loaded, its broker, and the collection it writes to."""

    broker: Broker
    process: JsonProcess
    qdrant: BenchQdrant
    collection: str


@asynccontextmanager
async def running_worker(
    broker: Broker, qdrant: BenchQdrant, folder: Path, name: str, settings: Mapping[str, str]
) -> AsyncIterator[RunningWorker]:
    """Start a worker on an empty queue and an empty collection, with more ``settings``."""
    await awaited(broker.redis.flushall())
    collection = qdrant.new_collection(name)
    env = {
        "INGESTQ_REDIS_URL": broker.config.url,
        "INGESTQ_COLLECTION": collection,
        "INGESTQ_DATA_DIR": str(folder),
        **qdrant.environment,
        **settings,
    }
    async with open_process(MODULE, log=folder / f"{name}.log", env=env) as process:
        yield RunningWorker(replace(broker, collection=collection), process, qdrant, collection)


async def ingest(
    worker: RunningWorker, path: Path, queued: asyncio.Event | None = None
) -> IngestResult:
    """Queue the files under ``path`` as ``ingestq add`` does, and wait until they are indexed.

    ``queued`` is set when all of them are on the queue.
    """
    parent = worker.process.pid
    qdrant = [] if worker.qdrant.pid is None else [worker.qdrant.pid]
    await worker.process.ask(lag=True)  # resets the samples
    before = [cpu_seconds(parent), children_cpu_seconds(parent), cpu_seconds(*qdrant)]
    chunks, results = await _add(worker.broker, path, queued)
    after = [cpu_seconds(parent), children_cpu_seconds(parent), cpu_seconds(*qdrant)]
    lag = msgspec.convert(await worker.process.ask(lag=True), Lag)
    first = min(result.started_ms for result in results)
    last = max(result.finished_ms for result in results)
    parent_cpu, children_cpu, qdrant_cpu = (b - a for a, b in zip(before, after, strict=True))
    return IngestResult(
        chunks=chunks,
        seconds=(last - first) / 1000,
        lag=lag,
        memory=memory(parent),
        worker_cpu=parent_cpu,
        children_cpu=children_cpu,
        qdrant_cpu=qdrant_cpu if qdrant else None,
    )


async def _add(
    broker: Broker, path: Path, queued: asyncio.Event | None
) -> tuple[int, list[JobResult]]:
    """Queue and wait; return the number of embedded chunks, and the result of each job."""
    known = await _results(broker)
    summary = await run(broker, path, queued=queued)
    if summary.failed or summary.documents.total != summary.documents.indexed:
        raise NotIndexedError(str(summary.failed or summary.documents))
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
