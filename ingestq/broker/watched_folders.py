"""Reports of watched folders: what the process that watches one says of it for `ingestq status`."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, retry_until_redis_answers, translate_errors
from ingestq.broker.scripts import Scripts
from ingestq.core.results import WatchedFolderStatus

REPORT_SECONDS: Final = 2.0
"""How often a folder is reported."""
FOLDER_TIMEOUT_MS: Final = 60_000
"""A folder that was not reported for this long is not watched any more."""


class WatchedFolders:
    """Publishes the states of watched folders. `JobQueue.overview` reads them.

    Methods raise BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def keep_reporting(self, status: Callable[[], WatchedFolderStatus]) -> None:
        """Publish the ``status`` of a folder again and again, until cancelled.

        Waits while Redis is away.
        """
        while True:
            await retry_until_redis_answers(partial(self.report, status()))
            await asyncio.sleep(REPORT_SECONDS)

    async def report(self, status: WatchedFolderStatus) -> None:
        """Publish the state of a folder, for `FOLDER_TIMEOUT_MS`."""
        arguments = (_member(status), msgspec.msgpack.encode(status), FOLDER_TIMEOUT_MS)
        with self._translated():
            await self._scripts.report_folder(args=arguments)

    async def forget(self, status: WatchedFolderStatus) -> None:
        """Remove a folder, because it is not watched any more."""
        with self._translated():
            async with self._redis.pipeline() as pipe:
                pipe.zrem(keys.WATCHED_FOLDERS, _member(status))
                pipe.hdel(keys.WATCHED_FOLDER_INFO, _member(status))
                await pipe.execute()

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def decoded_folder(info: bytes) -> WatchedFolderStatus:
    """Return the state that was published as ``info``."""
    return msgspec.msgpack.decode(info, type=WatchedFolderStatus)


def _member(status: WatchedFolderStatus) -> str:
    named = (status.host, status.folder, status.tenant, status.collection)
    return msgspec.json.encode(named).decode()
