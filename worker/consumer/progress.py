"""Reports of a worker to Redis: the progress of its jobs, and its heartbeat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from typing import Final

import structlog

from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable, IngestqError
from ingestq.core.results import WorkerInfo
from ingestq.core.service import Service, happens_within

log = structlog.get_logger()

PROGRESS_SECONDS: Final = 0.5
"""How often the progress of a running job is written, at most."""
GRACE_SECONDS: Final = 5.0
"""How long the last request may take before it is cancelled, which costs a connection."""


@asynccontextmanager
async def reported_progress(leases: LeaseQueue, claim: Claim) -> AsyncIterator["JobProgress"]:
    """Yield the progress of a job; while inside, its changes are written to Redis."""
    progress = JobProgress(leases, claim)
    try:
        yield progress
    finally:
        await progress.stop()


class JobProgress:
    """Counts the chunks of a running job that are done and known; call it with what to add."""

    def __init__(self, leases: LeaseQueue, claim: Claim) -> None:
        self._leases = leases
        self._claim = claim
        self._done = self._known = 0
        self._changed = asyncio.Event()
        self._service = Service(
            self._report_until, name=f"progress of {claim.job_id}", grace_seconds=GRACE_SECONDS
        )

    def __call__(self, done: int, known: int) -> None:
        self._done += done
        self._known += known
        self._changed.set()
        self._service.start()

    async def stop(self) -> None:
        """Write no more counts."""
        self._changed.set()
        await self._service.stop()

    async def _report_until(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._changed.clear()
            with contextlib.suppress(IngestqError):  # the decision writer logs it
                await self._leases.report_progress(
                    self._claim, chunks_done=self._done, chunks_known=self._known
                )
            await happens_within(stopping, PROGRESS_SECONDS)
            await self._changed.wait()


class Heartbeat:
    """Registers a worker every ``seconds``, with what ``info`` returns.

    Logs, once for each, the collections that have ready jobs but no worker.
    """

    def __init__(
        self, leases: LeaseQueue, worker_id: str, info: Callable[[], WorkerInfo], seconds: float
    ) -> None:
        self._leases = leases
        self._worker_id = worker_id
        self._info = info
        self._seconds = seconds
        self._unserved: Set[str] = frozenset()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send heartbeats until ``stopping`` is set."""
        while not stopping.is_set():
            with contextlib.suppress(BrokerUnavailable):  # the claiming loop logs it
                unserved = await self._leases.heartbeat(self._worker_id, self._info())
                for name in sorted(unserved - self._unserved):
                    log.warning(events.COLLECTION_UNSERVED, worker=self._worker_id, collection=name)
                self._unserved = unserved
            await happens_within(stopping, self._seconds)
