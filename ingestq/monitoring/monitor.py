"""What a process shows of itself: its metrics, and whether it is live and ready."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core.errors import BrokerUnavailable, IngestqError
from ingestq.core.health import LOOP_STILL_SECONDS, HealthCheck, Pulse
from ingestq.core.metrics import recording
from ingestq.core.outages import note_failure
from ingestq.core.results import CollectionCounts, Overview
from ingestq.core.service import Service
from ingestq.monitoring.exposition import PrometheusRecorder, queue_exposition
from ingestq.monitoring.health_checks import PROBE_SECONDS, HealthChecks, probe_writes
from ingestq.monitoring.loop_monitor import monitor_loop

COUNTS_SECONDS: Final = 60.0
"""Collections are counted at most so often, as that asks Qdrant for each."""
CountCollections = Callable[[], Awaitable[Sequence[CollectionCounts]]]


class Monitor:
    """What this process shows of itself. Parts add what they know while they start.

    ``queue`` is asked at each scrape, and ``count_collections`` once a minute. Without a
    ``recorder`` the process shows only these.
    """

    def __init__(self, recorder: PrometheusRecorder | None = None) -> None:
        self.health = HealthChecks(is_started=False)
        self.queue: JobQueue | None = None
        self.count_collections: CountCollections | None = None
        self._recorder = recorder
        self._counts: Sequence[CollectionCounts] = ()
        self._counted_at = float("-inf")

    def started(self, queue: JobQueue) -> None:
        """Note that everything is open, and that the process works on ``queue``."""
        self.queue = queue
        self.health.probes[HealthCheck.REDIS] = probe_writes(queue)
        self.health.is_started = True

    async def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return self.exposition(await self.observed())

    async def observed(self) -> tuple[Overview | None, Sequence[CollectionCounts]]:
        """Return the queue, or None if Redis does not answer in time, and the collections."""
        return await self._overview(), await self._collections()

    def exposition(
        self, observed: tuple[Overview | None, Sequence[CollectionCounts]] | None
    ) -> bytes:
        """Return the metrics of this process, and what was ``observed``. Any thread may call it."""
        own = b"" if self._recorder is None else self._recorder.exposition()
        return own if observed is None else queue_exposition(*observed) + own

    async def _overview(self) -> Overview | None:
        if self.queue is None:
            return None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await self.queue.overview()
        except TimeoutError:
            note_failure(BrokerUnavailable(f"Redis did not answer within {PROBE_SECONDS:g} s"))
        except IngestqError as error:
            note_failure(error)
        return None

    async def _collections(self) -> Sequence[CollectionCounts]:
        if self.count_collections is None:
            return ()
        if time.monotonic() - self._counted_at > COUNTS_SECONDS:
            self._counted_at = time.monotonic()
            self._counts = ()
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    self._counts = await self.count_collections()
            except TimeoutError:
                return ()
            except IngestqError as error:
                note_failure(error)
        return self._counts


@asynccontextmanager
async def recorded() -> AsyncIterator[Monitor]:
    """Record the metrics of this process while inside; whoever has the monitor serves them."""
    recorder = PrometheusRecorder()
    monitor = Monitor(recorder)
    pulse = monitor.health.pulses[HealthCheck.EVENT_LOOP] = Pulse(LOOP_STILL_SECONDS)
    async with AsyncExitStack() as opened:
        opened.enter_context(recording(recorder))
        await opened.enter_async_context(
            Service(partial(monitor_loop, pulse), name="monitor of the event loop")
        )
        yield monitor
