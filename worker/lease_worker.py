"""An arq worker that owns its jobs by lease: a job is never lost, and never finished twice.

arq's own loop claims jobs with a lock that says nothing about its owner and outlives a dead one
by minutes. This worker keeps arq's functions, ``ctx``, hooks and ``Retry``, and replaces the
claiming, the running and the finishing of jobs by the scripts of `broker.leases`.
"""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from arq.worker import Function, Worker

from broker import events, keys
from broker.contract import IngestBatch, Job, JobResult, decode_job
from broker.errors import BrokerUnavailable, ContractError, IngestqError, UsageError
from broker.leases import Claim, LeaseQueue
from worker.jobs import PROGRESS
from worker.retries import jittered
from worker.verdicts import (
    RELEASE,
    Finish,
    PutBack,
    Verdict,
    judge,
    judge_undecodable,
    judge_unknown,
)

log = structlog.get_logger()

POLL_SECONDS: Final = 1
"""How long an idle worker waits for a wake-up before it looks for deferred and expired jobs."""
RENEWALS_PER_LEASE: Final = 3
"""Two renewals may fail before a lease is lost."""
BROKER_RETRY_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 0.5
"""How often a running job shows how far it is."""

UNDECODABLE: Final = Job("unknown", (IngestBatch("", ()),), enqueued_ms=0)
"""Stands for a job that cannot be decoded: nobody knows its submission or documents."""


@dataclass
class _Run:
    """A job this worker owns, while it runs."""

    claim: Claim
    task: asyncio.Task[None]
    lost: bool = False
    settling: bool = False

    def cancel(self) -> None:
        """Interrupt the job; what became of one that ended is still written down."""
        if not self.settling:
            self.task.cancel()


@dataclass
class _LiveProgress:
    """Chunks done and known of a running job, to be shown when they changed."""

    done: int = 0
    known: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, done: int, known: int) -> None:
        self.done += done
        self.known += known
        self.changed.set()

    def end(self) -> None:
        """Nothing more is to be shown."""
        self.ended.set()
        self.changed.set()


class LeaseWorker(Worker):
    """Runs the jobs of the queue until it is told to stop.

    ``run_until_stopped`` returns after `stop`, when what could be finished within
    ``drain_seconds`` is finished and the rest is back on the queue.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        leases: LeaseQueue,
        *,
        max_jobs: int,
        drain_seconds: float,
        ctx: dict[str, Any],
    ) -> None:
        super().__init__(
            functions=functions,
            redis_pool=leases.redis,
            handle_signals=False,
            max_jobs=max_jobs,
            ctx=ctx,
            job_serializer=msgspec.msgpack.encode,
            job_deserializer=msgspec.msgpack.decode,
        )
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._leases = leases
        self._renewal_seconds = leases.lease_seconds / RENEWALS_PER_LEASE
        self._drain_seconds = drain_seconds
        self._runs: dict[int, _Run] = {}  # by token: a job that was lost may be claimed again
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._fatal: UsageError | None = None

    def stop(self) -> None:
        """Claim nothing more and let `run_until_stopped` return. A second call stops at once."""
        if self._stopping.is_set():
            for run in self._runs.values():
                run.cancel()
        self._stopping.set()
        self._slot_freed.set()
        if self._listening is not None:
            self._listening.cancel()

    async def run_until_stopped(self) -> None:
        """Claim and run jobs until `stop` is called.

        Survives Redis going away. Raises UsageError if a job finds that the worker is set up
        wrongly; its jobs are then back on the queue.
        """
        log.info(events.WORKER_STARTED, worker=self.id, max_jobs=self.max_jobs)
        self.ctx["redis"] = self.pool
        if self.on_startup:
            await self.on_startup(self.ctx)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew_leases())
                group.create_task(self._show_life())
                try:
                    await self._claim_until_stopped(group)
                    await self._drain()
                finally:
                    self._drained.set()
        finally:
            with contextlib.suppress(BrokerUnavailable):
                await self._leases.sign_off(self.id)
            if self.on_shutdown:
                await self.on_shutdown(self.ctx)
        log.info(events.WORKER_STOPPED, worker=self.id)
        if self._fatal is not None:
            raise self._fatal

    async def _claim_until_stopped(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            free = self.max_jobs - len(self._runs)
            if free == 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            try:
                claims = await self._leases.claim(free)
                for claim in claims:
                    self._start(claim, group)
                if len(claims) < free:
                    await self._listen()
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error), retry_in=BROKER_RETRY_SECONDS)
                await _happens_within(self._stopping, jittered(BROKER_RETRY_SECONDS))

    def _start(self, claim: Claim, group: asyncio.TaskGroup) -> None:
        task = group.create_task(self._work(claim))
        self._runs[claim.token] = _Run(claim, task)

        def free_slot(_: asyncio.Task[None]) -> None:
            del self._runs[claim.token]
            self._slot_freed.set()

        task.add_done_callback(free_slot)

    async def _listen(self) -> None:
        """Wait until there may be work, or until the worker is stopped."""
        self._listening = asyncio.create_task(self._leases.wait_for_work(POLL_SECONDS))
        try:
            await self._listening
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                self._listening.cancel()
                raise
        finally:
            self._listening = None

    async def _drain(self) -> None:
        """Let running jobs end; those that take too long are put back."""
        if not self._runs:
            return
        log.info(events.WORKER_DRAINING, running=len(self._runs), seconds=self._drain_seconds)
        await asyncio.wait([run.task for run in self._runs.values()], timeout=self._drain_seconds)
        left = list(self._runs.values())
        for run in left:
            run.cancel()
        if left:
            await asyncio.wait([run.task for run in left])

    async def _renew_leases(self) -> None:
        """Keep the leases of running jobs; cancel the jobs whose lease was lost."""
        while not await _happens_within(self._drained, self._renewal_seconds):
            try:
                lost = await self._leases.renew([run.claim for run in self._runs.values()])
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error))
                continue
            for token in lost & self._runs.keys():
                run = self._runs[token]
                log.warning(events.LEASE_LOST, job=run.claim.job_id)
                run.lost = True
                run.cancel()

    async def _show_life(self) -> None:
        while not self._drained.is_set():
            with contextlib.suppress(BrokerUnavailable):  # the claiming says so
                await self._leases.sign_of_life(self.id)
            await _happens_within(self._drained, self._renewal_seconds)

    async def _work(self, claim: Claim) -> None:
        """Run one job and settle it. Raises nothing but cancellation."""
        started_ms = _now_ms()
        job = UNDECODABLE
        verdict: Verdict
        try:
            job = decode_job(claim.payload)
            verdict = await self._execute(claim, job)
        except ContractError as error:
            verdict = judge_undecodable(claim, error)
        except asyncio.CancelledError:
            if self._runs[claim.token].lost:
                return
            verdict = RELEASE
        self._runs[claim.token].settling = True
        if isinstance(verdict, PutBack) and verdict.fatal is not None:
            self._fatal = verdict.fatal
            self.stop()
        await self._settle(claim, job, verdict, started_ms)

    async def _execute(self, claim: Claim, job: Job) -> Verdict:
        [batch] = job.args
        function = self.functions.get(job.function)
        if function is None:
            reason = f"this worker has no function {job.function!r}"
            return judge_unknown(claim, reason, batch)
        progress = _LiveProgress()
        ctx = {
            **self.ctx,
            "job_id": claim.job_id,
            "job_try": claim.failures + 1,
            "enqueue_time": datetime.fromtimestamp(job.enqueued_ms / 1000, UTC),
            PROGRESS: progress,
        }
        showing = asyncio.create_task(self._show_progress(claim, batch.submission, progress))
        try:
            return Finish(await function.coroutine(ctx, batch, **job.kwargs))
        except Exception as error:
            return judge(error, claim, batch)
        finally:
            # Told to end rather than cancelled: up to Python 3.11 ``asyncio.wait_for``, in which
            # redis-py sends every command, may forget a cancellation.
            progress.end()
            await asyncio.wait([showing])

    async def _show_progress(self, claim: Claim, submission: str, progress: _LiveProgress) -> None:
        while not progress.ended.is_set():
            await progress.changed.wait()
            progress.changed.clear()
            with contextlib.suppress(IngestqError):  # it is only shown; settling says what is wrong
                await self._leases.report_progress(
                    claim, submission, chunks_done=progress.done, chunks_known=progress.known
                )
            await _happens_within(progress.ended, PROGRESS_SECONDS)

    async def _settle(self, claim: Claim, job: Job, verdict: Verdict, started_ms: int) -> None:
        """Write the verdict down; until that is done the job may run again."""
        submission = job.args[0].submission
        said: dict[str, Any]
        finished_ms = _now_ms()
        match verdict:
            case Finish(report):
                result = JobResult(
                    function=job.function,
                    tries=claim.failures + 1,
                    enqueued_ms=job.enqueued_ms,
                    success=not report.dead,
                    result=report,
                    started_ms=started_ms,
                    finished_ms=finished_ms,
                    queue=keys.QUEUE,
                    job_id=claim.job_id,
                )
                settle = partial(self._leases.finish, claim, submission, report, result)
                event, said = events.JOB_FINISHED, {"seconds": (finished_ms - started_ms) / 1000}
            case PutBack(reason, delay, failed):
                settle = partial(
                    self._leases.put_back, claim, submission, delay_seconds=delay, failed=failed
                )
                event, said = events.JOB_PUT_BACK, {"reason": reason, "failed": failed}
        if await self._insist(settle):
            log.info(event, job=claim.job_id, **said)
        else:
            log.warning(events.LEASE_LOST, job=claim.job_id)

    async def _insist(self, settle: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat ``settle`` until Redis takes it, or nobody would believe it any more."""
        deadline = time.monotonic() + 2 * self._leases.lease_seconds
        while True:
            try:
                return await settle()
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error), retry_in=BROKER_RETRY_SECONDS)
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(jittered(BROKER_RETRY_SECONDS))


async def _happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for ``event``, but no longer than ``seconds``; whether it happened."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
