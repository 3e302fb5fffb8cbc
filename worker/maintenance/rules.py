"""The rules that say what is wrong with one document, and the remedy. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import msgspec
from qdrant_client import models

from ingestq.core.documents import Deletion, Document
from worker.maintenance.sources import FileChange, FileCheck
from worker.pipeline.points import DocumentKey, EntryState, LedgerEntry
from worker.store.inventory import StoredChunk


class FindingKind(StrEnum):
    """What is wrong.

    ``missing``: a document of which the index lacks something. ``orphaned``: a chunk that belongs
    to no document. ``stale``: a document that is not as its file is, or was left half done.
    """

    MISSING = "missing"
    ORPHANED = "orphaned"
    STALE = "stale"


@dataclass(frozen=True)
class Requeue:
    """Have the document written. If it is indexed, its entry is invalidated first."""

    document: Document
    invalidate: LedgerEntry | None = None


@dataclass(frozen=True)
class DeleteDocument:
    """Have the document deleted."""

    deletion: Deletion


@dataclass(frozen=True)
class RemoveChunk:
    """Remove the chunk."""

    chunk: StoredChunk


@dataclass(frozen=True)
class SubmitAgain:
    """Have the document invalidated: only its sender can repair it, by submitting it again."""

    invalidate: LedgerEntry


Remedy = Requeue | DeleteDocument | RemoveChunk | SubmitAgain | None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and the remedy; None if nothing may be done about it."""

    kind: FindingKind
    key: DocumentKey
    reason: str
    remedy: Remedy
    chunk: models.ExtendedPointId | None = None


@dataclass
class VerifyCounts:
    """What a verification has counted so far.

    ``in_work`` documents are not checked, because a worker is at them; ``hidden`` ones neither,
    because their files cannot be seen from here. ``rejected`` ones are among the dead letters;
    ``unreadable`` ones were found in a folder, and are no documents.
    ``refused`` says which repairs look too much like a mistake to be made unasked.
    """

    documents: int = 0
    chunks: int = 0
    in_work: int = 0
    hidden: int = 0
    rejected: int = 0
    unreadable: int = 0
    files: int = 0
    gone: int = 0
    strays: int = 0
    stray_documents: set[DocumentKey | None] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


FIRST_REDIS_TIME: Final = 10**15
"""Versions from here on (September 2001 in microseconds) are times, not a caller's own numbers."""


@dataclass(frozen=True)
class Observation:
    """What was observed of one document.

    There are ``chunks`` that carry the fence of its entry; the ``others`` say that they are its
    own, and do not. Of an unfinished document neither is known. ``complete`` says
    whether the chunks are those that its entry stands for.
    """

    entry: LedgerEntry
    chunks: int
    complete: bool
    others: Sequence[StoredChunk]
    file: FileCheck

    @property
    def changed_file(self) -> bool:
        """Whether its file has changed or is gone."""
        return self.file.change in (FileChange.CHANGED, FileChange.GONE)

    @property
    def has_file(self) -> bool:
        """Whether it has a file that can be seen, or was seen to be gone."""
        return self.entry.path is not None and self.file.change is not FileChange.HIDDEN

    @property
    def doubtful(self) -> bool:
        """Whether anything may be wrong with it."""
        unfinished = self.entry.unfinished
        return unfinished or self.changed_file or not self.complete or bool(self.others)

    def document(self, now: int) -> Document:
        """Return the document, which has a path, as its file is now."""
        document = self.entry.document
        assert document is not None, "the caller looked"
        version = _next_version(self.entry, now)
        return msgspec.structs.replace(document, version=version, file=self.file.state)


@dataclass(frozen=True)
class QueueFacts:
    """What Redis told of a document.

    ``queued`` says that a job for it waits or runs, ``given_up`` that what its path holds is among
    the dead letters. ``now`` is the time of Redis from before the document was looked at.
    """

    queued: bool
    given_up: bool
    now: int


@dataclass(frozen=True)
class Assessment:
    """What is wrong with one document, and how it counts; see `VerifyCounts`."""

    findings: Sequence[Finding] = ()
    in_work: bool = False
    gone: bool = False
    rejected: bool = False


def check_document(seen: Observation, under: QueueFacts) -> Assessment:
    """Return what is wrong with a document that nobody changed while it was looked at.

    A file that is gone is no finding yet: whether its document may be deleted depends on how many
    there are.
    """
    match seen.entry.state:
        case EntryState.DELETED:
            return _leftovers(seen, "the document was deleted", under)
        case EntryState.INDEXED:
            leftovers = _leftovers(seen, "it is left of another version", under)
            indexed = _indexed(seen, under)
            return replace(
                indexed,
                findings=(*leftovers.findings, *indexed.findings),
                in_work=leftovers.in_work or indexed.in_work,
            )
        case EntryState.WRITING | EntryState.CLEARING | EntryState.DELETING:
            return _unfinished(seen, under)


def _leftovers(seen: Observation, reason: str, under: QueueFacts) -> Assessment:
    if seen.others and under.queued:
        # A worker that was overtaken may be about to delete them.
        return Assessment(in_work=True)
    return Assessment([orphaned(chunk, reason) for chunk in seen.others])


def _indexed(seen: Observation, under: QueueFacts) -> Assessment:
    if not seen.complete and seen.file.change is not FileChange.GONE:
        # Also if it is queued: a worker would find the content that is indexed already.
        return Assessment([_incomplete(seen, under)])
    if not seen.changed_file:
        return Assessment()
    if under.queued:
        return Assessment(in_work=True)
    if seen.file.change is FileChange.GONE:
        return Assessment(gone=True)
    if under.given_up:
        return Assessment(rejected=True)
    remedy = Requeue(seen.document(under.now))
    return Assessment([Finding(FindingKind.STALE, seen.entry.key, seen.file.reason, remedy)])


def _unfinished(seen: Observation, under: QueueFacts) -> Assessment:
    if under.queued:
        return Assessment(in_work=True)
    if seen.entry.state is EntryState.DELETING:
        remedy = delete_document(seen.entry, under.now)
        reason = "its deletion was begun, and not ended"
        return Assessment([Finding(FindingKind.STALE, seen.entry.key, reason, remedy)])
    if seen.file.change is FileChange.GONE:
        return Assessment(gone=True)
    reason = "it was begun to be written, and not ended"
    return Assessment([_half_done(FindingKind.STALE, reason, seen, under)])


def _incomplete(seen: Observation, under: QueueFacts) -> Finding:
    wanted = seen.entry.chunks
    if seen.chunks > wanted:
        reason = f"{seen.chunks:,} chunks say that they are its {wanted:,}"
        return _half_done(FindingKind.ORPHANED, reason, seen, under)
    if seen.chunks == wanted:
        reason = f"its {wanted:,} chunks are not those that were written"
        return _half_done(FindingKind.MISSING, reason, seen, under)
    reason = f"{wanted - seen.chunks:,} of its {wanted:,} chunks are missing"
    return _half_done(FindingKind.MISSING, reason, seen, under)


def _half_done(kind: FindingKind, reason: str, seen: Observation, under: QueueFacts) -> Finding:
    entry = seen.entry
    if entry.path is None:
        told = f"{reason}; its text is not in a file, so send it again"
        # One that is not indexed will be written as it is.
        return Finding(kind, entry.key, told, SubmitAgain(entry) if entry.indexed else None)
    remedy = Requeue(seen.document(under.now), entry)
    return Finding(kind, entry.key, reason, remedy)


def orphaned(chunk: StoredChunk, reason: str, *, allowed: bool = True) -> Finding:
    """Report a chunk that is too many; it is removed if that is ``allowed``."""
    key = chunk.key or DocumentKey("", "")
    return Finding(
        FindingKind.ORPHANED, key, reason, RemoveChunk(chunk) if allowed else None, chunk.id
    )


def delete_document(entry: LedgerEntry, now: int) -> DeleteDocument:
    """Return the deletion of the document of ``entry``, as it was observed ``now``."""
    version = _next_version(entry, now)
    return DeleteDocument(Deletion(doc_id=entry.doc_id, version=version, tenant=entry.tenant))


def _next_version(entry: LedgerEntry, now: int) -> int:
    """Return the version at which a document is repaired: ``now``, if its versions are times.

    Numbers of the caller's own stay: a later attempt at the same one is enough, and the caller's
    next one has to be newer.
    """
    return now if FIRST_REDIS_TIME <= entry.version < now else entry.version
