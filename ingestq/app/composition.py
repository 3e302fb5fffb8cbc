"""Opens what a command needs, in order, and closes it in reverse.

settings ── broker ── queue          add, drop
         └─ Qdrant ── model ── worker run, up, worker

What takes long to open is opened at the same time: Redis, Qdrant and the model.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis

from ingestq.app.migration import has_index, migrate
from ingestq.app.settings import Settings, revealed, runtime_dirs
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.blobs.local import LocalBlobStore
from ingestq.broker.blobs.store import BlobStore
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.watched_folders import WatchedFolders
from ingestq.broker.webhooks import WebhookOutbox
from ingestq.client.client import IngestClient
from ingestq.core.data_directory import data_directory
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.errors import InvalidQuery, UsageError
from ingestq.core.service import opening, uninterrupted
from ingestq.embedded.engine import FOLDER, open_engine
from ingestq.embedded.redis import open_redis, url_of

if TYPE_CHECKING:
    from worker.embedding.config import EmbeddingConfig
    from worker.embedding.pool import ModelPool
    from worker.reranking.reranker import Reranker
    from worker.store.client import Qdrant

DOCUMENTS_PER_PROCESS: Final = 16
"""Documents that a rebuild works on at once for each embedding process: enough small ones to fill
its batches."""
MIN_PARSE_PROCESSES: Final = 2
"""So that one slow document does not hold up all others. More are rarely needed: preparing a
document takes a fraction of the time that embedding it takes."""

_imports: Final = ThreadPoolExecutor(1, "imports")


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

    @property
    def webhooks(self) -> WebhookOutbox:
        return WebhookOutbox(self.redis, self.config)

    @property
    def watched_folders(self) -> WatchedFolders:
        return WatchedFolders(self.redis, self.config)


async def imported(module: str) -> None:
    """Import ``module`` in a thread: it would block the event loop for too long.

    Modules are imported in the order of the calls, so what is needed first is not held up.
    """
    await asyncio.wrap_future(_imports.submit(import_module, module))


def open_blobs(settings: Settings) -> BlobStore:
    """Return the blob store: the one that is set, or a private one in the data directory."""
    if settings.blob_url is not None:
        return open_blob_store(settings.blobs)
    return LocalBlobStore(Path(settings.blobs), private=True)


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncIterator[Broker]:
    """Connect to Redis, or to the bundled server if no URL is set.

    Raises BrokerUnavailable if it does not answer, and when the bundled server can no longer be
    used because its data directory was deleted; UsageError if it is to have replicas.
    """
    async with AsyncExitStack() as opened:
        if settings.redis_url is not None:
            config = settings.broker(settings.redis_url.get_secret_value())
        elif settings.redis_replicas:
            raise UsageError(
                f"INGESTQ_REDIS_REPLICAS is {settings.redis_replicas}, but the bundled Redis has "
                "none; set INGESTQ_REDIS_URL, or leave it out"
            )
        else:
            bundled = await opened.enter_async_context(
                open_redis(settings.data_dir, runtime_dirs())
            )
            config = replace(settings.broker(url_of(bundled)), outage=bundled.outage)
        redis = await opened.enter_async_context(connected(config))
        yield Broker(redis, config, open_blobs(settings), settings.collection)


@asynccontextmanager
async def open_qdrant(settings: Settings) -> "AsyncIterator[Qdrant]":
    """Connect to Qdrant, or to the bundled one if no URL is set.

    The index of an earlier version is migrated first. Raises StoreUnavailable if the bundled one
    does not start, and when it can no longer be used because its data directory was deleted;
    UsageError if the index of an earlier version cannot be migrated.
    """
    url, key = revealed(settings.qdrant_url), revealed(settings.qdrant_api_key)
    async with AsyncExitStack() as opened:
        bundled = None
        if url is None:
            await migrate(settings.data_dir, runtime_dirs())
            bundled = await opened.enter_async_context(
                opening(open_engine(settings.data_dir, runtime_dirs()), name=FOLDER)
            )
        await imported("worker.store.client")
        from worker.store.client import QdrantConfig, connect_qdrant

        config = QdrantConfig(url, key, ca_file=settings.qdrant_ca_file)
        if bundled is not None:
            engine = await bundled
            config = replace(config, socket=engine.socket, outage=engine.outage)
        yield await opened.enter_async_context(connect_qdrant(config))


def opening_qdrant(settings: Settings) -> "AbstractAsyncContextManager[Awaitable[Qdrant]]":
    """Connect to Qdrant in the background; what `open_qdrant` yields has to be awaited."""
    return opening(open_qdrant(settings), name=FOLDER)


@asynccontextmanager
async def open_index(settings: Settings) -> "AsyncIterator[Qdrant | None]":
    """Connect to Qdrant to read from it; yields None if the bundled one has no index yet.

    In that case nothing is started or created.
    """
    if settings.qdrant_url is None and not await asyncio.to_thread(has_index, settings.data_dir):
        await asyncio.to_thread(data_directory, settings.data_dir)
        yield None
        return
    async with open_qdrant(settings) as qdrant:
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
        reading=settings.reading,
        hybrid=settings.hybrid,
        chunk_tokens=settings.chunk_tokens,
        dimensions=settings.dimensions,
        parse_limits=settings.parse_limits,
        embedding_limits=settings.embedding_limits,
    )


@asynccontextmanager
async def open_model(settings: Settings, processes: int) -> "AsyncIterator[ModelPool]":
    """Make the model ready to run in up to ``processes`` embedding processes.

    Raises ModelUnavailable if it cannot be loaded.
    """
    await imported("worker.embedding.pool")
    from worker.embedding.pool import ModelPool

    async with ModelPool(embedding_config(settings, processes)) as model:
        yield model


@asynccontextmanager
async def open_reranker(settings: Settings) -> "AsyncIterator[Reranker]":
    """Yield the reranker, which is made ready by its first use.

    Raises InvalidQuery if none is configured.
    """
    config = settings.reranking
    if config is None:
        raise InvalidQuery(
            "no reranker is configured; set INGESTQ_RERANKER to a cross encoder, or to the URL of "
            "text-embeddings-inference"
        )
    await imported("worker.reranking.reranker")
    from worker.reranking.reranker import Reranker

    reranker = Reranker(config)
    try:
        yield reranker
    finally:
        await uninterrupted(reranker.stop())


def opening_model(settings: Settings) -> "AbstractAsyncContextManager[Awaitable[ModelPool]]":
    """Make the model ready in the background; what `open_model` yields has to be awaited."""
    return opening(open_model(settings, settings.pool_size), name="model")
