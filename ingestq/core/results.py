"""Results: receipts, counts, reports and dead letters; the state of queue and workers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec
from msgspec import Struct


class EnqueueResult(StrEnum):
    """The queue's answer to a batch that was offered."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"
    EXPIRED = "expired"
    """It refers to a blob that is too old, see `ingestq.core.blobs`."""


class Receipt(Struct, frozen=True):
    """Proof that documents are on the queue, and on disk in Redis.

    ``accepted`` counts documents that were queued, ``duplicates`` those of batches that were
    already on the queue. Follow the documents by the id ``submission``.
    """

    submission: str
    accepted: int
    duplicates: int


class DocumentCounts(Struct, frozen=True):
    """Documents counted by their outcome.

    ``unchanged`` were indexed already with the same content; ``superseded`` were older than what is
    indexed; ``rejected`` are dead letters.
    """

    indexed: int = 0
    unchanged: int = 0
    superseded: int = 0
    deleted: int = 0
    rejected: int = 0

    @property
    def total(self) -> int:
        """The number of documents that have an outcome."""
        return sum(msgspec.structs.astuple(self))


class ChunkCounts(Struct, frozen=True):
    """Chunks counted by what was done: embedded, reused with their vector, or deleted."""

    embedded: int = 0
    reused: int = 0
    deleted: int = 0

    def __add__(self, other: "ChunkCounts") -> "ChunkCounts":
        return _sum(self, other)


class FailedDocument(Struct, frozen=True):
    """A document that was not indexed, and the reason."""

    doc_id: str
    reason: str


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A document that failed for good, with everything needed to try it again.

    ``payload`` is the encoded job of this one document. If the job could not be decoded, it is the
    job as it came, ``doc_id`` is the id of the job, and ``documents`` is the number of documents in
    it. ``tries`` counts how often it failed. ``failed_ms`` is Unix time in ms at the worker.
    ``traceback`` is empty where the reason says everything.
    """

    key: str
    doc_id: str
    reason: str
    payload: bytes
    tries: int
    failed_ms: int
    documents: int = 1
    tenant: str = ""
    submission: str = ""
    traceback: str = ""
    collection: str

    @property
    def failed_at(self) -> str:
        """When the document failed for good (ISO 8601, UTC)."""
        return datetime.fromtimestamp(self.failed_ms / 1000, UTC).isoformat(timespec="seconds")


class BatchReport(Struct, frozen=True):
    """The outcome of a batch.

    ``dead`` has a dead letter for each rejected document. ``resolved`` has the keys of dead letters
    that are out of date, because a version of their document succeeded.
    """

    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()
    dead: tuple[DeadLetter, ...] = ()
    resolved: tuple[str, ...] = ()

    def __add__(self, other: "BatchReport") -> "BatchReport":
        return BatchReport(
            documents=_sum(self.documents, other.documents),
            chunks=self.chunks + other.chunks,
            dead=self.dead + other.dead,
            resolved=self.resolved + other.resolved,
        )


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
    """The result of a job in arq's own envelope, with arq's field names, without the documents.

    ``result`` is what the job returned or, if ``success`` is false, why it failed for good.
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


WORKER_TIMEOUT_MS: Final = 60_000
"""A worker that sent no heartbeat for this long is forgotten."""


class QueueDepth(Struct, frozen=True):
    """The queue at one moment, in jobs.

    Every job is ready, deferred or in flight, and every job is in a lane. ``poison`` counts the
    ready jobs whose workers died repeatedly; each of them runs alone.
    """

    ready: int
    deferred: int
    in_flight: int
    oldest_ready_seconds: float
    queued_bytes: int
    dead_letters: int
    interactive: int
    bulk: int
    poison: int

    def as_json(self) -> dict[str, float]:
        """Return the part ``queue`` of the JSON status, on whose keys other programs rely."""
        return {
            "ready": self.ready,
            "deferred": self.deferred,
            "in_flight": self.in_flight,
            "oldest_ready_seconds": round(self.oldest_ready_seconds, 3),
            "bytes": self.queued_bytes,
            "interactive": self.interactive,
            "bulk": self.bulk,
            "poison": self.poison,
        }


class JobCounts(NamedTuple):
    """The number of jobs for some collections, and how many of them are in flight."""

    jobs: int
    in_flight: int


class WorkerInfo(Struct, frozen=True):
    """What a worker reports with each heartbeat.

    ``running`` counts its jobs. The rates are those of the last minute. ``paused`` is the reason
    why it claims no jobs, if it does not. ``collections`` has those that it serves.
    """

    host: str
    pid: int
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None = None
    collections: tuple[str, ...] = ()


class WorkerStatus(Struct, frozen=True):
    """A worker's last heartbeat, with the fields of `WorkerInfo`."""

    id: str
    host: str
    pid: int
    seen_seconds_ago: float
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None = None
    collections: tuple[str, ...] = ()


class Overview(Struct, frozen=True):
    """The queue and the live workers at one moment.

    A worker is live if its last heartbeat is less than a minute old. ``ready`` counts the ready
    jobs of each collection.
    """

    depth: QueueDepth
    workers: Sequence[WorkerStatus]
    ready: Mapping[str, int] = {}

    @property
    def unserved(self) -> dict[str, int]:
        """The number of ready jobs of each collection that has some and that no worker serves."""
        served = {collection for worker in self.workers for collection in worker.collections}
        waiting = {name: jobs for name, jobs in sorted(self.ready.items()) if jobs}
        return {name: jobs for name, jobs in waiting.items() if name not in served}


class Stage(StrEnum):
    """The current stage of a submission: the furthest that any of its running jobs has reached."""

    WAITING = "waiting"
    READING = "reading"
    EMBEDDING = "embedding"
    DONE = "done"


class SubmissionStatus(Struct, frozen=True):
    """The progress of a submission: ``documents.total`` of ``accepted`` documents have an outcome.

    ``documents`` and ``chunks`` count the outcomes so far. ``jobs`` is the number of unfinished
    jobs; a folder scan among them may still add deletions. ``jobs_running`` of them are being
    processed, with ``chunks_running`` of their ``chunks_known`` chunks done.
    """

    accepted: int
    documents: DocumentCounts
    chunks: ChunkCounts
    jobs: int
    jobs_running: int
    chunks_running: int
    chunks_known: int

    @classmethod
    def of(cls, raw: Mapping[bytes, bytes]) -> Self:
        """Return the status that the hash of a submission holds in Redis."""
        fields = {name.decode(): value for name, value in raw.items()}
        counts = {name: int(n) for name, n in fields.items() if not name.startswith("live:")}
        live = [v.split(b"/") for name, v in fields.items() if name.startswith("live:")]
        return cls(
            accepted=counts.pop("accepted", 0),
            documents=_counts(counts, "documents", DocumentCounts),
            chunks=_counts(counts, "chunks", ChunkCounts),
            jobs=counts.pop("jobs", 0),
            jobs_running=len(live),
            chunks_running=sum(int(done) for done, _ in live),
            chunks_known=sum(int(known) for _, known in live),
        )

    @property
    def complete(self) -> bool:
        """True if every accepted document has an outcome and no job is left."""
        return self.documents.total >= self.accepted and not self.jobs

    @property
    def stage(self) -> Stage:
        """The stage that the submission has reached."""
        if self.complete:
            return Stage.DONE
        if not self.jobs_running:
            return Stage.WAITING
        return Stage.EMBEDDING if self.chunks_known else Stage.READING

    def as_json(self) -> dict[str, Any]:
        """Return the status as JSON, on whose keys other programs rely."""
        return {
            "accepted": self.accepted,
            "done": self.documents.total,
            "complete": self.complete,
            "stage": self.stage,
            "documents": msgspec.structs.asdict(self.documents),
            "chunks": msgspec.structs.asdict(self.chunks)
            | {"running": self.chunks_running, "known": self.chunks_known},
        }


def _counts(fields: dict[str, int], group: str, kind: type[Counts]) -> Counts:
    return kind(**{name: fields.get(f"{group}.{name}", 0) for name in kind.__struct_fields__})
