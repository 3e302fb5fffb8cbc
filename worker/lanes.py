"""Keeps one lane from holding up the other inside a worker.

Two rules apply to jobs, to documents in work and to pool processes. Some places are reserved for
interactive work, so an upload does not wait for a bulk job to end. Of the places for which both
lanes compete, one in four goes to bulk work, so uploads cannot starve it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ingestq.core.documents import Lane

BULK_TURN: Final = 4
"""While both lanes wait, one in so many grants goes to bulk; claim.lua does the same with jobs."""


def reserved_for_interactive(places: int) -> int:
    """Return how many of ``places`` bulk work may not take: an eighth, at least one, never all."""
    return min(max(1, places // 8), places - 1)


def next_lane(grants: int, *, bulk: bool, interactive: bool) -> Lane | None:
    """Return the lane to serve after ``grants`` grants; None if neither waits."""
    if bulk and (not interactive or grants % BULK_TURN == 0):
        return Lane.BULK
    return Lane.INTERACTIVE if interactive else None


class LanePermits:
    """A semaphore with ``total`` permits, of which bulk work may hold up to ``bulk`` at once."""

    def __init__(self, total: int, bulk: int) -> None:
        self._free = total
        self._free_for_bulk = bulk
        self._waiting: Counter[Lane] = Counter()
        self._grants = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a permit for work in ``lane``, and hold it while inside."""
        async with self._changed:
            self._waiting[lane] += 1
            try:
                await self._changed.wait_for(lambda: self._next() is lane)
            finally:
                self._waiting[lane] -= 1
                self._changed.notify_all()
            self._take(lane, 1)
            self._grants += 1
        try:
            yield
        finally:
            async with self._changed:
                self._take(lane, -1)
                self._changed.notify_all()

    def _take(self, lane: Lane, permits: int) -> None:
        self._free -= permits
        if lane is Lane.BULK:
            self._free_for_bulk -= permits

    def _next(self) -> Lane | None:
        """Return the lane that gets the next permit; None if there is none to give."""
        if self._free == 0:
            return None
        bulk = self._waiting[Lane.BULK] > 0 and self._free_for_bulk > 0
        return next_lane(self._grants, bulk=bulk, interactive=self._waiting[Lane.INTERACTIVE] > 0)
