"""What becomes of a job: acknowledged, or tried again; when and how often."""

import random
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingestq.broker.queue.leases import Claim
from ingestq.core.errors import (
    Failure,
    ServiceUnavailable,
    StoreFull,
    UsageError,
    classify,
    describe,
    encodable,
)
from ingestq.core.jobs import Batch, dead_letter_batch
from ingestq.core.results import BatchReport, ChunkCounts, DeadLetter, DocumentCounts
from worker.pipeline.ingest import (
    Deleted,
    Indexed,
    Misconfigured,
    Outcome,
    Rejected,
    Retry,
    Superseded,
    SweepResult,
    Unchanged,
)

MAX_TRIES: Final = 5
"""After this many failures a document is dead-lettered."""
FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 60.0
NEWER_WORKER_SECONDS: Final = 30.0
"""How soon to try again what this worker does not know: during a deploy, a newer one may."""
SERVICE_RETRY_SECONDS: Final = 2.0
"""How soon to look whether a service that was away is back."""
STORE_FULL_SECONDS: Final = 30.0
"""How soon to look whether somebody made room in Qdrant."""
BROKER_RETRY_SECONDS: Final = 1.0
"""The same for Redis: without it nothing at all can be done."""


def backoff_seconds(failures: int) -> float:
    """Return how long to wait after the ``failures``-th failure; it grows exponentially."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)


def pause_seconds(error: BaseException) -> float:
    """Return for how long a worker has to claim nothing after ``error``; mostly 0.

    A service may ask to be left alone, or may be full.
    """
    match error:
        case StoreFull():
            return STORE_FULL_SECONDS
        case ServiceUnavailable(retry_after=float() | int() as named):
            return named
        case _:
            return 0.0


def jittered(seconds: float) -> float:
    """Return ``seconds`` give or take a quarter, so that workers do not come back all at once."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311


@dataclass(frozen=True)
class Ack:
    """Remove the job. ``report`` says what became of its documents, dead letters included.

    ``error`` says why the job was given up as a whole; None if it ran to its end.
    """

    report: BatchReport
    error: str | None = None
    aborted: bool = False


@dataclass(frozen=True)
class Nack:
    """Put the job back on the queue.

    For ``pause_seconds`` this worker claims no job, because a service asks to be left alone. The
    job may be claimed again about ``delay_seconds`` after that. ``fatal`` is the error for which
    this worker has to stop.
    """

    reason: str
    delay_seconds: float = 0.0
    counts_as_try: bool = False
    pause_seconds: float = 0.0
    fatal: UsageError | None = None


Decision = Ack | Nack
Failed = Rejected | Retry | Misconfigured
"""The outcomes that an exception can have."""

RELEASE: Final = Nack("the worker stops")
ABORTED: Final = "aborted"
"""The reason in the dead letters of a job that somebody aborted."""


def outcome_of(error: Exception) -> Failed:
    """Return what ``error`` means for the document, or for the whole job, that met it."""
    reason = describe(error)
    match classify(error):
        case Failure.PERMANENT:
            return Rejected(reason)
        case Failure.TRANSIENT:
            trace = encodable("".join(traceback.format_exception(error)))
            return Retry(reason, counts_as_try=True, traceback=trace)
        case Failure.UNAVAILABLE:
            return Retry(reason, counts_as_try=False, pause_seconds=pause_seconds(error))
        case Failure.FATAL:
            assert isinstance(error, UsageError), "nothing else is fatal"
            return Misconfigured(error)


def decide(
    claim: Claim, batch: Batch, ended: Sequence[Outcome] | Failed, *, now_ms: int
) -> Decision:
    """Decide on a job by the outcomes of its documents, or by the error that it ended with.

    A job is put back as a whole: when it is run again, documents that are done cost a look-up.
    Pure; ``now_ms`` (Unix time) is what dead letters are dated with.
    """
    outcomes = [ended] * len(batch.documents) if isinstance(ended, Failed) else ended
    for outcome in outcomes:
        if isinstance(outcome, Misconfigured):
            return Nack(outcome.reason, fatal=outcome.error)
    retries = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    waits = [retry for retry in retries if not retry.counts_as_try]
    if waits:
        longest = max(waits, key=lambda retry: retry.pause_seconds)
        return Nack(longest.reason, SERVICE_RETRY_SECONDS, pause_seconds=longest.pause_seconds)
    tries = claim.failures + 1
    if retries and tries < MAX_TRIES:
        return Nack(retries[0].reason, backoff_seconds(tries), counts_as_try=True)
    error = ended.reason if isinstance(ended, Failed) else None
    return Ack(_report(claim, batch, outcomes, now_ms), error)


def decide_unknown(claim: Claim, reason: str, batch: Batch | None, *, now_ms: int) -> Decision:
    """Decide on a job that this worker has no function for, or cannot even decode.

    It waits for a newer worker; in the end it is kept among the dead letters.
    """
    if claim.failures + 1 < MAX_TRIES:
        return Nack(reason, NEWER_WORKER_SECONDS, counts_as_try=True)
    return Ack(_give_up(claim, batch, reason, now_ms), error=reason)


def decide_aborted(claim: Claim, batch: Batch | None, *, now_ms: int) -> Ack:
    """Decide on a job that somebody aborted: its documents can be requeued."""
    return Ack(_give_up(claim, batch, ABORTED, now_ms), error=ABORTED, aborted=True)


def _report(claim: Claim, batch: Batch, outcomes: Sequence[Outcome], now_ms: int) -> BatchReport:
    ends = Counter(map(type, outcomes))
    chunks = [outcome.chunks for outcome in outcomes if isinstance(outcome, Indexed)]
    chunks += [
        ChunkCounts(deleted=o.chunks) for o in outcomes if isinstance(o, Deleted | SweepResult)
    ]
    swept = sum(outcome.documents for outcome in outcomes if isinstance(outcome, SweepResult))
    dead = [
        dead_letter
        for index, outcome in enumerate(outcomes)
        for dead_letter in _dead_letters(claim, batch, index, outcome, now_ms)
    ]
    return BatchReport(
        documents=DocumentCounts(
            indexed=ends[Indexed],
            unchanged=ends[Unchanged],
            superseded=ends[Superseded],
            deleted=ends[Deleted] + swept,
            rejected=len(dead),
        ),
        chunks=sum(chunks, start=ChunkCounts()),
        dead=tuple(dead),
        resolved=tuple(
            key
            for key, outcome in zip(batch.dead_letter_keys, outcomes, strict=True)
            if isinstance(outcome, Indexed | Unchanged | Deleted | SweepResult)
        ),
    )


def _dead_letters(
    claim: Claim, batch: Batch, index: int, outcome: Outcome, now_ms: int
) -> tuple[DeadLetter, ...]:
    """Return the dead letter of a document that failed; none of any other."""
    if not isinstance(outcome, Rejected | Retry):
        return ()
    trace = outcome.traceback if isinstance(outcome, Retry) else ""
    tries = claim.crashes if index in claim.poison_documents else claim.failures + 1
    alone = batch.alone(index)
    return dead_letter_batch(
        alone, outcome.reason, tries=tries, traceback=trace, now_ms=now_ms
    ).dead


def _give_up(claim: Claim, batch: Batch | None, reason: str, now_ms: int) -> BatchReport:
    """Report a job as dead: one dead letter a document, or one with its payload if it has no
    batch."""
    tries = claim.failures + 1
    if batch is not None:
        return dead_letter_batch(batch, reason, tries=tries, now_ms=now_ms)
    dead_letter = DeadLetter(
        key=claim.job_id,
        doc_id=claim.job_id,
        documents=claim.documents,
        reason=reason,
        payload=claim.payload,
        tries=tries,
        failed_ms=now_ms,
        submission=claim.submission,
        collection=claim.collection,
    )
    return BatchReport(documents=DocumentCounts(rejected=claim.documents), dead=(dead_letter,))
