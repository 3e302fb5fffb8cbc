"""The rules by which a verification finds what is wrong with one document. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec
from qdrant_client import models

from ingestq.core.documents import Deletion, Document
from ingestq.core.limits import fits
from ingestq.core.results import utc_time
from ingestq.core.versions import is_issued
from worker.maintenance.sources import FileChange, FileCheck
from worker.pipeline.points import DocumentKey, EntryState, LedgerEntry, Rejection
from worker.store.inventory import StoredChunk


class FindingKind(StrEnum):
    """The kind of a finding.

    ``missing``: chunks of a document, or all of it, are missing in the index. ``orphaned``: a chunk
    belongs to no document. ``stale``: a document differs from its file, was written halfway, or its
    newest version was rejected.
    """

    MISSING = "missing"
    ORPHANED = "orphaned"
    STALE = "stale"


@dataclass(frozen=True)
class Requeue:
    """Remedy: queue the document. The entry ``invalidate``, if given, is invalidated first."""

    document: Document
    invalidate: LedgerEntry | None = None


@dataclass(frozen=True)
class DeleteDocument:
    """Remedy: queue the deletion."""

    deletion: Deletion


@dataclass(frozen=True)
class RemoveChunk:
    """Remedy: delete the chunk."""

    chunk: StoredChunk


@dataclass(frozen=True)
class SubmitAgain:
    """Remedy: invalidate the entry; only the sender can repair it, by sending it again."""

    invalidate: LedgerEntry


@dataclass(frozen=True)
class RequeueDeadLetter:
    """Remedy: requeue the dead letter of the document, because there is no file to read again."""

    key: DocumentKey


Remedy = Requeue | DeleteDocument | RemoveChunk | SubmitAgain | RequeueDeadLetter | None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, with its remedy; ``remedy`` is None if a person has to decide.

    ``chunk`` is the id of an orphaned chunk, ``rejection`` that of the newest version.
    """

    kind: FindingKind
    key: DocumentKey
    reason: str
    remedy: Remedy
    chunk: models.ExtendedPointId | None = None
    rejection: Rejection | None = None


@dataclass
class VerifyCounts:
    """The counts of a verification so far.

    ``documents`` and ``chunks`` are in the index. ``in_work`` documents were not checked, because
    a job for them is waiting or running. The files of ``not_visible`` documents cannot be read from
    here, and were not compared. ``rejected`` documents are dead letters. ``unreadable`` files were
    found in a folder. The files of so many documents are ``gone``.
    ``unknown_chunks`` belong to documents that the ledger does not know, of which
    ``unknown_documents`` has the first few. ``refused`` explains each repair that is not made
    without ``--allow-mass-delete``.
    """

    documents: int = 0
    chunks: int = 0
    in_work: int = 0
    not_visible: int = 0
    rejected: int = 0
    unreadable: int = 0
    gone: int = 0
    unknown_chunks: int = 0
    unknown_documents: set[DocumentKey | None] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Observation:
    """What was read about one document: its entry, its chunks and its file.

    ``chunks`` counts the chunks with the fence of the entry; ``others`` are its other chunks. Both
    are unknown (0, empty) for an unfinished document. ``complete`` is True if the ids of the chunks
    have the digest in the entry.
    """

    entry: LedgerEntry
    chunks: int
    complete: bool
    others: Sequence[StoredChunk]
    file: FileCheck

    @property
    def changed_file(self) -> bool:
        """True if the file has changed or is gone."""
        return self.file.change in (FileChange.CHANGED, FileChange.GONE)

    @property
    def has_file(self) -> bool:
        """True if the document has a file that is visible from here, or is known to be gone."""
        return self.entry.path is not None and self.file.change is not FileChange.NOT_VISIBLE

    @property
    def may_be_wrong(self) -> bool:
        """True if anything may be wrong with the document."""
        entry = self.entry
        is_wrong = entry.unfinished or entry.stale is not None or not self.complete
        return is_wrong or self.changed_file or bool(self.others)

    def document(self, version: int) -> Document:
        """Return the document with the state of its file, observed at ``version``.

        The entry must have one.
        """
        document = self.entry.document
        assert document is not None, "the entry has a document"
        version = _next_version(self.entry, version)
        return msgspec.structs.replace(document, version=version, file=self.file.state)


@dataclass(frozen=True)
class QueueFacts:
    """What Redis says about a document.

    ``queued``: a job for it is waiting or running. ``dead_lettered``: its current file content is
    among the dead letters. ``version`` was issued before the document was read.
    """

    queued: bool
    dead_lettered: bool
    version: int


@dataclass(frozen=True)
class Assessment:
    """The findings about one document, and where it counts; see `VerifyCounts`."""

    findings: Sequence[Finding] = ()
    in_work: bool = False
    gone: bool = False
    rejected: bool = False


def check_document(seen: Observation, queue: QueueFacts) -> Assessment:
    """Return what is wrong with a document that did not change while it was read.

    A file that is gone is only counted: how many there are decides whether they may be deleted.
    """
    match seen.entry.state:
        case EntryState.DELETED:
            return _orphans(seen, "the document was deleted", queue)
        case EntryState.INDEXED:
            orphans = _orphans(seen, "it belongs to another version of the document", queue)
            indexed = _indexed(seen, queue)
            return replace(
                indexed,
                findings=(*orphans.findings, *indexed.findings),
                in_work=orphans.in_work or indexed.in_work,
            )
        case EntryState.WRITING | EntryState.CLEARING | EntryState.DELETING:
            return _unfinished(seen, queue)


def _orphans(seen: Observation, reason: str, queue: QueueFacts) -> Assessment:
    if seen.others and queue.queued:
        # A worker that was overtaken may be about to delete them.
        return Assessment(in_work=True)
    return Assessment([orphaned(chunk, reason) for chunk in seen.others])


def _indexed(seen: Observation, queue: QueueFacts) -> Assessment:
    if not seen.complete and seen.file.change is not FileChange.GONE:
        # Even if it is queued: without a repair, a worker would find its content unchanged.
        return Assessment([_incomplete(seen, queue)])
    if not seen.changed_file and seen.entry.stale is None:
        return Assessment()
    if queue.queued:
        return Assessment(in_work=True)
    if seen.file.change is FileChange.GONE:
        return Assessment(gone=True)
    if seen.entry.stale is not None:
        return Assessment([_rejected(seen, seen.entry.stale, queue)])
    if queue.dead_lettered:
        return Assessment(rejected=True)
    remedy = Requeue(seen.document(queue.version))
    return Assessment([Finding(FindingKind.STALE, seen.entry.key, seen.file.reason, remedy)])


def _rejected(seen: Observation, rejection: Rejection, queue: QueueFacts) -> Finding:
    key = seen.entry.key
    since = utc_time(rejection.since_ms)
    reason = f"a newer version was rejected (stale since {since}): {rejection.reason}"
    remedy: Remedy = RequeueDeadLetter(key)
    if seen.entry.document is not None:
        remedy = Requeue(seen.document(queue.version))
    return Finding(FindingKind.STALE, key, reason, remedy, rejection=rejection)


def _unfinished(seen: Observation, queue: QueueFacts) -> Assessment:
    if queue.queued:
        return Assessment(in_work=True)
    if seen.entry.state is EntryState.DELETING:
        remedy = delete_document(seen.entry, queue.version)
        reason = "its deletion was started but not finished"
        return Assessment([Finding(FindingKind.STALE, seen.entry.key, reason, remedy)])
    if seen.file.change is FileChange.GONE:
        return Assessment(gone=True)
    reason = "writing it was started but not finished"
    return Assessment([_rewrite(FindingKind.STALE, reason, seen, queue)])


def _incomplete(seen: Observation, queue: QueueFacts) -> Finding:
    wanted = seen.entry.chunks
    if seen.chunks > wanted:
        reason = f"it has {seen.chunks:,} chunks instead of {wanted:,}"
        return _rewrite(FindingKind.ORPHANED, reason, seen, queue)
    if seen.chunks == wanted:
        reason = f"its {wanted:,} chunks are not the ones that were written"
        return _rewrite(FindingKind.MISSING, reason, seen, queue)
    reason = f"{wanted - seen.chunks:,} of its {wanted:,} chunks are missing"
    return _rewrite(FindingKind.MISSING, reason, seen, queue)


def _rewrite(kind: FindingKind, reason: str, seen: Observation, queue: QueueFacts) -> Finding:
    entry = seen.entry
    if entry.document is None:
        hint = f"{reason}; it was not read from a file: send it again"
        # If it is not indexed, a worker will write it when it is sent again.
        return Finding(kind, entry.key, hint, SubmitAgain(entry) if entry.indexed else None)
    remedy = Requeue(seen.document(queue.version), entry)
    return Finding(kind, entry.key, reason, remedy)


def orphaned(chunk: StoredChunk, reason: str, *, allowed: bool = True) -> Finding:
    """Return the finding of an orphaned chunk; it may be deleted only if that is ``allowed``."""
    key = chunk.key or DocumentKey("", "")
    return Finding(
        FindingKind.ORPHANED, key, reason, RemoveChunk(chunk) if allowed else None, chunk.id
    )


def delete_document(entry: LedgerEntry, version: int) -> DeleteDocument | None:
    """Return the remedy that deletes the document of ``entry``, observed at ``version``.

    None if its id is too long for the queue; only a scan of its folder can delete it.
    """
    if not fits(entry.doc_id):
        return None
    version = _next_version(entry, version)
    return DeleteDocument(Deletion(doc_id=entry.doc_id, version=version, tenant=entry.tenant))


def _next_version(entry: LedgerEntry, issued: int) -> int:
    """Return the version for a repair: ``issued``, if the document has versions of that scale.

    A caller's own version, be it a rejected one, is kept: a later attempt at the same version is
    enough, and the caller's next version must still be newer.
    """
    newest = entry.version
    if entry.stale is not None and is_issued(entry.stale.version) == is_issued(newest):
        newest = max(newest, entry.stale.version)
    return issued if is_issued(newest) and newest < issued else newest
