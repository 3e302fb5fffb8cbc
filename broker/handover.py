"""Which collection jobs are written to: workers of one that was replaced get no more jobs.

A collection is replaced without losing a write in these steps: close the queue to workers, wait
until no job runs, bring the new collection up to date, hand over.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from arq.connections import ArqRedis

from broker import keys
from broker.connection import BrokerConfig, translated
from broker.errors import BrokerUnavailable

CLOSED_MS: Final = 10_000
"""If whoever closed the queue dies, it opens again after so long."""
RENEWALS: Final = 4
"""How often that is renewed meanwhile."""
NOBODY: Final = ""


class Destination(NamedTuple):
    """The ``collection`` that a worker writes to, and the ``alias`` it found it under."""

    alias: str
    collection: str


ANYWHERE: Final = Destination("", "")
"""For workers that write to no collection."""


class Handover:
    """Says to the workers of ``alias`` which collection is theirs to write to.

    Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: ArqRedis, config: BrokerConfig, alias: str) -> None:
        self._redis = redis
        self._config = config
        self._key = keys.DESTINATION + alias
        self._keeping: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def closed(self, collection: str) -> AsyncIterator[None]:
        """Nobody claims a job while inside, or until `to` is called.

        If it was not, jobs are for the workers of ``collection`` afterwards.
        """
        await self._close()
        self._keeping = asyncio.create_task(self._keep_closed())
        try:
            yield
        finally:
            if self._keeping is not None:
                await self.to(collection)

    async def to(self, collection: str) -> None:
        """From now on jobs are only for workers of ``collection``."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        with translated(self._config):
            await self._redis.set(self._key, collection)

    async def _keep_closed(self) -> None:
        while True:
            await asyncio.sleep(CLOSED_MS / 1000 / RENEWALS)
            with contextlib.suppress(BrokerUnavailable):  # whoever closed it will notice
                await self._close()

    async def _close(self) -> None:
        with translated(self._config):
            await self._redis.set(self._key, NOBODY, px=CLOSED_MS)
