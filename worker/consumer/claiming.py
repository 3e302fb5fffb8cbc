"""When a worker claims jobs: back-pressure, and wake-ups of the queue."""

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
    """Keeps a worker from claiming jobs that could not be done either.

    Without it a worker would take up every job of a long queue, only to put it back. When a pause
    is over, jobs are claimed again; if they meet the same, it begins anew, but is logged only once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._until = 0.0

    @property
    def seconds_left(self) -> float:
        """How long to claim nothing from now; not more than 0 if jobs may be claimed."""
        return self._until - time.monotonic()

    def pause(self, reason: str, seconds: float) -> None:
        """Claim nothing for ``seconds`` from now."""
        if self.reason is None:
            log.error(events.WORKER_PAUSED, reason=reason, retry_in=seconds)
        self.reason = reason
        self._until = max(self._until, time.monotonic() + seconds)

    def job_done(self) -> None:
        """Note that a job was done: if the pause is over, so is the reason for it."""
        if self.reason is not None and self.seconds_left <= 0:
            log.info(events.WORKER_RESUMED, reason=self.reason)
            self.reason = None


POLL_SECONDS: Final = 1
"""How long an idle worker waits for a wake-up before it looks for deferred and expired jobs."""


class Listener:
    """Listens for jobs that become ready, lane by lane.

    A wait that was begun goes on while its lane is not listened to: to cancel it costs a
    connection, and perhaps a wake-up.
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
        """End every wait."""
        await cancel(*self._waits.values())
        self._waits.clear()
