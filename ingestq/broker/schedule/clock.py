"""What has to be known of cron jobs so that each run is queued once, whoever is up.

Scheduled entries (`ingestq.broker.schedule.runs`) go by the same times.
"""

from contextlib import AbstractContextManager
from typing import cast

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translated
from ingestq.broker.scripts import Scripts
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.jobs import Job


class Schedule:
    """The runs of cron jobs, on the clock of Redis. Times are Unix times in ms.

    The runs are jobs for ``collection``, so that its workers get them. Every method raises
    BrokerUnavailable while Redis cannot be used.
    """

    def __init__(
        self, redis: Redis, config: BrokerConfig, collection: str = DEFAULT_COLLECTION
    ) -> None:
        self._collection = collection
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def now_ms(self) -> int:
        """The time of Redis."""
        with self._translated():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def queued_until(self, name: str) -> int:
        """The time up to which the runs of ``name`` are queued; now, if it is a new one."""
        now_ms = await self.now_ms()
        with self._translated():
            await awaited(self._redis.hsetnx(keys.CRON, name, cast(str, now_ms)))
            known = await awaited(self._redis.hget(keys.CRON, name))
        assert known is not None, "was just set"
        return int(known)

    async def queue_run(self, name: str, job_id: str, *, due_ms: int | None) -> bool:
        """Queue a run of ``name``; whether it was, and not by somebody else before.

        With ``due_ms`` the run is queued only if no run of the same cron job that was due then or
        later is queued; runs that were due until now count as made up for by this one.
        """
        job = msgspec.msgpack.encode(Job(name, (), await self.now_ms()))
        record = ("", 0) if due_ms is None else (name, due_ms)
        with self._translated():
            return bool(
                await self._scripts.cron(args=[record[0], job_id, job, record[1], self._collection])
            )

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._config)
