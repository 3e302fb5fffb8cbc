"""``GET /metrics``: for Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from producers.api.errors import Answers, problems
from producers.api.metrics import exposition
from producers.api.probe import overview
from producers.client import IngestClient


def metric_routes(client: IngestClient) -> APIRouter:
    """The route that shows the queue of ``client`` as metrics."""
    router = APIRouter(tags=["status"])
    text: Answers = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/metrics", response_class=Response, responses=text | problems(503))
    async def metrics() -> Response:
        """The queue, the dead letters and the workers, in the text format of Prometheus."""
        found = exposition(await overview(client))
        return Response(found, media_type=CONTENT_TYPE_LATEST)

    return router
