"""Runs one claimed job in a task of its own, and decides what happens to it.

A job over which workers died is a *poison job*: one of its documents may kill the process. The
queue gives such a job only to a worker that runs nothing else, and the worker runs its documents
one by one. Before each document it records in Redis which one it is. If the worker dies, that
document is the poison document: the next worker that claims the job rejects it without running it,
and runs the others. Only then is the job acked or nacked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final

import structlog
from arq.typing import WorkerCoroutine
from structlog.contextvars import bound_contextvars

from ingestq.broker import keys
from ingestq.broker.queue.job_queue import MESSAGING, about_batch
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events, tracing
from ingestq.core.documents import Item
from ingestq.core.errors import Cause, ContractError, InvalidJob, describe
from ingestq.core.jobs import Batch, Job
from ingestq.core.outages import note_failure
from ingestq.core.service import cancel
from worker.consumer.decision import (
    RELEASE,
    Ack,
    Decision,
    FailedOutcome,
    Nack,
    decide,
    decide_aborted,
    decide_invalid,
    decide_unknown,
    outcome_of,
    unix_ms,
)
from worker.consumer.job_functions import CLAIM, PREPARED, PROGRESS, record_rejections
from worker.consumer.progress import reported_progress
from worker.pipeline.ingest import Misconfigured, Outcome, Rejected, Retry

log = structlog.get_logger()

PROCESS: Final[tracing.Attributes] = {
    **MESSAGING,
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
}
POISON_REASON: Final = "the worker died while it worked on this document alone"
"""The reason in the dead letter of a poison document."""


@dataclass(frozen=True)
class RunResult:
    """The decision on a job, the job itself if it was decoded, and the span in which it ran."""

    decision: Decision
    job: Job | None = None
    trace: tracing.TraceContext | None = None


class JobRunner:
    """Runs claimed jobs with the functions and the ``ctx`` of a worker."""

    def __init__(
        self, functions: Mapping[str, WorkerCoroutine], leases: LeaseQueue, ctx: dict[Any, Any]
    ) -> None:
        self._functions = functions
        self._leases = leases
        self._ctx = ctx

    async def run(self, claim: Claim, on_prepared: Callable[[], None]) -> RunResult:
        """Run the job and decide what happens to it. Raises only CancelledError.

        ``on_prepared`` is called once all of its documents are prepared.
        """
        if claim.aborted:
            return await self.abort(claim)
        try:
            job = claim.job()
        except InvalidJob as error:
            return RunResult(decide_invalid(claim, describe(error), now_ms=unix_ms()))
        except ContractError as error:
            return RunResult(decide_unknown(claim, describe(error), None, now_ms=unix_ms()))
        function = self._functions.get(job.function)
        if function is None:
            reason = f"this worker has no function {job.function!r}"
            decision = decide_unknown(claim, reason, job.known_batch, now_ms=unix_ms())
            return RunResult(await self._recorded(claim, job.known_batch, decision), job)
        with (
            bound_contextvars(job=claim.job_id, submission=claim.submission),
            _process_span(claim, job) as span,
        ):
            result = await self._call(function, claim, job, on_prepared)
            if result is None:
                return RunResult(RELEASE, job, tracing.current())
            decision = decide(claim, job.batch, result, now_ms=unix_ms())
            decision = await self._recorded(claim, job.batch, decision)
            _note_decision(span, decision)
            return RunResult(decision, job, tracing.current())

    async def abort(self, claim: Claim) -> RunResult:
        """Return the result of a job that was aborted, before or while it ran."""
        try:
            batch = claim.job().known_batch
        except ContractError:
            batch = None
        decision = decide_aborted(claim, batch, now_ms=unix_ms())
        return RunResult(await self._recorded(claim, batch, decision))

    async def _recorded(self, claim: Claim, batch: Batch | None, decision: Decision) -> Decision:
        """Record in the ledger which documents are stale by ``decision``; return that.

        A failed document of which there is a newer version by now is superseded. It comes before
        the ack, so that no crash leaves a dead letter without it. If the ledger cannot be written
        now, the job is nacked instead.
        """
        if batch is None or not isinstance(decision, Ack) or not decision.report.dead:
            return decision
        try:
            superseded = await record_rejections(
                self._ctx, _as_of(claim, batch), decision.report.dead
            )
        except Exception as error:
            note_failure(error)
            failed = outcome_of(error)
            nack = decide(claim, batch, failed, now_ms=unix_ms())
            if isinstance(nack, Nack):
                return nack
            log.error(
                events.STALE_UNKNOWN,
                job=claim.job_id,
                submission=claim.submission,
                reason=failed.reason,
            )
            return decision
        return decision.superseding(superseded)

    async def _call(
        self, function: WorkerCoroutine, claim: Claim, job: Job, on_prepared: Callable[[], None]
    ) -> Sequence[Outcome] | FailedOutcome | None:
        """Call ``function``; return the outcome of each document, or of the job if it raised.

        Returns None if the lease of the job was lost.
        """
        async with reported_progress(self._leases, claim) as progress:
            ctx = {
                **self._ctx,
                "job_id": claim.job_id,
                "job_try": claim.failures + 1,
                PROGRESS: progress,
                PREPARED: on_prepared,
                CLAIM: claim,
            }
            run = partial(_call_for_batch, function, ctx, job)
            batch = _as_of(claim, job.batch)
            if not claim.is_poison:
                return await run(batch)
            mark = partial(self._leases.mark_alone, claim)
            try:
                return await _run_one_by_one(claim, batch, run, mark)
            except Exception as error:
                return outcome_of(error)


def _process_span(claim: Claim, job: Job) -> AbstractContextManager[tracing.Span]:
    """Record the run of a job, as a child of the span in which it was queued."""
    attributes = {**PROCESS, **about_batch(job.batch), "ingestq.try": claim.failures + 1}
    return tracing.span(f"process {keys.QUEUE}", "consumer", attributes, job.trace)


def _note_decision(span: tracing.Span, decision: Decision) -> None:
    match decision:
        case Ack(error=str(error)):
            span.fail("dead-lettered", error)
        case Nack(reason, counts_as_try=True):
            span.fail("nacked", reason)
        case Nack():
            span.set({"ingestq.nacked": True})


def _as_of(claim: Claim, batch: Batch) -> Batch:
    """Return ``batch`` with the versions that count, see `ingestq.broker.queue.versions`."""
    return batch if claim.version_offset is None else claim.version_offset.added_to(batch)


async def _run_one_by_one(
    claim: Claim,
    batch: Batch,
    run: Callable[[Batch], Awaitable[Sequence[Outcome] | FailedOutcome]],
    mark: Callable[[int], Awaitable[bool]],
) -> Sequence[Outcome] | None:
    """Run the documents of a poison job one by one; return their outcomes.

    ``mark`` records the index of the document that runs next, and returns whether this worker
    still owns the job; if not, None is returned. The documents that already killed a worker are
    rejected without running. It ends early at a document that waits for a service or must stop the
    worker, because the job is nacked then.
    """
    log.warning(events.JOB_POISON, job=claim.job_id, crashes=claim.crashes)
    documents: Sequence[Item] = batch.documents
    outcomes: list[Outcome] = []
    for index, document in enumerate(documents):
        if index in claim.poison_documents:
            log.error(events.DOCUMENT_REJECTED, doc_id=document.doc_id, reason=POISON_REASON)
            outcomes.append(Rejected(POISON_REASON, Cause.WORKER_DIED))
            continue
        if not await mark(index):
            return None
        result = await run(batch.alone(index))
        outcome = result if isinstance(result, FailedOutcome) else result[0]
        outcomes.append(outcome)
        match outcome:
            case Misconfigured() | Retry(counts_as_try=False):
                break
    return outcomes


async def _call_for_batch(
    function: WorkerCoroutine, ctx: dict[Any, Any], job: Job, batch: Batch
) -> Sequence[Outcome] | FailedOutcome:
    """Call ``function`` for ``batch``: that of ``job``, or one document of it."""
    try:
        outcomes = await _without_stray_cancellation(function(ctx, batch, **job.kwargs))
        if not isinstance(outcomes, Sequence) or len(outcomes) != len(batch.documents):
            raise TypeError(f"{job.function!r} did not return an outcome for each document")
        return outcomes
    except Exception as error:
        note_failure(error)
        failed = outcome_of(error)
        match failed:
            case Rejected(reason) | Retry(reason, counts_as_try=True):
                log.warning(events.JOB_FAILED, job=ctx["job_id"], error=reason, exc_info=error)
        return failed


async def _without_stray_cancellation(job: Awaitable[Any]) -> Any:
    """Await ``job``; raise RuntimeError if it was cancelled by anything but the worker."""
    try:
        return await job
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise RuntimeError("the job was cancelled by something that it awaited") from error
        raise


class Interruption(Enum):
    """Why a running job was cancelled."""

    LEASE_LOST = auto()
    ABORTED = auto()
    STOPPED = auto()


class RunningJob:
    """The task that runs a job, which its worker can interrupt.

    ``run`` is called with the claim and a function, which it calls once all documents of the job
    are prepared; then ``on_prepared`` is called.
    """

    def __init__(
        self,
        claim: Claim,
        run: Callable[[Claim, Callable[[], None]], Coroutine[Any, Any, RunResult]],
        *,
        on_prepared: Callable[[], None],
    ) -> None:
        self.claim = claim
        self._is_prepared = False
        self._on_prepared = on_prepared
        self._interruption: Interruption | None = None
        self._job = asyncio.create_task(run(claim, self._note_prepared), name=f"job {claim.job_id}")
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        """True if the job has run, and at most the decision on it is left to be written."""
        return self._job.done()

    @property
    def takes_slot(self) -> bool:
        """True if documents of the job are still to be prepared."""
        return not self._is_prepared and not self.has_ended

    def _note_prepared(self) -> None:
        self._is_prepared = True
        self._on_prepared()

    def interrupt(self, reason: Interruption) -> bool:
        """Cancel the job without waiting; return False if it has ended or was interrupted."""
        if self.has_ended or self._interruption is not None:
            return False
        self._interruption = reason
        self._cancelling = asyncio.create_task(cancel(self._job))
        return True

    async def result(self) -> RunResult | Interruption:
        """Wait for the job; return its result, or why it was interrupted.

        If the caller is cancelled, so is the job.
        """
        try:
            return await self._job
        except asyncio.CancelledError:
            if self._interruption is None:
                raise
            return self._interruption
