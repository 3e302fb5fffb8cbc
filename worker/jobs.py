"""The functions that arq runs. They unpack ``ctx`` and turn a batch into a report."""

import asyncio
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from arq import Retry as RetryJob

from broker import events
from broker.contract import (
    BatchReport,
    ChunkCounts,
    DeadLetter,
    Document,
    DocumentCounts,
    IngestBatch,
    bury,
    dead_letter_key,
)
from broker.errors import Failure, classify
from worker import pipeline
from worker.pipeline import Indexed, Outcome, Ports, Rejected, Retry, Superseded, Unchanged
from worker.retries import MAX_TRIES, AwaitService, backoff_seconds

log = structlog.get_logger()

INGESTOR: Final = "ingestor"
PROGRESS: Final = "progress"
"""Names in ``ctx``."""


@dataclass(frozen=True)
class Ingestor:
    """What the job function works with. ``slots`` bounds the documents in work at once."""

    ports: Ports
    slots: asyncio.Semaphore


async def ingest(ctx: dict[str, Any], batch: IngestBatch) -> BatchReport:
    """Ingest every document of ``batch``; one that fails does not hold up the others.

    Raises arq's Retry if any document may succeed later: those that are done are then recognised
    and cost a look-up. After the last try the documents that still fail are dead-lettered.
    """
    ingestor: Ingestor = ctx[INGESTOR]
    progress: pipeline.Progress = ctx[PROGRESS]
    tries: int = ctx["job_try"]
    outcomes = await asyncio.gather(
        *(_outcome(document, ingestor, progress) for document in batch.documents)
    )
    waiting = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    if any(not outcome.counts for outcome in waiting):
        raise AwaitService(waiting[0].reason)
    if waiting and tries < MAX_TRIES:
        raise RetryJob(backoff_seconds(tries))
    return _report(batch, outcomes, tries)


async def _outcome(document: Document, ingestor: Ingestor, progress: pipeline.Progress) -> Outcome:
    try:
        async with ingestor.slots:
            return await pipeline.ingest(document, ingestor.ports, progress)
    except Exception as error:
        reason = str(error) or type(error).__name__
        match classify(error):
            case Failure.PERMANENT:
                log.info(events.DOCUMENT_REJECTED, doc_id=document.doc_id, reason=reason)
                return Rejected(reason)
            case Failure.TRANSIENT:
                log.warning(events.DOCUMENT_FAILED, doc_id=document.doc_id, reason=reason)
                return Retry(reason, counts=True, traceback=traceback.format_exc())
            case Failure.UNAVAILABLE:
                return Retry(reason, counts=False)
            case Failure.FATAL:
                raise


def _report(batch: IngestBatch, outcomes: Sequence[Outcome], tries: int) -> BatchReport:
    ends = Counter(map(type, outcomes))
    chunks = [outcome.chunks for outcome in outcomes if isinstance(outcome, Indexed)]
    letters = [
        letter
        for document, outcome in zip(batch.documents, outcomes, strict=True)
        for letter in _letters(batch.submission, document, outcome, tries)
    ]
    return BatchReport(
        documents=DocumentCounts(
            indexed=ends[Indexed],
            unchanged=ends[Unchanged],
            superseded=ends[Superseded],
            rejected=len(letters),
        ),
        chunks=ChunkCounts(
            embedded=_total(chunks, lambda c: c.embedded),
            reused=_total(chunks, lambda c: c.reused),
            deleted=_total(chunks, lambda c: c.deleted),
        ),
        dead=tuple(letters),
        healed=tuple(
            dead_letter_key(document)
            for document, outcome in zip(batch.documents, outcomes, strict=True)
            if isinstance(outcome, Indexed | Unchanged)
        ),
    )


def _letters(
    submission: str, document: Document, outcome: Outcome, tries: int
) -> tuple[DeadLetter, ...]:
    """The dead letter of a document that failed; nothing for any other."""
    alone = IngestBatch(submission, (document,))
    match outcome:
        case Rejected(reason):
            return bury(alone, reason, tries=tries).dead
        case Retry(reason, _, trace):
            return bury(alone, reason, tries=tries, traceback=trace).dead
        case _:
            return ()


def _total(chunks: Sequence[ChunkCounts], field: Callable[[ChunkCounts], int]) -> int:
    return sum(map(field, chunks))
