"""``/livez``, ``/readyz``, ``/healthz``, ``/metrics`` and ``/status``."""

from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ingestq.api.errors import Answers, problems
from ingestq.api.parameters import Caller, Collections
from ingestq.api.routes.dead_letters import may_see
from ingestq.api.schemas import HealthResponse, StatusResponse
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import IngestClient
from ingestq.core.health import HEALTH, LIVE, METRICS, READY, Health
from ingestq.core.results import CollectionCounts, IndexOverview
from ingestq.core.tokens import UNLIMITED, Principal
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

    Only what exists for ``principal``. What cannot be read now is None or left out.
    """

    async def __call__(
        self, listed: int = 0, principal: Principal = UNLIMITED
    ) -> IndexOverview: ...


def status_routes(
    client: IngestClient,
    dead_letters: DeadLetters,
    index: IndexCounter | None,
    collections: Collections,
) -> APIRouter:
    """Return the route that shows the queue of ``client``, and what the ``collections`` hold."""
    router = APIRouter(tags=["status"])

    @router.get("/status", responses=problems(503))
    async def status(caller: Caller) -> StatusResponse:
        """Show queue, dead letters, workers, watched folders and collections.

        A token for a tenant, or for some collections, sees what is theirs. The rest is null: it
        cannot be told apart.
        """
        seen = collections.seen_by(caller)
        seen.named(None)
        overview = await client.queue.overview()
        if index is None:
            counts: Sequence[CollectionCounts] = [*map(CollectionCounts, seen.names)]
        elif caller.is_limited:
            counts = (await index(principal=caller)).collections
        else:
            counts = (await index()).collections
        own = {
            "watched_folders": [
                folder
                for folder in overview.watched_folders
                if caller.sees(folder.tenant, folder.collection)
            ],
            "held_back": [
                source
                for source in overview.held_back
                if caller.sees(source.tenant, source.collection)
            ],
            "collection": counts[0],
            "collections": counts,
        }
        if caller.is_limited:
            count, _ = await dead_letters.count(partial(may_see, caller))
            return StatusResponse.model_validate(own | {"dead_letters": count})
        return StatusResponse.model_validate(
            own
            | {
                "queue": overview.depth.as_json(),
                "dead_letters": overview.depth.dead_letters,
                "workers": overview.workers,
                "unserved": overview.unserved,
                "webhooks": [webhook.as_json() for webhook in overview.webhooks],
            }
        )

    return router
