"""Redis behind Sentinel: connections to whichever server is the master now.

Every connection asks all Sentinels when it is made, and believes the newest answer: one that was
cut off from the others may still name a master that has been replaced.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004
    ReadOnlyError,
    RedisError,
)

SENTINEL_SECONDS: Final = 1.0
"""Timeout of connecting to a Sentinel, and of its reply."""


@dataclass(frozen=True)
class _Answer:
    """What one Sentinel says: the master, since which failover, and whether it is down."""

    epoch: int
    is_up: bool
    host: str
    port: int


@dataclass(frozen=True)
class Sentinels:
    """The Sentinels at ``places`` (host and port) that watch ``service``.

    ``options`` are redis-py's, for connections to them.
    """

    service: str
    places: Sequence[tuple[str, int]]
    connection: type[Connection]
    options: dict[str, Any] = field(repr=False)

    async def master(self) -> tuple[str, int]:
        """Return host and port of the master: the newest one that any of the Sentinels names.

        Raises MasterNotFoundError, which says why, if none names one that is up.
        """
        said = await asyncio.gather(*(self._ask(*place) for place in self.places))
        answers = [answer for answer in said if isinstance(answer, _Answer)]
        if not answers:
            raise MasterNotFoundError("; ".join(map(str, said)))
        newest = max(answers, key=lambda answer: (answer.epoch, answer.is_up))
        if not newest.is_up:
            raise MasterNotFoundError(
                f"the master of {self.service!r} at {newest.host}:{newest.port} is down, and the "
                "Sentinels have chosen no other yet"
            )
        return newest.host, newest.port

    async def _ask(self, host: str, port: int) -> _Answer | str:
        """Return the answer of the Sentinel at ``host`` and ``port``, or why there is none."""
        pool = ConnectionPool(
            self.connection,
            host=host,
            port=port,
            socket_connect_timeout=SENTINEL_SECONDS,
            socket_timeout=SENTINEL_SECONDS,
            retry=Retry(NoBackoff(), 0),
            **self.options,
        )
        try:
            async with Redis.from_pool(pool) as sentinel:
                masters: dict[str, dict[str, Any]]
                masters = await sentinel.sentinel_masters()  # type: ignore[no-untyped-call]
        except AuthenticationError as error:
            return (
                f"Sentinel {host}:{port}: {error}; set the options sentinel_username and "
                "sentinel_password in INGESTQ_REDIS_URL"
            )
        except (RedisError, OSError) as error:
            return f"Sentinel {host}:{port}: {error}"
        state = masters.get(self.service)
        if state is None:
            known = ", ".join(sorted(masters)) or "none"
            return f"Sentinel {host}:{port} knows no service {self.service!r}, but {known}"
        is_up = not (state["is_sdown"] or state["is_odown"])
        return _Answer(int(state["config-epoch"]), is_up, str(state["ip"]), int(state["port"]))


class MasterConnection(Connection):
    """A connection to the master, which is looked up whenever it is made, and made again."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.master()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError as error:  # look the master up again
            await self.disconnect()
            raise ConnectionError(f"{self.host}:{self.port} is not the master any more") from error


class TlsMasterConnection(MasterConnection, SSLConnection):
    """The same with TLS."""
