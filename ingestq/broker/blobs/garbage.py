"""Garbage collection: deletes blobs that no job names, left by processes that died."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.blobs.store import UNFINISHED, BlobStore
from ingestq.broker.connection import BrokerConfig, awaited, translated
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.pending import payloads
from ingestq.core.blobs import LEFT_OVER_MS, is_name, named_ms
from ingestq.core.errors import ContractError
from ingestq.core.jobs import blobs_in
from ingestq.core.results import DeadLetter

LOOKS: Final = 3
"""If dead letters are requeued during each of so many looks, it is left to the next time."""


class GarbageCollector:
    """Those of one queue. Raises BrokerUnavailable and what `BlobStore` raises."""

    def __init__(self, redis: Redis, config: BrokerConfig, blobs: BlobStore) -> None:
        self._redis = redis
        self._config = config
        self._blobs = blobs

    async def remove(self) -> int:
        """Remove what is left over; how many objects that were.

        Nothing, while there is a job or a dead letter that this version cannot read: who knows what
        it names.
        """
        space, now_us = await JobQueue(self._redis, self._config).space()
        there = await self._blobs.names(space)
        old = {name for name in there if _is_old(name, now_us // 1000)}
        for _ in range(LOOKS if old else 0):
            requeued = await self._requeued()
            try:
                unnamed = await self._unnamed(old)
            except (ContractError, msgspec.DecodeError):
                return 0
            if await self._requeued() == requeued:
                await self._blobs.remove(unnamed)
                return len(unnamed)
        return 0

    async def _requeued(self) -> bytes | None:
        with translated(self._config):
            return await awaited(self._redis.get(keys.REQUEUED))

    async def _unnamed(self, old: set[str]) -> set[str]:
        unnamed = set(old)
        with translated(self._config):
            async for some in self._everything():
                for payload in some:
                    unnamed -= blobs_in(payload)
        return unnamed

    async def _everything(self) -> AsyncIterator[Sequence[bytes]]:
        """The jobs, and then the dead letters: a job that ends meanwhile becomes one, or
        nothing."""
        async for jobs in payloads(self._redis):
            yield jobs
        async for _, raw in self._redis.hscan_iter(keys.DEAD):
            yield [msgspec.msgpack.decode(raw, type=DeadLetter).payload]


def _is_old(entry: str, now_ms: int) -> bool:
    name = entry.removesuffix(UNFINISHED)
    return is_name(name) and named_ms(name) + LEFT_OVER_MS < now_ms
