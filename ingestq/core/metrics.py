"""The catalogue of metrics, and where they are recorded: each name is defined here only.

Whatever counts or measures calls `count` and `observe`. They do nothing, at the cost of a call,
until the process records with a `Recorder` (`recording`): pipeline, broker and store know nothing
of Prometheus. Every label has few values, all known before: never a name or a text that a user
chose, except for the names of collections, which the settings list.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from ingestq.core.documents import Lane
from ingestq.core.errors import Cause, ProcessEnd, cause_of
from ingestq.core.results import EnqueueResult


class MetricType(StrEnum):
    """The type of a metric, as Prometheus names it."""

    COUNTER = "counter"
    """Grows while its process runs; its name ends with ``_total``."""
    GAUGE = "gauge"
    """The state at the moment of the scrape."""
    HISTOGRAM = "histogram"
    """Counts observations in buckets."""


class PipelineStage(StrEnum):
    """A step of a document's way into the index."""

    READ = "read"
    EXTRACT = "extract"
    OCR = "ocr"
    CHUNK = "chunk"
    EMBED = "embed"
    VECTORS = "vectors"
    UPSERT = "upsert"
    DELETE = "delete"
    LEDGER = "ledger"


class ServiceName(StrEnum):
    """A service that a process asks."""

    REDIS = "redis"
    QDRANT = "qdrant"
    EMBEDDINGS = "embeddings_endpoint"
    RERANKER = "reranker"


class WarningKind(StrEnum):
    """What a warning about a document says in general."""

    EMPTY = "empty"
    PAGES = "pages_without_text"
    SKIPPED = "skipped"
    ENCODING = "encoding"
    ENCRYPTED = "encrypted"
    DAMAGED = "damaged"
    OTHER = "other"


COLLECTIONS: Final = "the names of collections"
"""The values of a label that the settings decide."""
OUTCOMES: Final = ("indexed", "unchanged", "superseded", "deleted", "rejected")
CHUNK_CHANGES: Final = ("embedded", "reused", "deleted")
JOB_ENDS: Final = ("done", "failed", "aborted")
PROCESS_KINDS: Final = ("parse", "embedding")
WEBHOOK_RESULTS: Final = ("delivered", "retried", "failed")

SECONDS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600)
"""From a look-up in the ledger to OCR of a long document."""
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
"""Around 50 ms, which the event loop stays under."""
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

_catalogue: Final[list["Metric"]] = []


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric: its name, what it says, and the values of each of its labels."""

    name: str
    kind: MetricType
    help: str
    unit: str
    labels: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _catalogue.append(self)


def _gauge(
    name: str, text: str, unit: str, labels: Mapping[str, tuple[str, ...] | str] | None = None
) -> Metric:
    return Metric(name, MetricType.GAUGE, text, unit, labels or {})


def _counter(
    name: str, text: str, unit: str, labels: Mapping[str, tuple[str, ...] | str] | None = None
) -> Metric:
    return Metric(name, MetricType.COUNTER, text, unit, labels or {})


def _histogram(
    name: str,
    text: str,
    unit: str,
    buckets: tuple[float, ...],
    labels: Mapping[str, tuple[str, ...] | str] | None = None,
) -> Metric:
    return Metric(name, MetricType.HISTOGRAM, text, unit, labels or {}, buckets)


def _values(of: type[StrEnum]) -> tuple[str, ...]:
    return tuple(member.value for member in of)


# The queue and the index at the moment of the scrape. Every process reports the same.

REDIS_UP: Final = _gauge(
    "ingestq_redis_up", "1 if Redis answered this scrape; if not, the queue is unknown.", "0 or 1"
)
JOBS: Final = _gauge(
    "ingestq_jobs",
    "Jobs on the queue.",
    "jobs",
    {"state": ("ready", "deferred", "in_flight")},
)
LANE_JOBS: Final = _gauge(
    "ingestq_lane_jobs", "Jobs on the queue, by lane.", "jobs", {"lane": _values(Lane)}
)
COLLECTION_READY_JOBS: Final = _gauge(
    "ingestq_collection_ready_jobs",
    "Ready jobs, by collection.",
    "jobs",
    {"collection": COLLECTIONS},
)
UNSERVED_JOBS: Final = _gauge(
    "ingestq_unserved_jobs",
    "Ready jobs of collections that no worker serves.",
    "jobs",
    {"collection": COLLECTIONS},
)
POISON_JOBS: Final = _gauge(
    "ingestq_poison_jobs", "Ready jobs over which workers died; each runs alone.", "jobs"
)
OLDEST_READY_SECONDS: Final = _gauge(
    "ingestq_oldest_ready_seconds", "How long the oldest ready job has waited.", "seconds"
)
QUEUE_BYTES: Final = _gauge("ingestq_queue_bytes", "Size of the jobs on the queue.", "bytes")
DEAD_LETTERS: Final = _gauge(
    "ingestq_dead_letters", "Documents that failed and wait for somebody.", "documents"
)
HELD_BACK_DOCUMENTS: Final = _gauge(
    "ingestq_held_back_documents",
    "Documents whose deletion the mass-deletion guard holds back.",
    "documents",
)
UNAVAILABLE_FOLDERS: Final = _gauge(
    "ingestq_unavailable_folders",
    "Watched folders, also remote ones, of which nothing can be read now.",
    "folders",
)
WEBHOOKS_WAITING: Final = _gauge(
    "ingestq_webhooks_waiting", "Messages that wait to be posted to a webhook.", "messages"
)
WEBHOOKS_OLDEST_SECONDS: Final = _gauge(
    "ingestq_webhooks_oldest_waiting_seconds",
    "How long the oldest message has waited to be posted to a webhook.",
    "seconds",
)
WEBHOOKS_FAILED: Final = _gauge(
    "ingestq_webhooks_failed",
    "Messages that no webhook took, and that are not tried any more.",
    "messages",
)
WEBHOOKS_DROPPED: Final = _gauge(
    "ingestq_webhooks_dropped",
    "Messages that were dropped since the queue was made, because too many waited for one webhook.",
    "messages",
)
WORKERS: Final = _gauge("ingestq_workers", "Workers that are alive.", "workers")
WORKERS_PAUSED: Final = _gauge(
    "ingestq_workers_paused", "Workers that are alive and claim no jobs.", "workers"
)
DOCUMENTS_PER_SECOND: Final = _gauge(
    "ingestq_documents_per_second",
    "Documents per second of all workers in the last minute.",
    "documents per second",
)
CHUNKS_PER_SECOND: Final = _gauge(
    "ingestq_chunks_per_second",
    "Chunks embedded per second by all workers in the last minute.",
    "chunks per second",
)
STALE_DOCUMENTS: Final = _gauge(
    "ingestq_stale_documents",
    "Indexed documents whose newest version was rejected; API, `up` and workers only.",
    "documents",
    {"collection": COLLECTIONS},
)
WARNED_DOCUMENTS: Final = _gauge(
    "ingestq_warned_documents",
    "Indexed documents of which something could not be read; API, `up` and workers only.",
    "documents",
    {"collection": COLLECTIONS},
)

# What this process has done since it started.

ENQUEUED_DOCUMENTS: Final = _counter(
    "ingestq_enqueued_documents_total",
    "Documents that this process offered to the queue, by the answer.",
    "documents",
    {"result": _values(EnqueueResult)},
)
DOCUMENTS: Final = _counter(
    "ingestq_documents_total",
    "Documents that this worker finished, by outcome.",
    "documents",
    {"outcome": OUTCOMES},
)
DEAD_LETTERED: Final = _counter(
    "ingestq_dead_lettered_documents_total",
    "Documents that this worker dead-lettered, by the class of the reason.",
    "documents",
    {"reason": _values(Cause)},
)
RETRIES: Final = _counter(
    "ingestq_job_retries_total",
    "Jobs that this worker returned to the queue, by the class of the reason.",
    "jobs",
    {"reason": _values(Cause)},
)
LEASES_LOST: Final = _counter(
    "ingestq_leases_lost_total",
    "Jobs whose lease this worker lost, so that another one runs them.",
    "jobs",
)
JOB_SECONDS: Final = _histogram(
    "ingestq_job_seconds",
    "Time from the claim of a job until its ack, by how it ended.",
    "seconds",
    SECONDS,
    {"end": JOB_ENDS},
)
STAGE_SECONDS: Final = _histogram(
    "ingestq_stage_seconds",
    "Time of one step: read, extract, ocr and chunk for each document or segment, in its parse "
    "process; embed for each batch; vectors, upsert, delete and ledger for each group of requests "
    "to Qdrant.",
    "seconds",
    SECONDS,
    {"stage": _values(PipelineStage)},
)
CHUNKS: Final = _counter(
    "ingestq_chunks_total",
    "Chunks of finished documents, by what became of them.",
    "chunks",
    {"change": CHUNK_CHANGES},
)
EMBEDDED_CHUNKS: Final = _counter(
    "ingestq_embedded_chunks_total",
    "Chunks for which vectors were computed; those of retried documents count again.",
    "chunks",
)
EMBEDDED_TOKENS: Final = _counter(
    "ingestq_embedded_tokens_total",
    "Tokens of the chunks for which vectors were computed, without padding.",
    "tokens",
)
BATCH_CHUNKS: Final = _histogram(
    "ingestq_batch_chunks", "Chunks of a batch.", "chunks", BATCH_SIZES
)
BATCH_FILL: Final = _histogram(
    "ingestq_batch_fill_ratio",
    "Tokens of a batch with padding, as a share of its budget.",
    "ratio",
    SHARES,
)
PROCESS_RESTARTS: Final = _counter(
    "ingestq_pool_process_restarts_total",
    "Pool processes that died or were killed over a task and were replaced, by kind and reason.",
    "processes",
    {"kind": PROCESS_KINDS, "reason": _values(ProcessEnd)},
)
LOOP_LAG: Final = _histogram(
    "ingestq_event_loop_lag_seconds",
    "How much later than asked for the event loop woke up.",
    "seconds",
    LAG_SECONDS,
)
SERVICE_ERRORS: Final = _counter(
    "ingestq_service_errors_total",
    "Failed requests to Redis, Qdrant and the embeddings endpoint, by the class of the reason.",
    "requests",
    {"service": _values(ServiceName), "reason": _values(Cause)},
)
WEBHOOK_ATTEMPTS: Final = _counter(
    "ingestq_webhook_attempts_total",
    "Attempts of this worker to post a message to a webhook, by what came of it.",
    "attempts",
    {"result": WEBHOOK_RESULTS},
)
ENDPOINT_TOKENS: Final = _counter(
    "ingestq_embeddings_endpoint_tokens_total",
    "Tokens that the embeddings endpoint has counted, as its answers say.",
    "tokens",
)
WARNINGS: Final = _counter(
    "ingestq_document_warnings_total",
    "Warnings about documents that were read, by kind.",
    "warnings",
    {"kind": _values(WarningKind)},
)

CATALOGUE: Final = tuple(_catalogue)


class Recorder(Protocol):
    """Keeps what a process counts and measures."""

    def count(self, metric: Metric, amount: float, labels: tuple[str, ...]) -> None:
        """Add ``amount`` to a counter."""
        ...

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        """Add an observation to a histogram."""
        ...


_recorder: Recorder | None = None


def count(metric: Metric, *labels: str, amount: float = 1) -> None:
    """Add ``amount`` to a counter. ``labels`` are the values, in the order of the catalogue."""
    if _recorder is not None:
        _recorder.count(metric, amount, labels)


def observe(metric: Metric, value: float, *labels: str) -> None:
    """Add an observation to a histogram; see `count`."""
    if _recorder is not None:
        _recorder.observe(metric, value, labels)


def count_error(service: ServiceName, error: BaseException) -> None:
    """Count a request to ``service`` that failed with ``error``."""
    count(SERVICE_ERRORS, service.value, cause_of(error).value)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let ``recorder`` keep what this process counts and measures while inside."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
