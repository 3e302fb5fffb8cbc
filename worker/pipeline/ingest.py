"""Makes the index equal to one document, or deletes it, and returns the outcome as a value.

Several workers may write the same document at the same time, at different versions, and each of
them may be stopped at any point. These rules keep the newest version complete:

- Each document has an entry in the *ledger*, a Qdrant collection beside the chunks. A worker
  begins by writing its version there, if that is newer than the entry that it has seen (see
  `worker.pipeline.order`). The ledger refuses it if the entry has changed since.
- Every chunk carries the *fence* under which it was written: the version, the attempt and the
  epoch. Qdrant replaces or deletes a chunk only under a fence that is not older.
- The old version stays searchable until the new one is durable. The order is: mark the entry
  ``writing``, upsert the new chunks, mark it ``clearing``, delete the stale chunks, mark it
  ``indexed``. See `worker.pipeline.points.EntryState`.
- A version that is rejected is not written. The entry only says so beside what it holds, and only
  as long as it holds an older version: see `worker.pipeline.points.Rejection`.
- From ``clearing`` on, all chunks of the document with another, not newer fence are stale, and any
  worker may delete them. A worker that finds that it was overtaken does so, because some of its own
  chunks may have arrived after the new owner deleted the stale ones. If the new owner is still
  ``writing``, it will delete them itself.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

import msgspec

from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.errors import Cause, UsageError, cause_of, describe
from ingestq.core.paths import folders_of
from ingestq.core.results import ChunkCounts, HeldDocuments
from ingestq.core.versions import is_issued
from ingestq.core.web import is_web, told_tag
from worker.pipeline.chunk_writer import ChunkWriter
from worker.pipeline.memory_budget import Share
from worker.pipeline.order import (
    Change,
    Standing,
    deletes_before,
    placed_after,
    standing,
    why_unordered,
)
from worker.pipeline.points import BeginResult, DocumentKey, EntryState, Fence, LedgerEntry
from worker.pipeline.ports import NotModified, Ports, Progress
from worker.text.parts import PreparedDocument, UnchangedContent, bounded_warnings

BEGIN_TRIES: Final = 8
"""So many times a worker looks again at an entry that others keep changing."""


@dataclass(frozen=True)
class Indexed:
    """The index now holds this version; ``chunks`` counts how it changed.

    ``warnings`` say what of it could not be read. ``tokens`` is the number of tokens of the chunks
    that were embedded, without special tokens.
    """

    chunks: ChunkCounts
    warnings: tuple[str, ...] = ()
    tokens: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Unchanged:
    """The index already held this content; ``warnings`` are those of the time it was read."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Superseded:
    """The index holds a newer version."""


@dataclass(frozen=True)
class Deleted:
    """The document was deleted from the index, with its ``chunks`` (how many)."""

    chunks: int


@dataclass(frozen=True)
class SweepResult:
    """A sweep deleted so many ``documents`` of a folder, with so many ``chunks``.

    ``held`` are those that it kept because their source may be away; None if there are none.
    """

    documents: int
    chunks: int
    held: HeldDocuments | None = None


@dataclass(frozen=True)
class Rejected:
    """The document cannot be indexed, however often it is tried.

    ``traceback`` is that of a hook, for the dead letter; ``cause`` is for metrics.
    """

    reason: str
    cause: Cause = field(default=Cause.DOCUMENT, compare=False)
    traceback: str = field(default="", compare=False)


@dataclass(frozen=True)
class Retry:
    """The document was not processed, but may be later.

    ``counts_as_try`` is False if the document did not cause this, such as when a service is
    unavailable. For ``back_pressure_seconds`` the worker should claim no jobs, and for
    ``delay_seconds`` not this one. ``traceback`` is
    that of the exception, for the dead letter; ``cause`` is for metrics.
    """

    reason: str
    counts_as_try: bool
    back_pressure_seconds: float = 0.0
    delay_seconds: float = 0.0
    traceback: str = ""
    cause: Cause = field(default=Cause.UNEXPECTED, compare=False)


@dataclass(frozen=True)
class Misconfigured:
    """The document cannot be processed until the user changes a setting of this worker."""

    error: UsageError

    @property
    def reason(self) -> str:
        return describe(self.error)

    @property
    def cause(self) -> Cause:
        return cause_of(self.error)


OVERTAKEN: Final = Retry(
    "another worker changed the document at the same time",
    counts_as_try=False,
    cause=Cause.OVERTAKEN,
)

Outcome = (
    Indexed | Unchanged | Superseded | Deleted | SweepResult | Rejected | Retry | Misconfigured
)


@dataclass(frozen=True)
class Work:
    """A document to ingest, and what is known of it at the start.

    ``entry`` is its entry in the ledger, ``attempt`` the fencing token of the job. ``restarted`` is
    True if a worker died while it had the job, and may have left stale chunks. ``copied`` is the
    entry in another ledger that the document is copied from.
    """

    document: Document
    entry: LedgerEntry | None
    attempt: int
    restarted: bool = False
    lane: Lane = Lane.BULK
    copied: LedgerEntry | None = None

    @property
    def key(self) -> DocumentKey:
        return DocumentKey(self.document.tenant, self.document.doc_id)

    @property
    def change(self) -> Change:
        return Change.of(self.document, self.attempt)

    @property
    def standing(self) -> Standing:
        return standing(self.change, self.entry)


def outcome_from_ledger(work: Work, enriched_by: str = "") -> Outcome | None:
    """Return the outcome if the ledger entry decides it and nothing has to be done, else None.

    ``enriched_by`` is the hook that adds metadata now: what another one has enriched is read again.
    """
    entry, file = work.entry, work.document.file
    if entry is None:
        return None
    match work.standing:
        case Standing.OLDER:
            return None if work.restarted else Superseded()
        case Standing.DELETED:
            return None
        case Standing.UNORDERED:
            return Rejected(why_unordered(work.change, entry), Cause.UNORDERED)
    # A stale document goes on: that its last good file is back has to be written.
    is_known = entry.indexed and file is not None and entry.file == file
    if is_known and entry.stale is None and entry.enriched_by == enriched_by:
        return Unchanged(entry.warnings)
    if _is_page_of_earlier_try(work, entry) and entry.enriched_by == enriched_by:
        return Indexed(ChunkCounts(reused=entry.chunks), entry.warnings)
    return None


def _is_page_of_earlier_try(work: Work, entry: LedgerEntry) -> bool:
    """Return whether an earlier try of the job has indexed the document, and it is a web page.

    Its job is tried again because of other pages. Asking its site a second time might cost the turn
    of one of these, each time.
    """
    document = work.document
    is_page = document.url is not None and is_web(document.url)
    is_same = entry.version == document.version and entry.queued == document.queued
    return is_page and is_same and entry.indexed and entry.stale is None


async def ingest(work: Work, ports: Ports, progress: Progress) -> Outcome:
    """Make the index equal to the document, unless it already holds this or a newer version.

    It is safe to repeat after any interruption. Raises what ``ports`` raise.
    """
    known = outcome_from_ledger(work, ports.enriched_by)
    if known is not None:
        return known
    if work.entry is not None and work.standing is Standing.OLDER:
        return await _superseded_by(work.entry, ports)
    if work.entry is not None and work.standing is Standing.DELETED:
        return await _delete_too(work, work.entry, ports)
    try:
        return await _replace_if_changed(work, ports, progress)
    except NotModified:
        assert work.entry is not None, "only a known state is asked for"
        same = UnchangedContent(work.entry.content_hash, work.entry.file)
        return await _confirm(work, same, ports)


async def _replace_if_changed(work: Work, ports: Ports, progress: Progress) -> Outcome:
    is_known = work.entry and work.entry.indexed and work.entry.enriched_by == ports.enriched_by
    known_hash = work.entry.content_hash if work.entry and is_known else None
    async with (
        ports.memory.hold(work.lane, work.document) as share,
        ports.contents.as_file(_in_known_state(work, ports.enriched_by)) as content,
    ):
        prepared = await ports.model.prepare(work.lane, content, known_hash)
        if work.document.url is not None:  # the state is that of the object, not of its copy
            prepared = msgspec.structs.replace(prepared, file=content.file)
            work = _with_metadata(work, content.metadata)
        if isinstance(prepared, UnchangedContent):
            return await _confirm(work, prepared, ports)
        progress(0, len(prepared.first.chunks))
        copy_of = await _copy_of(work, prepared, ports)
        return await replace(work, prepared, ports, share, progress, content, copy_of)


def _with_metadata(work: Work, metadata: Mapping[str, Any]) -> Work:
    """Return ``work`` with what was learnt about its document when that was fetched."""
    if metadata == work.document.metadata:
        return work
    document = msgspec.structs.replace(work.document, metadata=dict(metadata))
    return dataclasses.replace(work, document=document)


def _in_known_state(work: Work, enriched_by: str) -> Document:
    """Return the document; a web page with the indexed state, so that only another is sent.

    What another hook than ``enriched_by`` has enriched is read again.
    """
    document, entry = work.document, work.entry
    is_open = document.url is not None and is_web(document.url) and document.file is None
    if not is_open or entry is None or not entry.indexed or entry.stale is not None:
        return document
    if told_tag(entry.file) is None or entry.enriched_by != enriched_by:
        return document
    return msgspec.structs.replace(document, file=entry.file)


async def _copy_of(work: Work, prepared: PreparedDocument, ports: Ports) -> str | None:
    """Return the id of a document that has the same content, unless its vectors are not needed.

    A file that was moved or copied is not embedded again. It is looked for before this document is
    written, because in a swap of two files each replaces the content that the other one needs.
    """
    entry, of_bytes = work.entry, prepared.bytes_hash
    is_known = entry is not None and entry.indexed and entry.bytes_hash == of_bytes
    if is_known or not of_bytes or not prepared.first.chunks:
        return None
    return await ports.ledger.copy_of(work.key, of_bytes)


async def delete(deletion: Deletion, attempt: int, ports: Ports) -> Outcome:
    """Carry out ``deletion``, see `delete_as_of`; ``attempt`` is the fencing token of the job."""
    key = DocumentKey(deletion.tenant, deletion.doc_id)
    change = Change.of(deletion, attempt)
    if not deletion.any_form or deletion.doc_id.isascii():
        return await _delete(key, change, ports)
    indexed = await _indexed_forms(key, ports)
    outcomes = [await _delete(form, change, ports) for form in indexed or [key]]
    # Of several, which is rare, one stands for all.
    return next((outcome for outcome in outcomes if isinstance(outcome, Deleted)), outcomes[0])


async def _indexed_forms(key: DocumentKey, ports: Ports) -> list[DocumentKey]:
    """Return ``key`` if it is indexed, else what is and differs only in Unicode's normal form."""
    entry = (await ports.ledger.look_up([key])).get(key)
    entries = [entry] if entry is not None else []
    if not any(map(_is_alive, entries)):
        entries = await ports.ledger.other_forms(key)
    return [found.key for found in entries if _is_alive(found)]


def _is_alive(entry: LedgerEntry) -> bool:
    return entry.state is not EntryState.DELETED


async def delete_as_of(key: DocumentKey, fence: Fence, ports: Ports) -> Outcome:
    """Delete a document from the index, unless the index holds a newer version than ``fence``.

    Its version is one that Redis issued. The ledger entry stays as a tombstone, so that no older
    version is indexed later. It is safe to repeat after any interruption. Raises what ``ports``
    raise.
    """
    return await _delete(key, Change(fence.version, fence.attempt, 0, deletes=True), ports)


async def _delete(key: DocumentKey, change: Change, ports: Ports) -> Outcome:
    for _ in range(BEGIN_TRIES):
        entry = (await ports.ledger.look_up([key])).get(key)
        match standing(change, entry):
            case Standing.UNORDERED if entry is not None:
                return Rejected(why_unordered(change, entry), Cause.UNORDERED)
            case Standing.OLDER if entry is not None and deletes_before(change, entry):
                if await ports.ledger.note_deletion(entry, change.version):
                    return Superseded()
                continue
            case Standing.OLDER:
                return Superseded()
            case Standing.DELETED if entry is not None:
                tombstone = _deleted_too(change, entry)
            case _:
                tombstone = _tombstone(key, change, entry)
        outcome = await remove(tombstone, entry, ports)
        if isinstance(outcome, Deleted):
            return outcome if entry is not None and _is_alive(entry) else Unchanged()
    return OVERTAKEN


def _tombstone(key: DocumentKey, change: Change, entry: LedgerEntry | None) -> LedgerEntry:
    return LedgerEntry(
        tenant=key.tenant,
        doc_id=key.doc_id,
        source="" if entry is None else entry.source,
        version=change.version,
        attempt=change.attempt,
        queued=change.queued,
        deleted_at=change.version if is_issued(change.version) else 0,
        content_hash="",
        chunks=0,
        state=EntryState.DELETED,
        written_ms=_now_ms(),
    )


def _deleted_too(change: Change, entry: LedgerEntry) -> LedgerEntry:
    """Return the tombstone of the deletion that ``entry`` knows of, which deletes ``change``, too.

    It is that deletion's, so that what was queued after it is newer.
    """
    deletion = Change(entry.deleted_at, change.attempt, 0, deletes=True)
    tombstone = _tombstone(entry.key, deletion, entry)
    return msgspec.structs.replace(tombstone, own=change.version)


async def _delete_too(work: Work, entry: LedgerEntry, ports: Ports) -> Outcome:
    """Delete the document with the deletion that ``entry`` knows of, and that is newer."""
    outcome = await remove(_deleted_too(work.change, entry), entry, ports)
    return Superseded() if isinstance(outcome, Deleted) else OVERTAKEN


async def remove(
    tombstone: LedgerEntry, seen: LedgerEntry | None, ports: Ports
) -> Deleted | Superseded:
    """Delete the chunks of a document, and let ``tombstone`` replace its entry ``seen``.

    The result is `Superseded` if another worker has replaced ``seen`` or the tombstone meanwhile.
    It is safe to repeat after any interruption. Raises what ``ports`` raise.
    """
    placed = placed_after(tombstone, seen)
    # As long as it has chunks it stays in its folders, where a sweep that is interrupted finds it.
    folders = () if seen is None else seen.folders
    deleting = msgspec.structs.replace(placed, state=EntryState.DELETING, folders=folders)
    if not (await ports.ledger.begin(deleting, seen)).ours:
        return Superseded()
    deleted = await ports.chunks.delete_stale(deleting)
    if (await ports.ledger.advance(placed)).fence != placed.fence:
        return Superseded()
    return Deleted(deleted)


async def _confirm(work: Work, prepared: UnchangedContent, ports: Ports) -> Outcome:
    """Record in the ledger that the indexed content is also that of this version."""
    assert work.entry is not None, "only a known document can be unchanged"
    document = work.document
    is_same = work.entry.version == document.version and work.entry.queued <= document.queued
    if is_same and work.entry.stale is None:
        # An earlier try indexed it, but its worker died before the job was acked.
        return Indexed(ChunkCounts(reused=work.entry.chunks), work.entry.warnings)
    confirmed = msgspec.structs.replace(
        work.entry,
        version=document.version,
        attempt=work.attempt,
        queued=document.queued,
        written_ms=_now_ms(),
        **_source_fields(document, prepared),
    )
    now = placed_after(confirmed, work.entry)
    if await ports.ledger.confirm(work.entry, now):
        return Unchanged(now.warnings)
    return OVERTAKEN


async def replace(
    work: Work,
    prepared: PreparedDocument,
    ports: Ports,
    share: Share,
    progress: Progress,
    content: Document,
    copy_of: str | None = None,
) -> Outcome:
    """Replace the chunks of the document by those of ``prepared``, its first segment.

    The caller has told ``progress`` how many chunks that has.

    The document holds a ``share`` of the memory budget, which is charged for one segment at a time.
    Further segments are read from ``content``: the document with a path that this worker can read.
    Chunks of the document ``copy_of``, which has the same content, give theirs their vectors.
    It is safe to repeat after any interruption. Raises what ``ports`` raise.
    """
    document = work.document
    entry = LedgerEntry(
        tenant=document.tenant,
        doc_id=document.doc_id,
        source=document.source,
        version=document.version,
        attempt=work.attempt,
        queued=document.queued,
        content_hash=prepared.content_hash,
        bytes_hash=prepared.bytes_hash,
        chunks=0,
        state=EntryState.WRITING,
        written_ms=_now_ms(),
        warnings=bounded_warnings(prepared.warnings),
        enriched_by=prepared.enriched_by,
        **_source_fields(document, prepared),
    )
    share.charge(len(prepared.first.chunks))
    begun = await _begin(work, entry, ports)
    if not isinstance(begun, BeginResult):
        return begun
    entry = begun.entry
    title = prepared.title or PurePath(document.source).name
    writer = ChunkWriter(
        work.lane,
        document,
        entry.fence,
        title,
        ports,
        progress,
        known=not begun.first,
        copy_of=copy_of,
        enriched=prepared.enriched,
    )
    await writer.write(prepared.first)
    rest = prepared.first.rest
    while rest is not None:
        part = await ports.model.prepare_rest(work.lane, content, rest)
        progress(0, len(part.chunks))
        share.charge(len(part.chunks))
        await writer.write(part)
        rest = part.rest
    done = msgspec.structs.replace(
        entry,
        state=EntryState.INDEXED,
        chunks=writer.chunks,
        chunks_fence=entry.fence,
        chunks_digest=str(writer.digest),
    )
    deleted = 0
    if not begun.first:
        clearing = msgspec.structs.replace(done, state=EntryState.CLEARING)
        now = await ports.ledger.advance(clearing)
        if now.fence != entry.fence:
            return await _superseded_by(now, ports)
        deleted = await ports.chunks.delete_stale(clearing)
    now = await ports.ledger.advance(done)
    if now.fence != entry.fence:
        return await _superseded_by(now, ports)
    reused = writer.chunks - writer.embedded
    counts = ChunkCounts(embedded=writer.embedded, reused=reused, deleted=deleted)
    return Indexed(counts, done.warnings, writer.tokens)


async def _begin(work: Work, entry: LedgerEntry, ports: Ports) -> BeginResult | Outcome:
    """Let ``entry`` replace that of the document, as long as it is newer.

    Return the outcome if another worker makes it older.
    """
    seen = work.entry
    if work.copied is not None:
        entry = msgspec.structs.replace(
            entry, own=work.copied.own, deleted_at=work.copied.deleted_at
        )
    for _ in range(BEGIN_TRIES):
        begun = await ports.ledger.begin(placed_after(entry, seen), seen)
        if begun.ours:
            return begun
        seen = begun.entry
        match standing(work.change, seen):
            case Standing.OLDER:
                return Superseded()
            case Standing.DELETED | Standing.UNORDERED:
                break  # decided when it runs again
    return OVERTAKEN


def _source_fields(
    document: Document, prepared: PreparedDocument | UnchangedContent
) -> dict[str, Any]:
    """Return the fields of a ledger entry by which `verify` and `reindex` find the source again."""
    # A file of a hot folder is moved away once it is indexed.
    stays = document.path is not None and not document.hot
    return {
        "file": prepared.file if stays or document.url is not None else None,
        "folders": folders_of(document.doc_id) if document.scanned else (),
        "path": document.path if stays else None,
        "url": document.url,
        "media_type": document.media_type,
        "metadata": document.metadata,
        "volume": document.volume,
    }


async def _superseded_by(owner: LedgerEntry, ports: Ports) -> Superseded:
    """Delete stale chunks of our own that were written after ``owner`` deleted the stale ones."""
    if owner.state is not EntryState.WRITING:
        await ports.chunks.delete_stale(owner)
    return Superseded()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
