"""What a comparison of index, ledger and sources finds: plain values."""

from dataclasses import dataclass, field
from enum import StrEnum

from qdrant_client import models

from broker.contract import Deletion, Document
from worker.inventory import StoredChunk
from worker.points import DocumentKey, LedgerEntry


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
    """Have the document written, once more if it was: then its entry is distrusted before."""

    document: Document
    distrust: LedgerEntry | None = None


@dataclass(frozen=True)
class Withdraw:
    """Have the document deleted."""

    deletion: Deletion


@dataclass(frozen=True)
class Remove:
    """Remove the chunk."""

    chunk: StoredChunk


@dataclass(frozen=True)
class SendAgain:
    """Only who sent the document can mend it: see to it that the same content is written then."""

    distrust: LedgerEntry


Remedy = Requeue | Withdraw | Remove | SendAgain | None


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what mends it; None if nothing may be done about it."""

    kind: Kind
    key: DocumentKey
    reason: str
    remedy: Remedy
    chunk: models.ExtendedPointId | None = None


@dataclass
class Tally:
    """What was seen.

    ``in_work`` documents are not judged, because somebody works at them; ``hidden`` ones neither,
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
