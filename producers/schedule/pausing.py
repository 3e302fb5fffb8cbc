"""Keeps a run from queueing in the quiet hours of its entry."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

import structlog

from broker import events
from producers.schedule.entry import Entry
from producers.schedule.sources import Documents

log = structlog.get_logger()

LOOK_SECONDS: Final = 1.0
"""How often it is asked what time it is, while documents are queued."""
LONGEST_SLEEP_SECONDS: Final = 60.0
"""The clock of Redis is looked at as often: it may be set, and ours may run differently."""


async def outside_quiet_hours(
    entry: Entry,
    documents: Documents,
    now_ms: Callable[[], Awaitable[int]],
    look_seconds: float = LOOK_SECONDS,
) -> Documents:
    """``documents``, none of which comes in the quiet hours of ``entry``, give or take a look."""
    look_at = time.monotonic()
    async with aclosing(documents) as each:
        async for document in each:
            if entry.quiet is not None and time.monotonic() >= look_at:
                await _until_not_quiet(entry, now_ms)
                look_at = time.monotonic() + look_seconds
            yield document


async def _until_not_quiet(entry: Entry, now_ms: Callable[[], Awaitable[int]]) -> None:
    now = await now_ms()
    if entry.not_quiet_at(now) == now:
        return
    log.info(events.RUN_PAUSED, entry=entry.name)
    while (until := entry.not_quiet_at(now)) > now:
        await asyncio.sleep(min((until - now) / 1000, LONGEST_SLEEP_SECONDS))
        now = await now_ms()
    log.info(events.RUN_RESUMED, entry=entry.name)
