"""Results: receipts, counts, reports and dead letters; the state of queue and workers."""

import shlex
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec
from msgspec import Struct


class EnqueueResult(StrEnum):
    """The queue's answer to a batch that was offered."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FULL = "full"
    EXPIRED = "expired"
    """It refers to a blob that is too old, see `ingestq.core.blobs`."""


class Receipt(Struct, frozen=True):
    """Proof that documents are on the queue, and on disk in Redis.

    ``accepted`` counts documents that were queued, ``duplicates`` those of batches that were
    already on the queue. Follow the documents by the id ``submission``.
    """

    submission: str
    accepted: int
    duplicates: int


class DocumentCounts(Struct, frozen=True):
    """Documents counted by their outcome.

    ``unchanged`` were indexed already with the same content; ``superseded`` were older than what is
    indexed; ``rejected`` are dead letters.
    """

    indexed: int = 0
    unchanged: int = 0
    superseded: int = 0
    deleted: int = 0
    rejected: int = 0

    @property
    def total(self) -> int:
        """The number of documents that have an outcome."""
        return sum(msgspec.structs.astuple(self))


class ChunkCounts(Struct, frozen=True):
    """Chunks counted by what was done: embedded, reused with their vector, or deleted."""

    embedded: int = 0
    reused: int = 0
    deleted: int = 0

    def __add__(self, other: "ChunkCounts") -> "ChunkCounts":
        return _sum(self, other)


class Usage(Struct, frozen=True):
    """What was given to the model: the ``tokens`` of chunks, without special tokens."""

    tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return _sum(self, other)


class FailedDocument(Struct, frozen=True):
    """A document that was not indexed, and the reason."""

    doc_id: str
    reason: str


LISTED_HELD: Final = 5
"""Documents that are listed of those that are held back."""


class HeldDocuments(Struct, frozen=True):
    """Documents that are kept although they are gone from their source, because it may be away.

    ``first`` has the ids of the first `LISTED_HELD`, ``reason`` says why.
    """

    documents: int
    first: tuple[str, ...]
    reason: str


class HeldSource(Struct, frozen=True, kw_only=True):
    """A source, by the name or path of its documents, with what is held back of it.

    ``since_ms`` is Unix time in ms: no scan since then was accepted.
    """

    source: str
    tenant: str
    collection: str
    documents: int
    first: tuple[str, ...]
    reason: str
    since_ms: int = 0

    @property
    def since(self) -> str:
        """Since when it is held back (ISO 8601, UTC)."""
        return datetime.fromtimestamp(self.since_ms / 1000, UTC).isoformat(timespec="seconds")

    @property
    def confirm(self) -> str:
        """The command that deletes the documents from the index."""
        words = ["ingestq", "dead", "requeue", self.source, "--allow-mass-delete"]
        if self.tenant:
            words += ["--tenant", self.tenant]
        return shlex.join([*words, "--collection", self.collection])

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON, on whose keys other programs rely."""
        return {
            "source": self.source,
            "tenant": self.tenant,
            "collection": self.collection,
            "documents": self.documents,
            "first": list(self.first),
            "reason": self.reason,
            "since": self.since,
            "confirm": self.confirm,
        }


LISTED_WARNINGS: Final = 1000
"""Most warnings that a report or a submission lists. All are counted, and the ledger has all."""


class DocumentWarning(Struct, frozen=True):
    """A document that is indexed, and what of it could not be read."""

    doc_id: str
    warning: str


class WarningCounts(Struct, frozen=True):
    """The number of ``documents`` that are indexed with warnings, and of their ``warnings``."""

    documents: int = 0
    warnings: int = 0

    def __add__(self, other: "WarningCounts") -> "WarningCounts":
        return _sum(self, other)


def utc_time(unix_ms: int) -> str:
    """Return a Unix time in ms in ISO 8601, in UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds")


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A document that failed for good, with everything needed to try it again.

    ``payload`` is the encoded job of this one document. If the job could not be decoded, it is the
    job as it came, ``doc_id`` is the id of the job, and ``documents`` is the number of documents in
    it, with ``version`` 0. ``tries`` counts how often it failed. ``failed_ms`` is Unix time in ms
    at the worker. ``traceback`` is empty where the reason says everything. ``held`` is there if it
    is a sweep that was held back.
    """

    key: str
    doc_id: str
    reason: str
    payload: bytes
    tries: int
    failed_ms: int
    documents: int = 1
    tenant: str = ""
    submission: str = ""
    traceback: str = ""
    collection: str
    version: int = 0
    held: HeldDocuments | None = None

    @property
    def failed_at(self) -> str:
        """When the document failed for good (ISO 8601, UTC)."""
        return utc_time(self.failed_ms)


class BatchReport(Struct, frozen=True):
    """The outcome of a batch.

    ``dead`` has a dead letter for each rejected document. ``resolved`` has the versions that
    succeeded, by the keys of their dead letters: older ones are out of date. ``warned`` counts the
    warnings of documents that are indexed or unchanged; ``warnings`` lists the first of them.
    """

    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()
    dead: tuple[DeadLetter, ...] = ()
    resolved: Mapping[str, int] = msgspec.field(default_factory=dict)
    warned: WarningCounts = WarningCounts()
    warnings: tuple[DocumentWarning, ...] = ()
    usage: Usage = Usage()

    def __add__(self, other: "BatchReport") -> "BatchReport":
        return BatchReport(
            documents=_sum(self.documents, other.documents),
            chunks=self.chunks + other.chunks,
            dead=self.dead + other.dead,
            resolved={**self.resolved, **other.resolved},
            warned=self.warned + other.warned,
            warnings=(self.warnings + other.warnings)[:LISTED_WARNINGS],
            usage=self.usage + other.usage,
        )

    def superseding(self, keys: Container[str]) -> "BatchReport":
        """Return the report in which the dead letters with these ``keys`` are superseded."""
        dead = tuple(letter for letter in self.dead if letter.key not in keys)
        superseded = len(self.dead) - len(dead)
        counts = msgspec.structs.replace(
            self.documents,
            rejected=self.documents.rejected - superseded,
            superseded=self.documents.superseded + superseded,
        )
        return msgspec.structs.replace(self, documents=counts, dead=dead)


class JobResult(
    Struct,
    frozen=True,
    rename={
        "function": "f",
        "args": "a",
        "kwargs": "k",
        "tries": "t",
        "enqueued_ms": "et",
        "success": "s",
        "result": "r",
        "started_ms": "st",
        "finished_ms": "ft",
        "queue": "q",
        "job_id": "id",
    },
):
    """The result of a job in arq's own envelope, with arq's field names, without the documents.

    ``result`` is what the job returned or, if ``success`` is false, why it failed for good.
    """

    function: str
    tries: int
    enqueued_ms: int
    success: bool
    result: Any
    started_ms: int
    finished_ms: int
    queue: str
    job_id: str
    aborted: bool = False
    args: tuple[()] = ()
    kwargs: dict[str, Any] = {}


Counts = TypeVar("Counts", DocumentCounts, ChunkCounts, WarningCounts, Usage)


def _sum(left: Counts, right: Counts) -> Counts:
    pairs = zip(msgspec.structs.astuple(left), msgspec.structs.astuple(right), strict=True)
    return type(left)(*(a + b for a, b in pairs))


WORKER_TIMEOUT_MS: Final = 60_000
"""A worker that sent no heartbeat for this long is forgotten."""


class QueueDepth(Struct, frozen=True):
    """The queue at one moment, in jobs.

    Every job is ready, deferred or in flight, and every job is in a lane. ``poison`` counts the
    ready jobs whose workers died repeatedly; each of them runs alone.
    """

    ready: int
    deferred: int
    in_flight: int
    oldest_ready_seconds: float
    queued_bytes: int
    dead_letters: int
    interactive: int
    bulk: int
    poison: int

    def as_json(self) -> dict[str, float]:
        """Return the part ``queue`` of the JSON status, on whose keys other programs rely."""
        return {
            "ready": self.ready,
            "deferred": self.deferred,
            "in_flight": self.in_flight,
            "oldest_ready_seconds": round(self.oldest_ready_seconds, 3),
            "bytes": self.queued_bytes,
            "interactive": self.interactive,
            "bulk": self.bulk,
            "poison": self.poison,
        }


class JobCounts(NamedTuple):
    """The number of jobs for some collections, and how many of them are in flight."""

    jobs: int
    in_flight: int


class WorkerInfo(Struct, frozen=True):
    """What a worker reports with each heartbeat.

    ``running`` counts its jobs. The rates are those of the last minute. ``paused`` is the reason
    why it claims no jobs, if it does not. ``collections`` has those that it serves.
    """

    host: str
    pid: int
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None = None
    collections: tuple[str, ...] = ()


class WorkerStatus(Struct, frozen=True):
    """A worker's last heartbeat, with the fields of `WorkerInfo`."""

    id: str
    host: str
    pid: int
    seen_seconds_ago: float
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None = None
    collections: tuple[str, ...] = ()


class SkippedFile(Struct, frozen=True):
    """A file, folder or link of a watched folder that is not indexed, and why."""

    doc_id: str
    reason: str


class WatchedFolderStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the process that watches a folder reported of it last.

    ``folder`` is its path on ``host``, or the address of a remote folder. ``unavailable`` is why
    nothing of it can be read now, and empty while it can. ``skipped`` counts what is not indexed
    although neither its name nor a pattern excludes it; ``skipped_files`` has the first of it.
    """

    folder: str
    host: str
    collection: str
    tenant: str = ""
    unavailable: str = ""
    skipped: int = 0
    skipped_files: tuple[SkippedFile, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON, on whose keys other programs rely."""
        return msgspec.structs.asdict(self) | {
            "skipped_files": [msgspec.structs.asdict(file) for file in self.skipped_files]
        }


class WebhookBacklog(Struct, frozen=True, kw_only=True):
    """What waits to be posted to a target of webhooks, and what became of the rest.

    ``waiting`` messages will be tried (again), ``failed`` ones will not; ``delivered`` and
    ``dropped`` count all so far. A target that ``is_gone`` has asked to be told no more. ``error``
    is why the last attempt failed, if it did.
    """

    target: str
    waiting: int
    failed: int
    delivered: int
    dropped: int
    oldest_waiting_seconds: float
    is_gone: bool
    error: str

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON, on whose keys other programs rely."""
        return {
            "target": self.target,
            "waiting": self.waiting,
            "failed": self.failed,
            "delivered": self.delivered,
            "dropped": self.dropped,
            "oldest_waiting_seconds": round(self.oldest_waiting_seconds, 3),
            "gone": self.is_gone,
            "error": self.error,
        }


class Overview(Struct, frozen=True):
    """The queue, the live workers and the watched folders at one moment.

    A worker is live if its last heartbeat is less than a minute old, and a folder is watched if it
    was reported within the last minute. ``ready`` counts the ready jobs of each collection.
    ``versions_ahead_seconds`` is more than 0 while the versions that Redis issues are later than
    its clock. ``expired_dead_letters`` counts those that were deleted because of their age.
    ``held_back`` are the sources with documents that only a person may delete. ``webhooks`` has
    every target of webhooks that was ever to be told something.
    """

    depth: QueueDepth
    workers: Sequence[WorkerStatus]
    ready: Mapping[str, int] = {}
    versions_ahead_seconds: float = 0.0
    expired_dead_letters: int = 0
    watched_folders: Sequence[WatchedFolderStatus] = ()
    held_back: Sequence[HeldSource] = ()
    webhooks: Sequence[WebhookBacklog] = ()

    @property
    def unserved(self) -> dict[str, int]:
        """The number of ready jobs of each collection that has some and that no worker serves."""
        served = {collection for worker in self.workers for collection in worker.collections}
        waiting = {name: jobs for name, jobs in sorted(self.ready.items()) if jobs}
        return {name: jobs for name, jobs in waiting.items() if name not in served}


class Stage(StrEnum):
    """The current stage of a submission: the furthest that any of its running jobs has reached."""

    WAITING = "waiting"
    READING = "reading"
    EMBEDDING = "embedding"
    DONE = "done"


class SubmissionStatus(Struct, frozen=True):
    """The progress of a submission: ``documents.total`` of ``accepted`` documents have an outcome.

    ``documents`` and ``chunks`` count the outcomes so far, ``warned`` the warnings among them, and
    ``usage`` what the model was given for them. ``jobs`` is the number of unfinished jobs; a folder
    scan among them may still add deletions. ``jobs_running`` of them are being processed, with
    ``chunks_running`` of their ``chunks_known`` chunks done. ``tenant`` is that of all its
    documents, None if they are of several or of one that is not known; ``collections`` are those of
    its documents.
    """

    accepted: int
    documents: DocumentCounts
    chunks: ChunkCounts
    jobs: int
    jobs_running: int
    chunks_running: int
    chunks_known: int
    warned: WarningCounts = WarningCounts()
    usage: Usage = Usage()
    tenant: str | None = None
    collections: frozenset[str] = frozenset()

    @classmethod
    def of(cls, raw: Mapping[bytes, bytes]) -> Self:
        """Return the status that the hash of a submission holds in Redis."""
        fields = {name.decode(): value for name, value in raw.items()}
        counts = {name: int(n) for name, n in fields.items() if not name.startswith("live:")}
        tenants = _names(counts, "tenant:")
        live = [v.split(b"/") for name, v in fields.items() if name.startswith("live:")]
        return cls(
            accepted=counts.pop("accepted", 0),
            documents=_counts(counts, "documents", DocumentCounts),
            chunks=_counts(counts, "chunks", ChunkCounts),
            jobs=counts.pop("jobs", 0),
            jobs_running=len(live),
            chunks_running=sum(int(done) for done, _ in live),
            chunks_known=sum(int(known) for _, known in live),
            warned=_counts(counts, "warned", WarningCounts),
            usage=_counts(counts, "usage", Usage),
            tenant=tenants[0] if tenants and "mixed" not in counts else None,
            collections=frozenset(_names(counts, "collection:")),
        )

    @property
    def complete(self) -> bool:
        """True if every accepted document has an outcome and no job is left."""
        return not self.unfinished and not self.jobs

    @property
    def unfinished(self) -> int:
        """How many accepted documents have no outcome yet."""
        return max(self.accepted - self.documents.total, 0)

    @property
    def stage(self) -> Stage:
        """The stage that the submission has reached."""
        if self.complete:
            return Stage.DONE
        if not self.jobs_running:
            return Stage.WAITING
        return Stage.EMBEDDING if self.chunks_known else Stage.READING

    def as_json(self) -> dict[str, Any]:
        """Return the status as JSON, on whose keys other programs rely."""
        return {
            "accepted": self.accepted,
            "done": self.documents.total,
            "complete": self.complete,
            "stage": self.stage,
            "documents": msgspec.structs.asdict(self.documents),
            "chunks": msgspec.structs.asdict(self.chunks)
            | {"running": self.chunks_running, "known": self.chunks_known},
            "warned": self.warned.documents,
            "tokens": self.usage.tokens,
        }


def _names(fields: Mapping[str, int], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in fields if name.startswith(prefix)]


def _counts(fields: dict[str, int], group: str, kind: type[Counts]) -> Counts:
    return kind(**{name: fields.get(f"{group}.{name}", 0) for name in kind.__struct_fields__})


class CollectionCounts(Struct, frozen=True):
    """What the collection ``name`` holds; None in place of a count that cannot be read now.

    ``warned`` counts the documents of which something could not be read, ``stale`` those of which
    a newer version was rejected.
    """

    name: str
    documents: int | None = None
    chunks: int | None = None
    warned: int | None = None
    stale: int | None = None


class WarnedDocument(Struct, frozen=True):
    """A document that is indexed, and its warnings: what of it could not be read."""

    tenant: str
    doc_id: str
    warnings: tuple[str, ...]


class StaleDocument(Struct, frozen=True):
    """A document of which the index holds an older version: the newest was rejected.

    ``since_ms`` is the Unix time since when that is so; ``reason`` is that of the newest rejected
    ``version``.
    """

    tenant: str
    doc_id: str
    version: int
    since_ms: int
    reason: str

    @property
    def since(self) -> str:
        """Since when it is stale (ISO 8601, UTC)."""
        return utc_time(self.since_ms)


class IndexOverview(Struct, frozen=True):
    """The counts of some collections, and some of their documents that need a look, by collection.

    These are documents with warnings, and stale ones.
    """

    collections: Sequence[CollectionCounts] = ()
    warned: Mapping[str, Sequence[WarnedDocument]] = {}
    stale: Mapping[str, Sequence[StaleDocument]] = {}
