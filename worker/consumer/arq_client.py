"""arq's client on our connection, for arq's own ``Worker`` and ``Job``."""

import asyncio
from typing import Any

import msgspec
from arq.connections import ArqRedis
from arq.worker import JobExecutionFailed
from redis.asyncio import Redis


def arq_client(redis: Redis) -> ArqRedis:
    """Return arq's client on the connections of ``redis``, reading and writing our envelopes."""
    return ArqRedis(
        redis.connection_pool,
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=read_envelope,
    )


def read_envelope(data: bytes) -> dict[str, Any]:
    """Decode a job or its result for arq's ``Job``, as its ``_deserializer``.

    ``Job.result()`` then raises JobExecutionFailed with the reason why a job was given up, and
    ``Job.abort()`` is true for one that was aborted.
    """
    envelope: dict[str, Any] = msgspec.msgpack.decode(data)
    if envelope.get("s") is False:
        aborted = envelope["aborted"]
        envelope["r"] = asyncio.CancelledError() if aborted else JobExecutionFailed(envelope["r"])
    return envelope
