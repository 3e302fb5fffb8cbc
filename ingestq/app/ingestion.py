"""One-shot ingestion: queue documents and follow the submission until all are processed."""

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ingestq.broker.queue.job_queue import retry_for_a_minute
from ingestq.client.client import IngestClient, new_submission
from ingestq.core.display import Activity, Display
from ingestq.core.documents import Document, Lane, Sweep
from ingestq.core.results import (
    ChunkCounts,
    DocumentCounts,
    DocumentWarning,
    FailedDocument,
    Stage,
    SubmissionStatus,
    Usage,
    WarningCounts,
)

POLL_SHARE: Final = 0.05
"""Progress is asked for so often that a run ends this share of its time late at most."""
SHORTEST_POLL_SECONDS: Final = 0.05
LONGEST_POLL_SECONDS: Final = 0.1
"""Bounds of the interval: each request costs a core a millisecond, and the display should move."""
PRICED_TOKENS: Final = 1_000_000
"""Tokens that a price is for."""
LISTED: Final = 10_000
"""Documents that cannot be read of which the reasons are kept. All are counted."""


@dataclass(frozen=True)
class _Snapshot:
    """The progress of an ingestion.

    ``listing`` is true while more documents may be found, ``stopping`` once it was interrupted.
    ``unread`` counts the documents that never reached the queue.
    """

    submission: SubmissionStatus
    listing: bool
    stopping: bool
    unread: int
    seconds: float

    @property
    def complete(self) -> bool:
        return self.submission.complete and not self.listing

    def activity(self) -> Activity:
        """Return what the display shows."""
        chunks = self.submission.chunks.embedded + self.submission.chunks_running
        rate = chunks / self.seconds if self.seconds else 0.0
        return Activity(
            self._name(),
            done=self.submission.documents.total + self.unread,
            total=self.submission.accepted + self.unread,
            detail=f"{chunks} chunks, {rate:.1f}/s",
            growing=self.listing,
            finished=self.complete,
        )

    def _name(self) -> str:
        if self.stopping:
            return "finishing running jobs (interrupt again to stop at once)"
        if self.listing:
            return "listing"
        return "waiting" if self.submission.stage is Stage.WAITING else "indexing"


@dataclass(frozen=True)
class Summary:
    """The result of a submission; `as_json` is the documented JSON.

    ``failed`` has the reasons, of documents that could not be read up to `LISTED` only. ``warned``
    counts the warnings of documents that are indexed, and ``warnings`` lists the first of them.
    ``price`` is that of a million tokens; None if it is unknown.
    """

    documents: DocumentCounts
    chunks: ChunkCounts
    seconds: float
    collection: str
    failed: Sequence[FailedDocument]
    waiting: int
    warned: WarningCounts = field(default_factory=WarningCounts)
    warnings: Sequence[DocumentWarning] = ()
    usage: Usage = field(default_factory=Usage)
    price: float | None = None

    @property
    def cost(self) -> float | None:
        """What the embedded tokens cost, in the currency of ``price``; None if that is unknown."""
        return None if self.price is None else self.usage.tokens * self.price / PRICED_TOKENS

    @property
    def chunks_per_second(self) -> float:
        return self.chunks.embedded / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        summary = {
            "documents": msgspec.structs.asdict(self.documents),
            "chunks": msgspec.structs.asdict(self.chunks),
            "seconds": round(self.seconds, 3),
            "chunks_per_second": round(self.chunks_per_second, 2),
            "collection": self.collection,
            "dead_letters": [msgspec.structs.asdict(document) for document in self.failed],
            "tokens": self.usage.tokens,
            "cost": self.cost,
            "warned": self.warned.documents,
            "warnings": [msgspec.structs.asdict(warning) for warning in self.warnings],
        }
        return summary | ({"waiting": self.waiting} if self.waiting else {})


class Ingestion:
    """One submission: `produce` queues its documents while `follow` shows the progress.

    Documents that cannot be read never reach the queue; they are counted as rejected, and the
    reasons of the first `LISTED` are kept.
    ``collections`` are those that a worker of this process serves, by default the client's own.
    """

    def __init__(
        self, client: IngestClient, display: Display, collections: Sequence[str] = ()
    ) -> None:
        self.submission = new_submission()
        self._client = client
        self._queue = client.queue
        self._collections = collections or (client.collection,)
        self._display = display
        self._started = time.monotonic()
        self._unread: list[FailedDocument] = []
        self._unread_count = 0
        self._listing = True
        self._stopping = False
        self._ended = False

    async def produce(
        self,
        documents: AsyncIterable[Document | FailedDocument],
        sweeps: Callable[[], Sequence[Sweep]],
        lane: Lane = Lane.BULK,
    ) -> None:
        """Queue every document, and then the ``sweeps``. Waits while the queue is full."""
        await self._client.submit_many(
            documents, submission=self.submission, on_failed=self._add_unread, lane=lane
        )
        await self._client.sweep(sweeps(), submission=self.submission)
        self._listing = False

    def _add_unread(self, failed: FailedDocument) -> None:
        self._unread_count += 1
        if len(self._unread) < LISTED:
            self._unread.append(failed)

    def stop(self) -> None:
        """Show that it was interrupted; `follow` goes on until `end`."""
        self._stopping = True

    def end(self) -> None:
        """Let `follow` return, even if documents still wait."""
        self._ended = True

    async def follow(self, *, until_queue_is_empty: bool) -> None:
        """Show progress until every document is processed.

        With ``until_queue_is_empty``, also until no other job waits or runs for its collections.
        Jobs of other collections do not count: nobody here would do them.
        """
        while not self._ended:
            snapshot = await self._snapshot()
            self._display.show(snapshot.activity())
            if snapshot.complete and (not until_queue_is_empty or not await self._jobs_left()):
                return
            share = POLL_SHARE * snapshot.seconds
            await asyncio.sleep(min(max(share, SHORTEST_POLL_SECONDS), LONGEST_POLL_SECONDS))

    async def summary(self, collection: str, price: float | None = None) -> Summary:
        """Return the counts so far; ``price`` is that of a million tokens."""
        snapshot = await self._snapshot()
        counts = snapshot.submission.documents
        return Summary(
            documents=msgspec.structs.replace(counts, rejected=counts.rejected + snapshot.unread),
            chunks=snapshot.submission.chunks,
            seconds=snapshot.seconds,
            collection=collection,
            failed=[*self._unread, *await self._queue.failed_documents(self.submission)],
            waiting=snapshot.submission.accepted - counts.total,
            warned=snapshot.submission.warned,
            warnings=await self._queue.warnings(self.submission),
            usage=snapshot.submission.usage,
            price=price,
        )

    async def _jobs_left(self) -> int:
        return (await retry_for_a_minute(self._queue.count_jobs, self._collections)).jobs

    async def _snapshot(self) -> _Snapshot:
        listing = self._listing  # read first, or the last batch might be missed
        status = await retry_for_a_minute(self._queue.submission, self.submission)
        seconds = time.monotonic() - self._started
        return _Snapshot(status, listing, self._stopping, self._unread_count, seconds)
