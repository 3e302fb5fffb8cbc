"""The job contract: everything that travels between producers and workers.

All types are frozen, hold no connection, and are encoded as MessagePack with msgspec, which
validates them when decoding. The tag of a command carries the version of the contract; a worker
that meets a tag it does not know refuses the job instead of guessing.
"""

import hashlib
import time
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.errors import ContractError

INGEST: Final = "ingest"
"""Wire name of the job function that ingests a batch."""

INLINE_TEXT_BYTES: Final = 64 * 1024
"""A file's text up to this size travels in the job; a larger file travels by its path."""


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document as a producer observed it.

    ``doc_id`` is unique within ``tenant``. ``version`` is an integer that only grows for one
    document: the caller's own, or Redis time in microseconds when the document was observed.
    ``source`` says where the document came from (a path, a URL). The content is either ``text``
    or ``path``, a file that the worker can read (see ``broker.paths``). ``media_type`` is a hint;
    the content decides. ``metadata`` is stored with every chunk.
    """

    doc_id: str
    version: int
    source: str
    tenant: str = ""
    text: str | None = None
    path: str | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.doc_id:
            raise ValueError("doc_id is empty")
        if self.version < 1:
            raise ValueError(f"version is {self.version}; it must be at least 1")
        if (self.text is None) == (self.path is None):
            raise ValueError("a document has either text or path")


class IngestBatch(Struct, frozen=True, tag="ingest/1"):
    """Documents that travel in one job. They share nothing but the way."""

    submission: str
    documents: tuple[Document, ...]

    @property
    def job_id(self) -> str:
        """Id made of the documents' identities and versions, and of the submission.

        The same batch sent twice is one job; a newer version of a document is another one.
        """
        digest = hashlib.blake2b(self.submission.encode(), digest_size=16)
        for document in self.documents:
            key = (document.tenant, document.doc_id, document.version)
            digest.update(msgspec.msgpack.encode(key))
        return f"{INGEST}-{digest.hexdigest()}"


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


class FailedDocument(Struct, frozen=True):
    """A document that was not indexed, and why."""

    doc_id: str
    reason: str


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A job that was given up, with everything needed to try it again.

    ``payload`` is the encoded job of this one document, or the bytes that could not be decoded;
    then ``doc_id`` is the id of the job. ``tries`` counts how often it failed, ``buried_ms`` is the
    Unix time in ms at the worker, ``traceback`` is empty where the reason says everything.
    """

    key: str
    doc_id: str
    reason: str
    payload: bytes
    tries: int
    buried_ms: int
    tenant: str = ""
    submission: str = ""
    traceback: str = ""


class BatchReport(Struct, frozen=True):
    """What became of a batch. ``healed`` are dead-letter keys of documents that now succeeded."""

    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()
    dead: tuple[DeadLetter, ...] = ()
    healed: tuple[str, ...] = ()


class Job(
    Struct,
    frozen=True,
    rename={"function": "f", "args": "a", "kwargs": "k", "tries": "t", "enqueued_ms": "et"},
):
    """arq's own job envelope, with its field names, in MessagePack instead of pickle."""

    function: str
    args: tuple[IngestBatch]
    enqueued_ms: int
    kwargs: dict[str, Any] = {}
    tries: int | None = None


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
    """arq's own result envelope, with its field names; the documents are left out of it."""

    function: str
    tries: int
    enqueued_ms: int
    success: bool
    result: BatchReport
    started_ms: int
    finished_ms: int
    queue: str
    job_id: str
    args: tuple[()] = ()
    kwargs: dict[str, Any] = {}


_job_decoder = msgspec.msgpack.Decoder(Job)


def encode_job(batch: IngestBatch, *, enqueued_ms: int) -> bytes:
    """Encode the job that ingests ``batch``."""
    return msgspec.msgpack.encode(Job(INGEST, (batch,), enqueued_ms))


def decode_job(payload: bytes) -> Job:
    """Decode a job from the queue.

    Raises ContractError for anything that is not a job of a known version.
    """
    try:
        return _job_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"not a job of a known version: {error}") from error


def dead_letter_key(document: Document) -> str:
    """Key of the document's dead letter: one a document, so a newer failure replaces an older."""
    return f"{document.tenant}:{document.doc_id}"


def bury(batch: IngestBatch, reason: str, *, tries: int, traceback: str = "") -> BatchReport:
    """Report ``batch`` as given up: one dead letter a document, each with a job of its own."""
    buried_ms = time.time_ns() // 1_000_000
    letters = tuple(
        DeadLetter(
            key=dead_letter_key(document),
            doc_id=document.doc_id,
            tenant=document.tenant,
            reason=reason,
            payload=encode_job(IngestBatch(batch.submission, (document,)), enqueued_ms=buried_ms),
            tries=tries,
            buried_ms=buried_ms,
            submission=batch.submission,
            traceback=traceback,
        )
        for document in batch.documents
    )
    return BatchReport(documents=DocumentCounts(rejected=len(letters)), dead=letters)
