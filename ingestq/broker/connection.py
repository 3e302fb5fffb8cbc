"""One way to connect to Redis, with the timeouts and retries a queue needs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from ingestq.core import events
from ingestq.core.errors import BrokerUnavailable, UsageError, public_url

T = TypeVar("T")

CONNECT_SECONDS: Final = 3.0
REPLY_SECONDS: Final = 10.0
"""Longer than the longest blocking command a worker sends."""
KEEPALIVE_CHECK_SECONDS: Final = 15
"""A connection idle for longer is pinged before it is used again."""

CONNECTION_ERRORS: Final = (ConnectionError, TimeoutError, OSError)
"""What redis-py raises when the connection, not the command, failed."""

REFUSES_WRITES: Final = {
    "maxmemory": "its memory is full (maxmemory)",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "too few of its replicas answer (min-replicas-to-write)",
}
"""What the answers of a server that is up but accepts no write have in them, and mean."""


@dataclass(frozen=True)
class BrokerConfig:
    """Where Redis is, and how much may wait in it."""

    url: str
    max_queue_jobs: int = 100_000
    max_queue_bytes: int = 512 * 1024 * 1024

    @property
    def public_url(self) -> str:
        """The URL without its password, for messages."""
        return public_url(self.url)


def connect(config: BrokerConfig) -> Redis:
    """Make a client for ``config``; it opens connections when it is used.

    A command whose connection fails is sent again up to three times. That is safe because every
    script of ``broker.lua`` may be repeated: a job keeps its id and an owner its token.

    Raises UsageError if the URL is not one of Redis.
    """
    try:
        client = Redis.from_url(
            config.url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=REPLY_SECONDS,
            health_check_interval=KEEPALIVE_CHECK_SECONDS,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
            retry_on_error=list(CONNECTION_ERRORS),
            **({} if config.url.startswith("unix:") else {"socket_keepalive": True}),
        )
    except ValueError as error:
        raise UsageError(
            f"INGESTQ_REDIS_URL {config.public_url!r} is not a Redis URL; "
            "write redis://HOST:PORT/DATABASE, rediss://… or unix:///PATH"
        ) from error
    assert isinstance(client, Redis)
    return client


def _translate(error: Exception, config: BrokerConfig) -> Exception:
    """Turn an error of redis-py into ours, if it says that Redis cannot be used now."""
    # A pipeline puts the command before the answer, and with it the user's documents.
    said = str(error).rpartition(" of pipeline caused error: ")[2]
    if isinstance(error, AuthenticationError) or "NOAUTH" in said:
        return UsageError(
            f"Redis at {config.public_url} refuses the credentials in INGESTQ_REDIS_URL: {said}"
        )
    # Also of a ConnectionError, which redis-py makes of any answer while it connects.
    for answer, reason in REFUSES_WRITES.items():
        if answer in said:
            return BrokerUnavailable(f"Redis at {config.public_url} accepts no writes: {reason}")
    if isinstance(error, (*CONNECTION_ERRORS, BusyLoadingError)):
        return BrokerUnavailable(
            f"Redis does not answer at {config.public_url} ({said}); start it or set "
            "INGESTQ_REDIS_URL (unset, ingestq starts its own)"
        )
    if isinstance(error, ReadOnlyError):
        return BrokerUnavailable(
            f"Redis at {config.public_url} is a read-only replica; set INGESTQ_REDIS_URL to the "
            "primary"
        )
    return error


@contextmanager
def translated(config: BrokerConfig) -> Iterator[None]:
    """Raise BrokerUnavailable or UsageError in place of redis-py's errors that mean just that."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise _translate(error, config) from error


def awaited(answer: Awaitable[T] | T) -> Awaitable[T]:
    """What redis-py's methods really return: its types also allow for the synchronous client."""
    return cast(Awaitable[T], answer)


@asynccontextmanager
async def connected(config: BrokerConfig) -> AsyncIterator[Redis]:
    """A client that has been seen to answer; closed on leaving.

    Raises BrokerUnavailable if Redis does not answer, UsageError if it refuses the credentials.
    """
    client = connect(config)
    try:
        with translated(config):
            await client.ping()
        yield client
    finally:
        await client.aclose()


log = structlog.get_logger()

RETRY_SECONDS: Final = 1.0
"""How soon to try again."""


async def while_redis_is_away(call: Callable[[], Awaitable[T]]) -> T:
    """Return what ``call`` returns; call it again for as long as Redis is away."""
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            log.warning(events.SERVICE_AWAY, error=str(error), retry_in=RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)
