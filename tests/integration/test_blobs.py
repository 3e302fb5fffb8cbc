"""Large content travels through the blob store, and its blobs are deleted afterwards."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.blobs.store import BlobStore
from ingestq.broker.connection import BrokerConfig
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.client.client import IngestClient
from ingestq.core.blobs import MAX_UPLOAD_AGE_MS, new_blob_name
from ingestq.core.documents import INLINE_TEXT_BYTES, Document
from ingestq.core.errors import DocumentRejected, KeyReused, QueueFull, UploadExpired, UsageError
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import (
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    EnqueueResult,
    SubmissionStatus,
)
from tests.claims import batch_of, finish, lease_queue, take
from tests.harness import Harness
from tests.integration.test_pipeline import PARAGRAPHS, HashingModel
from tests.waiting import eventually
from worker.blobs import BlobContents
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import Indexed, Work, ingest
from worker.pipeline.points import DocumentKey
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger
from worker.text.chunking.chunker import SEGMENT_CHARACTERS

LONG = "The lamp is lit at dusk. " * (INLINE_TEXT_BYTES // 25 + 1)
PAGE = b"<html><head><title>Ropes</title></head><body><p>A bowline holds.</p></body></html>"
INDEXED = BatchReport(DocumentCounts(indexed=1))


async def in_parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def stored_blobs(broker: Broker) -> set[str]:
    """Return the names of all blobs of ``broker``."""
    assert broker.blobs is not None
    space, _ = await broker.queue.space()
    return set(await broker.blobs.names(space))


async def are_stored(harness: Harness, count: int) -> set[str]:
    """Wait until there are ``count`` blobs, and return their names.

    A worker deletes the blobs of a job after the outcome is known.
    """
    return await eventually(lambda: stored_blobs(harness.broker), lambda names: len(names) == count)


async def end(harness: Harness, submission: str) -> SubmissionStatus:
    return await harness.broker.client.wait(submission, timeout=60)


async def test_a_long_text_is_indexed_and_its_blob_deleted(harness: Harness) -> None:
    client = harness.broker.client
    for outcome in ("indexed", "unchanged"):
        receipt = await client.submit("lamp", source="notes", text=LONG)
        status = await end(harness, receipt.submission)
        assert getattr(status.documents, outcome) == 1
    chunks = await harness.payloads()
    assert {chunk["doc_id"] for chunk in chunks} == {"lamp"}
    assert "The lamp is lit" in chunks[0]["page_content"]
    await are_stored(harness, 0)


@pytest.mark.parametrize("url", ["", "local://"])
async def test_uploaded_files_are_parsed_from_every_kind_of_store(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    collection: CollectionNames,
    tmp_path: Path,
    url: str,
) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(PAGE)
    broker = Broker(broker.redis, broker.config, open_blob_store(f"{url}{tmp_path}/elsewhere"))
    harness = Harness.of(broker, qdrant, collection, model, tmp_path)
    async with harness.working():
        receipts = [
            await harness.client.upload("path", page, source="page.html"),
            await harness.client.upload("parts", in_parts(PAGE[:9], PAGE[9:]), source="page.html"),
        ]
        for receipt in receipts:
            assert (await end(harness, receipt.submission)).documents.indexed == 1
        chunks = {chunk["doc_id"]: chunk for chunk in await harness.payloads()}
        assert chunks.keys() == {"path", "parts"}
        assert chunks["path"]["page_content"] == chunks["parts"]["page_content"]
        assert chunks["parts"]["metadata"]["title"] == "Ropes"
    assert await stored_blobs(broker) == set()


async def test_an_upload_has_no_source_file_to_verify_against(harness: Harness) -> None:
    receipt = await harness.broker.client.upload("page", in_parts(PAGE), source="page.html")
    await end(harness, receipt.submission)
    key = DocumentKey("", "page")
    entry = (await QdrantLedger(harness.qdrant, harness.names.ledger).look_up([key]))[key]
    assert entry.indexed
    assert (entry.document, entry.file, entry.folders) == (None, None, ())


@pytest.mark.slow
async def test_a_text_of_several_parts_is_copied_once(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    collection: CollectionNames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    blobs = open_blob_store(f"local://{tmp_path}/elsewhere")
    text = "\n\n".join(f"{i}. {PARAGRAPHS[i % 6]}" for i in range(1200))
    assert len(text) > SEGMENT_CHARACTERS
    name = new_blob_name(*await broker.queue.space())
    await blobs.put(name, in_parts(text.encode()))
    ports = Ports(
        HashingModel(model),
        store := QdrantStore(qdrant, collection.chunks),
        QdrantLedger(qdrant, collection.ledger),
        BlobContents(blobs, len(text)),
    )
    document = Document(doc_id="d", version=1, source="d", blob=name, media_type="text/plain")
    seen: list[int] = []

    def show(_: int, known: int) -> None:
        if known:
            seen.append(len(list(copies.glob("ingestq-blob-*"))))

    outcome = await ingest(Work(document, None, 1), ports, show)
    assert outcome == Indexed(ChunkCounts(embedded=1200))
    assert seen == [1, 1]
    assert not list(copies.glob("ingestq-blob-*"))
    stored = (await store.stored(DocumentKey("", "d"))).content
    assert stored.text.split() == text.split()


async def test_a_blob_larger_than_the_limit_is_rejected_before_it_is_copied(
    broker: Broker, tmp_path: Path
) -> None:
    blobs = open_blob_store(f"local://{tmp_path}/elsewhere")
    name = new_blob_name(*await broker.queue.space())
    await blobs.put(name, in_parts(PAGE))
    document = Document(doc_id="d", version=1, source="d", blob=name)
    with pytest.raises(DocumentRejected, match="INGESTQ_MAX_DOCUMENT_BYTES"):
        async with BlobContents(blobs, len(PAGE) - 1).as_file(document):
            pass


async def test_a_blob_is_kept_as_long_as_its_dead_letter(harness: Harness) -> None:
    client, dead_letters = harness.broker.client, harness.broker.dead_letters

    async def stored() -> list[object]:
        return [dead_letter async for dead_letter in dead_letters.find(DeadLetterFilter())]

    receipt = await client.upload("blob", in_parts(b"\0\1\2" * 100), source="blob")
    assert (await end(harness, receipt.submission)).documents.rejected == 1
    kept = await stored_blobs(harness.broker)
    assert len(kept) == 1

    [dead_letter] = [stored async for stored in dead_letters.find(DeadLetterFilter())]
    assert await dead_letters.requeue([dead_letter], "again") == 1
    assert (await end(harness, "again")).documents.rejected == 1
    assert await stored_blobs(harness.broker) == kept

    receipt = await client.upload("blob", in_parts(b"\0\3\4" * 100), source="blob")
    await end(harness, receipt.submission)
    assert await are_stored(harness, 1) != kept

    [dead_letter] = [stored async for stored in dead_letters.find(DeadLetterFilter())]
    assert await dead_letters.purge([dead_letter]) == 1
    assert await stored_blobs(harness.broker) == set()

    await end(harness, (await client.upload("b", in_parts(b"\0" * 9), source="b")).submission)
    assert len(await stored_blobs(harness.broker)) == 1
    receipt = await client.submit("b", source="b", text="Now it is text.")
    assert (await end(harness, receipt.submission)).documents.indexed == 1
    await are_stored(harness, 0)
    assert await stored() == []


async def test_only_the_rejected_document_of_a_job_keeps_its_blob(broker: Broker) -> None:
    documents = [
        Document(doc_id=doc_id, version=1, source="s", text=LONG) for doc_id in ("good", "bad")
    ]
    await broker.client.submit_many(documents)
    leases = lease_queue(broker)
    [claimed] = await take(leases)
    batch = batch_of(claimed)
    assert [document.media_type for document in batch.documents] == ["text/plain"] * 2
    assert await stored_blobs(broker) == batch.blobs
    assert await finish(
        leases, claimed, INDEXED + dead_letter_batch(batch.alone(1), "broken", tries=1)
    )
    assert await stored_blobs(broker) == {batch.documents[1].blob}


async def test_a_worker_that_lost_its_lease_deletes_no_blobs(broker: Broker) -> None:
    await broker.client.submit("lamp", source="s", text=LONG)
    leases = lease_queue(broker)
    [stale] = await take(lease_queue(broker, lease_seconds=0.001))
    [again] = await eventually(lambda: take(leases, worker="other"))
    assert not await finish(leases, stale, INDEXED)
    assert len(await stored_blobs(broker)) == 1
    assert await finish(leases, again, INDEXED)
    assert await stored_blobs(broker) == set()


async def test_blobs_of_refused_documents_are_deleted(broker: Broker) -> None:
    full = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=2), broker.blobs)
    await full.client.submit("first", source="s", text=LONG)
    documents = [
        Document(doc_id=f"{n}", version=1, source="s", tenant=f"{n}", text=LONG) for n in range(3)
    ]
    with pytest.raises(QueueFull):
        await full.client.submit_many(documents, patience=0)
    assert len(kept := await stored_blobs(broker)) == 2
    with pytest.raises(QueueFull):
        await full.client.submit("second", source="s", text=LONG)
    with pytest.raises(QueueFull):
        await full.client.upload("third", in_parts(PAGE), source="s")
    waiting = set().union(*[batch_of(claim).blobs for claim in await take(lease_queue(full), 9)])
    assert await stored_blobs(broker) == kept == waiting


async def test_an_upload_repeated_with_the_same_key_is_stored_once(
    broker: Broker, tmp_path: Path
) -> None:
    client = broker.client
    page = tmp_path / "page.html"
    page.write_bytes(PAGE)
    receipts = [
        await client.upload(
            "page", content, source="s", idempotency_key="k", media_type="text/html"
        )
        for content in (page, in_parts(PAGE), in_parts(PAGE[:5], PAGE[5:]))
    ]
    assert receipts[0] == receipts[1] == receipts[2]
    kept = await stored_blobs(broker)
    assert len(kept) == 1
    with pytest.raises(KeyReused):
        await client.upload("page", in_parts(b"else"), source="s", idempotency_key="k")
    assert await stored_blobs(broker) == kept


class LosesAnswers(JobQueue):
    """A queue whose answers to offers are lost."""

    async def offer(self, batches: object) -> list[EnqueueResult]:
        await super().offer(batches)  # type: ignore[arg-type]
        raise ConnectionResetError


async def test_a_blob_is_kept_if_its_job_may_have_been_accepted(broker: Broker) -> None:
    client = IngestClient(LosesAnswers(broker.redis, broker.config), broker.blobs)
    with pytest.raises(ConnectionResetError):
        await client.submit("lamp", source="s", text=LONG)
    [claimed] = await take(lease_queue(broker))
    assert await stored_blobs(broker) == batch_of(claimed).blobs


async def test_a_blob_old_enough_to_be_collected_is_not_queued(broker: Broker) -> None:
    space, now_us = await broker.queue.space()
    name = new_blob_name(space, now_us - MAX_UPLOAD_AGE_MS * 1000 - 1_000_000)
    document = Document(collection="documents", doc_id="late", version=1, source="s", blob=name)
    with pytest.raises(UploadExpired, match="6 hours"):
        await broker.queue.offer([IngestBatch("s", (document,))])
    assert await broker.queue.is_empty()


async def test_without_a_blob_store_texts_travel_in_their_jobs(broker: Broker) -> None:
    client = IngestClient(broker.queue)
    await client.submit("lamp", source="s", text=LONG)
    [claimed] = await take(lease_queue(broker))
    assert batch_of(claimed).documents[0].text == LONG
    with pytest.raises(UsageError, match="this client has no blob store"):
        await client.upload("page", in_parts(PAGE), source="s")


async def test_a_client_uses_the_blob_store_it_is_given(broker: Broker, tmp_path: Path) -> None:
    place = tmp_path / "blobs"
    async with IngestClient.connect(broker.config.url, blobs=str(place)) as client:
        await client.submit("lamp", source="s", text=LONG)
    blobs: BlobStore | None = broker.blobs
    assert blobs is not None
    [claimed] = await take(lease_queue(broker))
    [name] = batch_of(claimed).blobs
    assert (place / name).read_text() == LONG
