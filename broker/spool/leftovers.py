"""Objects that nobody will ever ask for: what a process that died left in the spool.

An object is one if neither a job nor a dead letter names it, and it is so old that Redis refuses
jobs which name it (see `broker.spool.names`): so nobody can name it later either. The only step
that names an old object anew is to requeue a dead letter; those are counted, and if there was one
while the queue and the letters were looked through, in this order, they are looked through again.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from arq.connections import ArqRedis

from broker import keys
from broker.connection import BrokerConfig, awaited, translated
from broker.contract import DeadLetter, objects_in
from broker.errors import ContractError
from broker.queue import JobQueue
from broker.spool.names import LEFT_OVER_MS, is_name, named_ms
from broker.spool.store import UNFINISHED, Spool
from broker.waiting import payloads

LOOKS: Final = 3
"""If letters are requeued during each of so many looks, it is left to the next time."""


class Leftovers:
    """Those of one queue. Raises BrokerUnavailable and what `Spool` raises."""

    def __init__(self, redis: ArqRedis, config: BrokerConfig, spool: Spool) -> None:
        self._redis = redis
        self._config = config
        self._spool = spool

    async def remove(self) -> int:
        """Remove what is left over; how many objects that were.

        Nothing, while there is a job or a letter that this version cannot read: who knows what it
        names.
        """
        space, now_us = await JobQueue(self._redis, self._config).space()
        there = await self._spool.names(space)
        old = {name for name in there if _is_old(name, now_us // 1000)}
        for _ in range(LOOKS if old else 0):
            requeued = await self._requeued()
            try:
                unnamed = await self._unnamed(old)
            except (ContractError, msgspec.DecodeError):
                return 0
            if await self._requeued() == requeued:
                await self._spool.remove(unnamed)
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
                    unnamed -= objects_in(payload)
        return unnamed

    async def _everything(self) -> AsyncIterator[Sequence[bytes]]:
        """The jobs, and then the letters: a job that ends meanwhile becomes one, or nothing."""
        async for jobs in payloads(self._redis):
            yield jobs
        async for _, raw in self._redis.hscan_iter(keys.DEAD):
            yield [msgspec.msgpack.decode(raw, type=DeadLetter).payload]


def _is_old(entry: str, now_ms: int) -> bool:
    name = entry.removesuffix(UNFINISHED)
    return is_name(name) and named_ms(name) + LEFT_OVER_MS < now_ms
