"""Makes the index equal to one document, or deletes it, and returns the outcome as a value.

Several workers may write the same document at the same time, at different versions, and each of
them may be stopped at any point. These rules keep the newest version complete:

- Each document has an entry in the *ledger*, a Qdrant collection beside the chunks. A worker
  begins by writing its version there. The ledger refuses an older version, and an earlier attempt
  at the same version.
- Every chunk carries the *fence* under which it was written: the version and the attempt. Qdrant
  replaces or deletes a chunk only under a fence that is not older.
- The old version stays searchable until the new one is durable. The order is: mark the entry
  ``writing``, upsert the new chunks, mark it ``clearing``, delete the stale chunks, mark it
  ``indexed``. See `worker.pipeline.points.EntryState`.
- From ``clearing`` on, all chunks of the document with another, not newer fence are stale, and any
  worker may delete them. A worker that finds that it was overtaken does so, because some of its own
  chunks may have arrived after the new owner deleted the stale ones. If the new owner is still
  ``writing``, it will delete them itself.
"""

import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import msgspec

from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.errors import UsageError, describe
from ingestq.core.paths import folders_of
from ingestq.core.results import ChunkCounts
from worker.pipeline.chunk_writer import ChunkWriter
from worker.pipeline.points import DocumentKey, EntryState, Fence, LedgerEntry
from worker.pipeline.ports import Ports, Progress
from worker.text.parts import PreparedDocument, UnchangedContent


@dataclass(frozen=True)
class Indexed:
    """The index now holds this version; ``chunks`` counts how it changed."""

    chunks: ChunkCounts


@dataclass(frozen=True)
class Unchanged:
    """The index already held this content."""


@dataclass(frozen=True)
class Superseded:
    """The index holds a newer version."""


@dataclass(frozen=True)
class Deleted:
    """The document was deleted from the index, with its ``chunks`` (how many)."""

    chunks: int


@dataclass(frozen=True)
class SweepResult:
    """A sweep deleted so many ``documents`` of a folder, with so many ``chunks``."""

    documents: int
    chunks: int


@dataclass(frozen=True)
class Rejected:
    """The document cannot be indexed, however often it is tried."""

    reason: str


@dataclass(frozen=True)
class Retry:
    """The document was not processed, but may be later.

    ``counts_as_try`` is False if the document did not cause this, such as when a service is
    unavailable. For ``back_pressure_seconds`` the worker should claim no jobs. ``traceback`` is
    that of the exception, for the dead letter.
    """

    reason: str
    counts_as_try: bool
    back_pressure_seconds: float = 0.0
    traceback: str = ""


@dataclass(frozen=True)
class Misconfigured:
    """The document cannot be processed until the user changes a setting of this worker."""

    error: UsageError

    @property
    def reason(self) -> str:
        return describe(self.error)


Outcome = (
    Indexed | Unchanged | Superseded | Deleted | SweepResult | Rejected | Retry | Misconfigured
)


@dataclass(frozen=True)
class Work:
    """A document to ingest, and what is known of it at the start.

    ``entry`` is its entry in the ledger, ``attempt`` the fencing token of the job. ``restarted`` is
    True if a worker died while it had the job, and may have left stale chunks.
    """

    document: Document
    entry: LedgerEntry | None
    attempt: int
    restarted: bool = False
    lane: Lane = Lane.BULK

    @property
    def key(self) -> DocumentKey:
        return DocumentKey(self.document.tenant, self.document.doc_id)

    @property
    def fence(self) -> Fence:
        return Fence(self.document.version, self.attempt)


def outcome_from_ledger(work: Work) -> Outcome | None:
    """Return the outcome if the ledger entry decides it and nothing has to be done, else None."""
    entry, file = work.entry, work.document.file
    if entry is None:
        return None
    if entry.version > work.document.version:
        return None if work.restarted else Superseded()
    if entry.indexed and file is not None and entry.file == file:
        return Unchanged()
    return None


async def ingest(work: Work, ports: Ports, progress: Progress) -> Outcome:
    """Make the index equal to the document, unless it already holds this or a newer version.

    It is safe to repeat after any interruption. Raises what ``ports`` raise.
    """
    known = outcome_from_ledger(work)
    if known is not None:
        return known
    if work.entry is not None and work.entry.version > work.document.version:
        return await _superseded_by(work.entry, ports)
    known_hash = work.entry.content_hash if work.entry and work.entry.indexed else None
    await ports.memory.admit(work.lane)
    async with ports.contents.as_file(work.document) as content:
        prepared = await ports.model.prepare(work.lane, content, known_hash)
        if isinstance(prepared, UnchangedContent):
            return await _confirm(work, prepared, ports)
        return await replace(work, prepared, ports, progress, content)


async def delete(deletion: Deletion, attempt: int, ports: Ports) -> Outcome:
    """Delete a document from the index, unless the index holds a newer version.

    Its ledger entry stays as a tombstone, so that no older version is indexed later. It is safe to
    repeat after any interruption. Raises what ``ports`` raise.
    """
    key = DocumentKey(deletion.tenant, deletion.doc_id)
    entry = (await ports.ledger.look_up([key])).get(key)
    if entry is not None and entry.version > deletion.version:
        return Superseded()
    known = entry is not None and entry.state is not EntryState.DELETED
    tombstone = LedgerEntry(
        tenant=deletion.tenant,
        doc_id=deletion.doc_id,
        source="" if entry is None else entry.source,
        version=deletion.version,
        attempt=attempt,
        content_hash="",
        chunks=0,
        state=EntryState.DELETED,
        written_ms=_now_ms(),
    )
    outcome = await remove(tombstone, ports)
    return Unchanged() if isinstance(outcome, Deleted) and not known else outcome


async def remove(tombstone: LedgerEntry, ports: Ports) -> Deleted | Superseded:
    """Delete the chunks of a document, and make ``tombstone`` its ledger entry.

    It is safe to repeat after any interruption. Raises what ``ports`` raise.
    """
    deleting = msgspec.structs.replace(tombstone, state=EntryState.DELETING)
    if not (await ports.ledger.begin(deleting)).ours:
        return Superseded()
    deleted = await ports.chunks.delete_stale(deleting)
    if (await ports.ledger.advance(tombstone)).fence != tombstone.fence:
        return Superseded()
    return Deleted(deleted)


async def _confirm(work: Work, prepared: UnchangedContent, ports: Ports) -> Outcome:
    """Record in the ledger that the indexed content is also that of this version."""
    assert work.entry is not None, "only a known document can be unchanged"
    if work.entry.version == work.document.version:
        # An earlier try indexed it, but its worker died before the job was acked.
        return Indexed(ChunkCounts(reused=work.entry.chunks))
    now = msgspec.structs.replace(
        work.entry,
        version=work.document.version,
        attempt=work.attempt,
        written_ms=_now_ms(),
        **_source_fields(work.document, prepared),
    )
    if await ports.ledger.confirm(work.entry, now):
        return Unchanged()
    return Retry("another worker changed the document at the same time", counts_as_try=False)


async def replace(
    work: Work, prepared: PreparedDocument, ports: Ports, progress: Progress, content: Document
) -> Indexed | Superseded:
    """Replace the chunks of the document by those of ``prepared``, its first segment.

    Further segments are read from ``content``: the document with a path that this worker can read.
    It is safe to repeat after any interruption. Raises what ``ports`` raise.
    """
    document = work.document
    entry = LedgerEntry(
        tenant=document.tenant,
        doc_id=document.doc_id,
        source=document.source,
        version=document.version,
        attempt=work.attempt,
        content_hash=prepared.content_hash,
        chunks=0,
        state=EntryState.WRITING,
        written_ms=_now_ms(),
        **_source_fields(document, prepared),
    )
    with ports.memory.hold(work.lane, len(prepared.first.chunks)):
        begun = await ports.ledger.begin(entry)
        if not begun.ours:
            return Superseded()
        title = prepared.title or PurePath(document.source).name
        writer = ChunkWriter(
            work.lane, document, work.fence, title, ports, progress, known=not begun.first
        )
        await writer.write(prepared.first)
    rest = prepared.first.rest
    while rest is not None:
        await ports.memory.admit(work.lane)
        part = await ports.model.prepare_rest(work.lane, content, rest)
        with ports.memory.hold(work.lane, len(part.chunks)):
            await writer.write(part)
        rest = part.rest
    done = msgspec.structs.replace(
        entry,
        state=EntryState.INDEXED,
        chunks=writer.chunks,
        chunks_fence=work.fence,
        chunks_digest=str(writer.digest),
    )
    deleted = 0
    if not begun.first:
        clearing = msgspec.structs.replace(done, state=EntryState.CLEARING)
        now = await ports.ledger.advance(clearing)
        if now.fence != work.fence:
            return await _superseded_by(now, ports)
        deleted = await ports.chunks.delete_stale(clearing)
    now = await ports.ledger.advance(done)
    if now.fence != work.fence:
        return await _superseded_by(now, ports)
    reused = writer.chunks - writer.embedded
    return Indexed(ChunkCounts(embedded=writer.embedded, reused=reused, deleted=deleted))


def _source_fields(
    document: Document, prepared: PreparedDocument | UnchangedContent
) -> dict[str, Any]:
    """Return the fields of a ledger entry by which `verify` and `reindex` find the source again."""
    # A file of a hot folder is moved away once it is indexed.
    stays = document.path is not None and not document.hot
    return {
        "file": prepared.file if stays else None,
        "folders": folders_of(document.doc_id) if document.scanned else (),
        "path": document.path if stays else None,
        "media_type": document.media_type,
        "metadata": document.metadata,
    }


async def _superseded_by(owner: LedgerEntry, ports: Ports) -> Superseded:
    """Delete stale chunks of our own that were written after ``owner`` deleted the stale ones."""
    if owner.state is not EntryState.WRITING:
        await ports.chunks.delete_stale(owner)
    return Superseded()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
