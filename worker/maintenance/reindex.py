"""Builds a collection beside the live one, catches up with it, and cuts the alias over to it.

The ledger of the live collection says what the new one must hold: `Rebuild.catch_up` goes through
it and copies every document that differs, as often as needed. So writes that arrive meanwhile reach
both collections, and an interrupted rebuild continues where it was. For the *cut-over*, the moment
in which the alias moves to the new collection, a gate keeps workers from claiming jobs of the
collection for some seconds (see `ingestq.broker.queue.gate`): nothing is written while the last
differences are copied, and from then on workers write only to the new collection. Readers of the
alias see one collection or the other, each complete.

An entry may still be unfinished then: its worker died, or the version was rejected while it was
written. No job may be left that would finish it, so the new collection takes what there is. A
deletion is finished, as is a version of which all chunks are stored (``clearing``). A version that
was being written is read again from its source. If that cannot be done, the stored chunks are
copied, which are those of the version before and perhaps some of its own, and the entry stays
``writing``.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final, Protocol

import msgspec

from ingestq.broker.queue.gate import Gate
from ingestq.core.display import Activity, Display
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import (
    CollectionMismatch,
    DocumentRejected,
    HookFailed,
    PageFailed,
    RemoteUnavailable,
    SourceChanged,
)
from ingestq.core.remote import DEFAULT_ACCESS, RemoteAccess
from ingestq.core.results import (
    LISTED_WARNINGS,
    ChunkCounts,
    DocumentWarning,
    JobCounts,
    WarningCounts,
)
from ingestq.core.versions import is_issued
from ingestq.core.web import is_web
from worker.blobs import BlobContents
from worker.maintenance.cut_over import (
    cut_over,
    find_previous,
    keep_for_rebuild,
    remove_incomplete,
)
from worker.pipeline import ingest as pipeline
from worker.pipeline.chunk_writer import ChunkWriter
from worker.pipeline.ingest import Indexed, Outcome, Work
from worker.pipeline.order import placed_after
from worker.pipeline.points import EntryState, LedgerEntry
from worker.pipeline.ports import Model, Ports
from worker.remote.contents import RemoteContents
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, find_collection, make_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint, Storage
from worker.store.search import QueryModel
from worker.text.parts import PreparedDocument

MAX_CHANGES_AT_CUT_OVER: Final = 100
"""So many documents are copied within seconds, while the gate is shut."""
POLL_SECONDS: Final = 0.1
TITLE_AND_SOURCE: Final = ("title", "source")
"""Fields that the metadata of chunks has beside the document's own."""
SAMPLES: Final = 20
SAMPLE_HITS: Final = 10
FOUND_SHARE: Final = 0.9
"""So many of the sampled chunks must be among the first hits of a search for their own text."""


class JobCounter(Protocol):
    """Counts the running jobs; see `ingestq.broker.queue.job_queue.JobQueue`."""

    async def count_jobs(self, collections: Iterable[str]) -> JobCounts: ...


@dataclass(frozen=True)
class GateTimes:
    """How long the gate stays shut while jobs end, and open before the next attempt."""

    closed_seconds: float = 20.0
    open_seconds: float = 60.0


@dataclass(frozen=True)
class StoredCollection:
    """A collection in Qdrant: its chunks and its ledger."""

    names: CollectionNames
    chunks: QdrantStore
    ledger: QdrantLedger

    @classmethod
    def of(
        cls, qdrant: Qdrant, names: CollectionNames, made_with: Fingerprint
    ) -> "StoredCollection":
        chunks = QdrantStore(qdrant, names.chunks, made_with.layout)
        return cls(names, chunks, QdrantLedger(qdrant, names.ledger))


async def make_target(
    qdrant: Qdrant, names: CollectionNames, made_with: Fingerprint, storage: Storage
) -> None:
    """Make the collection that a rebuild fills, as far as it does not exist.

    If it is the previous one, no worker removes it meanwhile. What an interrupted removal has left
    of it is deleted first.
    """
    if await find_previous(qdrant, names.alias) == names:
        await keep_for_rebuild(qdrant, names)
    await remove_incomplete(qdrant, names)
    await make_collection(qdrant, names, made_with, storage)


@dataclass
class PassCounts:
    """The counts of one pass through the ledger of the live collection.

    The new collection should hold ``chunks`` of these ``documents``. ``changed`` ones were copied.
    ``failed`` has the ids of documents that cannot be copied, and the reasons. ``warned`` counts
    the warnings of the documents that were not changed, and ``warnings`` has the first of them.
    """

    documents: int = 0
    chunks: int = 0
    changed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    warned: WarningCounts = field(default_factory=WarningCounts)
    warnings: list[DocumentWarning] = field(default_factory=list)

    def count_warnings(self, entry: LedgerEntry) -> None:
        """Count the warnings of a document of the new collection, and list them if few are."""
        if not entry.warnings:
            return
        known = self.warned
        self.warned = WarningCounts(known.documents + 1, known.warnings + len(entry.warnings))
        listed = entry.warnings[: LISTED_WARNINGS - len(self.warnings)]
        self.warnings += [DocumentWarning(entry.doc_id, warning) for warning in listed]


@dataclass(frozen=True)
class ReindexResult:
    """The cut-over is done: the alias names the new collection, which holds so much.

    ``warned`` counts its warnings, and ``warnings`` has the first of them.
    """

    documents: int
    chunks: int
    warned: WarningCounts = field(default_factory=WarningCounts)
    warnings: Sequence[DocumentWarning] = ()


@dataclass(frozen=True)
class CutoverRefusal:
    """There was no cut-over, for these ``reasons``: the alias names the old collection."""

    reasons: Sequence[str]


DEFAULT_GATE_TIMES: Final = GateTimes()


class Rebuild:
    """Makes ``new`` hold what ``live`` holds, working on up to ``at_once`` documents at a time.

    With ``reuse``, chunks whose text did not change take their vectors from ``live``. The attribute
    ``chunks`` counts the chunks of all passes. ``access`` says how remote sources are reached.
    Raises what `Qdrant` raises.
    """

    def __init__(
        self,
        live: StoredCollection,
        new: StoredCollection,
        model: Model,
        *,
        reuse: bool,
        at_once: int,
        display: Display,
        access: RemoteAccess = DEFAULT_ACCESS,
    ) -> None:
        self.live = live
        self.new = new
        donor = live.chunks if reuse else None
        # Parse processes know the limit.
        contents = RemoteContents(
            BlobContents(), sys.maxsize, access=access, longest_turn_seconds=None
        )
        self._ports = Ports(model, new.chunks, new.ledger, contents, donor)
        self._permits = asyncio.Semaphore(at_once)
        self._display = display
        self._checked = self._documents = 0
        self.chunks = ChunkCounts()

    async def catch_up(self, *, idle: bool = False) -> PassCounts:
        """Copy every document that differs; return the counts of this pass.

        Documents whose entry is unfinished are left for a later pass, because a worker may be
        writing them. If the caller knows that no job runs (``idle``), they are copied as well.
        """
        seen = PassCounts()
        self._checked, self._documents = 0, await self.live.ledger.size()
        self._show()
        async for entries in self.live.ledger.entries():
            known = await self.new.ledger.look_up(entry.key for entry in entries)
            async with asyncio.TaskGroup() as group:
                for entry in entries:
                    await self._permits.acquire()
                    copying = group.create_task(
                        self._catch_up_one(entry, known.get(entry.key), seen, idle)
                    )
                    copying.add_done_callback(lambda _: self._permits.release())
        return seen

    async def _catch_up_one(
        self, entry: LedgerEntry, known: LedgerEntry | None, seen: PassCounts, idle: bool
    ) -> None:
        is_due = idle or not entry.unfinished
        seen.documents += is_due and _end(entry) is not EntryState.DELETED
        if known is not None and (known.indexed or _is_kept(known)):
            seen.chunks += known.chunks
            seen.count_warnings(known)
        if is_due and (known is None or not _is_copy(known, entry)):
            seen.changed += 1
            try:
                outcome = await self._copy(entry, known)
            except (DocumentRejected, SourceChanged) as error:
                seen.failed[entry.doc_id] = str(error)
            else:
                if isinstance(outcome, Indexed):
                    self.chunks += outcome.chunks
        if entry.rejection is not None and (known is None or known.rejection != entry.rejection):
            await self.new.ledger.copy_rejection(entry)
        self._checked += 1
        self._show()

    def _show(self) -> None:
        detail = f"{self.chunks.embedded} chunks embedded, {self.chunks.reused} reused"
        self._display.show(Activity("building", self._checked, self._documents, detail))

    async def _copy(self, entry: LedgerEntry, known: LedgerEntry | None) -> Outcome | None:
        if _end(entry) is EntryState.DELETED:
            tombstone = msgspec.structs.replace(entry, state=EntryState.DELETED, folders=())
            return await pipeline.remove(tombstone, known, self._ports)
        try:
            return await self._copy_version(entry, known)
        except (DocumentRejected, SourceChanged):
            if entry.state is not EntryState.WRITING:
                raise
            return await self._keep(entry)

    async def _copy_version(self, entry: LedgerEntry, known: LedgerEntry | None) -> Outcome | None:
        """Index the version of ``entry`` in the new collection."""
        if known is not None and known.indexed and known.content_hash == entry.content_hash:
            # Only the version is new: a worker found the content unchanged.
            now = msgspec.structs.replace(
                entry,
                state=EntryState.INDEXED,
                chunks=known.chunks,
                chunks_fence=known.chunks_fence,
                chunks_digest=known.chunks_digest,
                warnings=known.warnings,
                enriched_by=known.enriched_by,
            )
            await self.new.ledger.confirm(known, placed_after(now, known))
            return None
        if known is not None and known.state in (EntryState.WRITING, EntryState.CLEARING):
            # A rebuild was interrupted here. It wrote under the same fence as this one.
            await self.new.chunks.delete_stale(msgspec.structs.replace(known, chunks_fence=None))
        async with (
            self._ports.memory.hold(Lane.BULK, entry.document) as share,
            AsyncExitStack() as opened,
        ):
            document, content, prepared = await self._read(entry, opened)
            work = Work(document, known, entry.attempt, copied=entry)
            return await pipeline.replace(
                work, prepared, self._ports, share, lambda done, known: None, content
            )

    async def _keep(self, entry: LedgerEntry) -> Indexed | None:
        """Copy what is stored of a document whose version was being written, and its entry.

        The entry stays as it is, so that the version is written when it is sent again, and that its
        rejection still counts.
        """
        stored = await self.live.chunks.stored(entry.key)
        known = (await self.new.ledger.look_up([entry.key])).get(entry.key)
        begun = placed_after(
            msgspec.structs.replace(entry, chunks=0, chunks_fence=None, chunks_digest=""), known
        )
        if not (await self.new.ledger.begin(begun, known)).ours:
            return None  # another rebuild is running; the next pass looks again
        embedded, kept = 0, msgspec.structs.replace(begun, chunks_fence=begun.fence)
        if stored.content.parts:
            own = {k: v for k, v in stored.metadata.items() if k not in TITLE_AND_SOURCE}
            document = _inline(msgspec.structs.replace(entry, source=stored.source, metadata=own))
            async with self._ports.memory.hold(Lane.BULK, document) as share:
                prepared = await self._ports.model.prepare_stored(
                    Lane.BULK, document, stored.content
                )
                share.charge(len(prepared.first.chunks))
                writer = ChunkWriter(
                    Lane.BULK,
                    document,
                    begun.fence,
                    prepared.title or PurePath(document.source).name,
                    self._ports,
                    lambda done, known: None,
                    known=known is not None,
                    enriched={**stored.metadata, **(prepared.enriched or {})},
                )
                await writer.write(prepared.first)
            embedded = writer.embedded
            kept = msgspec.structs.replace(
                kept, chunks=writer.chunks, chunks_digest=str(writer.digest)
            )
        deleted = await self.new.chunks.delete_stale(kept)
        await self.new.ledger.advance(kept)
        reused = kept.chunks - embedded
        return Indexed(ChunkCounts(embedded=embedded, reused=reused, deleted=deleted))

    async def _read(
        self, entry: LedgerEntry, opened: AsyncExitStack
    ) -> tuple[Document, Document, PreparedDocument]:
        """Read the document from its file or, if that is gone or changed, from its chunks.

        Return it, and what further segments are to be read from as long as ``opened`` is.
        """
        document, unread = entry.document, ""
        if document is not None:
            if document.url is not None:  # messages keep the state that was listed
                document = msgspec.structs.replace(document, file=entry.file)
            try:
                content = await opened.enter_async_context(self._ports.contents.as_file(document))
                prepared = await self._ports.model.prepare(Lane.BULK, content, None)
            except (DocumentRejected, PageFailed, RemoteUnavailable) as error:
                prepared = None
                if isinstance(error, HookFailed):
                    unread = f"it was not read again: {error}"
            if (
                isinstance(prepared, PreparedDocument)
                and prepared.content_hash == entry.content_hash
            ):
                if document.url is not None:
                    file = entry.file if is_web(document.url) else content.file
                    prepared = msgspec.structs.replace(prepared, file=file)
                return document, content, prepared
        if entry.state is EntryState.WRITING:
            raise DocumentRejected("the version that was being written cannot be read")
        stored, prepared = await self._read_stored(entry, unread)
        return stored, stored, prepared

    async def _read_stored(
        self, entry: LedgerEntry, unread: str
    ) -> tuple[Document, PreparedDocument]:
        """Read the document from its chunks; ``unread`` is a warning, if it is not empty."""
        # Those of the version before may still be there.
        fence = entry.chunks_fence if entry.state is EntryState.CLEARING else None
        stored, _, _ = await self.live.chunks.stored(entry.key, fence)
        if entry.chunks and not stored.parts:
            raise DocumentRejected("its source cannot be read, and its chunks are missing")
        document = entry.document or _inline(entry)
        prepared = await self._ports.model.prepare_stored(Lane.BULK, document, stored)
        return document, msgspec.structs.replace(
            prepared,
            content_hash=entry.content_hash,
            bytes_hash=entry.bytes_hash,
            file=entry.file,
            # The stored text lacks what the source lacked.
            warnings=(*entry.warnings, *filter(None, [unread]), *prepared.warnings),
        )

    async def check_count(self, seen: PassCounts) -> CutoverRefusal | None:
        """Refuse the cut-over if the new collection lacks chunks, or has too many."""
        chunks = await self.new.chunks.count()
        if chunks == seen.chunks:
            return None
        return CutoverRefusal([f"it holds {chunks:,} chunks, but should hold {seen.chunks:,}"])

    async def check_search(self, model: QueryModel) -> CutoverRefusal | None:
        """Refuse the cut-over if chunks of the new collection are not found by their own text."""
        chunks = await self.new.chunks.sample(SAMPLES)
        found = 0
        for chunk in chunks:
            query = await model.embed_query(chunk.embedded)
            hits = await self.new.chunks.search(query.dense, SAMPLE_HITS)
            found += any((hit.text, hit.context) == (chunk.body, chunk.context) for hit in hits)
        if found >= FOUND_SHARE * len(chunks):
            return None
        return CutoverRefusal(
            [f"only {found} of {len(chunks)} chunks were found by their own text"]
        )


def _is_copy(known: LedgerEntry, entry: LedgerEntry) -> bool:
    """Return whether ``known`` is what a rebuild makes of ``entry``; their epochs may differ."""
    is_ended = known.state is _end(entry)
    is_kept = entry.state is EntryState.WRITING and _is_kept(known)
    return (is_ended or is_kept) and _place(known) == _place(entry) and not _is_half_done(known)


def _is_half_done(known: LedgerEntry) -> bool:
    """Return whether a rebuild died before it cleared the rejection of a version before."""
    if not known.indexed or known.rejection is None:
        return False
    rejected = known.rejection.version
    return is_issued(rejected) == is_issued(known.version) and rejected <= known.version


def _place(entry: LedgerEntry) -> tuple[int, ...]:
    """Return what orders ``entry`` among other changes of the document."""
    return (entry.version, entry.attempt, entry.queued, entry.own, entry.deleted_at)


def _end(entry: LedgerEntry) -> EntryState:
    """Return the state in which the change that ``entry`` tells of ends."""
    deletes = entry.state in (EntryState.DELETING, EntryState.DELETED)
    return EntryState.DELETED if deletes else EntryState.INDEXED


def _is_kept(known: LedgerEntry) -> bool:
    """Return whether ``known`` is the copy of an entry that stays ``writing``, with its chunks."""
    return known.state is EntryState.WRITING and known.chunks_fence is not None


def _inline(entry: LedgerEntry) -> Document:
    """Return the document without its content. Raises DocumentRejected if it exceeds a limit."""
    try:
        return entry.document_of(text="")
    except ValueError as error:  # an earlier version indexed it, which had no limits
        raise DocumentRejected(f"{error}; delete the document") from error


async def reindex(
    rebuild: Rebuild,
    qdrant: Qdrant,
    queue: JobCounter,
    gate: Gate,
    model: QueryModel,
    gate_times: GateTimes = DEFAULT_GATE_TIMES,
) -> ReindexResult | CutoverRefusal:
    """Build the new collection, and cut over to it once it is complete.

    ``gate`` is the gate of the live collection. It is safe to repeat after any interruption. Raises
    CollectionMismatch if something else moved the alias meanwhile.
    """
    while True:
        seen = await rebuild.catch_up()
        if seen.failed:
            return CutoverRefusal([f"{doc_id}: {reason}" for doc_id, reason in seen.failed.items()])
        if seen.changed > MAX_CHANGES_AT_CUT_OVER:
            continue
        if (refused := await rebuild.check_search(model)) is not None:
            return refused
        async with gate.shut():
            if await _running_jobs_end(queue, rebuild.live.names.alias, gate_times.closed_seconds):
                return await _cut_over(rebuild, qdrant, gate)
        await asyncio.sleep(gate_times.open_seconds)


async def _running_jobs_end(queue: JobCounter, collection: str, seconds: float) -> bool:
    """Return True once no job for ``collection`` runs; False if that takes ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            # Workers in other processes run the jobs: there is no event to wait for.
            while (await queue.count_jobs([collection])).in_flight:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        return False
    return True


async def _cut_over(rebuild: Rebuild, qdrant: Qdrant, gate: Gate) -> ReindexResult | CutoverRefusal:
    """Copy the last differences and move the alias. Call it while no job can run."""
    seen = await rebuild.catch_up(idle=True)
    while seen.changed and not seen.failed:
        seen = await rebuild.catch_up(idle=True)
    if seen.failed:
        return CutoverRefusal([f"{doc_id}: {reason}" for doc_id, reason in seen.failed.items()])
    if (refused := await rebuild.check_count(seen)) is not None:
        return refused
    live, new = rebuild.live.names, rebuild.new.names
    if await find_collection(qdrant, live.alias) != live:
        raise CollectionMismatch(
            f"the alias {live.alias!r} was moved during the rebuild: it no longer names "
            f"{live.chunks!r}; run `ingestq reindex` again"
        )
    # If this process dies before the alias is moved, no worker writes until it is run again.
    await gate.replace_with(new.chunks)
    await cut_over(qdrant, live, new)
    return ReindexResult(seen.documents, seen.chunks, seen.warned, tuple(seen.warnings))
