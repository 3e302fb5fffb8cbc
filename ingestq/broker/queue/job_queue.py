"""The producers' side of the queue: enqueue within bounds, and read how things stand."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import msgspec
import stamina
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.scripts import Argument, Scripts
from ingestq.core.blobs import MAX_UPLOAD_AGE_MS, new_blob_space
from ingestq.core.errors import BrokerUnavailable, KeyReused, QueueFull, UploadExpired
from ingestq.core.jobs import FULL_RETRY_SECONDS, Batch, encode_job
from ingestq.core.results import (
    WORKER_TIMEOUT_MS,
    EnqueueResult,
    FailedDocument,
    JobCounts,
    Overview,
    QueueDepth,
    SubmissionStatus,
    WorkerInfo,
    WorkerStatus,
)

SUBMISSION_SECONDS: Final = 7 * 24 * 3600
"""How long a submission's counts are kept after they last changed."""
MS_PER_HOUR: Final = 3600 * 1000
IDEMPOTENCY_SECONDS: Final = 24 * 3600
"""How long a sender's idempotency key is remembered."""
PROGRESS_POLL_SECONDS: Final = 0.2
"""How often somebody who follows a submission looks at it."""

retry_for_a_minute: Final = stamina.AsyncRetryingCaller(
    attempts=None, timeout=60.0, wait_initial=0.2, wait_max=5.0
).on(BrokerUnavailable)
"""Calls again while Redis is away, for up to a minute."""


def lane_bound(bound: int) -> int:
    """How much of the queue's ``bound`` one lane may take: a tenth is kept for the other."""
    return bound - bound // 10


class JobQueue:
    """The queue as a producer sees it.

    Every method raises BrokerUnavailable while Redis cannot be used, and UsageError if it refuses
    the credentials.
    """

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def now(self) -> int:
        """Redis time in microseconds: the version of a document that is observed now."""
        with self._translated():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    async def space(self) -> tuple[str, int]:
        """The space of this queue in a blob store (see `ingestq.core.blobs`), and Redis time in
        µs."""
        with self._translated():
            async with self._redis.pipeline() as pipe:
                pipe.setnx(keys.BLOB_SPACE, new_blob_space())
                pipe.get(keys.BLOB_SPACE)
                pipe.time()
                _, space, (seconds, microseconds) = await pipe.execute()
        return space.decode(), int(seconds) * 1_000_000 + int(microseconds)

    async def offer(self, batches: Sequence[Batch]) -> list[EnqueueResult]:
        """Offer one job a batch, all in one round trip; answers in the same order.

        When this returns, what was accepted is as durable as the server's settings make it.
        If it raises, the outcome is unknown: offer the same batches again, they keep their ids.
        Raises UploadExpired if one of them has been offered for hours and names an object of the
        blob store; then the outcome of the others is unknown.
        """
        calls = [self._arguments(batch) for batch in batches]
        with self._translated():
            answers = await self._scripts.run_all(self._scripts.enqueue, calls)
        return [_answer(answer) for answer in answers]

    async def offer_once(self, batch: Batch, *, key: str, digest: str) -> tuple[EnqueueResult, str]:
        """Like `offer`, once for a ``key``; answers the submission, too.

        For a day the same ``key`` and ``digest`` queue nothing new: they are a duplicate, in the
        submission of the first time. Raises KeyReused if the digest is another one.
        """
        arguments = (key, digest, IDEMPOTENCY_SECONDS, *self._arguments(batch))
        with self._translated():
            answer, submission = await self._scripts.enqueue_once(args=arguments)
        if answer == b"conflict":
            raise KeyReused(f"the idempotency key {key!r} was sent before, with something else")
        return _answer(answer), submission.decode()

    async def enqueue(
        self, batches: Sequence[Batch], *, patience: float | None = None
    ) -> list[EnqueueResult]:
        """Like `offer`, but waits while the queue is full, and through a short outage of Redis:
        every batch is on the queue in the end.

        With ``patience`` it raises QueueFull when it has waited so many seconds for room. Some of
        the batches may be on the queue then.
        """
        answers = await retry_for_a_minute(self.offer, batches)
        started = time.monotonic()
        while EnqueueResult.FULL in answers:
            refused = [i for i, answer in enumerate(answers) if answer is EnqueueResult.FULL]
            if patience is not None and time.monotonic() - started >= patience:
                ids = frozenset(batches[i].job_id for i in refused)
                raise QueueFull(FULL_RETRY_SECONDS, ids)
            await asyncio.sleep(FULL_RETRY_SECONDS)
            again = await retry_for_a_minute(self.offer, [batches[i] for i in refused])
            for i, answer in zip(refused, again, strict=True):
                answers[i] = answer
        return answers

    async def overview(self) -> Overview:
        """Count the jobs on the queue, and look who works on them, in one round trip."""
        with self._translated():
            *counts, named, workers = await self._scripts.overview(args=[WORKER_TIMEOUT_MS])
        ready, deferred, in_flight, waited_ms, *others = counts
        depth = QueueDepth(ready, deferred, in_flight, waited_ms / 1000, *others)
        by_collection = {
            name.decode(): jobs for name, jobs in zip(named[::2], named[1::2], strict=True)
        }
        return Overview(depth, [_sign(*worker) for worker in workers], by_collection)

    async def depth(self) -> QueueDepth:
        """Count the jobs on the queue."""
        return (await self.overview()).depth

    async def workers(self) -> Sequence[WorkerStatus]:
        """The workers that gave a sign of life within the last minute."""
        return (await self.overview()).workers

    async def is_empty(self) -> bool:
        """Whether no job waits or runs."""
        with self._translated():
            return int(await self._redis.zcard(keys.QUEUE)) == 0

    async def count_jobs(self, collections: Iterable[str]) -> JobCounts:
        """Count the jobs that wait or run for ``collections``."""
        with self._translated():
            names = list(dict.fromkeys(collections))
            jobs, in_flight = await self._scripts.count(args=names)
        return JobCounts(jobs, in_flight)

    async def submission(self, submission: str) -> SubmissionStatus:
        """How far ``submission`` is. One that nobody knows has accepted no document."""
        with self._translated():
            raw = await awaited(self._redis.hgetall(keys.SUBMISSION + submission))
        return SubmissionStatus.of(raw)

    async def progress(self, submission: str) -> AsyncIterator[SubmissionStatus]:
        """How far ``submission`` is: now, and whenever that changed, until it is complete.

        Waits through a short outage of Redis.
        """
        seen = None
        while seen is None or not seen.complete:
            status = await retry_for_a_minute(self.submission, submission)
            if status != seen:
                yield status
                seen = status
            if not status.complete:
                await asyncio.sleep(PROGRESS_POLL_SECONDS)

    async def failed_documents(self, submission: str) -> list[FailedDocument]:
        """The documents of ``submission`` that were dead-lettered so far."""
        with self._translated():
            raw = await awaited(self._redis.lrange(keys.FAILED_DOCUMENTS + submission, 0, -1))
        return [msgspec.msgpack.decode(item, type=FailedDocument) for item in raw]

    def _arguments(self, batch: Batch) -> Sequence[Argument]:
        """What ``enqueue.lua`` is told of ``batch``."""
        return (
            batch.job_id,
            encode_job(batch, enqueued_ms=time.time_ns() // 1_000_000),
            batch.lane,
            batch.tenant,
            batch.collection,
            batch.submission,
            batch.accepted,
            SUBMISSION_SECONDS,
            self._config.max_queue_jobs,
            self._config.max_queue_bytes,
            lane_bound(self._config.max_queue_jobs),
            lane_bound(self._config.max_queue_bytes),
            "" if batch.expires_ms is None else batch.expires_ms,
        )

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def _answer(answer: bytes) -> EnqueueResult:
    enqueued = EnqueueResult(answer.decode())
    if enqueued is EnqueueResult.EXPIRED:
        raise UploadExpired(
            f"what was uploaded was not queued within {MAX_UPLOAD_AGE_MS // MS_PER_HOUR} hours; send "
            "it again"
        )
    return enqueued


def _sign(worker_id: bytes, silent_ms: int, info: bytes) -> WorkerStatus:
    said = msgspec.structs.asdict(msgspec.msgpack.decode(info, type=WorkerInfo))
    return WorkerStatus(id=worker_id.decode(), seen_seconds_ago=silent_ms / 1000, **said)
