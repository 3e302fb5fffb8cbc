"""Connecting to Redis, with the timeouts and retries that a queue needs."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterError,
    ConnectionError,  # noqa: A004
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from ingestq.broker import keys
from ingestq.broker.address import URL_FORMS, check_tls, connection_options, is_sentinel_url
from ingestq.broker.scripts import failed_command
from ingestq.core import metrics
from ingestq.core.errors import BrokerUnavailable, UsageError
from ingestq.core.outages import note_answer, note_failure
from ingestq.core.urls import public_url, secrets_in, without_secrets

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

UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"
"""Text in the errors of a server whose certificate is not trusted."""

NO_RIGHTS: Final = ("NOPERM", "no permission", "ACL failure", "The user executing the script can't")
"""Texts in the answers of a server whose access control list forbids a command or a key."""
OF_A_CLUSTER: Final = ("CROSSSLOT", "MOVED", "CLUSTERDOWN")
"""Starts of the answers of a server that is a node of a Redis Cluster."""
CLUSTER_ERRORS: Final = (ClusterCrossSlotError, ClusterError, MovedError)
"""What some versions of redis-py make of these answers, without their starts."""
REFUSES_WRITES: Final = {
    "maxmemory": "its memory is full (maxmemory)",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "too few of its replicas answer (min-replicas-to-write)",
}
"""Texts in the answers of a server that is up but accepts no writes, and their meaning."""


@dataclass(frozen=True)
class BrokerConfig:
    """The URL of Redis and the limits of the queue.

    ``url`` is redis://HOST:PORT/DATABASE, rediss://…, unix:///PATH, or redis+sentinel://… for a
    service that Sentinels watch. ``max_queue_jobs`` and ``max_queue_bytes`` bound the jobs on the
    queue and their total size; beyond either, producers wait or get QueueFull. Give all producers
    the same limits.

    No receipt is given before ``replicas`` replicas have the documents; by default one if the URL
    is that of Sentinels, since they may make it the master, and none otherwise.

    ``outage`` returns the message of BrokerUnavailable for a server that ingestq runs itself; None
    for others. It is called when a connection has failed, and must not block.
    """

    url: str = field(repr=False)
    max_queue_jobs: int = 100_000
    max_queue_bytes: int = 512 * 1024 * 1024
    outage: Callable[[], str] | None = None
    replicas: int | None = None

    @property
    def receipt_replicas(self) -> int:
        """How many replicas must have the documents of a receipt."""
        return int(is_sentinel_url(self.url)) if self.replicas is None else self.replicas

    @property
    def public_url(self) -> str:
        """The URL without user, password and options, for messages."""
        return public_url(self.url)


def connect(config: BrokerConfig) -> Redis:
    """Return a client for ``config``, which connects when it is first used.

    A command whose connection fails is sent again up to three times. That is safe because every
    script in ``ingestq/broker/lua`` can be repeated: a job keeps its id, an owner its token, and
    what deletes something remembers its answer for the same call.

    Raises UsageError if the URL is not a Redis URL, or names files for TLS that cannot be used.
    """
    try:
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": REPLY_SECONDS,
            "health_check_interval": KEEPALIVE_CHECK_SECONDS,
            "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), SEND_RETRIES),
            "retry_on_error": list(CONNECTION_ERRORS),
            "redis_connect_func": _greet,
        }
        pool = ConnectionPool(**options | connection_options(config.url))
        # Raises TypeError for an unknown option.
        connection = pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError) as error:
        raise UsageError(
            f"INGESTQ_REDIS_URL {config.public_url!r} is not a Redis URL, or has options that do "
            f"not exist; write {URL_FORMS}"
        ) from error
    if isinstance(connection, SSLConnection):
        check_tls(connection)
    return Redis.from_pool(pool)


async def _greet(connection: AbstractConnection) -> None:
    """Authenticate and select the database on a new connection.

    Without a health check: redis-py 5 would make it while it is connecting, and if it failed
    connect again from there, and so on without end. A server that takes connections and closes them
    at once, as a load balancer without servers does, would never be reported.
    """
    connection.next_health_check = math.inf
    await connection.on_connect()


def _translate(error: Exception, config: BrokerConfig) -> Exception:
    """Return the error to raise for one of redis-py: BrokerUnavailable, UsageError, or the same."""
    # A pipeline puts the command in front of the answer, and with it the user's documents.
    said = str(error).rpartition(" of pipeline caused error: ")[2]
    said = without_secrets(said, secrets_in(config.url))
    return _misuse(error, said, config) or _unavailable(error, said, config) or error


def _misuse(error: Exception, said: str, config: BrokerConfig) -> UsageError | None:
    """Return what the user has to change about credentials, rights or the kind of server."""
    if isinstance(error, AuthenticationError) or "NOAUTH" in said:
        return UsageError(
            f"Redis at {config.public_url} refuses the credentials in INGESTQ_REDIS_URL: {said}"
        )
    is_forbidden = isinstance(error, RedisError) and any(answer in said for answer in NO_RIGHTS)
    if is_forbidden or isinstance(error, NoPermissionError):
        command = failed_command(said)
        named = "" if command is None else f" (the command '{command}')"
        return UsageError(
            f"Redis at {config.public_url} does not give the user in INGESTQ_REDIS_URL the rights "
            f"that ingestq needs: {said}{named}; docs/deployment.md lists them"
        )
    if isinstance(error, CLUSTER_ERRORS) or said.startswith(OF_A_CLUSTER):
        return UsageError(
            f"Redis at {config.public_url} is a Redis Cluster, which cannot run ingestq's scripts; "
            "set INGESTQ_REDIS_URL to a single server, or to Sentinels"
        )
    return None


def _unavailable(error: Exception, said: str, config: BrokerConfig) -> BrokerUnavailable | None:
    """Return why Redis cannot be used for now, if that is what ``error`` means."""
    # Checked for a ConnectionError too: redis-py turns any answer to connecting into one.
    for answer, reason in REFUSES_WRITES.items():
        if answer in said:
            return BrokerUnavailable(f"Redis at {config.public_url} accepts no writes: {reason}")
    if isinstance(error, BusyLoadingError) and config.outage is not None:
        return BrokerUnavailable("the bundled Redis is still reading its data; wait a while")
    if isinstance(error, CONNECTION_ERRORS) and config.outage is not None:
        return BrokerUnavailable(config.outage())
    if UNTRUSTED in said:
        return BrokerUnavailable(
            f"the certificate of Redis at {config.public_url} is not trusted ({said}); name the "
            "file of its authority: INGESTQ_REDIS_URL=rediss://…?ssl_ca_certs=/PATH"
        )
    if isinstance(error, (*CONNECTION_ERRORS, BusyLoadingError)):
        return BrokerUnavailable(
            f"Redis does not answer at {config.public_url} ({said}); start it or set "
            "INGESTQ_REDIS_URL (if it is unset, ingestq starts its own Redis)"
        )
    if isinstance(error, NoScriptError):  # it was loaded once more, which is usually enough
        return BrokerUnavailable(f"Redis at {config.public_url} is being restarted")
    if isinstance(error, ReadOnlyError):
        return BrokerUnavailable(
            f"Redis at {config.public_url} is a read-only replica; set INGESTQ_REDIS_URL to the "
            "primary"
        )
    return None


@contextmanager
def translate_errors(config: BrokerConfig) -> Iterator[None]:
    """Raise BrokerUnavailable or UsageError in place of redis-py's errors that mean it."""
    try:
        yield
    except (RedisError, OSError) as error:
        translated = _translate(error, config)
        metrics.count_error(metrics.ServiceName.REDIS, translated)
        raise translated from error
    note_answer(BrokerUnavailable)


def awaited(answer: Awaitable[T] | T) -> Awaitable[T]:
    """Return ``answer`` with its real type: redis-py's types also allow for its blocking client."""
    return cast(Awaitable[T], answer)


@asynccontextmanager
async def connected(config: BrokerConfig) -> AsyncIterator[Redis]:
    """Yield a client whose connection has been tested; close it on leaving.

    Raises BrokerUnavailable if Redis does not answer, UsageError if it refuses the credentials, or
    is a Redis Cluster.
    """
    client = connect(config)
    try:
        with translate_errors(config):
            await client.ping()
            await client.exists(keys.QUEUE, keys.HELD)  # two keys, in different slots of a cluster
        yield client
    finally:
        # redis-py closes what it has waited for too long, as on a busy machine, and then raises.
        with suppress(*CONNECTION_ERRORS):
            await client.aclose()


RETRY_SECONDS: Final = 1.0
"""Seconds between tries of `retry_until_redis_answers`."""


async def retry_until_redis_answers(call: Callable[[], Awaitable[T]]) -> T:
    """Call ``call`` until it does not raise BrokerUnavailable, without limit; return its result."""
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            note_failure(error)
            await asyncio.sleep(RETRY_SECONDS)
