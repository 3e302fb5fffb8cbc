"""Response bodies. Their shapes are those of the commands' JSON."""

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from ingestq.core.results import Stage


class Answer(BaseModel):
    """Filled from the broker's own types, which have the same fields."""

    model_config = ConfigDict(from_attributes=True)


class Problem(Answer):
    """Why a request was not answered as hoped."""

    detail: str


class Accepted(Answer):
    """How many documents are on the queue, and the id under which they are followed."""

    submission: str
    accepted: int
    duplicates: int


class RejectedLine(Answer):
    """A line that is no document, by its number from 1, and why."""

    line: int
    reason: str


class AcceptedLines(Accepted):
    """And how many lines are no documents; the first of them are listed."""

    rejected: int
    rejected_lines: list[RejectedLine]


class Documents(Answer):
    """How many documents came to which end."""

    indexed: int
    unchanged: int
    superseded: int
    deleted: int
    rejected: int


class Chunks(Answer):
    """What was done to chunks: embedded anew, kept with their vector, removed."""

    embedded: int
    reused: int
    deleted: int


class RunningChunks(Chunks):
    """And, of the jobs that run at the moment, how many of the ``known`` chunks are done."""

    running: int
    known: int


class FailedDocumentState(Answer):
    """A document that was given up, and why."""

    doc_id: str
    reason: str


class Progress(Answer):
    """How far a submission is: ``done`` of ``accepted`` documents came to their end."""

    submission: str
    accepted: int
    done: int
    complete: bool
    stage: Stage
    documents: Documents
    chunks: RunningChunks


class Submission(Progress):
    """And which of them were given up."""

    dead_letters: list[FailedDocumentState]


class QueueState(Answer):
    """The jobs on the queue at one moment, and their size in bytes.

    Each is ready, deferred or in flight, and in the interactive or the bulk lane. ``poison`` are
    ready jobs over which workers died: they are run alone.
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
    """A worker's last sign of life; its rates are those of the minute before.

    ``paused`` says why it claims no jobs, ``collections`` are those that it serves.
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
    """How things stand. ``dead_letters`` counts the documents that were given up.

    ``unserved`` counts the ready jobs of collections that no worker serves.
    """

    queue: QueueState
    dead_letters: int
    workers: list[WorkerState]
    unserved: dict[str, int]


class DeadLetterResponse(Answer):
    """A document that was given up, after so many tries; ``buried`` says when (ISO 8601)."""

    doc_id: str
    tenant: str
    collection: str
    reason: str
    tries: int
    buried: str = Field(validation_alias=AliasChoices("failed_at", "buried"))
    submission: str


class DeadLetterList(Answer):
    """The newest dead letters of ``total``."""

    total: int
    dead_letters: list[DeadLetterResponse]


class DeadLetterDetail(DeadLetterResponse):
    """And what was queued: the fields of the document, or of its removal.

    Null for a job of a version that is not known here. ``traceback`` is empty where the reason says
    everything.
    """

    traceback: str
    payload: dict[str, Any] | None


class Requeued(Answer):
    """How many dead letters are on the queue again, and as which submission."""

    requeued: int
    submission: str


class Purged(Answer):
    """How many dead letters are gone."""

    purged: int


class IndexedState(Answer):
    """What the index holds of a document: so many chunks of a version.

    ``state`` is writing, clearing, indexed, deleting or deleted; ``written_ms`` is Unix time.
    """

    state: str
    version: int
    chunks: int
    written_ms: int


class DocumentState(Answer):
    """What is known of a document; ``last_error`` says why a version of it was given up."""

    doc_id: str
    tenant: str
    collection: str
    indexed: IndexedState | None
    last_error: str | None


class HitResponse(Answer):
    """A chunk that was found; a higher ``score`` is better, within one answer."""

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    metadata: dict[str, Any]


class SearchResponse(Answer):
    """What was found, best first."""

    hits: list[HitResponse]


class Health(Answer):
    """The server is well."""

    status: str = "ok"
