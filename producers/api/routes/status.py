"""``GET /status``: how things stand."""

from fastapi import APIRouter

from producers.api.answers import Status
from producers.api.errors import problems
from producers.client import IngestClient


def status_routes(client: IngestClient) -> APIRouter:
    """The routes that show the queue of ``client``."""
    router = APIRouter(tags=["status"])

    @router.get("/status", responses=problems(503))
    async def status() -> Status:
        """The queue, the dead letters and the workers."""
        overview = await client.queue.overview()
        return Status.model_validate(
            {
                "queue": overview.depth.as_json(),
                "dead_letters": overview.depth.dead_letters,
                "workers": overview.workers,
                "unserved": overview.unserved,
            }
        )

    return router
