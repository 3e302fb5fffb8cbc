"""Opens a worker and the collections that it serves."""

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from arq.worker import func

from ingestq.app.composition import (
    DOCUMENTS_PER_PROCESS,
    Broker,
    open_model,
    open_qdrant,
)
from ingestq.app.settings import Settings
from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.queue.gate import Gate
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.jobs import DELETE, INGEST, SWEEP
from worker.blobs import BlobContents, garbage_collection
from worker.consumer.job_functions import INGESTOR, Ingestor, delete, ingest, sweep
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.pool import ModelPool
from worker.lanes import LanePermits, reserved_for_interactive
from worker.maintenance.cut_over import remove_expired
from worker.pipeline.memory_budget import MemoryBudget
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import PatientQdrant, Qdrant
from worker.store.collection import CollectionNames, find_collection, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import fingerprint

JOBS_PER_PROCESS: Final = 3
"""Jobs a worker holds at once for each embedding process: one for each lane, and one that is ready
when one of them ends."""


def make_worker(
    leases: LeaseQueue,
    ports: Mapping[str, Ports],
    permits: LanePermits,
    *,
    max_jobs: int,
    drain_seconds: float,
) -> LeaseWorker:
    """Return a worker that ingests, deletes and sweeps documents of the collections in ``ports``.

    ``permits`` bounds the documents in work at once.
    """
    return LeaseWorker(
        functions=[
            func(ingest, name=INGEST),
            func(delete, name=DELETE),
            func(sweep, name=SWEEP),
        ],
        leases=leases,
        max_jobs=max_jobs,
        drain_seconds=drain_seconds,
        ctx={INGESTOR: Ingestor(ports, permits)},
    )


@asynccontextmanager
async def open_worker(
    settings: Settings, broker: Broker, shared: Qdrant | None = None
) -> AsyncIterator[LeaseWorker]:
    """Open everything a worker needs. It uses ``shared`` if passed, else opens its own Qdrant.

    Raises StoreUnavailable, ModelUnavailable or CollectionMismatch before any job is claimed.
    """
    async with (
        open_qdrant(settings, shared) as qdrant,
        open_model(settings, settings.pool_size) as model,
    ):
        served = await open_collections(settings, broker, qdrant, model)
        documents = DOCUMENTS_PER_PROCESS * settings.pool_size
        permits = LanePermits(documents, bulk=documents - reserved_for_interactive(documents))
        worker = make_worker(
            LeaseQueue(
                broker.redis,
                broker.config,
                settings.lease_seconds,
                serving=served.chunks,
                blobs=broker.blobs,
            ),
            served.ports,
            permits,
            max_jobs=JOBS_PER_PROCESS * settings.pool_size,
            drain_seconds=settings.drain_seconds,
        )
        # Everything loaded by now stays: searching it for garbage would block the event loop for
        # a tenth of a second each time.
        gc.collect()
        gc.freeze()
        assert broker.blobs is not None, "`open_broker` always sets it"
        async with garbage_collection(GarbageCollector(broker.redis, broker.config, broker.blobs)):
            yield worker


@dataclass(frozen=True)
class ServedCollections:
    """The collection behind each public name, and the ports of the pipeline."""

    chunks: Mapping[str, str]
    ports: Mapping[str, Ports]


async def open_collections(
    settings: Settings, broker: Broker, qdrant: Qdrant, model: ModelPool
) -> ServedCollections:
    """Open every collection that the settings name; create those that do not exist.

    All share the model and the memory budgets. Raises CollectionMismatch if one of them was built
    with another model or other settings, StoreUnavailable, BrokerUnavailable.
    """
    opened = [await _opened(name, settings, broker, qdrant, model) for name in settings.collections]
    memory = MemoryBudget()
    contents = BlobContents(broker.blobs, settings.max_document_bytes)
    patient = PatientQdrant(qdrant)
    ports = {}
    for names in opened:
        chunks = QdrantStore(patient, names.chunks, settings.vector_name)
        ledger = QdrantLedger(patient, names.ledger)
        ports[names.alias] = Ports(model, chunks, ledger, contents, memory=memory)
    return ServedCollections({names.alias: names.chunks for names in opened}, ports)


async def _opened(
    alias: str, settings: Settings, broker: Broker, qdrant: Qdrant, model: ModelPool
) -> CollectionNames:
    schema = settings.collection_schema
    is_first = await find_collection(qdrant, alias) is None
    names = await open_collection(qdrant, alias, fingerprint(model.info, schema), schema.storage)
    if is_first:  # an earlier collection of this name may have left its gate closed
        await Gate(broker.redis, broker.config, names.chunks).open()
    await remove_expired(PatientQdrant(qdrant), alias, settings.keep_previous_hours)
    return names
