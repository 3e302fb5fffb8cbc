"""Builds a collection beside the live one, keeps it up to date, and cuts the alias over to it.

The ledger of the live collection says what has to be in the new one: `Rebuild.catch_up` goes
through it and brings over whatever differs, as often as it takes. So writes that arrive meanwhile
reach both, and a rebuild that was interrupted goes on where it was. For the cut-over the jobs of
the collection are kept from workers for some seconds (see `ingestq.broker.queue.gate`): nothing is
written while the last differences are brought over, and from then on workers write to the new
collection only. Readers of the alias see one collection or the other, each complete.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from ingestq.broker.queue.gate import Gate
from ingestq.core.display import Activity, Display
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import CollectionMismatch, DocumentRejected, SourceChanged
from ingestq.core.results import ChunkCounts, JobCounts
from worker.blobs import BlobContents
from worker.maintenance.cut_over import cut_over
from worker.pipeline import ingest as pipeline
from worker.pipeline.ingest import Indexed, Outcome, Work
from worker.pipeline.points import EntryState, LedgerEntry
from worker.pipeline.ports import Model, Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, find_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint
from worker.store.search import QueryModel
from worker.text.parts import PreparedDocument

PLAIN_TEXT: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
FEW_CHANGES: Final = 100
"""So many documents are brought over within seconds: the queue may be closed for them."""
POLL_SECONDS: Final = 0.1
SAMPLES: Final = 20
SAMPLE_HITS: Final = 10
FOUND_SHARE: Final = 0.9
"""Of chunks that are searched for by their own text, so many are among the first hits."""


class JobCounter(Protocol):
    """Tells how many jobs run; see `ingestq.broker.queue.job_queue.JobQueue`."""

    async def count_jobs(self, collections: Iterable[str]) -> JobCounts: ...


@dataclass(frozen=True)
class Patience:
    """How long the queue stays closed for the jobs that run to end, before it opens for a while."""

    closed_seconds: float = 20.0
    open_seconds: float = 60.0


@dataclass(frozen=True)
class Side:
    """A collection with its ledger."""

    names: CollectionNames
    chunks: QdrantStore
    ledger: QdrantLedger

    @classmethod
    def of(cls, qdrant: Qdrant, names: CollectionNames, made_with: Fingerprint) -> "Side":
        chunks = QdrantStore(qdrant, names.chunks, made_with.vector_name)
        return cls(names, chunks, QdrantLedger(qdrant, names.ledger))


@dataclass
class Pass:
    """One way through the ledger of the live collection.

    ``documents`` are indexed there, and ``chunks`` is what the new collection should have of them.
    ``changed`` documents had to be brought over, ``unsettled`` ones are being written at the
    moment. ``failed`` are ids with the reason why they cannot be brought over.
    """

    documents: int = 0
    chunks: int = 0
    changed: int = 0
    unsettled: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReindexResult:
    """What a reindex did: the alias now stands for the new collection."""

    documents: int
    chunks: int


@dataclass(frozen=True)
class CutoverRefusal:
    """Why there was no cut-over: the alias stands for the old collection as before."""

    reasons: Sequence[str]


DEFAULT_PATIENCE: Final = Patience()


class Rebuild:
    """Makes ``new`` hold what ``live`` holds, with up to ``at_once`` documents in work.

    ``reuse`` says that vectors of ``live`` are as good as new ones. ``chunks`` counts what was done
    to chunks in all passes. Raises what `Qdrant` raises.
    """

    def __init__(
        self,
        live: Side,
        new: Side,
        model: Model,
        *,
        reuse: bool,
        at_once: int,
        display: Display,
    ) -> None:
        self.live = live
        self.new = new
        donor = live.chunks if reuse else None
        self._ports = Ports(model, new.chunks, new.ledger, BlobContents(), donor)
        self._permits = asyncio.Semaphore(at_once)
        self._display = display
        self._looked_at = self._documents = 0
        self.chunks = ChunkCounts()

    async def catch_up(self) -> Pass:
        """Bring over every document that differs."""
        seen = Pass()
        self._looked_at, self._documents = 0, await self.live.ledger.size()
        self._show()
        async for entries in self.live.ledger.entries():
            known = await self.new.ledger.look_up(entry.key for entry in entries)
            async with asyncio.TaskGroup() as group:
                for entry in entries:
                    await self._permits.acquire()
                    bringing = group.create_task(self._look_at(entry, known.get(entry.key), seen))
                    bringing.add_done_callback(lambda _: self._permits.release())
        return seen

    async def _look_at(self, entry: LedgerEntry, known: LedgerEntry | None, seen: Pass) -> None:
        seen.documents += entry.indexed
        if known is not None and known.indexed:
            seen.chunks += known.chunks
        if entry.unfinished:
            seen.unsettled += 1
        elif known is None or (known.fence, known.state) != (entry.fence, entry.state):
            seen.changed += 1
            try:
                outcome = await self._bring_over(entry, known)
            except (DocumentRejected, SourceChanged) as error:
                seen.failed[entry.doc_id] = str(error)
            else:
                if isinstance(outcome, Indexed):
                    self.chunks += outcome.chunks
        self._looked_at += 1
        self._show()

    def _show(self) -> None:
        detail = f"{self.chunks.embedded} chunks embedded, {self.chunks.reused} reused"
        self._display.show(Activity("building", self._looked_at, self._documents, detail))

    async def _bring_over(self, entry: LedgerEntry, known: LedgerEntry | None) -> Outcome | None:
        if entry.state is EntryState.DELETED:
            return await pipeline.remove(entry, self._ports)
        if known is not None and known.indexed and known.content_hash == entry.content_hash:
            # Nothing but the version is new: somebody looked, and found it unchanged.
            now = msgspec.structs.replace(
                entry,
                chunks=known.chunks,
                chunks_fence=known.chunks_fence,
                chunks_digest=known.chunks_digest,
            )
            await self.new.ledger.confirm(known, now)
            return None
        if known is not None and known.state in (EntryState.WRITING, EntryState.CLEARING):
            # A rebuild was interrupted here. It wrote under the same fence as this one does.
            await self.new.chunks.delete_stale(msgspec.structs.replace(known, chunks_fence=None))
        await self._ports.memory.admit(Lane.BULK)
        document, prepared = await self._read(entry)
        work = Work(document, known, entry.attempt)
        return await pipeline.replace(
            work, prepared, self._ports, lambda done, known: None, document
        )

    async def _read(self, entry: LedgerEntry) -> tuple[Document, PreparedDocument]:
        """Read the document from its source or, if that is gone or has changed, from its chunks."""
        if entry.document is not None:
            try:
                prepared = await self._ports.model.prepare(Lane.BULK, entry.document, None)
            except DocumentRejected:
                prepared = None
            if (
                isinstance(prepared, PreparedDocument)
                and prepared.content_hash == entry.content_hash
            ):
                return entry.document, prepared
        return await self._read_stored(entry)

    async def _read_stored(self, entry: LedgerEntry) -> tuple[Document, PreparedDocument]:
        stored = await self.live.chunks.stored_text(entry.key)
        plain = entry.media_type in (None, PLAIN_TEXT)
        document = Document(
            doc_id=entry.doc_id,
            version=entry.version,
            source=entry.source,
            tenant=entry.tenant,
            text=stored.text,
            media_type=PLAIN_TEXT if plain else MARKDOWN,
            metadata=entry.metadata,
            scanned=bool(entry.folders),
        )
        prepared = await self._ports.model.prepare(Lane.BULK, document, None)
        assert isinstance(prepared, PreparedDocument), "nothing is known of it"
        original = entry.document or msgspec.structs.replace(
            document, text="", media_type=entry.media_type
        )
        return original, replace(
            prepared, content_hash=entry.content_hash, file=entry.file, title=stored.title
        )

    async def is_alike(self, seen: Pass) -> CutoverRefusal | None:
        """Check that the new collection has as many chunks as it should, after a last pass."""
        chunks = await self.new.chunks.count()
        if chunks == seen.chunks:
            return None
        return CutoverRefusal([f"it holds {chunks:,} chunks, and should hold {seen.chunks:,}"])

    async def answers(self, model: QueryModel) -> CutoverRefusal | None:
        """Check that chunks of the new collection are found by their own text."""
        texts = await self.new.chunks.sample(SAMPLES)
        found = 0
        for text in texts:
            question = await model.embed_query(text)
            hits = await self.new.chunks.search(question.dense, SAMPLE_HITS)
            found += any(hit.text == text for hit in hits)
        if found >= FOUND_SHARE * len(texts):
            return None
        return CutoverRefusal([f"only {found} of {len(texts)} chunks were found by their own text"])


async def reindex(
    rebuild: Rebuild,
    qdrant: Qdrant,
    queue: JobCounter,
    gate: Gate,
    model: QueryModel,
    patience: Patience = DEFAULT_PATIENCE,
) -> ReindexResult | CutoverRefusal:
    """Build the new collection, and let the alias stand for it once it is complete.

    ``gate`` is that of the live one.

    May be repeated after any interruption. Raises CollectionMismatch if the alias was changed by
    somebody else meanwhile.
    """
    while True:
        seen = await rebuild.catch_up()
        if seen.failed:
            return CutoverRefusal([f"{doc_id}: {reason}" for doc_id, reason in seen.failed.items()])
        if seen.changed > FEW_CHANGES:
            continue
        if (refused := await rebuild.answers(model)) is not None:
            return refused
        async with gate.shut():
            if await _becomes_quiet(queue, rebuild.live.names.alias, patience.closed_seconds):
                return await _cut_over(rebuild, qdrant, gate)
        await asyncio.sleep(patience.open_seconds)


async def _becomes_quiet(queue: JobCounter, collection: str, seconds: float) -> bool:
    """Return whether all jobs for ``collection`` end before others have to wait too long."""
    try:
        async with asyncio.timeout(seconds):
            # The jobs run elsewhere.
            while (await queue.count_jobs([collection])).in_flight:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        return False
    return True


async def _cut_over(rebuild: Rebuild, qdrant: Qdrant, gate: Gate) -> ReindexResult | CutoverRefusal:
    """Bring over the last differences and switch the alias. Call it while nothing is written."""
    seen = await rebuild.catch_up()
    while seen.changed and not seen.failed:
        seen = await rebuild.catch_up()
    if seen.failed:
        return CutoverRefusal([f"{doc_id}: {reason}" for doc_id, reason in seen.failed.items()])
    if (refused := await rebuild.is_alike(seen)) is not None:
        return refused
    live, new = rebuild.live.names, rebuild.new.names
    if await find_collection(qdrant, live.alias) != live:
        raise CollectionMismatch(
            f"{live.alias!r} was changed by somebody else meanwhile: it is not {live.chunks!r} now"
        )
    # If this process dies before the next line is done, no worker writes until it is run again.
    await gate.replace_with(new.chunks)
    await cut_over(qdrant, live, new)
    return ReindexResult(seen.documents, seen.chunks)
