"""Jobs wait for a worker that serves their collection, and do not delay other collections."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from arq.worker import func
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters
from ingestq.broker.queue.gate import NO_SUCCESSOR, Gate
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.broker.queue.pending import PendingReader
from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.jobs import INGEST, IngestBatch, dead_letter_batch, encode_job
from ingestq.core.results import BatchReport, DocumentCounts, EnqueueResult, JobCounts, WorkerInfo
from tests.books import balanced
from tests.claims import batch_of, finish, lease_queue, take
from tests.waiting import ended, eventually
from tests.workers import all_indexed
from worker.consumer.lease_worker import LeaseWorker
from worker.pipeline.ingest import Outcome

BOTH = {"x": "x__1", "y": "y__1"}
ONLY_Y = {"y": "y__1"}
SHORT_LEASE = 0.05


def documents(collection: str, count: int, version: int = 1) -> list[Document]:
    return [
        Document(doc_id=str(i), version=version, source="s", text="t", collection=collection)
        for i in range(count)
    ]


async def queued(broker: Broker, collection: str, count: int = 1, lane: Lane = Lane.BULK) -> None:
    batches = [IngestBatch("s", (one,), lane) for one in documents(collection, count)]
    assert set(await broker.queue.offer(batches)) == {EnqueueResult.ACCEPTED}


async def claimed(leases: LeaseQueue, n: int = 1) -> list[str]:
    """Claim jobs; return their collections."""
    return [claim.collection for claim in await take(leases, n)]


async def end(leases: LeaseQueue, claim: Claim, reason: str | None = None) -> None:
    batch = batch_of(claim)
    good = BatchReport(DocumentCounts(indexed=len(batch.documents)), resolved=batch.versions)
    report = good if reason is None else dead_letter_batch(batch, reason, tries=1)
    assert await finish(leases, claim, report)


async def test_a_worker_gets_only_jobs_of_collections_it_serves(broker: Broker) -> None:
    await queued(broker, "x", 3)
    await queued(broker, "y", 2)
    assert await claimed(lease_queue(broker, serving=ONLY_Y), 9) == ["y", "y"]
    assert await claimed(lease_queue(broker, serving=ONLY_Y), 9) == []
    assert await claimed(lease_queue(broker), 9) == []
    assert await claimed(lease_queue(broker, serving=BOTH), 9) == ["x", "x", "x"]
    await balanced(broker.redis)


async def test_the_same_version_of_a_document_is_one_job_in_each_collection(
    broker: Broker,
) -> None:
    await queued(broker, "x")
    await queued(broker, "y")
    again = [IngestBatch("s", tuple(documents("y", 1)), Lane.BULK)]
    assert await broker.queue.offer(again) == [EnqueueResult.DUPLICATE]


async def test_collections_take_turns(broker: Broker) -> None:
    await queued(broker, "x", 100)
    await queued(broker, "y", 100)
    leases = lease_queue(broker, serving=BOTH)
    assert Counter(await claimed(leases, 20)) == {"x": 10, "y": 10}
    assert Counter([(await claimed(leases))[0] for _ in range(10)]) == {"x": 5, "y": 5}
    assert Counter(await claimed(leases, 171)) == {"x": 85, "y": 85}, "and what is left is taken"


async def test_the_backlog_of_an_unserved_collection_delays_no_other(
    broker: Broker,
) -> None:
    """It delays neither the same tenant in another collection, nor jobs queued later."""
    await queued(broker, "x", 50)
    await queued(broker, "y", 2)
    other = [Document(doc_id="o", version=1, source="s", text="t", tenant="t", collection="y")]
    await broker.queue.offer([IngestBatch("s", tuple(other))])
    y = lease_queue(broker, serving=ONLY_Y)
    tenants = [batch_of(claim).tenant for claim in await take(y, 2)]
    assert sorted(tenants) == ["", "t"]


async def test_a_gate_stops_only_its_own_collection(broker: Broker) -> None:
    await queued(broker, "x")
    await queued(broker, "y")
    leases = lease_queue(broker, serving=BOTH)
    gate = Gate(broker.redis, broker.config, "x__1")
    async with gate.shut():
        answer = await leases.claim("w", 9, bulk=9, running=0)
        assert [claim.collection for claim in answer.claims] == ["y"]
        assert answer.shut == {"x": NO_SUCCESSOR}
        assert await broker.queue.count_jobs(["x"]) == JobCounts(1, 0)
        assert await broker.queue.count_jobs(["y"]) == JobCounts(1, 1)
    assert await claimed(leases, 9) == ["x"]


async def test_a_job_whose_worker_died_returns_to_its_collection(broker: Broker) -> None:
    await queued(broker, "x")
    x = lease_queue(broker, SHORT_LEASE, serving={"x": "x__1"})
    assert await claimed(x) == ["x"]
    y = lease_queue(broker, serving=ONLY_Y)

    async def revived() -> int:  # by any claim
        assert await claimed(y) == []
        return (await broker.queue.depth()).ready

    await eventually(revived)
    await balanced(broker.redis)
    [claim] = await take(x)
    assert (claim.collection, claim.crashes) == ("x", 1)


async def test_a_poison_job_drains_only_workers_that_serve_its_collection(broker: Broker) -> None:
    await queued(broker, "x")
    x, y = lease_queue(broker, SHORT_LEASE, {"x": "x__1"}), lease_queue(broker, serving=ONLY_Y)
    for _ in range(2):
        await eventually(lambda: take(x))
    await eventually(broker.queue.depth, lambda depth: depth.in_flight == 0)
    await y.claim("busy", 1, bulk=1, running=1)  # makes it ready
    assert (await broker.queue.depth()).poison == 1
    assert not (await y.claim("busy", 1, bulk=1, running=1)).drain
    assert (await x.claim("busy", 1, bulk=1, running=1)).drain
    [claim] = (await x.claim("busy", 1, bulk=1, running=0)).claims
    assert (claim.is_poison, claim.collection) == (True, "x")


async def test_any_worker_dead_letters_an_aborted_job(broker: Broker) -> None:
    await queued(broker, "x")
    [job_id] = await broker.redis.zrange(keys.QUEUE, 0, -1)
    await broker.redis.zadd(keys.ABORT, {job_id: 1})
    y = lease_queue(broker, serving=ONLY_Y)
    [claim] = await take(y)
    assert (claim.aborted, claim.collection) == (True, "x")
    await end(y, claim, "aborted")
    await balanced(broker.redis)


async def test_the_same_id_has_one_dead_letter_in_each_collection(broker: Broker) -> None:
    dead_letters = DeadLetters(broker.redis, broker.config)
    leases = lease_queue(broker, serving=BOTH)
    await queued(broker, "x")
    await queued(broker, "y")
    for claim in await take(leases, 2):
        await end(leases, claim, f"broken in {claim.collection}")

    async def reasons(**wanted: Any) -> list[str]:
        found = dead_letters.find(DeadLetterFilter(**wanted))
        return sorted([stored.dead_letter.reason async for stored in found])

    assert await reasons() == ["broken in x", "broken in y"]
    assert await reasons(collection="y", doc_ids=frozenset("0")) == ["broken in y"]
    stored = await dead_letters.find_for_document("x", "", "0")
    assert stored is not None
    assert stored.dead_letter.reason == "broken in x"

    await broker.queue.offer([IngestBatch("s", (one,)) for one in documents("x", 1, version=2)])
    [claim] = await take(leases)
    await end(leases, claim)
    assert await reasons() == ["broken in y"]
    assert await dead_letters.failed_versions(documents("x", 1), "x") == [None]

    [left] = [stored async for stored in dead_letters.find(DeadLetterFilter())]
    assert await dead_letters.requeue([left], "again") == 1
    assert await claimed(leases, 9) == ["y"]


async def test_pending_documents_are_those_of_one_collection(broker: Broker) -> None:
    await queued(broker, "x", 2)
    x, y = (PendingReader(broker.redis, broker.config, name) for name in "xy")
    assert (await x.read([])).may_change("", "0", ())
    assert not (await y.read([])).may_change("", "0", ())


async def test_an_idle_worker_is_woken_only_by_its_own_collections(broker: Broker) -> None:
    y = lease_queue(broker, serving=ONLY_Y)
    waiting = asyncio.create_task(y.wait_for_work(Lane.BULK, seconds=120))
    await eventually(lambda: broker.redis.info("clients"), lambda i: i["blocked_clients"] == 1)
    await queued(broker, "x")
    await queued(broker, "z", lane=Lane.INTERACTIVE)
    assert (await broker.redis.info("clients"))["blocked_clients"] == 1
    await queued(broker, "y")
    await ended(waiting)


# With a real worker


def worker_of(leases: LeaseQueue, ran: list[str]) -> LeaseWorker:
    async def index(ctx: dict[str, Any], batch: IngestBatch) -> Sequence[Outcome]:
        ran.append(batch.collection)
        return all_indexed(batch)

    return LeaseWorker([func(index, name=INGEST)], leases, max_jobs=4, drain_seconds=5, ctx={})


async def worked(broker: Broker, leases: LeaseQueue) -> tuple[list[str], Sequence[Any]]:
    """Run a worker until it is idle; return the collections it worked for, and its log."""
    ran: list[str] = []
    worker = worker_of(leases, ran)
    with capture_logs() as logs:
        running = asyncio.create_task(worker.run_until_stopped())
        own = list(leases.serving)
        await eventually(lambda: broker.queue.count_jobs(own), lambda left: left.jobs == 0)
        await eventually(broker.queue.workers)
        worker.stop()
        await ended(running)
    return ran, logs


async def test_a_worker_warns_about_jobs_that_no_worker_serves(broker: Broker) -> None:
    await queued(broker, "x", 3)
    await queued(broker, "y", 3)
    assert (await broker.queue.overview()).unserved == {"x": 3, "y": 3}
    ran, logs = await worked(broker, lease_queue(broker, serving=ONLY_Y))
    assert ran == ["y"] * 3
    assert left_by(logs) == ["x"]
    assert (await broker.queue.overview()).unserved == {"x": 3}
    await balanced(broker.redis)


async def test_no_warning_about_jobs_that_another_worker_serves(broker: Broker) -> None:
    await queued(broker, "x", 3)
    serving_x = lease_queue(broker, serving={"x": "x__1"})
    await serving_x.heartbeat("x", WorkerInfo("host", 1, 0, 0, 0, collections=("x",)))
    _, logs = await worked(broker, lease_queue(broker, serving=ONLY_Y))
    assert left_by(logs) == []
    assert (await broker.queue.overview()).unserved == {}


def left_by(logs: Sequence[Any]) -> list[str]:
    """Return the collections of which a worker logged that no worker serves them."""
    return [log["collection"] for log in logs if log["event"] == events.COLLECTION_UNSERVED]


async def test_a_job_queued_under_the_wrong_collection_is_not_written(
    broker: Broker,
) -> None:
    """Otherwise it would overwrite documents with the same ids in this collection."""
    await queued(broker, "y")
    [job_id] = await broker.redis.zrange(keys.QUEUE, 0, -1)
    batch = IngestBatch("s", tuple(documents("x", 1)))
    await broker.redis.set(keys.JOB + job_id.decode(), encode_job(batch, enqueued_ms=1))
    ran: list[str] = []
    worker = worker_of(lease_queue(broker, serving=ONLY_Y), ran)
    running = asyncio.create_task(worker.run_until_stopped())
    await eventually(broker.queue.depth, lambda depth: depth.deferred == 1)
    worker.stop()
    await ended(running)
    assert ran == []
