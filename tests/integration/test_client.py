"""`IngestClient`: what it puts on the queue, and what it reports."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.client.batching import JOB_DOCUMENTS, ROUND_TRIP_JOBS
from ingestq.client.client import IngestClient
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.errors import BrokerUnavailable, DocumentRejected, QueueFull, UsageError
from ingestq.core.jobs import DeleteBatch, dead_letter_batch, decode_job
from ingestq.core.results import (
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    FailedDocument,
    SubmissionStatus,
)
from tests.claims import batch_of, finish, lease_queue, take
from tests.waiting import SECONDS, eventually

INDEXED = BatchReport(DocumentCounts(indexed=1), ChunkCounts(embedded=2))


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[IngestClient]:
    async with IngestClient.connect(broker.config.url) as connected:
        yield connected


def notes(count: int, tenant: str = "") -> Iterator[Document]:
    for n in range(count):
        name = f"note-{n}"
        yield Document(doc_id=name, version=1, source="notes", tenant=tenant, text=f"Note {n}.")


async def finish_all(broker: Broker) -> int:
    """Act as a worker that indexes everything on the queue; return the number of documents."""
    leases = lease_queue(broker)
    done = 0
    while claims := await take(leases, 100):
        for claim in claims:
            documents = len(batch_of(claim).documents)
            report = BatchReport(DocumentCounts(indexed=documents))
            assert await finish(leases, claim, report)
            done += documents
    return done


async def test_wait_returns_when_the_document_is_indexed(
    client: IngestClient, broker: Broker
) -> None:
    receipt = await client.submit("note", source="notes", text="The ferry leaves at noon.")
    assert (receipt.accepted, receipt.duplicates) == (1, 0)
    assert not (await client.status(receipt.submission)).complete
    waiting = asyncio.create_task(client.wait(receipt.submission))
    leases = lease_queue(broker)
    [claimed] = await take(leases)
    assert not waiting.done()
    assert await finish(leases, claimed, INDEXED)
    ended = await waiting
    assert ended.complete
    assert (ended.documents.indexed, ended.chunks.embedded) == (1, 2)
    assert await client.failed_documents(receipt.submission) == []


async def test_failed_documents_are_listed_with_their_reasons(
    client: IngestClient, broker: Broker
) -> None:
    receipt = await client.submit("note", source="notes", text="")
    leases = lease_queue(broker)
    [claimed] = await take(leases)
    assert await finish(
        leases, claimed, dead_letter_batch(batch_of(claimed), "there is nothing in it", tries=1)
    )
    assert (await client.wait(receipt.submission)).documents.rejected == 1
    failed = FailedDocument("note", "there is nothing in it")
    assert await client.failed_documents(receipt.submission) == [failed]


async def test_progress_yields_each_change(client: IngestClient, broker: Broker) -> None:
    submission = "two"
    await client.submit_many(notes(2 * JOB_DOCUMENTS), submission=submission)
    leases = lease_queue(broker)
    first, second = await take(leases, 2)
    seen: list[SubmissionStatus] = []
    async for status in client.progress(submission):
        seen.append(status)
        done = status.documents.total
        if not status.complete:
            claim = second if done else first
            report = BatchReport(DocumentCounts(indexed=JOB_DOCUMENTS))
            assert await finish(leases, claim, report)
    assert [status.documents.indexed for status in seen] == [0, JOB_DOCUMENTS, 2 * JOB_DOCUMENTS]


async def test_wait_raises_timeout_error(client: IngestClient) -> None:
    receipt = await client.submit("note", source="notes", text="x")
    with pytest.raises(TimeoutError):
        await client.wait(receipt.submission, timeout=0.05)
    assert (await client.wait("nobody knows it", timeout=SECONDS)).accepted == 0


async def test_many_documents_are_submitted_in_shared_jobs(
    client: IngestClient, broker: Broker
) -> None:
    async def as_async_iterator() -> AsyncIterator[Document]:
        for tenant in ("a", "b"):
            for document in notes(40, tenant=tenant):
                yield document

    many = await client.submit_many(as_async_iterator())
    assert many.accepted == 80
    plain = await client.submit_many(list(notes(3)), lane=Lane.INTERACTIVE)
    assert plain.accepted == 3
    assert (await client.submit_many([])).accepted == 0
    assert await finish_all(broker) == 83
    assert (await client.wait(many.submission)).documents.indexed == 80


async def test_documents_sent_twice_are_duplicates(client: IngestClient) -> None:
    assert (await client.submit_many(notes(3), submission="s")).accepted == 3
    again = await client.submit_many(notes(3), submission="s")
    assert (again.accepted, again.duplicates) == (0, 3)


async def test_submit_many_reads_no_further_while_the_queue_is_full(broker: Broker) -> None:
    read = 0

    def endless() -> Iterator[Document]:
        nonlocal read
        for document in notes(10_000_000):
            read += 1
            yield document

    async with IngestClient.connect(BrokerConfig(broker.config.url, max_queue_jobs=10)) as client:
        with pytest.raises(QueueFull):
            await client.submit_many(endless(), patience=0)
        assert read <= (ROUND_TRIP_JOBS + 2) * JOB_DOCUMENTS

        queued = (await client.queue.depth()).ready
        filling = asyncio.create_task(client.submit_many(notes(20 * JOB_DOCUMENTS)))
        await eventually(lambda: finish_all(broker), lambda _: filling.done())
        assert (await filling).accepted == 20 * JOB_DOCUMENTS
        assert queued == 9  # the tenth is reserved for interactive jobs


async def test_submit_raises_queue_full_at_once(broker: Broker) -> None:
    queue = JobQueue(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=1))
    client = IngestClient(queue)
    await client.submit("a", source="s", text="x")
    with pytest.raises(QueueFull) as full:
        await client.submit("b", source="s", text="x")
    assert full.value.retry_after > 0
    with pytest.raises(QueueFull):
        await client.delete("a")


async def test_a_document_that_cannot_be_encoded_is_named(client: IngestClient) -> None:
    bad = Document(doc_id="bad", version=1, source="s", text="half a \ud83d")
    with pytest.raises(DocumentRejected, match="bad: not a document"):
        await client.submit_many([*notes(1), bad])
    failed: list[FailedDocument] = []
    receipt = await client.submit_many([bad, *notes(1)], on_failed=failed.append)
    assert (receipt.accepted, [f.doc_id for f in failed]) == (1, ["bad"])


async def test_documents_are_deleted_by_their_ids(client: IngestClient, broker: Broker) -> None:
    before = await client.issue_version()
    receipt = await client.delete("a", "b", "a", tenant="t")
    assert receipt.accepted == 2
    [claimed] = await take(lease_queue(broker))
    batch = decode_job(claimed.payload).batch
    assert isinstance(batch, DeleteBatch)
    assert [(d.doc_id, d.tenant) for d in batch.documents] == [("a", "t"), ("b", "t")]
    assert before < batch.documents[0].version < await client.issue_version()
    assert batch.lane is Lane.INTERACTIVE


async def test_documents_of_many_tenants_are_deleted(client: IngestClient) -> None:
    deletions = [Deletion(doc_id=str(n), version=n + 1, tenant=str(n % 3)) for n in range(200)]
    assert (await client.delete_many(deletions, submission="d")).accepted == 200
    assert (await client.status("d")).accepted == 200


async def test_a_connection_that_is_slow_to_close_is_no_error(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        async with connected(broker.config) as redis:
            for connection in redis.connection_pool._available_connections:
                connection.socket_connect_timeout = 0.01
            patch.setattr(asyncio.StreamWriter, "wait_closed", never)


async def test_connect_raises_an_error_that_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        async with IngestClient.connect(f"unix://{tmp_path}/nobody.sock"):
            pass
    with pytest.raises(UsageError, match="not a Redis URL"):
        async with IngestClient.connect("http://localhost"):
            pass
