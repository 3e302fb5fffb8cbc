"""An arq worker that owns its jobs by lease: a job is never lost, and never finished twice.

arq's own loop claims jobs with a lock that says nothing about its owner and outlives a dead one
by minutes. This worker keeps arq's functions, ``ctx`` and keys, and replaces the claiming and the
finishing of jobs by the scripts of `ingestq.broker.queue.leases`.
"""

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import structlog
from arq.connections import ArqRedis
from arq.worker import Function, JobExecutionFailed, Worker
from redis.asyncio import Redis

from ingestq.broker.queue.gate import NO_SUCCESSOR
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.errors import BrokerUnavailable, CollectionMismatch
from ingestq.core.results import WorkerInfo
from ingestq.core.service import Service, happens_within
from worker.consumer.claiming import POLL_SECONDS, BackPressure, Listener
from worker.consumer.decision import BROKER_RETRY_SECONDS, RELEASE, Ack, Decision, Nack, jittered
from worker.consumer.progress import Heartbeat
from worker.consumer.runner import Interruption, JobRunner, RunningJob, RunResult, aborted
from worker.consumer.settle import DecisionWriter, now_ms
from worker.lanes import kept_for_interactive


def arq_client(redis: Redis) -> ArqRedis:
    """Return arq's client on the connections of ``redis``, reading and writing our envelopes."""
    return ArqRedis(
        redis.connection_pool,
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=read_envelope,
    )


def read_envelope(data: bytes) -> dict[str, Any]:
    """Decode a job or its result for arq's ``Job``, as its ``_deserializer``.

    ``Job.result()`` then raises JobExecutionFailed with the reason why a job was given up, and
    ``Job.abort()`` is true for one that was aborted.
    """
    envelope: dict[str, Any] = msgspec.msgpack.decode(data)
    if envelope.get("s") is False:
        aborted = envelope["aborted"]
        envelope["r"] = asyncio.CancelledError() if aborted else JobExecutionFailed(envelope["r"])
    return envelope


log = structlog.get_logger()

RENEWALS_PER_LEASE: Final = 3
"""Two renewals may fail before a lease is lost."""
MOST_OWNED: Final = 2
"""A job whose decision is being written takes no slot, but there is a bound: a worker owns up to
so many times as many jobs as it has slots."""
HELD_SECONDS: Final = 0.5
"""How often a worker that is held back asks again."""
GRACE_SECONDS: Final = 5.0
"""How long the last request of a service may take: cancelled, Redis might carry it out later."""
ABORT_SECONDS: Final = 0.5
"""How often a worker looks whether one of its jobs is to be aborted."""


class LeaseWorker(Worker):
    """Runs the jobs of the queue until it is told to stop.

    A job function takes ``ctx`` and a batch, and returns the `worker.pipeline.ingest.Outcome` of
    each of its documents; of arq's options for functions only the name counts. `run_until_stopped`
    returns after `stop`, when what could be finished within ``drain_seconds`` is finished and the
    rest is back on the queue. Of its ``max_jobs``, at least two, some are kept for interactive
    jobs.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        leases: LeaseQueue,
        *,
        max_jobs: int,
        drain_seconds: float,
        ctx: dict[Any, Any],
    ) -> None:
        if max_jobs < len(Lane):
            raise ValueError(f"max_jobs is {max_jobs}; each of the {len(Lane)} lanes needs one")
        super().__init__(
            functions=functions,
            redis_pool=arq_client(leases.redis),
            handle_signals=False,
            max_jobs=max_jobs,
            ctx=ctx,
        )
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._leases = leases
        self._max_bulk = max_jobs - kept_for_interactive(max_jobs)
        self._renewal_seconds = leases.lease_seconds / RENEWALS_PER_LEASE
        self._drain_seconds = drain_seconds
        functions_by_name = {name: known.coroutine for name, known in self.functions.items()}
        self._runner = JobRunner(functions_by_name, leases, self.ctx)
        self._writer = DecisionWriter(leases)
        self._listener = Listener(leases)
        self._back_pressure = BackPressure()
        self._heartbeat = Heartbeat(leases, self.id, self._info, self._renewal_seconds)
        # By token: a job that was lost may be claimed again.
        self._running: dict[int, RunningJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._held: Set[str] = frozenset()
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Claim nothing more and let `run_until_stopped` return. A second call stops at once."""
        if self._stopping.is_set():
            self._interrupt_all()
        self._stopping.set()
        self._slot_freed.set()

    async def run_until_stopped(self) -> None:
        """Claim and run jobs until `stop` is called.

        Survives Redis going away. Raises UsageError if a job finds that the worker is set up
        wrongly; its jobs are then back on the queue.
        """
        serving = list(self._leases.serving)
        log.info(events.WORKER_STARTED, worker=self.id, max_jobs=self.max_jobs, collections=serving)
        try:
            async with AsyncExitStack() as services:
                for run in (self._renew_leases, self._watch_aborts, self._heartbeat.run):
                    service = Service(
                        run,
                        name=run.__qualname__,
                        grace_seconds=GRACE_SECONDS,
                        on_end=self._stop_at_once,
                    )
                    await services.enter_async_context(service)
                try:
                    await self._claim_until_stopped()
                    await self._drain()
                finally:
                    self._interrupt_all()
                    await self._listener.stop()
                    if self._tasks:
                        await asyncio.wait(self._tasks)
        finally:
            with contextlib.suppress(BrokerUnavailable):
                await self._leases.deregister(self.id)
        log.info(events.WORKER_STOPPED, worker=self.id)
        if self._failure is not None:
            raise self._failure

    main = run_until_stopped
    """What arq's own ``run`` and ``async_run`` call."""

    async def _claim_until_stopped(self) -> None:
        while not self._stopping.is_set():
            if (seconds := self._back_pressure.seconds_left) > 0:
                await happens_within(self._stopping, seconds)
                continue
            self._slot_freed.clear()
            busy = [job.claim for job in self._running.values() if not job.has_ended]
            free = min(self.max_jobs - len(busy), MOST_OWNED * self.max_jobs - len(self._running))
            if free == 0 or any(job.claim.is_poison for job in self._running.values()):
                await self._slot_freed.wait()
                continue
            try:
                await self._claim(free, bulk=min(self._max_bulk - _in_bulk(busy), free))
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error), retry_in=BROKER_RETRY_SECONDS)
                await happens_within(self._stopping, jittered(BROKER_RETRY_SECONDS))

    async def _claim(self, free: int, *, bulk: int) -> None:
        """Start up to ``free`` jobs, ``bulk`` of them of that lane; return when to ask again."""
        claimed = await self._leases.claim(self.id, free, bulk=bulk, running=len(self._running))
        for claim in claimed.claims:
            self._start(claim)
        self._note_gates(claimed.shut)
        if len(claimed.shut) == len(self._leases.serving):
            await happens_within(self._stopping, HELD_SECONDS)
        elif claimed.drain:
            await happens_within(self._slot_freed, POLL_SECONDS)
        elif len(claimed.claims) < free:
            if _in_bulk(claimed.claims) == bulk:
                # There may be more bulk jobs, but there is no slot for them before one is freed.
                await self._listener.listen([Lane.INTERACTIVE], until=self._slot_freed)
            else:
                await self._listener.listen(list(Lane), until=self._stopping)

    def _note_gates(self, shut: Mapping[str, str]) -> None:
        """Log which collections are being exchanged; stop if one was, and is not ours any more."""
        for name, successor in shut.items():
            if successor == NO_SUCCESSOR:
                if name not in self._held:
                    log.info(events.WORKER_HELD, worker=self.id, collection=name)
            else:
                self._fail(
                    CollectionMismatch(
                        f"{self._leases.serving[name]!r} was replaced by {successor!r}. Set "
                        "INGESTQ_MODEL and INGESTQ_CHUNK_TOKENS to what that was rebuilt with, and "
                        "start the worker again; if the rebuilding was interrupted, call `ingestq "
                        "reindex` again to end it"
                    )
                )
        self._held = shut.keys()

    def _start(self, claim: Claim) -> None:
        job = self._running[claim.token] = RunningJob(claim, self._runner.run(claim))
        task = asyncio.create_task(self._work(job), name=f"work on {claim.job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _work(self, job: RunningJob) -> None:
        """Wait until the job has ended, decide what becomes of it, and write that down."""
        started_ms = now_ms()
        try:
            match await job.result():
                case Interruption.LEASE_LOST:
                    return
                case Interruption.ABORTED:
                    result = aborted(job.claim)
                case Interruption.STOPPED:
                    result = RunResult(RELEASE)
                case RunResult() as result:
                    pass
            self._slot_freed.set()
            self._heed(result.decision)
            await self._writer.write(job.claim, result.decision, result.job, started_ms=started_ms)
        finally:
            del self._running[job.claim.token]
            self._slot_freed.set()

    def _heed(self, decision: Decision) -> None:
        """Do what a decision asks of this worker itself."""
        match decision:
            case Ack():
                self._back_pressure.job_done()
            case Nack(fatal=error) if error is not None:
                self._fail(error)
            case Nack(reason, pause_seconds=seconds) if seconds > 0:
                self._back_pressure.pause(reason, seconds)

    def _fail(self, error: BaseException) -> None:
        """Stop, and let `run_until_stopped` raise ``error``."""
        if self._failure is None:
            self._failure = error
        if not self._stopping.is_set():
            self.stop()

    def _stop_at_once(self) -> None:
        """Stop without draining: a service has ended, without which no job may run."""
        self.stop()
        self._interrupt_all()

    def _interrupt_all(self) -> None:
        for job in self._running.values():
            job.interrupt(Interruption.STOPPED)

    async def _drain(self) -> None:
        """Let running jobs end, within limits."""
        if self._tasks:
            log.info(events.WORKER_DRAINING, running=len(self._tasks), seconds=self._drain_seconds)
            await asyncio.wait(self._tasks, timeout=self._drain_seconds)

    async def _renew_leases(self, stopping: asyncio.Event) -> None:
        """Keep the leases of running jobs; cancel the jobs whose lease was lost."""
        while not await happens_within(stopping, self._renewal_seconds):
            try:
                lost = await self._leases.renew([job.claim for job in self._running.values()])
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error))
                continue
            for job in [self._running[token] for token in lost if token in self._running]:
                # One that has ended gave its lease back itself; if not, its writer says so.
                if job.interrupt(Interruption.LEASE_LOST):
                    log.warning(events.LEASE_LOST, job=job.claim.job_id)

    async def _watch_aborts(self, stopping: asyncio.Event) -> None:
        """Cancel the jobs that somebody aborted."""
        while not await happens_within(stopping, ABORT_SECONDS):
            with contextlib.suppress(BrokerUnavailable):  # who claims jobs says so
                if self._running:
                    job_ids = await self._leases.aborted()
                    for job in self._running.values():
                        if job.claim.job_id in job_ids and not job.claim.aborted:
                            job.interrupt(Interruption.ABORTED)

    def _info(self) -> WorkerInfo:
        documents, chunks = self._writer.rates.per_second()
        return WorkerInfo(
            *(socket.gethostname(), os.getpid(), len(self._running), documents, chunks),
            paused=self._back_pressure.reason,
            collections=tuple(self._leases.serving),
        )


def _in_bulk(claims: Iterable[Claim]) -> int:
    return sum(claim.lane is Lane.BULK for claim in claims)
