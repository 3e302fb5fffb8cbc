"""Garbage collection: deletes blobs that no job names, left by processes that died."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.blobs.store import UNFINISHED, BlobStore
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.pending import job_payloads
from ingestq.core.blobs import GARBAGE_AGE_MS, created_ms, is_blob_name
from ingestq.core.errors import ContractError
from ingestq.core.jobs import blobs_in
from ingestq.core.results import DeadLetter

MAX_PASSES: Final = 3
"""If dead letters are requeued during each of so many looks, it is left to the next time."""


class GarbageCollector:
    """Those of one queue. Raises BrokerUnavailable and what `BlobStore` raises."""

    def __init__(self, redis: Redis, config: BrokerConfig, blobs: BlobStore) -> None:
        self._redis = redis
        self._config = config
        self._blobs = blobs

    async def collect(self) -> int:
        """Remove what is left over; how many objects that were.

        Nothing, while there is a job or a dead letter that this version cannot read: who knows what
        it names.
        """
        space, now_us = await JobQueue(self._redis, self._config).space()
        there = await self._blobs.names(space)
        old = {name for name in there if _is_old(name, now_us // 1000)}
        for _ in range(MAX_PASSES if old else 0):
            requeued = await self._requeued()
            try:
                unnamed = await self._unnamed(old)
            except (ContractError, msgspec.DecodeError):
                return 0
            if await self._requeued() == requeued:
                await self._blobs.delete(unnamed)
                return len(unnamed)
        return 0

    async def _requeued(self) -> bytes | None:
        with translate_errors(self._config):
            return await awaited(self._redis.get(keys.REQUEUED))

    async def _unnamed(self, old: set[str]) -> set[str]:
        unnamed = set(old)
        with translate_errors(self._config):
            async for some in self._everything():
                for payload in some:
                    unnamed -= blobs_in(payload)
        return unnamed

    async def _everything(self) -> AsyncIterator[Sequence[bytes]]:
        """The jobs, and then the dead letters: a job that ends meanwhile becomes one, or
        nothing."""
        async for jobs in job_payloads(self._redis):
            yield jobs
        async for _, raw in self._redis.hscan_iter(keys.DEAD):
            yield [msgspec.msgpack.decode(raw, type=DeadLetter).payload]


def _is_old(entry: str, now_ms: int) -> bool:
    name = entry.removesuffix(UNFINISHED)
    return is_blob_name(name) and created_ms(name) + GARBAGE_AGE_MS < now_ms
