"""How things stand: the queue, the workers, and what was submitted."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import msgspec
from msgspec import Struct

from broker.contract import ChunkCounts, Counts, DocumentCounts

SILENT_WORKER_MS: Final = 60_000
"""A worker that gave no sign of life for this long is forgotten."""


class QueueDepth(Struct, frozen=True):
    """The queue at one moment, in jobs.

    Every job is ready, deferred or in flight, and every job is in a lane. ``suspects`` are those of
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
    suspects: int

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
            "suspects": self.suspects,
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

    ``ready`` counts the ready jobs that name a collection, for each of them.
    """

    depth: QueueDepth
    workers: Sequence[WorkerSign]
    ready: Mapping[str, int] = {}

    @property
    def unserved(self) -> dict[str, int]:
        """The ready jobs of each collection that none of the workers serves."""
        served = {collection for worker in self.workers for collection in worker.collections}
        return {name: jobs for name, jobs in sorted(self.ready.items()) if name not in served}


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
