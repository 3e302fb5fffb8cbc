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
from ingestq.broker.connection import BrokerConfig, translate_errors
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.service import Service, happens_within

SHUT_MS: Final = 10_000
"""If whoever shut the gate dies, it opens again after so long."""
RENEWALS: Final = 4
"""How often that is renewed meanwhile."""
GRACE_SECONDS: Final = 5.0
"""How long a renewal under way may take to end. One that was cancelled might be carried out later,
and shut a gate that was opened meanwhile."""
NO_SUCCESSOR: Final = ""


class Gate:
    """The gate of ``collection``.

    Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig, collection: str) -> None:
        self._redis = redis
        self._config = config
        self._key = keys.GATE + collection
        self._is_replaced = False
        self._renewal = Service(
            self._keep_shut,
            name=f"keep the gate of {collection} shut",
            grace_seconds=GRACE_SECONDS,
        )

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Let no worker of the collection claim a job while inside, or ever after `replace_with`."""
        await self._shut()
        try:
            async with self._renewal:
                yield
        finally:
            if not self._is_replaced:
                await self.open()

    async def replace_with(self, collection: str) -> None:
        """Give jobs to workers of ``collection`` only, from now on."""
        await self._renewal.stop()  # it would take back what is written here
        self._is_replaced = True
        with translate_errors(self._config):
            async with self._redis.pipeline() as pipe:
                pipe.set(self._key, collection)
                pipe.delete(keys.GATE + collection)
                await pipe.execute()

    async def open(self) -> None:
        """Let workers of the collection claim jobs."""
        with translate_errors(self._config):
            await self._redis.delete(self._key)

    async def _shut(self) -> None:
        with translate_errors(self._config):
            await self._redis.set(self._key, NO_SUCCESSOR, px=SHUT_MS)

    async def _keep_shut(self, stopping: asyncio.Event) -> None:
        while not await happens_within(stopping, SHUT_MS / 1000 / RENEWALS):
            with contextlib.suppress(BrokerUnavailable):  # whoever shut it will notice
                await self._shut()
