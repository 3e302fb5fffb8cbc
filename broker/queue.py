"""The producers' side of the queue: enqueue within bounds, and read how things stand."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Final

import msgspec
import stamina
from arq.connections import ArqRedis
from msgspec import Struct

from broker import keys
from broker.connection import BrokerConfig, awaited, translated
from broker.contract import (
    Batch,
    ChunkCounts,
    Counts,
    DocumentCounts,
    FailedDocument,
    encode_job,
)
from broker.errors import BrokerUnavailable
from broker.scripts import Scripts

SUBMISSION_SECONDS: Final = 7 * 24 * 3600
"""How long a submission's counts are kept after they last changed."""
FULL_RETRY_SECONDS: Final = 0.2
"""How soon to offer a batch again that a full queue refused."""


patiently: Final = stamina.AsyncRetryingCaller(
    attempts=None, timeout=60.0, wait_initial=0.2, wait_max=5.0
).on(BrokerUnavailable)
"""Calls again while Redis is away, for up to a minute."""


class Enqueued(StrEnum):
    """Answer of the queue to a batch."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"


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


class WorkerInfo(Struct, frozen=True):
    """What a worker says of itself with each sign of life; ``paused`` is why it claims nothing."""

    host: str
    pid: int
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None = None


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


def lane_bound(bound: int) -> int:
    """How much of the queue's ``bound`` one lane may take: a tenth is kept for the other."""
    return bound - bound // 10


class JobQueue:
    """The queue as a producer sees it.

    Every method raises BrokerUnavailable while Redis cannot be used, and UsageError if it refuses
    the credentials.
    """

    def __init__(self, redis: ArqRedis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def now(self) -> int:
        """Redis time in microseconds: the version of a document that is observed now."""
        with self._translated():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    async def offer(self, batches: Sequence[Batch]) -> list[Enqueued]:
        """Offer one job a batch, all in one round trip; answers in the same order.

        When this returns, what was accepted is as durable as the server's settings make it.
        If it raises, the outcome is unknown: offer the same batches again, they keep their ids.
        """
        enqueued_ms = time.time_ns() // 1_000_000
        bounds = (
            self._config.max_queue_jobs,
            self._config.max_queue_bytes,
            lane_bound(self._config.max_queue_jobs),
            lane_bound(self._config.max_queue_bytes),
        )
        calls = [
            (
                batch.job_id,
                encode_job(batch, enqueued_ms=enqueued_ms),
                batch.lane,
                batch.tenant,
                batch.submission,
                batch.counted,
                SUBMISSION_SECONDS,
                *bounds,
            )
            for batch in batches
        ]
        with self._translated():
            answers = await self._scripts.run_all(self._scripts.enqueue, calls)
        return [Enqueued(answer.decode()) for answer in answers]

    async def enqueue(self, batches: Sequence[Batch]) -> list[Enqueued]:
        """Like `offer`, but waits while the queue is full, and through a short outage of Redis:
        every batch is on the queue in the end."""
        answers = await patiently(self.offer, batches)
        while Enqueued.FULL in answers:
            await asyncio.sleep(FULL_RETRY_SECONDS)
            refused = [i for i, answer in enumerate(answers) if answer is Enqueued.FULL]
            again = await patiently(self.offer, [batches[i] for i in refused])
            for i, answer in zip(refused, again, strict=True):
                answers[i] = answer
        return answers

    async def depth(self) -> QueueDepth:
        """Count the jobs on the queue."""
        with self._translated():
            ready, deferred, in_flight, waited_ms, *others = await self._scripts.depth()
        return QueueDepth(ready, deferred, in_flight, waited_ms / 1000, *others)

    async def is_empty(self) -> bool:
        """Whether no job waits or runs."""
        with self._translated():
            return int(await self._redis.zcard(keys.QUEUE)) == 0

    async def workers(self) -> list[WorkerSign]:
        """The workers that gave a sign of life within the last minute."""
        now_ms = await self.now() / 1000
        with self._translated():
            async with self._redis.pipeline() as pipe:
                pipe.zrange(keys.WORKERS, 0, -1, withscores=True)
                pipe.hgetall(keys.WORKER_INFO)
                seen, infos = await pipe.execute()
        signs = []
        for worker_id, seen_ms in seen:
            info = msgspec.msgpack.decode(infos[worker_id], type=WorkerInfo)
            seconds_ago = (now_ms - seen_ms) / 1000
            signs.append(
                WorkerSign(
                    id=worker_id.decode(),
                    seen_seconds_ago=seconds_ago,
                    **msgspec.structs.asdict(info),
                )
            )
        return signs

    async def submission(self, submission: str) -> SubmissionStatus:
        """How far ``submission`` is. One that nobody knows has accepted no document."""
        with self._translated():
            raw = await awaited(self._redis.hgetall(keys.SUBMISSION + submission))
        fields = {name.decode(): value for name, value in raw.items()}
        counts = {name: int(n) for name, n in fields.items() if not name.startswith("live:")}
        live = [v.split(b"/") for name, v in fields.items() if name.startswith("live:")]
        return SubmissionStatus(
            accepted=counts.pop("accepted", 0),
            documents=_counts(counts, "documents", DocumentCounts),
            chunks=_counts(counts, "chunks", ChunkCounts),
            jobs=counts.pop("jobs", 0),
            jobs_running=len(live),
            chunks_running=sum(int(done) for done, _ in live),
            chunks_known=sum(int(known) for _, known in live),
        )

    async def failed_documents(self, submission: str) -> list[FailedDocument]:
        """The documents of ``submission`` that were dead-lettered so far."""
        with self._translated():
            raw = await awaited(self._redis.lrange(keys.FAILED_DOCUMENTS + submission, 0, -1))
        return [msgspec.msgpack.decode(item, type=FailedDocument) for item in raw]

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._config)


def _counts(fields: dict[str, int], group: str, kind: type[Counts]) -> Counts:
    return kind(**{name: fields.get(f"{group}.{name}", 0) for name in kind.__struct_fields__})
