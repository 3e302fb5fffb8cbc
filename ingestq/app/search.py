"""Search and look-up inside a process whose main work is another: opened at the first request."""

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
    """The settings with which a question is understood as the collection's documents were."""
    from worker.store.collection import stored_fingerprint

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


class QdrantOnDemand:
    """Opens Qdrant for whoever asks.

    The connection to a server is kept until ``closing`` is closed. The local Qdrant is opened for
    each question anew and for one at a time, as only one process may have it open, and workers need
    it, too. One that somebody else keeps open is ``shared``.
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
        """Qdrant, ready to be asked. Raises StoreUnavailable if it does not answer."""
        # On a thread, as importing takes longer than anybody on the event loop should wait.
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
    """Says what the index holds of a document."""

    def __init__(self, qdrant: QdrantOnDemand) -> None:
        self._qdrant = qdrant

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> "LedgerEntry | None":
        """The entry of a document in the ledger of ``collection``; None if it never reached it.

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


PROCESSES: Final = 1
"""Questions are short; a second copy of the model would cost more than it saves."""


class SearchService:
    """Answers questions.

    A model is kept once it is loaded, until ``closing`` is closed. There is a second one when the
    collection was rebuilt with another one.
    """

    def __init__(self, settings: Settings, closing: AsyncExitStack, qdrant: QdrantOnDemand) -> None:
        self._settings = settings
        self._qdrant = qdrant
        self._closing = closing
        self._loading = asyncio.Lock()
        self._models: dict[tuple[str, str], ModelPool] = {}

    async def __call__(self, question: SearchQuery) -> "list[SearchHit]":
        """The answer; nothing if nothing was ever indexed.

        Raises what `worker.store.search.search` raises, ModelUnavailable and StoreUnavailable.
        """
        # On a thread, as importing takes longer than anybody on the event loop should wait.
        await asyncio.to_thread(import_module, "worker.store.search")
        from worker.store.collection import find_collection
        from worker.store.search import search

        async with self._qdrant.opened() as qdrant:
            names = await find_collection(qdrant, question.collection)
            if names is None:
                return []
            settings = await query_settings(self._settings, qdrant, names)
        model = await self._loaded(settings)
        async with self._qdrant.opened() as qdrant:
            return await search(qdrant, names, model, question)

    async def _loaded(self, settings: Settings) -> "ModelPool":
        wanted = settings.model, settings.precision
        async with self._loading:
            if wanted not in self._models:
                opening = open_model(settings, PROCESSES)
                self._models[wanted] = await self._closing.enter_async_context(opening)
            return self._models[wanted]
