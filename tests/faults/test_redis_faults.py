"""Redis crashes, comes back, or refuses writes: every accepted document is finished once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from arq.worker import func

from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import EnqueueResult
from ingestq.embedded.redis import embedded_redis
from tests.books import Totals, balanced
from tests.claims import lease_queue
from tests.unsupervised import unsupervised_redis
from tests.waiting import crash, ended, eventually
from tests.workers import all_indexed
from worker.consumer.lease_worker import LeaseWorker
from worker.pipeline.ingest import Outcome

JOBS = 1000
FEW_JOBS = 300
"""Each waits for the disk, which may be busy."""
SECONDS = 200
"""Longer than all jobs take if every one waits for a busy disk."""


def batches(submission: str = "s", count: int = JOBS) -> list[IngestBatch]:
    documents = [
        Document(collection="documents", doc_id=str(i), version=1, source=str(i), text="x" * 500)
        for i in range(count)
    ]
    return [IngestBatch(submission, (document,)) for document in documents]


async def finish_at_once(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    return all_indexed(batch)


@asynccontextmanager
async def working(broker: Broker, lease_seconds: float = 2) -> AsyncIterator[LeaseWorker]:
    worker = LeaseWorker(
        functions=[func(finish_at_once, name="ingest")],
        leases=lease_queue(broker, lease_seconds),
        max_jobs=4,
        drain_seconds=5,
        ctx={},
    )
    running = asyncio.create_task(worker.run_until_stopped())
    try:
        yield worker
    finally:
        worker.stop()
        await ended(running)


async def test_a_redis_crash_loses_no_accepted_document(tmp_path: Path) -> None:
    async with unsupervised_redis(tmp_path) as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            broker = Broker(redis, config)
            answers = await broker.queue.offer(batches(count=FEW_JOBS))
            assert answers.count(EnqueueResult.ACCEPTED) == FEW_JOBS
            await crash(redis)
            async with embedded_redis(tmp_path):
                assert (await broker.queue.depth()).ready == FEW_JOBS
                async with working(broker):
                    status = await eventually(
                        lambda: broker.queue.submission("s"), lambda status: status.complete
                    )
                assert status.documents.indexed == FEW_JOBS
                assert await balanced(redis) == Totals(FEW_JOBS, FEW_JOBS, waiting=0, dead=0)


@pytest.mark.slow
async def test_a_worker_survives_a_redis_crash(tmp_path: Path) -> None:
    async with unsupervised_redis(tmp_path) as url:
        config = BrokerConfig(url)
        async with connected(config) as redis:
            broker = Broker(redis, config)
            async with working(broker):
                await broker.queue.offer(batches())
                seen = await eventually(
                    lambda: broker.queue.submission("s"),
                    lambda status: status.documents.indexed > 50,
                    SECONDS,
                )
                assert not seen.complete, "too fast"
                await crash(redis)
                with pytest.raises(BrokerUnavailable):
                    await broker.queue.depth()
                async with embedded_redis(tmp_path):
                    status = await eventually(
                        lambda: broker.queue.submission("s"),
                        lambda status: status.complete,
                        SECONDS,
                    )
                    # Redis counts in the same step that removes a job: none twice, none missing.
                    assert status.documents.indexed == JOBS
                    assert await balanced(redis) == Totals(JOBS, finished=JOBS, waiting=0, dead=0)


@pytest.mark.parametrize(
    ("setting", "faulty", "sound"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
)
async def test_a_worker_waits_while_redis_refuses_writes(
    broker: Broker, setting: str, faulty: str, sound: str
) -> None:
    await broker.queue.offer(batches(count=20))
    await broker.redis.config_set(setting, faulty)
    try:
        async with working(broker):
            with pytest.raises(BrokerUnavailable, match="accepts no writes"):
                await broker.queue.offer(batches("other"))
            assert await balanced(broker.redis) == Totals(20, finished=0, waiting=20, dead=0)
            await broker.redis.config_set(setting, sound)
            await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
        assert await balanced(broker.redis) == Totals(20, finished=20, waiting=0, dead=0)
    finally:
        await broker.redis.config_set(setting, sound)


async def test_a_read_only_replica_is_refused_until_it_is_promoted(broker: Broker) -> None:
    await broker.queue.offer(batches(count=20))
    await broker.redis.replicaof("127.0.0.1", "1")
    try:
        async with working(broker):
            with pytest.raises(BrokerUnavailable, match="read-only replica"):
                await broker.queue.offer(batches("other"))
            await broker.redis.replicaof("NO", "ONE")
            await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
        assert await balanced(broker.redis) == Totals(20, finished=20, waiting=0, dead=0)
    finally:
        await broker.redis.replicaof("NO", "ONE")
