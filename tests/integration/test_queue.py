"""The queue on a real Redis: no job is lost, and none is finished twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.jobs import Job, JobStatus

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, connect, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.client.client import IngestClient
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import BrokerUnavailable, UsageError
from ingestq.core.jobs import IngestBatch, dead_letter_batch, decode_job
from ingestq.core.results import (
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    EnqueueResult,
    FailedDocument,
    WorkerInfo,
)
from ingestq.core.versions import LedgerHead
from tests.claims import finish, lease_queue, let_expire, take
from tests.waiting import ended, eventually
from worker.consumer.lease_worker import arq_client, read_envelope

SHORT_LEASE = 0.2  # seconds
LONG_LEASE = 60  # seconds


def batch(*doc_ids: str, submission: str = "s", version: int = 1) -> IngestBatch:
    return IngestBatch(
        submission,
        tuple(
            Document(
                collection="documents", doc_id=d, version=version, source=d, text=f"text of {d}"
            )
            for d in doc_ids
        ),
    )


@pytest.fixture
def leases(broker: Broker) -> Callable[[float], LeaseQueue]:
    def make(lease_seconds: float) -> LeaseQueue:
        return lease_queue(broker, lease_seconds)

    return make


async def test_the_same_batch_sent_twice_is_one_job(queue: JobQueue) -> None:
    one, other = batch("a", "b"), batch("a", version=2)
    answers = await queue.offer([one, one, other])
    assert answers == [EnqueueResult.ACCEPTED, EnqueueResult.DUPLICATE, EnqueueResult.ACCEPTED]
    assert (await queue.depth()).ready == 2
    assert (await queue.submission("s")).accepted == 3


async def test_own_versions_carry_the_version_under_which_they_were_queued(
    queue: JobQueue, broker: Broker
) -> None:
    """That is moved along with issued versions if the ledger turns out to be ahead of Redis."""
    before = await queue.issue_version()
    own = Document(doc_id="own", version=5, source="x", text="x", collection="documents")
    issued = Document(doc_id="issued", version=before, source="x", text="x", collection="documents")
    sent = IngestBatch("s", (own, issued))
    assert await queue.enqueue([sent]) == [EnqueueResult.ACCEPTED]
    assert await queue.enqueue([sent]) == [EnqueueResult.DUPLICATE]
    after = await queue.issue_version()
    ahead = LedgerHead(after + 10**12, 1)

    async def read_ledger(_: str) -> LedgerHead:
        return ahead

    serving = {"documents": "documents__x"}
    leases = LeaseQueue(broker.redis, broker.config, 60, serving, read_ledger=read_ledger)
    [claim] = (await leases.claim("w", 1, bulk=1, running=0)).claims
    read = claim.job().batch
    assert isinstance(read, IngestBatch)
    stamped, unstamped = read.documents
    assert before < stamped.queued < after
    assert unstamped.queued == 0
    assert claim.version_offset is not None
    compared = claim.version_offset.added_to(read)
    assert isinstance(compared, IngestBatch)
    moved, issued_moved = compared.documents
    assert (moved.version, moved.queued > ahead.version) == (5, True)
    assert ahead.version < issued_moved.version < moved.queued


@pytest.mark.parametrize(
    ("text", "metadata"),
    [("half a \ud83d", {}), ("", {"n": 2**64}), ("", {"o": object()})],
)
async def test_a_document_that_cannot_be_encoded_fails_alone(
    queue: JobQueue, text: str, metadata: dict[str, Any]
) -> None:
    bad = Document(doc_id="bad", version=1, source="s", text=text, metadata={})
    bad.metadata.update(metadata)  # it was valid when the document was created

    async def documents() -> AsyncIterator[Document]:
        for document in (bad, *batch("good").documents):
            yield document

    failed: list[FailedDocument] = []
    client = IngestClient(queue)
    receipt = await client.submit_many(documents(), submission="s", on_failed=failed.append)
    assert receipt.accepted == 1
    [failure] = failed
    assert failure.doc_id == "bad"
    assert failure.reason.startswith("not a document: ")
    with pytest.raises((OverflowError, TypeError, ValueError)):
        await client.submit("bad", source="s", text=bad.text, metadata=bad.metadata)
    assert (await queue.depth()).ready == 1


async def test_a_waiting_job_never_expires(queue: JobQueue, broker: Broker) -> None:
    await queue.offer([batch("a")])
    assert await broker.redis.ttl(keys.JOB + batch("a").job_id) == -1


@pytest.mark.parametrize("bound", [{"max_queue_jobs": 1}, {"max_queue_bytes": 150}])
async def test_a_full_queue_refuses_jobs_until_there_is_space(
    broker: Broker, bound: dict[str, Any]
) -> None:
    config = BrokerConfig(broker.config.url, **bound)
    queue, leases = JobQueue(broker.redis, config), lease_queue(broker)
    assert await queue.offer([batch("a"), batch("b")]) == [
        EnqueueResult.ACCEPTED,
        EnqueueResult.FULL,
    ]
    waiting = asyncio.create_task(queue.enqueue([batch("b")]))
    [claim] = await take(leases, 9)
    await finish(leases, claim, BatchReport())
    assert await waiting == [EnqueueResult.ACCEPTED]
    assert (await queue.depth()).ready == 1


async def test_a_claimed_job_is_invisible_until_its_lease_ends(
    queue: JobQueue, leases: Callable[[float], LeaseQueue], broker: Broker
) -> None:
    await queue.offer([batch("a")])
    holder = leases(LONG_LEASE)
    [claim] = await take(holder, 9)
    assert [document.doc_id for document in decode_job(claim.payload).batch.documents] == ["a"]
    assert await take(holder, 9) == []
    assert (await queue.depth()).in_flight == 1

    await let_expire(broker, claim)
    again = await eventually_claim(holder)
    assert again.job_id == claim.job_id
    assert again.token > claim.token
    assert again.failures == 0


async def test_a_busy_worker_claims_a_job_as_soon_as_its_lease_expires(
    queue: JobQueue, leases: Callable[[float], LeaseQueue]
) -> None:
    await queue.offer([batch("a")])
    assert len(await take(leases(SHORT_LEASE), 1)) == 1
    busy = leases(LONG_LEASE)
    late = time.monotonic() + LONG_LEASE / 2
    # A busy worker claims all the time, also within the millisecond in which the lease ends. The
    # job must not be kept from it for a lease of its own.
    while not await take(busy, 1):
        assert time.monotonic() < late


async def test_a_renewed_lease_does_not_expire(
    queue: JobQueue, leases: Callable[[float], LeaseQueue]
) -> None:
    await queue.offer([batch("a")])
    holder, about_to_end = leases(LONG_LEASE), leases(SHORT_LEASE)
    claim = await eventually_claim(holder)
    await about_to_end.renew([claim])  # most of its time passes
    while await holder.renew([claim]):  # too late, on a busy machine
        claim = await eventually_claim(holder)
        await about_to_end.renew([claim])
    await queue.offer([batch("later")])
    for _ in range(2):  # by the second time, the other lease would have ended, too
        other = await eventually_claim(holder)
        assert other.job_id == batch("later").job_id
        assert await about_to_end.renew([other]) == frozenset()


async def test_a_worker_that_lost_its_lease_changes_nothing(
    queue: JobQueue, leases: Callable[[float], LeaseQueue]
) -> None:
    await queue.offer([batch("a")])
    holder = leases(SHORT_LEASE)
    [stale] = await take(holder, 1)
    owner = leases(60)
    current = await eventually_claim(owner)

    report = BatchReport(DocumentCounts(indexed=1), ChunkCounts(embedded=3))
    assert await holder.renew([stale, current]) == {stale.token}
    assert not await finish(holder, stale, report)
    assert not await holder.nack(stale, delay_seconds=0, counts_as_try=True)
    assert (await queue.depth()).in_flight == 1

    assert await finish(owner, current, report)
    assert not await finish(owner, current, report)
    status = await queue.submission("s")
    assert status.complete
    assert (status.documents.indexed, status.chunks.embedded) == (1, 3)
    assert await queue.is_empty()
    assert (await queue.depth()).queued_bytes == 0


async def test_a_failed_job_returns_after_its_delay_with_its_tries_counted(
    queue: JobQueue, leases: Callable[[float], LeaseQueue]
) -> None:
    await queue.offer([batch("a"), batch("b")])
    holder = leases(60)
    claim, other = await take(holder, 2)
    await holder.nack(other, delay_seconds=60, counts_as_try=True)
    assert (await queue.depth()).deferred == 1
    await holder.nack(claim, delay_seconds=SHORT_LEASE, counts_as_try=True)
    again = await eventually_claim(holder)
    assert (again.job_id, again.failures) == (claim.job_id, 1)
    assert (await queue.depth()).deferred == 1
    await holder.nack(again, delay_seconds=0, counts_as_try=False)
    [released] = await take(holder, 1)
    assert released.failures == 1


async def test_dead_lettered_documents_are_counted_and_kept_once(
    queue: JobQueue, leases: Callable[[float], LeaseQueue], broker: Broker
) -> None:
    holder = leases(60)
    for version in (1, 2):
        await queue.offer([batch("a", "b", version=version)])
        [claim] = await take(holder, 1)
        report = dead_letter_batch(batch("a", "b", version=version), "a\nreason", tries=1)
        await finish(holder, claim, report)
    assert (await queue.depth()).dead_letters == 2
    assert [d.doc_id for d in await queue.failed_documents("s")] == ["a", "b", "a", "b"]

    await queue.offer([batch("a", version=3)])
    [claim] = await take(holder, 1)
    resolved = BatchReport(DocumentCounts(indexed=1), resolved=batch("a", version=3).versions)
    await finish(holder, claim, resolved)
    left = await awaited(broker.redis.hkeys(keys.DEAD))
    assert tuple(key.decode() for key in left) == batch("b").dead_letter_keys


async def test_arqs_job_reads_status_and_result(
    queue: JobQueue, leases: Callable[[float], LeaseQueue], broker: Broker
) -> None:
    job_id = batch("a").job_id
    job = Job(job_id, arq_client(broker.redis), _deserializer=read_envelope)
    assert await job.status() is JobStatus.not_found
    await queue.offer([batch("a")])
    assert await job.status() is JobStatus.queued
    [claim] = await take(leases(60))
    assert await job.status() is JobStatus.in_progress
    await finish(leases(60), claim, BatchReport(DocumentCounts(indexed=1)))
    assert await job.status() is JobStatus.complete
    assert (await job.result())["documents"]["indexed"] == 1


async def test_a_new_job_wakes_an_idle_worker(
    queue: JobQueue, leases: Callable[[float], LeaseQueue]
) -> None:
    waiting = asyncio.create_task(leases(60).wait_for_work(Lane.BULK, 30))
    await queue.offer([batch("a")])
    await ended(waiting, 20)


async def test_workers_are_listed_until_they_deregister(
    queue: JobQueue, leases: Callable[[float], LeaseQueue]
) -> None:
    before = time.monotonic()
    await leases(60).heartbeat("w1", WorkerInfo("h", 1, 0, 0.0, 0.0))
    [sign] = await queue.workers()
    assert sign.id == "w1"
    assert 0 <= sign.seen_seconds_ago < time.monotonic() - before + 1
    await leases(60).deregister("w1")
    assert await queue.workers() == []


async def test_errors_of_redis_say_what_to_do(broker: Broker) -> None:
    with pytest.raises(UsageError, match="INGESTQ_REDIS_URL"):
        connect(BrokerConfig("postgres://u:secret@h/0"))
    away = BrokerConfig("unix:///nowhere/redis.sock")
    with pytest.raises(BrokerUnavailable, match="does not answer at unix:///nowhere"):
        async with connected(away):
            pass
    await broker.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerUnavailable, match="accepts no writes"):
            await broker.queue.offer([batch("a")])
    finally:
        await broker.redis.config_set("maxmemory", "0")


async def eventually_claim(leases: LeaseQueue) -> Claim:
    """Claim one job as soon as one can be claimed."""
    return (await eventually(lambda: take(leases, 1)))[0]
