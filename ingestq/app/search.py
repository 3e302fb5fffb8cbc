"""Search and document look-up for the API and the scheduler, opened at the first request."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ingestq.app.composition import open_model, open_qdrant, open_reranker
from ingestq.app.on_demand import OnDemand
from ingestq.app.settings import Settings
from ingestq.app.settings_tables import HooksTable
from ingestq.core.errors import RerankerUnavailable
from ingestq.core.search_query import SearchQuery, SearchResult

if TYPE_CHECKING:
    from worker.embedding.pool import ModelPool
    from worker.pipeline.points import LedgerEntry, SearchHit
    from worker.reranking.reranker import Ranked, Reranker
    from worker.store.client import Qdrant
    from worker.store.collection import CollectionNames


async def query_settings(
    settings: Settings, qdrant: "Qdrant", names: "CollectionNames"
) -> Settings:
    """Return ``settings`` with the model that the collection was built with, as it was used.

    A search runs no hooks.
    """
    from worker.store.collection import stored_fingerprint

    built_with = await stored_fingerprint(qdrant, names)
    settings = settings.model_copy(update={"hooks": HooksTable()})
    if built_with is None:
        return settings
    return settings.model_copy(
        update={
            "model": built_with.model,
            "precision": built_with.precision,
            "chunk_tokens": None,
            "dimensions": built_with.dimensions,
        }
    )


def is_reranked(query: SearchQuery, settings: Settings) -> bool:
    """Return whether the hits of ``query`` are to be reranked."""
    return settings.rerank if query.rerank is None else query.rerank


class SearchRanking:
    """Ranks the hits of one search with ``reranker``; see `worker.store.chunks.Ranking`.

    ``warning`` says why they were not ranked.
    """

    def __init__(self, reranker: "Reranker", query: str) -> None:
        self.candidates = reranker.candidates
        self.warning: str | None = None
        self._reranker = reranker
        self._query = query

    async def __call__(self, texts: Sequence[str]) -> "list[Ranked] | None":
        """Return the order of ``texts``; None if the reranker is away or too slow."""
        try:
            return await self._reranker.rank(self._query, texts)
        except RerankerUnavailable as error:
            self.warning = f"the hits are not reranked: {error}"
            return None

    def result(self, hits: "Sequence[SearchHit]") -> "SearchResult[SearchHit]":
        """Return the result of the search that found ``hits``."""
        if self.warning is None:
            return SearchResult(hits, reranked=True)
        return SearchResult(hits, warnings=(self.warning,))


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
    rebuilt with another model, precision or dimension; meanwhile, searches with the others go on.
    """

    def __init__(self, settings: Settings, closing: AsyncExitStack, qdrant: QdrantOnDemand) -> None:
        self._settings = settings
        self._qdrant = qdrant
        self._closing = closing
        self._opening = asyncio.Lock()
        self._loading: defaultdict[tuple[str, str, int | None], asyncio.Lock]
        self._loading = defaultdict(asyncio.Lock)
        self._models: dict[tuple[str, str, int | None], ModelPool] = {}
        self._reranker: Reranker | None = None

    async def __call__(self, query: SearchQuery) -> "SearchResult[SearchHit]":
        """Return the hits, best first; none if the collection does not exist.

        Raises InvalidQuery if they are to be reranked and no reranker is configured, what
        `worker.store.search.search` raises, ModelUnavailable and StoreUnavailable.
        """
        reranker = await self._opened_reranker() if is_reranked(query, self._settings) else None
        # In a thread: the import would block the event loop for too long.
        await asyncio.to_thread(import_module, "worker.store.search")
        from worker.store.collection import find_collection
        from worker.store.search import search

        qdrant = await self._qdrant.opened()
        names = await find_collection(qdrant, query.collection)
        if names is None:
            return SearchResult()
        settings = await query_settings(self._settings, qdrant, names)
        model = await self._loaded(settings)
        if reranker is None:
            return SearchResult(await search(qdrant, names, model, query))
        ranking = SearchRanking(reranker, query.text)
        return ranking.result(await search(qdrant, names, model, query, ranking=ranking))

    async def _opened_reranker(self) -> "Reranker":
        async with self._opening:
            if self._reranker is None:
                reranker = open_reranker(self._settings)
                self._reranker = await self._closing.enter_async_context(reranker)
            return self._reranker

    async def _loaded(self, settings: Settings) -> "ModelPool":
        wanted = settings.model, settings.precision, settings.dimensions
        if wanted in self._models:
            return self._models[wanted]
        async with self._loading[wanted]:
            if wanted not in self._models:
                loading = open_model(settings, QUERY_PROCESSES)
                self._models[wanted] = await self._closing.enter_async_context(loading)
            return self._models[wanted]
