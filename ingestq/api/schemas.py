"""Response bodies. Their shapes are those of the commands' JSON."""

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

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


class Progress(Answer):
    """The progress of a submission: ``done`` of ``accepted`` documents are processed."""

    submission: str
    accepted: int
    done: int
    complete: bool
    stage: Stage
    documents: Documents
    chunks: RunningChunks


class Submission(Progress):
    """Also lists the documents that failed."""

    dead_letters: list[FailedDocumentState]


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


class StatusResponse(Answer):
    """Queue and workers. ``dead_letters`` counts the documents that failed.

    ``unserved`` counts the ready jobs of collections that no worker serves.
    """

    queue: QueueState
    dead_letters: int
    workers: list[WorkerState]
    unserved: dict[str, int]


class DeadLetterResponse(Answer):
    """A document that failed after so many tries; ``buried`` says when (ISO 8601)."""

    doc_id: str
    tenant: str
    collection: str
    reason: str
    tries: int
    buried: str = Field(validation_alias=AliasChoices("failed_at", "buried"))
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


class IndexedState(Answer):
    """What is indexed of a document: its version and number of chunks.

    ``state`` is writing, clearing, indexed, deleting or deleted; ``written_ms`` is Unix time.
    """

    state: str
    version: int
    chunks: int
    written_ms: int


class DocumentState(Answer):
    """The state of a document; ``last_error`` is the reason of its dead letter, if it has one."""

    doc_id: str
    tenant: str
    collection: str
    indexed: IndexedState | None
    last_error: str | None


class HitResponse(Answer):
    """A chunk that was found. Scores are comparable within one response; higher is better."""

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    metadata: dict[str, Any]


class SearchResponse(Answer):
    """The hits, best first."""

    hits: list[HitResponse]


class Health(Answer):
    """The server is healthy."""

    status: str = "ok"
