"""``/livez``, ``/readyz``, ``/healthz``, ``/metrics`` and ``/status``."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ingestq.api.errors import Answers, problems
from ingestq.api.parameters import Collections
from ingestq.api.schemas import HealthResponse, StatusResponse
from ingestq.client.client import IngestClient
from ingestq.core.health import HEALTH, LIVE, METRICS, READY, Health
from ingestq.core.results import CollectionCounts, IndexOverview
from ingestq.monitoring.exposition import CONTENT_TYPE
from ingestq.monitoring.health_checks import HealthChecks
from ingestq.monitoring.monitor import Monitor

UNHEALTHY: Answers = {
    HTTPStatus.SERVICE_UNAVAILABLE: {
        "model": HealthResponse,
        "description": "A check has failed; the answer says which.",
    }
}


def health_routes(health: HealthChecks) -> APIRouter:
    """Return the routes that say whether this process runs and whether documents get indexed.

    Anybody may ask, so the answers name the checks that have failed, and nothing about them: that
    is in the log, and in the answer of `GET /status`.
    """
    router = APIRouter(tags=["health"])

    @router.get(LIVE, response_model=HealthResponse, responses=UNHEALTHY)
    @router.get(HEALTH, response_model=HealthResponse, responses=UNHEALTHY)
    async def livez() -> JSONResponse:
        """Answer 200 while the process runs, and its worker, if it has one, polls the queue."""
        return _answer(health.live())

    @router.get(READY, response_model=HealthResponse, responses=UNHEALTHY)
    async def readyz() -> JSONResponse:
        """Answer 200 if Redis accepts writes, Qdrant answers and a worker runs.

        Then new documents get indexed.
        """
        return _answer(await health.ready())

    return router


def _answer(health: Health) -> JSONResponse:
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(health.as_json(), status)


def metric_routes(monitor: Monitor) -> APIRouter:
    """Return the route that shows the metrics of this process, and its queue."""
    router = APIRouter(tags=["status"])
    text: Answers = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get(METRICS, response_class=Response, responses=text)
    async def metrics() -> Response:
        """Show the queue and what this process has done in Prometheus' text format."""
        return Response(await monitor.metrics(), media_type=CONTENT_TYPE)

    return router


class IndexCounter(Protocol):
    """Counts the collections, and lists up to so many documents of each that have warnings.

    What cannot be read now is None or left out.
    """

    async def __call__(self, listed: int = 0) -> IndexOverview: ...


def status_routes(
    client: IngestClient, index: IndexCounter | None, collections: Collections
) -> APIRouter:
    """Return the route that shows the queue of ``client``, and what the ``collections`` hold."""
    router = APIRouter(tags=["status"])

    @router.get("/status", responses=problems(503))
    async def status() -> StatusResponse:
        """Show queue, dead letters, workers, watched folders and collections."""
        overview = await client.queue.overview()
        if index is None:
            counts: Sequence[CollectionCounts] = [*map(CollectionCounts, collections.names)]
        else:
            counts = (await index()).collections
        return StatusResponse.model_validate(
            {
                "queue": overview.depth.as_json(),
                "dead_letters": overview.depth.dead_letters,
                "workers": overview.workers,
                "unserved": overview.unserved,
                "watched_folders": overview.watched_folders,
                "held_back": overview.held_back,
                "webhooks": [webhook.as_json() for webhook in overview.webhooks],
                "collection": counts[0],
                "collections": counts,
            }
        )

    return router
