"""Jobs: the batches that travel from producers to workers, and their encoding.

All types are frozen, hold no connection, and are encoded as MessagePack with msgspec, which
validates them when decoding. A batch's tag carries the version of the format; a worker refuses a
job whose tag it does not know instead of guessing.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Final, Self

import msgspec
from msgspec import Meta, Struct

from ingestq.core.blobs import MAX_UPLOAD_AGE_MS, created_ms
from ingestq.core.documents import Deletion, Document, Item, Lane, Sweep, queued_at
from ingestq.core.errors import ContractError, InvalidJob, QueueFull
from ingestq.core.limits import METADATA_DEPTH, check_text
from ingestq.core.results import BatchReport, DeadLetter, DocumentCounts
from ingestq.core.tracing import TraceContext

INGEST: Final = "ingest"
"""Wire name of the job function that ingests a batch."""

DELETE: Final = "delete"
"""Wire name of the job function that deletes documents."""
SWEEP: Final = "sweep"
"""Wire name of the job function that deletes what a scan no longer found."""
LATEST_MS: Final = 253_402_300_799_999
"""The largest Unix time in ms that Python can turn into a date: the end of the year 9999."""


class _Batch(Struct, frozen=True):
    """Base class of batches. All documents of a batch name the same collection and tenant.

    Raises ValueError otherwise, or if the id ``submission`` is longer than 1 KiB.
    """

    function: ClassVar[str]
    submission: str
    documents: tuple[Any, ...]
    lane: Lane = Lane.BULK

    def __post_init__(self) -> None:
        check_text("submission", self.submission)
        owners = {(document.collection, document.tenant) for document in self.documents}
        if len(owners) != 1 or self.documents[0].collection is None:
            raise ValueError("all documents of a batch must name the same collection and tenant")

    @property
    def collection(self) -> str:
        """The collection that all documents name."""
        collection: str = self.documents[0].collection
        return collection

    @property
    def tenant(self) -> str:
        """The tenant of all documents."""
        tenant: str = self.documents[0].tenant
        return tenant

    @property
    def job_id(self) -> str:
        """The id of the job: a digest of the submission and of each document's id and version.

        The same batch sent twice is one job; a newer version of a document makes another one.
        """
        digest = hashlib.blake2b(self.submission.encode(), digest_size=16)
        for document in self.documents:
            key = (self.collection, document.tenant, document.doc_id, document.version)
            digest.update(msgspec.msgpack.encode(key))
        return f"{self.function}-{digest.hexdigest()}"

    @property
    def dead_letter_keys(self) -> tuple[str, ...]:
        """The keys of the documents' dead letters, in the order of the documents."""
        return tuple(
            dead_letter_key(self.collection, document.tenant, document.doc_id)
            for document in self.documents
        )

    @property
    def versions(self) -> dict[str, int]:
        """The version of each document, by the key of its dead letter; the newest of several."""
        versions: dict[str, int] = {}
        for key, document in zip(self.dead_letter_keys, self.documents, strict=True):
            versions[key] = max(versions.get(key, 0), document.version)
        return versions

    @property
    def accepted(self) -> int:
        """The number of documents that count as accepted when the batch is queued."""
        return len(self.documents)

    @property
    def blobs(self) -> frozenset[str]:
        """The names of the blobs that hold its contents."""
        return frozenset()

    @property
    def expires_ms(self) -> int | None:
        """The time in ms of the steady clock after which Redis refuses the batch, or None."""
        oldest = min(map(created_ms, self.blobs), default=None)
        return None if oldest is None else oldest + MAX_UPLOAD_AGE_MS

    def alone(self, index: int) -> Self:
        """Return a batch of the document at ``index`` only."""
        return msgspec.structs.replace(self, documents=(self.documents[index],))

    def queued_at(self, issued: int) -> Self:
        """Return the same batch, whose documents of own versions are queued under ``issued``."""
        documents = tuple(queued_at(issued, document) for document in self.documents)
        return msgspec.structs.replace(self, documents=documents)

    def with_submission(self, submission: str) -> Self:
        """Return the same batch as part of another submission."""
        return msgspec.structs.replace(self, submission=submission)


class IngestBatch(_Batch, frozen=True, tag="ingest/1", omit_defaults=True):
    """Documents of one tenant to be indexed, in one job."""

    function = INGEST
    documents: tuple[Document, ...]

    @property
    def blobs(self) -> frozenset[str]:
        return frozenset(d.blob for d in self.documents if d.blob is not None)


class DeleteBatch(_Batch, frozen=True, tag="delete/1", omit_defaults=True):
    """Documents of one tenant to be deleted from the index, in one job."""

    function = DELETE
    documents: tuple[Deletion, ...]


class SweepBatch(_Batch, frozen=True, tag="sweep/1", omit_defaults=True):
    """The end of a folder's scan, in one job.

    It counts no documents as accepted: how many it deletes is known only when it has run.
    """

    function = SWEEP
    documents: tuple[Sweep, ...]

    def allowed(self) -> Self:
        """Return the same batch with permission to delete whatever is gone."""
        sweeps = [msgspec.structs.replace(s, allow_mass_delete=True) for s in self.documents]
        return msgspec.structs.replace(self, documents=tuple(sweeps))

    @property
    def accepted(self) -> int:
        return 0


Batch = IngestBatch | DeleteBatch | SweepBatch


FULL_RETRY_SECONDS: Final = 0.2
"""Seconds to wait before offering a batch again that a full queue refused."""


class Job(
    Struct,
    frozen=True,
    rename={
        "function": "f",
        "args": "a",
        "kwargs": "k",
        "tries": "t",
        "enqueued_ms": "et",
        "trace": "tc",
    },
):
    """A job: arq's envelope with arq's field names, in MessagePack instead of pickle.

    It holds exactly one batch. ``enqueued_ms`` is Unix time at the producer, and ``trace`` the span
    in which it was queued, if that was recorded.
    """

    function: str
    args: tuple[Batch]
    enqueued_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)]
    kwargs: dict[str, Any] = {}
    tries: int | None = None
    trace: TraceContext | None = None

    @property
    def batch(self) -> Batch:
        """The batch that the job is for."""
        return self.args[0]

    @property
    def known_batch(self) -> Batch | None:
        """The batch if ``function`` is its own, so that its documents can be handled; else None."""
        return self.batch if self.batch.function == self.function else None


_job_decoder = msgspec.msgpack.Decoder(Job)


def encode_job(batch: Batch, *, enqueued_ms: int, trace: TraceContext | None = None) -> bytes:
    """Encode the job that works on ``batch``, see `Job`."""
    return msgspec.msgpack.encode(Job(batch.function, (batch,), enqueued_ms, trace=trace))


def decode_job(payload: bytes) -> Job:
    """Decode a job from the queue.

    Raises ContractError if ``payload`` is not a job of a known version, and InvalidJob if it is,
    but its documents are invalid.
    """
    try:
        return _job_decoder.decode(payload)
    except RecursionError as error:
        raise InvalidJob(f"it is nested far more than {METADATA_DEPTH} deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if isinstance(error.__cause__, ValueError | TypeError):  # of a document's own check
            raise InvalidJob(str(error)) from error
        raise ContractError(f"not a job of a known version: {error}") from error


def queue_full(refused: Iterable[Batch]) -> QueueFull:
    """Return the error that the queue has no space for the jobs of the batches ``refused``."""
    batches = list(refused)
    documents = [document.doc_id for batch in batches for document in batch.documents]
    return QueueFull(FULL_RETRY_SECONDS, frozenset(b.job_id for b in batches), documents)


def blobs_in(payload: bytes) -> frozenset[str]:
    """Return the names of the blobs that a job refers to. Raises as `decode_job` does."""
    return decode_job(payload).batch.blobs


def dead_letter_key(collection: str, tenant: str, doc_id: str) -> str:
    """Return the key of a document's dead letter. Each document has at most one.

    The key holds the length of ``tenant``, because both it and ``doc_id`` may contain a colon.
    """
    return f"{collection}/{len(tenant)}:{tenant}:{doc_id}"


_DEAD_LETTER_KEY: Final = re.compile(r"(?P<collection>[^/]+)/(?P<length>\d+):(?P<rest>(?s:.*))")


def dead_letter_place(key: str) -> tuple[str, str] | None:
    """Return the collection and the tenant in the ``key`` of a document's dead letter.

    None if it is the key of a job that could not be decoded.
    """
    named = _DEAD_LETTER_KEY.fullmatch(key)
    if named is None:
        return None
    return named["collection"], named["rest"][: int(named["length"])]


def dead_letter_batch(
    batch: Batch, reason: str, *, tries: int, traceback: str = "", now_ms: int | None = None
) -> BatchReport:
    """Return the report of a batch that failed for good, with one dead letter for each document.

    Each dead letter holds a job of its own, so that documents can be requeued one by one.
    ``tries`` is how often the batch failed; ``now_ms`` is Unix time, by default the clock's.
    """
    failed_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    documents: Sequence[Item] = batch.documents
    dead_letters = tuple(
        DeadLetter(
            key=key,
            doc_id=document.doc_id,
            version=document.version,
            tenant=document.tenant,
            collection=batch.collection,
            reason=reason,
            payload=encode_job(batch.alone(index), enqueued_ms=failed_ms),
            tries=tries,
            failed_ms=failed_ms,
            submission=batch.submission,
            traceback=traceback,
        )
        for index, (document, key) in enumerate(zip(documents, batch.dead_letter_keys, strict=True))
    )
    return BatchReport(documents=DocumentCounts(rejected=len(dead_letters)), dead=dead_letters)
