"""Repairs what `worker.maintenance.reconcile` found: removes chunks itself, and has the rest
queued."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from ingestq.core.documents import Deletion, Document
from worker.maintenance.rules import Delete, Finding, Remedy, Remove, Requeue, SendAgain
from worker.pipeline.points import DocumentKey, LedgerEntry
from worker.store.inventory import StoredChunk

CONFIRMATIONS: Final = 3
"""How often a worker may find a document unchanged while it is being repaired."""


class Ledger(Protocol):
    """See `worker.store.ledger.QdrantLedger`."""

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]: ...

    async def invalidate(self, seen: LedgerEntry) -> bool: ...


class Chunks(Protocol):
    """See `worker.store.inventory.Inventory`."""

    async def remove(self, chunks: Iterable[StoredChunk]) -> None: ...


@dataclass(frozen=True)
class Repairer:
    """``queue`` and ``delete`` return when what they are given is on the queue.

    Raises what its neighbours raise; after that, the same comparison finds what is left to be done.
    """

    ledger: Ledger
    chunks: Chunks
    queue: Callable[[Sequence[Document]], Awaitable[None]]
    delete: Callable[[Sequence[Deletion]], Awaitable[None]]

    async def repair(self, findings: Sequence[Finding]) -> list[bool]:
        """Do what can be done about ``findings``; True for those that are repaired, or will be."""
        await self.chunks.remove(f.remedy.chunk for f in findings if isinstance(f.remedy, Remove))
        remedies = await asyncio.gather(*map(self._prepared, findings))
        if documents := [r.document for r in remedies if isinstance(r, Requeue)]:
            await self.queue(documents)
        if deletions := [r.deletion for r in remedies if isinstance(r, Delete)]:
            await self.delete(deletions)
        return [remedy is not None for remedy in remedies]

    async def _prepared(self, finding: Finding) -> Remedy:
        """What is left to be done, so that a worker will really write; None if nothing can be."""
        match finding.remedy:
            case SendAgain(entry):
                await self._invalidate(entry)
                return None
            case Requeue(document, LedgerEntry() as entry):
                invalid = await self._invalidate(entry)
                if invalid is None:
                    return None
                version = max(document.version, invalid.version)
                return Requeue(msgspec.structs.replace(document, version=version))
            case remedy:
                return remedy

    async def _invalidate(self, entry: LedgerEntry) -> LedgerEntry | None:
        """Return the entry that is invalid now: ``entry``, or one that confirmed it meanwhile.

        None if somebody began to write the document: then it is left to them.
        """
        for _ in range(CONFIRMATIONS):
            if await self.ledger.invalidate(entry):
                return entry
            now = (await self.ledger.look_up([entry.key])).get(entry.key)
            if now is None or not now.indexed or now.content_hash != entry.content_hash:
                return None
            entry = now
        return None
