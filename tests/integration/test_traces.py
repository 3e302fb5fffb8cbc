"""One trace leads from a producer's call through the queue to the upsert."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from ingestq.api.app import ApiConfig, create_app
from ingestq.broker import keys
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.log_setup import LogFormat, configure_logging
from ingestq.core.tracing import TraceContext, continued, current
from tests.harness import Harness
from tests.serving import services
from tests.tracing import RecordedSpans, is_child, recorded_spans, trace_id
from tests.waiting import eventually

SECRET = "canary-of-the-text-7f3a"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""A traceparent that a caller sends."""


@pytest.fixture
def spans() -> Iterator[RecordedSpans]:
    with recorded_spans() as recorded:
        yield recorded


@pytest.fixture
async def api(harness: Harness) -> AsyncIterator[AsyncClient]:
    config = ApiConfig(10_000, collections=(harness.names.alias,))
    app = create_app(services(harness.broker), config)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def finished(
    spans: RecordedSpans, submission: str, harness: Harness, *, jobs: int = 1
) -> None:
    """Wait until a submission is complete, and the spans of its jobs have ended."""
    await harness.client.wait(submission, timeout=60)

    async def processed() -> int:
        return len(spans.named("process"))

    await eventually(processed, lambda count: count == jobs)


async def test_one_trace_leads_from_the_call_to_the_upsert(
    harness: Harness, spans: RecordedSpans
) -> None:
    tracer = spans.provider.get_tracer("the caller")
    with tracer.start_as_current_span("checkout"):
        receipt = await harness.client.submit("a", text=f"A note: {SECRET}.", source="s")
    await finished(spans, receipt.submission, harness)

    caller, enqueue, process = spans.one("checkout"), spans.one("enqueue"), spans.one("process")
    [document] = [span for span in spans.named("ingest") if span.kind is SpanKind.INTERNAL]
    assert is_child(enqueue, caller)
    assert is_child(process, enqueue)
    assert is_child(document, process)
    upserts = spans.named(f"upsert {harness.names.chunks}")
    for inner in (spans.one("prepare"), spans.one("embeddings"), *upserts):
        assert is_child(inner, document)
    assert len(upserts) == 1
    assert {trace_id(span) for span in spans.all()} == {trace_id(caller)}


async def test_spans_follow_the_conventions(harness: Harness, spans: RecordedSpans) -> None:
    receipt = await harness.client.submit("a", text="A note.", source="s")
    await finished(spans, receipt.submission, harness)

    enqueue, process = spans.one("enqueue"), spans.one("process")
    assert (enqueue.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    for span, operation, kind in ((enqueue, "enqueue", "send"), (process, "process", "process")):
        assert span.name == f"{operation} {keys.QUEUE}"
        has(
            span,
            {
                "messaging.system": "redis",
                "messaging.destination.name": keys.QUEUE,
                "messaging.operation.name": operation,
                "messaging.operation.type": kind,
                "ingestq.submission": receipt.submission,
                "ingestq.collection": harness.names.alias,
            },
        )
    assert attribute(enqueue, "messaging.message.id") == attribute(process, "messaging.message.id")

    info = harness.model.info
    embedding = spans.one("embeddings")
    assert embedding.name == f"embeddings {info.name}"
    has(
        embedding,
        {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.request.model": info.name,
            "gen_ai.embeddings.dimension.count": info.dimension,
        },
    )
    assert attribute(embedding, "gen_ai.usage.input_tokens") > 0
    [upsert] = spans.named(f"upsert {harness.names.chunks}")
    assert upsert.kind is SpanKind.CLIENT
    has(
        upsert,
        {
            "db.system.name": "qdrant",
            "db.operation.name": "upsert",
            "db.collection.name": harness.names.chunks,
        },
    )
    has(spans.one("ingest"), {"ingestq.doc_id": "a", "ingestq.outcome": "indexed"})


async def test_documents_of_one_call_share_its_trace(
    harness: Harness, spans: RecordedSpans
) -> None:
    documents = [
        Document(doc_id=f"d{n}", version=1, source="s", text=f"Note {n}.") for n in range(40)
    ]
    receipt = await harness.client.submit_many(documents)
    await finished(spans, receipt.submission, harness, jobs=3)
    enqueue = spans.one("enqueue")
    has(enqueue, {"messaging.batch.message_count": 3, "ingestq.documents": 40})
    assert all(is_child(process, enqueue) for process in spans.named("process"))
    assert len(spans.named("ingest")) == 40


async def test_a_request_continues_the_trace_of_its_sender(
    harness: Harness, api: AsyncClient, spans: RecordedSpans
) -> None:
    answer = await api.post(
        "/documents",
        json={"doc_id": "a", "text": "A note.", "source": "s"},
        headers={"traceparent": CALLER},
    )
    await finished(spans, answer.json()["submission"], harness)
    request = spans.one("POST")
    assert request.name == "POST /documents"
    assert request.kind is SpanKind.SERVER
    has(request, {"http.route": "/documents", "http.response.status_code": answer.status_code})
    assert f"{trace_id(request):032x}" == CALLER.split("-")[1]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER.split("-")[2]
    assert is_child(spans.one("enqueue"), request)
    assert {trace_id(span) for span in spans.all()} == {trace_id(request)}


@pytest.mark.parametrize("sent", ["", "nonsense", "00-0-0-00", f"{CALLER}{'x' * 5000}"])
async def test_a_wrong_traceparent_starts_a_new_trace(
    harness: Harness, api: AsyncClient, spans: RecordedSpans, sent: str
) -> None:
    answer = await api.post(
        "/documents",
        json={"doc_id": "a", "text": "A note.", "source": "s"},
        headers={"traceparent": sent},
    )
    await finished(spans, answer.json()["submission"], harness)
    assert spans.one("POST").parent is None


async def test_health_checks_are_not_recorded(api: AsyncClient, spans: RecordedSpans) -> None:
    for path in ("/healthz", "/metrics"):
        assert (await api.get(path)).status_code == 200
    assert spans.all() == []


async def test_a_rejected_document_fails_its_span(harness: Harness, spans: RecordedSpans) -> None:
    receipt = await harness.client.submit("a", path=str(harness.root / "missing"), source="s")
    await finished(spans, receipt.submission, harness)
    document = spans.one("ingest")
    assert document.status.status_code is StatusCode.ERROR
    has(document, {"ingestq.outcome": "rejected", "error.type": "rejected"})


async def test_no_span_and_no_line_holds_text_or_a_secret(
    harness: Harness, spans: RecordedSpans, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(logging.DEBUG, LogFormat.JSON)
    broken = harness.root / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7\n" + SECRET.encode() * 100)
    documents = [
        Document(doc_id="a", version=1, source="s", text=SECRET, metadata={"key": SECRET}),
        Document(
            doc_id=f"https://user:{SECRET}@host/b?key={SECRET}", version=1, source="s", text="B"
        ),
        Document(doc_id="c", version=1, source="s", path=str(broken)),
        Document(doc_id="d", version=1, source="s", text=SECRET, media_type="application/pdf"),
    ]
    receipt = await harness.client.submit_many(documents)
    await finished(spans, receipt.submission, harness)
    assert len(spans.named("ingest")) == 4
    assert SECRET not in json.dumps([json.loads(span.to_json()) for span in spans.all()])
    said = capsys.readouterr().err
    assert events.DOCUMENT_REJECTED in said
    assert SECRET not in said


async def test_lines_of_the_log_name_their_trace(
    harness: Harness, spans: RecordedSpans, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(logging.DEBUG, LogFormat.JSON)
    receipt = await harness.client.submit("a", path=str(harness.root / "missing"), source="s")
    await finished(spans, receipt.submission, harness)
    logged: list[dict[str, str]] = []

    async def is_logged() -> bool:
        logged.extend(map(json.loads, capsys.readouterr().err.splitlines()))
        return events.JOB_FINISHED in {line["event"] for line in logged}

    await eventually(is_logged)
    document = spans.one("ingest")
    for name in (events.DOCUMENT_REJECTED, events.JOB_FINISHED):
        [line] = [line for line in logged if line["event"] == name]
        assert line["trace_id"] == f"{trace_id(document):032x}"
        assert line["submission"] == receipt.submission
        assert line["job"] == attribute(spans.one("process"), "messaging.message.id")
    [rejected] = [line for line in logged if line["event"] == events.DOCUMENT_REJECTED]
    assert rejected["doc_id"] == "a"


async def test_without_a_recorded_span_nothing_travels(harness: Harness) -> None:
    with capture_logs():
        assert current() is None
        with continued(TraceContext("nonsense")):
            assert current() is None


def attribute(span: ReadableSpan, name: str) -> Any:
    assert span.attributes is not None
    return span.attributes[name]


def has(span: ReadableSpan, expected: dict[str, str | int]) -> None:
    """Assert that ``span`` has the attributes ``expected``, and maybe more."""
    assert span.attributes is not None
    assert {name: span.attributes.get(name) for name in expected} == expected
