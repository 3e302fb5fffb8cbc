"""Metrics in Prometheus' text format: what this process recorded, and the queue as it is now."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ingestq.core import metrics
from ingestq.core.metrics import CATALOGUE, Metric, MetricType
from ingestq.core.results import CollectionCounts, Overview

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST


class PrometheusRecorder:
    """Keeps what this process counts and measures, see `ingestq.core.metrics.Recorder`.

    Every series of the catalogue exists from the start: a counter that appears with its first
    event would hide that event from ``rate`` and ``increase``.
    """

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._counters: dict[tuple[Metric, tuple[str, ...]], Counter] = {}
        self._histograms: dict[tuple[Metric, tuple[str, ...]], Histogram] = {}
        for metric in CATALOGUE:
            if metric.kind is MetricType.COUNTER:
                counter = Counter(
                    metric.name, metric.help, tuple(metric.labels), registry=self._registry
                )
                for values in _label_values(metric):
                    child = counter.labels(*values) if values else counter
                    self._counters[metric, values] = child
            elif metric.kind is MetricType.HISTOGRAM:
                histogram = Histogram(
                    metric.name,
                    metric.help,
                    tuple(metric.labels),
                    buckets=metric.buckets,
                    registry=self._registry,
                )
                for values in _label_values(metric):
                    series = histogram.labels(*values) if values else histogram
                    self._histograms[metric, values] = series

    def count(self, metric: Metric, amount: float, labels: tuple[str, ...]) -> None:
        """See `Recorder`. Raises KeyError for a label that is not in the catalogue."""
        self._counters[metric, labels].inc(amount)

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        """See `Recorder`. Raises KeyError for a label that is not in the catalogue."""
        self._histograms[metric, labels].observe(value)

    def exposition(self) -> bytes:
        """Return what was recorded."""
        return prometheus_client.generate_latest(self._registry)


def _label_values(metric: Metric) -> Iterator[tuple[str, ...]]:
    values = metric.labels.values()
    assert not any(isinstance(each, str) for each in values), f"{metric.name} has open labels"
    yield from product(*values)


def queue_exposition(
    overview: Overview | None, collections: Iterable[CollectionCounts] = ()
) -> bytes:
    """Return the queue as gauges, and what the ``collections`` hold; None if Redis is away."""
    registry = CollectorRegistry()
    registry.register(_Gauges(overview, tuple(collections)))
    return prometheus_client.generate_latest(registry)


class _Gauges(Collector):
    def __init__(
        self, overview: Overview | None, collections: tuple[CollectionCounts, ...]
    ) -> None:
        self._overview = overview
        self._collections = collections

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _plain(metrics.REDIS_UP, self._overview is not None)
        if self._overview is not None:
            yield from _queue(self._overview)
        for metric, counts in (
            (metrics.STALE_DOCUMENTS, {each.name: each.stale for each in self._collections}),
            (metrics.WARNED_DOCUMENTS, {each.name: each.warned for each in self._collections}),
        ):
            yield _labelled(metric, {k: n for k, n in counts.items() if n is not None})


def _queue(overview: Overview) -> Iterator[GaugeMetricFamily]:
    depth, workers = overview.depth, overview.workers
    yield _labelled(
        metrics.JOBS,
        {"ready": depth.ready, "deferred": depth.deferred, "in_flight": depth.in_flight},
    )
    yield _labelled(metrics.LANE_JOBS, {"interactive": depth.interactive, "bulk": depth.bulk})
    yield _labelled(metrics.COLLECTION_READY_JOBS, overview.ready)
    yield _labelled(metrics.UNSERVED_JOBS, overview.unserved)
    yield _plain(metrics.POISON_JOBS, depth.poison)
    yield _plain(metrics.OLDEST_READY_SECONDS, depth.oldest_ready_seconds)
    yield _plain(metrics.QUEUE_BYTES, depth.queued_bytes)
    yield _plain(metrics.DEAD_LETTERS, depth.dead_letters)
    held_back = sum(source.documents for source in overview.held_back)
    yield _plain(metrics.HELD_BACK_DOCUMENTS, held_back)
    unavailable = sum(bool(folder.unavailable) for folder in overview.watched_folders)
    yield _plain(metrics.UNAVAILABLE_FOLDERS, unavailable)
    hooks = overview.webhooks
    yield _plain(metrics.WEBHOOKS_WAITING, sum(each.waiting for each in hooks))
    oldest = max((each.oldest_waiting_seconds for each in hooks), default=0)
    yield _plain(metrics.WEBHOOKS_OLDEST_SECONDS, oldest)
    yield _plain(metrics.WEBHOOKS_FAILED, sum(each.failed for each in hooks))
    yield _plain(metrics.WEBHOOKS_DROPPED, sum(each.dropped for each in hooks))
    yield _plain(metrics.WORKERS, len(workers))
    paused = sum(worker.paused is not None for worker in workers)
    yield _plain(metrics.WORKERS_PAUSED, paused)
    documents = sum(worker.documents_per_second for worker in workers)
    yield _plain(metrics.DOCUMENTS_PER_SECOND, documents)
    yield _plain(metrics.CHUNKS_PER_SECOND, sum(worker.chunks_per_second for worker in workers))


def _plain(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, value)


def _labelled(metric: Metric, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
    for key, value in values.items():
        family.add_metric([key], value)
    return family
