"""When a worker claims jobs: back-pressure, and waiting for jobs to become ready."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from ingestq.broker.queue.leases import LeaseQueue
from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.service import cancel

log = structlog.get_logger()


class BackPressure:
    """Keeps a worker from claiming jobs while a service that they need is full or rate-limited.

    Without it a worker would claim and nack every job of a long queue. When the time is over, jobs
    are claimed again; if they fail for the same reason, back-pressure is applied again. Its start
    and its end are logged once each.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._until = 0.0

    @property
    def seconds_left(self) -> float:
        """Seconds from now in which no job may be claimed; 0 or less if jobs may be claimed."""
        return self._until - time.monotonic()

    def apply(self, reason: str, seconds: float) -> None:
        """Let no job be claimed for ``seconds`` from now, because of ``reason``."""
        if self.reason is None:
            log.error(events.WORKER_PAUSED, reason=reason, retry_in=seconds)
        self.reason = reason
        self._until = max(self._until, time.monotonic() + seconds)

    def job_done(self) -> None:
        """End the back-pressure if its time is over, because a job was acked since."""
        if self.reason is not None and self.seconds_left <= 0:
            log.info(events.WORKER_RESUMED, reason=self.reason)
            self.reason = None


POLL_SECONDS: Final = 1
"""How long an idle worker waits for a wake-up before it checks for deferred and expired jobs."""


class Listener:
    """Waits for jobs to become ready, lane by lane.

    A request to Redis that waits for one lane is kept while only the other lane is listened to:
    cancelling it would cost a connection, and possibly a wake-up.
    """

    def __init__(self, leases: LeaseQueue) -> None:
        self._leases = leases
        self._waits: dict[Lane, asyncio.Task[None]] = {}

    async def listen(self, lanes: Sequence[Lane], until: asyncio.Event) -> None:
        """Return when there may be work in ``lanes``, when ``until`` is set, or after a second.

        Raises BrokerUnavailable.
        """
        for lane in lanes:
            if lane not in self._waits:
                wait = self._leases.wait_for_work(lane, POLL_SECONDS)
                self._waits[lane] = asyncio.create_task(wait, name=f"listen for {lane} jobs")
        event = asyncio.create_task(until.wait())
        waits = [self._waits[lane] for lane in lanes]
        await asyncio.wait([event, *waits], return_when=asyncio.FIRST_COMPLETED)
        await cancel(event)
        for lane in [lane for lane, wait in self._waits.items() if wait.done()]:
            self._waits.pop(lane).result()

    async def stop(self) -> None:
        """Cancel all waiting requests."""
        await cancel(*self._waits.values())
        self._waits.clear()
