"""The overview of the queue names the collections that wait for a worker."""

from ingestq.core.results import Overview, QueueDepth, WorkerStatus

DEPTH = QueueDepth(
    ready=3,
    deferred=0,
    in_flight=0,
    oldest_ready_seconds=1.0,
    queued_bytes=100,
    dead_letters=0,
    interactive=0,
    bulk=3,
    poison=0,
)


def test_only_collections_with_ready_jobs_and_without_a_worker_are_unserved() -> None:
    worker = WorkerStatus("w", "host", 1, 0.0, 0, 0.0, 0.0, collections=("served",))
    ready = {"idle": 0, "served": 2, "waiting": 1}
    assert Overview(DEPTH, [worker], ready).unserved == {"waiting": 1}
    assert Overview(DEPTH, [], ready).unserved == {"served": 2, "waiting": 1}
