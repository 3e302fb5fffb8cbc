"""Looks up single documents, for a process that is there for something else."""

from typing import TYPE_CHECKING

from ingestq.on_demand import QdrantOnDemand

if TYPE_CHECKING:
    from worker.points import LedgerEntry


class Lookup:
    """Says what the index holds of a document."""

    def __init__(self, qdrant: QdrantOnDemand) -> None:
        self._qdrant = qdrant

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> "LedgerEntry | None":
        """The entry of a document in the ledger of ``collection``; None if it never reached it.

        Raises StoreUnavailable.
        """
        async with self._qdrant.opened() as qdrant:
            from worker.collection import find_collection
            from worker.ledger import QdrantLedger
            from worker.points import DocumentKey

            names = await find_collection(qdrant, collection)
            if names is None:
                return None
            key = DocumentKey(tenant, doc_id)
            return (await QdrantLedger(qdrant, names.ledger).look_up([key])).get(key)
