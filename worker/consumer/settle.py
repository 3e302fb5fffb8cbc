"""Writes decisions to Redis. Until that is done, a job may run again."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog

from ingestq.broker import keys
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.results import BatchReport, JobResult
from worker.consumer.decision import BROKER_RETRY_SECONDS, Finish, PutBack, jittered
from worker.consumer.runner import Ran

WINDOW_SECONDS: Final = 60.0


class Rates:
    """Documents and chunks a second, over the last minute or since the start if that is shorter."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._done: deque[tuple[float, int, int]] = deque()

    def count(self, report: BatchReport) -> None:
        """Add what a job did."""
        moment = time.monotonic()
        self._done.append((moment, report.documents.total, report.chunks.embedded))
        self._forget(moment)

    def per_second(self) -> tuple[float, float]:
        """Return documents and chunks a second."""
        moment = time.monotonic()
        self._forget(moment)
        seconds = max(min(moment - self._started, WINDOW_SECONDS), 1.0)
        documents = sum(n for _, n, _ in self._done)
        chunks = sum(n for _, _, n in self._done)
        return round(documents / seconds, 2), round(chunks / seconds, 2)

    def _forget(self, moment: float) -> None:
        while self._done and self._done[0][0] < moment - WINDOW_SECONDS:
            self._done.popleft()


log = structlog.get_logger()


class Settler:
    """Writes down what became of a worker's jobs, and counts its ``rates``."""

    def __init__(self, leases: LeaseQueue) -> None:
        self.rates = Rates()
        self._leases = leases

    async def settle(self, claim: Claim, ran: Ran, started_ms: int) -> bool:
        """Write the verdict down. False if the job was not ours any more: then it says nothing."""
        finished_ms = now_ms()
        said: dict[str, Any]
        match ran.verdict:
            case Finish(report) as verdict:
                result = _result(claim, ran, verdict, started_ms, finished_ms)
                write = partial(
                    self._leases.finish,
                    claim,
                    report,
                    result,
                    about=_first_document(ran),
                    keep_ms=ran.keep_ms,
                )
                event, said = events.JOB_FINISHED, {"seconds": (finished_ms - started_ms) / 1000}
            case PutBack(reason, delay, failed):
                write = partial(self._leases.put_back, claim, delay_seconds=delay, failed=failed)
                event, said = events.JOB_PUT_BACK, {"reason": reason, "failed": failed}
        ours = await self._insist(write)
        if not ours:
            log.warning(events.LEASE_LOST, job=claim.job_id)
            return False
        log.info(event, job=claim.job_id, **said)
        if isinstance(ran.verdict, Finish):
            self.rates.count(ran.verdict.report)
        return True

    async def _insist(self, write: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat ``write`` until Redis takes it, or nobody would believe it any more."""
        deadline = time.monotonic() + 2 * self._leases.lease_seconds
        while True:
            try:
                return await write()
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error), retry_in=BROKER_RETRY_SECONDS)
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(jittered(BROKER_RETRY_SECONDS))


def _result(
    claim: Claim, ran: Ran, verdict: Finish, started_ms: int, finished_ms: int
) -> JobResult:
    return JobResult(
        function="unknown" if ran.job is None else ran.job.function,
        tries=claim.failures + 1,
        enqueued_ms=0 if ran.job is None else ran.job.enqueued_ms,
        success=verdict.error is None,
        result=verdict.result if verdict.error is None else verdict.error,
        started_ms=started_ms,
        finished_ms=finished_ms,
        queue=keys.QUEUE,
        job_id=claim.job_id,
        aborted=verdict.aborted,
    )


def _first_document(ran: Ran) -> str:
    batch = None if ran.job is None else ran.job.batch
    return "" if batch is None else batch.documents[0].doc_id


def now_ms() -> int:
    """Unix time of this machine in ms: for what is shown, never for what is decided."""
    return time.time_ns() // 1_000_000
