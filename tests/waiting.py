"""Waiting for events in another process that give no signal."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

T = TypeVar("T")

SECONDS = 30.0
POLL_SECONDS = 0.01


async def eventually(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool] = bool, seconds: float = SECONDS
) -> T:
    """Call ``look`` until its result is ``good``; return that. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not good(seen := await look()):  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(POLL_SECONDS)
    return seen


async def crash(redis: Redis) -> None:
    """Kill the server, as a power cut does, and wait until it is gone."""
    pid = (await redis.info("server"))["process_id"]
    os.kill(pid, signal.SIGKILL)

    async def is_gone() -> bool:
        try:
            await redis.ping()
        except (RedisError, OSError):
            return True
        return False

    await eventually(is_gone)
