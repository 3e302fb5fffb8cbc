"""Runs one job in a task of its own, and decides what becomes of it."""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

import structlog
from arq.typing import WorkerCoroutine

from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.errors import ContractError, describe
from ingestq.core.jobs import Batch, Job
from ingestq.core.service import cancel
from worker.consumer.decision import (
    RELEASE,
    Decision,
    Failed,
    decide,
    decide_aborted,
    decide_unknown,
    outcome_of,
)
from worker.consumer.jobs import CLAIM, PROGRESS
from worker.consumer.poison import run_one_by_one
from worker.consumer.progress import showing_progress
from worker.consumer.settle import now_ms
from worker.pipeline.ingest import Outcome, Rejected, Retry

log = structlog.get_logger()


@dataclass(frozen=True)
class RunResult:
    """The decision on a job; ``job`` is there as far as it could be decoded."""

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
        """Run the job and decide what becomes of it. Raises nothing but cancellation."""
        if claim.aborted:
            return aborted(claim)
        try:
            job = claim.job()
        except ContractError as error:
            return RunResult(decide_unknown(claim, describe(error), None, now_ms=now_ms()))
        function = self._functions.get(job.function)
        if function is None:
            reason = f"this worker has no function {job.function!r}"
            decision = decide_unknown(claim, reason, job.known_batch, now_ms=now_ms())
            return RunResult(decision, job)
        ended = await self._run(function, claim, job)
        if ended is None:
            return RunResult(RELEASE, job)
        return RunResult(decide(claim, job.batch, ended, now_ms=now_ms()), job)

    async def _run(
        self, function: WorkerCoroutine, claim: Claim, job: Job
    ) -> Sequence[Outcome] | Failed | None:
        """Call ``function``; return the outcome of each document, or of all if the job raised.

        None if the job is not ours any more.
        """
        async with showing_progress(self._leases, claim) as progress:
            ctx = {
                **self._ctx,
                "job_id": claim.job_id,
                "job_try": claim.failures + 1,
                PROGRESS: progress,
                CLAIM: claim,
            }
            run = partial(_call, function, ctx, job)
            if not claim.is_poison:
                return await run(job.batch)
            mark = partial(self._leases.mark_alone, claim)
            try:
                return await run_one_by_one(claim, job.batch, run, mark)
            except Exception as error:
                return outcome_of(error)


def aborted(claim: Claim) -> RunResult:
    """Return the result of a job that somebody aborted, before or while it ran."""
    try:
        batch = claim.job().known_batch
    except ContractError:
        batch = None
    return RunResult(decide_aborted(claim, batch, now_ms=now_ms()))


async def _call(
    function: WorkerCoroutine, ctx: dict[Any, Any], job: Job, batch: Batch
) -> Sequence[Outcome] | Failed:
    """Call ``function`` for ``batch``, which is the job's own or a part of it."""
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
    """Await ``job``; raise RuntimeError if it cancelled itself: only the worker may stop a job."""
    try:
        return await job
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise RuntimeError("the job was cancelled by what it awaited") from error
        raise


class Interruption(Enum):
    """Why a job was cancelled."""

    LEASE_LOST = auto()
    ABORTED = auto()
    STOPPED = auto()


class RunningJob:
    """Runs ``job`` for as long as its worker owns ``claim``."""

    def __init__(self, claim: Claim, job: Coroutine[Any, Any, RunResult]) -> None:
        self.claim = claim
        self._interruption: Interruption | None = None
        self._job = asyncio.create_task(job, name=f"job {claim.job_id}")
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether only the decision on it is left to be written."""
        return self._job.done()

    def interrupt(self, reason: Interruption) -> bool:
        """Cancel the job; does not wait. False if it has ended, or is being cancelled already."""
        if self.has_ended or self._interruption is not None:
            return False
        self._interruption = reason
        self._cancelling = asyncio.create_task(cancel(self._job))
        return True

    async def result(self) -> RunResult | Interruption:
        """Wait for the job; return its result, or why it was cancelled.

        If the caller is cancelled, so is the job.
        """
        try:
            return await self._job
        except asyncio.CancelledError:
            if self._interruption is None:
                raise
            return self._interruption
