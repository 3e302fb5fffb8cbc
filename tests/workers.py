"""Lease workers for tests: with a job of the test, or the one that indexes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from arq.typing import WorkerCoroutine
from arq.worker import Function, func

from ingestq.app import worker as app_worker
from ingestq.app.composition import Broker
from ingestq.app.worker import ServedCollections
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.documents import Sweep
from ingestq.core.jobs import Batch
from ingestq.core.remote import RemoteAccess
from ingestq.core.results import ChunkCounts
from ingestq.core.web import WebConfig
from tests.claims import DOCUMENTS, lease_queue
from tests.waiting import ended
from worker.blobs import BlobContents
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import Indexed
from worker.pipeline.ports import Ports
from worker.remote.contents import LONGEST_TURN_SECONDS, RemoteContents
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger
from worker.store.schema import DEFAULT_LAYOUT, PointLayout

MAX_JOBS = 4
"""Jobs that a worker runs at once, three of them bulk jobs."""


def all_indexed(batch: Batch) -> list[Indexed]:
    """Return the outcomes of a job that indexes every document of ``batch``."""
    return [Indexed(ChunkCounts())] * len(batch.documents)


async def none_unfinished(_: str) -> int:
    """Say that no document of a submission is left to be finished."""
    return 0


async def none_purged(_: Sweep) -> int:
    """Purge no dead letters."""
    return 0


def make_worker(
    broker: Broker,
    job: WorkerCoroutine | Function | Sequence[Function],
    *,
    lease_seconds: float = 15,
    drain_seconds: float = 5,
    serving: Mapping[str, str] = DOCUMENTS,
) -> LeaseWorker:
    """Return a worker that runs ``job``; a plain coroutine function is its ingest job."""
    match job:
        case Function():
            functions: Sequence[Function] = [job]
        case Sequence():
            functions = job
        case _:
            functions = [func(job, name="ingest")]
    return LeaseWorker(
        functions,
        lease_queue(broker, lease_seconds, serving),
        max_jobs=MAX_JOBS,
        drain_seconds=drain_seconds,
        ctx={},
    )


@asynccontextmanager
async def working(
    broker: Broker,
    job: WorkerCoroutine | Function | Sequence[Function],
    *,
    lease_seconds: float = 15,
    drain_seconds: float = 5,
    serving: Mapping[str, str] = DOCUMENTS,
) -> AsyncIterator[LeaseWorker]:
    """Run a worker with ``job``; stop it and wait for it on leaving."""
    worker = make_worker(
        broker,
        job,
        lease_seconds=lease_seconds,
        drain_seconds=drain_seconds,
        serving=serving,
    )
    async with at_work(worker):
        yield worker


def indexing_worker(broker: Broker, served: ServedCollections) -> LeaseWorker:
    """Return the worker that the commands start, in a size for tests."""
    return app_worker.make_worker(
        LeaseQueue(
            broker.redis,
            broker.config,
            15,
            serving=served.chunks,
            blobs=broker.blobs,
            read_ledger=served.ledger_head,
        ),
        broker.dead_letters,
        served.ports,
        max_jobs=MAX_JOBS,
        drain_seconds=5,
    )


def served_collection(
    broker: Broker,
    qdrant: Qdrant,
    names: CollectionNames,
    model: ModelPool,
    layout: PointLayout = DEFAULT_LAYOUT,
    longest_turn_seconds: float | None = LONGEST_TURN_SECONDS,
) -> ServedCollections:
    """Return one collection, with the ports that index its documents."""
    store, ledger = QdrantStore(qdrant, names.chunks, layout), QdrantLedger(qdrant, names.ledger)
    limit = model.config.max_document_bytes
    access = RemoteAccess(WebConfig(delay_seconds=0, allow_private=True))  # sites on this machine
    contents = RemoteContents(
        BlobContents(broker.blobs, limit),
        limit,
        access=access,
        longest_turn_seconds=longest_turn_seconds,
    )
    ports = Ports(model, store, ledger, contents=contents)
    return ServedCollections(
        {names.alias: names.chunks}, {names.alias: ledger}, {names.alias: ports}
    )


@asynccontextmanager
async def indexing(
    broker: Broker, qdrant: Qdrant, names: CollectionNames, model: ModelPool
) -> AsyncIterator[LeaseWorker]:
    """Run a worker that indexes; stop it and wait for it on leaving."""
    async with at_work(
        indexing_worker(broker, served_collection(broker, qdrant, names, model))
    ) as worker:
        yield worker


@asynccontextmanager
async def at_work(worker: LeaseWorker) -> AsyncIterator[LeaseWorker]:
    """Run ``worker``; stop it and wait for it on leaving."""
    running = asyncio.create_task(worker.run_until_stopped())
    try:
        yield worker
    finally:
        worker.stop()
        await ended(running)
