"""What arq's documentation promises holds with the lease worker: hooks, options, cron, abort."""

import asyncio
import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from arq import cron
from arq.cron import CronJob
from arq.jobs import Job, JobStatus
from arq.worker import JobExecutionFailed, func

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.broker.schedule.clock import Schedule
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, DocumentCounts
from tests.books import balanced
from tests.waiting import eventually
from tests.workers import make_worker, working
from worker.consumer.arq_client import arq_client, read_envelope
from worker.consumer.cron import CronTable

BATCH = IngestBatch(
    "s", (Document(collection="documents", doc_id="d", version=1, source="d", text="t"),)
)
INDEXED = BatchReport(DocumentCounts(indexed=1))

Ctx = dict[str, Any]


async def index(ctx: Ctx, batch: IngestBatch) -> BatchReport:
    return INDEXED


def job_of(broker: Broker, job_id: str = BATCH.job_id) -> Job:
    return Job(job_id, arq_client(broker.redis), _deserializer=read_envelope)


async def test_hooks_are_called_around_a_job(broker: Broker) -> None:
    called: list[str] = []

    def hook(name: str) -> Any:
        async def call(ctx: Ctx) -> None:
            called.append(name)
            assert ctx["redis"] is broker.redis
            if "job" in name:
                assert (ctx["job_id"], ctx["job_try"]) == (BATCH.job_id, 1)
                assert abs((datetime.now(UTC) - ctx["enqueue_time"]).total_seconds()) < 60
            done = await job_of(broker).status() is JobStatus.complete
            assert done == (name in {"after_job_end", "on_shutdown"})

        return call

    names = ["on_startup", "on_job_start", "on_job_end", "after_job_end", "on_shutdown"]
    await broker.queue.offer([BATCH])
    async with working(broker, index, **{name: hook(name) for name in names}):
        await eventually(lambda: _true(called[-1:] == ["after_job_end"]))
    assert called == names


@pytest.mark.parametrize("hook", ["on_job_end", "after_job_end"])
async def test_a_hook_that_raises_ends_neither_job_nor_worker(broker: Broker, hook: str) -> None:
    async def broken(ctx: Ctx) -> None:
        raise RuntimeError("a broken hook")

    other = IngestBatch("other", BATCH.documents)
    async with working(broker, index, **{hook: broken}):  # type: ignore[arg-type]
        for batch in (BATCH, other):
            await broker.queue.offer([batch])
            await eventually(
                lambda b=batch: broker.queue.submission(b.submission),  # type: ignore[misc]
                lambda s: s.complete,
            )
    assert (await balanced(broker.redis)).dead == 0


async def test_a_start_hook_that_raises_is_a_failure_of_the_job(broker: Broker) -> None:
    async def broken(ctx: Ctx) -> None:
        raise RuntimeError("a broken hook")

    await broker.queue.offer([BATCH])
    async with working(broker, index, on_job_start=broken):
        await eventually(broker.queue.depth, lambda depth: depth.deferred == 1)
    failures = await awaited(broker.redis.hget(keys.JOB_INFO + BATCH.job_id, "failures"))
    assert failures is not None
    assert int(failures) == 1


async def test_limits_of_a_function_hold(broker: Broker) -> None:
    async def slow(ctx: Ctx, batch: IngestBatch) -> BatchReport:
        await asyncio.Event().wait()
        return INDEXED

    await broker.queue.offer([BATCH])
    async with working(broker, func(slow, name="ingest", timeout=0.05, max_tries=1)):
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    [failed] = await broker.queue.failed_documents("s")
    assert failed.reason == "it was not done within 0.05 s"
    with pytest.raises(JobExecutionFailed, match="not done within"):
        await job_of(broker).result()


async def test_a_job_that_cancels_itself_is_a_failure(broker: Broker) -> None:
    async def job(ctx: Ctx, batch: IngestBatch) -> BatchReport:
        raise asyncio.CancelledError

    await broker.queue.offer([BATCH])
    async with working(broker, func(job, name="ingest", max_tries=1)):
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    [failed] = await broker.queue.failed_documents("s")
    assert "was cancelled" in failed.reason


async def test_a_job_has_to_say_what_became_of_its_documents(broker: Broker) -> None:
    async def job(ctx: Ctx, batch: IngestBatch) -> None:
        pass

    await broker.queue.offer([BATCH])
    async with working(broker, func(job, name="ingest", max_tries=1)):
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    [failed] = await broker.queue.failed_documents("s")
    assert failed.reason == "the job returned NoneType, not a BatchReport"


async def test_arqs_own_ways_to_start_and_stop(broker: Broker) -> None:
    await broker.queue.offer([BATCH])
    worker = make_worker(broker, index)
    running = asyncio.create_task(worker.async_run())
    await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    await worker.close()
    await asyncio.wait_for(running, 5)
    assert await broker.redis.ping()


@pytest.mark.parametrize("when", ["ready", "deferred", "running"])
async def test_an_aborted_job_ends_and_its_documents_are_kept(broker: Broker, when: str) -> None:
    started = asyncio.Event()

    async def job(ctx: Ctx, batch: IngestBatch) -> BatchReport:
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
        await running
    if when != "running":
        aborting = asyncio.create_task(job_of(broker).abort(timeout=20, poll_delay=0.01))
        await eventually(lambda: broker.redis.zcard(keys.ABORT))
    async with working(broker, job):
        if when == "running":
            await started.wait()
            aborting = asyncio.create_task(job_of(broker).abort(timeout=20, poll_delay=0.01))
        assert await aborting is True
        assert started.is_set() == (when == "running")
        await broker.queue.offer([IngestBatch("later", BATCH.documents)])
        await eventually(broker.queue.is_empty)
    totals = await balanced(broker.redis)
    assert totals.dead == 1
    [failed] = await broker.queue.failed_documents("s")
    assert failed.reason == "aborted"
    assert await broker.redis.zcard(keys.ABORT) == 0


async def test_an_abort_that_came_too_late_does_not_meet_the_next(broker: Broker) -> None:
    async with working(broker, index):
        await broker.queue.offer([BATCH])
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
        assert await job_of(broker).abort(timeout=5) is False
        await eventually(lambda: broker.redis.zcard(keys.ABORT), lambda n: n == 0)
    assert (await balanced(broker.redis)).dead == 0


def every_second(job: Any, **options: Any) -> CronJob:
    return cron(job, name="tick", second=set(range(60)), microsecond=0, **options)


def yearly(job: Any, **options: Any) -> CronJob:
    """Due once a year: within a test never by itself."""
    return cron(job, name="yearly", month=1, day=1, hour=0, minute=0, **options)


async def test_two_workers_run_each_cron_run_once(broker: Broker) -> None:
    ran: list[str] = []

    async def tick(ctx: Ctx) -> str:
        ran.append(ctx["job_id"])
        return "done"

    options: Any = {"timezone": UTC}
    first, second = ([every_second(tick)] for _ in range(2))
    async with (
        working(broker, index, cron_jobs=first, **options),
        working(broker, index, cron_jobs=second, **options),
    ):
        await eventually(lambda: _true(len(ran) >= 3))
    assert len(ran) == len(set(ran))
    due = sorted(int(job_id.removeprefix("tick:")) for job_id in ran)
    assert {later - earlier for earlier, later in itertools.pairwise(due)} == {1000}
    assert await broker.queue.is_empty()


async def test_a_run_that_was_missed_is_made_up_for_once(broker: Broker) -> None:
    ran: list[str] = []

    async def job(ctx: Ctx) -> None:
        ran.append(ctx["job_id"])

    three_years_ms = 3 * 366 * 86_400_000
    now_ms = await broker.queue.now() // 1000
    await awaited(broker.redis.hset(keys.CRON, "yearly", str(now_ms - three_years_ms)))
    for _ in range(2):  # the second start has nothing to make up for
        async with (
            working(broker, index, cron_jobs=[yearly(job)]),
            working(broker, index, cron_jobs=[yearly(job)]),
        ):
            await eventually(lambda: _true(len(ran) == 1))
            await eventually(broker.queue.is_empty)
    assert len(ran) == 1


async def test_a_new_cron_job_has_missed_nothing(broker: Broker) -> None:
    schedule = Schedule(broker.redis, broker.config)
    assert abs(await schedule.queued_until("yearly") - await schedule.now_ms()) < 5000
    async with working(broker, index, cron_jobs=[yearly(index)]):
        await broker.queue.offer([BATCH])
        await eventually(lambda: broker.queue.submission("s"), lambda status: status.complete)
    assert await broker.queue.is_empty()


async def test_a_cron_job_may_run_when_a_worker_starts(broker: Broker) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    async with working(broker, index, cron_jobs=[yearly(job, run_at_startup=True)]):
        await asyncio.wait_for(ran.wait(), 10)


async def test_a_cron_job_that_fails_is_kept_with_its_traceback(broker: Broker) -> None:
    async def job(ctx: Ctx) -> None:
        raise RuntimeError("broken at night")

    async with working(broker, index, cron_jobs=[yearly(job, run_at_startup=True)]):
        await eventually(broker.queue.depth, lambda depth: depth.dead_letters == 1)
    [raw] = await awaited(broker.redis.hvals(keys.DEAD))
    assert b"broken at night" in raw
    assert await broker.queue.is_empty()


async def test_cron_waits_for_a_redis_that_is_away(broker: Broker) -> None:
    """A table that starts while Redis refuses writes queues its run afterwards."""
    stopping = asyncio.Event()
    schedule = Schedule(broker.redis, broker.config)
    table = CronTable([yearly(index, run_at_startup=True)], UTC, schedule, "w")
    await broker.redis.config_set("maxmemory", "1")
    try:
        running = asyncio.create_task(table.run_until(stopping))
        with pytest.raises(BrokerUnavailable):
            await schedule.queue_run("yearly", "x", due_ms=None)
        assert await broker.queue.is_empty()
    finally:
        await broker.redis.config_set("maxmemory", "0")
    await eventually(broker.queue.is_empty, lambda empty: not empty)
    stopping.set()
    await running


async def _true(what: bool) -> bool:
    return what
