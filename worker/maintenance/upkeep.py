"""Upkeep: what a worker removes every hour, so that nothing is kept for ever."""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.core import events
from ingestq.core.errors import ServiceUnavailable, UsageError
from ingestq.core.service import Service, happens_within

log = structlog.get_logger()

UPKEEP_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class Upkeep:
    """Deletes dead letters that are older than ``keep_days``, then garbage in the blob store.

    With 0 days, dead letters are kept for ever.
    """

    dead_letters: DeadLetters
    garbage: GarbageCollector
    keep_days: float

    def service(self) -> Service:
        """Return a service that does it at its start, and then every hour."""
        return Service(self._run, name="upkeep")

    async def _run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self.once()
            except (ServiceUnavailable, UsageError) as error:
                log.warning(events.UPKEEP_FAILED, error=str(error))
            await happens_within(stopping, UPKEEP_SECONDS)

    async def once(self) -> None:
        """Do it once. Raises as `DeadLetters` and `GarbageCollector` do."""
        expired = 0
        while self.keep_days and (
            deleted := await self.dead_letters.delete_expired(self.keep_days)
        ):
            expired += deleted
        if expired:
            log.warning(
                events.DEAD_LETTERS_EXPIRED, dead_letters=expired, older_than_days=self.keep_days
            )
        if removed := await self.garbage.collect():
            log.info(events.BLOBS_COLLECTED, objects=removed)
