"""Metrics: the catalogue, what is recorded, and the dashboard and alerts that are made of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser as promql
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from ingestq.core import errors, metrics
from ingestq.core.errors import (
    BrokerUnavailable,
    Cause,
    CollectionMissing,
    DocumentRejected,
    IngestqError,
    LimitExceeded,
    PoolFailure,
    QueueFull,
    ServiceUnavailable,
    StoreFull,
    StoreTooSlow,
    StoreUnavailable,
    cause_of,
)
from ingestq.core.metrics import CATALOGUE, MetricType, WarningKind
from ingestq.core.results import CollectionCounts, Overview, QueueDepth, WorkerStatus
from ingestq.monitoring.exposition import PrometheusRecorder, queue_exposition
from tests.metrics_table import table, written
from worker.text.parts import warning_kind

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
ALERTS: Final = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
RULES: Final = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD: Final = json.loads((DEPLOY / "grafana/ingestq.json").read_text(encoding="utf-8"))
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGET_LABELS: Final = {"job", "instance"}
"""Labels that Prometheus adds."""
OF_OTHERS: Final = {
    "up": set[str](),
    "process_cpu_seconds_total": set[str](),
    "process_resident_memory_bytes": set[str](),
}
"""Metrics of Prometheus itself and of its client library, and their labels."""
DEPTH: Final = QueueDepth(3, 1, 2, 7.5, 100, 4, 1, 5, 1)


def series() -> dict[str, dict[str, tuple[str, ...] | str]]:
    """Return the labels of each series that processes expose, with their values."""
    found: dict[str, dict[str, tuple[str, ...] | str]] = {}
    for metric in CATALOGUE:
        labels = dict(metric.labels)
        if metric.kind is MetricType.HISTOGRAM:
            found[f"{metric.name}_bucket"] = labels | {"le": "a limit"}
            found[f"{metric.name}_sum"] = found[f"{metric.name}_count"] = labels
        else:
            found[metric.name] = labels
    return found


def nodes_of(query: str) -> list[promql.Expr]:
    """Return all nodes of ``query``. Raises ValueError if it is no PromQL."""
    found: list[promql.Expr] = []
    promql.walk(promql.parse(query.replace("$__rate_interval", "5m")), found.append)
    return found


def queries() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")


# The catalogue


def test_names_are_those_of_prometheus() -> None:
    for metric in CATALOGUE:
        assert re.fullmatch(r"ingestq_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is MetricType.COUNTER), metric.name
        assert bool(metric.buckets) == (metric.kind is MetricType.HISTOGRAM), metric.name
        assert sorted(metric.buckets) == list(metric.buckets)
        assert metric.help.endswith(".")
        assert metric.unit
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)


def test_only_gauges_have_labels_with_open_values() -> None:
    """A counter of a process exists from its start, with every value of its labels."""
    for metric in CATALOGUE:
        is_open = any(isinstance(values, str) for values in metric.labels.values())
        assert not is_open or metric.kind is MetricType.GAUGE, metric.name


def test_the_documented_table_is_that_of_the_catalogue() -> None:
    assert written() == table(), "run `python -m tests.metrics_table`"


# What is recorded


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_series_of_a_process_exists_from_its_start() -> None:
    exposed = {name for name, *_ in samples(PrometheusRecorder().exposition())}
    own = {
        name
        for metric in CATALOGUE
        if metric.kind is not MetricType.GAUGE
        for name in series()
        if name.startswith(metric.name)
    }
    assert own <= exposed
    assert OF_OTHERS.keys() - {"up"} <= exposed or not Path("/proc").is_dir()


def test_every_gauge_is_exposed_with_its_labels() -> None:
    worker = WorkerStatus("w", "host", 1, 0.0, 0, 2.0, 30.0, paused="full", collections=("a",))
    overview = Overview(DEPTH, [worker], {"a": 2, "b": 1})
    counts = [CollectionCounts("a", 1, 1, warned=2, stale=3), CollectionCounts("b")]
    exposed = samples(queue_exposition(overview, counts))
    assert {name for name, *_ in exposed} == {
        m.name for m in CATALOGUE if m.kind is MetricType.GAUGE
    }
    assert exposed["ingestq_jobs", "in_flight"] == 2
    assert exposed["ingestq_collection_ready_jobs", "a"] == 2
    assert exposed["ingestq_unserved_jobs", "b"] == 1
    assert exposed["ingestq_workers_paused",] == 1
    assert exposed["ingestq_stale_documents", "a"] == 3
    assert ("ingestq_stale_documents", "b") not in exposed


def test_what_is_counted_and_observed_is_exposed() -> None:
    recorder = PrometheusRecorder()
    metrics.count(metrics.LEASES_LOST)  # nobody records
    with metrics.recording(recorder):
        metrics.count(metrics.LEASES_LOST)
        metrics.count(metrics.CHUNKS, "reused", amount=5)
        metrics.count_error(metrics.ServiceName.REDIS, BrokerUnavailable("away"))
        metrics.observe(metrics.STAGE_SECONDS, 0.3, "ocr")
    metrics.count(metrics.LEASES_LOST)
    exposed = samples(recorder.exposition())
    assert exposed["ingestq_leases_lost_total",] == 1
    assert exposed["ingestq_chunks_total", "reused"] == 5
    assert exposed["ingestq_service_errors_total", "redis", "redis"] == 1
    assert exposed["ingestq_stage_seconds_count", "ocr"] == 1
    assert exposed["ingestq_stage_seconds_bucket", "0.25", "ocr"] == 0
    assert exposed["ingestq_stage_seconds_bucket", "0.5", "ocr"] == 1


# Classes of reasons


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (BrokerUnavailable("x"), Cause.REDIS),
        (StoreFull("x"), Cause.QDRANT_FULL),
        (StoreTooSlow("x"), Cause.QDRANT_SLOW),
        (StoreUnavailable("x"), Cause.QDRANT),
        (CollectionMissing("x"), Cause.COLLECTION_MISSING),
        (QueueFull(1.0), Cause.QUEUE_FULL),
        (LimitExceeded("x"), Cause.LIMIT),
        (PoolFailure("x"), Cause.PROCESS_DIED),
        (DocumentRejected("x"), Cause.DOCUMENT),
        (ValueError("x"), Cause.UNEXPECTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.value,
)
def test_each_error_has_the_class_of_its_reason(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


def test_a_document_that_is_rejected_for_its_process_has_the_class_of_that() -> None:
    with pytest.raises(DocumentRejected) as rejected:
        raise DocumentRejected("x") from LimitExceeded("x")
    assert cause_of(rejected.value) is Cause.LIMIT


def test_no_error_of_ingestq_is_unexpected() -> None:
    """Except those that become none of a job, a document or a request."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    found = {
        kind.__name__
        for kind in kinds
        if issubclass(kind, IngestqError)
        and not any(issubclass(kind, known) for known, _ in errors.CAUSES)
    }
    assert found == {"IngestqError", "ServiceUnavailable", "KeyReused", "UploadExpired"} | {
        "SourceFailed",
        "NotPermitted",
    }
    assert cause_of(ServiceUnavailable("x")) is Cause.UNEXPECTED


@pytest.mark.parametrize(
    ("warning", "kind"),
    [
        ("the document is empty", WarningKind.EMPTY),
        ("2 of 5 pages have no text: 1, 4", WarningKind.PAGES),
        ("OCR found no text on 1 of 2 pages", WarningKind.PAGES),
        ("'x.zip' was skipped: it is encrypted", WarningKind.ENCRYPTED),
        ("'x.bin' was skipped: no text can be read from it", WarningKind.SKIPPED),
        ("sheet 'Data' was skipped: it is too large", WarningKind.SKIPPED),
        ("its end is missing, so it was cut off: pages may be missing", WarningKind.DAMAGED),
        ("3 characters are not valid UTF-8 and were replaced", WarningKind.ENCODING),
        ("1 NUL character was removed", WarningKind.ENCODING),
        ("something else", WarningKind.OTHER),
    ],
)
def test_warnings_have_a_kind(warning: str, kind: WarningKind) -> None:
    assert warning_kind(warning) is kind


# Dashboard and alerts


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_names_series_and_labels_that_exist(query: str) -> None:
    known = series() | {name: {} for name in OF_OTHERS}
    nodes = nodes_of(query)
    selectors = [node for node in nodes if isinstance(node, promql.VectorSelector)]
    assert selectors
    labels: set[str] = set(TARGET_LABELS)
    for selector in selectors:
        assert selector.name in known
        own = known[selector.name]
        labels |= own.keys()
        for matcher in selector.matchers.matchers:
            assert matcher.name in own.keys() | TARGET_LABELS
            values = own.get(matcher.name)
            if isinstance(values, tuple):
                assert set(matcher.value.split("|")) <= set(values)
    for node in nodes:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels


@pytest.mark.parametrize("query", list(queries()))
def test_counters_are_only_used_as_rates(query: str) -> None:
    counters = {m.name for m in CATALOGUE if m.kind is MetricType.COUNTER}
    nodes = nodes_of(query)
    ranges = {n.vector_selector.name for n in nodes if isinstance(n, promql.MatrixSelector)}
    used = {n.name for n in nodes if isinstance(n, promql.VectorSelector)}
    assert used & counters <= ranges


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        node.name
        for panel in PANELS
        for target in panel["targets"]
        for node in nodes_of(target["expr"])
        if isinstance(node, promql.VectorSelector)
    }
    missing = [
        metric.name
        for metric in CATALOGUE
        if not any(name and name.startswith(metric.name) for name in shown)
    ]
    assert missing == []


def test_every_panel_says_what_it_shows() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Queue", "Throughput", "Stages", "Pool", "Failures", "Health", "Webhooks"]
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith((".", "`"))
        assert panel["fieldConfig"]["defaults"]["unit"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            outer = nodes_of(target["expr"])[0]
            if isinstance(outer, promql.AggregateExpr):
                kept = set(outer.modifier.labels) if outer.modifier else set()
                assert named <= kept, panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alerts_say_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "runbook"}


def test_alerts_name_labels_that_their_query_keeps() -> None:
    for rule in RULES:
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        kept = set(TARGET_LABELS) if rule["expr"].startswith("up") else set[str]()
        for node in nodes_of(rule["expr"]):
            if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
                kept |= set(node.modifier.labels)
        assert named <= kept, rule["alert"]


def test_the_example_of_a_scrape_loads_the_rules() -> None:
    path = DEPLOY / "prometheus/prometheus.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["rule_files"] == ["alerts.yml"]
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert all(re.fullmatch("ingestq.*", name) for name in jobs)
