"""The catalogue of log events: each name is defined here and nowhere else.

A line of the log has the name of its event, some of the fields that the event lists, and those of
`CONTEXT` that are known. docs/logs.md is made of this module.
"""

from collections.abc import Mapping
from typing import Final, Self


class Event(str):
    """The name of a log event, what it means, and the fields that its lines may have."""

    meaning: str
    fields: tuple[str, ...]

    def __new__(cls, name: str, meaning: str, *fields: str) -> Self:
        event = super().__new__(cls, name)
        event.meaning = meaning
        event.fields = fields
        return event


WORKER_STARTED: Final = Event(
    "worker.started", "A worker is ready for jobs.", "worker", "max_jobs", "collections"
)
START_TIMED: Final = Event(
    "start.timed",
    "`ingestq run` has started. `parts` has the seconds until each part was ready: `redis`, "
    "`qdrant`, `model`, `parse_process`, `embedding_process`, `imports`, `collections` and `walk`; "
    "several start at the same time.",
    "parts",
)
WORKER_DRAINING: Final = Event(
    "worker.draining",
    "The worker was asked to stop; its running jobs may take `seconds`.",
    "running",
    "seconds",
)
WORKER_STOPPED: Final = Event("worker.stopped", "The worker has stopped.", "worker")
WORKER_HELD: Final = Event(
    "worker.held",
    "The worker gets no jobs for a collection for some seconds, because of a cut-over.",
    "worker",
    "collection",
)
WORKER_PAUSED: Final = Event(
    "worker.paused",
    "The worker claims no jobs: Qdrant is full, or a service asks to wait.",
    "reason",
    "retry_in",
)
WORKER_RESUMED: Final = Event(
    "worker.resumed", "The reason of the pause is over, and the worker claims jobs again.", "reason"
)
COLLECTION_UNSERVED: Final = Event(
    "collection.unserved",
    "Jobs for a collection are ready, and no worker serves it.",
    "worker",
    "collection",
)
COLLECTION_CREATED: Final = Event(
    "collection.created",
    "A collection was created in Qdrant.",
    "collection",
    "alias",
    "dimension",
)
SERVICE_UNAVAILABLE: Final = Event(
    "service.unavailable",
    "A service has not answered for `seconds`. It is logged when that begins and once a minute; "
    "work resumes by itself.",
    "service",
    "error",
    "seconds",
)
SERVICE_AVAILABLE: Final = Event(
    "service.available", "A service answers again, after `seconds`.", "service", "seconds"
)
REDIS_STOPPED: Final = Event(
    "redis.stopped",
    "The bundled Redis does not run; it is started again, with back-off.",
    "reason",
)
REDIS_RESTARTED: Final = Event(
    "redis.restarted", "The bundled Redis runs again; `reason` is why it had stopped.", "reason"
)
REDIS_NOT_STOPPED: Final = Event(
    "redis.not_stopped",
    "The last user of the bundled Redis could not stop it; the next command uses it.",
    "error",
)
QDRANT_STOPPED: Final = Event(
    "qdrant.stopped",
    "The bundled Qdrant does not run; it is started again, with back-off.",
    "reason",
)
QDRANT_RESTARTED: Final = Event(
    "qdrant.restarted", "The bundled Qdrant runs again; `reason` is why it had stopped.", "reason"
)
QDRANT_NOT_STOPPED: Final = Event(
    "qdrant.not_stopped",
    "The last user of the bundled Qdrant could not stop it; the next command uses it.",
    "error",
)
LOCK_AWAITED: Final = Event(
    "lock.awaited",
    "Another process starts or stops a bundled server, and takes long.",
    "lock",
    "holder",
)
INDEX_MIGRATING: Final = Event(
    "index.migrating",
    "The index of an earlier version is copied to the bundled Qdrant: `points` of `total` so far. "
    "It is logged every few seconds.",
    "folder",
    "points",
    "total",
)
INDEX_MIGRATED: Final = Event(
    "index.migrated",
    "The index of an earlier version was copied, and is kept in the folder `kept`.",
    "collections",
    "points",
    "seconds",
    "kept",
)

LEDGER_AHEAD: Final = Event(
    "ledger.ahead",
    "The ledger of a collection is `seconds` ahead of the clock of Redis, which lost its data or "
    "was set back. Versions go on from the newest in the ledger; if `queued_before`, those of "
    "documents that were already queued were moved along.",
    "collection",
    "seconds",
    "queued_before",
)
JOB_FINISHED: Final = Event(
    "job.finished", "Every document of a job has its outcome.", "job", "submission", "seconds"
)
JOB_FAILED: Final = Event("job.failed", "A job failed as a whole.", "job", "error")
JOB_NACKED: Final = Event(
    "job.nacked",
    "A job was returned to the queue. Its level is debug if it waits for a service.",
    "job",
    "submission",
    "reason",
    "counts_as_try",
    "retry_in",
)
JOB_DEAD_LETTERED: Final = Event(
    "job.dead_lettered", "A job was dead-lettered as a whole.", "job", "submission", "reason"
)
JOB_ABORTED: Final = Event(
    "job.aborted", "Somebody aborted a job; its documents are dead letters.", "job", "submission"
)
JOB_POISON: Final = Event(
    "job.poison",
    "Workers died while they ran a job; its documents are now run one by one.",
    "job",
    "crashes",
)
LEASE_LOST: Final = Event(
    "lease.lost",
    "Another worker owns a job now; this worker's result is discarded.",
    "job",
    "submission",
)
BLOBS_NOT_DELETED: Final = Event(
    "blobs.not_deleted",
    "Blobs that are no longer needed could not be deleted; it is tried again some hours later.",
    "objects",
    "error",
)
BLOBS_COLLECTED: Final = Event(
    "blobs.collected", "Garbage collection deleted blobs left by processes that died.", "objects"
)
DEAD_LETTERS_EXPIRED: Final = Event(
    "dead_letters.expired",
    "Dead letters were deleted with their blobs because of their age "
    "(INGESTQ_KEEP_DEAD_LETTERS_DAYS).",
    "dead_letters",
    "older_than_days",
)
UPKEEP_FAILED: Final = Event(
    "upkeep.failed",
    "Something that has expired was not deleted: dead letters, garbage, or the collection before "
    "the last reindex. It is tried again within the hour.",
    "error",
)
DOCUMENT_REJECTED: Final = Event(
    "document.rejected", "A document can never be indexed.", "doc_id", "reason"
)
DOCUMENT_FAILED: Final = Event(
    "document.failed", "A document failed, and will be tried again.", "doc_id", "reason"
)
DOCUMENT_WARNED: Final = Event(
    "document.warned",
    "A document is indexed, and `warnings` say what of it could not be read.",
    "doc_id",
    "warnings",
)
STALE_UNKNOWN: Final = Event(
    "document.stale_unknown",
    "The ledger refused to record which of the job's documents are stale.",
    "job",
    "submission",
    "reason",
)
PROCESS_CRASHED: Final = Event(
    "pool.process_crashed",
    "A pool process died, hung or exceeded a limit. Unless it exceeded a limit, its task is tried "
    "once more.",
    "error",
)
POOL_REPLACED: Final = Event(
    "pool.replaced",
    "The pool processes were killed while idle or cannot be reached, and were replaced.",
)
POOL_ABANDONED: Final = Event(
    "pool.abandoned", "The kernel did not kill pool processes in time; they are left behind."
)

MODEL_PREPARING: Final = Event(
    "model.preparing",
    "First use of a model: finding its fastest backend takes about 20 seconds.",
    "model",
    "cache",
)
MODEL_READY: Final = Event(
    "model.ready",
    "A model was prepared. `cosine` is the lowest similarity to the reference.",
    "model",
    "backend",
    "arithmetic",
    "cosine",
    "seconds",
)
MODEL_FALLBACK: Final = Event(
    "model.fallback",
    "A slower backend is used; `rejected` says why not a faster one.",
    "model",
    "backend",
    "arithmetic",
    "rejected",
)

POINTS_UNREADABLE: Final = Event(
    "points.unreadable",
    "A search skipped so many points that are no chunks of ingestq.",
    "collection",
    "points",
)

API_STARTED: Final = Event(
    "api.started", "The API listens; `token` says whether one is required.", "url", "token"
)
METRICS_STARTED: Final = Event(
    "metrics.started", "This process answers `/metrics`, `/livez` and `/readyz` at `url`.", "url"
)
API_REFUSED: Final = Event(
    "api.refused",
    "A request was refused because a setting is wrong, such as the password of Redis. It is logged "
    "at most once a minute.",
    "path",
    "error",
    "skipped",
)
API_STREAM_ENDED: Final = Event(
    "api.stream_ended",
    "A progress stream ended because Redis is unavailable.",
    "submission",
    "error",
)
API_CONNECTIONS_FULL: Final = Event(
    "api.connections_full",
    "A new connection found all places taken: an idle one was closed for it (`idle`), or it waits. "
    "It is logged at most once a minute.",
    "connections",
    "idle",
    "skipped",
)
MCP_TOOL_FAILED: Final = Event(
    "mcp.tool_failed",
    "A defect ended a call of this `tool` by an assistant; please report it with its traceback.",
    "tool",
)
API_ACCEPT_FAILED: Final = Event(
    "api.accept_failed",
    "The system has no descriptor or memory for a connection. It is logged at most once a minute.",
    "reason",
    "skipped",
)

SOURCE_EMPTY: Final = Event(
    "source.empty",
    "A remote folder was listed, and there is nothing in it. What is indexed of it is kept, unless "
    "a mass deletion is allowed.",
    "url",
)
WEB_PAGES_SKIPPED: Final = Event(
    "web.pages.skipped",
    "Pages in a sitemap are left out: robots.txt disallows them, or they are on another host.",
    "url",
    "pages",
    "reason",
)
WATCH_STARTED: Final = Event(
    "watch.started",
    "A folder is watched; `source` is the prefix of its document ids.",
    "folder",
    "source",
    "collection",
)
WATCH_STOPPED: Final = Event("watch.stopped", "A folder is no longer watched.", "folder")
WATCH_SCANNED: Final = Event(
    "watch.scanned",
    "All files of a folder are queued, most of them usually unchanged.",
    "folder",
    "submission",
    "documents",
)
WATCH_QUEUED: Final = Event(
    "watch.queued",
    "Changes that the file system reported are queued.",
    "folder",
    "documents",
    "deletions",
)
WATCH_SKIPPED: Final = Event(
    "watch.skipped", "A file is skipped. It is logged once for each reason.", "path", "reason"
)
WATCH_WARNED: Final = Event(
    "watch.warned",
    "So many documents of a folder are indexed without what could not be read of them. It is "
    "logged after a scan if the number has changed; `ingestq status --warnings` lists them.",
    "folder",
    "documents",
)
WATCH_HELD_BACK: Final = Event(
    "watch.held_back",
    "Documents are gone from a folder, which may be away, and are kept until somebody confirms "
    "that. It is logged once, until `watch.released`; `ingestq status` shows them.",
    "folder",
    "reason",
)
WATCH_RELEASED: Final = Event(
    "watch.released", "Nothing of a folder is held back any more.", "folder"
)
WATCH_UNAVAILABLE: Final = Event(
    "watch.unavailable",
    "A folder is missing or unmounted, or a remote one cannot be listed (`reason`). ingestq waits "
    "for it, and deletes nothing.",
    "folder",
    "reason",
)
WATCH_AVAILABLE: Final = Event(
    "watch.available", "A folder can be used again, and is scanned.", "folder"
)
WATCH_POLLING: Final = Event(
    "watch.polling",
    "There are no file system events, so a folder is polled every `seconds`.",
    "folder",
    "seconds",
    "reason",
)
WATCH_FAILED: Final = Event(
    "watch.failed",
    "Watching a folder failed. It is started again, and the folder is scanned.",
    "folder",
    "error",
)
HOT_FOLDER_MOVED: Final = Event(
    "hot_folder.moved",
    "Files of a hot folder were processed and moved to `done` or `failed`; `warned` of those that "
    "are done could not be read completely.",
    "folder",
    "done",
    "failed",
    "warned",
)
HOT_FOLDER_BLOCKED: Final = Event(
    "hot_folder.blocked",
    "Processed files of a hot folder cannot be moved. It waits, and queues nothing.",
    "folder",
    "reason",
)

SCHEDULE_STARTED: Final = Event("schedule.started", "The scheduler has started.", "entries")
SCHEDULE_STOPPED: Final = Event("schedule.stopped", "The scheduler has stopped.")
RUN_STARTED: Final = Event(
    "run.started", "A scheduled run has started.", "entry", "action", "due", "late_seconds"
)
RUN_FINISHED: Final = Event(
    "run.finished",
    "A scheduled run has ended.",
    "entry",
    "submission",
    "outcome",
    "seconds",
    "detail",
)
RUN_SKIPPED: Final = Event(
    "run.skipped", "A run was due, and the previous one has not ended.", "entry", "due"
)
RUN_LOST: Final = Event(
    "run.lost",
    "The process of a run died, or could not reach Redis for too long.",
    "entry",
)
RUN_CRASHED: Final = Event("run.crashed", "An unexpected error ended a run.", "entry")
GENERATOR_FAILED: Final = Event(
    "generator.failed", "The code of a generator, which is the user's, failed.", "generator"
)

WEBHOOK_DELIVERED: Final = Event(
    "webhook.delivered",
    "A target took a message about an event of this `type`.",
    "target",
    "message_id",
    "type",
    "attempts",
)
WEBHOOK_RETRIED: Final = Event(
    "webhook.retried",
    "A target did not take a message; it is tried again after `retry_in` seconds.",
    "target",
    "message_id",
    "type",
    "attempts",
    "error",
    "retry_in",
)
WEBHOOK_FAILED: Final = Event(
    "webhook.failed",
    "A target did not take a message for days; `ingestq webhooks retry` tries it again.",
    "target",
    "message_id",
    "type",
    "attempts",
    "error",
)
WEBHOOK_GONE: Final = Event(
    "webhook.gone",
    "A target answered 410: it is told nothing any more, until its URL is changed or `ingestq "
    "webhooks retry` is called.",
    "target",
    "error",
)
WEBHOOK_DROPPED: Final = Event(
    "webhook.dropped",
    "Too many messages waited for a target; so many of the oldest were dropped.",
    "target",
    "messages",
)
WEBHOOKS_CRASHED: Final = Event(
    "webhook.crashed",
    "A defect stopped the delivery to a target. It is started again; please report the traceback.",
    "target",
)
WEBHOOKS_UNREADABLE: Final = Event(
    "webhook.outbox_unreadable",
    "Redis refuses to give the messages that wait for a target; it is tried again.",
    "error",
)

ENGINE_STARTED: Final = Event("engine.started", "The bundled Qdrant serves its collections.")
ENGINE_STOPPED: Final = Event("engine.stopped", "The bundled Qdrant was asked to stop, and has.")
ENGINE_REQUEST_FAILED: Final = Event(
    "engine.request_failed", "The engine could not do what it was asked.", "method", "path", "error"
)
ENGINE_WRITE_FAILED: Final = Event(
    "engine.write_failed", "A write failed, or could not be made durable; its sender is told."
)
ENGINE_FLUSH_FAILED: Final = Event(
    "engine.flush_failed", "Points could not be flushed; their log has them, and it is tried again."
)
ENGINE_TASK_FAILED: Final = Event(
    "engine.task_failed", "Work that goes on after an answer has failed.", "error"
)
ENGINE_INDEX_FAILED: Final = Event(
    "engine.index_failed", "A payload index could not be created.", "error"
)
ENGINE_COLLECTION_DAMAGED: Final = Event(
    "engine.collection_damaged", "A collection cannot be opened.", "collection", "error"
)
ENGINE_COLLECTION_EMPTY: Final = Event(
    "engine.collection_empty",
    "The files of a collection are gone. It is empty now: run `ingestq verify --repair`.",
    "collection",
    "path",
)
ENGINE_COMPACTED: Final = Event(
    "engine.compacted", "A collection was compacted.", "collection", "seconds"
)
ENGINE_NOT_COMPACTED: Final = Event(
    "engine.not_compacted",
    "A collection could not be compacted; it is tried again.",
    "collection",
    "error",
)
ENGINE_CATALOG_FAILED: Final = Event(
    "engine.catalog_failed", "The catalog could not be written; the engine starts again."
)
ENGINE_SHARD_REMOVED: Final = Event(
    "engine.shard_removed", "A shard that belongs to no collection is removed.", "path"
)

TRACES_STARTED: Final = Event("traces.started", "Spans are recorded and exported.", "exporter")
TRACES_UNAVAILABLE: Final = Event(
    "traces.unavailable", "OTEL_* variables ask for traces, but none are recorded.", "reason"
)
TRACES_NOT_EXPORTED: Final = Event(
    "traces.not_exported",
    "The trace collector does not accept spans, and so many were lost. It is logged when that "
    "begins and once a minute; work goes on.",
    "spans",
    "error",
)
TRACES_EXPORTED: Final = Event("traces.exported", "The trace collector accepts spans again.")

COMMAND_FAILED: Final = Event(
    "command.failed",
    "A command that runs until it is stopped ended with an error.",
    "error",
    "exit_code",
)
COMMAND_CRASHED: Final = Event(
    "command.crashed", "A defect ended the command; please report it with its traceback."
)
LIBRARY_LOGGED: Final = Event(
    "library.logged", "A library logged `message`, or warned.", "logger", "message"
)

CATALOGUE: Final[tuple[Event, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Event)
)
"""Every event, in the order of this module."""

CONTEXT: Final[Mapping[str, str]] = {
    "job": "The id of the job.",
    "submission": "The id of the submission that the job or the documents belong to.",
    "doc_id": "The id of the document.",
    "trace_id": "The trace, as 32 hex digits; only with traces.",
    "span_id": "The span, as 16 hex digits; only with traces.",
}
"""Fields of every line about a document, job or submission, as far as they are known."""

STANDARD: Final[Mapping[str, str]] = {
    "timestamp": "UTC, in ISO 8601.",
    "level": "`debug`, `info`, `warning`, `error` or `critical`.",
    "event": "The name of the event.",
    "exception": "The traceback, if an error is unexpected.",
}
"""Fields that any line may have."""

FIELDS: Final[Mapping[str, str]] = {
    "action": "What the scheduled run does.",
    "alias": "The public name of a collection.",
    "arithmetic": "The number format that the model computes in.",
    "attempts": "How many attempts there were so far.",
    "backend": "What computes the model.",
    "cache": "The folder with prepared models.",
    "collection": "The name of a collection.",
    "collections": "The collections, or how many.",
    "connections": "How many connections may be open.",
    "cosine": "A similarity, at most 1.",
    "counts_as_try": "Whether the try counts toward the limit of tries.",
    "crashes": "How many workers died.",
    "dead_letters": "How many dead letters.",
    "deletions": "How many deletions.",
    "detail": "The outcome in words.",
    "dimension": "The length of the vectors.",
    "documents": "How many documents.",
    "done": "How many files were moved to `done`.",
    "due": "When the run was due, in ISO 8601.",
    "entries": "How many entries the schedule has.",
    "entry": "The name of the schedule's entry.",
    "error": "The message of the error.",
    "exit_code": "The exit code of the command.",
    "exporter": "What exports spans.",
    "failed": "How many files were moved to `failed`.",
    "folder": "The path of a folder.",
    "generator": "The name of a generator.",
    "holder": "The process that holds the lock.",
    "idle": "Whether an idle connection was closed.",
    "kept": "The folder that is kept.",
    "late_seconds": "How many seconds after its time the run started.",
    "lock": "The name of a lock file.",
    "logger": "The name of the library's logger.",
    "max_jobs": "How many jobs the worker runs at once.",
    "message": "What the library says.",
    "message_id": "The `webhook-id` of a message.",
    "messages": "How many messages.",
    "method": "The method of a request.",
    "model": "The name of a model.",
    "objects": "How many blobs.",
    "older_than_days": "The age in days.",
    "outcome": "The outcome of a run.",
    "pages": "How many web pages are left out.",
    "parts": "Seconds by part.",
    "path": "The path of a file or a request.",
    "points": "How many points.",
    "queued_before": "Whether documents were queued before.",
    "reason": "Why.",
    "rejected": "The faster backends, and why they are not used.",
    "retry_in": "Seconds until it is tried again.",
    "running": "How many jobs run.",
    "seconds": "How long it took, takes or may take.",
    "service": "`Redis`, `Qdrant`, `embeddings endpoint` or `blob store`.",
    "skipped": "How many lines like this were left out since the last one.",
    "source": "The prefix of document ids.",
    "spans": "How many spans.",
    "target": "The name of a webhook.",
    "token": "Whether a token is required.",
    "tool": "The name of a tool for assistants.",
    "total": "How many there are in all.",
    "type": "The type of an event that a webhook is told of.",
    "url": "A URL, without secrets.",
    "warned": "How many documents have warnings.",
    "warnings": "What could not be read.",
    "worker": "The id of a worker.",
}
"""What each field of an event holds, besides those of `CONTEXT` and `STANDARD`."""
