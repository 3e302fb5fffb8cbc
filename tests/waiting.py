"""Waiting for what happens in another process and gives no signal of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS = 30.0
POLL_SECONDS = 0.01


async def eventually(look: Callable[[], Awaitable[T]], good: Callable[[T], bool] = bool) -> T:
    """What ``look`` sees, as soon as it is ``good``. Raises TimeoutError if it never is."""
    async with asyncio.timeout(SECONDS):
        while not good(seen := await look()):  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(POLL_SECONDS)
    return seen
