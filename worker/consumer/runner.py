"""Runs one job in a task of its own, and decides what becomes of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from arq.cron import CronJob
from arq.typing import StartupShutdown
from arq.worker import Function

from ingestq.broker.queue.leases import RESULT_MS, Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.errors import ContractError, describe
from ingestq.core.jobs import Batch, Job
from worker.consumer.decision import (
    MAX_TRIES,
    Verdict,
    accept,
    judge,
    judge_aborted,
    judge_unknown,
    leave,
)
from worker.consumer.jobs import CLAIM, PROGRESS
from worker.consumer.poison import run_one_by_one
from worker.consumer.progress import showing_progress

log = structlog.get_logger()


@dataclass(frozen=True)
class JobHooks:
    """arq's hooks around a job. One that raises before the job fails it; later ones cannot."""

    on_job_start: StartupShutdown | None
    on_job_end: StartupShutdown | None
    after_job_end: StartupShutdown | None


@dataclass(frozen=True)
class Ran:
    """A job that ran, or could not: ``job`` and ``ctx`` are there as far as it came.

    ``keep_ms`` says how long to keep the result: 0 not at all, -1 for ever.
    """

    verdict: Verdict
    job: Job | None = None
    ctx: dict[Any, Any] | None = None
    keep_ms: int = RESULT_MS


class JobRunner:
    """Runs claimed jobs with the functions, the hooks and the ``ctx`` of a worker."""

    def __init__(
        self,
        functions: Mapping[str, Function | CronJob],
        leases: LeaseQueue,
        hooks: JobHooks,
        ctx: dict[Any, Any],
    ) -> None:
        self._functions = functions
        self._leases = leases
        self._hooks = hooks
        self._ctx = ctx

    async def run(self, claim: Claim) -> Ran:
        """Run the job and judge how it went. Raises nothing but cancellation."""
        if claim.aborted:
            return Ran(judge_aborted(claim))
        if claim.collection not in self._leases.serving:
            # An older worker, which knows of no collections, put it into the line of all.
            return Ran(leave(claim))
        try:
            job = claim.job()
        except ContractError as error:
            return Ran(judge_unknown(claim, describe(error), None))
        function = self._functions.get(job.function)
        if function is None:
            reason = f"this worker has no function {job.function!r}"
            return Ran(judge_unknown(claim, reason, job.known_batch), job)
        async with showing_progress(self._leases, claim) as progress:
            ctx = {
                **self._ctx,
                "job_id": claim.job_id,
                "job_try": claim.failures + 1,
                "enqueue_time": datetime.fromtimestamp(job.enqueued_ms / 1000, UTC),
                "score": job.enqueued_ms,
                PROGRESS: progress,
                CLAIM: claim,
            }
            verdict = await self._hooked(function, ctx, claim, job)
        return Ran(verdict, job, ctx, keep_ms=_keep_ms(function))

    async def after(self, ran: Ran) -> None:
        """Call the hook for a job whose verdict is written down."""
        if ran.ctx is not None:
            await self._hook(self._hooks.after_job_end, ran.ctx)

    async def _hooked(
        self, function: Function | CronJob, ctx: dict[Any, Any], claim: Claim, job: Job
    ) -> Verdict:
        try:
            if self._hooks.on_job_start:
                await self._hooks.on_job_start(ctx)
            run = partial(self._call, function, ctx, claim, job)
            if claim.suspect and job.batch is not None:
                mark = partial(self._leases.mark_alone, claim)
                return await run_one_by_one(claim, job.batch, run, mark)
            return await run(job.batch)
        except Exception as error:
            return judge(error, claim, job.batch)
        finally:
            await self._hook(self._hooks.on_job_end, ctx)

    async def _call(
        self,
        function: Function | CronJob,
        ctx: dict[Any, Any],
        claim: Claim,
        job: Job,
        batch: Batch | None,
    ) -> Verdict:
        """Call ``function`` for ``batch``, which is the job's own or a part of it."""
        arguments = () if batch is None else (batch,)
        try:
            return accept(await _bounded(function, ctx, *arguments, **job.kwargs), batch)
        except Exception as error:
            max_tries = MAX_TRIES if function.max_tries is None else function.max_tries
            return judge(error, claim, batch, max_tries)

    async def _hook(self, hook: StartupShutdown | None, ctx: dict[Any, Any]) -> None:
        """Call a hook for a job that has ended: whatever it raises, that stays so."""
        if hook is None:
            return
        try:
            await hook(ctx)
        except Exception as error:
            log.error(events.HOOK_FAILED, job=ctx["job_id"], error=str(error), exc_info=error)


def _keep_ms(function: Function | CronJob) -> int:
    if function.keep_result_forever:
        return -1
    return RESULT_MS if function.keep_result_s is None else int(function.keep_result_s * 1000)


async def _bounded(function: Function | CronJob, ctx: dict[Any, Any], *args: Any, **kw: Any) -> Any:
    """Call ``function`` within its own time limit, if it has one.

    Raises TimeoutError, or RuntimeError if it cancelled itself: only the worker may stop a job.
    """
    try:
        if function.timeout_s is None:
            return await function.coroutine(ctx, *args, **kw)
        async with asyncio.timeout(function.timeout_s) as limit:
            return await function.coroutine(ctx, *args, **kw)
    except TimeoutError as error:
        if function.timeout_s is not None and limit.expired():
            raise TimeoutError(f"it was not done within {function.timeout_s:g} s") from error
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise RuntimeError("the job was cancelled by what it awaited") from error
        raise
