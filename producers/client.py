"""The library entry point for a service of your own: put documents on the queue.

    async with connected(BrokerConfig(url)) as redis:
        client = IngestClient(JobQueue(redis, config))
        receipt = await client.put("invoice-17", text="…", source="erp")

Everything awaits; nothing here loads a model, a parser or the vector store.
"""

import uuid
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, TypeVar

import msgspec

from broker.contract import (
    INLINE_TEXT_BYTES,
    DeleteBatch,
    Deletion,
    Document,
    FailedDocument,
    IngestBatch,
    Lane,
    Receipt,
    Sweep,
    SweepBatch,
)
from broker.errors import QueueFull, encodable
from broker.queue import FULL_RETRY_SECONDS, Enqueued, JobQueue, SubmissionStatus

T = TypeVar("T")

JOB_DOCUMENTS: Final = 16
"""Documents that share a job: few enough that the next worker has something to do too."""
JOB_BYTES: Final = 4 * INLINE_TEXT_BYTES
DELETE_DOCUMENTS: Final = 64
"""Deletions that share a job."""
OPEN_JOBS: Final = 64
"""Tenants whose documents are collected into jobs at once."""
ROUND_TRIP_JOBS: Final = 32
"""Jobs that are put on the queue in one round trip."""


def new_submission() -> str:
    """An id under which documents are followed together."""
    return uuid.uuid4().hex


class IngestClient:
    """Puts documents on the queue.

    Every method raises BrokerUnavailable if Redis cannot be used. What a receipt counts is on the
    queue; after an error the outcome is unknown, and sending the same again is safe.
    """

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue

    async def put(
        self,
        doc_id: str,
        *,
        source: str,
        text: str | None = None,
        path: str | None = None,
        version: int | None = None,
        tenant: str = "",
        media_type: str | None = None,
        metadata: dict[str, Any] | None = None,
        lane: Lane = Lane.INTERACTIVE,
    ) -> Receipt:
        """Put one document on the queue, or raise QueueFull at once.

        ``version`` defaults to the time of Redis. Somebody waits for the document, unless ``lane``
        says that it is bulk work. Raises ValueError unless there is either a ``text`` or a ``path``
        that the workers can read.
        """
        document = Document(
            doc_id=doc_id,
            version=await self.queue.now() if version is None else version,
            source=source,
            tenant=tenant,
            text=text,
            path=path,
            media_type=media_type,
            metadata={} if metadata is None else metadata,
        )
        submission = new_submission()
        [answer] = await self.queue.offer([IngestBatch(submission, (document,), lane)])
        if answer is Enqueued.FULL:
            raise QueueFull(FULL_RETRY_SECONDS)
        # The submission is new: a duplicate is our own job, of which the first answer was lost.
        return Receipt(submission, accepted=1, duplicates=0)

    async def submit(
        self,
        documents: AsyncIterable[Document | FailedDocument],
        *,
        submission: str,
        on_failed: Callable[[FailedDocument], None],
        lane: Lane = Lane.BULK,
    ) -> Receipt:
        """Put many documents on the queue, in shared jobs; waits while it is full.

        ``on_failed`` is told of documents that could not be read, and of those that cannot be
        encoded, with a lone surrogate in their text, or what MessagePack has no word for.
        """
        counts: Counter[Enqueued] = Counter()

        async def flush(batches: list[IngestBatch]) -> None:
            for batch, answer in zip(batches, await self.queue.enqueue(batches), strict=True):
                counts[answer] += len(batch.documents)

        batches: list[IngestBatch] = []
        async for batch in _batches(documents, submission, lane, on_failed):
            batches.append(batch)
            if len(batches) == ROUND_TRIP_JOBS:
                await flush(batches)
                batches = []
        if batches:
            await flush(batches)
        return _receipt(submission, counts)

    async def delete(
        self, deletions: Sequence[Deletion], *, submission: str, lane: Lane = Lane.INTERACTIVE
    ) -> Receipt:
        """Put the removal of documents on the queue; waits while it is full.

        What was queued of the documents before, at older versions, does not bring them back.
        """
        batches = [
            DeleteBatch(submission, tuple(some), lane)
            for _, mine in groupby(sorted(deletions, key=_tenant), key=_tenant)
            for some in _in_groups(list(mine), DELETE_DOCUMENTS)
        ]
        counts: Counter[Enqueued] = Counter()
        for some in _in_groups(batches, ROUND_TRIP_JOBS):
            for batch, answer in zip(some, await self.queue.enqueue(some), strict=True):
                counts[answer] += len(batch.documents)
        return _receipt(submission, counts)

    async def sweep(self, sweeps: Sequence[Sweep], *, submission: str) -> Receipt:
        """Have what scans did not find any more removed from the index; waits while it is full.

        To be called when all that the scans found is on the queue.
        """
        counts: Counter[Enqueued] = Counter()
        for sweep in sweeps:  # one a round trip, as each may be large
            counts.update(await self.queue.enqueue([SweepBatch(submission, (sweep,))]))
        return _receipt(submission, counts)

    async def status(self, submission: str) -> SubmissionStatus:
        """How far a submission is."""
        return await self.queue.submission(submission)


async def _batches(
    documents: AsyncIterable[Document | FailedDocument],
    submission: str,
    lane: Lane,
    on_failed: Callable[[FailedDocument], None],
) -> AsyncIterator[IngestBatch]:
    """Join each tenant's documents into jobs, bounded in number and bytes; a large one is alone."""
    open_jobs: dict[str, _OpenJob] = {}
    async for document in documents:
        if isinstance(document, FailedDocument):
            on_failed(document)
            continue
        try:
            size = len(msgspec.msgpack.encode(document))
        except (OverflowError, TypeError, ValueError) as error:
            on_failed(FailedDocument(encodable(document.doc_id), f"not a document: {error}"))
            continue
        job = open_jobs.get(document.tenant)
        if job is not None and not job.has_room_for(size):
            yield open_jobs.pop(document.tenant).batch(submission, lane)
        elif job is None and len(open_jobs) == OPEN_JOBS:
            oldest = next(iter(open_jobs))
            yield open_jobs.pop(oldest).batch(submission, lane)
        open_jobs.setdefault(document.tenant, _OpenJob()).add(document, size)
    for job in open_jobs.values():
        yield job.batch(submission, lane)


def _tenant(deletion: Deletion) -> str:
    return deletion.tenant


def _in_groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass
class _OpenJob:
    """Documents of one tenant that are to share a job."""

    documents: list[Document] = field(default_factory=list)
    size: int = 0

    def has_room_for(self, size: int) -> bool:
        return len(self.documents) < JOB_DOCUMENTS and self.size + size <= JOB_BYTES

    def add(self, document: Document, size: int) -> None:
        self.documents.append(document)
        self.size += size

    def batch(self, submission: str, lane: Lane) -> IngestBatch:
        return IngestBatch(submission, tuple(self.documents), lane)


def _receipt(submission: str, documents: Counter[Enqueued]) -> Receipt:
    return Receipt(submission, documents[Enqueued.ACCEPTED], documents[Enqueued.DUPLICATE])
