"""Results: receipts, counts, and the state of the queue, its workers and submissions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec
from msgspec import Struct


class EnqueueResult(StrEnum):
    """Answer of the queue to a batch."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"
    EXPIRED = "expired"
    """It names an blob that is too old, see `ingestq.core.blobs`."""


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

    ``payload`` is the encoded job of this one document. Of a job that could not be decoded it is
    the job as it came: then ``doc_id`` is the id of the job and ``documents`` says how many were in
    it. ``tries`` counts how often it failed, ``buried_ms`` is
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
    collection: str

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


SILENT_WORKER_MS: Final = 60_000
"""A worker that gave no sign of life for this long is forgotten."""


class QueueDepth(Struct, frozen=True):
    """The queue at one moment, in jobs.

    Every job is ready, deferred or in flight, and every job is in a lane. ``poison`` are those of
    the ready jobs whose workers died again and again: each is run alone.
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
        """The part ``queue`` of a status, as other programs rely on it."""
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


class JobsFor(NamedTuple):
    """The jobs of some collections that wait or run, and those of them that run."""

    jobs: int
    in_flight: int


class WorkerInfo(Struct, frozen=True):
    """What a worker says of itself with each sign of life; ``paused`` is why it claims nothing, and
    ``collections`` are those that it serves."""

    host: str
    pid: int
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None = None
    collections: tuple[str, ...] = ()


class WorkerSign(Struct, frozen=True):
    """A worker's last sign of life; the rates are those of the minute before it."""

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
    """The queue and the workers that gave a sign of life within the last minute, at one moment.

    ``ready`` counts the ready jobs of each collection.
    """

    depth: QueueDepth
    workers: Sequence[WorkerSign]
    ready: Mapping[str, int] = {}

    @property
    def unserved(self) -> dict[str, int]:
        """The number of ready jobs of each collection that has some and that no worker serves."""
        served = {collection for worker in self.workers for collection in worker.collections}
        waiting = {name: jobs for name, jobs in sorted(self.ready.items()) if jobs}
        return {name: jobs for name, jobs in waiting.items() if name not in served}


class Stage(StrEnum):
    """What is being done for a submission at the moment: the furthest that any job has come to."""

    WAITING = "waiting"
    READING = "reading"
    EMBEDDING = "embedding"
    DONE = "done"


class SubmissionStatus(Struct, frozen=True):
    """How far a submission is: ``documents.total`` of ``accepted`` documents came to their end.

    ``jobs`` are not finished; a sweep among them has no document yet. ``chunks_running`` of
    ``chunks_known`` chunks are done in the ``jobs_running``.
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
        """Read from the hash of a submission."""
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
        return self.documents.total >= self.accepted and not self.jobs

    @property
    def stage(self) -> Stage:
        if self.complete:
            return Stage.DONE
        if not self.jobs_running:
            return Stage.WAITING
        return Stage.EMBEDDING if self.chunks_known else Stage.READING

    def as_json(self) -> dict[str, Any]:
        """The status as other programs rely on it."""
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
