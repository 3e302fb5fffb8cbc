"""``/healthz``, ``/readyz``, ``/metrics`` and ``/status``."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

from fastapi import APIRouter, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ingestq.api.errors import Answers, problems
from ingestq.api.schemas import Health, StatusResponse
from ingestq.client.client import IngestClient
from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.results import Overview

PROBE_SECONDS: Final = 3.0
"""Time limit for Redis: probes cannot wait for all retries of a connection."""


async def overview(client: IngestClient) -> Overview:
    """Return the state of queue and workers. Raises BrokerUnavailable if Redis is slow."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await client.queue.overview()
    except TimeoutError as error:
        raise BrokerUnavailable(f"Redis does not answer within {PROBE_SECONDS:g} s") from error


def exposition(overview: Overview) -> bytes:
    """Return ``overview`` in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Scrape(overview))
    return generate_latest(registry)


class _Scrape(Collector):
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth, workers = self._overview.depth, self._overview.workers
        yield _labelled(
            events.METRIC_JOBS,
            "Jobs on the queue.",
            "state",
            {"ready": depth.ready, "deferred": depth.deferred, "in_flight": depth.in_flight},
        )
        yield _labelled(
            events.METRIC_LANE_JOBS,
            "Jobs on the queue, by lane.",
            "lane",
            {"interactive": depth.interactive, "bulk": depth.bulk},
        )
        yield _labelled(
            events.METRIC_UNSERVED_JOBS,
            "Ready jobs of collections that no worker serves.",
            "collection",
            self._overview.unserved,
        )
        for name, what, value in (
            (
                events.METRIC_POISON_JOBS,
                "Ready jobs over which workers died; each runs alone.",
                depth.poison,
            ),
            (
                events.METRIC_OLDEST_READY_SECONDS,
                "How long the oldest ready job has waited.",
                depth.oldest_ready_seconds,
            ),
            (events.METRIC_QUEUE_BYTES, "Size of the jobs on the queue.", depth.queued_bytes),
            (events.METRIC_DEAD_LETTERS, "Documents that failed.", depth.dead_letters),
            (events.METRIC_WORKERS, "Workers that are alive.", len(workers)),
            (
                events.METRIC_WORKERS_PAUSED,
                "Workers that are alive and claim no jobs.",
                sum(worker.paused is not None for worker in workers),
            ),
            (
                events.METRIC_DOCUMENTS_PER_SECOND,
                "Documents per second of all workers in the last minute.",
                sum(worker.documents_per_second for worker in workers),
            ),
            (
                events.METRIC_CHUNKS_PER_SECOND,
                "Chunks embedded per second by all workers in the last minute.",
                sum(worker.chunks_per_second for worker in workers),
            ),
        ):
            yield GaugeMetricFamily(name, what, value)


def _labelled(name: str, what: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


HEALTH: Final = "/healthz"
READY: Final = "/readyz"
HEALTH_PATHS: Final = frozenset({HEALTH, READY})


def health_routes(client: IngestClient) -> APIRouter:
    """Return the routes that say whether this process runs and whether documents get indexed."""
    router = APIRouter(tags=["health"])

    @router.get(HEALTH)
    async def healthz() -> Health:
        """Answer 200 while the process runs."""
        return Health()

    @router.get(READY, responses=problems(503))
    async def readyz() -> Health:
        """Answer 200 if Redis answers and a worker runs, so that new documents get indexed."""
        if not (await overview(client)).workers:
            raise HTTPException(503, "no worker is running; start `ingestq worker`")
        return Health()

    return router


def metric_routes(client: IngestClient) -> APIRouter:
    """Return the route that shows the queue of ``client`` as metrics."""
    router = APIRouter(tags=["status"])
    text: Answers = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/metrics", response_class=Response, responses=text | problems(503))
    async def metrics() -> Response:
        """Show queue, dead letters and workers in Prometheus' text format."""
        found = exposition(await overview(client))
        return Response(found, media_type=CONTENT_TYPE_LATEST)

    return router


def status_routes(client: IngestClient) -> APIRouter:
    """Return the route that shows the queue of ``client``."""
    router = APIRouter(tags=["status"])

    @router.get("/status", responses=problems(503))
    async def status() -> StatusResponse:
        """Show queue, dead letters and workers."""
        overview = await client.queue.overview()
        return StatusResponse.model_validate(
            {
                "queue": overview.depth.as_json(),
                "dead_letters": overview.depth.dead_letters,
                "workers": overview.workers,
                "unserved": overview.unserved,
            }
        )

    return router
