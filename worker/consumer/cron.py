"""Queues the runs of cron jobs: each once, whichever workers are up, and a missed one late."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Final

import structlog
from arq.cron import CronJob

from ingestq.broker.schedule.clock import Schedule
from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable
from worker.consumer.decision import BROKER_RETRY_SECONDS, jittered

log = structlog.get_logger()

LONGEST_SLEEP_SECONDS: Final = 60.0
"""The clock of Redis is looked at as often: it may be set, and ours may run differently."""


class CronTable:
    """The cron jobs of a worker.

    All workers go by the clock of Redis and write down there up to when the runs are queued. A run
    that was due while no worker was up is queued when the next one starts, once however many were
    missed. ``unique=False`` is arq's way to say that every worker makes its own runs.
    """

    def __init__(
        self, cron_jobs: Sequence[CronJob], timezone: tzinfo | None, schedule: Schedule, worker: str
    ) -> None:
        self._cron_jobs = cron_jobs
        self._timezone = timezone
        self._schedule = schedule
        self._worker = worker

    async def run_until(self, stopping: asyncio.Event) -> None:
        """Queue every run when it is due. Survives Redis going away."""
        started: set[str] = set()
        while not stopping.is_set():
            try:
                for cron_job in self._cron_jobs:
                    if cron_job.name not in started:
                        await self._start(cron_job)
                        started.add(cron_job.name)
                    await self._queue_due(cron_job)
                seconds = await self._seconds_to_next()
            except BrokerUnavailable as error:
                log.warning(events.SERVICE_AWAY, error=str(error), retry_in=BROKER_RETRY_SECONDS)
                seconds = jittered(BROKER_RETRY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await stopping.wait()

    async def _start(self, cron_job: CronJob) -> None:
        if cron_job.unique:
            since_ms = await self._schedule.queued_until(cron_job.name)
        else:
            since_ms = await self._schedule.now_ms()
        cron_job.calculate_next(self._moment(since_ms))
        if cron_job.run_at_startup:
            await self._queue(cron_job, "startup", due_ms=None)

    async def _queue_due(self, cron_job: CronJob) -> None:
        now_ms = await self._schedule.now_ms()
        due_ms = _due_ms(cron_job)
        if due_ms > now_ms:
            return
        await self._queue(cron_job, str(due_ms), due_ms=due_ms if cron_job.unique else None)
        cron_job.calculate_next(self._moment(max(now_ms, due_ms)))

    async def _queue(self, cron_job: CronJob, run: str, *, due_ms: int | None) -> None:
        worker = "" if cron_job.unique else f":{self._worker}"
        job_id = cron_job.job_id or f"{cron_job.name}:{run}{worker}"
        if await self._schedule.queue_run(cron_job.name, job_id, due_ms=due_ms):
            log.info(events.CRON_QUEUED, name=cron_job.name, job=job_id)

    async def _seconds_to_next(self) -> float:
        now_ms = await self._schedule.now_ms()
        seconds = min((_due_ms(cron_job) - now_ms) / 1000 for cron_job in self._cron_jobs)
        return min(max(seconds, 0.0), LONGEST_SLEEP_SECONDS)

    def _moment(self, ms: int) -> datetime:
        return datetime.fromtimestamp(ms / 1000, self._timezone)


def _due_ms(cron_job: CronJob) -> int:
    assert cron_job.next_run is not None, "is calculated when the table starts"
    return int(cron_job.next_run.timestamp() * 1000)
