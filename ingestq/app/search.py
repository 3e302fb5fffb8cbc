"""Search and document look-up for the API and the scheduler, opened at the first request."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ingestq.app.composition import open_model, open_qdrant
from ingestq.app.on_demand import OnDemand
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
    """Opens Qdrant when it is first needed; see `OnDemand`.

    ``shared`` is a Qdrant that the caller keeps open; then nothing is opened here.
    """

    def __init__(
        self, settings: Settings, closing: AsyncExitStack, shared: "Qdrant | None" = None
    ) -> None:
        self._shared = shared
        self._own = OnDemand(partial(open_qdrant, settings), closing, name="Qdrant")

    async def opened(self) -> "Qdrant":
        """Return an open Qdrant. Raises what `open_qdrant` raises; the next call tries again."""
        # In a thread: the import would block the event loop for too long.
        await asyncio.to_thread(import_module, "worker.store.ledger")
        return await self._own.opened() if self._shared is None else self._shared


class DocumentLookup:
    """Looks up in the ledger what is indexed of a document."""

    def __init__(self, qdrant: QdrantOnDemand) -> None:
        self._qdrant = qdrant

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> "LedgerEntry | None":
        """Return the ledger entry of a document in ``collection``; None if there is none.

        If no document has the id, one counts whose id differs only in Unicode's normal form.
        Raises StoreUnavailable.
        """
        qdrant = await self._qdrant.opened()
        from worker.pipeline.points import DocumentKey, EntryState
        from worker.store.collection import find_collection
        from worker.store.ledger import QdrantLedger

        names = await find_collection(qdrant, collection)
        if names is None:
            return None
        key = DocumentKey(tenant, doc_id)
        ledger = QdrantLedger(qdrant, names.ledger)
        entry = (await ledger.look_up([key])).get(key)
        if doc_id.isascii():
            return entry
        others = await ledger.other_forms(key)
        known = [found for found in (entry, *others) if found is not None]
        return min(known, key=lambda found: found.state is EntryState.DELETED, default=None)


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

        qdrant = await self._qdrant.opened()
        names = await find_collection(qdrant, query.collection)
        if names is None:
            return []
        settings = await query_settings(self._settings, qdrant, names)
        model = await self._loaded(settings)
        return await search(qdrant, names, model, query)

    async def _loaded(self, settings: Settings) -> "ModelPool":
        wanted = settings.model, settings.precision
        async with self._loading:
            if wanted not in self._models:
                loading = open_model(settings, QUERY_PROCESSES)
                self._models[wanted] = await self._closing.enter_async_context(loading)
            return self._models[wanted]
