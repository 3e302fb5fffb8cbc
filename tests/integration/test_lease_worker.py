"""The worker on a real Redis: every job is acked or nacked exactly once."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from arq.worker import func

from ingestq.app.composition import Broker
from ingestq.broker import connection, keys
from ingestq.broker.connection import awaited, connected
from ingestq.broker.queue.leases import Claim
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, StoreUnavailable, UsageError
from ingestq.core.jobs import INGEST, IngestBatch
from ingestq.core.results import DeadLetter, DocumentCounts, SubmissionStatus
from ingestq.core.versions import FIRST_ISSUED
from tests.claims import lease_queue, take
from tests.waiting import SECONDS, ended, eventually
from tests.workers import all_indexed, make_worker, working
from worker.consumer import claiming, lease_worker
from worker.consumer.decision import MAX_TRIES
from worker.consumer.lease_worker import LeaseWorker
from worker.pipeline.ingest import Outcome, Retry

BATCH = IngestBatch(
    "s", (Document(collection="documents", doc_id="d", version=FIRST_ISSUED, source="d", text="t"),)
)
INDEXED = all_indexed(BATCH)


@pytest.fixture
def frequent_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew leases often: a short lease may end before a busy machine renews it."""
    monkeypatch.setattr(lease_worker, "RENEWALS_PER_LEASE", 150)


async def completed(broker: Broker, submission: str = "s") -> SubmissionStatus:
    """Return the submission's status once it is complete."""
    return await eventually(
        lambda: broker.queue.submission(submission), lambda status: status.complete
    )


async def dead_letters(broker: Broker) -> list[DeadLetter]:
    dead_letters = await awaited(broker.redis.hvals(keys.DEAD))
    return [msgspec.msgpack.decode(dead_letter, type=DeadLetter) for dead_letter in dead_letters]


async def test_a_job_is_run_as_soon_as_it_is_queued(broker: Broker) -> None:
    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        assert batch == BATCH
        assert ctx["job_try"] == 1
        return INDEXED

    async with working(broker, job):
        await broker.queue.offer([BATCH])
        assert (await completed(broker)).documents == DocumentCounts(indexed=1)
    assert await broker.queue.is_empty()
    assert await broker.queue.workers() == []


async def test_many_jobs_run_once_each_in_two_workers(broker: Broker) -> None:
    ran: list[str] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        ran.append(batch.documents[0].doc_id)
        return INDEXED

    ids = [str(i) for i in range(200)]
    await broker.queue.offer(
        [
            IngestBatch(
                "s", (Document(collection="documents", doc_id=i, version=1, source=i, text=i),)
            )
            for i in ids
        ]
    )
    async with working(broker, job), working(broker, job):
        status = await completed(broker)
    assert status.documents.indexed == 200
    assert sorted(ran) == sorted(ids)


@pytest.mark.parametrize("steps", range(8))
async def test_a_progress_report_at_the_end_does_not_delay_a_job(
    broker: Broker, steps: int
) -> None:
    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        ctx["progress"](1, 1)
        for _ in range(steps):  # so that the job ends while the progress is being sent
            await asyncio.sleep(0)
        return INDEXED

    batches = [IngestBatch(str(i), BATCH.documents) for i in range(20)]
    async with working(broker, job):
        await broker.queue.offer(batches)
        await eventually(broker.queue.is_empty)


async def test_a_failed_job_is_retried(broker: Broker) -> None:
    tries: list[int] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        tries.append(ctx["job_try"])
        if len(tries) == 1:
            raise RuntimeError("a passing fault")
        if len(tries) == 2:
            return [Retry("another one", counts_as_try=True)]
        return INDEXED

    async with working(broker, job):
        await broker.queue.offer([BATCH])
        await completed(broker)
    assert tries == [1, 2, 3]


@pytest.mark.parametrize("raises", [True, False])
async def test_after_the_last_try_every_document_is_dead_lettered(
    broker: Broker, raises: bool
) -> None:
    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        if raises:
            raise RuntimeError("broken for good")
        return [Retry("broken for good", counts_as_try=True)]

    await broker.queue.offer([BATCH])
    await awaited(broker.redis.hset(keys.JOB_INFO + BATCH.job_id, "failures", str(MAX_TRIES - 1)))
    async with working(broker, job):
        assert (await completed(broker)).documents.rejected == 1
    [dead_letter] = await dead_letters(broker)
    assert (dead_letter.doc_id, dead_letter.reason) == ("d", "broken for good")
    assert await broker.queue.is_empty()


async def test_an_unavailable_service_costs_no_try(broker: Broker) -> None:
    tries: list[int] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        tries.append(ctx["job_try"])
        if len(tries) == 1:
            raise StoreUnavailable("away")
        if len(tries) == 2:
            return [Retry("another worker is writing it", counts_as_try=False)]
        return INDEXED

    async with working(broker, job):
        await broker.queue.offer([BATCH])
        await completed(broker)
    assert tries == [1, 1, 1]


async def test_unknown_functions_and_undecodable_jobs_are_dead_lettered(broker: Broker) -> None:
    await broker.queue.offer([BATCH])
    now_ms = await broker.queue.issue_version() // 1000
    await broker.redis.set(keys.JOB + "odd", b"\x80pickle")
    await broker.redis.zadd(keys.QUEUE, {"odd": now_ms})
    for job_id in (BATCH.job_id, "odd"):
        info = keys.JOB_INFO + job_id
        await awaited(broker.redis.hset(info, "failures", str(MAX_TRIES - 1)))

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        raise AssertionError("is never called")

    worker = make_worker(broker, func(job, name="other"))
    running = asyncio.create_task(worker.run_until_stopped())
    await completed(broker)
    await eventually(broker.queue.is_empty)
    worker.stop()
    await ended(running)
    dead = {dead_letter.doc_id: dead_letter for dead_letter in await dead_letters(broker)}
    assert "no function 'ingest'" in dead["d"].reason
    assert dead["odd"].payload == b"\x80pickle"


async def test_a_job_of_an_unknown_function_waits_for_a_newer_worker(broker: Broker) -> None:
    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        raise AssertionError("is never called")

    await broker.queue.offer([BATCH])
    worker = make_worker(broker, func(job, name="other"))
    running = asyncio.create_task(worker.run_until_stopped())
    depth = await eventually(broker.queue.depth, lambda depth: depth.deferred == 1)
    worker.stop()
    await ended(running)
    assert depth.dead_letters == 0


async def test_draining_finishes_what_it_can_and_releases_the_rest(broker: Broker) -> None:
    quick_may_end = asyncio.Event()
    running: set[str] = set()
    both_run = asyncio.Event()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        running.add(batch.submission)
        if len(running) == 2:
            both_run.set()
        await (quick_may_end.wait() if batch.submission == "quick" else asyncio.Event().wait())
        return INDEXED

    batches = [IngestBatch(name, BATCH.documents) for name in ("quick", "slow")]
    async with working(broker, job, drain_seconds=0.2):
        await broker.queue.offer(batches)
        await both_run.wait()
        quick_may_end.set()
    assert (await broker.queue.submission("quick")).complete
    depth = await broker.queue.depth()
    assert (depth.ready, depth.in_flight) == (1, 0)
    [claim] = await take(lease_queue(broker), 9)
    assert (claim.job_id, claim.failures) == (batches[1].job_id, 0)


async def test_a_worker_stops_even_if_a_job_swallows_its_cancellation(broker: Broker) -> None:
    started = asyncio.Event()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        return INDEXED

    async with working(broker, job, drain_seconds=0):
        await broker.queue.offer([BATCH])
        await started.wait()
    assert (await broker.queue.depth()).ready == 1


@pytest.mark.usefixtures("frequent_renewals")
async def test_a_worker_stops_at_once_when_renewing_leases_fails(
    broker: Broker,
) -> None:
    started = asyncio.Event()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        started.set()
        await asyncio.Event().wait()
        return INDEXED

    async def renew(claims: Sequence[Claim]) -> frozenset[int]:
        await started.wait()
        raise LookupError("a bug")

    leases = lease_queue(broker)
    leases.renew = renew  # type: ignore[method-assign]
    worker = LeaseWorker([func(job, name=INGEST)], leases, max_jobs=4, drain_seconds=3600, ctx={})
    await broker.queue.offer([BATCH])
    with pytest.raises(LookupError):
        await ended(asyncio.create_task(worker.run_until_stopped()))
    assert (await broker.queue.depth()).ready == 1


@pytest.mark.usefixtures("frequent_renewals")
async def test_leases_of_running_jobs_are_renewed(broker: Broker) -> None:
    starts: list[str] = []
    started, release = asyncio.Event(), asyncio.Event()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        starts.append(ctx["job_id"])
        started.set()
        await release.wait()
        return INDEXED

    async with working(broker, job), working(broker, job):
        await broker.queue.offer([BATCH])
        await started.wait()
        lease = keys.LEASE + BATCH.job_id
        for _ in range(3):
            assert await broker.redis.pexpire(lease, 10_000)  # as if a third of it was over
            await eventually(lambda: broker.redis.pttl(lease), lambda ms: ms > 10_000)
        release.set()
        await completed(broker)
    assert len(starts) == 1


async def test_a_lost_lease_cancels_the_job(broker: Broker) -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        if started.is_set():
            return INDEXED
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("not reached")

    async with working(broker, job, lease_seconds=1):
        await broker.queue.offer([BATCH])
        await started.wait()
        # Another worker owns it now.
        await broker.redis.set(keys.LEASE + BATCH.job_id, "another token", px=300)
        await asyncio.wait_for(cancelled.wait(), SECONDS)
        assert (await completed(broker)).documents.indexed == 1


async def test_a_usage_error_stops_the_worker_and_keeps_the_job(broker: Broker) -> None:
    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        raise UsageError("the key is refused")

    await broker.queue.offer([BATCH])
    worker = make_worker(broker, job)
    with pytest.raises(UsageError, match="the key is refused"):
        await ended(asyncio.create_task(worker.run_until_stopped()))
    assert (await broker.queue.depth()).ready == 1


async def test_after_a_burst_the_next_job_is_picked_up_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "POLL_SECONDS", 3600)  # only its wake-up tells of a job
    monkeypatch.setattr(connection, "REPLY_SECONDS", 7200)

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        return INDEXED

    async with connected(broker.config) as redis, working(replace(broker, redis=redis), job):
        for attempt in range(5):
            names = [f"{attempt}-{i}" for i in range(3)]  # every slot for bulk jobs
            await broker.queue.offer([IngestBatch(name, BATCH.documents) for name in names])
            await eventually(broker.queue.is_empty)
            await broker.queue.offer([IngestBatch(f"{attempt}-next", BATCH.documents)])
            await completed(broker, f"{attempt}-next")


async def test_a_reason_that_is_not_valid_unicode_does_not_stop_the_worker(broker: Broker) -> None:
    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        raise DocumentRejected("bad \udcff name")

    async with working(broker, job):
        await broker.queue.offer([BATCH])
        assert (await completed(broker)).documents.rejected == 1
    [dead_letter] = await dead_letters(broker)
    assert dead_letter.reason == "bad \\udcff name"
