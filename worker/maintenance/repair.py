"""Repairs the findings of `worker.maintenance.reconcile`: deletes chunks, and queues the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from ingestq.core.documents import Deletion, Document
from worker.maintenance.rules import (
    DeleteDocument,
    Finding,
    Remedy,
    RemoveChunk,
    Requeue,
    RequeueDeadLetter,
    SubmitAgain,
)
from worker.pipeline.points import DocumentKey, LedgerEntry
from worker.store.inventory import StoredChunk

CONFIRMATIONS: Final = 3
"""So many times a worker may confirm an entry (content unchanged) while it is being invalidated."""


class LedgerInvalidator(Protocol):
    """See `worker.store.ledger.QdrantLedger`."""

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]: ...

    async def invalidate(self, seen: LedgerEntry) -> bool: ...


class ChunkRemover(Protocol):
    """See `worker.store.inventory.Inventory`."""

    async def remove(self, chunks: Iterable[StoredChunk]) -> None: ...


@dataclass(frozen=True)
class Repairer:
    """Repairs findings.

    ``queue`` and ``delete`` put documents and deletions on the queue; ``requeue`` does so with the
    dead letter of a document, and returns False if there is none. Raises what they and the stores
    raise; after that, a new comparison finds what is left to repair.
    """

    ledger: LedgerInvalidator
    chunks: ChunkRemover
    queue: Callable[[Sequence[Document]], Awaitable[None]]
    delete: Callable[[Sequence[Deletion]], Awaitable[None]]
    requeue: Callable[[DocumentKey], Awaitable[bool]]

    async def repair(self, findings: Sequence[Finding]) -> list[bool]:
        """Repair ``findings``; return for each whether it is repaired, or queued to be."""
        await self.chunks.remove(
            f.remedy.chunk for f in findings if isinstance(f.remedy, RemoveChunk)
        )
        remedies = await asyncio.gather(*map(self._next_step, findings))
        if documents := [r.document for r in remedies if isinstance(r, Requeue)]:
            await self.queue(documents)
        if deletions := [r.deletion for r in remedies if isinstance(r, DeleteDocument)]:
            await self.delete(deletions)
        return [remedy is not None for remedy in remedies]

    async def _next_step(self, finding: Finding) -> Remedy:
        """Return the remedy that is left to carry out; None if there is none.

        The ledger entry of an indexed document is invalidated first, because a worker would find
        it unchanged otherwise.
        """
        match finding.remedy:
            case SubmitAgain(entry):
                await self._invalidate(entry)
                return None
            case Requeue(document, LedgerEntry() as entry):
                invalidated = await self._invalidate(entry)
                if invalidated is None:
                    return None
                version = max(document.version, invalidated.version)
                return Requeue(msgspec.structs.replace(document, version=version))
            case RequeueDeadLetter(key) as remedy:
                return remedy if await self.requeue(key) else None
            case remedy:
                return remedy

    async def _invalidate(self, entry: LedgerEntry) -> LedgerEntry | None:
        """Invalidate ``entry``, or the one that confirmed it meanwhile; return that one.

        Returns None if a worker has begun to write the document, which then needs no repair.
        """
        for _ in range(CONFIRMATIONS):
            if await self.ledger.invalidate(entry):
                return entry
            now = (await self.ledger.look_up([entry.key])).get(entry.key)
            if now is None or not now.indexed or now.content_hash != entry.content_hash:
                return None
            entry = now
        return None
