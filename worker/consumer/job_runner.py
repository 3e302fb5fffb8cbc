"""Runs one claimed job in a task of its own, and decides what happens to it.

A job over which workers died is a *poison job*: one of its documents may kill the process. The
queue gives such a job only to a worker that runs nothing else, and the worker runs its documents
one by one. Before each document it records in Redis which one it is. If the worker dies, that
document is the poison document: the next worker that claims the job rejects it without running it,
and runs the others. Only then is the job acked or nacked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final

import structlog
from arq.typing import WorkerCoroutine

from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.documents import Item
from ingestq.core.errors import ContractError, describe
from ingestq.core.jobs import Batch, Job
from ingestq.core.service import cancel
from worker.consumer.decision import (
    RELEASE,
    Decision,
    FailedOutcome,
    decide,
    decide_aborted,
    decide_unknown,
    outcome_of,
    unix_ms,
)
from worker.consumer.job_functions import CLAIM, PROGRESS
from worker.consumer.progress import reported_progress
from worker.pipeline.ingest import Misconfigured, Outcome, Rejected, Retry

log = structlog.get_logger()

POISON_REASON: Final = "the worker died while it worked on this document alone"
"""The reason in the dead letter of a poison document."""


@dataclass(frozen=True)
class RunResult:
    """The decision on a job, and the job itself if it was decoded."""

    decision: Decision
    job: Job | None = None


class JobRunner:
    """Runs claimed jobs with the functions and the ``ctx`` of a worker."""

    def __init__(
        self, functions: Mapping[str, WorkerCoroutine], leases: LeaseQueue, ctx: dict[Any, Any]
    ) -> None:
        self._functions = functions
        self._leases = leases
        self._ctx = ctx

    async def run(self, claim: Claim) -> RunResult:
        """Run the job and decide what happens to it. Raises only CancelledError."""
        if claim.aborted:
            return abort(claim)
        try:
            job = claim.job()
        except ContractError as error:
            return RunResult(decide_unknown(claim, describe(error), None, now_ms=unix_ms()))
        function = self._functions.get(job.function)
        if function is None:
            reason = f"this worker has no function {job.function!r}"
            decision = decide_unknown(claim, reason, job.known_batch, now_ms=unix_ms())
            return RunResult(decision, job)
        result = await self._call(function, claim, job)
        if result is None:
            return RunResult(RELEASE, job)
        return RunResult(decide(claim, job.batch, result, now_ms=unix_ms()), job)

    async def _call(
        self, function: WorkerCoroutine, claim: Claim, job: Job
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
                CLAIM: claim,
            }
            run = partial(_call_for_batch, function, ctx, job)
            if not claim.is_poison:
                return await run(job.batch)
            mark = partial(self._leases.mark_alone, claim)
            try:
                return await _run_one_by_one(claim, job.batch, run, mark)
            except Exception as error:
                return outcome_of(error)


def abort(claim: Claim) -> RunResult:
    """Return the result of a job that was aborted, before or while it ran."""
    try:
        batch = claim.job().known_batch
    except ContractError:
        batch = None
    return RunResult(decide_aborted(claim, batch, now_ms=unix_ms()))


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
            outcomes.append(Rejected(POISON_REASON))
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
    """The task that runs ``job``, which its worker can interrupt."""

    def __init__(self, claim: Claim, job: Coroutine[Any, Any, RunResult]) -> None:
        self.claim = claim
        self._interruption: Interruption | None = None
        self._job = asyncio.create_task(job, name=f"job {claim.job_id}")
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        """True if the job has run, and at most the decision on it is left to be written."""
        return self._job.done()

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
