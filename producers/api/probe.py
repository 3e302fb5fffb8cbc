"""What a probe or a scrape asks: answered soon, or not at all."""

import asyncio
from typing import Final

from broker.errors import BrokerUnavailable
from broker.status import Overview
from producers.client import IngestClient

PROBE_SECONDS: Final = 3.0
"""Who watches this server does not wait for all the retries of a connection."""


async def overview(client: IngestClient) -> Overview:
    """The queue and the workers. Raises BrokerUnavailable if Redis does not say soon."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await client.queue.overview()
    except TimeoutError as error:
        raise BrokerUnavailable(f"Redis does not answer within {PROBE_SECONDS:g} s") from error
