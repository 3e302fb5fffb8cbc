"""Search and document look-up for the API and the scheduler, opened at the first request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ingestq.app.composition import open_model, open_qdrant
from ingestq.app.settings import Settings
from ingestq.core.search_query import SearchQuery

if TYPE_CHECKING:
    from worker.embedding.pool import ModelPool
    from worker.pipeline.points import LedgerEntry, SearchHit
    from worker.store.client import Qdrant
    from worker.store.collection import CollectionNames


async def query_settings(
    settings: Settings, qdrant: "Qdrant", names: "CollectionNames"
) -> Settings:
    """Return ``settings`` with the model and precision that the collection was built with."""
    from worker.store.collection import stored_fingerprint

    built_with = await stored_fingerprint(qdrant, names)
    if built_with is None:
        return settings
    return settings.model_copy(
        update={
            "model": built_with.model,
            "precision": built_with.precision,
            "chunk_tokens": None,
        }
    )


class QdrantOnDemand:
    """Opens Qdrant when it is first needed.

    The connection to a server is kept until ``closing`` is closed. The local Qdrant is opened again
    for each request, one at a time: only one process can have it open, and workers need it, too.
    ``shared`` is a Qdrant that the caller keeps open; then nothing is opened here.
    """

    def __init__(
        self, settings: Settings, closing: AsyncExitStack, shared: "Qdrant | None" = None
    ) -> None:
        self._settings = settings
        self._closing = closing
        self._turn = asyncio.Lock()
        self._open: Qdrant | None = shared

    @asynccontextmanager
    async def opened(self) -> "AsyncIterator[Qdrant]":
        """Yield an open Qdrant. Raises StoreUnavailable if it does not answer."""
        # In a thread: the import would block the event loop for too long.
        await asyncio.to_thread(import_module, "worker.store.ledger")
        if self._open is None and self._settings.qdrant_url is None:
            async with self._turn, open_qdrant(self._settings) as local:
                yield local
            return
        async with self._turn:
            if self._open is None:
                opening = open_qdrant(self._settings)
                self._open = await self._closing.enter_async_context(opening)
        yield self._open


class DocumentLookup:
    """Looks up in the ledger what is indexed of a document."""

    def __init__(self, qdrant: QdrantOnDemand) -> None:
        self._qdrant = qdrant

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> "LedgerEntry | None":
        """Return the ledger entry of a document in ``collection``; None if there is none.

        Raises StoreUnavailable.
        """
        async with self._qdrant.opened() as qdrant:
            from worker.pipeline.points import DocumentKey
            from worker.store.collection import find_collection
            from worker.store.ledger import QdrantLedger

            names = await find_collection(qdrant, collection)
            if names is None:
                return None
            key = DocumentKey(tenant, doc_id)
            return (await QdrantLedger(qdrant, names.ledger).look_up([key])).get(key)


QUERY_PROCESSES: Final = 1
"""Queries are short; a second copy of the model would cost more than it saves."""


class SearchService:
    """Searches collections.

    A model stays loaded until ``closing`` is closed. A second one is loaded if a collection was
    rebuilt with another model or precision.
    """

    def __init__(self, settings: Settings, closing: AsyncExitStack, qdrant: QdrantOnDemand) -> None:
        self._settings = settings
        self._qdrant = qdrant
        self._closing = closing
        self._loading = asyncio.Lock()
        self._models: dict[tuple[str, str], ModelPool] = {}

    async def __call__(self, query: SearchQuery) -> "list[SearchHit]":
        """Return the hits, best first; none if the collection does not exist.

        Raises what `worker.store.search.search` raises, ModelUnavailable and StoreUnavailable.
        """
        # In a thread: the import would block the event loop for too long.
        await asyncio.to_thread(import_module, "worker.store.search")
        from worker.store.collection import find_collection
        from worker.store.search import search

        async with self._qdrant.opened() as qdrant:
            names = await find_collection(qdrant, query.collection)
            if names is None:
                return []
            settings = await query_settings(self._settings, qdrant, names)
        model = await self._loaded(settings)
        async with self._qdrant.opened() as qdrant:
            return await search(qdrant, names, model, query)

    async def _loaded(self, settings: Settings) -> "ModelPool":
        wanted = settings.model, settings.precision
        async with self._loading:
            if wanted not in self._models:
                opening = open_model(settings, QUERY_PROCESSES)
                self._models[wanted] = await self._closing.enter_async_context(opening)
            return self._models[wanted]
