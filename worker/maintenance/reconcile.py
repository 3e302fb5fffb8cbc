"""Compares chunks, ledger and sources, page by page. Each difference is a `Finding`.

Workers may be running. A worker writes the ledger entry of a document before and after its
chunks: if an entry is the same before and after its chunks were read, no worker wrote them in
between. Only a worker that was overtaken may still have chunks to delete, and then its job is on
the queue. A file that has changed is not a finding either while a job for it is on the queue.
Everything that looks wrong is read again before it is reported.
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
    Set,
)
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
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
from worker.maintenance.sources import SAME, FileChange, Sources, are_files_unchanged
from worker.pipeline.deletion_guard import (
    MASS_DOCUMENTS,
    MASS_SHARE,
    DeletionGuard,
    VolumeChange,
)
from worker.pipeline.points import Digest, DocumentKey, EntryState, LedgerEntry
from worker.store.inventory import StoredChunk

GROUP_CHUNKS: Final = 10_000
"""Documents are compared in groups that have about so many chunks."""
PAGE_FILES: Final = 256
MAX_CHECKS: Final = 5
"""A document that changes during each of so many checks counts as in work."""


class LedgerReader(Protocol):
    """Reads the ledger; see `worker.store.ledger.QdrantLedger`."""

    def entries(self) -> AsyncIterator[Sequence[LedgerEntry]]: ...

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]: ...


class ChunkReader(Protocol):
    """Reads the chunks; see `worker.store.inventory.Inventory`."""

    def pages(
        self, doc_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[StoredChunk]]: ...


@dataclass
class _DocumentChunks:
    """The chunks of a document: those with the fence of its entry as a digest, others by id."""

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
    """What the comparison needs of Redis: versions, the pending documents, and the dead letters.

    ``dead_letters`` returns, for each document, the one in its dead letter, or None.
    """

    issue_version: Callable[[], Awaitable[int]]
    pending: Callable[[Iterable[DocumentLocation]], Awaitable[PendingDocuments]]
    dead_letters: Callable[[Sequence[Document]], Awaitable[Sequence[Document | None]]]


class Reconciler:
    """Compares once, and counts in ``tally``. Raises what the stores and the queue raise."""

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
        self._guards: dict[Path | None, DeletionGuard] = {}
        self._deletable: dict[Path | None, Set[VolumeChange]] = {}
        self.tally = VerifyCounts()

    async def findings(self) -> AsyncIterator[Sequence[Finding]]:
        """Yield what is wrong with the index and the ledger, page by page; a page may be empty.

        The caller may repair the findings of a page before it asks for the next one.
        """
        async for page in self._unknown_chunks():
            yield page
        async for page in self._documents():
            yield page
        async for page in self._gone_files():
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

    async def _unknown_chunks(self) -> AsyncIterator[Sequence[Finding]]:
        """Yield the chunks of documents that the ledger does not know.

        No worker is writing them, because workers write the ledger first. They are counted before
        any is reported, so that a repair after the ledger was lost does not delete the index.
        """
        tally = self.tally
        async for chunks in self._chunks.pages():
            tally.chunks += len(chunks)
            for chunk in await self._of_unknown_documents(chunks):
                tally.unknown_chunks += 1
                if len(tally.unknown_documents) <= MASS_DOCUMENTS:
                    tally.unknown_documents.add(chunk.key)
            yield ()
        if not tally.unknown_chunks:
            return
        allowed = self._allows(
            f"{tally.unknown_chunks:,} of {tally.chunks:,} chunks belong to documents that the "
            "ledger does not know: it may have been lost",
            len(tally.unknown_documents),
            tally.unknown_chunks > MASS_SHARE * tally.chunks,
        )
        async for chunks in self._chunks.pages():
            yield [
                orphaned(chunk, "the ledger does not know the document", allowed=allowed)
                for chunk in await self._of_unknown_documents(chunks)
            ]

    async def _of_unknown_documents(self, chunks: Sequence[StoredChunk]) -> list[StoredChunk]:
        entries = await self._ledger.look_up(c.key for c in chunks if c.key is not None)
        return [chunk for chunk in chunks if chunk.key not in entries]

    async def _documents(self) -> AsyncIterator[Sequence[Finding]]:
        async for entries in self._ledger.entries():
            self.tally.documents += sum(e.state is not EntryState.DELETED for e in entries)
            for group in _groups(entries):
                yield await self._compare(group)

    async def _compare(self, keys: Sequence[DocumentKey]) -> Sequence[Finding]:
        """Check some documents; those that change during the check are checked again."""
        findings: list[Finding] = []
        for check in range(MAX_CHECKS):
            # Before reading: later changes get a newer version.
            version = await self._queue.issue_version()
            seen = await self._observe(keys)
            if check == 0:
                self.tally.not_visible += sum(
                    one.file.change is FileChange.NOT_VISIBLE for one in seen
                )
                await self._guard([one for one in seen if one.has_file])
            uncertain = [one for one in seen if one.may_be_wrong]
            if not uncertain:
                return findings
            pending = await self._queue.pending([_location(one.entry) for one in uncertain])
            again = await self._ledger.look_up(one.entry.key for one in uncertain)
            stable = [one for one in uncertain if _is_unchanged(one.entry, again)]
            stable = await self._drop_deleted(stable)
            dead = await self._dead_lettered([one for one in stable if one.changed_file], version)
            for one in stable:
                queued = pending.may_change(*_location(one.entry))
                queue = QueueFacts(queued, one.entry.key in dead, version)
                findings += self._count(check_document(one, queue))
            done = {one.entry.key for one in stable}
            keys = [one.entry.key for one in uncertain if one.entry.key not in done]
        self.tally.in_work += len(keys)
        return findings

    def _count(self, assessment: Assessment) -> Sequence[Finding]:
        self.tally.in_work += assessment.in_work
        self.tally.gone += assessment.gone
        self.tally.rejected += assessment.rejected
        return assessment.findings

    async def _observe(self, keys: Sequence[DocumentKey]) -> list[Observation]:
        """Read the entries, then their chunks and files."""
        entries = await self._ledger.look_up(keys)
        found = await self._read_chunks(list(entries.values()))
        files = await asyncio.to_thread(self._sources.check, list(entries.values()))
        return [
            Observation(
                entry=entry,
                chunks=found[key].own,
                complete=not entry.indexed or str(found[key].digest) == entry.chunks_digest,
                others=list(found[key].others.values()),
                file=files.get(key, SAME),
            )
            for key, entry in entries.items()
        ]

    async def _read_chunks(
        self, entries: Sequence[LedgerEntry]
    ) -> Mapping[DocumentKey, "_DocumentChunks"]:
        """Return the chunks of each document; those of unfinished documents are not read."""
        final = {entry.key: entry for entry in entries if not entry.unfinished}
        found = {entry.key: _DocumentChunks() for entry in entries}
        if not final:
            return found
        async for chunks in self._chunks.pages(list({key.doc_id for key in final})):
            for chunk in chunks:
                if chunk.key in final:
                    found[chunk.key].add(chunk, final[chunk.key])
        return found

    async def _drop_deleted(self, seen: Sequence[Observation]) -> list[Observation]:
        """Return ``seen`` without the other chunks that have been deleted since.

        A worker that was overtaken deletes its stale chunks before its job ends. So chunks that are
        still there after the queue was read, without a job on it, will not be deleted any more.
        """
        found = await self._read_chunks([one.entry for one in seen if one.others])

        def still_there(one: Observation) -> list[StoredChunk]:
            now = found[one.entry.key].others if one.others else {}
            return [chunk for chunk in one.others if now.get(chunk.id) == chunk]

        return [replace(one, others=still_there(one)) for one in seen]

    async def _dead_lettered(
        self, changed: Sequence[Observation], version: int
    ) -> frozenset[DocumentKey]:
        """Return the documents whose file is the one that was dead-lettered."""
        documents = [one.document(version) for one in changed]
        before = await self._queue.dead_letters(documents)
        same = await asyncio.to_thread(are_files_unchanged, before, documents)
        return frozenset(compress(map(_key, documents), same))

    async def _gone_files(self) -> AsyncIterator[Sequence[Finding]]:
        """Yield the documents whose files are gone; no remedy if they are too many to delete."""
        if not self.tally.gone:
            return
        self._decide_deletions()
        async for entries in self._ledger.entries():
            version = await self._queue.issue_version()
            gone = await asyncio.to_thread(self._sources.gone, entries)
            if not gone:
                yield ()
                continue
            pending = await self._queue.pending(map(_location, gone))
            again = await self._ledger.look_up(entry.key for entry in gone)
            changes = await asyncio.to_thread(self._sources.volume_changes, gone)
            yield [
                Finding(
                    FindingKind.STALE,
                    entry.key,
                    "the file is gone",
                    delete_document(entry, version)
                    if self._may_delete(entry, changes[entry.key])
                    else None,
                )
                for entry in gone
                if _is_unchanged(entry, again) and not pending.may_change(*_location(entry))
            ]

    async def _guard(self, seen: Sequence[Observation]) -> None:
        """Count documents with a file, for the decision which of those that are gone may go."""
        changes = await asyncio.to_thread(self._sources.volume_changes, [one.entry for one in seen])
        for one in seen:
            guard = self._guards.setdefault(self._sources.root_of(one.entry), DeletionGuard())
            is_gone = one.file.change is FileChange.GONE
            guard.count(changes[one.entry.key], is_gone=is_gone)

    def _decide_deletions(self) -> None:
        """Decide what may be deleted of each root, and add to ``refused`` why the rest may not."""
        for root, guard in self._guards.items():
            is_empty = guard.gone == guard.known
            held = {} if self._allow_mass_delete else guard.held(is_source_empty=is_empty)
            self._deletable[root] = guard.changes - held.keys()
            if held:
                self._refuse(
                    f"{guard.gone_in(held):,} of {guard.known:,} files are gone "
                    f"({'; '.join(sorted(set(held.values())))})"
                )

    def _may_delete(self, entry: LedgerEntry, change: VolumeChange) -> bool:
        """Return whether the decision covers the document; its volume may have changed since."""
        return change in self._deletable.get(self._sources.root_of(entry), ())

    async def _absent(self, documents: Sequence[Document]) -> Sequence[Finding]:
        absent = await self._not_indexed(documents)
        if not absent:
            return ()
        pending = await self._queue.pending((*_key(d), ()) for d in absent)
        absent = await self._not_indexed(absent)
        idle = [d for d in absent if not pending.may_change(*_key(d), ())]
        self.tally.in_work += len(absent) - len(idle)
        before = await self._queue.dead_letters(idle)
        rejected = await asyncio.to_thread(are_files_unchanged, before, idle)
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
        """Return whether so many documents may be deleted; add to ``refused`` if not."""
        if self._allow_mass_delete or documents <= MASS_DOCUMENTS or not is_large_share:
            return True
        self._refuse(what)
        return False

    def _refuse(self, what: str) -> None:
        self.tally.refused.append(f"{what}; they are kept unless you pass --allow-mass-delete")


def _key(document: Document) -> DocumentKey:
    return DocumentKey(document.tenant, document.doc_id)


def _location(entry: LedgerEntry) -> DocumentLocation:
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


def _is_unchanged(seen: LedgerEntry, now: Mapping[DocumentKey, LedgerEntry]) -> bool:
    """Return whether no worker has written the entry since it was ``seen``."""
    entry = now.get(seen.key)
    return entry is not None and (entry.fence, entry.state) == (seen.fence, seen.state)
