"""Sessions of the dashboard that ended before their time: whoever signed out stays signed out."""

from contextlib import AbstractContextManager

from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors


class RevokedSessions:
    """Remembers the ids of sessions until they would have ended, for all API processes."""

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config

    async def add(self, session_id: str, seconds: int) -> None:
        """Remember ``session_id`` for ``seconds``. Raises BrokerUnavailable."""
        with self._translated():
            await awaited(self._redis.set(keys.REVOKED_SESSION + session_id, "", ex=seconds))

    async def has(self, session_id: str) -> bool:
        """Return whether ``session_id`` was revoked. Raises BrokerUnavailable."""
        with self._translated():
            return bool(await awaited(self._redis.exists(keys.REVOKED_SESSION + session_id)))

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)
