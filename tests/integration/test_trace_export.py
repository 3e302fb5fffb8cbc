"""Commands export their spans to a collector, and do not mind if there is none."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from ingestq.app.settings import Settings
from ingestq.app.tracing import LIBRARY, patient
from ingestq.core import events
from tests.command import CommandResult, Ingestq

NOBODY = "http://127.0.0.1:1"
KEY = "canary-of-a-key-51c0"


class Collector(ThreadingHTTPServer):
    """Takes spans over OTLP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> dict[str, Span]:
        """Return the spans by name."""
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.server.keys.add(self.headers["x-key"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def note(ingestq: Ingestq, monkeypatch: pytest.MonkeyPatch) -> Ingestq:
    (ingestq.folder / "note.txt").write_text("A short note.", encoding="utf-8")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={KEY}")
    return ingestq


def log_of(ran: CommandResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]


def logged(ran: CommandResult, event: str) -> list[dict[str, Any]]:
    return [line for line in log_of(ran) if line["event"] == event]


@pytest.mark.slow
def test_a_command_exports_one_trace_of_a_document(
    note: Ingestq, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    ran = note("run", "note.txt", "-v")
    assert ran.code == 0, ran.err
    spans = collector.spans()
    process = spans["process arq:queue"]
    [upsert] = [
        span for name, span in spans.items() if name.startswith("upsert") and "ledger" not in name
    ]
    assert process.parent_span_id == spans["enqueue arq:queue"].span_id
    assert upsert.parent_span_id == spans["ingest"].span_id
    assert upsert.trace_id == process.trace_id
    assert collector.services() == {"ingestq"}
    assert collector.keys == {KEY}
    [finished] = logged(ran, events.JOB_FINISHED)
    assert finished["trace_id"] == process.trace_id.hex()
    assert KEY not in ran.err


def test_a_collector_that_is_away_is_said_once(
    note: Ingestq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", NOBODY)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    ran = note("add", "note.txt", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["documents"] == {"queued": 1, "rejected": 0}
    [said] = log_of(ran)
    assert said["event"] == events.TRACES_NOT_EXPORTED
    assert said["spans"] >= 1
    assert KEY not in ran.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracing", "code"), [(None, 0), ("true", 2), ("false", 0)], ids=["unset", "on", "off"]
)
def test_an_unknown_exporter_is_named(
    note: Ingestq, monkeypatch: pytest.MonkeyPatch, tracing: str | None, code: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nonesuch")
    if tracing is not None:
        note.settings["tracing"] = tracing
    ran = note("add", "note.txt", "--json")
    if code:
        ran.failed_with(code, "'nonesuch'", "otlp_proto_http")
        return
    assert ran.code == 0, ran.err
    reasons = [line["reason"] for line in logged(ran, events.TRACES_UNAVAILABLE)]
    assert len(reasons) == (1 if tracing is None else 0)
    assert all("'nonesuch'" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("tracing", "variables", "exporter"),
    [
        (None, {}, None),
        (True, {}, "otlp_proto_http"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY}, "otlp_proto_http"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": NOBODY}, "otlp_proto_http"),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_proto_http"),
        (None, {"OTEL_TRACES_EXPORTER": "console"}, "console"),
        (True, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        (None, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY, "OTEL_TRACES_EXPORTER": "none"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY, "OTEL_SDK_DISABLED": "true"}, None),
        (False, {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY}, None),
    ],
)
def test_the_usual_variables_decide_whether_spans_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
    tracing: bool | None,
    variables: dict[str, str],
    exporter: str | None,
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings(tracing=tracing).span_exporter == exporter


class Moody(SpanExporter):
    """An exporter that fails, raises or works."""

    mood = "fails"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        logging.getLogger(f"{LIBRARY}.exporter").error("Failed to export: refused")
        if self.mood == "raises":
            raise OSError("no route")
        return SpanExportResult.SUCCESS if self.mood == "works" else SpanExportResult.FAILURE


def test_an_outage_of_the_collector_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger(LIBRARY)
    before = list(logger.handlers), logger.propagate
    moody = Moody()
    try:
        exporter = patient(moody)
        span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
        assert isinstance(span, ReadableSpan)
        with capture_logs() as logs:
            for mood in ("fails", "raises", "works", "works", "fails"):
                moody.mood = mood
                for _ in range(100):
                    exporter.export([span])
    finally:
        logger.handlers, logger.propagate = before
    said = [(line["event"], line.get("error")) for line in logs]
    lost = (events.TRACES_NOT_EXPORTED, "Failed to export: refused")
    assert said == [lost, (events.TRACES_EXPORTED, None), lost]
    assert capsys.readouterr().err == ""
