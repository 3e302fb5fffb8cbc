"""What is indexed, at which version: one point without a vector a document, in Qdrant itself.

The ledger stands beside the chunks rather than in Redis, so losing Redis loses no knowledge of
the index. An entry is written twice: as ``writing`` before the first chunk, and as ``indexed``
when the last one is durable and the stale ones are gone. Whoever finds ``writing`` knows that
there may be chunks of a half-written version, and looks for them.
"""

import msgspec
from qdrant_client import models

from worker.points import LedgerEntry, ledger_id
from worker.qdrant import Qdrant, applied


class QdrantLedger:
    """The ledger in the collection ``name``."""

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self._qdrant = qdrant
        self._name = name

    async def look_up(self, tenant: str, doc_id: str) -> LedgerEntry | None:
        """The document's entry, or None if it never reached the index."""
        records = await self._qdrant.ask(
            lambda client: client.retrieve(self._name, [ledger_id(tenant, doc_id)])
        )
        return msgspec.convert(records[0].payload, LedgerEntry) if records else None

    async def write(self, entry: LedgerEntry) -> None:
        """Replace the document's entry; durable on return."""
        point = models.PointStruct(
            id=ledger_id(entry.tenant, entry.doc_id),
            vector={},
            payload=msgspec.structs.asdict(entry),
        )
        await self._qdrant.ask(
            applied(lambda client: client.upsert(self._name, [point], wait=True))
        )

    async def count(self) -> int:
        """How many documents the index knows of."""
        return (await self._qdrant.ask(lambda client: client.count(self._name))).count
