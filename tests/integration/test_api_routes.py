"""The other routes of the HTTP API: batches, deletions, dead letters, streams, metrics."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from httpx import ASGITransport, AsyncClient
from prometheus_client.parser import text_string_to_metric_families

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.documents import Lane
from ingestq.core.errors import StoreUnavailable
from ingestq.core.jobs import DeleteBatch, dead_letter_batch, decode_job
from ingestq.core.results import BatchReport, ChunkCounts, DocumentCounts, WorkerInfo
from tests import claims
from tests.claims import batch_of, lease_queue, take
from tests.command import Ingestq
from tests.integration.test_api import JSON, LIMIT, NOTE, Upload, calling, refused
from tests.running_command import serving
from tests.serving import listening, services
from tests.unsupervised import unsupervised_redis
from tests.waiting import crash

LINES = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
async def api(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with calling(broker) as client:
        yield client


def lines(*documents: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


async def bury_all(broker: Broker, reason: str) -> None:
    leases = lease_queue(broker)
    for claimed in await take(leases, 100):
        report = dead_letter_batch(batch_of(claimed), reason, tries=2, traceback="Traceback …")
        assert await claims.finish(leases, claimed, report)


# Batches


async def test_a_batch_is_queued_without_its_invalid_lines(
    api: AsyncClient, broker: Broker
) -> None:
    before = await broker.queue.issue_version()
    body = (
        lines(NOTE)
        + b"\n{nonsense}\n"
        + lines({"doc_id": "b"})
        + b'{"doc_id": "c", "text": "' + b"x" * LIMIT + b'"}\n'
        + lines(NOTE | {"doc_id": "d", "version": 7}).rstrip()
    )  # fmt: skip
    upload = Upload(*(body[i : i + 7] for i in range(0, len(body), 7)))
    answer = await api.post("/documents:batch", content=upload, headers=LINES)
    assert answer.status_code == 202, answer.text
    receipt = answer.json()
    assert (receipt["accepted"], receipt["duplicates"], receipt["rejected"]) == (2, 0, 3)
    malformed, missing, large = receipt["rejected_lines"]
    assert malformed["line"] == 3
    assert "malformed" in malformed["reason"]
    assert missing["line"] == 4
    assert "`text`" in missing["reason"]
    assert large["line"] == 5
    assert "INGESTQ_MAX_DOCUMENT_BYTES" in large["reason"]

    [claimed] = await take(lease_queue(broker), 9)
    batch = batch_of(claimed)
    assert batch.submission == receipt["submission"]
    assert batch.lane is Lane.BULK
    note, other = batch.documents
    assert (note.doc_id, other.doc_id, other.version) == ("note", "d", 7)
    assert before < note.version < await broker.queue.issue_version()


async def test_of_two_lines_with_the_same_document_the_second_is_newer(
    api: AsyncClient, broker: Broker
) -> None:
    body = lines(*({"doc_id": "a", "text": str(n)} for n in range(100)))
    assert (await api.post("/documents:batch", content=body, headers=LINES)).status_code == 202
    documents = [
        d for claim in await take(lease_queue(broker), 99) for d in batch_of(claim).documents
    ]
    newest = max(documents, key=lambda document: document.version)
    assert len({document.version for document in documents}) == 100
    assert newest.text == "99"


async def test_a_batch_is_read_no_faster_than_it_is_queued(broker: Broker) -> None:
    """Memory grows neither with the batch nor while the queue is full."""
    small = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=10))
    parts = [
        lines({"doc_id": f"{n}-{i}", "text": "x" * 900}, NOTE) for n in range(50) for i in range(16)
    ]
    upload = Upload(*parts)
    async with calling(small) as api:
        posting = asyncio.create_task(api.post("/documents:batch", content=upload, headers=LINES))
        done, most = 0, 0
        leases = lease_queue(broker)
        while not posting.done():
            for claimed in await take(leases, 3):
                documents = len(batch_of(claimed).documents)
                report = BatchReport(DocumentCounts(indexed=documents))
                assert await claims.finish(leases, claimed, report)
                done += documents
            most = max(most, upload.sent - done * 500)
            await asyncio.sleep(0)
    assert (await posting).json()["accepted"] == 2 * len(parts)
    assert most < len(b"".join(parts)) / 2


async def test_a_batch_waits_for_a_full_queue_only_so_long(broker: Broker) -> None:
    full = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=1))
    app = create_app(services(full), ApiConfig(LIMIT, full_seconds=0))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as api:
        await api.post("/documents", json=NOTE)
        answer = await api.post("/documents:batch", content=lines(NOTE), headers=LINES)
        refused(answer, 429, "the queue is full")
        assert int(answer.headers["Retry-After"]) >= 1
        refused(await api.delete("/documents/note"), 429, "the queue is full")


@pytest.mark.parametrize("body", [b"", b"\n \n"])
async def test_an_empty_batch_is_accepted(api: AsyncClient, body: bytes) -> None:
    answer = await api.post("/documents:batch", content=body, headers=LINES)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == answer.json()["rejected"] == 0


async def test_a_batch_that_is_not_declared_as_json_lines_is_refused(api: AsyncClient) -> None:
    refused(await api.post("/documents:batch", json=NOTE), 415, "application/x-ndjson")


async def test_a_batch_that_stops_in_the_middle_is_cut_off(broker: Broker) -> None:
    async with calling(broker, silence_seconds=0.05) as api:
        upload = Upload(lines(NOTE), b"", halt=True)
        refused(await api.post("/documents:batch", content=upload, headers=LINES), 408)
        upload = Upload(*[b"x" * 1000] * 100)  # it is not held any more
        assert (await api.post("/documents:batch", content=upload, headers=LINES)).is_success


# Idempotency


async def test_a_repeated_request_with_the_same_key_queues_nothing(
    api: AsyncClient, broker: Broker
) -> None:
    keyed = {"Idempotency-Key": "k1"}
    first = await api.post("/documents", json=NOTE, headers=keyed)
    body = json.dumps(NOTE, indent=2, sort_keys=True)
    again = await api.post("/documents", content=body, headers=JSON | keyed)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert (await broker.queue.depth()).ready == 1

    other = await api.post("/documents", json=NOTE | {"text": "other"}, headers=keyed)
    refused(other, 422, "k1")
    new_key = await api.post("/documents", json=NOTE, headers={"Idempotency-Key": "k2"})
    assert new_key.json()["submission"] != first.json()["submission"]
    assert (await broker.queue.depth()).ready == 2


async def test_concurrent_requests_with_the_same_key_queue_one_document(
    api: AsyncClient, broker: Broker
) -> None:
    keyed = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(api.post("/documents", json=NOTE, headers=keyed) for _ in range(10))
    )
    assert len({answer.json()["submission"] for answer in answers}) == 1
    assert (await broker.queue.depth()).ready == 1


async def test_a_key_is_remembered_after_the_document_is_processed(
    api: AsyncClient, broker: Broker
) -> None:
    keyed = {"Idempotency-Key": "k"}
    first = await api.post("/documents", json=NOTE, headers=keyed)
    await bury_all(broker, "broken")
    assert (await api.post("/documents", json=NOTE, headers=keyed)).json() == first.json()
    assert await broker.queue.is_empty()


async def test_a_key_can_be_used_again_after_a_full_queue(broker: Broker) -> None:
    full = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=1))
    keyed = {"Idempotency-Key": "k"}
    async with calling(full) as api:
        await api.post("/documents", json=NOTE)
        refused(await api.post("/documents", json=NOTE, headers=keyed), 429)
        await bury_all(broker, "to make room")
        assert (await api.post("/documents", json=NOTE, headers=keyed)).status_code == 202
    assert (await broker.queue.depth()).ready == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_invalid_key_is_refused(api: AsyncClient, key: str) -> None:
    answer = await api.post("/documents", json=NOTE, headers={"Idempotency-Key": key})
    refused(answer, 422, "header.idempotency-key")


# Deleting


@pytest.mark.parametrize("doc_id", ["note", "/srv/notes/a b.txt", "a/../b", "50%", "x?y#z", "ü"])
async def test_a_document_is_deleted(broker: Broker, doc_id: str) -> None:
    async with calling(broker) as api:
        answer = await api.delete(
            f"/documents/{quote(doc_id, safe='')}", params={"tenant": "t", "version": "9"}
        )
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == 1
    [claimed] = await take(lease_queue(broker))
    batch = decode_job(claimed.payload).batch
    assert isinstance(batch, DeleteBatch)
    [deletion] = batch.documents
    assert (deletion.doc_id, deletion.tenant, deletion.version) == (doc_id, "t", 9)


async def test_a_deletion_needs_an_id_and_a_valid_version(api: AsyncClient, broker: Broker) -> None:
    refused(await api.delete("/documents/"), 422, "path.doc_id")
    refused(await api.delete("/documents/a", params={"version": "0"}), 422, "query.version")
    assert await broker.queue.is_empty()


# State of a document


@dataclass(frozen=True)
class Entry:
    state: str = "indexed"
    version: int = 7
    chunks: int = 3
    written_ms: int = 1_700_000_000_000
    warnings: tuple[str, ...] = ("page 3 has no text",)


async def test_the_state_of_a_document_is_shown(broker: Broker) -> None:
    async def index(tenant: str, doc_id: str, collection: str) -> Entry | None:
        return Entry() if (tenant, doc_id) == ("", "/notes/a") else None

    app = create_app(services(broker, index=index), ApiConfig(LIMIT))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as api:
        entry = {
            "state": "indexed",
            "version": 7,
            "chunks": 3,
            "written_ms": 1_700_000_000_000,
            "warnings": ["page 3 has no text"],
            "stale": None,
        }
        known = {
            "doc_id": "/notes/a",
            "tenant": "",
            "collection": "documents",
            "indexed": entry,
            "last_error": None,
        }
        assert (await api.get("/documents//notes/a")).json() == known
        refused(await api.get("/documents//notes/a", params={"tenant": "t"}), 404, "/notes/a")

        await api.post("/documents", json=NOTE | {"doc_id": "/notes/a"})
        await api.post("/documents", json=NOTE | {"doc_id": "new"})
        await bury_all(broker, "broken")
        assert (await api.get("/documents//notes/a")).json() == known | {"last_error": "broken"}
        new = known | {"doc_id": "new", "indexed": None, "last_error": "broken"}
        assert (await api.get("/documents/new")).json() == new


async def test_an_id_can_contain_line_breaks(broker: Broker) -> None:
    async def index(tenant: str, doc_id: str, collection: str) -> Entry | None:
        return Entry() if doc_id == "\na/b\n" else None

    app = create_app(services(broker, index=index), ApiConfig(LIMIT))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as api:
        assert (await api.get("/documents/%0Aa/b%0A")).json()["doc_id"] == "\na/b\n"
        assert (await api.delete("/documents/%0Aa/b%0A")).status_code == 202


async def test_an_unreachable_index_is_reported(broker: Broker) -> None:
    async def index(tenant: str, doc_id: str, collection: str) -> Entry | None:
        raise StoreUnavailable("Qdrant does not answer")

    app = create_app(services(broker, index=index), ApiConfig(LIMIT))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as api:
        refused(await api.get("/documents/a"), 503, "Qdrant does not answer")


# Dead letters


async def test_dead_letters_are_listed_shown_and_requeued(api: AsyncClient, broker: Broker) -> None:
    for n in range(3):
        posted = NOTE | {"doc_id": f"/n/{n}", "metadata": {"n": n}}
        sent = await api.post("/documents", json=posted)
        await bury_all(broker, f"broken PDF {n}")
    listed = (await api.get("/dead-letters")).json()
    assert listed["total"] == 3
    assert {dead_letter["doc_id"] for dead_letter in listed["dead_letters"]} == {
        "/n/0",
        "/n/1",
        "/n/2",
    }
    one = (await api.get("/dead-letters", params={"reason": "pdf 1"})).json()
    assert [dead_letter["doc_id"] for dead_letter in one["dead_letters"]] == ["/n/1"]
    assert (await api.get("/dead-letters", params={"tenant": "t"})).json()["total"] == 0
    few = (await api.get("/dead-letters", params={"limit": 1})).json()
    assert (few["total"], len(few["dead_letters"])) == (3, 1)

    shown = (await api.get("/dead-letters//n/2")).json()
    assert (shown["reason"], shown["tries"], shown["traceback"]) == (
        "broken PDF 2",
        2,
        "Traceback …",
    )
    assert shown["submission"] == sent.json()["submission"]
    assert shown["payload"]["text"] == NOTE["text"]
    assert shown["payload"]["metadata"] == {"n": 2}

    answer = await api.post("/dead-letters//n/2/requeue")
    assert answer.status_code == 202
    assert answer.json()["requeued"] == 1
    assert (await api.get(f"/submissions/{answer.json()['submission']}")).json()["accepted"] == 1
    assert (await api.delete("/dead-letters//n/1")).json() == {"purged": 1}
    assert (await api.get("/status")).json()["dead_letters"] == 1


async def test_an_unknown_dead_letter_is_not_found(api: AsyncClient, broker: Broker) -> None:
    await api.post("/documents", json=NOTE | {"tenant": "t"})
    await bury_all(broker, "broken")
    refused(await api.get("/dead-letters/note"), 404, "note")
    refused(await api.post("/dead-letters/note/requeue"), 404, "note")
    refused(await api.delete("/dead-letters/note"), 404, "note")
    assert (await api.get("/dead-letters/note", params={"tenant": "t"})).status_code == 200


async def test_a_payload_that_json_cannot_express_is_shown(
    api: AsyncClient, broker: Broker
) -> None:
    """The Python client can send values that HTTP cannot."""
    odd = {"day": date(2026, 2, 3), "tags": {"boat"}}
    await services(broker).client.submit("odd", source="s", text="x", metadata=odd)
    await bury_all(broker, "broken")
    shown = await api.get("/dead-letters/odd")
    assert shown.status_code == 200, shown.text
    assert shown.json()["payload"]["metadata"] == {"day": "2026-02-03", "tags": ["boat"]}


# Streams


def read_events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def test_a_stream_sends_progress_and_then_completes(broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(LIMIT, heartbeat_seconds=0.05))
    async with listening(app) as url, AsyncClient(base_url=url, timeout=60) as api:
        submission = (await api.post("/documents", json=NOTE)).json()["submission"]
        leases = lease_queue(broker)
        [claimed] = await take(leases)
        report = BatchReport(DocumentCounts(indexed=1), ChunkCounts(embedded=3))
        text = ""
        async with api.stream("GET", f"/submissions/{submission}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for part in stream.aiter_text():
                text += part
                if text.count("ping") >= 2:  # it is kept alive while nothing happens
                    await claims.finish(leases, claimed, report)
        first, *_, last = read_events(text)
        assert (first[0], first[1]["done"], first[1]["complete"]) == ("progress", 0, False)
        assert last == ("complete", (await api.get(f"/submissions/{submission}")).json())
        refused(await api.get("/submissions/nonesuch/events"), 404, "nonesuch")


async def test_a_stream_ends_when_the_server_stops(broker: Broker) -> None:
    stopping = asyncio.Event()
    app = create_app(services(broker), ApiConfig(LIMIT), stopping)
    async with listening(app) as url, AsyncClient(base_url=url, timeout=60) as api:
        submission = (await api.post("/documents", json=NOTE)).json()["submission"]
        async with api.stream("GET", f"/submissions/{submission}/events") as stream:
            parts = stream.aiter_text()
            assert "progress" in await anext(parts)
            stopping.set()
            assert "complete" not in "".join([part async for part in parts])


async def test_a_stream_ends_when_its_client_disconnects(broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(LIMIT))
    async with (
        listening(app) as url,
        AsyncClient(base_url=url, timeout=60) as api,
    ):  # waits for all requests
        submission = (await api.post("/documents", json=NOTE)).json()["submission"]
        async with api.stream("GET", f"/submissions/{submission}/events") as stream:
            assert "progress" in await anext(stream.aiter_text())


async def test_a_stream_that_ends_early_sends_the_reason(tmp_path: Path) -> None:
    async with unsupervised_redis(tmp_path) as redis_url:
        config = BrokerConfig(redis_url)
        async with connected(config) as redis:
            app = create_app(services(Broker(redis, config)), ApiConfig(LIMIT))
            async with listening(app) as url, AsyncClient(base_url=url, timeout=60) as api:
                submission = (await api.post("/documents", json=NOTE)).json()["submission"]
                async with api.stream("GET", f"/submissions/{submission}/events") as stream:
                    parts = stream.aiter_text()
                    await anext(parts)
                    await crash(redis)
                    text = "".join([part async for part in parts])
    [(name, said)] = read_events(text)
    assert name == "error"
    assert "Redis does not answer" in said["detail"]


def test_a_stream_does_not_delay_shutdown(ingestq: Ingestq) -> None:
    with serving(ingestq, drain_seconds="600") as served:
        submission = httpx.post(f"{served.url}/documents", json=NOTE, timeout=60).json()[
            "submission"
        ]
        events = f"{served.url}/submissions/{submission}/events"
        with httpx.stream("GET", events, timeout=60) as stream:
            parts = stream.iter_text()
            assert "progress" in next(parts)
            served.tell(signal.SIGTERM)
            assert "complete" not in "".join(parts)
        served.ends(0)


# Metrics


async def test_metrics_show_the_queue(api: AsyncClient, broker: Broker) -> None:
    await api.post("/documents", json=NOTE)
    await bury_all(broker, "broken")
    await api.post("/documents", json=NOTE)
    await api.post("/documents:batch", content=lines(NOTE), headers=LINES)
    leases = lease_queue(broker)
    for name, paused in (("w1", None), ("w2", "full")):
        await leases.heartbeat(name, WorkerInfo("host", 1, 0, 2.5, 10.0, paused))
    answer = await api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples[("ingestq_jobs", "ready")] == 2
    assert samples[("ingestq_jobs", "in_flight")] == 0
    assert samples[("ingestq_lane_jobs", "interactive")] == 1
    assert samples[("ingestq_lane_jobs", "bulk")] == 1
    assert samples[("ingestq_dead_letters",)] == 1
    assert samples[("ingestq_workers",)] == 2
    assert samples[("ingestq_workers_paused",)] == 1
    assert samples[("ingestq_documents_per_second",)] == 5
    assert samples[("ingestq_chunks_per_second",)] == 20
    assert samples[("ingestq_queue_bytes",)] > 0
    assert 0 <= samples[("ingestq_oldest_ready_seconds",)] < 60
