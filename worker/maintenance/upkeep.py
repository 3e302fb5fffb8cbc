"""Upkeep: what a worker removes every hour, so that nothing is kept for ever."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.core import events
from ingestq.core.errors import ServiceUnavailable, StoreRejected, UsageError
from ingestq.core.service import Service, happens_within

log = structlog.get_logger()

UPKEEP_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class Upkeep:
    """Does ``removals``, then deletes dead letters older than ``keep_days``, then garbage blobs.

    With 0 days, dead letters are kept for ever. ``removals`` raise what `Qdrant` raises.
    """

    removals: Sequence[Callable[[], Awaitable[object]]]
    dead_letters: DeadLetters
    garbage: GarbageCollector
    keep_days: float

    def service(self) -> Service:
        """Return a service that does it at its start, and then every hour."""
        return Service(self._run, name="upkeep")

    async def _run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.once()
            await happens_within(stopping, UPKEEP_SECONDS)

    async def once(self) -> None:
        """Do it once. What fails is logged, and keeps nothing else from being removed."""
        for remove in (*self.removals, self._expire_dead_letters, self._collect_garbage):
            try:
                await remove()
            except (ServiceUnavailable, StoreRejected, UsageError) as error:
                log.warning(events.UPKEEP_FAILED, error=str(error))

    async def _expire_dead_letters(self) -> None:
        expired = 0
        while self.keep_days and (
            deleted := await self.dead_letters.delete_expired(self.keep_days)
        ):
            expired += deleted
        if expired:
            log.warning(
                events.DEAD_LETTERS_EXPIRED, dead_letters=expired, older_than_days=self.keep_days
            )

    async def _collect_garbage(self) -> None:
        if removed := await self.garbage.collect():
            log.info(events.BLOBS_COLLECTED, objects=removed)
