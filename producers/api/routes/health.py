"""``GET /healthz`` and ``GET /readyz``: for whatever keeps this process running."""

from typing import Final

from fastapi import APIRouter, HTTPException

from producers.api.answers import Health
from producers.api.errors import problems
from producers.api.probe import overview
from producers.client import IngestClient

HEALTH: Final = "/healthz"
READY: Final = "/readyz"
HEALTH_PATHS: Final = frozenset({HEALTH, READY})


def health_routes(client: IngestClient) -> APIRouter:
    """The routes that say whether this process runs, and whether documents get indexed."""
    router = APIRouter(tags=["health"])

    @router.get(HEALTH)
    async def healthz() -> Health:
        """The process runs."""
        return Health()

    @router.get(READY, responses=problems(503))
    async def readyz() -> Health:
        """Redis answers, and a worker is alive: what is accepted now will be indexed."""
        if not (await overview(client)).workers:
            raise HTTPException(503, "no worker gave a sign of life lately; start `ingestq worker`")
        return Health()

    return router
