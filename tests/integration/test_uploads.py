"""Files over HTTP: they go to the blob store, and all of a form are queued or none."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response

from ingestq.api.app import ApiConfig, create_app
from ingestq.api.bodies.forms import MAX_FILES
from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig
from ingestq.core.documents import MAX_VERSION, Document, Lane
from ingestq.core.limits import METADATA_BYTES
from tests.claims import batch_of, lease_queue, take
from tests.harness import Harness
from tests.integration.test_blobs import stored_blobs
from tests.serving import listening, services
from tests.waiting import eventually

LIMIT = 100_000
TOKEN = "an-open-sesame-please"
PAGE = b"<html><head><title>Ropes</title></head><body><p>A bowline holds.</p></body></html>"
Files = list[tuple[str, tuple[str | None, bytes, str] | tuple[str | None, bytes]]]
TWO: Files = [("file", ("a/one.md", b"# One", "text/markdown")), ("file", ("two.pdf", b"%PDF-"))]


@asynccontextmanager
async def calling(broker: Broker, token: str | None = None) -> AsyncIterator[AsyncClient]:
    config = ApiConfig(LIMIT, token, collections=(broker.collection,))
    app = create_app(services(broker), config)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def api(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with calling(broker) as client:
        yield client


async def queued(broker: Broker) -> list[tuple[Document, bytes]]:
    """Return the documents of the only job on the queue, with their content."""
    assert broker.blobs is not None
    [claimed] = await take(lease_queue(broker))
    batch = batch_of(claimed)
    assert batch.lane is Lane.INTERACTIVE
    assert await stored_blobs(broker) == batch.blobs
    found = []
    for document in batch.documents:
        assert document.blob is not None
        async with broker.blobs.as_file(document.blob) as path:
            found.append((document, path.read_bytes()))
    return found


def refused(answer: Response, status: int, *said: str) -> None:
    assert answer.status_code == status, answer.text
    for words in said:
        assert words in answer.json()["detail"]


async def test_files_become_documents_with_their_names_as_ids(
    api: AsyncClient, broker: Broker
) -> None:
    about = {"tenant": "island", "version": "7", "metadata": json.dumps({"shelf": 3})}
    answer = await api.post("/documents", files=TWO, data=about)
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == 2
    (one, markdown), (two, pdf) = await queued(broker)
    assert (one.doc_id, one.source, one.media_type) == ("a/one.md", "a/one.md", "text/markdown")
    assert (two.doc_id, two.source, two.media_type) == ("two.pdf", "two.pdf", "application/pdf")
    assert (markdown, pdf) == (b"# One", b"%PDF-")
    for document in (one, two):
        assert (document.tenant, document.version) == ("island", 7)
        assert document.metadata == {"shelf": 3}
        assert not document.scanned


async def test_a_single_file_can_have_any_id(api: AsyncClient, broker: Broker) -> None:
    files: Files = [("file", ("scan.bin", PAGE, "application/octet-stream"))]
    answer = await api.post(
        "/documents", files=files, data={"doc_id": "rope/1", "source": "https://example.org"}
    )
    assert answer.status_code == 202, answer.text
    [(document, content)] = await queued(broker)
    assert (document.doc_id, document.source) == ("rope/1", "https://example.org")
    assert document.media_type == "application/octet-stream"
    assert content == PAGE


async def test_an_uploaded_file_is_indexed(harness: Harness) -> None:
    files: Files = [("file", ("rope.html", PAGE, "text/html"))]
    async with calling(harness.broker) as api:
        answer = await api.post("/documents", files=files)
    status = await harness.broker.client.wait(answer.json()["submission"], timeout=60)
    assert status.documents.indexed == 1
    [chunk] = await harness.payloads()
    assert chunk["doc_id"] == "rope.html"
    assert "bowline" in chunk["page_content"]
    assert await stored_blobs(harness.broker) == set()


@pytest.mark.parametrize(
    ("files", "data", "said"),
    [
        ([], {"doc_id": "a"}, "has no part 'file'"),
        (TWO, {"doc_id": "a"}, "single file"),
        (TWO, {"path": "/etc/passwd"}, "'path'"),
        (TWO, {"tenant": ["a", "b"]}, "repeated"),
        (TWO, {"version": "0"}, "version"),
        (TWO, {"version": str(MAX_VERSION + 1)}, "version"),
        (TWO, {"version": "soon"}, "version"),
        (TWO, {"metadata": "[]"}, "metadata"),
        (TWO, {"metadata": "{"}, "metadata"),
        (TWO, {"metadata": " " * METADATA_BYTES + "{}"}, "metadata"),
        ([*TWO, TWO[0]], {}, "same name"),
        ([("file", ("", b"a"))], {}, "no name"),
        ([("file", (f"{n}", b"a")) for n in range(MAX_FILES + 1)], {}, "more than 16 files"),
    ],
)
async def test_a_wrong_form_is_refused_and_leaves_no_blobs(
    api: AsyncClient, broker: Broker, files: Files, data: dict[str, Any], said: str
) -> None:
    multipart: Any = [*[(n, (None, v)) for n, v in _pairs(data)], *files]
    refused(await api.post("/documents", files=multipart), 422, said)
    assert await broker.queue.is_empty()
    assert await stored_blobs(broker) == set()


def _pairs(data: dict[str, Any]) -> list[tuple[str, str]]:
    values = {name: value if isinstance(value, list) else [value] for name, value in data.items()}
    return [(name, value) for name, listed in values.items() for value in listed]


@pytest.mark.parametrize(
    "body", [b"", b"no form", b"--b\r\n\r\n", b'--b\r\nContent-Disposition: form-data; name="file"']
)
async def test_a_body_that_is_not_a_form_is_refused(
    api: AsyncClient, broker: Broker, body: bytes
) -> None:
    for content_type in ("multipart/form-data; boundary=b", "multipart/form-data"):
        headers = {"Content-Type": content_type}
        refused(await api.post("/documents", content=body, headers=headers), 422)
    assert await stored_blobs(broker) == set()


async def test_a_file_that_is_too_large_is_refused_with_its_whole_form(
    api: AsyncClient, broker: Broker
) -> None:
    files: Files = [*TWO, ("file", ("large", b"x" * (LIMIT + 1)))]
    refused(await api.post("/documents", files=files), 413, "'large'", "INGESTQ_MAX_DOCUMENT_BYTES")
    assert await broker.queue.is_empty()
    assert await stored_blobs(broker) == set()
    files = [("file", ("just", b"x" * LIMIT)), ("file", ("right", b"x" * LIMIT))]
    assert (await api.post("/documents", files=files)).status_code == 202


async def test_a_full_queue_leaves_no_blobs(broker: Broker) -> None:
    full = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=1), broker.blobs)
    async with calling(full) as api:
        assert (await api.post("/documents", files=TWO)).status_code == 202
        kept = await stored_blobs(broker)
        refused(answer := await api.post("/documents", files=TWO), 429)
        assert answer.headers["Retry-After"] == "1"
    assert await stored_blobs(broker) == kept


async def test_an_unusable_blob_store_is_reported(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = Broker(broker.redis, broker.config, open_blob_store(str(tmp_path / "file")))
    async with calling(broken) as api:
        refused(await api.post("/documents", files=TWO), 503, "INGESTQ_BLOB_URL")
    assert await broker.queue.is_empty()


async def test_the_same_files_with_the_same_key_are_queued_once(
    api: AsyncClient, broker: Broker
) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [await api.post("/documents", files=TWO, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    others: Files = [TWO[0], ("file", ("two.pdf", b"%PDF-else"))]
    refused(await api.post("/documents", files=others, headers=headers), 422, "idempotency key")
    assert len(await queued(broker)) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Origin": "http://["},
    ],
)
async def test_forms_of_other_sites_are_refused_without_a_token(
    api: AsyncClient, broker: Broker, headers: dict[str, str]
) -> None:
    refused(await api.post("/documents", files=TWO, headers=headers), 403)
    assert await broker.queue.is_empty()
    async with calling(broker, TOKEN) as guarded:
        headers = headers | {"Authorization": f"Bearer {TOKEN}"}
        assert (await guarded.post("/documents", files=TWO, headers=headers)).status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://name.of.the.proxy", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://LOCALHOST"},
    ],
)
async def test_forms_of_own_pages_are_accepted(api: AsyncClient, headers: dict[str, str]) -> None:
    assert (await api.post("/documents", files=TWO, headers=headers)).status_code == 202


async def test_an_interrupted_upload_leaves_no_blobs(broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(LIMIT))
    async with listening(app) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        writer.write(
            b"POST /documents HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + part + b"x" * 30_000
        )
        await writer.drain()
        [unfinished] = await eventually(lambda: stored_blobs(broker))
        assert unfinished.endswith(".part")
        writer.close()
        await eventually(lambda: stored_blobs(broker), lambda there: not there)
    assert await broker.queue.is_empty()
