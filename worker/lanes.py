"""What keeps one lane from holding up the other inside a worker.

Two rules, the same for jobs, for documents in work and for the processes of the pool: some places
are kept free of bulk work, so that an upload need not wait for a bulk job to end; and of the places
both lanes compete for, one in four goes to bulk, so that uploads cannot starve it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ingestq.core.documents import Lane

BULK_TURN: Final = 4
"""One in so many grants goes to bulk while both lanes wait; claim.lua does the same with jobs."""


def kept_for_interactive(places: int) -> int:
    """Return how many of ``places`` bulk work may not take: an eighth, at least one, never all."""
    return min(max(1, places // 8), places - 1)


def whose_turn(grants: int, *, bulk: bool, interactive: bool) -> Lane | None:
    """Return the lane to serve after ``grants`` grants; None if neither waits."""
    if bulk and (not interactive or grants % BULK_TURN == 0):
        return Lane.BULK
    return Lane.INTERACTIVE if interactive else None


class LanePermits:
    """A semaphore of ``total`` permits for which the lanes compete.

    ``bulk`` is how many of them bulk work may hold at once.
    """

    def __init__(self, total: int, bulk: int) -> None:
        self._free = total
        self._free_for_bulk = bulk
        self._waiting: Counter[Lane] = Counter()
        self._grants = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a permit, and hold it while inside."""
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
        """Return the lane whose turn it is; None if no permit can be given."""
        if self._free == 0:
            return None
        bulk = self._waiting[Lane.BULK] > 0 and self._free_for_bulk > 0
        return whose_turn(self._grants, bulk=bulk, interactive=self._waiting[Lane.INTERACTIVE] > 0)
