"""The job contract: everything that travels between producers and workers.

All types are frozen, hold no connection, and are encoded as MessagePack with msgspec, which
validates them when decoding. The tag of a command carries the version of the contract; a worker
that meets a tag it does not know refuses the job instead of guessing.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

from broker.errors import ContractError
from broker.spool.names import QUEUE_WITHIN_MS, is_name, named_ms

INGEST: Final = "ingest"
"""Wire name of the job function that ingests a batch."""

DELETE: Final = "delete"
"""Wire name of the job function that deletes documents."""
SWEEP: Final = "sweep"
"""Wire name of the job function that removes what a scan did not find any more."""
MAX_VERSION: Final = 2**53 - 1
"""Qdrant compares numbers as 64-bit floats, which hold integers exactly up to here."""
LATEST_MS: Final = 253_402_300_799_999
"""The last Unix time in ms that is a date: the end of the year 9999."""

COLLECTION_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What collections may be called."""
_is_collection = re.compile(COLLECTION_NAME).fullmatch

INLINE_TEXT_BYTES: Final = 64 * 1024
"""Text up to this size travels in the job; a larger one by its path, or through the spool."""


def _check_identity(doc_id: str, version: int, collection: str) -> None:
    if collection and not _is_collection(collection):
        raise ValueError(f"collection is {collection!r}; it must match {COLLECTION_NAME}")
    if not doc_id:
        raise ValueError("doc_id is empty")
    if not 1 <= version <= MAX_VERSION:
        raise ValueError(f"version is {version}; it must be from 1 to {MAX_VERSION}")


class Lane(StrEnum):
    """Which of two lines a job stands in: neither can hold up the other.

    ``interactive`` is for documents that somebody waits for, ``bulk`` for everything else.
    """

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document as a producer observed it.

    ``doc_id`` is unique within ``tenant``, and that within ``collection``, the public name of the
    one that it is meant for; empty for the one that the worker is set to. ``version`` is an integer
    that only grows for one document: the caller's own, or Redis time in microseconds when the
    document was observed. ``source`` says where the document came from (a path, a URL). The content
    is either ``text``, or ``path``, a file that the worker can read (see ``broker.paths``), or
    ``spooled``, an object in the spool (see ``broker.spool``). ``media_type`` is a hint; the
    content decides. ``metadata`` is stored with every chunk. ``file`` names the state of the file
    at ``path``: while it is the one that is indexed, the file need not be read. ``scanned`` says
    that it was found in the file system: it is gone when a later scan of a folder it lies in does
    not find it. ``handed_over`` says that the file at ``path`` is taken away once it is known
    what became of it: later there is none to compare with.
    """

    doc_id: str
    version: int
    source: str
    tenant: str = ""
    text: str | None = None
    path: str | None = None
    spooled: str | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}
    file: str | None = None
    scanned: bool = False
    collection: str = ""
    handed_over: bool = False

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)
        if (self.text, self.path, self.spooled).count(None) != 2:
            raise ValueError("a document has either text, or path, or spooled")
        if self.spooled is not None and not is_name(self.spooled):
            raise ValueError("spooled is not the name of an object")


class Deletion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document that is gone, as of ``version`` (see `Document`)."""

    doc_id: str
    version: int
    tenant: str = ""
    collection: str = ""

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)


class Sweep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A folder that was scanned: what the index has of it and the scan did not find is gone.

    ``doc_id`` is the id of the folder, which those of its documents begin with. ``version`` is when
    the scan began, ``seen`` what it saw (see `broker.seen`), be it documents or folders that could
    not be read: of what lies in those nothing is known. Unless ``allow_mass_delete`` nothing is
    removed if suspiciously much would be.
    """

    doc_id: str
    version: int
    seen: bytes
    tenant: str = ""
    allow_mass_delete: bool = False
    collection: str = ""

    def __post_init__(self) -> None:
        _check_identity(self.doc_id, self.version, self.collection)


Item = Document | Deletion | Sweep
"""What a batch holds."""
AnyItem = TypeVar("AnyItem", Document, Deletion, Sweep)


def meant_for(collection: str, item: AnyItem) -> AnyItem:
    """``item``, for ``collection`` unless it names one itself."""
    if item.collection or not collection:
        return item
    return msgspec.structs.replace(item, collection=collection)


class _Batch(Struct, frozen=True):
    """What the batches have in common: their documents share collection, tenant and way."""

    function: ClassVar[str]
    submission: str
    documents: tuple[Any, ...]
    lane: Lane = Lane.BULK

    def __post_init__(self) -> None:
        if len({(document.collection, document.tenant) for document in self.documents}) != 1:
            raise ValueError("a batch holds documents, all of one collection and one tenant")

    @property
    def collection(self) -> str:
        collection: str = self.documents[0].collection
        return collection

    @property
    def tenant(self) -> str:
        tenant: str = self.documents[0].tenant
        return tenant

    @property
    def job_id(self) -> str:
        """Id made of the documents' identities and versions, and of the submission.

        The same batch sent twice is one job; a newer version of a document is another one.
        """
        digest = hashlib.blake2b(self.submission.encode(), digest_size=16)
        for document in self.documents:
            collection = (document.collection,) if document.collection else ()
            key = (*collection, document.tenant, document.doc_id, document.version)
            digest.update(msgspec.msgpack.encode(key))
        return f"{self.function}-{digest.hexdigest()}"

    @property
    def counted(self) -> int:
        """How many documents are accepted with it."""
        return len(self.documents)

    @property
    def objects(self) -> frozenset[str]:
        """The objects of the spool that it names."""
        return frozenset()

    @property
    def expires_ms(self) -> int | None:
        """Until when, in Redis time, it may be put on the queue; None if it does not matter."""
        oldest = min(map(named_ms, self.objects), default=None)
        return None if oldest is None else oldest + QUEUE_WITHIN_MS

    def alone(self, index: int) -> Self:
        """The batch of one of its documents."""
        return msgspec.structs.replace(self, documents=(self.documents[index],))

    def within(self, submission: str) -> Self:
        """The same batch as part of another submission."""
        return msgspec.structs.replace(self, submission=submission)

    def meant_for(self, collection: str) -> Self:
        """The same batch, for ``collection`` unless it names one itself."""
        documents = tuple(meant_for(collection, document) for document in self.documents)
        return msgspec.structs.replace(self, documents=documents)


class IngestBatch(_Batch, frozen=True, tag="ingest/1", omit_defaults=True):
    """Documents of one tenant to be indexed, in one job."""

    function = INGEST
    documents: tuple[Document, ...]

    @property
    def objects(self) -> frozenset[str]:
        return frozenset(d.spooled for d in self.documents if d.spooled is not None)


class DeleteBatch(_Batch, frozen=True, tag="delete/1", omit_defaults=True):
    """Documents of one tenant to be removed from the index, in one job."""

    function = DELETE
    documents: tuple[Deletion, ...]


class SweepBatch(_Batch, frozen=True, tag="sweep/1", omit_defaults=True):
    """The scan of a folder, in one job. How many documents it removes is known at its end."""

    function = SWEEP
    documents: tuple[Sweep, ...]

    @property
    def counted(self) -> int:
        return 0


Batch = IngestBatch | DeleteBatch | SweepBatch


class _IngestInto(IngestBatch, frozen=True, tag="ingest/2", omit_defaults=True):
    """How a batch travels that names a collection: a worker that knows of none refuses it."""


class _DeleteFrom(DeleteBatch, frozen=True, tag="delete/2", omit_defaults=True):
    """The same of a `DeleteBatch`."""


class _SweepFrom(SweepBatch, frozen=True, tag="sweep/2", omit_defaults=True):
    """The same of a `SweepBatch`."""


_TRAVELS_AS: Final[dict[type[Batch], type[Batch]]] = {
    IngestBatch: _IngestInto,
    DeleteBatch: _DeleteFrom,
    SweepBatch: _SweepFrom,
}
_ARRIVES_AS: Final = {travelling: batch for batch, travelling in _TRAVELS_AS.items()}


FULL_RETRY_SECONDS: Final = 0.2
"""How soon to offer a batch again that a full queue refused."""


class Enqueued(StrEnum):
    """Answer of the queue to a batch."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"
    EXPIRED = "expired"
    """It names an object of the spool that is too old, see `broker.spool.names`."""


class Receipt(Struct, frozen=True):
    """What a producer gets once its documents are on disk in Redis."""

    submission: str
    accepted: int
    duplicates: int


class DocumentCounts(Struct, frozen=True):
    """How many documents came to which end."""

    indexed: int = 0
    unchanged: int = 0
    superseded: int = 0
    deleted: int = 0
    rejected: int = 0

    @property
    def total(self) -> int:
        return sum(msgspec.structs.astuple(self))


class ChunkCounts(Struct, frozen=True):
    """What was done to chunks: embedded anew, kept with their vector, removed."""

    embedded: int = 0
    reused: int = 0
    deleted: int = 0

    def __add__(self, other: "ChunkCounts") -> "ChunkCounts":
        return _sum(self, other)


class FailedDocument(Struct, frozen=True):
    """A document that was not indexed, and why."""

    doc_id: str
    reason: str


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A job that was given up, with everything needed to try it again.

    ``payload`` is the encoded job of this one document. Of a job that could not be decoded, or that
    has no documents, it is the job as it came: then ``doc_id`` is the id of the job and
    ``documents`` says how many were in it. ``tries`` counts how often it failed, ``buried_ms`` is
    Unix time in ms at the worker, ``traceback`` is empty where the reason says everything.
    """

    key: str
    doc_id: str
    reason: str
    payload: bytes
    tries: int
    buried_ms: int
    documents: int = 1
    tenant: str = ""
    submission: str = ""
    traceback: str = ""
    collection: str = ""

    @property
    def buried(self) -> str:
        """When it was given up, as other programs read it (ISO 8601, UTC)."""
        return datetime.fromtimestamp(self.buried_ms / 1000, UTC).isoformat(timespec="seconds")


class BatchReport(Struct, frozen=True):
    """What became of a batch. ``healed`` are dead-letter keys of documents that now succeeded."""

    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()
    dead: tuple[DeadLetter, ...] = ()
    healed: tuple[str, ...] = ()

    def __add__(self, other: "BatchReport") -> "BatchReport":
        return BatchReport(
            documents=_sum(self.documents, other.documents),
            chunks=self.chunks + other.chunks,
            dead=self.dead + other.dead,
            healed=self.healed + other.healed,
        )


class Job(
    Struct,
    frozen=True,
    rename={"function": "f", "args": "a", "kwargs": "k", "tries": "t", "enqueued_ms": "et"},
):
    """arq's own job envelope, with its field names, in MessagePack instead of pickle.

    A job has one batch, or no argument at all (a run of a cron job).
    """

    function: str
    args: tuple[Batch | _IngestInto | _DeleteFrom | _SweepFrom, ...]
    enqueued_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)]
    kwargs: dict[str, Any] = {}
    tries: int | None = None

    def __post_init__(self) -> None:
        if len(self.args) > 1:
            raise ValueError("a job has at most one batch")

    @property
    def batch(self) -> Batch | None:
        return self.args[0] if self.args else None

    @property
    def known_batch(self) -> Batch | None:
        """The batch, if the function is the one it was made for: it may be taken apart."""
        return self.batch if self.batch and self.batch.function == self.function else None


class JobResult(
    Struct,
    frozen=True,
    rename={
        "function": "f",
        "args": "a",
        "kwargs": "k",
        "tries": "t",
        "enqueued_ms": "et",
        "success": "s",
        "result": "r",
        "started_ms": "st",
        "finished_ms": "ft",
        "queue": "q",
        "job_id": "id",
    },
):
    """arq's own result envelope, with its field names; the documents are left out of it.

    ``result`` is what the job returned or, without ``success``, why it was given up.
    """

    function: str
    tries: int
    enqueued_ms: int
    success: bool
    result: Any
    started_ms: int
    finished_ms: int
    queue: str
    job_id: str
    aborted: bool = False
    args: tuple[()] = ()
    kwargs: dict[str, Any] = {}


Counts = TypeVar("Counts", DocumentCounts, ChunkCounts)


def _sum(left: Counts, right: Counts) -> Counts:
    pairs = zip(msgspec.structs.astuple(left), msgspec.structs.astuple(right), strict=True)
    return type(left)(*(a + b for a, b in pairs))


_job_decoder = msgspec.msgpack.Decoder(Job)


def encode_job(batch: Batch, *, enqueued_ms: int) -> bytes:
    """Encode the job that works on ``batch``; ``enqueued_ms`` is Unix time at the producer."""
    travelling = _as(_TRAVELS_AS[type(batch)], batch) if batch.collection else batch
    return msgspec.msgpack.encode(Job(batch.function, (travelling,), enqueued_ms))


def decode_job(payload: bytes) -> Job:
    """Decode a job from the queue.

    Raises ContractError for anything that is not a job of a known version.
    """
    try:
        job = _job_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"not a job of a known version: {error}") from error
    arrived = tuple(_as(_ARRIVES_AS.get(type(batch), type(batch)), batch) for batch in job.args)
    return msgspec.structs.replace(job, args=arrived)


def _as(kind: type[Batch], batch: Batch) -> Batch:
    return batch if type(batch) is kind else kind(*msgspec.structs.astuple(batch))


def objects_in(payload: bytes) -> frozenset[str]:
    """The objects of the spool that a job names. Raises ContractError as `decode_job` does."""
    batch = decode_job(payload).batch
    return frozenset() if batch is None else batch.objects


def dead_letter_key(document: Item) -> str:
    """Key of the document's dead letter: one a document, so a newer failure replaces an older."""
    return letter_key(document.collection, document.tenant, document.doc_id)


def letter_key(collection: str, tenant: str, doc_id: str) -> str:
    """The same, of a document that is not at hand."""
    return f"{collection}/{tenant}:{doc_id}" if collection else f"{tenant}:{doc_id}"


def bury(batch: Batch, reason: str, *, tries: int, traceback: str = "") -> BatchReport:
    """Report ``batch`` as given up: one dead letter a document, each with a job of its own."""
    buried_ms = time.time_ns() // 1_000_000
    documents: Sequence[Item] = batch.documents
    letters = tuple(
        DeadLetter(
            key=dead_letter_key(document),
            doc_id=document.doc_id,
            tenant=document.tenant,
            collection=document.collection,
            reason=reason,
            payload=encode_job(batch.alone(index), enqueued_ms=buried_ms),
            tries=tries,
            buried_ms=buried_ms,
            submission=batch.submission,
            traceback=traceback,
        )
        for index, document in enumerate(documents)
    )
    return BatchReport(documents=DocumentCounts(rejected=len(letters)), dead=letters)
