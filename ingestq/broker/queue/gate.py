"""The gate between the queue and the workers of one collection: shut while it is exchanged.

It holds up the jobs for that collection, and no others that its workers may have.

A collection is replaced without losing a write in these steps: shut its gate, wait until no job
runs, bring the new collection up to date, and name it at the gate. From then on workers of the old
one get no job, whenever they come.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, translated
from ingestq.core.errors import BrokerUnavailable

SHUT_MS: Final = 10_000
"""If whoever shut the gate dies, it opens again after so long."""
RENEWALS: Final = 4
"""How often that is renewed meanwhile."""
NO_SUCCESSOR: Final = ""


class Gate:
    """The gate of ``collection``.

    Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig, collection: str) -> None:
        self._redis = redis
        self._config = config
        self._key = keys.GATE + collection
        self._shutting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """No worker of the collection claims a job while inside, or ever after `replaced_by`."""
        await self._shut()
        self._shutting = asyncio.create_task(self._keep_shut())
        try:
            yield
        finally:
            if self._shutting is not None:
                await self._stop_shutting()
                await self.open()

    async def replaced_by(self, collection: str) -> None:
        """Jobs are for workers of ``collection`` from now on."""
        await self._stop_shutting()
        with translated(self._config):
            async with self._redis.pipeline() as pipe:
                pipe.set(self._key, collection)
                pipe.delete(keys.GATE + collection)
                await pipe.execute()

    async def open(self) -> None:
        """Let workers of the collection claim jobs."""
        with translated(self._config):
            await self._redis.delete(self._key)

    async def _shut(self) -> None:
        with translated(self._config):
            await self._redis.set(self._key, NO_SUCCESSOR, px=SHUT_MS)

    async def _keep_shut(self) -> None:
        while True:
            await asyncio.sleep(SHUT_MS / 1000 / RENEWALS)
            with contextlib.suppress(BrokerUnavailable):  # whoever shut it will notice
                await self._shut()

    async def _stop_shutting(self) -> None:
        if self._shutting is not None:
            self._shutting.cancel()
            await asyncio.wait([self._shutting])
            self._shutting = None
