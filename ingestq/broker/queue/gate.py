"""The gate between the queue and the workers of one collection, shut during a cut-over.

It holds back the jobs for that collection only, not other jobs of the same workers.

A cut-over replaces a collection without losing a write: shut its gate, wait until none of its jobs
runs, bring the new collection up to date, and write its name at the gate. From then on workers of
the old collection get no jobs, even if they start later.
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

SHUT_MS: Final = keys.GATE_SHUT_MS
RENEWALS: Final = 4
"""How often the gate is shut again within SHUT_MS."""
GRACE_SECONDS: Final = 5.0
"""How long a renewal in progress may take to end. If it were cancelled, Redis might carry it out
later and shut a gate that has been opened meanwhile."""
POLL_SECONDS: Final = 0.5
"""Time between two looks at a gate that is shut."""
NO_SUCCESSOR: Final = ""
"""Value of a gate while the cut-over is under way."""


class Gate:
    """The gate of ``collection``, the name behind the alias.

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
        """Let no worker of the collection claim its jobs while inside.

        The gate opens on leaving, unless `replace_with` was called.
        """
        await self._shut()
        try:
            async with self._renewal:
                yield
        finally:
            if not self._is_replaced:
                await self.open()

    async def replace_with(self, collection: str) -> None:
        """Give the jobs to workers of ``collection`` only, from now on."""
        await self._renewal.stop()  # it would overwrite what is written here
        self._is_replaced = True
        with translate_errors(self._config):
            async with self._redis.pipeline() as pipe:
                pipe.set(self._key, collection)
                pipe.delete(keys.GATE + collection)
                await pipe.execute()

    async def open(self) -> None:
        """Let workers of the collection claim its jobs again."""
        with translate_errors(self._config):
            await self._redis.delete(self._key)

    async def wait_until_open(self) -> str | None:
        """Wait while a cut-over is under way; return what has replaced the collection, or None.

        After None, any later cut-over brings over what was written before this call.
        """
        while True:
            with translate_errors(self._config):
                found = await self._redis.get(self._key)
            if found is None:
                return None
            if (successor := str(found, "utf-8")) != NO_SUCCESSOR:
                return successor
            await asyncio.sleep(POLL_SECONDS)

    async def _shut(self) -> None:
        with translate_errors(self._config):
            await self._redis.set(self._key, NO_SUCCESSOR, px=SHUT_MS)

    async def _keep_shut(self, stopping: asyncio.Event) -> None:
        while not await happens_within(stopping, SHUT_MS / 1000 / RENEWALS):
            with contextlib.suppress(BrokerUnavailable):  # the caller of `shut` will notice
                await self._shut()
