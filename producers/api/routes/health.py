"""``GET /healthz`` and ``GET /readyz``: for whatever keeps this process running."""

import asyncio
from typing import Final

from fastapi import APIRouter

from broker.errors import BrokerUnavailable
from producers.api.answers import Health
from producers.api.errors import problems
from producers.client import IngestClient

HEALTH: Final = "/healthz"
READY: Final = "/readyz"
HEALTH_PATHS: Final = frozenset({HEALTH, READY})

READY_SECONDS: Final = 3.0
"""Whoever asks whether we are ready does not wait for all the retries of a connection."""


def health_routes(client: IngestClient) -> APIRouter:
    """The routes that say whether this process runs, and whether it can do its work."""
    router = APIRouter(tags=["health"])

    @router.get(HEALTH)
    async def healthz() -> Health:
        """The process runs."""
        return Health()

    @router.get(READY, responses=problems(503))
    async def readyz() -> Health:
        """Redis answers, so documents can be accepted."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await client.queue.now()
        except TimeoutError as error:
            raise BrokerUnavailable(f"Redis does not answer within {READY_SECONDS:g} s") from error
        return Health()

    return router
