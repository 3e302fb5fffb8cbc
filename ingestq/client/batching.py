"""Batching: documents of one tenant and collection share jobs, and many jobs share a round trip."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, TypeVar

import msgspec

from ingestq.core.documents import INLINE_TEXT_BYTES, Deletion, Document, Lane, with_collection
from ingestq.core.errors import encodable
from ingestq.core.jobs import DeleteBatch, IngestBatch
from ingestq.core.results import FailedDocument

T = TypeVar("T")

JOB_DOCUMENTS: Final = 16
"""Most documents in a job: few enough that other workers get something to do, too."""
JOB_BYTES: Final = 4 * INLINE_TEXT_BYTES
"""Most bytes in a job, unless one document alone is larger."""
DELETE_DOCUMENTS: Final = 64
"""Most deletions in a job."""
OPEN_JOBS: Final = 64
"""Most owners (a tenant in a collection) for which jobs are being filled at the same time."""
ROUND_TRIP_JOBS: Final = 32
"""Most jobs that are put on the queue in one round trip."""
ROUND_TRIP_BYTES: Final = ROUND_TRIP_JOBS * JOB_BYTES


@dataclass(frozen=True)
class Packing:
    """How documents become jobs.

    ``on_failed`` is called with those that cannot be encoded. ``collection`` is the collection of
    those that name none.
    """

    submission: str
    lane: Lane
    on_failed: Callable[[FailedDocument], None]
    collection: str


async def round_trips(
    documents: AsyncIterable[Document | FailedDocument], packing: Packing
) -> AsyncGenerator[list[IngestBatch], None]:
    """Yield the jobs of all documents, in groups bounded by ROUND_TRIP_JOBS and ROUND_TRIP_BYTES.

    A group exceeds that only for a single document that is larger by itself.
    """
    batches: list[IngestBatch] = []
    size = 0
    async for job in _jobs(documents, packing):
        if batches and (len(batches) == ROUND_TRIP_JOBS or size + job.size > ROUND_TRIP_BYTES):
            yield batches
            batches, size = [], 0
        batches.append(IngestBatch(packing.submission, tuple(job.documents), packing.lane))
        size += job.size
    if batches:
        yield batches


def deletion_batches(
    deletions: Sequence[Deletion], submission: str, lane: Lane
) -> list[DeleteBatch]:
    """Return the jobs for ``deletions``, each of which names its collection."""
    return [
        DeleteBatch(submission, tuple(group), lane)
        for _, of_owner in groupby(sorted(deletions, key=_owner), key=_owner)
        for group in in_groups(list(of_owner), DELETE_DOCUMENTS)
    ]


def in_groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``items`` in groups of ``size``; the last may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def as_async_iterator(items: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T, None]:
    """Yield the items of an iterable, asynchronous or not."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _owner(item: Document | Deletion) -> tuple[str, str]:
    assert item.collection is not None, "filled in by the client"
    return item.collection, item.tenant


async def _jobs(
    documents: AsyncIterable[Document | FailedDocument], packing: Packing
) -> AsyncIterator["_Job"]:
    """Join the documents of each owner into jobs, bounded by JOB_DOCUMENTS and JOB_BYTES."""
    jobs: dict[tuple[str, str], _Job] = {}
    async for found in documents:
        if isinstance(found, FailedDocument):
            packing.on_failed(found)
            continue
        document = with_collection(packing.collection, found)
        try:
            size = len(msgspec.msgpack.encode(document))
        except (OverflowError, TypeError, ValueError) as error:
            packing.on_failed(
                FailedDocument(encodable(document.doc_id), f"not a document: {error}")
            )
            continue
        owner = _owner(document)
        if owner in jobs and not jobs[owner].has_space_for(size):
            yield jobs.pop(owner)
        elif owner not in jobs and len(jobs) == OPEN_JOBS:
            yield jobs.pop(next(iter(jobs)))
        job = jobs.setdefault(owner, _Job())
        job.add(document, size)
        if job.is_full:
            yield jobs.pop(owner)
    for job in jobs.values():
        yield job


@dataclass
class _Job:
    """A job being filled with documents of one owner."""

    documents: list[Document] = field(default_factory=list)
    size: int = 0

    def has_space_for(self, size: int) -> bool:
        return self.size + size <= JOB_BYTES

    @property
    def is_full(self) -> bool:
        return len(self.documents) == JOB_DOCUMENTS or self.size >= JOB_BYTES

    def add(self, document: Document, size: int) -> None:
        self.documents.append(document)
        self.size += size
