"""Response bodies. Their shapes are those of the commands' JSON."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ingestq.core.results import Stage


class Answer(BaseModel):
    """Base of all responses, filled from the broker's types, which have the same fields."""

    model_config = ConfigDict(from_attributes=True)


class Problem(Answer):
    """Why a request failed."""

    detail: str


class Accepted(Answer):
    """How many documents were queued, and the id of their submission."""

    submission: str
    accepted: int
    duplicates: int


class RejectedLine(Answer):
    """An invalid line: its number, from 1, and the reason."""

    line: int
    reason: str


class AcceptedLines(Accepted):
    """Also counts the invalid lines; the first of them are listed."""

    rejected: int
    rejected_lines: list[RejectedLine]


class Documents(Answer):
    """Documents by outcome."""

    indexed: int
    unchanged: int
    superseded: int
    deleted: int
    rejected: int


class Chunks(Answer):
    """Chunks that were embedded, kept with their vector, or deleted."""

    embedded: int
    reused: int
    deleted: int


class RunningChunks(Chunks):
    """Also how many of the ``known`` chunks of running jobs are done (``running``)."""

    running: int
    known: int


class FailedDocumentState(Answer):
    """A document that failed, and why."""

    doc_id: str
    reason: str


class WarningState(Answer):
    """A document that is indexed, and what of it could not be read."""

    doc_id: str
    warning: str


class Progress(Answer):
    """The progress of a submission: ``done`` of ``accepted`` documents are processed.

    ``warned`` of them are indexed, but something of them could not be read. ``tokens`` counts those
    of the chunks that were embedded.
    """

    submission: str
    accepted: int
    done: int
    complete: bool
    stage: Stage
    documents: Documents
    chunks: RunningChunks
    warned: int
    tokens: int


class Submission(Progress):
    """Also lists the documents that failed, and the first warnings of the others."""

    dead_letters: list[FailedDocumentState]
    warnings: list[WarningState]


class QueueState(Answer):
    """The jobs on the queue, and their size in bytes.

    Each is ready, deferred or in flight, and in the interactive or the bulk lane. ``poison`` counts
    ready jobs over which workers died: they run alone.
    """

    ready: int
    deferred: int
    in_flight: int
    oldest_ready_seconds: float
    bytes: int
    interactive: int
    bulk: int
    poison: int


class WorkerState(Answer):
    """A worker at its last heartbeat, with its rates over the minute before.

    ``paused`` says why it claims no jobs; it serves ``collections``.
    """

    id: str
    host: str
    pid: int
    seen_seconds_ago: float
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None
    collections: list[str]


class CollectionState(Answer):
    """What a collection holds; ``warned`` documents could not be read completely.

    Of ``stale`` documents it holds an older version, because a newer one was rejected. The counts
    are null while Qdrant cannot be asked.
    """

    name: str
    documents: int | None
    chunks: int | None
    warned: int | None
    stale: int | None


class SkippedFileState(Answer):
    """What is not indexed of a watched folder, and why."""

    doc_id: str
    reason: str


class WatchedFolderState(Answer):
    """A watched folder, on its host. Of the ``skipped`` files, the first are listed.

    ``unavailable`` is why nothing of it can be read now; it is empty while it can.
    """

    folder: str
    host: str
    collection: str
    tenant: str
    unavailable: str
    skipped: int
    skipped_files: list[SkippedFileState]


class HeldSourceState(Answer):
    """A source with so many documents that are gone from it, but kept because it may be away.

    ``first`` lists some of them, ``since`` says since when (ISO 8601), and ``confirm`` is the
    command that deletes them.
    """

    source: str
    tenant: str
    collection: str
    documents: int
    first: list[str]
    reason: str
    since: str
    confirm: str


class WebhookState(Answer):
    """What waits to be posted to a webhook, and what became of the rest.

    ``failed`` messages are not tried any more, and ``gone`` says that the webhook answered 410 and
    is told nothing. ``error`` is why the last attempt failed, if it did.
    """

    target: str
    waiting: int
    failed: int
    delivered: int
    dropped: int
    oldest_waiting_seconds: float
    gone: bool
    error: str


class StatusResponse(Answer):
    """Queue, workers, watched folders, webhooks and collections.

    ``dead_letters`` counts the documents that failed.
    ``unserved`` counts the ready jobs of collections that no worker serves. ``collection`` is the
    first of ``collections``. For a token of a tenant or of some collections, ``queue``,
    ``workers``, ``unserved`` and ``webhooks`` are null.
    """

    queue: QueueState | None = None
    dead_letters: int
    workers: list[WorkerState] | None = None
    unserved: dict[str, int] | None = None
    watched_folders: list[WatchedFolderState]
    held_back: list[HeldSourceState]
    webhooks: list[WebhookState] | None = None
    collection: CollectionState
    collections: list[CollectionState]


class DeadLetterResponse(Answer):
    """A document that failed after so many tries; ``failed_at`` says when (ISO 8601)."""

    doc_id: str
    tenant: str
    collection: str
    reason: str
    tries: int
    failed_at: str
    submission: str


class DeadLetterList(Answer):
    """The newest of ``total`` dead letters."""

    total: int
    dead_letters: list[DeadLetterResponse]


class DeadLetterDetail(DeadLetterResponse):
    """Also the payload: the fields of the queued document or deletion.

    It is null for a job that this version cannot decode. ``traceback`` is empty if the reason says
    everything.
    """

    traceback: str
    payload: dict[str, Any] | None


class Requeued(Answer):
    """How many documents were queued again, and as which submission."""

    requeued: int
    submission: str


class Purged(Answer):
    """How many dead letters were deleted."""

    purged: int


class StaleState(Answer):
    """Since when (Unix time in ms) the index holds an older version, and why ``version`` failed."""

    version: int
    since_ms: int
    reason: str


class IndexedState(Answer):
    """What is indexed of a document: its version and number of chunks.

    ``state`` is writing, clearing, indexed, deleting or deleted; ``written_ms`` is Unix time.
    ``warnings`` say what of the document could not be read. ``stale`` is set if a newer version was
    rejected.
    """

    state: str
    version: int
    chunks: int
    written_ms: int
    warnings: list[str] = []
    stale: StaleState | None = None


class DocumentState(Answer):
    """The state of a document; ``last_error`` is the reason of its dead letter, if it has one."""

    doc_id: str
    tenant: str
    collection: str
    indexed: IndexedState | None
    last_error: str | None


class NeighbourResponse(Answer):
    """A chunk before or after a hit in its document."""

    chunk_index: int
    text: str


class HitResponse(Answer):
    """A chunk that was found. Scores are comparable within one response; higher is better.

    ``text`` is its body. ``context`` is embedded with it: the document's title, and the part and
    headings that it stands under. ``page`` and ``part`` are null if the document has none.
    ``snippet`` is the part of the text around the words of the query. ``before`` and ``after`` are
    as many neighbours as were asked for, in the order of the document. ``stale`` is true if a newer
    version of the document was rejected.
    """

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    context: str
    page: int | None
    part: str | None
    metadata: dict[str, Any]
    snippet: str
    before: list[NeighbourResponse]
    after: list[NeighbourResponse]
    tenant: str
    stale: bool


class SearchResponse(Answer):
    """The hits, best first, and whether they were reranked; ``warnings`` say why they were not."""

    hits: list[HitResponse]
    reranked: bool
    warnings: list[str]


class HealthResponse(Answer):
    """The checks by name, and whether one has failed; then ``detail`` says what that means."""

    status: Literal["ok", "failed"]
    checks: dict[str, Literal["ok", "failed", "unknown"]]
    detail: str | None = None
