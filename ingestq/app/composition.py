"""Opens what a command needs, in order, and closes it in reverse.

settings ── broker ── queue          add, drop, status
         └─ store ── model ── worker run, up, worker
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis

from ingestq.app.settings import Settings
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.blobs.store import BlobStore
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.client.client import IngestClient
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.embedded.redis import embedded_redis

if TYPE_CHECKING:
    from worker.embedding.config import EmbeddingConfig
    from worker.embedding.pool import ModelPool
    from worker.store.client import Qdrant, QdrantConfig

DOCUMENTS_PER_PROCESS: Final = 16
"""Documents in work at once for each embedding process: enough small ones to fill its batches."""
MIN_PARSE_PROCESSES: Final = 2
"""So that one slow document does not hold up all others. More are rarely needed: preparing a
document takes a fraction of the time that embedding it takes."""


@dataclass(frozen=True)
class Broker:
    """A connected broker, and the blob store that belongs to it.

    Documents that name no collection go to ``collection``.
    """

    redis: Redis
    config: BrokerConfig
    blobs: BlobStore | None = None
    collection: str = DEFAULT_COLLECTION

    @property
    def queue(self) -> JobQueue:
        return JobQueue(self.redis, self.config)

    @property
    def client(self) -> IngestClient:
        return IngestClient(self.queue, self.blobs, self.collection)

    @property
    def dead_letters(self) -> DeadLetters:
        return DeadLetters(self.redis, self.config, self.blobs)


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncIterator[Broker]:
    """Connect to Redis, or to the embedded server if no URL is set.

    Raises BrokerUnavailable if it does not answer.
    """
    blobs = open_blob_store(settings.blobs)
    if settings.redis_url is not None:
        config = settings.broker(settings.redis_url)
        async with connected(config) as redis:
            yield Broker(redis, config, blobs, settings.collection)
    else:
        async with embedded_redis(settings.data_dir) as url:
            config = settings.broker(url)
            async with connected(config) as redis:
                yield Broker(redis, config, blobs, settings.collection)


def qdrant_config(settings: Settings) -> "QdrantConfig":
    """Return where Qdrant is."""
    from worker.store.client import QdrantConfig

    return QdrantConfig(settings.qdrant_url, settings.qdrant_api_key, settings.data_dir / "qdrant")


@asynccontextmanager
async def open_qdrant(
    settings: Settings, shared: "Qdrant | None" = None
) -> "AsyncIterator[Qdrant]":
    """Connect to Qdrant, or open the local one if no URL is set. Yields ``shared`` if passed."""
    from worker.store.client import connect_qdrant

    if shared is not None:
        yield shared
        return
    async with connect_qdrant(qdrant_config(settings)) as qdrant:
        yield qdrant


def embedding_config(settings: Settings, processes: int) -> "EmbeddingConfig":
    """Return how to embed, in up to ``processes`` embedding processes."""
    from worker.embedding.config import EmbeddingConfig

    return EmbeddingConfig(
        cache_dir=settings.cache_dir,
        model=settings.model,
        endpoint=settings.endpoint,
        backend=settings.backend,
        precision=settings.precision,
        pool_size=processes,
        parse_processes=min(processes, max(MIN_PARSE_PROCESSES, processes // 2)),
        max_document_bytes=settings.max_document_bytes,
        hybrid=settings.hybrid,
        chunk_tokens=settings.chunk_tokens,
    )


@asynccontextmanager
async def open_model(settings: Settings, processes: int) -> "AsyncIterator[ModelPool]":
    """Make the model ready to run in up to ``processes`` embedding processes.

    Raises ModelUnavailable if it cannot be loaded.
    """
    from worker.embedding.pool import ModelPool

    async with ModelPool(embedding_config(settings, processes)) as model:
        yield model
