"""The functions that a worker runs: each takes a batch and returns the outcome of each document.

They are arq functions: ``ctx`` carries the `Ingestor`, the `Claim` and the progress of the job.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from ingestq.broker.queue.leases import Claim
from ingestq.core import events
from ingestq.core.documents import Deletion, Document, Item
from ingestq.core.jobs import Batch, DeleteBatch, IngestBatch, SweepBatch
from worker.consumer.decision import outcome_of
from worker.lanes import LanePermits
from worker.pipeline import ingest as pipeline
from worker.pipeline.ingest import Outcome, Rejected, Retry, Superseded, Work
from worker.pipeline.points import DocumentKey
from worker.pipeline.ports import Ports
from worker.pipeline.shared_embeddings import with_shared_embeddings
from worker.pipeline.sweep import sweep_folder

log = structlog.get_logger()

INGESTOR: Final = "ingestor"
PROGRESS: Final = "progress"
CLAIM: Final = "claim"
"""Keys of ``ctx``."""


@dataclass(frozen=True)
class Ingestor:
    """What the job functions need: the pipeline's ports for each collection, by its public name.

    ``permits`` bounds how many documents are in work at once, in all collections together.
    """

    collections: Mapping[str, Ports]
    permits: LanePermits


async def ingest(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    """Ingest every document of ``batch``; a document that fails does not stop the others.

    Raises what the ledger's `look_up` raises.
    """
    ingestor: Ingestor = ctx[INGESTOR]
    ports = with_shared_embeddings(ingestor.collections[batch.collection])
    keys = [DocumentKey(document.tenant, document.doc_id) for document in batch.documents]
    entries = await ports.ledger.look_up(keys)
    latest = {keys[i]: i for i in sorted(range(len(keys)), key=partial(_age_order, batch))}

    async def outcome(index: int, document: Document) -> Outcome:
        if latest[keys[index]] != index:
            return Superseded()  # this batch has a newer version
        claim: Claim = ctx[CLAIM]
        work = Work(document, entries.get(keys[index]), claim.token, claim.crashes > 0, batch.lane)
        known = pipeline.outcome_from_ledger(work)
        if known is not None:
            return known
        async with ingestor.permits.hold(batch.lane):
            return await pipeline.ingest(work, ports, ctx[PROGRESS])

    return await _all_outcomes(
        batch, [outcome(i, document) for i, document in enumerate(batch.documents)]
    )


async def delete(ctx: dict[str, Any], batch: DeleteBatch) -> Sequence[Outcome]:
    """Delete every document of ``batch`` from the index."""
    ingestor: Ingestor = ctx[INGESTOR]
    ports = ingestor.collections[batch.collection]

    async def outcome(deletion: Deletion) -> Outcome:
        async with ingestor.permits.hold(batch.lane):
            return await pipeline.delete(deletion, ctx[CLAIM].token, ports)

    return await _all_outcomes(batch, map(outcome, batch.documents))


async def sweep(ctx: dict[str, Any], batch: SweepBatch) -> Sequence[Outcome]:
    """Delete the documents that the folder scans of ``batch`` did not find any more."""
    ingestor: Ingestor = ctx[INGESTOR]
    ports = ingestor.collections[batch.collection]

    async def delete_one(deletion: Deletion) -> Outcome:
        async with ingestor.permits.hold(batch.lane):
            return await pipeline.delete(deletion, ctx[CLAIM].token, ports)

    return await _all_outcomes(
        batch, [sweep_folder(scan, ports.ledger, delete_one) for scan in batch.documents]
    )


def _age_order(batch: IngestBatch, index: int) -> tuple[int, int]:
    """Return the sort key by age: by version, then by position in the batch."""
    return batch.documents[index].version, index


async def _all_outcomes(batch: Batch, outcomes: Iterable[Awaitable[Outcome]]) -> Sequence[Outcome]:
    documents: Sequence[Item] = batch.documents
    return await asyncio.gather(
        *(
            _caught(document.doc_id, outcome)
            for document, outcome in zip(documents, outcomes, strict=True)
        )
    )


async def _caught(doc_id: str, outcome: Awaitable[Outcome]) -> Outcome:
    """Await ``outcome``; if it raises, return the outcome that the exception becomes."""
    try:
        return await outcome
    except Exception as error:
        failed = outcome_of(error)
    match failed:
        case Rejected(reason):
            log.info(events.DOCUMENT_REJECTED, doc_id=doc_id, reason=reason)
        case Retry(reason, counts_as_try=True):
            log.warning(events.DOCUMENT_FAILED, doc_id=doc_id, reason=reason)
    return failed
