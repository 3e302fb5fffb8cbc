"""The library entry point for a service of your own: put documents on the queue.

    async with connected(BrokerConfig(url)) as redis:
        client = IngestClient(JobQueue(redis, config))
        receipt = await client.put("invoice-17", text="…", source="erp")

Everything awaits; nothing here loads a model, a parser or the vector store.
"""

import uuid
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Final

import msgspec

from broker.contract import (
    INLINE_TEXT_BYTES,
    Document,
    FailedDocument,
    IngestBatch,
    Receipt,
)
from broker.errors import QueueFull
from broker.queue import FULL_RETRY_SECONDS, Enqueued, JobQueue, SubmissionStatus

JOB_DOCUMENTS: Final = 16
"""Documents that share a job: few enough that the next worker has something to do too."""
JOB_BYTES: Final = 4 * INLINE_TEXT_BYTES
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
    ) -> Receipt:
        """Put one document on the queue, or raise QueueFull at once.

        ``version`` defaults to the time of Redis. Raises ValueError unless there is either a
        ``text`` or a ``path`` that the workers can read.
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
        [answer] = await self.queue.offer([IngestBatch(submission, (document,))])
        if answer is Enqueued.FULL:
            raise QueueFull(FULL_RETRY_SECONDS)
        return _receipt(submission, Counter([answer]))

    async def submit(
        self,
        documents: AsyncIterable[Document | FailedDocument],
        *,
        submission: str,
        on_failed: Callable[[FailedDocument], None],
        on_accepted: Callable[[int], None] = lambda n: None,
    ) -> Receipt:
        """Put many documents on the queue, in shared jobs; waits while it is full.

        ``on_failed`` is told of documents that could not be read, ``on_accepted`` how many more
        are on the queue.
        """
        counts: Counter[Enqueued] = Counter()

        async def flush(batches: list[IngestBatch]) -> None:
            for batch, answer in zip(batches, await self.queue.enqueue(batches), strict=True):
                counts[answer] += len(batch.documents)
            on_accepted(sum(len(batch.documents) for batch in batches))

        batches: list[IngestBatch] = []
        async for batch in _batches(documents, submission, on_failed):
            batches.append(batch)
            if len(batches) == ROUND_TRIP_JOBS:
                await flush(batches)
                batches = []
        if batches:
            await flush(batches)
        return _receipt(submission, counts)

    async def status(self, submission: str) -> SubmissionStatus:
        """How far a submission is."""
        return await self.queue.submission(submission)


async def _batches(
    documents: AsyncIterable[Document | FailedDocument],
    submission: str,
    on_failed: Callable[[FailedDocument], None],
) -> AsyncIterator[IngestBatch]:
    """Join documents into jobs, bounded in number and bytes; a large one travels alone."""
    batch: list[Document] = []
    size = 0
    async for document in documents:
        if isinstance(document, FailedDocument):
            on_failed(document)
            continue
        document_size = len(msgspec.msgpack.encode(document))
        if batch and (len(batch) == JOB_DOCUMENTS or size + document_size > JOB_BYTES):
            yield IngestBatch(submission, tuple(batch))
            batch, size = [], 0
        batch.append(document)
        size += document_size
    if batch:
        yield IngestBatch(submission, tuple(batch))


def _receipt(submission: str, documents: Counter[Enqueued]) -> Receipt:
    return Receipt(submission, documents[Enqueued.ACCEPTED], documents[Enqueued.DUPLICATE])
