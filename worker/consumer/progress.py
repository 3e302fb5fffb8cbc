"""What a worker reports while it works: progress of its jobs, and that it is alive."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.core.errors import IngestqError

PROGRESS_SECONDS: Final = 0.5
"""How often a running job shows how far it is."""


@asynccontextmanager
async def showing_progress(leases: LeaseQueue, claim: Claim) -> AsyncIterator["LiveProgress"]:
    """The progress of a job while it runs; shown as often as it changes, within reason."""
    progress = LiveProgress(leases, claim)
    try:
        yield progress
    finally:
        await progress.end()


class LiveProgress:
    """Chunks done and known of a running job: call it with what was added to them."""

    def __init__(self, leases: LeaseQueue, claim: Claim) -> None:
        self._leases = leases
        self._claim = claim
        self._done = self._known = 0
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._showing: asyncio.Task[None] | None = None

    def __call__(self, done: int, known: int) -> None:
        self._done += done
        self._known += known
        self._changed.set()
        if self._showing is None:
            self._showing = asyncio.create_task(self._show())

    async def end(self) -> None:
        """Show nothing more.

        The task is told to end rather than cancelled: up to Python 3.11 ``asyncio.wait_for``, in
        which redis-py sends every command, may forget a cancellation.
        """
        self._ended.set()
        self._changed.set()
        if self._showing is not None:
            await asyncio.wait([self._showing])

    async def _show(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            with contextlib.suppress(IngestqError):  # it is only shown; settling says what is wrong
                await self._leases.report_progress(
                    self._claim, chunks_done=self._done, chunks_known=self._known
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_SECONDS):
                    await self._ended.wait()
            await self._changed.wait()
