"""Writes decisions to Redis: acks or nacks a job. Until that is done, the job may run again."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from ingestq.broker import keys
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events, metrics
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.jobs import Job
from ingestq.core.outages import note_failure
from ingestq.core.results import BatchReport, JobResult
from worker.consumer.decision import BROKER_RETRY_SECONDS, Ack, Decision, Nack, jittered, unix_ms

log = structlog.get_logger()

RATE_WINDOW_SECONDS: Final = 60.0
LEASES_TO_WAIT: Final = 2
"""For so many times the lease, writing a decision is repeated while Redis is unavailable."""


class Rates:
    """Documents and chunks a second, over the last minute, or since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._done: deque[tuple[float, int, int]] = deque()

    def count(self, report: BatchReport) -> None:
        """Count the documents and chunks of a job that was acked."""
        moment = time.monotonic()
        self._done.append((moment, report.documents.total, report.chunks.embedded))
        self._drop_old(moment)

    def per_second(self) -> tuple[float, float]:
        """Return documents and chunks a second."""
        moment = time.monotonic()
        self._drop_old(moment)
        seconds = max(min(moment - self._started, RATE_WINDOW_SECONDS), 1.0)
        documents = sum(n for _, n, _ in self._done)
        chunks = sum(n for _, _, n in self._done)
        return round(documents / seconds, 2), round(chunks / seconds, 2)

    def _drop_old(self, moment: float) -> None:
        while self._done and self._done[0][0] < moment - RATE_WINDOW_SECONDS:
            self._done.popleft()


class DecisionWriter:
    """Writes the decisions on a worker's jobs to Redis, and measures the worker's ``rates``."""

    def __init__(self, leases: LeaseQueue) -> None:
        self.rates = Rates()
        self._leases = leases

    async def write(
        self, claim: Claim, decision: Decision, job: Job | None, *, started_ms: int
    ) -> None:
        """Write ``decision``, unless another worker owns the job by now.

        ``job`` is None if it was not decoded. Does not raise if Redis is unavailable: the write is
        repeated until the lease has expired for certain.
        """
        match decision:
            case Ack():
                await self._ack(claim, decision, job, started_ms)
            case Nack():
                await self._nack(claim, decision)

    async def _ack(self, claim: Claim, ack: Ack, job: Job | None, started_ms: int) -> None:
        finished_ms = unix_ms()
        # Without its list of warnings: the result of every job is kept for an hour.
        report = msgspec.structs.replace(ack.report, warnings=())
        result = JobResult(
            function="unknown" if job is None else job.function,
            tries=claim.failures + 1,
            enqueued_ms=0 if job is None else job.enqueued_ms,
            success=ack.error is None,
            result=report if ack.error is None else ack.error,
            started_ms=started_ms,
            finished_ms=finished_ms,
            queue=keys.QUEUE,
            job_id=claim.job_id,
            aborted=ack.aborted,
        )
        about = "" if job is None else job.batch.documents[0].doc_id
        tenant = None if job is None else job.batch.tenant
        if not await self._write_while_owned(
            claim,
            partial(self._leases.ack, claim, ack.report, result, about=about, tenant=tenant),
        ):
            return
        self.rates.count(ack.report)
        _count(ack, (finished_ms - started_ms) / 1000)
        if ack.aborted:
            log.info(events.JOB_ABORTED, job=claim.job_id, submission=claim.submission)
        elif ack.error is not None:
            log.error(
                events.JOB_DEAD_LETTERED,
                job=claim.job_id,
                submission=claim.submission,
                reason=ack.error,
            )
        else:
            log.info(
                events.JOB_FINISHED,
                job=claim.job_id,
                submission=claim.submission,
                seconds=(finished_ms - started_ms) / 1000,
            )

    async def _nack(self, claim: Claim, nack: Nack) -> None:
        # The job must not be claimed before the back-pressure is over: only the delay is jittered.
        delay = nack.back_pressure_seconds + jittered(nack.delay_seconds)
        write = partial(
            self._leases.nack, claim, delay_seconds=delay, counts_as_try=nack.counts_as_try
        )
        if await self._write_while_owned(claim, write):
            metrics.count(metrics.RETRIES, nack.cause.value)
            log.log(
                _level(nack),
                events.JOB_NACKED,
                job=claim.job_id,
                submission=claim.submission,
                reason=nack.reason,
                counts_as_try=nack.counts_as_try,
                retry_in=delay,
            )

    async def _write_while_owned(self, claim: Claim, write: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat ``write`` until Redis answers or the lease is over; return whether it counted."""
        deadline = time.monotonic() + LEASES_TO_WAIT * self._leases.lease_seconds
        while True:
            try:
                owned = await write()
            except BrokerUnavailable as error:
                note_failure(error)
                owned = False
                if time.monotonic() <= deadline:
                    await asyncio.sleep(jittered(BROKER_RETRY_SECONDS))
                    continue
            if not owned:
                metrics.count(metrics.LEASES_LOST)
                log.warning(events.LEASE_LOST, job=claim.job_id, submission=claim.submission)
            return owned


def _count(ack: Ack, seconds: float) -> None:
    """Count an acked job, its documents and its chunks."""
    end = "aborted" if ack.aborted else "failed" if ack.error is not None else "done"
    metrics.observe(metrics.JOB_SECONDS, max(0.0, seconds), end)
    for metric, counts in (
        (metrics.DOCUMENTS, ack.report.documents),
        (metrics.CHUNKS, ack.report.chunks),
    ):
        for name, number in msgspec.structs.asdict(counts).items():
            if number:
                metrics.count(metric, name, amount=number)
    for cause in ack.causes:
        metrics.count(metrics.DEAD_LETTERED, cause.value)


def _level(nack: Nack) -> int:
    """Return the level at which ``nack`` is logged: low if the job only waits for a service."""
    if nack.fatal is not None or nack.counts_as_try:
        return logging.WARNING
    return logging.DEBUG if nack.delay_seconds else logging.INFO
