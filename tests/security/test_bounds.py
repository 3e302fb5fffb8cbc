"""One document or request that is too long, too large or too deep stops no other one."""

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from httpx import AsyncClient
from qdrant_client import models
from structlog.testing import capture_logs

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.client.client import IngestClient
from ingestq.core import events
from ingestq.core.documents import Deletion, Document, Sweep
from ingestq.core.errors import InvalidQuery, QueueFull
from ingestq.core.jobs import IngestBatch, decode_job
from ingestq.core.limits import METADATA_DEPTH, presentable
from ingestq.core.results import FailedDocument
from ingestq.core.search_query import MetadataCondition, SearchFilter, SearchQuery, SearchResult
from producers.files.walk import ReadOptions, ScanRecord, observe
from producers.schedule.sources import LineSource
from tests.command import Ingestq
from tests.harness import Harness
from tests.integration.test_watch import indexed_are, logged, watching
from tests.serving import listening, services
from worker.embedding.pool import ModelPool
from worker.pipeline.points import DocumentKey, LedgerEntry, SearchHit
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.search import search

MEGABYTE = 1_000_000
STORED_DEPTH = 100
"""A server accepts no JSON nested more than 128 deep."""


def nested(depth: int) -> dict[str, Any]:
    """Return metadata of so many objects inside each other."""
    metadata: dict[str, Any] = {}
    for _ in range(depth - 1):
        metadata = {"a": metadata}
    return metadata


def nested_json(depth: int) -> str:
    """Return the JSON of `nested`, which Python's encoder could not write."""
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


@asynccontextmanager
async def served(harness: Harness) -> AsyncIterator[AsyncClient]:
    """Serve the API with search and look-up in the collection of ``harness``."""

    async def find(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult(await search(harness.qdrant, harness.names, harness.model, query))

    async def look_up(tenant: str, doc_id: str, collection: str) -> LedgerEntry | None:
        key = DocumentKey(tenant, doc_id)
        return (await harness.ledger.look_up([key])).get(key)

    config = ApiConfig(10 * MEGABYTE, collections=(harness.names.alias,))
    app = create_app(services(harness.broker, find, look_up), config)
    async with listening(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client


async def found(api: AsyncClient, query: str = "parrots") -> set[str]:
    answer = await api.get("/search", params={"q": query, "limit": 50})
    assert answer.status_code == 200, answer.text
    return {hit["doc_id"] for hit in answer.json()["hits"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f'"metadata": {nested_json(33)}', "metadata is nested more than 32 deep"),
        (f'"metadata": {nested_json(500)}', "metadata is nested more than 32 deep"),
        (f'"metadata": {nested_json(100_000)}', "more than 32 deep"),
        (f'"metadata": {{"a": "{"x" * 66_000}"}}', "metadata has at least 66,"),
        (f'"metadata": {{"{"k" * 1025}": 1}}', "a key of metadata has 1,025 bytes"),
        (f'"metadata": {{"a": {2**64}}}', "64 bits"),
        (f'"doc_id": "{"x" * MEGABYTE}"', "doc_id has 1,000,000 bytes; the limit is 1,024"),
        (f'"source": "{"ü" * 600}"', "source has 1,200 bytes"),
        (f'"tenant": "{"x" * 1025}"', "tenant has 1,025 bytes"),
        (f'"media_type": "{"x" * 1025}"', "media_type has 1,025 bytes"),
    ],
    ids=lambda value: value[:40],
)
async def test_a_request_that_is_over_a_limit_is_refused_and_its_neighbours_are_indexed(
    harness: Harness, change: str, said: str
) -> None:
    bad = '{"doc_id": "bad", "text": "x", ' + change + "}"
    good = '{"doc_id": "good", "text": "The keeper owns two parrots."}'
    async with served(harness) as api:
        json_type = {"Content-Type": "application/json"}
        refused = await api.post("/documents", content=bad, headers=json_type)
        assert refused.status_code == 422, refused.text
        assert said in refused.json()["detail"]
        assert len(refused.content) < 1000
        lines = {"Content-Type": "application/x-ndjson"}
        batch = await api.post("/documents:batch", content=f"{bad}\n{good}\n", headers=lines)
        [line] = batch.json()["rejected_lines"]
        assert (line["line"], said in line["reason"]) == (1, True)
        await harness.client.wait(batch.json()["submission"], timeout=60)
        assert await found(api) == {"good"}
    assert await harness.dead_letters() == {}


async def test_metadata_within_the_limits_is_found_again(harness: Harness) -> None:
    metadata = {"deep": nested(31), "big": "x" * 60_000, "n": 2**63, "k" * 1024: None}
    async with served(harness) as api:
        receipt = await harness.client.submit(
            "i" * 1024, source="s" * 1024, text="Two parrots.", metadata=metadata
        )
        await harness.client.wait(receipt.submission, timeout=60)
        answer = await api.get("/search", params={"q": "parrots"})
        [hit] = answer.json()["hits"]
        assert {key: hit["metadata"][key] for key in metadata} == metadata


async def push(broker: Broker, **change: object) -> str:
    """Put a job on the queue as another program might, with ``change`` in its only document."""
    document = Document(doc_id="bad", version=1, source="s", text="x", collection=broker.collection)
    batch = IngestBatch("pushed", (document,))
    await broker.queue.offer([batch])
    fields = msgspec.to_builtins(document) | {"text": "x"}
    packed = {"type": "ingest/1", "submission": "pushed", "documents": [fields]}
    payload = msgspec.msgpack.encode({"f": "ingest", "a": [packed], "et": 1, "k": {}})
    changed = msgspec.msgpack.encode(change)[1:]
    end = msgspec.msgpack.encode(fields)
    assert payload.count(end) == 1
    assert end[0] == 0x80 + len(fields)
    bad = bytes([end[0] + len(change)]) + end[1:] + changed
    await broker.redis.set(keys.JOB + batch.job_id, payload.replace(end, bad))
    return batch.job_id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metadata": nested(500)}, "nested more than 32 deep"),
        ({"metadata": {"a": float("nan")}}, "nan"),
        ({"metadata": {"a": b"x"}}, "bytes"),
        ({"source": "x" * MEGABYTE}, "source has 1,000,000 bytes"),
    ],
    ids=["deep", "nan", "bytes", "source"],
)
async def test_a_job_of_another_program_is_dead_lettered_and_its_neighbours_are_indexed(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    collection: CollectionNames,
    tmp_path: Path,
    change: dict[str, Any],
    said: str,
) -> None:
    harness = Harness.of(broker, qdrant, collection, model, tmp_path)
    job_id = await push(harness.broker, **change)
    receipt = await harness.client.submit("good", source="s", text="Two parrots.")
    async with harness.working(), served(harness) as api:
        status = await harness.client.wait(receipt.submission, timeout=60)
        assert status.documents.indexed == 1
        await harness.client.wait("pushed", timeout=60)
        assert said in (await harness.dead_letters())[job_id]
        shown = await api.get(f"/dead-letters/{job_id}")
        assert (shown.status_code, shown.json()["payload"]) == (200, None)
        listed = await api.get("/dead-letters")
        assert listed.json()["total"] == 1
        assert await found(api) == {"good"}
        assert (await api.get("/")).status_code == 200


async def test_a_sidecar_that_is_nested_too_deeply_leaves_out_its_file_alone(
    harness: Harness,
) -> None:
    harness.write("a.txt", "b.txt")
    (harness.root / "a.txt.meta.json").write_text(nested_json(500))
    async with watching(harness.broker, harness.root) as logs:
        skipped = await logged(logs, events.WATCH_SKIPPED)
        assert skipped["path"] == str(harness.root / "a.txt")
        assert "a.txt.meta.json" in skipped["reason"]
        assert "nested more than 32 deep" in skipped["reason"]
        await indexed_are(harness, "b.txt")
        (harness.root / "a.txt.meta.json").unlink()
        await indexed_are(harness, "a.txt", "b.txt")


async def test_a_file_whose_path_is_too_long_is_left_out_with_its_reason(harness: Harness) -> None:
    harness.write("a.txt")
    folder = harness.root
    while len(str(folder)) < 1100:
        folder /= "d" * 100
        folder.mkdir()
    (folder / "long.txt").write_text("The keeper owns two parrots.")
    summary = await harness.scan(allow_mass_delete=True)
    assert summary.documents.indexed == 1
    [failed] = summary.failed
    assert failed.doc_id == str(folder / "long.txt")
    assert "doc_id has 1," in failed.reason
    assert await harness.indexed_files() == {"a.txt"}

    alone = await harness.scan(folder)  # the folder's own id is too long for a sweep
    assert (alone.documents.rejected, alone.documents.total) == (1, 1)

    record = ScanRecord()
    named = [
        d
        async for d in observe(
            [folder], "n", harness.broker.queue.issue_version, ReadOptions(), record
        )
    ]
    assert "source has 1," in named[0].reason  # type: ignore[union-attr]


async def test_a_list_reports_a_document_that_is_over_a_limit_under_its_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "all.jsonl"
    lines = [
        {"doc_id": "x" * 1020, "text": "x"},
        {"doc_id": "big", "text": "x", "metadata": {"a": "x" * 40_000}},
        {"doc_id": "deep", "text": "x", "metadata": nested(33)},
        {"doc_id": "long", "text": "x" * 1_000_000},
        {"doc_id": "good", "text": "x"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    source = LineSource(path, "erp-list", metadata={"b": "x" * 40_000}, max_line_bytes=100_000)

    async def clock() -> int:
        return 1

    found = [item async for item in source.documents(clock, ScanRecord())]
    reasons = [item.reason for item in found if isinstance(item, FailedDocument)]
    assert "doc_id has 1,029 bytes" in reasons[0]
    assert "metadata has at least 80,0" in reasons[1]
    assert "line 3" in found[2].doc_id
    assert "nested more than 32 deep" in reasons[2]
    assert "INGESTQ_MAX_DOCUMENT_BYTES" in reasons[3]
    assert [item.doc_id for item in found if isinstance(item, Document)] == ["erp-list/good"]


async def test_a_search_shows_what_is_stored_whatever_it_is(harness: Harness) -> None:
    for name in ("deep", "good"):
        receipt = await harness.client.submit(name, source="s", text="Two parrots.")
        await harness.client.wait(receipt.submission, timeout=60)
    records, _ = await harness.qdrant.ask(
        lambda client: client.scroll(harness.names.chunks, with_vectors=True)
    )
    [deep] = [record for record in records if (record.payload or {})["doc_id"] == "deep"]
    metadata = {"deep": nested(STORED_DEPTH)}
    await harness.qdrant.ask(
        lambda client: client.set_payload(
            harness.names.chunks, {"metadata": metadata}, points=[deep.id]
        )
    )
    foreign = models.PointStruct(id=7, vector=cast(Any, deep.vector), payload={"doc_id": 5})
    await harness.qdrant.ask(lambda client: client.upsert(harness.names.chunks, [foreign]))
    async with served(harness) as api:
        with capture_logs() as logs:
            answer = await api.get("/search", params={"q": "parrots", "limit": 50})
        assert answer.status_code == 200, answer.text
        hits = {hit["doc_id"]: hit["metadata"] for hit in answer.json()["hits"]}
        assert hits.keys() == {"deep", "good"}
        assert depth_of(hits["deep"]) == METADATA_DEPTH
        await logged(logs, events.POINTS_UNREADABLE)
        page = await api.get("/", params={"q": "parrots"})
        assert (page.status_code, page.text.count("Two ")) == (200, 2)
        state = await api.get("/documents/deep")
        assert state.json()["indexed"]["chunks"] == 1


def depth_of(value: object) -> int:
    """Return how many objects are inside each other in ``value``."""
    depth = 0
    while isinstance(value, dict):
        depth += 1
        value = next((inner for inner in value.values() if isinstance(inner, dict)), None)
    return depth


def test_stored_metadata_is_presentable() -> None:
    stored = {"nan": float("nan"), "bytes": b"\xff", "half": "\ud83d", 1: [nested(300)]}
    shown = presentable(stored)
    json.dumps(shown, allow_nan=False).encode()
    assert (shown["nan"], shown["half"], shown["bytes"]) == (None, "\\ud83d", "b'\\xff'")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (f"q={'x' * 8193}", "8192"),
        ("q=x&" + "&".join(["filter=a=b"] * 33), "33 filters; the limit is 32"),
        (f"q=x&filter={'a' * 1025}=b", "the key of a filter has 1,025 bytes"),
        (f"q=x&filter=a={'b' * 1025}", "a filter has 1,025 bytes"),
        ("q=x&" + "&".join([f"filter=a={'b,' * 63}b"] * 5), "320 values; the limit is 256"),
        (f"q=x&filter={'a' * 1025}>1", "the key of a filter has 1,025 bytes"),
        (f"q=x&filter={'.'.join('a' * 40)}>1", "more than 32 deep"),
        ('q=x&filter=a="%5Cud83d"', "a filter"),
        (f"q=x&filter={'.'.join('a' * 40)}=b", "more than 32 deep"),
        (f"q=x&source={'a' * 1025}", "source has 1,025 bytes"),
        (f"q=x&tenant={'a' * 1025}", "tenant has 1,025 bytes"),
    ],
    ids=lambda value: value[:20],
)
async def test_a_search_that_is_over_a_limit_is_refused(
    harness: Harness, query: str, said: str
) -> None:
    async with served(harness) as api:
        answer = await api.get(f"/search?{query}")
        assert answer.status_code == 422, answer.text
        assert said in answer.json()["detail"]
        assert (await api.get(f"/search?q=x&filter=a={'[' * 1000}")).status_code == 200


def test_a_search_has_at_most_a_thousand_hits() -> None:
    with pytest.raises(InvalidQuery, match="limit is 1001"):
        SearchQuery("x", 1001)
    conditions = (MetadataCondition("a", ("b",)),) * 32
    assert SearchQuery("x" * 8192, 1000, where=SearchFilter(conditions)).limit == 1000


async def test_commands_and_the_client_refuse_what_is_over_a_limit(
    ingestq: Ingestq, broker: Broker
) -> None:
    (await ingestq.ended("delete", "x" * 1025)).failed_with(2, "doc_id has 1,025 bytes")
    (await ingestq.ended("search", "x" * 8193)).failed_with(2, "8,193 characters")
    client = broker.client
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        await client.submit("a", source="s", text="x", metadata=nested(33))
    with pytest.raises(ValueError, match="idempotency_key has 1,025 bytes"):
        await client.submit("a", source="s", text="x", idempotency_key="k" * 1025)
    with pytest.raises(ValueError, match="submission has 1,025 bytes"):
        await client.submit_many(
            [Document(doc_id="a", version=1, source="s", text="x")], submission="s" * 1025
        )
    with pytest.raises(ValueError, match="doc_id has 1,025 bytes"):
        await client.delete("x" * 1025)
    with pytest.raises(ValueError, match="path has 4,097 bytes"):
        Document(doc_id="a", version=1, source="s", path="/" + "x" * 4096)
    with pytest.raises(ValueError, match="lone surrogate"):
        Deletion(doc_id="\ud800", version=1)
    with pytest.raises(ValueError, match="tenant has 1,025 bytes"):
        Sweep(doc_id="a", version=1, seen=b"", found=0, tenant="t" * 1025)


def test_metadata_that_repeats_a_list_at_every_level_is_refused_at_once() -> None:
    shared: list[Any] = ["x"]
    for _ in range(30):
        shared = [shared] * 100  # a hundred to the power of thirty values, in a few kilobytes
    with pytest.raises(ValueError, match="metadata has at least"):
        Document(doc_id="a", version=1, source="s", text="x", metadata={"a": shared})


async def test_deletions_that_a_full_queue_refused_are_named(broker: Broker) -> None:
    queue = JobQueue(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=2))
    client = IngestClient(queue)
    doc_ids = [f"{number:03}" for number in range(200)]  # four jobs of up to 64
    with pytest.raises(QueueFull, match="of the documents were not queued") as caught:
        await client.delete(*doc_ids)
    accepted = [doc_id async for doc_id in queued_documents(broker)]
    assert sorted([*accepted, *caught.value.documents]) == doc_ids
    assert accepted


async def queued_documents(broker: Broker) -> AsyncIterator[str]:
    """Yield the ids of all documents that wait to be deleted."""
    async for key in broker.redis.scan_iter(keys.JOB + "delete-*"):
        payload = await broker.redis.get(key)
        for document in decode_job(payload).batch.documents:
            yield document.doc_id


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has used; wait4 also counts that of its parent."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.slow
def test_a_line_without_an_end_takes_no_memory_and_the_next_line_is_read(
    ingestq: Ingestq,
) -> None:
    ingestq.settings["max_document_bytes"] = "1000000"
    size = 400 * MEGABYTE
    process = subprocess.Popen(
        ingestq.command("add", "-", "--json"),
        cwd=ingestq.folder,
        env=ingestq.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as stdin:
        stdin.write(b'{"doc_id": "first", "text": "x"}\n')
        for _ in range(size // MEGABYTE):
            stdin.write(b"x" * MEGABYTE)
        peak = peak_bytes(process.pid)  # all but what is in the pipe has been read
        stdin.write(b'\n{"doc_id": "last", "text": "x"}')
    answer = json.loads(process.stdout.read())
    process.stdout.close()
    assert process.wait() == 1
    assert answer["documents"] == {"queued": 2, "rejected": 1}
    [rejected] = answer["rejected"]
    assert rejected["doc_id"] == "line 2"
    assert "INGESTQ_MAX_DOCUMENT_BYTES" in rejected["reason"]
    assert peak < size


async def test_a_form_may_not_go_on_after_its_end(harness: Harness) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'

    async def form(after: int) -> AsyncIterator[bytes]:
        yield part + b"--b--"
        for _ in range(after):
            yield b"\r\n" * 1000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with served(harness) as api:
        answer = await api.post("/documents", content=form(1000), headers=headers)
        assert answer.status_code == 422, answer.text
        assert "besides its content" in answer.json()["detail"]
        accepted = await api.post("/documents", content=form(1), headers=headers)
        assert accepted.status_code == 202, accepted.text
