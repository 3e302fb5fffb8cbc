"""Looks after the spool while a worker runs: what processes that died left there is removed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from broker import events
from broker.errors import ServiceUnavailable, UsageError
from broker.spool.leftovers import Leftovers

log = structlog.get_logger()

CLEAN_SECONDS: Final = 3600.0
"""How often it is looked for objects that are left over; they are hours old by then."""


@asynccontextmanager
async def cleaning(leftovers: Leftovers) -> AsyncIterator[None]:
    """Remove ``leftovers`` now and then, as long as inside."""
    stopping = asyncio.Event()
    task = asyncio.create_task(_clean_until(stopping, leftovers))
    try:
        yield
    finally:
        stopping.set()  # a cancellation alone may get lost inside a request to Redis
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _clean_until(stopping: asyncio.Event, leftovers: Leftovers) -> None:
    while not stopping.is_set():
        try:
            removed = await leftovers.remove()
        except (ServiceUnavailable, UsageError) as error:
            log.warning(events.SPOOL_NOT_CLEANED, error=str(error))
        else:
            if removed:
                log.info(events.SPOOL_CLEANED, objects=removed)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEAN_SECONDS):
                await stopping.wait()
