"""A document that kills its workers is found, and dead-lettered alone."""

from collections.abc import Sequence
from typing import Any

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import awaited
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch
from tests.books import balanced
from tests.claims import lease_queue, let_expire, take
from tests.waiting import eventually
from tests.workers import all_indexed, working
from worker.pipeline.ingest import Outcome


def batch(*doc_ids: str, submission: str = "s") -> IngestBatch:
    return IngestBatch(
        submission,
        tuple(
            Document(collection="documents", doc_id=d, version=1, source=d, text="t")
            for d in doc_ids
        ),
    )


async def claim_and_die(broker: Broker, times: int) -> None:
    """Claim the jobs as ``times`` workers that die one after the other."""
    for _ in range(times):
        [claim] = await eventually(lambda: take(lease_queue(broker), 1))
        await let_expire(broker, claim)


async def index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
    return all_indexed(batch)


async def test_the_documents_of_a_job_that_killed_two_workers_run_one_by_one(
    broker: Broker,
) -> None:
    ran: list[tuple[str, int]] = []

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        alone = await awaited(broker.redis.hget(keys.JOB_INFO + ctx["job_id"], "alone"))
        ran.append((batch.documents[0].doc_id, -1 if alone is None else int(alone)))
        return await index(ctx, batch)

    await broker.queue.offer([batch("a", "b", "c")])
    await claim_and_die(broker, 2)
    async with working(broker, job):
        status = await eventually(lambda: broker.queue.submission("s"), lambda s: s.complete)
    assert status.documents.indexed == 3
    assert ran == [("a", 0), ("b", 1), ("c", 2)]


async def test_a_document_that_killed_a_worker_alone_is_dead_lettered(broker: Broker) -> None:
    await broker.queue.offer([batch("a", "killer", "c")])
    await claim_and_die(broker, 2)
    leases = lease_queue(broker)
    [poison] = await eventually(lambda: take(leases, 9))
    assert await leases.mark_alone(poison, 0)
    assert await leases.mark_alone(poison, 1)
    await let_expire(broker, poison)  # and now it dies

    async with working(broker, index):
        status = await eventually(lambda: broker.queue.submission("s"), lambda s: s.complete)
    assert (status.documents.indexed, status.documents.rejected) == (2, 1)
    [failed] = await broker.queue.failed_documents("s")
    assert failed.doc_id == "killer"
    assert failed.reason == "the worker died while it worked on this document alone"
    assert (await balanced(broker.redis)).dead == 1


async def test_a_poison_job_is_claimed_only_by_a_worker_that_runs_nothing_else(
    broker: Broker,
) -> None:
    await broker.queue.offer([batch("poison")])
    await claim_and_die(broker, 2)
    await broker.queue.offer([batch(str(i), submission="others") for i in range(9)])
    leases = lease_queue(broker)
    await eventually(broker.queue.depth, lambda depth: depth.ready == 10)

    busy = await leases.claim("busy", 4, bulk=4, running=1)
    assert (list(busy.claims), busy.drain) == ([], True)
    other = await leases.claim("other", 4, bulk=4, running=1)
    assert (len(other.claims), other.drain) == (4, False)  # one worker that waits is enough
    drained = await leases.claim("busy", 4, bulk=4, running=0)
    [poison] = drained.claims
    assert poison.is_poison
    assert poison.crashes == 2
    assert (await broker.queue.depth()).poison == 0


async def test_a_job_that_is_nacked_often_is_not_a_poison_job(broker: Broker) -> None:
    await broker.queue.offer([batch("a")])
    for _ in range(3):
        [claim] = await take(lease_queue(broker))
        await lease_queue(broker).nack(claim, delay_seconds=0, counts_as_try=False)
    [claim] = await take(lease_queue(broker))
    assert (claim.crashes, claim.failures, claim.is_poison) == (0, 0, False)


async def test_a_busy_worker_finishes_its_jobs_before_it_runs_a_poison_job(broker: Broker) -> None:
    together: set[int] = set()
    running = 0

    async def job(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        nonlocal running
        running += 1
        if batch.submission == "poison":
            together.add(running)
        await broker.redis.ping()
        running -= 1
        return await index(ctx, batch)

    await broker.queue.offer([batch("x", "y", submission="poison")])
    await claim_and_die(broker, 2)
    await broker.queue.offer([batch(str(i), submission="others") for i in range(60)])
    async with working(broker, job):
        for submission in ("poison", "others"):
            await eventually(lambda s=submission: broker.queue.submission(s), lambda s: s.complete)  # type: ignore[misc]
    assert together == {1}
