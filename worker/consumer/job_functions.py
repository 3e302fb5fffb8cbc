"""The functions that a worker runs: each takes a batch and returns the outcome of each document.

They are arq functions: ``ctx`` carries the `Ingestor`, the `Claim` and the progress of the job.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from structlog.contextvars import bind_contextvars

from ingestq.broker.queue.leases import Claim
from ingestq.core import events, metrics, tracing
from ingestq.core.documents import Deletion, Document, Item, Sweep
from ingestq.core.errors import Cause
from ingestq.core.jobs import Batch, DeleteBatch, IngestBatch, SweepBatch
from ingestq.core.outages import note_failure
from ingestq.core.results import DeadLetter
from ingestq.core.versions import is_issued
from worker.consumer.decision import outcome_of
from worker.pipeline import ingest as pipeline
from worker.pipeline.ingest import Indexed, Outcome, Rejected, Retry, Superseded, Work
from worker.pipeline.points import DocumentKey, Fence, Rejection
from worker.pipeline.ports import Ports
from worker.pipeline.shared_embeddings import with_shared_embeddings
from worker.pipeline.sweep import sweep_folder
from worker.text.content import FILE_GONE
from worker.text.parts import bounded_sentence, warning_kind

log = structlog.get_logger()

INGESTOR: Final = "ingestor"
PROGRESS: Final = "progress"
CLAIM: Final = "claim"
PREPARED: Final = "prepared"
"""Keys of ``ctx``. `PREPARED` is called once every document of the job is prepared or finished."""
SUBMISSION_SECONDS: Final = 1.0
"""How long a sweep holds its slot while documents of its scan are in work. It is claimed after
them, so they are usually nearly done. Otherwise it is nacked, and looks again later."""
SUBMISSION_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Ingestor:
    """What the job functions need: the pipeline's ports for each collection, by its public name.

    ``unfinished`` counts the documents of a submission that have no outcome yet. ``purge_unseen``
    purges the dead letters of what a scan no longer found.
    """

    collections: Mapping[str, Ports]
    unfinished: Callable[[str], Awaitable[int]]
    purge_unseen: Callable[[Sweep], Awaitable[int]]


async def ingest(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    """Ingest every document of ``batch``; a document that fails does not stop the others.

    Raises what the ledger's `look_up` raises.
    """
    ingestor: Ingestor = ctx[INGESTOR]
    ports = with_shared_embeddings(ingestor.collections[batch.collection])
    keys = [DocumentKey(document.tenant, document.doc_id) for document in batch.documents]
    entries = await ports.ledger.look_up(keys)
    # Own versions and issued ones are compared with the ledger's, not with each other.
    scales = [(*keys[i], is_issued(document.version)) for i, document in enumerate(batch.documents)]
    latest = {scales[i]: i for i in sorted(range(len(keys)), key=partial(_age_order, batch))}

    unprepared = set(range(len(keys)))

    def prepared(index: int) -> None:
        if index in unprepared:
            unprepared.remove(index)
            if not unprepared:
                ctx[PREPARED]()

    async def outcome(index: int, document: Document) -> Outcome:
        def progress(done: int, known: int) -> None:
            prepared(index)
            ctx[PROGRESS](done, known)

        claim: Claim = ctx[CLAIM]
        work = Work(document, entries.get(keys[index]), claim.token, claim.crashes > 0, batch.lane)
        try:
            if latest[scales[index]] != index:
                return Superseded()  # this batch has a newer version
            return await pipeline.ingest(work, ports, progress)
        finally:
            prepared(index)

    return await _all_outcomes(
        batch, [outcome(i, document) for i, document in enumerate(batch.documents)]
    )


async def delete(ctx: dict[str, Any], batch: DeleteBatch) -> Sequence[Outcome]:
    """Delete every document of ``batch`` from the index."""
    ingestor: Ingestor = ctx[INGESTOR]
    ports = ingestor.collections[batch.collection]

    async def outcome(deletion: Deletion) -> Outcome:
        async with ports.memory.hold(batch.lane):
            return await pipeline.delete(deletion, ctx[CLAIM].token, ports)

    return await _all_outcomes(batch, map(outcome, batch.documents))


async def sweep(ctx: dict[str, Any], batch: SweepBatch) -> Sequence[Outcome]:
    """Delete the documents that the folder scans of ``batch`` did not find any more.

    Their dead letters are purged, even if the guard holds back their deletion.
    Wait until those that they found are finished: a file that was moved stays searchable under its
    old id until it is indexed under the new one, which takes over the vectors.
    """
    ingestor: Ingestor = ctx[INGESTOR]
    ports = ingestor.collections[batch.collection]
    if unfinished := await _left_unfinished(batch.submission, ingestor.unfinished):
        reason = f"{unfinished:,} documents of the scan are not finished"
        return [Retry(reason, counts_as_try=False, cause=Cause.SCAN_RUNNING)] * len(batch.documents)

    async def delete_one(key: DocumentKey, version: int) -> Outcome:
        async with ports.memory.hold(batch.lane):
            return await pipeline.delete_as_of(key, Fence(version, ctx[CLAIM].token), ports)

    outcomes = await _all_outcomes(
        batch, [sweep_folder(scan, ports.ledger, delete_one) for scan in batch.documents]
    )
    for scan in batch.documents:
        await ingestor.purge_unseen(scan)
    return outcomes


async def record_rejections(
    ctx: Mapping[str, Any], batch: Batch, dead: Sequence[DeadLetter]
) -> frozenset[str]:
    """Record in the ledger which documents of ``batch`` are stale: their versions are ``dead``.

    Returns the keys of the dead letters of documents of which a newer version was indexed or
    deleted meanwhile. Deletions and sweeps are not recorded. Raises what the ledger raises.
    """
    ingestor: Ingestor | None = ctx.get(INGESTOR)
    if ingestor is None or not isinstance(batch, IngestBatch):
        return frozenset()
    letters = {letter.key: letter for letter in dead}
    rejections: dict[DocumentKey, Rejection] = {}
    keys: dict[DocumentKey, str] = {}
    for key, document in zip(batch.dead_letter_keys, batch.documents, strict=True):
        if (letter := letters.get(key)) is None:
            continue
        if document.hot and letter.reason == FILE_GONE:
            continue  # somebody took it out of the inbox: it was no version of the document
        about = DocumentKey(document.tenant, document.doc_id)
        keys[about] = key
        if about not in rejections or rejections[about].version < document.version:
            reason = bounded_sentence(letter.reason)
            rejections[about] = Rejection(
                document.version, letter.failed_ms, reason, document.queued
            )
    superseded = await ingestor.collections[batch.collection].ledger.reject(rejections)
    return frozenset(keys[about] for about in superseded)


async def _left_unfinished(submission: str, count: Callable[[str], Awaitable[int]]) -> int:
    """Return ``count`` of ``submission``; wait for it to become 0, but not for long."""
    deadline = time.monotonic() + SUBMISSION_SECONDS
    # Other workers may finish them: there is no event to await.
    while (  # noqa: ASYNC110
        unfinished := await count(submission)
    ) and time.monotonic() < deadline:
        await asyncio.sleep(SUBMISSION_POLL_SECONDS)
    return unfinished


def _age_order(batch: IngestBatch, index: int) -> tuple[int, int]:
    """Return the sort key by age: by version, then by position in the batch."""
    return batch.documents[index].version, index


async def _all_outcomes(batch: Batch, outcomes: Iterable[Awaitable[Outcome]]) -> Sequence[Outcome]:
    documents: Sequence[Item] = batch.documents
    return await asyncio.gather(
        *(
            _traced(batch.function, document.doc_id, outcome)
            for document, outcome in zip(documents, outcomes, strict=True)
        )
    )


async def _traced(function: str, doc_id: str, outcome: Awaitable[Outcome]) -> Outcome:
    """Return what `_caught` does, recorded as a span."""
    with tracing.span(function, "internal", {"ingestq.doc_id": doc_id}) as span:
        ended = await _caught(doc_id, outcome)
        span.set({"ingestq.outcome": type(ended).__name__.lower()})
        match ended:
            case Rejected(reason) | Retry(reason, counts_as_try=True):
                span.fail(type(ended).__name__.lower(), reason)
        return ended


async def _caught(doc_id: str, outcome: Awaitable[Outcome]) -> Outcome:
    """Await ``outcome``; if it raises, return the outcome that the exception becomes."""
    bind_contextvars(doc_id=doc_id)  # the task is the document's own
    try:
        ended = await outcome
        if isinstance(ended, Indexed) and ended.warnings:
            log.info(events.DOCUMENT_WARNED, doc_id=doc_id, warnings=list(ended.warnings))
            for warning in ended.warnings:
                metrics.count(metrics.WARNINGS, warning_kind(warning).value)
        return ended
    except Exception as error:
        note_failure(error)
        failed = outcome_of(error)
    match failed:
        case Rejected(reason):
            log.info(events.DOCUMENT_REJECTED, doc_id=doc_id, reason=reason)
        case Retry(reason, counts_as_try=True):
            log.warning(events.DOCUMENT_FAILED, doc_id=doc_id, reason=reason)
    return failed
