"""The document counts of the queue, read from Redis keys and not through the code under test."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.errors import ContractError
from ingestq.core.jobs import decode_job
from ingestq.core.results import DeadLetter


@dataclass(frozen=True)
class Totals:
    """Documents of all submissions. Dead-lettered documents also count as finished."""

    accepted: int
    finished: int
    waiting: int
    dead: int


async def balanced(redis: Redis) -> Totals:
    """Return the totals. Fails unless every accepted document is finished or waiting, once."""
    jobs = {
        raw.decode(): score for raw, score in await redis.zrange(keys.QUEUE, 0, -1, False, True)
    }
    waiting, size = 0, Counter[str]()
    for job_id in jobs:
        payload = await redis.get(keys.JOB + job_id)
        assert payload is not None, f"the payload of {job_id} is lost"
        raw = await awaited(redis.hgetall(keys.JOB_INFO + job_id))
        info = {name.decode(): value.decode() for name, value in raw.items()}
        assert int(info["bytes"]) == len(payload)
        size[info["lane"] + ":jobs"] += 1
        size[info["lane"] + ":bytes"] += len(payload)
        waiting += int(info["documents"])
        try:
            batch = decode_job(payload).batch
            assert batch.accepted == int(info["documents"])
        except ContractError:
            pass  # written by another version: trust the producer's count
        await _is_in_one_place(redis, job_id, jobs[job_id], info)

    held = await awaited(redis.hgetall(keys.HELD))
    assert {k.decode(): int(n) for k, n in held.items() if int(n)} == dict(size)
    assert len(await redis.keys(keys.JOB + "*")) == len(jobs)
    assert len(await redis.keys(keys.JOB_INFO + "*")) == len(jobs)

    accepted = finished = 0
    for key in await redis.keys(keys.SUBMISSION + "*"):
        for field, value in (await awaited(redis.hgetall(key))).items():
            if field == b"accepted":
                accepted += int(value)
            elif field.startswith(b"documents."):
                finished += int(value)
    dead_letters = [
        msgspec.msgpack.decode(raw, type=DeadLetter)
        for raw in await awaited(redis.hvals(keys.DEAD))
    ]
    dated = await redis.zrange(keys.DEAD_TIMES, 0, -1)
    assert sorted(dated) == sorted(dead_letter.key.encode() for dead_letter in dead_letters)
    versions = await awaited(redis.hgetall(keys.DEAD_VERSIONS))
    assert {key.decode(): int(version) for key, version in versions.items()} == {
        dead_letter.key: dead_letter.version for dead_letter in dead_letters
    }
    assert accepted == finished + waiting
    return Totals(
        accepted, finished, waiting, sum(dead_letter.documents for dead_letter in dead_letters)
    )


async def _is_in_one_place(
    redis: Redis, job_id: str, score: float, info: Mapping[str, str]
) -> None:
    """Check that a ready job is in exactly one line of its collection, any other in none."""
    lines = [*await redis.keys(keys.LANE + "*"), *await redis.keys(keys.POISON + "*")]
    places = [line.decode() for line in lines if await redis.zscore(line, job_id) is not None]
    if score < 0:
        collection = info["collection"]
        line = f"{keys.LANE}{info['lane']}:{collection}"
        assert places in ([line], [keys.POISON + collection])
        assert not await redis.exists(keys.LEASE + job_id)
    else:
        assert places == []
