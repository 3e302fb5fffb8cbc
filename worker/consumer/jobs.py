"""The functions that arq runs. They unpack ``ctx`` and turn a batch into a report."""

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from arq import Retry as RetryJob

from ingestq.broker.queue.leases import Claim
from ingestq.core import events
from ingestq.core.documents import Deletion, Document, Item, Lane, Sweep
from ingestq.core.errors import Failure, classify, describe, encodable
from ingestq.core.jobs import Batch, DeleteBatch, IngestBatch, SweepBatch, bury, dead_letter_key
from ingestq.core.results import BatchReport, ChunkCounts, DeadLetter, DocumentCounts
from worker.consumer.decision import MAX_TRIES, AwaitService, backoff_seconds, pause_seconds
from worker.lanes import LanePermits
from worker.pipeline import ingest as pipeline
from worker.pipeline import sweep as sweeping
from worker.pipeline.ingest import (
    Deleted,
    Indexed,
    Outcome,
    Rejected,
    Retry,
    Superseded,
    SweepResult,
    Unchanged,
    Work,
)
from worker.pipeline.points import DocumentKey
from worker.pipeline.ports import Ports
from worker.pipeline.shared_embeddings import sharing_embeddings

log = structlog.get_logger()

INGESTOR: Final = "ingestor"
PROGRESS: Final = "progress"
CLAIM: Final = "claim"
"""Names in ``ctx``."""


@dataclass(frozen=True)
class Ingestor:
    """What the job functions work with: the pipeline's neighbours for each collection and lane.

    ``permits`` bounds the documents in work at once, of all collections together.
    """

    collections: Mapping[str, Mapping[Lane, Ports]]
    permits: LanePermits

    def ports(self, batch: Batch) -> Ports:
        """The neighbours for the collection that ``batch`` is meant for."""
        return self.collections[batch.collection][batch.lane]


async def ingest(ctx: dict[str, Any], batch: IngestBatch) -> BatchReport:
    """Ingest every document of ``batch``; one that fails does not hold up the others.

    Raises arq's Retry, or what a service that is away raised, if any document may succeed later:
    those that are done are then recognised and cost a look-up. After the last try the documents
    that still fail are dead-lettered.
    """
    ingestor: Ingestor = ctx[INGESTOR]
    ports = sharing_embeddings(ingestor.ports(batch))
    keys = [DocumentKey(document.tenant, document.doc_id) for document in batch.documents]
    entries = await ports.ledger.look_up(keys)
    latest = {keys[i]: i for i in sorted(range(len(keys)), key=partial(_order, batch))}

    async def outcome(index: int, document: Document) -> Outcome:
        if latest[keys[index]] != index:
            return Superseded()  # the same batch has a newer version
        claim: Claim = ctx[CLAIM]
        work = Work(document, entries.get(keys[index]), claim.token, claim.crashes > 0)
        known = pipeline.outcome_at_once(work)
        if known is not None:
            return known
        async with ingestor.permits.hold(batch.lane):
            return await pipeline.ingest(work, ports, ctx[PROGRESS])

    return await _all_documents(ctx["job_try"], batch, outcome)


async def delete(ctx: dict[str, Any], batch: DeleteBatch) -> BatchReport:
    """Remove every document of ``batch`` from the index. Raises as `ingest` does."""
    ingestor: Ingestor = ctx[INGESTOR]
    ports = ingestor.ports(batch)

    async def outcome(_: int, deletion: Deletion) -> Outcome:
        async with ingestor.permits.hold(batch.lane):
            return await pipeline.delete(deletion, ctx[CLAIM].token, ports)

    return await _all_documents(ctx["job_try"], batch, outcome)


async def sweep(ctx: dict[str, Any], batch: SweepBatch) -> BatchReport:
    """Remove what scans of folders did not find any more. Raises as `ingest` does."""
    ingestor: Ingestor = ctx[INGESTOR]
    ports = ingestor.ports(batch)

    async def delete_one(deletion: Deletion) -> Outcome:
        async with ingestor.permits.hold(batch.lane):
            return await pipeline.delete(deletion, ctx[CLAIM].token, ports)

    async def outcome(_: int, scan: Sweep) -> Outcome:
        return await sweeping.sweep(scan, ports.ledger, delete_one)

    return await _all_documents(ctx["job_try"], batch, outcome)


def _order(batch: IngestBatch, index: int) -> tuple[int, int]:
    """Later documents of a batch are newer, where their versions do not say otherwise."""
    return batch.documents[index].version, index


async def _all_documents(
    tries: int, batch: Batch, outcome: Callable[[int, Any], Awaitable[Outcome]]
) -> BatchReport:
    documents: Sequence[Item] = batch.documents
    outcomes = await asyncio.gather(
        *(_as_value(document.doc_id, outcome(i, document)) for i, document in enumerate(documents))
    )
    waiting = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    away = [outcome.away for outcome in waiting if outcome.away is not None]
    if away:
        raise max(away, key=pause_seconds)
    if any(not outcome.counts for outcome in waiting):
        raise AwaitService(waiting[0].reason)
    if waiting and tries < MAX_TRIES:
        raise RetryJob(backoff_seconds(tries))
    return _report(batch, outcomes, tries)


async def _as_value(doc_id: str, outcome: Awaitable[Outcome]) -> Outcome:
    """What a document came to, also if that was an error. Raises only what is fatal."""
    try:
        return await outcome
    except Exception as error:
        reason = describe(error)
        match classify(error):
            case Failure.PERMANENT:
                log.info(events.DOCUMENT_REJECTED, doc_id=doc_id, reason=reason)
                return Rejected(reason)
            case Failure.TRANSIENT:
                log.warning(events.DOCUMENT_FAILED, doc_id=doc_id, reason=reason)
                return Retry(reason, counts=True, traceback=encodable(traceback.format_exc()))
            case Failure.UNAVAILABLE:
                return Retry(reason, counts=False, away=error)
            case Failure.FATAL:
                raise


def _report(batch: Batch, outcomes: Sequence[Outcome], tries: int) -> BatchReport:
    documents: Sequence[Item] = batch.documents
    ends = Counter(map(type, outcomes))
    chunks = [outcome.chunks for outcome in outcomes if isinstance(outcome, Indexed)]
    chunks += [
        ChunkCounts(deleted=o.chunks) for o in outcomes if isinstance(o, Deleted | SweepResult)
    ]
    swept = sum(outcome.documents for outcome in outcomes if isinstance(outcome, SweepResult))
    dead_letters = [
        dead_letter
        for i, outcome in enumerate(outcomes)
        for dead_letter in _dead_letters(batch, i, outcome, tries)
    ]
    return BatchReport(
        documents=DocumentCounts(
            indexed=ends[Indexed],
            unchanged=ends[Unchanged],
            superseded=ends[Superseded],
            deleted=ends[Deleted] + swept,
            rejected=len(dead_letters),
        ),
        chunks=sum(chunks, start=ChunkCounts()),
        dead=tuple(dead_letters),
        healed=tuple(
            dead_letter_key(document)
            for document, outcome in zip(documents, outcomes, strict=True)
            if isinstance(outcome, Indexed | Unchanged | Deleted | SweepResult)
        ),
    )


def _dead_letters(batch: Batch, index: int, outcome: Outcome, tries: int) -> tuple[DeadLetter, ...]:
    """The dead letter of a document that failed; nothing for any other."""
    match outcome:
        case Rejected(reason):
            return bury(batch.alone(index), reason, tries=tries).dead
        case Retry(reason, _, trace):
            return bury(batch.alone(index), reason, tries=tries, traceback=trace).dead
        case _:
            return ()
