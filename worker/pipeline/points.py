"""What is stored in Qdrant: chunks and ledger entries, their ids and their states. Plain data.

Ids are UUIDs of version 5 (RFC 9562) derived from what they identify: the same content always has
the same id, so writing it again changes nothing.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct

from ingestq.core.documents import Document
from worker.text.parts import SparseVector

CHUNK_NAMESPACE: Final = uuid.UUID("2d9f2a52-9d3c-5c58-8a3e-0c8a4e0fb0c7")
LEDGER_NAMESPACE: Final = uuid.UUID("6f6f2f0e-6f44-5c0f-9d0c-6b1f3a1f9a10")


class QueryVectors(NamedTuple):
    """The vectors of a search query: by meaning (dense) and by words (sparse)."""

    dense: list[float]
    sparse: SparseVector


@dataclass(frozen=True)
class ChunkPoint:
    """A chunk as it is stored: id, vectors and payload. Only hybrid collections have ``sparse``."""

    id: str
    vector: Sequence[float]
    payload: Mapping[str, Any]
    sparse: SparseVector | None = None


@dataclass(frozen=True)
class SearchHit:
    """A chunk that a search found.

    ``score`` is higher for a better hit, and to be compared within one search only. A dense
    search has the cosine with the query (at most 1), a sparse one the BM25 score (any positive
    number), a hybrid one the sum of the reciprocal ranks in both (1 for a chunk that is first in
    both).
    """

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    metadata: dict[str, Any]


def chunk_id(tenant: str, doc_id: str, chunk_hash: str, occurrence: str) -> str:
    """Return the id of a chunk: it depends on its document and text, not on its position.

    ``occurrence`` makes the ids of equal chunks of one document differ; see
    `worker.pipeline.chunk_writer`.
    """
    return str(uuid.uuid5(CHUNK_NAMESPACE, f"{tenant}\0{doc_id}\0{chunk_hash}\0{occurrence}"))


class Digest:
    """The digest of a set of chunk ids: their exclusive or, which does not depend on the order.

    That is enough, because each id is a hash.
    """

    def __init__(self) -> None:
        self._bits = 0

    def add(self, chunk_id: str) -> None:
        """Add an id that is not in the set yet. Raises ValueError if it is not a UUID."""
        self._bits ^= uuid.UUID(chunk_id).int

    def __str__(self) -> str:
        return f"{self._bits:032x}"


class DocumentKey(NamedTuple):
    """Identifies a document within a collection: ``doc_id`` is unique within ``tenant``."""

    tenant: str
    doc_id: str


class Fence(NamedTuple):
    """The version of a document, and the fencing token (``attempt``) of the job that writes it.

    Fences are compared in that order. Of two attempts at the same version the later one wins: the
    worker of the earlier one has lost its lease.
    """

    version: int
    attempt: int


class EntryState(StrEnum):
    """The state of a document in the ledger.

    - ``writing``: a worker is upserting the chunks of this version; the chunks of the previous
      version are still there.
    - ``clearing``: all chunks of this version are there; stale ones are being deleted.
    - ``indexed``: the chunks of this version are there, and no others.
    - ``deleting``: the document was deleted; its chunks are being deleted.
    - ``deleted``: it has no chunks. The entry stays as a tombstone, so that a job with an older
      version cannot bring the document back.

    If a worker dies, its entries stay ``writing``, ``clearing`` or ``deleting`` until the job runs
    again.
    """

    WRITING = "writing"
    CLEARING = "clearing"
    INDEXED = "indexed"
    DELETING = "deleting"
    DELETED = "deleted"


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """What the index holds of one document.

    ``attempt`` is the fencing token of the job that wrote the entry. ``chunks`` is how many chunks
    there are. They carry the fence ``chunks_fence``, which is older than the entry's own fence if
    a later version had the same content; None if there are no chunks. ``chunks_digest`` is the
    `Digest` of their ids. ``content_hash`` covers everything that is stored of the document.
    ``written_ms`` is the worker's Unix time. ``file`` is the state of the file that was read (see
    `ingestq.core.paths.file_state`). ``folders`` are the folders whose scans find the document (see
    `ingestq.core.paths.folders_of`); empty if it was not found by a scan. ``path``, ``media_type``
    and ``metadata`` are those of the document.
    """

    tenant: str
    doc_id: str
    source: str
    version: int
    attempt: int
    content_hash: str
    chunks: int
    state: EntryState
    written_ms: int
    chunks_fence: Fence | None = None
    chunks_digest: str = ""
    file: str | None = None
    folders: tuple[str, ...] = ()
    path: str | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def key(self) -> DocumentKey:
        return DocumentKey(self.tenant, self.doc_id)

    @property
    def document(self) -> Document | None:
        """The document as it was indexed; None if it has no path, because its content was sent."""
        if self.path is None:
            return None
        return Document(
            doc_id=self.doc_id,
            version=self.version,
            source=self.source,
            tenant=self.tenant,
            path=self.path,
            media_type=self.media_type,
            metadata=self.metadata,
            scanned=bool(self.folders),
        )

    @property
    def fence(self) -> Fence:
        return Fence(self.version, self.attempt)

    @property
    def indexed(self) -> bool:
        return self.state is EntryState.INDEXED

    @property
    def unfinished(self) -> bool:
        """True if a worker is writing or deleting the document, or died while it did."""
        return self.state not in (EntryState.INDEXED, EntryState.DELETED)


class BeginResult(Struct, frozen=True):
    """The ledger's answer to a worker that begins to write a document.

    ``ours`` is False if a newer version, or a later attempt at this one, has begun. ``first`` is
    True if the document was never written before, so that it has no chunks yet.
    """

    ours: bool
    first: bool


def ledger_id(key: DocumentKey) -> str:
    """Return the point id of a document's ledger entry."""
    return str(uuid.uuid5(LEDGER_NAMESPACE, f"{key.tenant}\0{key.doc_id}"))
