"""The producers' side of the queue: enqueue jobs within limits, and follow them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import starmap
from typing import Final

import msgspec
import stamina
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.queue.versions import compare_ledger
from ingestq.broker.scripts import Argument, Scripts
from ingestq.broker.watched_folders import FOLDER_TIMEOUT_MS, decoded_folder
from ingestq.broker.webhooks import decoded_backlog
from ingestq.core import metrics, tracing
from ingestq.core.blobs import MAX_UPLOAD_AGE_MS, new_blob_space
from ingestq.core.documents import needs_queued
from ingestq.core.errors import BrokerUnavailable, KeyReused, UploadExpired
from ingestq.core.jobs import FULL_RETRY_SECONDS, Batch, encode_job, queue_full
from ingestq.core.results import (
    WORKER_TIMEOUT_MS,
    DocumentWarning,
    EnqueueResult,
    FailedDocument,
    HeldSource,
    JobCounts,
    Overview,
    QueueDepth,
    SubmissionStatus,
    WorkerInfo,
    WorkerStatus,
)
from ingestq.core.versions import LedgerHead

WRITE_PROBE_SECONDS: Final = 60
SUBMISSION_SECONDS: Final = 7 * 24 * 3600
"""How long the counts of a submission are kept after their last change."""
WARNINGS_SECONDS: Final = 24 * 3600
"""How long the warnings of a submission are listed after its last job. Shorter than the counts,
because each scan of a watched folder lists those of its unchanged documents again."""
MS_PER_HOUR: Final = 3600 * 1000
IDEMPOTENCY_SECONDS: Final = 24 * 3600
"""How long an idempotency key is remembered."""
PROGRESS_POLL_SECONDS: Final = 0.2
"""How often the progress of a submission is read while it is followed."""

MESSAGING: Final[tracing.Attributes] = {
    "messaging.system": "redis",
    "messaging.destination.name": keys.QUEUE,
}
"""Attributes of every span about the queue."""
ENQUEUE: Final[tracing.Attributes] = {
    **MESSAGING,
    "messaging.operation.name": "enqueue",
    "messaging.operation.type": "send",
}

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

    async def issue_version(self) -> int:
        """Issue the version of documents that are observed from now on.

        It is larger than every version that was issued or queued before, even if the clock of Redis
        was set back: Redis time in microseconds, or the last version and one.
        """
        return (await self.issue_versions(1)).start

    async def issue_versions(self, count: int) -> range:
        """Issue ``count`` consecutive versions at once; see `issue_version`."""
        with self._translated():
            first = int(await self._scripts.issue_versions(args=[count]))
        return range(first, first + count)

    async def compare_ledger(self, collection: str, head: LedgerHead) -> None:
        """Let all further versions be larger than those in the ledger of ``collection``."""
        with self._translated():
            await compare_ledger(self._scripts, collection, head)

    async def space(self) -> tuple[str, int]:
        """Return the queue's space in the blob store, and its steady clock in microseconds.

        See `ingestq.core.blobs` for spaces. The steady clock is Redis time that never goes back,
        nor forwards by more than a week at once.
        """
        with self._translated():
            space, steady_ms = await self._scripts.name_blob(args=[new_blob_space()])
        return space.decode(), steady_ms * 1000

    async def offer(self, batches: Sequence[Batch]) -> list[EnqueueResult]:
        """Offer a job for each batch, in one round trip; return the answers in the same order.

        On return, accepted jobs are as durable as the server's settings make them, and as many
        replicas have them as the configuration asks for. If this raises, the outcome is unknown:
        offer the same batches again, which keep their job ids.

        Raises UploadExpired if a batch refers to a blob that is hours old; the outcome of the other
        batches is then unknown.
        """
        with _enqueue_span(batches):
            return await self._offer(batches)

    async def _offer(self, batches: Sequence[Batch]) -> list[EnqueueResult]:
        calls = [self._arguments(batch) for batch in await self._stamped(batches)]
        with self._translated():
            answers = await self._scripts.run_all(
                self._scripts.enqueue, calls, replicas=self._config.receipt_replicas
            )
        return [_counted(batch, answer) for batch, answer in zip(batches, answers, strict=True)]

    async def offer_once(self, batch: Batch, *, key: str, digest: str) -> tuple[EnqueueResult, str]:
        """Offer one job under an idempotency key; return the answer and the submission.

        For a day, the same ``key`` and ``digest`` queue nothing new: the answer is a duplicate,
        with the submission of the first call. Raises KeyReused if the digest differs. Each tenant
        has keys of its own.
        """
        name = f"{key}\n{batch.tenant}" if batch.tenant else key  # a header has no line break
        with _enqueue_span([batch]):
            [stamped] = await self._stamped([batch])
            arguments = (name, digest, IDEMPOTENCY_SECONDS, *self._arguments(stamped))
            with self._translated():
                [(answer, submission)] = await self._scripts.run_all(
                    self._scripts.enqueue_once, [arguments], replicas=self._config.receipt_replicas
                )
        if answer == b"conflict":
            sent = key.partition("\n")[0]  # what follows says whose it is
            raise KeyReused(
                f"the idempotency key {sent!r} was used before, for a different request"
            )
        return _counted(batch, answer), submission.decode()

    async def enqueue(
        self, batches: Sequence[Batch], *, patience: float | None = None
    ) -> list[EnqueueResult]:
        """Put a job for each batch on the queue; wait while it is full.

        Outages of Redis of up to a minute are waited out. Raises QueueFull if there is still no
        space after ``patience`` seconds, with the ids of the refused jobs and their documents; the
        others are on the queue. None waits without limit. Raises as `offer` does, too.
        """
        with _enqueue_span(batches):
            return await self._enqueue(batches, patience)

    async def _enqueue(
        self, batches: Sequence[Batch], patience: float | None
    ) -> list[EnqueueResult]:
        answers = await retry_for_a_minute(self._offer, batches)
        started = time.monotonic()
        while EnqueueResult.FULL in answers:
            refused = [i for i, answer in enumerate(answers) if answer is EnqueueResult.FULL]
            if patience is not None and time.monotonic() - started >= patience:
                raise queue_full(batches[i] for i in refused)
            await asyncio.sleep(FULL_RETRY_SECONDS)
            again = await retry_for_a_minute(self._offer, [batches[i] for i in refused])
            for i, answer in zip(refused, again, strict=True):
                answers[i] = answer
        return answers

    async def overview(self) -> Overview:
        """Return the state of the queue, its workers and the watched folders in one round trip."""
        with self._translated():
            answer = await self._scripts.overview(args=[WORKER_TIMEOUT_MS, FOLDER_TIMEOUT_MS])
        *counts, ready_by_collection, workers, versions_ahead_ms, expired, folders = answer[:-2]
        held, webhooks = answer[-2:]
        ready, deferred, in_flight, waited_ms, *others = counts
        depth = QueueDepth(ready, deferred, in_flight, waited_ms / 1000, *others)
        pairs = zip(ready_by_collection[::2], ready_by_collection[1::2], strict=True)
        by_collection = {name.decode(): jobs for name, jobs in pairs}
        return Overview(
            depth,
            [_worker_status(*worker) for worker in workers],
            by_collection,
            versions_ahead_seconds=versions_ahead_ms / 1000,
            expired_dead_letters=expired,
            watched_folders=sorted(map(decoded_folder, folders), key=lambda status: status.folder),
            held_back=sorted(starmap(_held_source, held), key=lambda source: source.source),
            webhooks=sorted(starmap(decoded_backlog, webhooks), key=lambda each: each.target),
        )

    async def check_writable(self) -> None:
        """Write to Redis what expires soon. Raises BrokerUnavailable if it accepts no writes."""
        with self._translated():
            await awaited(self._redis.set(keys.WRITE_PROBE, "1", ex=WRITE_PROBE_SECONDS))

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

    async def warnings(self, submission: str) -> list[DocumentWarning]:
        """Return the first `LISTED_WARNINGS` warnings of a submission's documents so far.

        They are listed for a day after its last change, and counted for a week.
        """
        with self._translated():
            raw = await awaited(self._redis.lrange(keys.DOCUMENT_WARNINGS + submission, 0, -1))
        return [msgspec.msgpack.decode(item, type=DocumentWarning) for item in raw]

    async def _stamped(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return ``batches`` with the version under which documents of own versions are queued."""
        if not any(needs_queued(document) for batch in batches for document in batch.documents):
            return batches
        issued = await self.issue_version()
        return [batch.queued_at(issued) for batch in batches]

    def _arguments(self, batch: Batch) -> Sequence[Argument]:
        """Return the arguments of ``enqueue.lua`` for ``batch``."""
        return (
            batch.job_id,
            encode_job(batch, enqueued_ms=time.time_ns() // 1_000_000, trace=tracing.current()),
            batch.lane,
            batch.tenant,
            batch.collection,
            batch.submission,
            batch.accepted,
            max(document.version for document in batch.documents),
            self._config.max_queue_jobs,
            self._config.max_queue_bytes,
            lane_bound(self._config.max_queue_jobs),
            lane_bound(self._config.max_queue_bytes),
            "" if batch.expires_ms is None else batch.expires_ms,
        )

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


@contextmanager
def _enqueue_span(batches: Sequence[Batch]) -> Iterator[None]:
    """Record that ``batches`` are put on the queue; the spans of their jobs become its children."""
    with tracing.span(f"enqueue {keys.QUEUE}", "producer", ENQUEUE) as span:
        if span.is_recording and batches:
            span.set({"ingestq.documents": sum(len(batch.documents) for batch in batches)})
            if len(batches) == 1:
                span.set(about_batch(batches[0]))
            else:
                submission, count = batches[0].submission, len(batches)
                span.set({"ingestq.submission": submission, "messaging.batch.message_count": count})
        yield


def about_batch(batch: Batch) -> tracing.Attributes:
    """Return the attributes of a span about the job of ``batch``."""
    return {
        "messaging.message.id": batch.job_id,
        "ingestq.submission": batch.submission,
        "ingestq.collection": batch.collection,
        "ingestq.lane": batch.lane.value,
    }


def _counted(batch: Batch, answer: bytes) -> EnqueueResult:
    """Return the queue's answer to ``batch``, and count its documents."""
    enqueued = EnqueueResult(answer.decode())
    metrics.count(metrics.ENQUEUED_DOCUMENTS, enqueued.value, amount=len(batch.documents))
    if enqueued is EnqueueResult.EXPIRED:
        raise UploadExpired(
            f"the upload was not queued within {MAX_UPLOAD_AGE_MS // MS_PER_HOUR} hours; send it "
            "again"
        )
    return enqueued


def _worker_status(worker_id: bytes, silent_ms: int, info: bytes) -> WorkerStatus:
    reported = msgspec.structs.asdict(msgspec.msgpack.decode(info, type=WorkerInfo))
    return WorkerStatus(id=worker_id.decode(), seen_seconds_ago=silent_ms / 1000, **reported)


def _held_source(held: bytes, since_ms: int) -> HeldSource:
    source = msgspec.msgpack.decode(held, type=HeldSource)
    return msgspec.structs.replace(source, since_ms=since_ms)
