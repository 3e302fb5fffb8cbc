"""Counts what collections hold, and finds documents with warnings, and stale ones."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from importlib import import_module
from typing import TYPE_CHECKING, Final, TypeVar

from ingestq.app.search import QdrantOnDemand
from ingestq.core.errors import IngestqError, StoreRejected
from ingestq.core.outages import note_failure
from ingestq.core.results import CollectionCounts, IndexOverview, StaleDocument, WarnedDocument
from ingestq.core.tokens import UNLIMITED, Principal

if TYPE_CHECKING:
    from worker.store.client import Qdrant

T = TypeVar("T")

READ_SECONDS: Final = 3.0
"""Time limit for Qdrant: whoever watches the queue must not wait for it."""


async def count_collection(
    qdrant: "Qdrant | None", name: str, tenant: str | None = None
) -> CollectionCounts:
    """Count what the collection ``name`` holds, of ``tenant`` or of all; nothing without an index.

    Raises what ``qdrant`` raises.
    """
    nothing = CollectionCounts(name, documents=0, chunks=0, warned=0, stale=0)
    if qdrant is None:
        return nothing
    from worker.store.chunks import QdrantStore
    from worker.store.collection import find_collection
    from worker.store.ledger import QdrantLedger

    names = await find_collection(qdrant, name)
    if names is None:
        return nothing
    ledger = QdrantLedger(qdrant, names.ledger)
    warned: int | None
    stale: int | None
    documents = await ledger.count(tenant)
    chunks = await QdrantStore(qdrant, names.chunks).count_of(tenant)
    try:
        warned, stale = await ledger.count_warned(tenant), await ledger.count_stale(tenant)
    except StoreRejected:  # strict mode: an earlier version made the ledger, without the indexes
        warned = stale = None
    return CollectionCounts(name, documents, chunks, warned, stale)


async def warned_documents(
    qdrant: "Qdrant", name: str, tenant: str | None = None
) -> AsyncGenerator[WarnedDocument]:
    """Yield the documents with warnings of the collection ``name``, in no particular order.

    Those of ``tenant``, or of all.
    """
    from worker.store.collection import find_collection
    from worker.store.ledger import QdrantLedger

    names = await find_collection(qdrant, name)
    if names is not None:
        async for page in QdrantLedger(qdrant, names.ledger).warned(tenant):
            for document in page:
                yield document


async def stale_documents(
    qdrant: "Qdrant", name: str, tenant: str | None = None
) -> AsyncGenerator[StaleDocument]:
    """Yield the stale documents of the collection ``name``, in no particular order.

    Those of ``tenant``, or of all.
    """
    from worker.store.collection import find_collection
    from worker.store.ledger import QdrantLedger

    names = await find_collection(qdrant, name)
    if names is not None:
        async for page in QdrantLedger(qdrant, names.ledger).stale(tenant):
            for document in page:
                yield document


class IndexReader:
    """Counts what ``collections`` hold, for a server that is asked all the time."""

    def __init__(self, qdrant: QdrantOnDemand, collections: Sequence[str]) -> None:
        self._qdrant = qdrant
        self._collections = collections

    async def __call__(self, listed: int = 0, principal: Principal = UNLIMITED) -> IndexOverview:
        """Count each collection, and list up to ``listed`` of its documents of each kind.

        These are documents with warnings, and stale ones, as far as they exist for ``principal``.
        There are no numbers if Qdrant cannot be asked, or does not answer within `READ_SECONDS`.
        """
        names = [
            name
            for name in self._collections
            if principal.collections is None or name in principal.collections
        ]
        unknown = IndexOverview([CollectionCounts(name) for name in names])
        # In a thread: the import would block the event loop for too long.
        await asyncio.to_thread(import_module, "worker.store.chunks")
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._read(
                    await self._qdrant.opened(), names, principal.tenant, listed
                )
        except TimeoutError:
            return unknown
        except IngestqError as error:
            note_failure(error)
            return unknown

    async def _read(
        self, qdrant: "Qdrant", names: Sequence[str], tenant: str | None, listed: int
    ) -> IndexOverview:
        counts = [await count_collection(qdrant, name, tenant) for name in names]
        warned, stale = {}, {}
        for found in counts if listed else ():
            if found.warned:
                async with aclosing(warned_documents(qdrant, found.name, tenant)) as documents:
                    warned[found.name] = await _first_of(documents, listed)
            if found.stale:
                async with aclosing(stale_documents(qdrant, found.name, tenant)) as outdated:
                    stale[found.name] = await _first_of(outdated, listed)
        return IndexOverview(counts, warned, stale)


async def _first_of(documents: AsyncIterator[T], limit: int) -> list[T]:
    """Return the first ``limit`` of ``documents``, which is at least 1."""
    found: list[T] = []
    async for document in documents:
        found.append(document)
        if len(found) == limit:
            break
    return found
