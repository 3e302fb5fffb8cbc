"""An arq worker that owns its jobs by lease: a job is never lost, and never finished twice.

arq's own loop claims jobs with a lock that says nothing about its owner and outlives a dead one
by minutes. This worker keeps arq's functions, ``ctx``, hooks, cron jobs and ``Retry``, and replaces
the claiming and the finishing of jobs by the scripts of `ingestq.broker.queue.leases`.
"""

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timezone
from signal import Signals
from typing import Any, Final, TypedDict, Unpack

import structlog
from arq.cron import CronJob
from arq.typing import StartupShutdown
from arq.worker import Function, Worker

from ingestq.broker.queue.gate import NO_SUCCESSOR
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.errors import BrokerUnavailable, CollectionMismatch, UsageError
from ingestq.core.results import WorkerInfo
from worker.consumer.arq_client import arq_client
from worker.consumer.cron import CronTable
from worker.consumer.decision import (
    BROKER_RETRY_SECONDS,
    RELEASE,
    Finish,
    PutBack,
    jittered,
    judge_aborted,
)
from worker.consumer.pause import Pause
from worker.consumer.runner import JobHooks, JobRunner, Ran
from worker.consumer.settle import Settler, now_ms
from worker.lanes import kept_for_interactive

log = structlog.get_logger()

POLL_SECONDS: Final = 1
"""How long an idle worker waits for a wake-up before it looks for deferred and expired jobs."""
RENEWALS_PER_LEASE: Final = 3
"""Two renewals may fail before a lease is lost."""
MOST_RUNS: Final = 2
"""A job that only waits for its verdict to be written down takes no slot, but there is a bound: so
many times the slots."""
HELD_SECONDS: Final = 0.5
"""How often a worker that is held back asks again."""
ABORT_SECONDS: Final = 0.5
"""How often a worker looks whether one of its jobs is to be aborted."""


class ArqOptions(TypedDict, total=False):
    """Options of arq's worker that mean here what arq's documentation says."""

    cron_jobs: Sequence[CronJob] | None
    timezone: timezone | None
    on_startup: StartupShutdown | None
    on_shutdown: StartupShutdown | None
    on_job_start: StartupShutdown | None
    on_job_end: StartupShutdown | None
    after_job_end: StartupShutdown | None


@dataclass
class _Run:
    """A job this worker owns, while it runs."""

    claim: Claim
    task: asyncio.Task[None]
    lost: bool = False
    aborted: bool = False
    settling: bool = False

    def cancel(self) -> None:
        """Interrupt the job; what became of one that ended is still written down."""
        if not self.settling:
            self.task.cancel()


class LeaseWorker(Worker):
    """Runs the jobs of the queue until it is told to stop.

    ``run_until_stopped`` returns after `stop`, when what could be finished within
    ``drain_seconds`` is finished and the rest is back on the queue. Of its ``max_jobs``, at least
    two, some are kept for interactive jobs.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        leases: LeaseQueue,
        *,
        max_jobs: int,
        drain_seconds: float,
        ctx: dict[Any, Any],
        **options: Unpack[ArqOptions],
    ) -> None:
        if max_jobs < len(Lane):
            raise ValueError(f"max_jobs is {max_jobs}; each of the {len(Lane)} lanes needs one")
        super().__init__(
            functions=functions,
            redis_pool=arq_client(leases.redis),
            handle_signals=False,
            max_jobs=max_jobs,
            ctx=ctx,
            **options,
        )
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._leases = leases
        self._max_bulk = max_jobs - kept_for_interactive(max_jobs)
        self._renewal_seconds = leases.lease_seconds / RENEWALS_PER_LEASE
        self._drain_seconds = drain_seconds
        self._settler = Settler(leases)
        self._pause = Pause()
        self._runs: dict[int, _Run] = {}  # by token: a job that was lost may be claimed again
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._listening: dict[Lane, asyncio.Task[None]] = {}
        self._held: Set[str] = frozenset()
        self._left: Set[str] = frozenset()
        self._fatal: UsageError | None = None
        hooks = JobHooks(self.on_job_start, self.on_job_end, self.after_job_end)
        self._runner = JobRunner(self.functions, leases, hooks, self.ctx)

    def stop(self) -> None:
        """Claim nothing more and let `run_until_stopped` return. A second call stops at once."""
        if self._stopping.is_set():
            for run in self._runs.values():
                run.cancel()
        self._stopping.set()
        self._slot_freed.set()
        for listening in self._listening.values():
            listening.cancel()

    async def run_until_stopped(self) -> None:
        """Claim and run jobs until `stop` is called.

        Survives Redis going away. Raises what ``on_startup`` raises, and UsageError if a job finds
        that the worker is set up wrongly; its jobs are then back on the queue.
        """
        serving = list(self._leases.serving)
        log.info(events.WORKER_STARTED, worker=self.id, max_jobs=self.max_jobs, collections=serving)
        self.ctx["redis"] = self.pool
        if self.on_startup:
            await self.on_startup(self.ctx)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew_leases())
                group.create_task(self._watch_aborts())
                group.create_task(self._show_life())
                if self.cron_jobs:
                    group.create_task(self._queue_cron_runs())
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

    async def main(self) -> None:
        """What arq's ``run`` and ``async_run`` call."""
        await self.run_until_stopped()

    def handle_sig(self, signum: Signals) -> None:
        """What arq calls to stop a worker."""
        self.stop()

    async def close(self) -> None:
        """Stop, and wait for a worker that was started by arq's ``run`` or ``async_run``.

        The connection stays open: it belongs to whoever made it.
        """
        self.stop()
        if self.main_task is not None:
            await asyncio.wait([self.main_task])

    async def _claim_until_stopped(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            if (seconds := self._pause.seconds_left) > 0:
                await _happens_within(self._stopping, seconds)
                continue
            self._slot_freed.clear()
            busy = [run.claim for run in self._runs.values() if not run.settling]
            free = min(self.max_jobs - len(busy), MOST_RUNS * self.max_jobs - len(self._runs))
            if free == 0 or self._has_suspect():
                await self._slot_freed.wait()
                continue
            bulk = min(self._max_bulk - _in_bulk(busy), free)
            try:
                claimed = await self._leases.claim(
                    self.id, free, bulk=bulk, running=len(self._runs)
                )
                for claim in claimed.claims:
                    self._start(claim, group)
                self._note_gates(claimed.shut)
                if len(claimed.shut) == len(self._leases.serving):
                    await _happens_within(self._stopping, HELD_SECONDS)
                elif claimed.drain:
                    await _happens_within(self._slot_freed, POLL_SECONDS)
                elif len(claimed.claims) < free:
                    await self._listen(bulk_may_wait=_in_bulk(claimed.claims) == bulk)
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error), retry_in=BROKER_RETRY_SECONDS)
                await _happens_within(self._stopping, jittered(BROKER_RETRY_SECONDS))

    def _note_gates(self, shut: Mapping[str, str]) -> None:
        """Say which collections are being exchanged; stop if one was, and is not ours any more."""
        for name, successor in shut.items():
            if successor == NO_SUCCESSOR:
                if name not in self._held:
                    log.info(events.WORKER_HELD, worker=self.id, collection=name)
            else:
                self._fatal = CollectionMismatch(
                    f"{self._leases.serving[name]!r} was replaced by {successor!r}. Set "
                    "INGESTQ_MODEL and INGESTQ_CHUNK_TOKENS to what that was rebuilt with, and "
                    "start the worker again; if the rebuilding was interrupted, call `ingestq "
                    "reindex` again to end it"
                )
                self.stop()
        self._held = shut.keys()

    def _has_suspect(self) -> bool:
        return any(run.claim.suspect for run in self._runs.values())

    def _start(self, claim: Claim, group: asyncio.TaskGroup) -> None:
        task = group.create_task(self._work(claim))
        self._runs[claim.token] = _Run(claim, task)

        def free_slot(_: asyncio.Task[None]) -> None:
            del self._runs[claim.token]
            self._slot_freed.set()

        task.add_done_callback(free_slot)

    async def _listen(self, *, bulk_may_wait: bool) -> None:
        """Wait until there may be work, or until it is to stop.

        With ``bulk_may_wait`` bulk jobs could be had if there were a slot for them: until then only
        interactive ones are listened for.
        """
        lanes = [Lane.INTERACTIVE] if bulk_may_wait else list(Lane)
        for lane in lanes:
            if lane not in self._listening:
                wait = self._leases.wait_for_work(lane, POLL_SECONDS)
                self._listening[lane] = asyncio.create_task(wait)
        waking = {self._listening[lane] for lane in lanes}
        freed = asyncio.create_task(self._slot_freed.wait())
        await asyncio.wait(
            waking | {freed} if bulk_may_wait else waking, return_when=asyncio.FIRST_COMPLETED
        )
        freed.cancel()
        for lane, listening in list(self._listening.items()):
            if listening.done():
                del self._listening[lane]
                if not listening.cancelled():
                    listening.result()

    async def _drain(self) -> None:
        """Let running jobs end; those that take too long are put back."""
        if self._listening:
            await asyncio.wait(self._listening.values())
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
            for run in [self._runs[token] for token in lost if token in self._runs]:
                if run.settling:  # it gave its lease back itself; if not, the settler says so
                    continue
                log.warning(events.LEASE_LOST, job=run.claim.job_id)
                run.lost = True
                run.cancel()

    async def _watch_aborts(self) -> None:
        """Cancel the jobs that somebody aborted."""
        while not await _happens_within(self._drained, ABORT_SECONDS):
            with contextlib.suppress(BrokerUnavailable):  # the claiming says so
                if self._runs:
                    job_ids = await self._leases.aborted()
                    for run in list(self._runs.values()):
                        if run.claim.job_id in job_ids and not run.claim.aborted:
                            run.aborted = True
                            run.cancel()

    async def _show_life(self) -> None:
        while not self._drained.is_set():
            documents, chunks = self._settler.rates.per_second()
            info = WorkerInfo(
                *(socket.gethostname(), os.getpid(), len(self._runs), documents, chunks),
                paused=self._pause.reason,
                collections=tuple(self._leases.serving),
            )
            with contextlib.suppress(BrokerUnavailable):  # the claiming says so
                self._note_left(await self._leases.sign_of_life(self.id, info))
            await _happens_within(self._drained, self._renewal_seconds)

    def _note_left(self, collections: Set[str]) -> None:
        """Say once for which collections there are jobs that everybody leaves to others."""
        for name in sorted(collections - self._left):
            log.warning(events.WORKER_LEAVES, worker=self.id, collection=name)
        self._left = collections

    async def _queue_cron_runs(self) -> None:
        table = CronTable(self.cron_jobs, self.timezone, self._leases.schedule, self.id)
        await table.run_until(self._stopping)

    async def _work(self, claim: Claim) -> None:
        """Run one job and settle it. Raises nothing but cancellation."""
        started_ms = now_ms()
        try:
            ran = await self._runner.run(claim)
        except asyncio.CancelledError:
            run = self._runs[claim.token]
            if run.lost:
                return
            ran = Ran(judge_aborted(claim) if run.aborted else RELEASE)
        self._runs[claim.token].settling = True
        self._slot_freed.set()
        match ran.verdict:
            case PutBack(fatal=UsageError() as fatal):
                self._fatal = fatal
                self.stop()
            case PutBack(reason, pause_seconds=seconds) if seconds:
                self._pause.begin(reason, seconds)
            case Finish():
                self._pause.end()
        if await self._settler.settle(claim, ran, started_ms):
            await self._runner.after(ran)


def _in_bulk(claims: Iterable[Claim]) -> int:
    return sum(claim.lane is Lane.BULK for claim in claims)


async def _happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for ``event``, but no longer than ``seconds``; whether it happened."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
