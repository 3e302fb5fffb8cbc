"""The producers' side of the queue: enqueue jobs within limits, and follow them."""

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
"""How long the counts of a submission are kept after their last change."""
MS_PER_HOUR: Final = 3600 * 1000
IDEMPOTENCY_SECONDS: Final = 24 * 3600
"""How long an idempotency key is remembered."""
PROGRESS_POLL_SECONDS: Final = 0.2
"""How often the progress of a submission is read while it is followed."""

retry_for_a_minute: Final = stamina.AsyncRetryingCaller(
    attempts=None, timeout=60.0, wait_initial=0.2, wait_max=5.0
).on(BrokerUnavailable)
"""Calls a function again while it raises BrokerUnavailable, for up to a minute."""


def lane_bound(bound: int) -> int:
    """Return the limit of one lane: nine tenths of the queue's, so that the other has space."""
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
        """Return Redis time in microseconds: the version of a document that is observed now."""
        with self._translated():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    async def space(self) -> tuple[str, int]:
        """Return the queue's space in the blob store, and Redis time in microseconds.

        See `ingestq.core.blobs` for spaces.
        """
        with self._translated():
            async with self._redis.pipeline() as pipe:
                pipe.setnx(keys.BLOB_SPACE, new_blob_space())
                pipe.get(keys.BLOB_SPACE)
                pipe.time()
                _, space, (seconds, microseconds) = await pipe.execute()
        return space.decode(), int(seconds) * 1_000_000 + int(microseconds)

    async def offer(self, batches: Sequence[Batch]) -> list[EnqueueResult]:
        """Offer a job for each batch, in one round trip; return the answers in the same order.

        On return, accepted jobs are as durable as the server's settings make them. If this raises,
        the outcome is unknown: offer the same batches again, which keep their job ids.

        Raises UploadExpired if a batch refers to a blob that is hours old; the outcome of the other
        batches is then unknown.
        """
        calls = [self._arguments(batch) for batch in batches]
        with self._translated():
            answers = await self._scripts.run_all(self._scripts.enqueue, calls)
        return [_answer(answer) for answer in answers]

    async def offer_once(self, batch: Batch, *, key: str, digest: str) -> tuple[EnqueueResult, str]:
        """Offer one job under an idempotency key; return the answer and the submission.

        For a day, the same ``key`` and ``digest`` queue nothing new: the answer is a duplicate,
        with the submission of the first call. Raises KeyReused if the digest differs.
        """
        arguments = (key, digest, IDEMPOTENCY_SECONDS, *self._arguments(batch))
        with self._translated():
            answer, submission = await self._scripts.enqueue_once(args=arguments)
        if answer == b"conflict":
            raise KeyReused(f"the idempotency key {key!r} was used before, for a different request")
        return _answer(answer), submission.decode()

    async def enqueue(
        self, batches: Sequence[Batch], *, patience: float | None = None
    ) -> list[EnqueueResult]:
        """Put a job for each batch on the queue; wait while it is full.

        Outages of Redis of up to a minute are waited out. Raises QueueFull if there is still no
        space after ``patience`` seconds, with the ids of the refused jobs; the others are on the
        queue. None waits without limit. Raises as `offer` does, too.
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
        """Return the state of the queue and its workers, in one round trip."""
        with self._translated():
            *counts, ready_by_collection, workers = await self._scripts.overview(
                args=[WORKER_TIMEOUT_MS]
            )
        ready, deferred, in_flight, waited_ms, *others = counts
        depth = QueueDepth(ready, deferred, in_flight, waited_ms / 1000, *others)
        pairs = zip(ready_by_collection[::2], ready_by_collection[1::2], strict=True)
        by_collection = {name.decode(): jobs for name, jobs in pairs}
        return Overview(depth, [_worker_status(*worker) for worker in workers], by_collection)

    async def depth(self) -> QueueDepth:
        """Count the jobs on the queue."""
        return (await self.overview()).depth

    async def workers(self) -> Sequence[WorkerStatus]:
        """Return the live workers: those with a heartbeat within the last minute."""
        return (await self.overview()).workers

    async def is_empty(self) -> bool:
        """Return whether no job is waiting or running."""
        with self._translated():
            return int(await self._redis.zcard(keys.QUEUE)) == 0

    async def count_jobs(self, collections: Iterable[str]) -> JobCounts:
        """Count the waiting and running jobs for ``collections``."""
        with self._translated():
            names = list(dict.fromkeys(collections))
            jobs, in_flight = await self._scripts.count(args=names)
        return JobCounts(jobs, in_flight)

    async def submission(self, submission: str) -> SubmissionStatus:
        """Return the progress of a submission. An unknown one has accepted 0 documents."""
        with self._translated():
            raw = await awaited(self._redis.hgetall(keys.SUBMISSION + submission))
        return SubmissionStatus.of(raw)

    async def progress(self, submission: str) -> AsyncIterator[SubmissionStatus]:
        """Yield the progress of a submission: now, and after each change, until it is complete.

        Outages of Redis of up to a minute are waited out. An unknown submission is complete.
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
        """Return the documents of a submission that were dead-lettered so far."""
        with self._translated():
            raw = await awaited(self._redis.lrange(keys.FAILED_DOCUMENTS + submission, 0, -1))
        return [msgspec.msgpack.decode(item, type=FailedDocument) for item in raw]

    def _arguments(self, batch: Batch) -> Sequence[Argument]:
        """Return the arguments of ``enqueue.lua`` for ``batch``."""
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
            f"the upload was not queued within {MAX_UPLOAD_AGE_MS // MS_PER_HOUR} hours; send it "
            "again"
        )
    return enqueued


def _worker_status(worker_id: bytes, silent_ms: int, info: bytes) -> WorkerStatus:
    reported = msgspec.structs.asdict(msgspec.msgpack.decode(info, type=WorkerInfo))
    return WorkerStatus(id=worker_id.decode(), seen_seconds_ago=silent_ms / 1000, **reported)
