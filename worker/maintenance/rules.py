"""The rules that say what is wrong with one document, and the remedy. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import msgspec
from qdrant_client import models

from ingestq.core.documents import Deletion, Document
from worker.maintenance.sources import Look, Sight
from worker.pipeline.points import DocumentKey, LedgerEntry, State
from worker.store.inventory import StoredChunk


class Kind(StrEnum):
    """What is wrong.

    ``missing``: a document of which the index lacks something. ``orphaned``: a chunk that belongs
    to no document. ``stale``: a document that is not as its file is, or was left half done.
    """

    MISSING = "missing"
    ORPHANED = "orphaned"
    STALE = "stale"


@dataclass(frozen=True)
class Requeue:
    """Have the document written. If it was written before, invalidate its ledger entry first."""

    document: Document
    invalidate: LedgerEntry | None = None


@dataclass(frozen=True)
class Delete:
    """Have the document deleted."""

    deletion: Deletion


@dataclass(frozen=True)
class Remove:
    """Remove the chunk."""

    chunk: StoredChunk


@dataclass(frozen=True)
class SendAgain:
    """Only the sender can repair it: the document is written when the same content comes again."""

    invalidate: LedgerEntry


Remedy = Requeue | Delete | Remove | SendAgain | None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and its remedy; None if nothing may be done about it."""

    kind: Kind
    key: DocumentKey
    reason: str
    remedy: Remedy
    chunk: models.ExtendedPointId | None = None


@dataclass
class Tally:
    """What was seen.

    ``in_work`` documents are not assessed, because a job may be about to change them; nor are
    ``hidden`` ones, whose files cannot be seen from here. ``rejected`` ones are dead letters;
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
    """What was seen of one document.

    There are ``chunks`` that carry the fence of its entry; the ``others`` say that they are its
    own, and do not. Of an unfinished document neither is known. ``complete`` says
    whether the chunks are those that its entry stands for.
    """

    entry: LedgerEntry
    chunks: int
    complete: bool
    others: Sequence[StoredChunk]
    look: Look

    @property
    def changed_file(self) -> bool:
        return self.look.sight in (Sight.CHANGED, Sight.GONE)

    @property
    def has_file(self) -> bool:
        """Whether it has one that can be seen, or was seen to be gone."""
        return self.entry.path is not None and self.look.sight is not Sight.HIDDEN

    @property
    def doubtful(self) -> bool:
        """Whether anything may be wrong with it."""
        unfinished = self.entry.unfinished
        return unfinished or self.changed_file or not self.complete or bool(self.others)

    def document(self, now: int) -> Document:
        """The document as its file is now. It has a path."""
        document = self.entry.document
        assert document is not None, "the caller looked"
        version = _next_version(self.entry, now)
        return msgspec.structs.replace(document, version=version, file=self.look.state)


@dataclass(frozen=True)
class Circumstances:
    """Whether the queue holds a job for the document, or what its path holds was given up before;
    and the time of Redis from before it was looked at."""

    queued: bool
    given_up: bool
    now: int


@dataclass(frozen=True)
class Assessment:
    """What is wrong with a document, or why nobody can tell yet.

    If it is ``in_work``, a job may be about to change it. Whether a document whose file is ``gone``
    may be deleted depends on how many there are. A ``rejected`` one is among the dead letters.
    """

    findings: Sequence[Finding] = ()
    in_work: bool = False
    gone: bool = False
    rejected: bool = False


def assess(seen: Observation, under: Circumstances) -> Assessment:
    """Return what is wrong with a document that nobody changed while it was looked at."""
    match seen.entry.state:
        case State.DELETED:
            return _others(seen, "the document was deleted", under)
        case State.INDEXED:
            chunks = _others(seen, "it is left of another version", under)
            document = _indexed(seen, under)
            return replace(
                document,
                findings=[*chunks.findings, *document.findings],
                in_work=chunks.in_work or document.in_work,
            )
        case State.WRITING | State.CLEARING | State.DELETING:
            return _begun(seen, under)


def _others(seen: Observation, reason: str, under: Circumstances) -> Assessment:
    if seen.others and under.queued:
        # A worker that was overtaken may be about to delete them.
        return Assessment(in_work=True)
    return Assessment([orphaned(chunk, reason) for chunk in seen.others])


def _indexed(seen: Observation, under: Circumstances) -> Assessment:
    if not seen.complete and seen.look.sight is not Sight.GONE:
        # Also if it is queued: a worker would find the content that is indexed already.
        return Assessment([_incomplete(seen, under)])
    if not seen.changed_file:
        return Assessment()
    if under.queued:
        return Assessment(in_work=True)
    if seen.look.sight is Sight.GONE:
        return Assessment(gone=True)
    if under.given_up:
        return Assessment(rejected=True)
    remedy = Requeue(seen.document(under.now))
    return Assessment([Finding(Kind.STALE, seen.entry.key, seen.look.reason, remedy)])


def _begun(seen: Observation, under: Circumstances) -> Assessment:
    if under.queued:
        return Assessment(in_work=True)
    if seen.entry.state is State.DELETING:
        remedy = delete(seen.entry, under.now)
        reason = "its deletion was begun, and not ended"
        return Assessment([Finding(Kind.STALE, seen.entry.key, reason, remedy)])
    if seen.look.sight is Sight.GONE:
        return Assessment(gone=True)
    reason = "it was begun to be written, and not ended"
    return Assessment([_half_done(Kind.STALE, reason, seen, under)])


def _incomplete(seen: Observation, under: Circumstances) -> Finding:
    wanted = seen.entry.chunks
    if seen.chunks > wanted:
        reason = f"{seen.chunks:,} chunks say that they are its {wanted:,}"
        return _half_done(Kind.ORPHANED, reason, seen, under)
    if seen.chunks == wanted:
        reason = f"its {wanted:,} chunks are not those that were written"
        return _half_done(Kind.MISSING, reason, seen, under)
    reason = f"{wanted - seen.chunks:,} of its {wanted:,} chunks are missing"
    return _half_done(Kind.MISSING, reason, seen, under)


def _half_done(kind: Kind, reason: str, seen: Observation, under: Circumstances) -> Finding:
    entry = seen.entry
    if entry.path is None:
        told = f"{reason}; its text is not in a file, so send it again"
        # One that is not indexed will be written as it is.
        return Finding(kind, entry.key, told, SendAgain(entry) if entry.indexed else None)
    remedy = Requeue(seen.document(under.now), entry)
    return Finding(kind, entry.key, reason, remedy)


def orphaned(chunk: StoredChunk, reason: str, *, allowed: bool = True) -> Finding:
    """A chunk that is too many; it is removed if that is ``allowed``."""
    key = chunk.key or DocumentKey("", "")
    return Finding(Kind.ORPHANED, key, reason, Remove(chunk) if allowed else None, chunk.id)


def delete(entry: LedgerEntry, now: int) -> Delete:
    """Return the remedy that deletes the document of ``entry``, as it was observed ``now``."""
    version = _next_version(entry, now)
    return Delete(Deletion(doc_id=entry.doc_id, version=version, tenant=entry.tenant))


def _next_version(entry: LedgerEntry, now: int) -> int:
    """The version at which a document is repaired: ``now``, if times are what it is counted in.

    Numbers of the caller's own stay: a later attempt at the same one is enough, and the caller's
    next one has to be newer.
    """
    return now if FIRST_REDIS_TIME <= entry.version < now else entry.version
