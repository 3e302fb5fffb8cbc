"""arq's own `Job` works with the jobs of the lease worker: status, result, abort."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from arq.jobs import Job, JobStatus
from arq.worker import JobExecutionFailed, func

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, DocumentCounts
from ingestq.core.versions import FIRST_ISSUED
from tests.books import balanced
from tests.claims import lease_queue, take
from tests.waiting import SECONDS, ended, eventually
from tests.workers import all_indexed, make_worker, working
from worker.consumer.decision import MAX_TRIES
from worker.consumer.lease_worker import arq_client, read_envelope
from worker.pipeline.ingest import Outcome

BATCH = IngestBatch(
    "s", (Document(collection="documents", doc_id="d", version=FIRST_ISSUED, source="d", text="t"),)
)
OTHER = IngestBatch(
    "later",
    (Document(collection="documents", doc_id="o", version=FIRST_ISSUED, source="o", text="t"),),
)
INDEXED = all_indexed(BATCH)

Ctx = dict[str, Any]


async def index(ctx: Ctx, batch: IngestBatch) -> Sequence[Outcome]:
    return INDEXED


def job_of(broker: Broker, job_id: str = BATCH.job_id) -> Job:
    return Job(job_id, arq_client(broker.redis), _deserializer=read_envelope)


async def one_try_is_left(broker: Broker) -> None:
    info = keys.JOB_INFO + BATCH.job_id
    await awaited(broker.redis.hset(info, "failures", str(MAX_TRIES - 1)))


async def test_arq_shows_the_status_of_a_job(broker: Broker) -> None:
    may_end = asyncio.Event()

    async def job(ctx: Ctx, batch: IngestBatch) -> Sequence[Outcome]:
        await may_end.wait()
        return INDEXED

    assert await job_of(broker).status() is JobStatus.not_found
    await broker.queue.offer([BATCH])
    assert await job_of(broker).status() is JobStatus.queued
    async with working(broker, job):
        await eventually(job_of(broker).status, lambda status: status is JobStatus.in_progress)
        may_end.set()
        await eventually(job_of(broker).status, lambda status: status is JobStatus.complete)


async def test_a_job_that_waits_for_a_retry_is_deferred(broker: Broker) -> None:
    await broker.queue.offer([BATCH])
    leases = lease_queue(broker)
    [claim] = await take(leases)
    assert await leases.nack(claim, delay_seconds=60, counts_as_try=True)
    assert await job_of(broker).status() is JobStatus.deferred


async def test_the_result_of_a_finished_job_is_its_report(broker: Broker) -> None:
    await broker.queue.offer([BATCH])
    async with working(broker, index):
        report = await job_of(broker).result(timeout=SECONDS)
    assert msgspec.convert(report, BatchReport).documents == DocumentCounts(indexed=1)
    info = await job_of(broker).result_info()
    assert info is not None
    assert (info.function, info.job_try, info.success) == ("ingest", 1, True)


async def test_the_result_of_a_failed_job_is_its_reason(broker: Broker) -> None:
    async def job(ctx: Ctx, batch: IngestBatch) -> Sequence[Outcome]:
        raise DocumentRejected("broken for good")

    await broker.queue.offer([BATCH])
    async with working(broker, job):
        with pytest.raises(JobExecutionFailed, match="broken for good"):
            await job_of(broker).result(timeout=SECONDS)


async def test_a_job_that_cancels_itself_is_a_failure(broker: Broker) -> None:
    async def job(ctx: Ctx, batch: IngestBatch) -> Sequence[Outcome]:
        raise asyncio.CancelledError

    await broker.queue.offer([BATCH])
    await one_try_is_left(broker)
    async with working(broker, job):
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    [failed] = await broker.queue.failed_documents("s")
    assert "was cancelled" in failed.reason


@pytest.mark.parametrize("outcomes", [None, [], [*INDEXED, *INDEXED]])
async def test_a_job_must_return_an_outcome_for_each_document(
    broker: Broker, outcomes: Any
) -> None:
    async def job(ctx: Ctx, batch: IngestBatch) -> Any:
        return outcomes

    await broker.queue.offer([BATCH])
    await one_try_is_left(broker)
    async with working(broker, job):
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    [failed] = await broker.queue.failed_documents("s")
    assert failed.reason == "'ingest' did not return an outcome for each document"


async def test_arq_can_run_the_worker(broker: Broker) -> None:
    await broker.queue.offer([BATCH])
    worker = make_worker(broker, index)
    running = asyncio.create_task(worker.async_run())
    await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    worker.stop()
    await ended(running)
    assert await broker.redis.ping()


@pytest.mark.parametrize("when", ["ready", "deferred", "running"])
async def test_an_aborted_job_ends_and_its_documents_are_dead_lettered(
    broker: Broker, when: str
) -> None:
    started = asyncio.Event()

    async def job(ctx: Ctx, batch: IngestBatch) -> Sequence[Outcome]:
        if batch == BATCH:
            started.set()
            await asyncio.Event().wait()
        return INDEXED

    await broker.queue.offer([BATCH])
    if when == "deferred":
        worker = make_worker(broker, func(job, name="nothing that is known"))
        running = asyncio.create_task(worker.run_until_stopped())
        await eventually(broker.queue.depth, lambda depth: depth.deferred == 1)
        worker.stop()
        await ended(running)
    if when != "running":
        aborting = asyncio.create_task(job_of(broker).abort(timeout=SECONDS, poll_delay=0.01))
        await eventually(lambda: broker.redis.zcard(keys.ABORT))
    async with working(broker, job):
        if when == "running":
            await started.wait()
            aborting = asyncio.create_task(job_of(broker).abort(timeout=SECONDS, poll_delay=0.01))
        assert await aborting is True
        assert started.is_set() == (when == "running")
        await broker.queue.offer([OTHER])
        await eventually(broker.queue.is_empty)
    totals = await balanced(broker.redis)
    assert totals.dead == 1
    [failed] = await broker.queue.failed_documents("s")
    assert failed.reason == "aborted"
    assert await broker.redis.zcard(keys.ABORT) == 0


async def test_a_late_abort_does_not_abort_the_next_job(broker: Broker) -> None:
    async with working(broker, index):
        await broker.queue.offer([BATCH])
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
        assert await job_of(broker).abort(timeout=SECONDS) is False
        await eventually(lambda: broker.redis.zcard(keys.ABORT), lambda n: n == 0)
    assert (await balanced(broker.redis)).dead == 0
