"""Stock arq and ingestq's queue behind one interface."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from arq.connections import ArqRedis

from ingestq.broker.queue.job_queue import JobQueue
from ingestq.client.client import IngestClient
from ingestq.core.documents import Document
from ingestq.core.jobs import INGEST, IngestBatch
from ingestq.core.results import EnqueueResult, FailedDocument

SUBMISSION: Final = "benchmark"
OFFERED_AT_ONCE: Final = 256
"""Jobs put on the lease worker's queue in one round trip while it is filled."""
ENQUEUED_AT_ONCE: Final = 32
"""Concurrent calls of ``enqueue_job``, each on a connection of its own."""


class Contender(Protocol):
    """A queue with its workers."""

    @property
    def name(self) -> str: ...

    @property
    def worker_options(self) -> tuple[str, ...]:
        """Arguments for ``benchmarks.queue_worker``."""
        ...

    async def enqueue(self, names: Sequence[str]) -> None:
        """Put one small job a name on the queue."""
        ...

    async def enqueue_documents(self, documents: Sequence[Document]) -> None:
        """Put documents on the queue in the fastest way that it offers."""
        ...


@dataclass(frozen=True)
class StockArq:
    """arq as it is released. ``job_timeout`` in seconds decides when a dead worker's job runs
    again; ``at_once`` is the number of documents enqueued concurrently."""

    redis: ArqRedis
    job_timeout: float = 300
    at_once: int = ENQUEUED_AT_ONCE
    name: str = "stock"

    @property
    def worker_options(self) -> tuple[str, ...]:
        return ("--job-timeout", str(self.job_timeout))

    async def enqueue(self, names: Sequence[str]) -> None:
        rest = iter(names)
        while group := list(islice(rest, ENQUEUED_AT_ONCE)):
            jobs = await asyncio.gather(*(self.redis.enqueue_job(INGEST, name) for name in group))
            assert None not in jobs

    async def enqueue_documents(self, documents: Sequence[Document]) -> None:
        rest = iter(documents)
        while group := list(islice(rest, self.at_once)):
            jobs = await asyncio.gather(
                *(
                    self.redis.enqueue_job(INGEST, document.doc_id, document.text)
                    for document in group
                )
            )
            assert None not in jobs


@dataclass(frozen=True)
class IngestqQueue:
    """This project's queue and `LeaseWorker`; ``lease`` in seconds."""

    queue: JobQueue
    lease: float = 15
    name: str = "ours"

    @property
    def worker_options(self) -> tuple[str, ...]:
        return ("--lease", str(self.lease))

    async def enqueue(self, names: Sequence[str]) -> None:
        batches = (
            IngestBatch(
                SUBMISSION,
                (Document(collection="documents", doc_id=name, version=1, source=name, text=name),),
            )
            for name in names
        )
        while group := list(islice(batches, OFFERED_AT_ONCE)):
            answers = await self.queue.offer(group)
            assert set(answers) == {EnqueueResult.ACCEPTED}

    async def enqueue_documents(self, documents: Sequence[Document]) -> None:
        async def each() -> AsyncIterator[Document | FailedDocument]:
            for document in documents:
                yield document

        client = IngestClient(self.queue)
        receipt = await client.submit_many(each(), submission=SUBMISSION, on_failed=_never)
        assert receipt.accepted == len(documents)


def _never(failed: FailedDocument) -> None:
    raise AssertionError(f"{failed.doc_id} was made here: {failed.reason}")
