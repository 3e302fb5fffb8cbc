"""Garbage collection: deletes blobs that no job refers to, left by processes that died."""

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
"""Most passes over the queue. A pass is repeated if dead letters were requeued during it."""


class GarbageCollector:
    """Deletes the garbage of one queue. Raises BrokerUnavailable, and as `BlobStore` does."""

    def __init__(self, redis: Redis, config: BrokerConfig, blobs: BlobStore) -> None:
        self._redis = redis
        self._config = config
        self._blobs = blobs

    async def collect(self) -> int:
        """Delete old blobs to which neither a job nor a dead letter refers; return how many.

        Ages are measured by the steady clock, so a wrong time makes no blob old.

        Deletes nothing if there is a job or dead letter that this version cannot read, because the
        blobs it refers to are unknown, or if dead letters keep being requeued meanwhile.
        """
        space, now_us = await JobQueue(self._redis, self._config).space()
        names = await self._blobs.names(space)
        old = {name for name in names if _is_old(name, now_us // 1000)}
        for _ in range(MAX_PASSES if old else 0):
            requeued = await self._requeue_count()
            try:
                unnamed = await self._unnamed(old)
            except (ContractError, msgspec.DecodeError):
                return 0
            if await self._requeue_count() == requeued:
                await self._blobs.delete(unnamed)
                return len(unnamed)
        return 0

    async def _requeue_count(self) -> bytes | None:
        with translate_errors(self._config):
            return await awaited(self._redis.get(keys.REQUEUED))

    async def _unnamed(self, old: set[str]) -> set[str]:
        unnamed = set(old)
        with translate_errors(self._config):
            async for page in self._all_payloads():
                for payload in page:
                    unnamed -= blobs_in(payload)
        return unnamed

    async def _all_payloads(self) -> AsyncIterator[Sequence[bytes]]:
        """Yield the payloads of all jobs, then those of all dead letters.

        The order matters: a job that fails meanwhile becomes a dead letter.
        """
        async for jobs in job_payloads(self._redis):
            yield jobs
        async for _, raw in self._redis.hscan_iter(keys.DEAD):
            yield [msgspec.msgpack.decode(raw, type=DeadLetter).payload]


def _is_old(entry: str, now_ms: int) -> bool:
    name = entry.removesuffix(UNFINISHED)
    return is_blob_name(name) and created_ms(name) + GARBAGE_AGE_MS < now_ms
