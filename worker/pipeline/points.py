"""What is stored in Qdrant: chunks and ledger entries, their ids and their states. Plain data.

Ids are UUIDs of version 5 (RFC 9562) derived from what they identify: the same content always has
the same id, so writing it again changes nothing.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from msgspec import Struct

from ingestq.core.documents import Document, Volume
from ingestq.core.limits import LARGEST_INTEGER
from ingestq.core.unicode_forms import composed_if_other
from ingestq.core.versions import is_issued
from worker.text.parts import INSIDE, SparseVector

CHUNK_NAMESPACE: Final = uuid.UUID("2d9f2a52-9d3c-5c58-8a3e-0c8a4e0fb0c7")
LEDGER_NAMESPACE: Final = uuid.UUID("6f6f2f0e-6f44-5c0f-9d0c-6b1f3a1f9a10")

COMPOSED: Final = "_nfc"
"""Ends the names of fields that hold what another field holds, in Unicode's form NFC."""
LARGE_INTEGERS: Final = "large_integers"
"""The field for integers of the metadata that Qdrant cannot compare; see `large_integers`."""
CACHED_IDS: Final = 2048
"""Ids of ledger entries that are remembered: each is needed several times while a document is in
work."""
COMPARABLE: Final = range(-(2**63), 2**63)
"""The integers that Qdrant compares for equality: those of 64 bits with a sign."""


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
class Neighbour:
    """A chunk before or after a hit in its document."""

    chunk_index: int
    text: str


@dataclass(frozen=True)
class SearchHit:
    """A chunk that a search found.

    ``score`` is higher for a better hit, and to be compared within one search only. A dense search
    has the cosine with the query (at most 1), a sparse one the BM25 score (any positive number), a
    hybrid one the sum of the reciprocal ranks in both (1 for a chunk that is first in both), and a
    reranked one the score of the reranker. ``text`` is the body of the chunk. ``context``, ``page``
    and ``part`` say where in the document it stands; see `worker.text.parts.Chunk`. ``snippet`` is
    the part of the text around the words of the query. ``before`` and ``after`` are its neighbours,
    in the order of the document, if they were asked for. ``stale`` is True if a newer version of
    the document was rejected.
    """

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    metadata: dict[str, Any]
    context: str = ""
    page: int | None = None
    part: str | None = None
    snippet: str = ""
    before: tuple[Neighbour, ...] = ()
    after: tuple[Neighbour, ...] = ()
    tenant: str = ""
    stale: bool = False

    @property
    def place(self) -> str:
        """Where a reader finds it: ``report.pdf, page 12``, ``mail.eml > certificate.pdf``."""
        within = self.doc_id if self.part is None else f"{self.doc_id}{INSIDE}{self.part}"
        return within if self.page is None else f"{within}, page {self.page}"

    @property
    def background(self) -> str:
        """The context, if it says more than the place; else empty."""
        told = self.place.casefold()
        says_more = any(piece.casefold() not in told for piece in self.context.split(INSIDE))
        return self.context if says_more else ""


def chunk_id(tenant: str, doc_id: str, chunk_hash: str, occurrence: str) -> str:
    """Return the id of a chunk: it depends on its document, context and body, not its position.

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

    Fences are compared by ``epoch`` first, then by version, then by attempt. Of two attempts at the
    same version the later one wins: the worker of the earlier one has lost its lease. An epoch ends
    when a newer change has a smaller number, because its version is on the other scale; see
    `worker.pipeline.order`.
    """

    version: int
    attempt: int
    epoch: int = 0

    def is_newer_than(self, other: "Fence") -> bool:
        """Return whether a write under this fence may replace one under ``other``."""
        return (self.epoch, self.version, self.attempt) > (other.epoch, *other[:2])


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


class Rejection(Struct, frozen=True):
    """The newest version of a document that was rejected while an older one is in the index.

    The index has not held what the source holds since ``since_ms`` (Unix time of the worker that
    rejected the first such version). ``reason`` is that of ``version``, which was ``queued`` as in
    `ingestq.core.documents.Document`.
    """

    version: int
    since_ms: int
    reason: str
    queued: int = 0


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """What the index holds of one document.

    ``attempt`` is the fencing token of the job that wrote the entry, and ``epoch`` the rest of its
    fence. ``queued``, ``own`` and ``deleted_at`` order it among other changes of the document, see
    `worker.pipeline.order`. ``chunks`` is how many chunks
    there are. They carry the fence ``chunks_fence``, which is older than the entry's own fence if a
    later version had the same content; None if there are no chunks. ``chunks_digest`` is the
    `Digest` of their ids. While the entry is ``writing``, it has these only if a rebuild has copied
    it with what was stored. ``content_hash`` covers everything that is stored of the document.
    ``bytes_hash`` covers only the bytes of its content: it is the same when a file has moved.
    ``written_ms`` is the worker's Unix time. ``file`` is the state of the file that was read (see
    `ingestq.core.paths.file_state`). ``folders`` are the folders whose scans find the document (see
    `ingestq.core.paths.folders_of`); empty if it was not found by a scan. ``path``, ``url``,
    ``media_type``, ``metadata`` and ``volume`` are those of the document. ``warnings`` say what of
    it could not be read. ``enriched_by`` is the hook that added metadata to the chunks, with its
    version. ``rejection`` is set if a newer version was rejected; `worker.store.ledger` alone
    writes it.
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
    epoch: int = 0
    queued: int = 0
    own: int = 0
    deleted_at: int = 0
    chunks_fence: Fence | None = None
    chunks_digest: str = ""
    file: str | None = None
    folders: tuple[str, ...] = ()
    path: str | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}
    volume: Volume | None = None
    warnings: tuple[str, ...] = ()
    rejection: Rejection | None = None
    bytes_hash: str = ""
    url: str | None = None
    enriched_by: str = ""

    @property
    def key(self) -> DocumentKey:
        return DocumentKey(self.tenant, self.doc_id)

    @property
    def document(self) -> Document | None:
        """The document as it was indexed, so that it can be indexed again.

        None if it has no path or URL, because its content was sent, or if it exceeds the limits of
        this version (see `ingestq.core.limits`).
        """
        if self.path is None and self.url is None:
            return None
        try:
            return self.document_of(path=self.path, url=self.url)
        except ValueError:
            return None

    def document_of(
        self, *, path: str | None = None, url: str | None = None, text: str | None = None
    ) -> Document:
        """Return the document with this content. Raises ValueError if it exceeds the limits."""
        return Document(
            doc_id=self.doc_id,
            version=self.version,
            queued=self.queued,
            source=self.source,
            tenant=self.tenant,
            path=path,
            url=url,
            text=text,
            media_type=self.media_type,
            metadata=self.metadata,
            scanned=bool(self.folders),
            volume=self.volume,
        )

    @property
    def fence(self) -> Fence:
        return Fence(self.version, self.attempt, self.epoch)

    @property
    def issued(self) -> int:
        """When it was observed or queued: its place on the scale of the versions Redis issues."""
        return self.version if is_issued(self.version) else self.queued

    @property
    def indexed(self) -> bool:
        return self.state is EntryState.INDEXED

    @property
    def stale(self) -> Rejection | None:
        """Why the index holds an older version than the newest; None if it does not.

        A deleted document has nothing in the index that could be out of date.
        """
        return None if self.state is EntryState.DELETED else self.rejection

    @property
    def unfinished(self) -> bool:
        """True if a worker is writing or deleting the document, or died while it did."""
        return self.state not in (EntryState.INDEXED, EntryState.DELETED)


class BeginResult(Struct, frozen=True):
    """The ledger's answer to a worker that begins to write a document.

    ``entry`` is the document's entry now. If it is not ``ours``, another worker has changed the one
    that this worker has seen. ``first`` is True if the document was never written before, so that
    it has no chunks yet.
    """

    entry: LedgerEntry
    ours: bool
    first: bool


def composed_field(field: str, value: str) -> dict[str, str]:
    """Return what is stored so that ``value`` of ``field`` is found however it is typed.

    That is its NFC, in a field of its own, if ``value`` is in another form.
    """
    other = composed_if_other(value)
    return {} if other is None else {f"{field}{COMPOSED}": other}


def large_integers(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored so that integers beyond `COMPARABLE` are found by their value.

    That is, if ``metadata`` has any, the part of it that holds them, with each as text.
    """
    large = {key: found for key, value in metadata.items() if (found := _large(value))}
    return {LARGE_INTEGERS: large} if large else {}


def _large(value: Any) -> Any:
    match value:
        case dict():
            return {key: found for key, inner in value.items() if (found := _large(inner))}
        case list() | tuple():  # Qdrant looks for numbers in a list, but not in lists within it
            return [str(number) for number in value if is_large(number)]
        case _:
            return str(value) if is_large(value) else None


def is_large(value: Any) -> bool:
    """Return whether ``value`` is an integer that metadata can hold and Qdrant cannot compare."""
    return isinstance(value, int) and value not in COMPARABLE and value <= LARGEST_INTEGER


@lru_cache(CACHED_IDS)
def ledger_id(key: DocumentKey) -> str:
    """Return the point id of a document's ledger entry."""
    return str(uuid.uuid5(LEDGER_NAMESPACE, f"{key.tenant}\0{key.doc_id}"))
