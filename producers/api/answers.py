"""The bodies of the answers. Their shapes are those of the commands' JSON."""

from typing import Any

from pydantic import BaseModel, ConfigDict


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


class DeadLetter(Answer):
    """A document that was given up, and why."""

    doc_id: str
    reason: str


class Submission(Answer):
    """How far a submission is: ``done`` of ``accepted`` documents came to their end.

    ``stage`` is waiting, reading, embedding or done.
    """

    submission: str
    accepted: int
    done: int
    complete: bool
    stage: str
    documents: Documents
    chunks: RunningChunks
    dead_letters: list[DeadLetter]


class Queue(Answer):
    """The jobs on the queue at one moment, and their size in bytes.

    Each is ready, deferred or in flight, and in the interactive or the bulk lane. ``suspects`` are
    ready jobs over which workers died: they are run alone.
    """

    ready: int
    deferred: int
    in_flight: int
    oldest_ready_seconds: float
    bytes: int
    interactive: int
    bulk: int
    suspects: int


class Worker(Answer):
    """A worker's last sign of life; its rates are those of the minute before.

    ``paused`` says why it claims no jobs.
    """

    id: str
    host: str
    pid: int
    seen_seconds_ago: float
    running: int
    documents_per_second: float
    chunks_per_second: float
    paused: str | None


class Status(Answer):
    """How things stand. ``dead_letters`` counts the documents that were given up."""

    queue: Queue
    dead_letters: int
    workers: list[Worker]


class Hit(Answer):
    """A chunk that was found; a higher ``score`` is better, within one answer."""

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    metadata: dict[str, Any]


class Hits(Answer):
    """What was found, best first."""

    hits: list[Hit]


class Health(Answer):
    """The server is well."""

    status: str = "ok"
