"""Opens a worker and the collections that it serves."""

import gc
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from arq.worker import func

from ingestq.app.collections import count_collection
from ingestq.app.composition import Broker, opening_model, opening_qdrant
from ingestq.app.settings import Settings
from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.gate import Gate
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core.errors import StoreUnavailable
from ingestq.core.health import HealthCheck
from ingestq.core.jobs import DELETE, INGEST, SWEEP
from ingestq.core.results import CollectionCounts
from ingestq.core.versions import LedgerHead
from ingestq.core.webhooks import Subscriptions
from worker.blobs import BlobContents
from worker.consumer.job_functions import INGESTOR, Ingestor, delete, ingest, sweep
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.pool import ModelPool
from worker.maintenance.cut_over import remove_expired
from worker.maintenance.upkeep import Upkeep
from worker.pipeline.memory_budget import MAX_CHUNKS, MemoryBudget
from worker.pipeline.ports import Ports
from worker.remote.contents import LONGEST_TURN_SECONDS, RemoteContents
from worker.store.chunks import QdrantStore
from worker.store.client import PatientQdrant, Qdrant
from worker.store.collection import (
    CollectionNames,
    check_fingerprint,
    find_collection,
    open_collection,
)
from worker.store.ledger import QdrantLedger
from worker.store.schema import fingerprint

if TYPE_CHECKING:
    from ingestq.monitoring.monitor import Monitor

JOBS_PER_PROCESS: Final = 3
"""Jobs with unprepared documents that a worker holds at once for each embedding process: one for
each lane, and one that is ready when one of them ends."""
CHUNKS_PER_PROCESS: Final = 2048
"""Chunks of the documents in work for each embedding process: enough to fill its batches and the
groups of requests to Qdrant, and few enough to be finished in the drain time."""
MIN_PROCESSES: Final = 2
"""The budget is at least that of so many, so that a large document is embedded while the next one
is prepared."""


def make_worker(
    leases: LeaseQueue,
    dead_letters: DeadLetters,
    ports: Mapping[str, Ports],
    *,
    max_jobs: int,
    drain_seconds: float,
) -> LeaseWorker:
    """Return a worker for the documents of the collections in ``ports``."""
    return LeaseWorker(
        functions=[
            func(ingest, name=INGEST),
            func(delete, name=DELETE),
            func(sweep, name=SWEEP),
        ],
        leases=leases,
        max_jobs=max_jobs,
        drain_seconds=drain_seconds,
        ctx={INGESTOR: Ingestor(ports, leases.unfinished, dead_letters.purge_unseen)},
    )


@asynccontextmanager
async def open_worker(
    settings: Settings,
    broker: Broker,
    qdrant: Awaitable[Qdrant] | None = None,
    model: Awaitable[ModelPool] | None = None,
    monitor: "Monitor | None" = None,
) -> AsyncIterator[LeaseWorker]:
    """Open everything a worker needs, except for the ``qdrant`` and the ``model`` that are passed.

    Qdrant and the model are opened at the same time. ``monitor`` shows how the worker does.

    Raises StoreUnavailable, ModelUnavailable, CollectionMismatch or UsageError before any job is
    claimed.
    """
    subscriptions = Subscriptions.of(settings.webhooks)
    async with (
        opening_qdrant(settings) if qdrant is None else nullcontext(qdrant) as opened_qdrant,
        opening_model(settings) if model is None else nullcontext(model) as opened_model,
    ):
        ready_model = await opened_model
        served = await open_collections(settings, broker, await opened_qdrant, ready_model)
        worker = make_worker(
            LeaseQueue(
                broker.redis,
                broker.config,
                settings.lease_seconds,
                serving=served.chunks,
                blobs=broker.blobs,
                read_ledger=served.ledger_head,
                webhooks=subscriptions,
            ),
            broker.dead_letters,
            served.ports,
            max_jobs=JOBS_PER_PROCESS * settings.pool_size,
            drain_seconds=settings.drain_seconds,
        )
        # Everything loaded by now stays: searching it for garbage would block the event loop for
        # a tenth of a second each time, and there is next to none in it.
        gc.freeze()
        assert broker.blobs is not None, "`open_broker` always sets it"
        garbage = GarbageCollector(broker.redis, broker.config, broker.blobs)
        upkeep = Upkeep(
            [
                partial(remove_expired, await opened_qdrant, name, settings.keep_previous_hours)
                for name in settings.collections
            ],
            broker.dead_letters,
            garbage,
            settings.keep_dead_letters_days,
        )
        if monitor is not None:
            _show(monitor, worker, settings, await opened_qdrant, ready_model)
        async with delivering_webhooks(settings, broker), upkeep.service():
            yield worker


@asynccontextmanager
async def delivering_webhooks(settings: Settings, broker: Broker) -> AsyncIterator[None]:
    """Deliver the messages of webhooks while inside; without webhooks, nothing is loaded or done.

    Raises UsageError if their settings are wrong.
    """
    targets = settings.webhooks
    if not targets:
        yield
        return
    from worker.webhooks.deliverer import WebhookDeliverer
    from worker.webhooks.sender import open_sender

    async with open_sender(allow_private=settings.webhook_allow_private) as sender:
        deliverer = WebhookDeliverer(broker.webhooks, targets, sender)
        async with deliverer.service():
            yield


def _show(
    monitor: "Monitor", worker: LeaseWorker, settings: Settings, qdrant: Qdrant, model: ModelPool
) -> None:
    """Let ``monitor`` show whether ``worker`` is live and ready, and what its collections hold."""

    async def counts() -> list[CollectionCounts]:
        return [await count_collection(qdrant, name) for name in settings.collections]

    async def qdrant_answers() -> bool:
        await find_collection(qdrant, settings.collection)
        return True

    async def is_warm() -> bool | None:
        return model.is_warm

    async def fingerprint_fits() -> bool | None:
        hooks = await model.hook_versions()
        mine = fingerprint(model.info, settings.collection_schema, settings.reading, hooks)
        try:
            for name in settings.collections:
                names = await find_collection(qdrant, name)
                if names is None:
                    return False
                await check_fingerprint(qdrant, names, mine)
        except StoreUnavailable:
            return None
        return True

    monitor.count_collections = counts
    monitor.health.pulses[HealthCheck.POLL] = worker.poll
    monitor.health.probes |= {
        HealthCheck.QDRANT: qdrant_answers,
        HealthCheck.POOL: is_warm,
        HealthCheck.FINGERPRINT: fingerprint_fits,
    }


@dataclass(frozen=True)
class ServedCollections:
    """The collection behind each public name, its ledger, and the ports of the pipeline."""

    chunks: Mapping[str, str]
    ledgers: Mapping[str, QdrantLedger]
    ports: Mapping[str, Ports]

    async def ledger_head(self, collection: str) -> LedgerHead:
        """Return the head of the ledger of ``collection``. Raises what `Qdrant` raises."""
        return await self.ledgers[collection].head()


async def open_collections(
    settings: Settings, broker: Broker, qdrant: Qdrant, model: ModelPool
) -> ServedCollections:
    """Open every collection that the settings name; create those that do not exist.

    All share the model and the memory budgets. Raises CollectionMismatch if one of them was built
    with another model or other settings, UsageError if a hook cannot be loaded, StoreUnavailable,
    BrokerUnavailable.
    """
    hooks = await model.hook_versions()
    opened = [await _opened(name, settings, broker, qdrant, model) for name in settings.collections]
    memory = memory_budget(settings)
    contents = contents_for(settings, BlobContents(broker.blobs, settings.max_document_bytes))
    patient = PatientQdrant(qdrant)
    ledgers = {names.alias: QdrantLedger(patient, names.ledger) for names in opened}
    ports = {}
    for names in opened:
        chunks = QdrantStore(patient, names.chunks, settings.collection_schema.layout)
        ledger = ledgers[names.alias]
        ports[names.alias] = Ports(
            model, chunks, ledger, contents, memory=memory, enriched_by=hooks.enrich
        )
    return ServedCollections({names.alias: names.chunks for names in opened}, ledgers, ports)


def memory_budget(settings: Settings) -> MemoryBudget:
    """Return the budget of all documents in work in this process."""
    chunks = CHUNKS_PER_PROCESS * max(settings.pool_size, MIN_PROCESSES)
    return MemoryBudget(min(chunks, MAX_CHUNKS))


def contents_for(
    settings: Settings,
    blobs: BlobContents,
    longest_turn_seconds: float | None = LONGEST_TURN_SECONDS,
) -> RemoteContents:
    """Return what reads documents, wherever their content is; see `RemoteContents`."""
    return RemoteContents(
        blobs,
        settings.max_document_bytes,
        settings.remote_copy_bytes,
        settings.remote_access,
        longest_turn_seconds=longest_turn_seconds,
    )


async def _opened(
    alias: str, settings: Settings, broker: Broker, qdrant: Qdrant, model: ModelPool
) -> CollectionNames:
    schema = settings.collection_schema
    is_first = await find_collection(qdrant, alias) is None
    mine = fingerprint(model.info, schema, settings.reading, await model.hook_versions())
    names = await open_collection(qdrant, alias, mine, schema.storage)
    if is_first:  # an earlier collection of this name may have left its gate closed
        await Gate(broker.redis, broker.config, names.chunks).open()
    return names
