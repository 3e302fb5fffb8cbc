"""Makes the index equal to one document; the outcome is a value.

The pipeline knows its neighbours by what it needs of them, see `worker.pipeline.ports`. Several
workers may be at the same document, at different versions, and any of them may be stopped at any
point. What keeps the newest version whole:

- The ledger lets only a newer version, or a later attempt at the same one, begin.
- A chunk carries the fence it was written under, and is replaced or deleted only under one that is
  not older.
- Writes come in an order that never loses the old version before the new one is durable: begin,
  upsert the new chunks, say that all are there, delete the stale ones, finish.
- Once all are there, all other chunks of the document that are not newer are stale. Who was
  overtaken deletes them, too: some of its own may have come after the owner looked. If the owner is
  not that far yet, it will find them.
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
    """The index now holds this version."""

    chunks: ChunkCounts


@dataclass(frozen=True)
class Unchanged:
    """The index held this content already."""


@dataclass(frozen=True)
class Superseded:
    """The index holds a newer version."""


@dataclass(frozen=True)
class Deleted:
    """The document is no longer in the index; ``chunks`` of it were."""

    chunks: int


@dataclass(frozen=True)
class SweepResult:
    """Those documents of a folder that are gone are no longer in the index."""

    documents: int
    chunks: int


@dataclass(frozen=True)
class Rejected:
    """The document can never be indexed."""

    reason: str


@dataclass(frozen=True)
class Retry:
    """The document may be indexed later.

    ``counts_as_try`` is False if neither the document nor its content is to blame. For
    ``pause_seconds`` a service asks to be left alone.
    """

    reason: str
    counts_as_try: bool
    pause_seconds: float = 0.0
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
    """A document to be made equal to, and what is known when the work begins.

    ``entry`` is what the ledger said, ``attempt`` the fencing token of the job. ``restarted`` says
    that a worker died over this before, and may have left chunks behind.
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


def outcome_at_once(work: Work) -> Outcome | None:
    """Return the outcome if the ledger alone can tell it and nothing has to be done."""
    entry, file = work.entry, work.document.file
    if entry is None:
        return None
    if entry.version > work.document.version:
        return None if work.restarted else Superseded()
    if entry.indexed and file is not None and entry.file == file:
        return Unchanged()
    return None


async def ingest(work: Work, ports: Ports, progress: Progress) -> Outcome:
    """Make the index equal to the document, unless it holds that or a newer version already.

    May be repeated after any interruption. Raises what its neighbours raise.
    """
    known = outcome_at_once(work)
    if known is not None:
        return known
    if work.entry is not None and work.entry.version > work.document.version:
        return await _superseded_by(work.entry, ports)
    known_hash = work.entry.content_hash if work.entry and work.entry.indexed else None
    await ports.memory.admit(work.lane)
    async with ports.contents.at_hand(work.document) as content:
        prepared = await ports.model.prepare(work.lane, content, known_hash)
        if isinstance(prepared, UnchangedContent):
            return await _confirm(work, prepared, ports)
        return await replace(work, prepared, ports, progress, content)


async def delete(deletion: Deletion, attempt: int, ports: Ports) -> Outcome:
    """Remove a document from the index, unless it holds a newer version.

    Its entry stays as a tombstone, so that no older version is indexed later. May be repeated after
    any interruption. Raises what its neighbours raise.
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
    """Make the index equal to a document that is gone, as ``tombstone`` says.

    May be repeated after any interruption. Raises what its neighbours raise.
    """
    deleting = msgspec.structs.replace(tombstone, state=EntryState.DELETING)
    if not (await ports.ledger.begin(deleting)).ours:
        return Superseded()
    deleted = await ports.chunks.delete_stale(deleting)
    if (await ports.ledger.advance(tombstone)).fence != tombstone.fence:
        return Superseded()
    return Deleted(deleted)


async def _confirm(work: Work, prepared: UnchangedContent, ports: Ports) -> Outcome:
    """Record that the content, which is indexed, was still the same at this version."""
    assert work.entry is not None, "only a known document can be unchanged"
    if work.entry.version == work.document.version:
        # An earlier try got to the end, but its worker did not live to say so.
        return Indexed(ChunkCounts(reused=work.entry.chunks))
    now = msgspec.structs.replace(
        work.entry,
        version=work.document.version,
        attempt=work.attempt,
        written_ms=_now_ms(),
        **_origin(work.document, prepared),
    )
    if await ports.ledger.confirm(work.entry, now):
        return Unchanged()
    return Retry("another worker changed the document meanwhile", counts_as_try=False)


async def replace(
    work: Work, prepared: PreparedDocument, ports: Ports, progress: Progress, content: Document
) -> Indexed | Superseded:
    """Make the index equal to what was ``prepared`` of the document.

    Later parts are read from ``content``, which is the document as this worker can read it. May be
    repeated after any interruption. Raises what its neighbours raise.
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
        **_origin(document, prepared),
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


def _origin(document: Document, prepared: PreparedDocument | UnchangedContent) -> dict[str, Any]:
    """Return the fields of a ledger entry that say where the document came from."""
    stays = document.path is not None and not document.hot
    return {
        "file": prepared.file if stays else None,
        "folders": folders_of(document.doc_id) if document.scanned else (),
        "path": document.path if stays else None,
        "media_type": document.media_type,
        "metadata": document.metadata,
    }


async def _superseded_by(owner: LedgerEntry, ports: Ports) -> Superseded:
    """Delete stale chunks, which may have been written after the owner looked for them."""
    if owner.state is not EntryState.WRITING:
        await ports.chunks.delete_stale(owner)
    return Superseded()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
