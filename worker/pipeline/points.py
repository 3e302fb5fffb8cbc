"""What is stored in Qdrant, and under which ids. Plain data, without a client.

Ids are UUIDs of version 5 (RFC 9562), made of what they stand for: the same content always gets
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
    """What somebody searches for, by its meaning and by its words."""

    dense: list[float]
    sparse: SparseVector


@dataclass(frozen=True)
class ChunkPoint:
    """A chunk with its vectors, as it is stored; ``sparse`` only in a hybrid collection."""

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
    """Return the id of a chunk, made of its content: it stays as long as the chunk does.

    ``occurrence`` tells it apart from equal chunks of the same document, see
    `worker.pipeline.chunk_writer`.
    """
    return str(uuid.uuid5(CHUNK_NAMESPACE, f"{tenant}\0{doc_id}\0{chunk_hash}\0{occurrence}"))


class Digest:
    """Of a set of chunk ids, in whatever order they come: their exclusive or.

    An id is itself a hash of what it stands for.
    """

    def __init__(self) -> None:
        self._bits = 0

    def add(self, chunk_id: str) -> None:
        """Add an id that is not in the set yet. Raises ValueError if it is no UUID."""
        self._bits ^= uuid.UUID(chunk_id).int

    def __str__(self) -> str:
        return f"{self._bits:032x}"


class DocumentKey(NamedTuple):
    """Which document: ``doc_id`` is unique within ``tenant``."""

    tenant: str
    doc_id: str


class Fence(NamedTuple):
    """Version of a document, and the fencing token of the job that works on it.

    The later attempt at the same version is believed: the earlier worker has lost its lease.
    """

    version: int
    attempt: int


class EntryState(StrEnum):
    """How far the index is with a document that has an entry in the ledger.

    ``writing``: there may be chunks of a version that is half there. ``clearing``: all its chunks
    are there, and stale ones may be. ``deleting``: the same for a version without chunks.
    ``indexed`` and ``deleted``: nothing else is there. The entry of a deleted document stays, as a
    tombstone: else a slow old job would bring it back.
    """

    WRITING = "writing"
    CLEARING = "clearing"
    INDEXED = "indexed"
    DELETING = "deleting"
    DELETED = "deleted"


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """What the index holds of one document.

    ``attempt`` is the fencing token of the job that wrote it. Its ``chunks`` carry the fence
    ``chunks_fence``, which is older than the entry's own where somebody only looked, and found
    nothing changed; None if it has none. ``chunks_digest`` is that of their ids, see `Digest`.
    ``content_hash`` covers everything that is stored of the document, ``written_ms`` is Unix time
    at the worker. ``file`` names the state of the file it was read from (see
    `ingestq.core.paths.file_state`). ``folders`` are those that a scan has to find it in (see
    `ingestq.core.paths.folders_of`); a document that was not found by a scan has none. ``path``,
    ``media_type`` and ``metadata`` are those of the document.
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
        """The document as it was indexed; None if its content came along, and is not at a path."""
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
        """Whether somebody is at work on it, or died over it."""
        return self.state not in (EntryState.INDEXED, EntryState.DELETED)


class BeginResult(Struct, frozen=True):
    """The ledger's answer to a worker that begins to write a document.

    Not ``ours`` if a newer version, or a later attempt, has begun or ended. ``first`` if nobody
    wrote the document before, so there can be no chunks of others.
    """

    ours: bool
    first: bool


def ledger_id(key: DocumentKey) -> str:
    """Return the id of a document's entry in the ledger."""
    return str(uuid.uuid5(LEDGER_NAMESPACE, f"{key.tenant}\0{key.doc_id}"))
