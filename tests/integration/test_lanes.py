"""Lanes and fairness between tenants: no job waits for the backlog of others."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core.documents import Document, Lane
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, EnqueueResult
from tests.claims import batch_of, finish, lease_queue, take
from tests.waiting import SECONDS, eventually
from tests.workers import all_indexed, working
from worker.lanes import LanePermits
from worker.pipeline.ingest import Outcome

INTERACTIVE, BULK = Lane.INTERACTIVE, Lane.BULK


def batches(
    count: int, lane: Lane = BULK, tenant: str = "", submission: str = "s"
) -> list[IngestBatch]:
    return [
        IngestBatch(
            submission,
            (
                Document(
                    collection="documents",
                    doc_id=str(i),
                    version=1,
                    source="s",
                    text="t",
                    tenant=tenant,
                ),
            ),
            lane,
        )
        for i in range(count)
    ]


async def claimed_tenants(broker: Broker, n: int) -> list[str]:
    """Claim jobs one by one; return their tenants."""
    leases = lease_queue(broker)
    return [batch_of(claim).tenant for _ in range(n) for claim in await take(leases, 1)]


async def test_interactive_jobs_run_before_the_backlog(broker: Broker) -> None:
    await broker.queue.offer(batches(100))
    await broker.queue.offer(batches(1, INTERACTIVE, submission="upload"))
    [first, second] = await take(lease_queue(broker), 2)
    assert {first.lane, second.lane} == {INTERACTIVE, BULK}


async def test_interactive_jobs_do_not_starve_bulk_jobs(broker: Broker) -> None:
    await broker.queue.offer(batches(100))
    await broker.queue.offer(batches(100, INTERACTIVE, submission="uploads"))
    lanes = Counter(claim.lane for claim in await take(lease_queue(broker), 40))
    assert lanes == {INTERACTIVE: 30, BULK: 10}


async def test_bulk_jobs_leave_a_worker_slot_for_interactive_jobs(broker: Broker) -> None:
    """Even if every running job is a bulk job that does not end."""
    may_end = asyncio.Event()
    running: Counter[Lane] = Counter()

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        running[batch.lane] += 1
        if batch.lane is BULK:
            await may_end.wait()
        return all_indexed(batch)

    async with working(broker, job):
        await broker.queue.offer(batches(20))
        await eventually(broker.queue.depth, lambda depth: depth.in_flight == 3)
        await broker.queue.offer(batches(2, INTERACTIVE, submission="upload"))
        await eventually(lambda: broker.queue.submission("upload"), lambda s: s.complete)
        assert running == {BULK: 3, INTERACTIVE: 2}
        may_end.set()
        await eventually(lambda: broker.queue.submission("s"), lambda s: s.complete)


async def test_bulk_jobs_leave_space_in_the_queue(broker: Broker) -> None:
    queue = JobQueue(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=20))
    answers = await queue.offer(batches(20))
    assert Counter(answers) == {EnqueueResult.ACCEPTED: 18, EnqueueResult.FULL: 2}
    answers = await queue.offer(batches(3, INTERACTIVE, submission="upload"))
    assert Counter(answers) == {EnqueueResult.ACCEPTED: 2, EnqueueResult.FULL: 1}


async def test_a_tenant_does_not_wait_for_the_backlog_of_another(broker: Broker) -> None:
    await broker.queue.offer(batches(50, tenant="large"))
    assert await claimed_tenants(broker, 5) == ["large"] * 5
    await broker.queue.offer(batches(3, tenant="small"))
    seen = Counter(await claimed_tenants(broker, 6))
    assert seen == {"small": 3, "large": 3}
    assert await claimed_tenants(broker, 3) == ["large"] * 3


async def test_an_idle_tenant_saves_up_no_priority(broker: Broker) -> None:
    await broker.queue.offer(batches(40, tenant="steady"))
    await claimed_tenants(broker, 20)
    await broker.queue.offer(batches(20, tenant="newcomer"))
    seen = Counter(await claimed_tenants(broker, 20))
    assert abs(seen["steady"] - seen["newcomer"]) <= 2


async def test_the_jobs_of_a_tenant_are_claimed_in_order(broker: Broker) -> None:
    await broker.queue.offer(batches(10, tenant="a"))
    await broker.queue.offer(batches(10, tenant="b", submission="t"))
    claims = await take(lease_queue(broker), 20)
    for tenant in "ab":
        mine = [batch for batch in map(batch_of, claims) if batch.tenant == tenant]
        assert [batch.documents[0].doc_id for batch in mine] == [str(i) for i in range(10)]


async def test_a_job_counts_by_its_number_of_documents(broker: Broker) -> None:
    documents = [
        Document(collection="documents", doc_id=str(i), version=1, source="", text="t")
        for i in range(16)
    ]
    large = [IngestBatch(f"large-{i}", tuple(documents)) for i in range(5)]
    await broker.queue.offer(large)
    await broker.queue.offer(batches(50, tenant="small"))
    seen = Counter(await claimed_tenants(broker, 34))
    assert seen == {"": 2, "small": 32}


async def test_a_job_that_returns_to_the_queue_keeps_its_place(broker: Broker) -> None:
    await broker.queue.offer(batches(10))
    leases = lease_queue(broker)
    [first] = await take(leases)
    await leases.nack(first, delay_seconds=0, counts_as_try=False)
    [again] = await take(leases)
    assert again.job_id == first.job_id
    assert await finish(leases, again, BatchReport())


@pytest.mark.parametrize("total", [2, 8])
async def test_some_permits_are_reserved_for_interactive_jobs(total: int) -> None:
    permits = LanePermits(total, bulk=total - 1)
    holding: Counter[Lane] = Counter()
    may_end = asyncio.Event()

    async def work(lane: Lane) -> None:
        async with permits.hold(lane):
            holding[lane] += 1
            await may_end.wait()
            holding[lane] -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(2 * total):
            group.create_task(work(BULK))
        await eventually(_see(holding), lambda now: now == {BULK: total - 1})
        for _ in range(2):
            group.create_task(work(INTERACTIVE))
        await eventually(_see(holding), lambda now: now == {BULK: total - 1, INTERACTIVE: 1})
        may_end.set()


async def test_three_of_four_permits_go_to_interactive_jobs() -> None:
    permits = LanePermits(1, bulk=1)
    order: list[Lane] = []

    async def work(lane: Lane) -> None:
        async with permits.hold(lane):
            order.append(lane)

    async with asyncio.TaskGroup() as group, permits.hold(BULK):
        for lane in (BULK, INTERACTIVE):
            for _ in range(30):
                group.create_task(work(lane))
        await asyncio.sleep(0)
    assert Counter(order[:20]) == {INTERACTIVE: 15, BULK: 5}


async def test_a_cancelled_waiter_delays_no_other() -> None:
    permits = LanePermits(1, bulk=1)
    got_it = asyncio.Event()

    async def work(lane: Lane) -> None:
        async with permits.hold(lane):
            got_it.set()

    async with permits.hold(BULK):
        impatient = asyncio.create_task(work(INTERACTIVE))
        patient = asyncio.create_task(work(BULK))
        await asyncio.sleep(0)
        impatient.cancel()
    await asyncio.wait_for(got_it.wait(), SECONDS)
    await patient


def _see(counts: Counter[Lane]) -> Any:
    async def look() -> dict[Lane, int]:
        return {lane: n for lane, n in counts.items() if n}

    return look
