"""Answers for whoever watches this server: soon, or not at all."""

import asyncio
from typing import Final

from broker.errors import BrokerUnavailable
from broker.status import Overview
from producers.client import IngestClient

WATCHER_SECONDS: Final = 3.0
"""Who watches does not wait for all the retries of a connection."""


async def overview(client: IngestClient) -> Overview:
    """The queue and the workers. Raises BrokerUnavailable if Redis does not say soon."""
    try:
        async with asyncio.timeout(WATCHER_SECONDS):
            return await client.queue.overview()
    except TimeoutError as error:
        raise BrokerUnavailable(f"Redis does not answer within {WATCHER_SECONDS:g} s") from error
