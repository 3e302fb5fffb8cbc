"""Compares index, ledger and sources, page by page. Each difference is a `Finding`.

Workers may be at work meanwhile. What they do to a document begins with its ledger entry and ends
with it, so if an entry is the same before and after its chunks were read, nobody worked at them in
between. Only a worker that was overtaken may still have chunks to delete, and then its job is on
the queue. A file that has changed is not wrong either while the queue holds a job for it. Whatever
looks wrong is read once more before it is reported.
"""

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Final, Protocol

from qdrant_client import models

from ingestq.broker.queue.pending import DocumentLocation, PendingDocuments
from ingestq.core.documents import Document
from worker.maintenance.rules import (
    Assessment,
    Finding,
    FindingKind,
    Observation,
    QueueFacts,
    Requeue,
    VerifyCounts,
    check_document,
    delete_document,
    orphaned,
)
from worker.maintenance.sources import SAME, FileChange, Sources, are_same
from worker.pipeline.points import Digest, DocumentKey, EntryState, LedgerEntry
from worker.pipeline.sweep import MASS_DOCUMENTS, MASS_SHARE
from worker.store.inventory import StoredChunk

GROUP_CHUNKS: Final = 10_000
"""Documents are compared together while they have fewer chunks than this."""
PAGE_FILES: Final = 256
LOOKS: Final = 5
"""A document that changes before each of so many looks is being worked at."""


class LedgerReader(Protocol):
    """See `worker.store.ledger.QdrantLedger`."""

    def entries(self) -> AsyncIterator[Sequence[LedgerEntry]]: ...

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]: ...


class ChunkReader(Protocol):
    """See `worker.store.inventory.Inventory`."""

    def pages(
        self, doc_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[StoredChunk]]: ...


@dataclass
class _DocumentChunks:
    """The chunks of a document: those that carry the fence of its entry, and the others by id."""

    own: int = 0
    digest: Digest = field(default_factory=Digest)
    others: dict[models.ExtendedPointId, StoredChunk] = field(default_factory=dict)

    def add(self, chunk: StoredChunk, entry: LedgerEntry) -> None:
        is_own = chunk.fence is not None and chunk.fence == entry.chunks_fence
        if is_own and isinstance(chunk.id, str):
            self.own += 1
            self.digest.add(chunk.id)
        else:
            self.others[chunk.id] = chunk


@dataclass(frozen=True)
class QueueView:
    """What the comparison asks the queue: its time, what waits on it, and what was given up."""

    now: Callable[[], Awaitable[int]]
    waiting: Callable[[Iterable[DocumentLocation]], Awaitable[PendingDocuments]]
    given_up: Callable[[Sequence[Document]], Awaitable[Sequence[Document | None]]]


class Reconciler:
    """Compares once. Raises what the ledger, the chunk store and the queue raise."""

    def __init__(
        self,
        ledger: LedgerReader,
        chunks: ChunkReader,
        queue: QueueView,
        sources: Sources,
        *,
        allow_mass_delete: bool,
    ) -> None:
        self._ledger = ledger
        self._chunks = chunks
        self._queue = queue
        self._sources = sources
        self._allow_mass_delete = allow_mass_delete
        self.tally = VerifyCounts()

    async def findings(self) -> AsyncIterator[Sequence[Finding]]:
        """Yield what is wrong with the index and the ledger, page by page; a page may be empty.

        What is found may be repaired before the next page is asked for.
        """
        async for page in self._strays():
            yield page
        async for page in self._documents():
            yield page
        async for page in self._gone():
            yield page

    async def absent(self, documents: AsyncIterable[Document]) -> AsyncIterator[Sequence[Finding]]:
        """Yield a finding for each of ``documents``, found in folders, that is not in the index."""
        page: list[Document] = []
        async for document in documents:
            page.append(document)
            if len(page) == PAGE_FILES:
                yield await self._absent(page)
                page = []
        if page:
            yield await self._absent(page)

    async def _strays(self) -> AsyncIterator[Sequence[Finding]]:
        """Yield the chunks of documents that the ledger does not know.

        A worker writes the ledger first: nobody is writing these. They are counted before any is
        given out, because a ledger that was lost must not take the index along.
        """
        tally = self.tally
        async for chunks in self._chunks.pages():
            tally.chunks += len(chunks)
            for chunk in await self._unknown(chunks):
                tally.strays += 1
                if len(tally.stray_documents) <= MASS_DOCUMENTS:
                    tally.stray_documents.add(chunk.key)
            yield ()
        if not tally.strays:
            return
        allowed = self._allows(
            f"{tally.strays:,} of {tally.chunks:,} chunks belong to documents that the ledger does "
            "not know: it may have been lost",
            len(tally.stray_documents),
            tally.strays > MASS_SHARE * tally.chunks,
        )
        async for chunks in self._chunks.pages():
            yield [
                orphaned(chunk, "the ledger does not know the document", allowed=allowed)
                for chunk in await self._unknown(chunks)
            ]

    async def _unknown(self, chunks: Sequence[StoredChunk]) -> list[StoredChunk]:
        entries = await self._ledger.look_up(c.key for c in chunks if c.key is not None)
        return [chunk for chunk in chunks if chunk.key not in entries]

    async def _documents(self) -> AsyncIterator[Sequence[Finding]]:
        async for entries in self._ledger.entries():
            self.tally.documents += sum(e.state is not EntryState.DELETED for e in entries)
            for group in _groups(entries):
                yield await self._compare(group)

    async def _compare(self, keys: Sequence[DocumentKey]) -> Sequence[Finding]:
        """Check some documents; those that change meanwhile are checked again."""
        findings: list[Finding] = []
        for looks in range(LOOKS):
            now = await self._queue.now()  # before looking: what changes later is newer
            seen = await self._look_at(keys)
            if looks == 0:
                self.tally.hidden += sum(one.file.change is FileChange.HIDDEN for one in seen)
                self.tally.files += sum(one.has_file for one in seen)
            doubtful = [one for one in seen if one.doubtful]
            if not doubtful:
                return findings
            waiting = await self._queue.waiting([_place(one.entry) for one in doubtful])
            again = await self._ledger.look_up(one.entry.key for one in doubtful)
            stable = [one for one in doubtful if _is_still(one.entry, again)]
            stable = await self._without_passing(stable)
            given_up = await self._given_up([one for one in stable if one.changed_file], now)
            for one in stable:
                queued = waiting.may_change(*_place(one.entry))
                under = QueueFacts(queued, one.entry.key in given_up, now)
                findings += self._count(check_document(one, under))
            done = {one.entry.key for one in stable}
            keys = [one.entry.key for one in doubtful if one.entry.key not in done]
        self.tally.in_work += len(keys)
        return findings

    def _count(self, assessment: Assessment) -> Sequence[Finding]:
        self.tally.in_work += assessment.in_work
        self.tally.gone += assessment.gone
        self.tally.rejected += assessment.rejected
        return assessment.findings

    async def _look_at(self, keys: Sequence[DocumentKey]) -> list[Observation]:
        """Read the entries first, and then the chunks and files that they stand for."""
        entries = await self._ledger.look_up(keys)
        held = await self._held(list(entries.values()))
        files = await asyncio.to_thread(self._sources.check, list(entries.values()))
        return [
            Observation(
                entry=entry,
                chunks=held[key].own,
                complete=not entry.indexed or str(held[key].digest) == entry.chunks_digest,
                others=list(held[key].others.values()),
                file=files.get(key, SAME),
            )
            for key, entry in entries.items()
        ]

    async def _held(
        self, entries: Sequence[LedgerEntry]
    ) -> Mapping[DocumentKey, "_DocumentChunks"]:
        """Return the chunks there are of each document; none of those that are unfinished."""
        final = {entry.key: entry for entry in entries if not entry.unfinished}
        held = {entry.key: _DocumentChunks() for entry in entries}
        if not final:
            return held
        async for chunks in self._chunks.pages(list({key.doc_id for key in final})):
            for chunk in chunks:
                if chunk.key in final:
                    held[chunk.key].add(chunk, final[chunk.key])
        return held

    async def _without_passing(self, seen: Sequence[Observation]) -> list[Observation]:
        """Return ``seen`` without those other chunks that were deleted meanwhile.

        A worker that was overtaken deletes what is stale before its job ends. So what is still
        there after a look at the queue, and has no job on it, is nobody's any more.
        """
        held = await self._held([one.entry for one in seen if one.others])

        def still_there(one: Observation) -> list[StoredChunk]:
            now = held[one.entry.key].others if one.others else {}
            return [chunk for chunk in one.others if now.get(chunk.id) == chunk]

        return [replace(one, others=still_there(one)) for one in seen]

    async def _given_up(self, changed: Sequence[Observation], now: int) -> frozenset[DocumentKey]:
        """Return those whose path holds just what is among the dead letters."""
        documents = [one.document(now) for one in changed]
        before = await self._queue.given_up(documents)
        same = await asyncio.to_thread(are_same, before, documents)
        return frozenset(compress(map(_key, documents), same))

    async def _gone(self) -> AsyncIterator[Sequence[Finding]]:
        """Yield the documents whose files are gone, unless those are too many to delete unasked."""
        tally = self.tally
        if not tally.gone:
            return
        text = f"{tally.gone:,} of {tally.files:,} files are gone"
        allowed = self._allows(text, tally.gone, tally.gone > MASS_SHARE * tally.files)
        async for entries in self._ledger.entries():
            now = await self._queue.now()
            gone = await asyncio.to_thread(self._sources.gone, entries)
            if not gone:
                yield ()
                continue
            waiting = await self._queue.waiting(map(_place, gone))
            again = await self._ledger.look_up(entry.key for entry in gone)
            yield [
                Finding(
                    FindingKind.STALE,
                    entry.key,
                    "the file is gone",
                    delete_document(entry, now) if allowed else None,
                )
                for entry in gone
                if _is_still(entry, again) and not waiting.may_change(*_place(entry))
            ]

    async def _absent(self, documents: Sequence[Document]) -> Sequence[Finding]:
        lacking = await self._not_indexed(documents)
        if not lacking:
            return ()
        waiting = await self._queue.waiting((*_key(d), ()) for d in lacking)
        lacking = await self._not_indexed(lacking)
        idle = [d for d in lacking if not waiting.may_change(*_key(d), ())]
        self.tally.in_work += len(lacking) - len(idle)
        before = await self._queue.given_up(idle)
        rejected = await asyncio.to_thread(are_same, before, idle)
        self.tally.rejected += sum(rejected)
        reason = "the file is not in the index"
        return [
            Finding(FindingKind.MISSING, _key(document), reason, Requeue(document))
            for document, is_rejected in zip(idle, rejected, strict=True)
            if not is_rejected
        ]

    async def _not_indexed(self, documents: Sequence[Document]) -> list[Document]:
        entries = await self._ledger.look_up(map(_key, documents))
        return [
            document
            for document in documents
            if (entry := entries.get(_key(document))) is None
            or (entry.state is EntryState.DELETED and entry.version <= document.version)
        ]

    def _allows(self, what: str, documents: int, is_large_share: bool) -> bool:
        """Return whether so much may be deleted; note the reason if not."""
        if self._allow_mass_delete or documents <= MASS_DOCUMENTS or not is_large_share:
            return True
        self.tally.refused.append(f"{what}; they are kept unless you pass --allow-mass-delete")
        return False


def _key(document: Document) -> DocumentKey:
    return DocumentKey(document.tenant, document.doc_id)


def _place(entry: LedgerEntry) -> DocumentLocation:
    return entry.tenant, entry.doc_id, entry.folders


def _groups(entries: Sequence[LedgerEntry]) -> Iterator[list[DocumentKey]]:
    group: list[DocumentKey] = []
    chunks = 0
    for entry in entries:
        if group and chunks + entry.chunks > GROUP_CHUNKS:
            yield group
            group, chunks = [], 0
        group.append(entry.key)
        chunks += entry.chunks
    if group:
        yield group


def _is_still(seen: LedgerEntry, now: Mapping[DocumentKey, LedgerEntry]) -> bool:
    """Return whether nobody began or ended anything since the entry was ``seen``."""
    entry = now.get(seen.key)
    return entry is not None and (entry.fence, entry.state) == (seen.fence, seen.state)
