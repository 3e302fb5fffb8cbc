"""What Prometheus is told: the queue as it is at the moment of a scrape.

Nothing is counted in this process, so any number of servers and restarts tell the same.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from broker import events
from broker.status import Overview


def exposition(overview: Overview) -> bytes:
    """``overview`` in the text format."""
    registry = CollectorRegistry()
    registry.register(_Scrape(overview))
    return generate_latest(registry)


class _Scrape(Collector):
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth, workers = self._overview.depth, self._overview.workers
        yield _labelled(
            events.METRIC_JOBS,
            "Jobs on the queue.",
            "state",
            {"ready": depth.ready, "deferred": depth.deferred, "in_flight": depth.in_flight},
        )
        yield _labelled(
            events.METRIC_LANE_JOBS,
            "Jobs on the queue, of each lane.",
            "lane",
            {"interactive": depth.interactive, "bulk": depth.bulk},
        )
        yield _labelled(
            events.METRIC_UNSERVED_JOBS,
            "Ready jobs of collections that no worker serves.",
            "collection",
            self._overview.unserved,
        )
        for name, what, value in (
            (events.METRIC_SUSPECT_JOBS, "Ready jobs over which workers died.", depth.suspects),
            (
                events.METRIC_OLDEST_READY_SECONDS,
                "How long the oldest ready job has waited.",
                depth.oldest_ready_seconds,
            ),
            (events.METRIC_QUEUE_BYTES, "Size of the jobs on the queue.", depth.queued_bytes),
            (events.METRIC_DEAD_LETTERS, "Documents that were given up.", depth.dead_letters),
            (events.METRIC_WORKERS, "Workers that are alive.", len(workers)),
            (
                events.METRIC_WORKERS_PAUSED,
                "Workers that are alive and claim no jobs.",
                sum(worker.paused is not None for worker in workers),
            ),
            (
                events.METRIC_DOCUMENTS_PER_SECOND,
                "What all workers did in the last minute.",
                sum(worker.documents_per_second for worker in workers),
            ),
            (
                events.METRIC_CHUNKS_PER_SECOND,
                "What all workers embedded in the last minute.",
                sum(worker.chunks_per_second for worker in workers),
            ),
        ):
            yield GaugeMetricFamily(name, what, value)


def _labelled(name: str, what: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
