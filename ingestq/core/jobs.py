"""The job contract: everything that travels between producers and workers.

All types are frozen, hold no connection, and are encoded as MessagePack with msgspec, which
validates them when decoding. The tag of a batch carries the version of the contract; a worker
that meets a tag it does not know refuses the job instead of guessing.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Self

import msgspec
from msgspec import Meta, Struct

from ingestq.core.blobs import QUEUE_WITHIN_MS, named_ms
from ingestq.core.documents import Deletion, Document, Item, Lane, Sweep
from ingestq.core.errors import ContractError
from ingestq.core.results import BatchReport, DeadLetter, DocumentCounts

INGEST: Final = "ingest"
"""Wire name of the job function that ingests a batch."""

DELETE: Final = "delete"
"""Wire name of the job function that deletes documents."""
SWEEP: Final = "sweep"
"""Wire name of the job function that removes what a scan did not find any more."""
LATEST_MS: Final = 253_402_300_799_999
"""The last Unix time in ms that is a date: the end of the year 9999."""


class _Batch(Struct, frozen=True):
    """The base of the batches. The documents of one share a tenant and a collection, and name it.

    Raises ValueError otherwise.
    """

    function: ClassVar[str]
    submission: str
    documents: tuple[Any, ...]
    lane: Lane = Lane.BULK

    def __post_init__(self) -> None:
        owners = {(document.collection, document.tenant) for document in self.documents}
        if len(owners) != 1 or self.documents[0].collection is None:
            raise ValueError("a batch holds documents that all name one collection and one tenant")

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
            key = (self.collection, document.tenant, document.doc_id, document.version)
            digest.update(msgspec.msgpack.encode(key))
        return f"{self.function}-{digest.hexdigest()}"

    @property
    def dead_letter_keys(self) -> tuple[str, ...]:
        """The keys of its documents' dead letters, in the order of the documents."""
        return tuple(
            dead_letter_key(self.collection, document.tenant, document.doc_id)
            for document in self.documents
        )

    @property
    def counted(self) -> int:
        """How many documents are accepted with it."""
        return len(self.documents)

    @property
    def objects(self) -> frozenset[str]:
        """The blobs that it names."""
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


class IngestBatch(_Batch, frozen=True, tag="ingest/1", omit_defaults=True):
    """Documents of one tenant to be indexed, in one job."""

    function = INGEST
    documents: tuple[Document, ...]

    @property
    def objects(self) -> frozenset[str]:
        return frozenset(d.blob for d in self.documents if d.blob is not None)


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


FULL_RETRY_SECONDS: Final = 0.2
"""How soon to offer a batch again that a full queue refused."""


class Job(
    Struct,
    frozen=True,
    rename={"function": "f", "args": "a", "kwargs": "k", "tries": "t", "enqueued_ms": "et"},
):
    """arq's own job envelope, with its field names, in MessagePack instead of pickle.

    A job has exactly one batch.
    """

    function: str
    args: tuple[Batch, ...]
    enqueued_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)]
    kwargs: dict[str, Any] = {}
    tries: int | None = None

    @property
    def batch(self) -> Batch:
        return self.args[0]

    @property
    def known_batch(self) -> Batch | None:
        """The batch, if the function is the one it was made for: it may be taken apart."""
        return self.batch if self.batch.function == self.function else None


_job_decoder = msgspec.msgpack.Decoder(Job)


def encode_job(batch: Batch, *, enqueued_ms: int) -> bytes:
    """Encode the job that works on ``batch``; ``enqueued_ms`` is Unix time at the producer."""
    return msgspec.msgpack.encode(Job(batch.function, (batch,), enqueued_ms))


def decode_job(payload: bytes) -> Job:
    """Decode a job from the queue.

    Raises ContractError for anything that is not a job of a known version.
    """
    try:
        return _job_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"not a job of a known version: {error}") from error


def blobs_in(payload: bytes) -> frozenset[str]:
    """The blobs that a job names. Raises ContractError as `decode_job` does."""
    return decode_job(payload).batch.objects


def dead_letter_key(collection: str, tenant: str, doc_id: str) -> str:
    """Return the key of a document's dead letter: it has one, a newer failure replaces an older.

    Says how long ``tenant`` is, as a colon may be in it and in ``doc_id``.
    """
    return f"{collection}/{len(tenant)}:{tenant}:{doc_id}"


def bury(
    batch: Batch, reason: str, *, tries: int, traceback: str = "", now_ms: int | None = None
) -> BatchReport:
    """Report ``batch`` as given up: one dead letter a document, each with a job of its own."""
    buried_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    documents: Sequence[Item] = batch.documents
    dead_letters = tuple(
        DeadLetter(
            key=key,
            doc_id=document.doc_id,
            tenant=document.tenant,
            collection=batch.collection,
            reason=reason,
            payload=encode_job(batch.alone(index), enqueued_ms=buried_ms),
            tries=tries,
            buried_ms=buried_ms,
            submission=batch.submission,
            traceback=traceback,
        )
        for index, (document, key) in enumerate(zip(documents, batch.dead_letter_keys, strict=True))
    )
    return BatchReport(documents=DocumentCounts(rejected=len(dead_letters)), dead=dead_letters)
