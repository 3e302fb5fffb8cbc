"""Opens the parts a command needs, in order, and closes them in reverse.

settings ── broker ── queue          add, drop, status
         └─ store ── model ── worker run, up, worker
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arq.connections import ArqRedis

from broker.connection import BrokerConfig, connected
from broker.dead_letters import DeadLetters
from broker.queue import JobQueue
from broker.spool.store import Spool, open_spool
from ingestq.embedded import embedded_redis
from ingestq.settings import Settings
from producers.client import IngestClient

if TYPE_CHECKING:  # a command that only produces loads nothing of the worker
    from worker.collection import CollectionNames
    from worker.embedding.config import EmbeddingConfig
    from worker.embedding.pool import ModelPool
    from worker.lease_worker import LeaseWorker
    from worker.qdrant import Qdrant, QdrantConfig

JOBS_PER_CHILD: Final = 3
"""Jobs a worker owns at once for each child of its pool: one for each lane, and the next is at hand
when one ends."""
DOCUMENTS_PER_CHILD: Final = 16
"""Documents in work at once for each child that embeds: enough small ones to fill its batches."""
FEWEST_PREPARERS: Final = 2
"""One parser that is slow is not to hold up all others; beyond that, to prepare documents takes a
fraction of the time that it takes to embed them."""


@dataclass(frozen=True)
class Broker:
    """A connected broker, and the spool that belongs to it.

    What is queued is meant for ``collection``, unless it names another one.
    """

    redis: ArqRedis
    config: BrokerConfig
    spool: Spool | None = None
    collection: str = ""

    @property
    def queue(self) -> JobQueue:
        return JobQueue(self.redis, self.config)

    @property
    def client(self) -> IngestClient:
        return IngestClient(self.queue, self.spool, self.collection)

    @property
    def letters(self) -> DeadLetters:
        return DeadLetters(self.redis, self.config, self.spool)


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncIterator[Broker]:
    """Connect to Redis, or to the embedded server if no URL is set.

    Raises BrokerUnavailable if it does not answer.
    """
    spool = open_spool(settings.spool)
    if settings.redis_url is not None:
        config = settings.broker(settings.redis_url)
        async with connected(config) as redis:
            yield Broker(redis, config, spool, settings.collection)
    else:
        async with embedded_redis(settings.data_dir) as url:
            config = settings.broker(url)
            async with connected(config) as redis:
                yield Broker(redis, config, spool, settings.collection)


def qdrant_config(settings: Settings) -> "QdrantConfig":
    """Where Qdrant is."""
    from worker.qdrant import QdrantConfig

    return QdrantConfig(settings.qdrant_url, settings.qdrant_api_key, settings.data_dir / "qdrant")


@asynccontextmanager
async def open_qdrant(
    settings: Settings, shared: "Qdrant | None" = None
) -> "AsyncIterator[Qdrant]":
    """Connect to Qdrant, or open the local one if no URL is set; or take one that is open."""
    from worker.qdrant import connect_qdrant

    if shared is not None:
        yield shared
        return
    async with connect_qdrant(qdrant_config(settings)) as qdrant:
        yield qdrant


def embedding_config(settings: Settings, processes: int) -> "EmbeddingConfig":
    """What is to embed, in up to so many processes."""
    from worker.embedding.config import EmbeddingConfig

    return EmbeddingConfig(
        cache_dir=settings.cache_dir,
        model=settings.model,
        endpoint=settings.endpoint,
        backend=settings.backend,
        precision=settings.precision,
        pool_size=processes,
        preparers=min(processes, max(FEWEST_PREPARERS, processes // 2)),
        max_document_bytes=settings.max_document_bytes,
        hybrid=settings.hybrid,
        chunk_tokens=settings.chunk_tokens,
    )


@asynccontextmanager
async def open_model(settings: Settings, processes: int) -> "AsyncIterator[ModelPool]":
    """Make the model ready, to be run in up to so many processes.

    Raises ModelUnavailable if it cannot be loaded.
    """
    from worker.embedding.pool import ModelPool

    async with ModelPool(embedding_config(settings, processes)) as model:
        yield model


async def query_settings(
    settings: Settings, qdrant: "Qdrant", names: "CollectionNames"
) -> Settings:
    """The settings with which a question is understood as the collection's documents were."""
    from worker.collection import stored_fingerprint

    made_with = await stored_fingerprint(qdrant, names)
    if made_with is None:
        return settings
    return settings.model_copy(
        update={
            "model": made_with.model,
            "precision": made_with.precision,
            "chunk_tokens": None,
        }
    )


@asynccontextmanager
async def open_worker(
    settings: Settings, broker: Broker, shared: "Qdrant | None" = None
) -> "AsyncIterator[LeaseWorker]":
    """Open everything a worker needs, but a Qdrant that is ``shared``.

    Raises StoreUnavailable, ModelUnavailable or CollectionMismatch before any job is claimed.
    """
    from arq.worker import func

    from broker.contract import DELETE, INGEST, SWEEP
    from broker.leases import LeaseQueue
    from broker.spool.leftovers import Leftovers
    from ingestq.served import open_served
    from worker.cleaning import cleaning
    from worker.jobs import INGESTOR, Ingestor, delete, ingest, sweep
    from worker.lanes import LanePermits, kept_for_interactive
    from worker.lease_worker import LeaseWorker

    async with (
        open_qdrant(settings, shared) as qdrant,
        open_model(settings, settings.pool_size) as model,
    ):
        served = await open_served(settings, broker, qdrant, model)
        documents = DOCUMENTS_PER_CHILD * settings.pool_size
        permits = LanePermits(documents, bulk=documents - kept_for_interactive(documents))
        worker = LeaseWorker(
            functions=[
                func(ingest, name=INGEST),
                func(delete, name=DELETE),
                func(sweep, name=SWEEP),
            ],
            leases=LeaseQueue(
                broker.redis,
                broker.config,
                settings.lease_seconds,
                serving=served.chunks,
                spool=broker.spool,
            ),
            max_jobs=JOBS_PER_CHILD * settings.pool_size,
            drain_seconds=settings.drain_seconds,
            ctx={INGESTOR: Ingestor(served.ports, permits)},
        )
        # What is loaded by now stays: to look through it for garbage would hold up the event loop
        # for a tenth of a second each time.
        gc.collect()
        gc.freeze()
        assert broker.spool is not None, "`open_broker` gives it one"
        async with cleaning(Leftovers(broker.redis, broker.config, broker.spool)):
            yield worker


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on every SIGINT and SIGTERM while inside."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
