"""Calls of Redis that go on for as long as it is away, and that end when they are to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog

from broker import events
from broker.errors import BrokerUnavailable

log = structlog.get_logger()

T = TypeVar("T")

RETRY_SECONDS: Final = 1.0
"""How soon to try again."""
CANCEL_SECONDS: Final = 0.1
"""How long a task may take to notice that it was cancelled, before it is told again."""


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of ``call``, which is made again for as long as Redis is away."""
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            log.warning(events.SERVICE_AWAY, error=str(error), retry_in=RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` and wait until they have ended.

    Each is told again and again: one cancellation may get lost inside a request to Redis.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_SECONDS)
