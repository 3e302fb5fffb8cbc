"""Mends what `worker.reconcile` found wrong: removes chunks itself, and has the rest queued."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.contract import Deletion, Document
from worker.findings import Finding, Remove, Requeue, SendAgain, Withdraw
from worker.inventory import StoredChunk
from worker.points import LedgerEntry


class Ledger(Protocol):
    """See `worker.ledger.QdrantLedger`."""

    async def distrust(self, seen: LedgerEntry) -> bool: ...


class Chunks(Protocol):
    """See `worker.inventory.Inventory`."""

    async def remove(self, chunks: Iterable[StoredChunk]) -> None: ...


@dataclass(frozen=True)
class Mender:
    """``queue`` and ``withdraw`` return when what they are given is on the queue.

    Raises what its neighbours raise; after that, the same comparison finds what is left to be done.
    """

    ledger: Ledger
    chunks: Chunks
    queue: Callable[[Sequence[Document]], Awaitable[None]]
    withdraw: Callable[[Sequence[Deletion]], Awaitable[None]]

    async def mend(self, findings: Sequence[Finding]) -> list[bool]:
        """Do what can be done about ``findings``; True for those that are mended, or will be."""
        await self.chunks.remove(f.remedy.chunk for f in findings if isinstance(f.remedy, Remove))
        mended = await asyncio.gather(*map(self._prepare, findings))
        ready = [f.remedy for f, good in zip(findings, mended, strict=True) if good]
        if documents := [remedy.document for remedy in ready if isinstance(remedy, Requeue)]:
            await self.queue(documents)
        if deletions := [remedy.deletion for remedy in ready if isinstance(remedy, Withdraw)]:
            await self.withdraw(deletions)
        return mended

    async def _prepare(self, finding: Finding) -> bool:
        """Make sure that a worker will really write; whether the finding counts as mended.

        A document that somebody began to write meanwhile is left to them.
        """
        match finding.remedy:
            case None:
                return False
            case SendAgain(entry):
                await self.ledger.distrust(entry)
                return False
            case Requeue(_, LedgerEntry() as entry):
                return await self.ledger.distrust(entry)
        return True
