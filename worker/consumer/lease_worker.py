"""An arq worker that owns its jobs by lease: no job is lost, and none is finished twice.

arq's own loop claims a job with a lock that does not name its owner and outlives a dead one by
minutes. This worker keeps arq's functions, ``ctx`` and keys, but claims, acks and nacks jobs with
the scripts of `ingestq.broker.queue.leases`.
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
from ingestq.core import events, metrics
from ingestq.core.documents import Lane
from ingestq.core.errors import BrokerUnavailable, CollectionMismatch, ServiceUnavailable
from ingestq.core.health import POLL_STILL_SECONDS, Pulse
from ingestq.core.outages import note_failure
from ingestq.core.results import WorkerInfo
from ingestq.core.service import Service, happens_within
from ingestq.core.tracing import continued
from worker.consumer.claiming import POLL_SECONDS, BackPressure, Listener
from worker.consumer.decision import (
    BROKER_RETRY_SECONDS,
    RELEASE,
    Ack,
    Decision,
    Nack,
    jittered,
    unix_ms,
)
from worker.consumer.decision_writer import DecisionWriter
from worker.consumer.job_runner import Interruption, JobRunner, RunningJob, RunResult
from worker.consumer.progress import Heartbeat
from worker.lanes import reserved_for_interactive

log = structlog.get_logger()


def arq_client(redis: Redis) -> ArqRedis:
    """Return arq's client on the connections of ``redis``, with jobs encoded as MessagePack."""
    return ArqRedis(
        redis.connection_pool,
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=read_envelope,
    )


def read_envelope(data: bytes) -> dict[str, Any]:
    """Decode a job or its result; to be passed to arq's ``Job`` as its ``_deserializer``.

    With it, ``Job.result()`` raises JobExecutionFailed with the reason why a job failed, and
    ``Job.abort()`` returns True for a job that was aborted.
    """
    envelope: dict[str, Any] = msgspec.msgpack.decode(data)
    if envelope.get("s") is False:
        aborted = envelope["aborted"]
        envelope["r"] = asyncio.CancelledError() if aborted else JobExecutionFailed(envelope["r"])
    return envelope


RENEWALS_PER_LEASE: Final = 3
"""A lease is renewed so often that two renewals may fail before it expires."""
MAX_OWNED_PER_SLOT: Final = 4
"""A job whose documents are all prepared, or whose decision is being written, takes no slot. To
bound the number of such jobs, a worker owns at most so many jobs for each of its slots."""
GATE_POLL_SECONDS: Final = 0.5
"""How often a worker tries to claim while the gates of all its collections are shut."""
GRACE_SECONDS: Final = 5.0
"""How long the last request of a service may take before it is cancelled. Redis might carry out a
cancelled request later."""
IDLE_SECONDS: Final = 15.0
"""How often a worker that must claim nothing looks again whether it may, so that `LeaseWorker.poll`
tells it from one that hangs."""
ABORT_POLL_SECONDS: Final = 0.5
"""How often a worker checks whether one of its jobs was aborted."""


class LeaseWorker(Worker):
    """Runs the jobs of the queue until it is told to stop.

    Each function takes ``ctx`` and a batch, and returns the `worker.pipeline.ingest.Outcome` of
    each document; of arq's options for functions, only the name has an effect. After `stop`,
    running jobs have ``drain_seconds`` to finish; those that did not are nacked without counting a
    try, and `run_until_stopped` returns. Up to ``max_jobs`` jobs with unprepared documents run at
    once; some of these places are reserved for interactive jobs. So a worker takes more small
    documents than large ones, which other workers may do as well. Raises ValueError if ``max_jobs``
    is less than 2. ``poll`` beats whenever the worker looks for jobs, also if it finds that it must
    not claim any.
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
            raise ValueError(f"max_jobs is {max_jobs}; it must be at least {len(Lane)}, one a lane")
        super().__init__(
            functions=functions,
            redis_pool=arq_client(leases.redis),
            handle_signals=False,
            max_jobs=max_jobs,
            ctx=ctx,
        )
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.poll = Pulse(POLL_STILL_SECONDS)
        self._leases = leases
        self._max_bulk = max_jobs - reserved_for_interactive(max_jobs)
        self._renewal_seconds = leases.lease_seconds / RENEWALS_PER_LEASE
        self._drain_seconds = drain_seconds
        functions_by_name = {name: known.coroutine for name, known in self.functions.items()}
        self._runner = JobRunner(functions_by_name, leases, self.ctx)
        self._writer = DecisionWriter(leases)
        self._listener = Listener(leases)
        self._back_pressure = BackPressure()
        self._heartbeat = Heartbeat(leases, self.id, self._info, self._renewal_seconds)
        # By token: this worker may claim a job again whose lease it has lost.
        self._running: dict[int, RunningJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._shut_gates: Set[str] = frozenset()
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Claim no more jobs, and drain. A second call interrupts the running jobs."""
        if self._stopping.is_set():
            self._interrupt_all()
        self._stopping.set()
        self._slot_freed.set()

    async def run_until_stopped(self) -> None:
        """Claim and run jobs until `stop` is called.

        Waits while Redis is unavailable. Raises UsageError if a job fails because of a wrong
        setting, and CollectionMismatch if a served collection was replaced by a rebuilt one; the
        jobs are nacked before.
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
                    try:
                        await self._claim_until_stopped()
                    finally:
                        self.poll.rest()
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
    """arq's ``run`` and ``async_run`` call this."""

    async def _claim_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self.poll.beat()
            if (seconds := self._back_pressure.seconds_left) > 0:
                await happens_within(self._stopping, min(seconds, IDLE_SECONDS))
                continue
            self._slot_freed.clear()
            owned = [job.claim for job in self._running.values()]
            busy = [job.claim for job in self._running.values() if job.takes_slot]
            free = min(self.max_jobs - len(busy), MAX_OWNED_PER_SLOT * self.max_jobs - len(owned))
            bulk = min(
                self._max_bulk - _count_bulk(busy),
                MAX_OWNED_PER_SLOT * self._max_bulk - _count_bulk(owned),
                free,
            )
            if free == 0 or any(job.claim.is_poison for job in self._running.values()):
                await happens_within(self._slot_freed, IDLE_SECONDS)
                continue
            try:
                await self._claim(free, bulk=bulk)
            except ServiceUnavailable as error:  # Redis, or Qdrant when a ledger is read
                note_failure(error)
                await happens_within(self._stopping, jittered(BROKER_RETRY_SECONDS))

    async def _claim(self, free: int, *, bulk: int) -> None:
        """Claim and start up to ``free`` jobs, up to ``bulk`` of them in the bulk lane.

        Returns when it is worth claiming again.
        """
        claimed = await self._leases.claim(self.id, free, bulk=bulk, running=len(self._running))
        for claim in claimed.claims:
            self._start(claim)
        self._note_gates(claimed.shut)
        if len(claimed.shut) == len(self._leases.serving):
            await happens_within(self._stopping, GATE_POLL_SECONDS)
        elif claimed.drain:
            await happens_within(self._slot_freed, POLL_SECONDS)
        elif len(claimed.claims) < free:
            if _count_bulk(claimed.claims) == bulk:
                # More bulk jobs may be ready, but there is no slot for them until one is freed.
                await self._listener.listen([Lane.INTERACTIVE], until=self._slot_freed)
            else:
                await self._listener.listen(list(Lane), until=self._stopping)

    def _note_gates(self, shut: Mapping[str, str]) -> None:
        """Log the collections that are being cut over; stop if one was replaced.

        ``shut`` has the collections whose gate is shut, and the successor of each that has one.
        """
        for name, successor in shut.items():
            if successor == NO_SUCCESSOR:
                if name not in self._shut_gates:
                    log.info(events.WORKER_HELD, worker=self.id, collection=name)
            else:
                self._fail(
                    CollectionMismatch(
                        f"{self._leases.serving[name]!r} was replaced by {successor!r}. Set "
                        "INGESTQ_MODEL and INGESTQ_CHUNK_TOKENS to the values that it was rebuilt "
                        "with, and restart the worker. If the rebuild was interrupted, run "
                        "`ingestq reindex` again to complete it"
                    )
                )
        self._shut_gates = shut.keys()

    def _start(self, claim: Claim) -> None:
        job = self._running[claim.token] = RunningJob(
            claim, self._runner.run, on_prepared=self._slot_freed.set
        )
        task = asyncio.create_task(self._work(job), name=f"work on {claim.job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _work(self, job: RunningJob) -> None:
        """Wait until the job has ended, and write the decision on it."""
        started_ms = unix_ms()
        try:
            match await job.result():
                case Interruption.LEASE_LOST:
                    return
                case Interruption.ABORTED:
                    result = await self._runner.abort(job.claim)
                case Interruption.STOPPED:
                    result = RunResult(RELEASE)
                case RunResult() as result:
                    pass
            self._slot_freed.set()
            self._apply(result.decision)
            with continued(result.trace):
                await self._writer.write(
                    job.claim, result.decision, result.job, started_ms=started_ms
                )
        finally:
            del self._running[job.claim.token]
            self._slot_freed.set()

    def _apply(self, decision: Decision) -> None:
        """Apply what ``decision`` means for this worker: back-pressure, or that it must stop."""
        match decision:
            case Ack():
                self._back_pressure.job_done()
            case Nack(fatal=error) if error is not None:
                self._fail(error)
            case Nack(reason, back_pressure_seconds=seconds) if seconds > 0:
                self._back_pressure.apply(reason, seconds)

    def _fail(self, error: BaseException) -> None:
        """Stop, and make `run_until_stopped` raise ``error``."""
        if self._failure is None:
            self._failure = error
        if not self._stopping.is_set():
            self.stop()

    def _stop_at_once(self) -> None:
        """Stop without draining: a service has ended, and no job may run without it."""
        self.stop()
        self._interrupt_all()

    def _interrupt_all(self) -> None:
        for job in self._running.values():
            job.interrupt(Interruption.STOPPED)

    async def _drain(self) -> None:
        """Wait for running jobs to end, for up to the drain time."""
        if self._tasks:
            log.info(events.WORKER_DRAINING, running=len(self._tasks), seconds=self._drain_seconds)
            await asyncio.wait(self._tasks, timeout=self._drain_seconds)

    async def _renew_leases(self, stopping: asyncio.Event) -> None:
        """Renew the leases of running jobs; interrupt the jobs whose lease was lost."""
        while not await happens_within(stopping, self._renewal_seconds):
            try:
                lost = await self._leases.renew([job.claim for job in self._running.values()])
            except BrokerUnavailable as error:
                note_failure(error)
                continue
            for job in [self._running[token] for token in lost if token in self._running]:
                # A job that has ended gave its lease back; if not, the decision writer logs it.
                if job.interrupt(Interruption.LEASE_LOST):
                    metrics.count(metrics.LEASES_LOST)
                    claim = job.claim
                    log.warning(events.LEASE_LOST, job=claim.job_id, submission=claim.submission)

    async def _watch_aborts(self, stopping: asyncio.Event) -> None:
        """Interrupt the jobs that were aborted."""
        while not await happens_within(stopping, ABORT_POLL_SECONDS):
            with contextlib.suppress(BrokerUnavailable):  # the claiming loop logs it
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


def _count_bulk(claims: Iterable[Claim]) -> int:
    return sum(claim.lane is Lane.BULK for claim in claims)
