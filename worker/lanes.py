"""Keeps one lane from holding up the other inside a worker.

Two rules apply to jobs and to pool processes. Some places are reserved for
interactive work, so an upload does not wait for a bulk job to end. Of the places for which both
lanes compete, one in four goes to bulk work, so uploads cannot starve it.
"""

import asyncio
from collections import deque
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
    """A semaphore with ``total`` permits: ``bulk`` for both lanes, the others for interactive work.

    In each lane, who came first goes first. `hold` yields True if the permit is one of those for
    interactive work only.
    """

    def __init__(self, total: int, bulk: int) -> None:
        self._shared = bulk
        self._reserved = total - bulk
        self._waiting: dict[Lane, deque[asyncio.Future[bool]]] = {lane: deque() for lane in Lane}
        self._grants = 0

    @asynccontextmanager
    async def hold(self, lane: Lane) -> AsyncIterator[bool]:
        """Wait for a permit for work in ``lane``, and hold it while inside."""
        permit: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(permit)
        self._grant()
        try:
            yield await permit
        finally:
            if permit.done() and not permit.cancelled():
                self._return(permit.result())
            self._grant()

    def _grant(self) -> None:
        """Give the free permits to those who wait."""
        while (lane := self._next()) is not None:
            permit = self._waiting[lane].popleft()
            reserved = lane is Lane.INTERACTIVE and self._reserved > 0
            if reserved:
                self._reserved -= 1
            else:
                self._shared -= 1
                self._grants += 1
            permit.set_result(reserved)

    def _return(self, reserved: bool) -> None:
        if reserved:
            self._reserved += 1
        else:
            self._shared += 1

    def _next(self) -> Lane | None:
        """Return the lane that gets the next permit; None if there is none to give."""
        for waiting in self._waiting.values():
            while waiting and waiting[0].done():  # cancelled
                waiting.popleft()
        interactive = bool(self._waiting[Lane.INTERACTIVE])
        if interactive and self._reserved > 0:
            return Lane.INTERACTIVE
        if self._shared == 0:
            return None
        return next_lane(self._grants, bulk=bool(self._waiting[Lane.BULK]), interactive=interactive)
