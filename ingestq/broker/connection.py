"""Connecting to Redis, with the timeouts and retries that a queue needs."""

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

log = structlog.get_logger()

T = TypeVar("T")

CONNECT_SECONDS: Final = 3.0
"""Timeout of connecting."""
REPLY_SECONDS: Final = 10.0
"""Timeout of a reply; longer than the longest blocking command that a worker sends."""
KEEPALIVE_CHECK_SECONDS: Final = 15
"""A connection that was idle for longer is pinged before it is used again."""

SEND_RETRIES: Final = 3
"""How often a command is sent again if its connection fails."""

CONNECTION_ERRORS: Final = (ConnectionError, TimeoutError, OSError)
"""Exceptions of redis-py that mean that the connection failed, not the command."""

REFUSES_WRITES: Final = {
    "maxmemory": "its memory is full (maxmemory)",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "too few of its replicas answer (min-replicas-to-write)",
}
"""Texts in the answers of a server that is up but accepts no writes, and their meaning."""


@dataclass(frozen=True)
class BrokerConfig:
    """The URL of Redis and the limits of the queue.

    ``url`` is redis://HOST:PORT/DATABASE, rediss://… or unix:///PATH. ``max_queue_jobs`` and
    ``max_queue_bytes`` bound the jobs on the queue and their total size; beyond either, producers
    wait or get QueueFull. Give all producers the same limits.
    """

    url: str
    max_queue_jobs: int = 100_000
    max_queue_bytes: int = 512 * 1024 * 1024

    @property
    def public_url(self) -> str:
        """The URL without its password, for messages."""
        return public_url(self.url)


def connect(config: BrokerConfig) -> Redis:
    """Return a client for ``config``, which connects when it is first used.

    A command whose connection fails is sent again up to three times. That is safe because every
    script in ``ingestq/broker/lua`` can be repeated: a job keeps its id, and an owner its token.

    Raises UsageError if the URL is not a Redis URL.
    """
    try:
        client = Redis.from_url(
            config.url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=REPLY_SECONDS,
            health_check_interval=KEEPALIVE_CHECK_SECONDS,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), SEND_RETRIES),
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
    """Return the error to raise for one of redis-py: BrokerUnavailable, UsageError, or the same."""
    # A pipeline puts the command in front of the answer, and with it the user's documents.
    said = str(error).rpartition(" of pipeline caused error: ")[2]
    if isinstance(error, AuthenticationError) or "NOAUTH" in said:
        return UsageError(
            f"Redis at {config.public_url} refuses the credentials in INGESTQ_REDIS_URL: {said}"
        )
    # Checked for a ConnectionError too: redis-py turns any answer to connecting into one.
    for answer, reason in REFUSES_WRITES.items():
        if answer in said:
            return BrokerUnavailable(f"Redis at {config.public_url} accepts no writes: {reason}")
    if isinstance(error, (*CONNECTION_ERRORS, BusyLoadingError)):
        return BrokerUnavailable(
            f"Redis does not answer at {config.public_url} ({said}); start it or set "
            "INGESTQ_REDIS_URL (if it is unset, ingestq starts its own Redis)"
        )
    if isinstance(error, ReadOnlyError):
        return BrokerUnavailable(
            f"Redis at {config.public_url} is a read-only replica; set INGESTQ_REDIS_URL to the "
            "primary"
        )
    return error


@contextmanager
def translate_errors(config: BrokerConfig) -> Iterator[None]:
    """Raise BrokerUnavailable or UsageError in place of redis-py's errors that mean it."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise _translate(error, config) from error


def awaited(answer: Awaitable[T] | T) -> Awaitable[T]:
    """Return ``answer`` with its real type: redis-py's types also allow for its blocking client."""
    return cast(Awaitable[T], answer)


@asynccontextmanager
async def connected(config: BrokerConfig) -> AsyncIterator[Redis]:
    """Yield a client whose connection has been tested; close it on leaving.

    Raises BrokerUnavailable if Redis does not answer, UsageError if it refuses the credentials.
    """
    client = connect(config)
    try:
        with translate_errors(config):
            await client.ping()
        yield client
    finally:
        await client.aclose()


RETRY_SECONDS: Final = 1.0
"""Seconds between tries of `retry_until_redis_answers`."""


async def retry_until_redis_answers(call: Callable[[], Awaitable[T]]) -> T:
    """Call ``call`` until it does not raise BrokerUnavailable, without limit; return its result."""
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            log.warning(events.SERVICE_AWAY, error=str(error), retry_in=RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)
