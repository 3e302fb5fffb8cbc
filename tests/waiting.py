"""Waiting for events in another process that give no signal."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import redis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ingestq.core.service import cancel

T = TypeVar("T")

SECONDS = 120.0
"""Longer than anything here takes on a busy machine, and less than a test may take."""
POLL_SECONDS = 0.01


async def eventually(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool] = bool, seconds: float = SECONDS
) -> T:
    """Call ``look`` until its result is ``good``; return that. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with asyncio.timeout_at(deadline):
        while True:
            begin = loop.time()
            if good(seen := await look()):
                return seen
            if loop.time() > deadline:  # redis-py lost the cancellation
                raise TimeoutError
            # What takes long, as a command or a search does, is not asked all the time.
            await asyncio.sleep(max(POLL_SECONDS, loop.time() - begin))


async def ended(task: asyncio.Task[T], seconds: float = SECONDS) -> T:
    """Wait until ``task`` has ended; return its result, or raise its exception.

    If it takes longer than ``seconds``, it is cancelled until it has ended, and TimeoutError is
    raised. (`asyncio.wait_for` cancels it once, and then waits for ever if that was lost.)
    """
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        await cancel(task)
    if not done:
        raise TimeoutError(f"{task.get_name()} runs after {seconds} seconds")
    return task.result()


async def crash(server: Redis) -> None:
    """Kill the server, as a power cut does, and wait until it is gone, or another has started."""
    pid = (await server.info("server"))["process_id"]
    os.kill(pid, signal.SIGKILL)

    async def is_gone() -> bool:
        try:
            return bool((await server.info("server"))["process_id"] != pid)
        except (RedisError, OSError):
            return True

    await eventually(is_gone)


def await_answer(socket: Path) -> None:
    """Wait until the server at ``socket`` answers. Blocks."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with redis.Redis(unix_socket_path=str(socket)) as client:
                client.ping()
        except (RedisError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
