"""The HTTP API, in this process and as the installed command, on a real Redis."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport, AsyncClient, Response

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.core.documents import MAX_VERSION, Lane
from ingestq.core.jobs import dead_letter_batch
from ingestq.core.limits import METADATA_BYTES
from ingestq.core.listener import listen
from ingestq.core.results import (
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    SkippedFile,
    WatchedFolderStatus,
    WorkerInfo,
)
from tests import claims
from tests.claims import batch_of, lease_queue, take
from tests.command import Ingestq
from tests.running_command import serving
from tests.serving import services

LIMIT = 10_000
TOKEN = "an open sésame, please"
PLAIN_TOKEN = "dQw4w9WgXcQdQw4w9WgXcQ"
NOTE = {"doc_id": "note", "text": "The ferry leaves at noon."}
JSON = {"Content-Type": "application/json"}
DEEP = b'{"doc_id": "a", "text": "b", "metadata": ' + b'{"x":' * 2000 + b"1" + b"}" * 2001


@asynccontextmanager
async def calling(
    broker: Broker, token: str | None = None, silence_seconds: float = 30
) -> AsyncIterator[AsyncClient]:
    """Yield a client of an API on the queue of ``broker``."""
    app = create_app(services(broker), ApiConfig(LIMIT, token, silence_seconds))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def api(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with calling(broker) as client:
        yield client


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """Yield a client of an API whose Redis does not answer."""
    config = BrokerConfig(f"unix://{tmp_path}/nobody.sock")
    redis = connect(config)
    async with calling(Broker(redis, config)) as client:
        yield client
    await redis.aclose()


def refused(answer: Response, status: int, *said: str) -> None:
    """Assert that ``answer`` is an error with ``status`` whose detail contains all of ``said``."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"detail"}
    for words in said:
        assert words in answer.json()["detail"]


async def finish(broker: Broker, outcome: str) -> None:
    """Finish the only job on the queue, as a worker does."""
    leases = lease_queue(broker)
    [claimed] = await take(leases)
    report = BatchReport(DocumentCounts(indexed=1), ChunkCounts(embedded=3))
    if outcome == "rejected":
        report = dead_letter_batch(batch_of(claimed), "there is nothing in it", tries=1)
    assert await claims.finish(leases, claimed, report)


async def test_an_accepted_document_is_on_the_queue(
    api: AsyncClient, queue: JobQueue, broker: Broker
) -> None:
    document = NOTE | {
        "source": "https://example.org/note",
        "tenant": "island",
        "version": 7,
        "media_type": "text/plain",
        "metadata": {"tags": ["boat", "ü"], "page": 3},
    }
    answer = await api.post("/documents", json=document)
    assert answer.status_code == 202, answer.text
    receipt = answer.json()
    assert receipt == {"submission": receipt["submission"], "accepted": 1, "duplicates": 0}
    assert (await queue.depth()).ready == 1

    [claimed] = await take(lease_queue(broker))
    batch = batch_of(claimed)
    assert batch.lane is Lane.INTERACTIVE
    assert batch.submission == receipt["submission"]
    [queued] = batch.documents
    assert {name: getattr(queued, name) for name in document} == document
    assert queued.path is None


async def test_source_and_version_have_defaults(
    api: AsyncClient, queue: JobQueue, broker: Broker
) -> None:
    before = await queue.issue_version()
    assert (await api.post("/documents", json=NOTE)).status_code == 202
    [claimed] = await take(lease_queue(broker))
    [document] = batch_of(claimed).documents
    assert document.source == "note"
    assert before < document.version < await queue.issue_version()


async def test_a_submission_can_be_followed_until_it_is_complete(
    api: AsyncClient, broker: Broker
) -> None:
    submission = (await api.post("/documents", json=NOTE)).json()["submission"]
    none = {"indexed": 0, "unchanged": 0, "superseded": 0, "deleted": 0, "rejected": 0}
    no_chunks = {"embedded": 0, "reused": 0, "deleted": 0, "running": 0, "known": 0}
    waiting = {
        "submission": submission,
        "accepted": 1,
        "done": 0,
        "complete": False,
        "stage": "waiting",
        "documents": none,
        "chunks": no_chunks,
        "warned": 0,
        "tokens": 0,
        "dead_letters": [],
        "warnings": [],
    }
    assert (await api.get(f"/submissions/{submission}")).json() == waiting

    await finish(broker, "indexed")
    assert (await api.get(f"/submissions/{submission}")).json() == waiting | {
        "done": 1,
        "complete": True,
        "stage": "done",
        "documents": none | {"indexed": 1},
        "chunks": no_chunks | {"embedded": 3},
    }


async def test_a_dead_letter_is_shown_with_its_reason(api: AsyncClient, broker: Broker) -> None:
    submission = (await api.post("/documents", json=NOTE)).json()["submission"]
    await finish(broker, "rejected")
    answer = (await api.get(f"/submissions/{submission}")).json()
    assert answer["complete"]
    assert answer["documents"]["rejected"] == 1
    assert answer["dead_letters"] == [{"doc_id": "note", "reason": "there is nothing in it"}]
    assert (await api.get("/status")).json()["dead_letters"] == 1


async def test_an_unknown_submission_is_not_found(api: AsyncClient) -> None:
    refused(await api.get("/submissions/nonesuch"), 404, "nonesuch")


async def test_the_status_has_the_shape_of_the_command(api: AsyncClient, broker: Broker) -> None:
    await api.post("/documents", json=NOTE)
    info = WorkerInfo(
        "host",
        7,
        running=1,
        documents_per_second=2.5,
        chunks_per_second=9,
        paused="full",
        collections=("documents", "notes"),
    )
    await lease_queue(broker).heartbeat("worker-1", info)
    skipped = (SkippedFile("/srv/pipe", "neither a file nor a folder"),)
    folder = WatchedFolderStatus(
        folder="/srv", host="host", collection="documents", skipped=1, skipped_files=skipped
    )
    await broker.watched_folders.report(folder)
    status = (await api.get("/status")).json()
    assert status["watched_folders"] == [folder.as_json()]
    assert status.keys() == {
        "queue",
        "dead_letters",
        "workers",
        "unserved",
        "watched_folders",
        "held_back",
        "webhooks",
        "collection",
        "collections",
    }
    unknown = {
        "name": "documents",
        "documents": None,
        "chunks": None,
        "warned": None,
        "stale": None,
    }
    assert (status["collection"], status["collections"]) == (unknown, [unknown])
    assert status["unserved"] == {}
    queue = status["queue"]
    assert queue.keys() >= {"ready", "deferred", "in_flight", "oldest_ready_seconds", "bytes"}
    assert (queue["interactive"], queue["bulk"], queue["poison"]) == (1, 0, 0)
    assert (queue["ready"], queue["deferred"], queue["in_flight"]) == (1, 0, 0)
    assert queue["bytes"] > len(NOTE["text"])
    [worker] = status["workers"]
    assert 0 <= worker.pop("seen_seconds_ago") < 10
    assert worker == {
        "id": "worker-1",
        "host": "host",
        "pid": 7,
        "running": 1,
        "documents_per_second": 2.5,
        "chunks_per_second": 9,
        "paused": "full",
        "collections": ["documents", "notes"],
    }


async def test_a_full_queue_refuses_documents_with_retry_after(broker: Broker) -> None:
    full = Broker(broker.redis, BrokerConfig(broker.config.url, max_queue_jobs=1))
    async with calling(full) as api:
        assert (await api.post("/documents", json=NOTE)).status_code == 202
        answer = await api.post("/documents", json=NOTE)
    refused(answer, 429, "the queue is full")
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await broker.queue.depth()).ready == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": "x"}, "`doc_id`"),
        ({"doc_id": "a"}, "`text`"),
        (NOTE | {"path": "/etc/passwd"}, "`path`"),
        (NOTE | {"doc_id": ""}, "doc_id"),
        (NOTE | {"text": 7}, "text"),
        (NOTE | {"version": 0}, "version"),
        (NOTE | {"version": MAX_VERSION + 1}, "version"),
        (NOTE | {"metadata": ["a"]}, "metadata"),
        (NOTE | {"metadata": {"n": float("nan")}}, "JSON is malformed"),
        (NOTE | {"metadata": {"n": 10**400}}, "metadata"),
        (NOTE | {"metadata": {"n": 2**64}}, "metadata"),
        (NOTE | {"metadata": {"\ud800": "half of a pair"}}, "not a document"),
        (NOTE | {"metadata": {"long": "x" * METADATA_BYTES}}, "metadata"),
        ([NOTE], "array"),
        (b'{"doc_id": "a", "text": "b"}x', "JSON is malformed"),
        (b"", "not a document"),
        (b'{"doc_id": "a", "text": "\xff"}', "utf-8"),
        (b'{"doc_id": "a", "text": "b", "metadata": {"x": "\xff"}}', "metadata"),
        (DEEP, "nested more than 32 deep"),
    ],
)
async def test_a_wrong_body_is_refused(broker: Broker, body: Any, said: str) -> None:
    app = create_app(services(broker), ApiConfig(max_document_bytes=2 * METADATA_BYTES))
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as api:
        refused(await api.post("/documents", content=content, headers=JSON), 422, said)
    assert await broker.queue.is_empty()


async def test_a_body_that_is_not_declared_as_json_is_refused(
    api: AsyncClient, queue: JobQueue
) -> None:
    form = {"Content-Type": "text/plain"}
    answer = await api.post("/documents", content=json.dumps(NOTE), headers=form)
    refused(answer, 415, "application/json")
    assert await queue.is_empty()


class Upload:
    """A body in ``parts`` without a Content-Length; with ``halt`` it stops after the first."""

    def __init__(self, *parts: bytes, halt: bool = False) -> None:
        self._parts = parts
        self.sent = 0
        self.halted = asyncio.Event()
        self.go_on = asyncio.Event()
        if not halt:
            self.go_on.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
            self.sent += len(part)
            self.halted.set()
            await self.go_on.wait()


async def test_a_body_with_too_large_a_content_length_is_not_read(api: AsyncClient) -> None:
    upload = Upload(b"x" * 100)
    headers = JSON | {"Content-Length": str(LIMIT + 1)}
    answer = await api.post("/documents", content=upload, headers=headers)
    refused(answer, 413, str(LIMIT), "INGESTQ_MAX_DOCUMENT_BYTES")
    assert upload.sent == 0


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "10"}])
async def test_a_body_that_grows_too_large_is_not_read_further(
    api: AsyncClient, queue: JobQueue, headers: dict[str, str]
) -> None:
    upload = Upload(*[b"x" * 1000] * 1000)
    answer = await api.post("/documents", content=upload, headers=JSON | headers)
    refused(answer, 413, str(LIMIT))
    assert upload.sent <= LIMIT
    assert await queue.is_empty()


async def test_the_largest_body_is_accepted(api: AsyncClient) -> None:
    frame = len(json.dumps(NOTE | {"text": ""}))
    body = json.dumps(NOTE | {"text": "x" * (LIMIT - frame)})
    assert len(body) == LIMIT
    assert (await api.post("/documents", content=body, headers=JSON)).status_code == 202
    refused(await api.post("/documents", content=body + " ", headers=JSON), 413)


async def test_the_memory_of_all_uploads_is_bounded(api: AsyncClient) -> None:
    start = b'{"doc_id": "note", "text": "' + b"x" * (LIMIT * 9 // 10)
    uploads = [Upload(start, b'"}', halt=True) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(api.post("/documents", content=upload, headers=JSON))
            for upload in uploads
        ]
        for upload in uploads:
            await upload.halted.wait()
        answer = await api.post("/documents", content=start + b'"}', headers=JSON)
        refused(answer, 429, "too many uploads")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await api.post("/documents", json=NOTE)).status_code == 202
        for upload in uploads:
            upload.go_on.set()
    assert [post.result().status_code for post in posts] == [202, 202]
    answer = await api.post("/documents", content=start + b'"}', headers=JSON)
    assert answer.status_code == 202


async def test_a_silent_client_is_cut_off(broker: Broker) -> None:
    async with calling(broker, silence_seconds=0.05) as api:
        upload = Upload(b"{", b"}", halt=True)
        refused(await api.post("/documents", content=upload, headers=JSON), 408)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN],
)
async def test_requests_without_the_right_token_are_refused(
    broker: Broker, authorization: str
) -> None:
    headers = {b"Authorization": authorization.encode()}
    await refused_without_reading(broker, "POST", "/documents", headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/documents"),
        ("POST", "/documents:batch"),
        ("DELETE", "/documents/x"),
        ("GET", "/submissions/x"),
        ("GET", "/submissions/x/events"),
        ("GET", "/dead-letters"),
        ("GET", "/status"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/healthz/"),
        ("GET", "/nonesuch"),
    ],
)
async def test_every_path_needs_the_token(broker: Broker, method: str, path: str) -> None:
    await refused_without_reading(broker, method, path, {})


async def refused_without_reading(
    broker: Broker, method: str, path: str, headers: dict[bytes, bytes]
) -> None:
    async with calling(broker, TOKEN) as api:
        upload = Upload(b"x")
        answer = await api.request(method, path, headers=headers, content=upload)
        refused(answer, 401, "Bearer")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert upload.sent == 0


async def test_requests_with_the_token_are_answered(broker: Broker) -> None:
    async with calling(broker, TOKEN) as api:
        assert (await api.get("/healthz")).status_code == 200
        assert (await api.get("/readyz")).json()["checks"]["workers"] == "failed"
        for scheme in ("Bearer", "bearer"):
            headers = {b"Authorization": f"{scheme} {TOKEN}".encode()}
            assert (await api.post("/documents", json=NOTE, headers=headers)).status_code == 202
        schema = (await api.get("/openapi.json", headers=headers)).json()
    assert schema["paths"]["/documents"]["post"]["security"]
    assert "401" in schema["paths"]["/status"]["get"]["responses"]
    assert "security" not in schema["paths"]["/healthz"]["get"]


async def test_an_unreachable_redis_is_reported(away: AsyncClient) -> None:
    for answer in (
        await away.post("/documents", json=NOTE),
        await away.get("/submissions/x"),
        await away.get("/status"),
    ):
        refused(answer, 503, "Redis does not answer", "nobody.sock")
    for path in ("/healthz", "/livez"):
        assert (await away.get(path)).json() == {"status": "ok", "checks": {}}


async def test_metrics_say_that_redis_is_unreachable(away: AsyncClient) -> None:
    answer = await away.get("/metrics")
    assert answer.status_code == 200
    assert "\ningestq_redis_up 0.0\n" in answer.text
    assert "\ningestq_jobs{" not in answer.text


async def test_the_api_is_ready_once_a_worker_runs(broker: Broker) -> None:
    async with calling(broker) as api:
        answer = await api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "failed",
        "checks": {"redis": "ok", "workers": "failed"},
        "detail": "no worker is running; start `ingestq worker`",
    }
    await lease_queue(broker).heartbeat("worker-1", WorkerInfo("host", 7, 0, 0.0, 0.0))
    async with calling(broker) as api:
        answer = await api.get("/readyz")
    checks = {"redis": "ok", "workers": "ok"}
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": checks})


async def test_errors_are_in_the_openapi_document(api: AsyncClient) -> None:
    schema = (await api.get("/openapi.json")).json()
    post = schema["paths"]["/documents"]["post"]
    assert post["responses"].keys() == {"202", "403", "408", "413", "415", "422", "429", "503"}
    body = post["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["doc_id", "text"]
    assert not body["additionalProperties"]
    follow = schema["paths"]["/submissions/{submission}"]["get"]
    assert {"200", "404", "503"} <= follow["responses"].keys()
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    refused(await api.get("/nonesuch"), 404)
    refused(await api.get("/documents"), 405)


def test_the_command_serves_until_it_is_stopped(
    ingestq: Ingestq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # Python logs every import
    with serving(ingestq, api_token=PLAIN_TOKEN) as served:
        headers = {"Authorization": f"Bearer {PLAIN_TOKEN}"}
        assert httpx.get(f"{served.url}/healthz", timeout=60).status_code == 200
        assert httpx.get(f"{served.url}/status", timeout=60).status_code == 401
        answer = httpx.post(f"{served.url}/documents", json=NOTE, headers=headers, timeout=60)
        assert answer.status_code == 202
        submission = answer.json()["submission"]
        answer = httpx.get(f"{served.url}/submissions/{submission}", headers=headers, timeout=60)
        assert answer.json()["accepted"] == 1
        with served.connect() as gone:  # in the middle of its body
            gone.sendall(
                b"POST /documents HTTP/1.1\r\nHost: localhost\r\n"
                b"Authorization: Bearer " + PLAIN_TOKEN.encode() + b"\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
        served.tell(signal.SIGTERM)
        served.ends(0)
    assert PLAIN_TOKEN not in served.said()

    monkeypatch.delenv("PYTHONPROFILEIMPORTTIME")
    assert ingestq("status", "--json").json["queue"]["ready"] == 1
    imported = {
        line.rpartition("|")[2].strip()
        for line in served.said().splitlines()
        if line.startswith("import time:")
    }
    assert {"fastapi", "ingestq.api.app"} <= imported
    assert not imported & {"torch", "qdrant_client", "sentence_transformers", "xberg"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_can_finish_on_shutdown(ingestq: Ingestq, number: signal.Signals) -> None:
    body = json.dumps(NOTE).encode()
    head = (
        "POST /documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with serving(ingestq) as served, served.connect() as idle, served.connect() as request:
        request.sendall(head.encode())
        assert request.recv(1000).startswith(b"HTTP/1.1 100")  # it waits for the body
        served.tell(number)
        assert idle.recv(1) == b""  # it is stopping
        request.sendall(body)
        assert request.recv(1000).startswith(b"HTTP/1.1 202")
        served.ends(0)
    assert ingestq("status", "--json").json["queue"]["ready"] == 1


@pytest.mark.parametrize("drain_seconds", ["0", "600"])
def test_shutdown_does_not_wait_longer_than_the_drain_time(
    ingestq: Ingestq, drain_seconds: str
) -> None:
    with (
        serving(ingestq, drain_seconds=drain_seconds) as served,
        served.connect() as idle,
        served.connect() as request,
    ):
        request.sendall(
            b"POST /documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        )
        assert request.recv(1000).startswith(b"HTTP/1.1 100")
        served.tell(signal.SIGTERM)
        assert idle.recv(1) == b""
        if drain_seconds != "0":
            served.tell(signal.SIGTERM)
        served.ends(0)
        with suppress(ConnectionError):
            assert request.recv(1000) == b""  # cut off, not answered


async def test_responses_are_sent_without_delay() -> None:
    with await listen("127.0.0.1", 0, "INGESTQ_API") as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_named(ingestq: Ingestq) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ingestq.settings["api_port"] = port
        ingestq("api").failed_with(2, "INGESTQ_API_PORT", port, "in use")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_a_token_only_this_machine_is_served(ingestq: Ingestq, host: str) -> None:
    ingestq.settings["api_host"] = host
    ingestq("api").failed_with(2, "INGESTQ_API_TOKEN", "INGESTQ_API_HOST", host)


@pytest.mark.parametrize("host", ["192.0.2.1", "no..host", "nonesuch.invalid"])
def test_a_wrong_host_is_named(ingestq: Ingestq, host: str) -> None:
    ingestq.settings |= {"api_host": host, "api_token": PLAIN_TOKEN}
    ingestq("api").failed_with(2, "INGESTQ_API_HOST", host)


def test_localhost_is_served_without_a_token(ingestq: Ingestq) -> None:
    with serving(ingestq, api_host="localhost") as served:
        assert httpx.get(f"{served.url}/status", timeout=60).status_code == 200


def test_the_command_needs_redis(ingestq: Ingestq) -> None:
    ingestq.settings["redis_url"] = "redis://127.0.0.1:1"
    ingestq("api").failed_with(3, "Redis does not answer")
