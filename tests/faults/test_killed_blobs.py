"""Processes with blobs are killed: no blob in use is lost, and none is left for ever."""

import asyncio
import json
import operator
import signal
from functools import partial

import pytest
from redis.asyncio import Redis

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.blobs.garbage import GarbageCollector
from ingestq.broker.blobs.store import UNFINISHED
from ingestq.broker.connection import BrokerConfig, awaited, connected
from ingestq.broker.keys import JOB_INFO
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.broker.queue.pending import job_payloads
from ingestq.core.blobs import GARBAGE_AGE_MS, new_blob_name
from ingestq.core.documents import INLINE_TEXT_BYTES
from ingestq.core.jobs import blobs_in
from ingestq.embedded.redis import embedded_redis
from tests.command import Ingestq
from tests.running_command import serving
from tests.waiting import eventually

DOCUMENTS = 90
KILLS = 4


def lines() -> str:
    """Return documents that are too long for the queue, but quickly embedded."""
    padding = "\n" * INLINE_TEXT_BYTES
    return "".join(
        json.dumps({"doc_id": f"{n}", "text": f"Note {n}.{padding}The end of note {n}."}) + "\n"
        for n in range(DOCUMENTS)
    )


async def check(broker: Broker) -> tuple[set[str], set[str]]:
    """Return the blobs that jobs and dead letters refer to, and all blobs."""
    assert broker.blobs is not None
    named: set[str] = set()
    async for some in job_payloads(broker.redis):
        named.update(*map(blobs_in, some))
    dead_letters = [
        dead_letter async for dead_letter in broker.dead_letters.find(DeadLetterFilter())
    ]
    named.update(*[blobs_in(stored.dead_letter.payload) for stored in dead_letters])
    space, _ = await broker.queue.space()
    return named, set(await broker.blobs.names(space))


async def most_deaths(redis: Redis) -> int:
    """Return how many workers have died over a job that is not finished, at most."""
    jobs = await redis.keys(JOB_INFO + "*")
    return max([int(await awaited(redis.hget(job, "crashes")) or 0) for job in jobs], default=0)


@pytest.mark.slow
async def test_blobs_left_by_a_killed_api_are_collected_when_old(ingestq: Ingestq) -> None:
    data = ingestq.folder / ".ingestq"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    async with embedded_redis(data) as url, connected(config := BrokerConfig(url)) as redis:
        broker = Broker(redis, config, blobs := open_blob_store(str(data / "blobs")))
        with serving(ingestq) as served, served.connect() as request:
            request.sendall(
                b"POST /documents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part + b"x" * 300_000
            )
            await eventually(partial(check, broker), lambda seen: bool(seen[1]))
            served.tell(signal.SIGKILL)
        named, there = await check(broker)
        assert (len(named), len(there)) == (0, 1)
        garbage_collector = GarbageCollector(redis, config, blobs)
        assert await garbage_collector.collect() == 0  # its process may be alive
        space, now_us = await broker.queue.space()
        for name in there:  # make it look a day old
            old = new_blob_name(space, now_us - 2 * GARBAGE_AGE_MS * 1000) + UNFINISHED
            (data / "blobs" / name).rename(data / "blobs" / old)
        assert await garbage_collector.collect() == 1


@pytest.mark.slow
async def test_every_text_is_indexed_although_workers_are_killed(ingestq: Ingestq) -> None:
    ingestq.settings |= {"lease_seconds": "3", "pool_size": "1"}
    data = ingestq.folder / ".ingestq"
    async with embedded_redis(data) as url, connected(config := BrokerConfig(url)) as redis:
        broker = Broker(redis, config, open_blob_store(str(data / "blobs")))
        added = await asyncio.to_thread(ingestq, "add", "--json", "-", stdin=lines())
        assert added.code == 0, added.err
        submission = added.json["submission"]
        named, there = await check(broker)
        assert named == there
        assert len(named) == DOCUMENTS

        async def done() -> int:
            return (await broker.queue.submission(submission)).documents.total

        for _ in range(KILLS):
            before = await done()
            worker = ingestq.start("worker")
            try:
                await eventually(done, partial(operator.lt, before), seconds=120)
                # A document over which a third worker dies is rejected, and rightly so.
                await eventually(partial(most_deaths, redis), partial(operator.gt, 2), seconds=120)
            finally:
                worker.send_signal(signal.SIGKILL)
                worker.communicate()
            named, there = await check(broker)
            assert named <= there
        assert named, "too fast"
        worker = ingestq.start("worker")
        try:
            await eventually(done, lambda n: n == DOCUMENTS, seconds=120)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.communicate()
        rejected = [dead async for dead in broker.dead_letters.find(DeadLetterFilter())]
        assert rejected == []
        assert (await check(broker))[1] <= there - named  # at most what killed workers left
