"""Decides what happens to a job from the outcomes of its documents: ack it, or nack it until when.

An exception becomes an outcome in one place, `outcome_of`; outcomes become a decision in one place,
`decide`. Nothing here does I/O.
"""

import random
import time
import traceback
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

import msgspec

from ingestq.broker.queue.leases import Claim
from ingestq.core.documents import Item
from ingestq.core.errors import (
    Cause,
    Failure,
    ServiceUnavailable,
    SiteBusy,
    StoreFull,
    UsageError,
    cause_of,
    classify,
    describe,
    encodable,
)
from ingestq.core.jobs import Batch, dead_letter_batch
from ingestq.core.results import (
    LISTED_WARNINGS,
    BatchReport,
    ChunkCounts,
    DeadLetter,
    DocumentCounts,
    DocumentWarning,
    HeldDocuments,
    Usage,
    WarningCounts,
)
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
"""A document that failed this often is dead-lettered."""
FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 60.0
NEWER_WORKER_SECONDS: Final = 30.0
"""Delay of a job that this worker cannot run; during a deploy, a newer worker may be able to."""
SERVICE_RETRY_SECONDS: Final = 2.0
"""Delay of a job after a service was unavailable."""
STORE_FULL_SECONDS: Final = 30.0
"""How long to claim no jobs after Qdrant was full."""
BROKER_RETRY_SECONDS: Final = 1.0
"""Delay before a request to Redis is repeated."""


def backoff_seconds(failures: int) -> float:
    """Return how long to wait after the ``failures``-th failure: exponential, up to a limit."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)


def back_pressure_seconds(error: BaseException) -> float:
    """Return for how long a worker must claim no jobs after ``error``; 0 for most errors.

    It is more than 0 if a service named a time to wait, or is full.
    """
    match error:
        case StoreFull():
            return STORE_FULL_SECONDS
        case ServiceUnavailable(retry_after=float() | int() as seconds):
            return seconds
        case _:
            return 0.0


def unix_ms() -> int:
    """Return this machine's Unix time in ms: for display only, no decision depends on it."""
    return time.time_ns() // 1_000_000


def jittered(seconds: float) -> float:
    """Return ``seconds`` changed by up to a quarter, so that workers do not retry in step."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311


@dataclass(frozen=True)
class Ack:
    """The job is done: remove it from the queue and count its outcomes.

    ``report`` has the outcomes of its documents, including the dead letters, and ``causes`` the
    class of the reason of each of these. ``error`` says why the job failed as a whole; None if it
    ran to its end.
    """

    report: BatchReport
    error: str | None = None
    aborted: bool = False
    causes: tuple[Cause, ...] = field(default=(), compare=False)

    def superseding(self, keys: Container[str]) -> "Ack":
        """Return the decision in which the dead letters with these ``keys`` are superseded."""
        causes = tuple(
            cause
            for cause, dead in zip(self.causes, self.report.dead, strict=True)
            if dead.key not in keys
        )
        return replace(self, report=self.report.superseding(keys), causes=causes)


@dataclass(frozen=True)
class Nack:
    """The job is not done: return it to the queue.

    For ``back_pressure_seconds`` this worker claims no jobs, because a service is full or asked to
    wait. The job may be claimed again about ``delay_seconds`` after that. ``fatal`` is the error
    with which this worker must stop; None if it goes on. ``cause`` is the class of the reason.
    """

    reason: str
    delay_seconds: float = 0.0
    counts_as_try: bool = False
    back_pressure_seconds: float = 0.0
    fatal: UsageError | None = None
    cause: Cause = field(default=Cause.UNEXPECTED, compare=False)


Decision = Ack | Nack
FailedOutcome = Rejected | Retry | Misconfigured
"""The outcomes that an exception can become."""

RELEASE: Final = Nack("the worker is stopping", cause=Cause.STOPPING)
ABORTED: Final = "aborted"
"""The reason in the dead letters of an aborted job."""


def outcome_of(error: Exception) -> FailedOutcome:
    """Return the outcome of a document, or of a whole job, that raised ``error``."""
    reason, cause = describe(error), cause_of(error)
    match classify(error):
        case Failure.PERMANENT:
            return Rejected(reason, cause, "\n".join(getattr(error, "__notes__", ())))
        case Failure.TRANSIENT:
            trace = encodable("".join(traceback.format_exception(error)))
            return Retry(reason, counts_as_try=True, traceback=trace, cause=cause)
        case Failure.UNAVAILABLE:
            return Retry(
                reason,
                counts_as_try=False,
                back_pressure_seconds=back_pressure_seconds(error),
                delay_seconds=error.seconds if isinstance(error, SiteBusy) else 0.0,
                cause=cause,
            )
        case Failure.FATAL:
            assert isinstance(error, UsageError), "only usage errors are fatal"
            return Misconfigured(error)


def decide(
    claim: Claim, batch: Batch, result: Sequence[Outcome] | FailedOutcome, *, now_ms: int
) -> Decision:
    """Decide on a job from ``result``: the outcome of each document, or of the job as a whole.

    In this order: a wrong setting nacks the job and stops the worker; a document that waits for a
    service nacks it without counting a try; a document that failed nacks it with back-off, until
    the tries are used up. Otherwise the job is acked, with dead letters for the documents that
    failed. A job is nacked as a whole: when it runs again, the documents that are done cost one
    look-up in the ledger. ``now_ms`` (Unix time) is the date of the dead letters.
    """
    outcomes = [result] * len(batch.documents) if isinstance(result, FailedOutcome) else result
    for outcome in outcomes:
        if isinstance(outcome, Misconfigured):
            return Nack(outcome.reason, fatal=outcome.error, cause=outcome.cause)
    retries = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    waits = [retry for retry in retries if not retry.counts_as_try]
    if waits:
        longest = max(waits, key=lambda retry: retry.back_pressure_seconds)
        return Nack(
            longest.reason,
            max(SERVICE_RETRY_SECONDS, *(retry.delay_seconds for retry in waits)),
            back_pressure_seconds=longest.back_pressure_seconds,
            cause=longest.cause,
        )
    tries = claim.failures + 1
    if retries and tries < MAX_TRIES:
        first = retries[0]
        return Nack(first.reason, backoff_seconds(tries), counts_as_try=True, cause=first.cause)
    error = result.reason if isinstance(result, FailedOutcome) else None
    causes = (_cause_of_death(outcome) for outcome in outcomes)
    return Ack(
        _report(claim, batch, outcomes, now_ms),
        error,
        causes=tuple(cause for cause in causes if cause is not None),
    )


def decide_unknown(claim: Claim, reason: str, batch: Batch | None, *, now_ms: int) -> Decision:
    """Decide on a job that this worker cannot decode, or has no function for.

    It waits for a newer worker. When its tries are used up, it is dead-lettered.
    """
    if claim.failures + 1 < MAX_TRIES:
        return Nack(reason, NEWER_WORKER_SECONDS, counts_as_try=True, cause=Cause.UNKNOWN_JOB)
    return _all_failed(claim, batch, reason, Cause.UNKNOWN_JOB, now_ms)


def decide_invalid(claim: Claim, reason: str, *, now_ms: int) -> Ack:
    """Decide on a job with invalid documents, which no worker can process: dead-letter it."""
    return _all_failed(claim, None, reason, Cause.UNKNOWN_JOB, now_ms)


def decide_aborted(claim: Claim, batch: Batch | None, *, now_ms: int) -> Ack:
    """Decide on an aborted job: its documents are dead-lettered, so they can be requeued."""
    return replace(_all_failed(claim, batch, ABORTED, Cause.ABORTED, now_ms), aborted=True)


def _all_failed(claim: Claim, batch: Batch | None, reason: str, cause: Cause, now_ms: int) -> Ack:
    """Return the decision that every document of a job is dead."""
    report = _all_dead(claim, batch, reason, now_ms)
    return Ack(report, error=reason, causes=(cause,) * report.documents.rejected)


def _report(claim: Claim, batch: Batch, outcomes: Sequence[Outcome], now_ms: int) -> BatchReport:
    counts = Counter(map(type, outcomes))
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
    documents: Sequence[Item] = batch.documents
    warned = [
        [DocumentWarning(document.doc_id, warning) for warning in outcome.warnings]
        for document, outcome in zip(documents, outcomes, strict=True)
        if isinstance(outcome, Indexed | Unchanged) and outcome.warnings
    ]
    warnings = tuple(chain.from_iterable(warned))
    return BatchReport(
        documents=DocumentCounts(
            indexed=counts[Indexed],
            unchanged=counts[Unchanged],
            superseded=counts[Superseded],
            deleted=counts[Deleted] + swept,
            rejected=len(dead),
        ),
        chunks=sum(chunks, start=ChunkCounts()),
        usage=Usage(sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Indexed))),
        dead=tuple(dead),
        resolved={
            key: document.version
            for key, document, outcome in zip(
                batch.dead_letter_keys, documents, outcomes, strict=True
            )
            if isinstance(outcome, Indexed | Unchanged | Deleted | SweepResult)
            and _held(outcome) is None
        },
        warned=WarningCounts(len(warned), len(warnings)),
        warnings=warnings[:LISTED_WARNINGS],
    )


def _dead_letters(
    claim: Claim, batch: Batch, index: int, outcome: Outcome, now_ms: int
) -> tuple[DeadLetter, ...]:
    """Return the dead letter of a document whose ``outcome`` is a failure; empty for others."""
    held = _held(outcome)
    if held is not None:
        [dead] = dead_letter_batch(batch.alone(index), held.reason, tries=1, now_ms=now_ms).dead
        return (msgspec.structs.replace(dead, held=held),)
    if not isinstance(outcome, Rejected | Retry):
        return ()
    tries = claim.crashes if index in claim.poison_documents else claim.failures + 1
    alone = batch.alone(index)
    return dead_letter_batch(
        alone, outcome.reason, tries=tries, traceback=outcome.traceback, now_ms=now_ms
    ).dead


def _cause_of_death(outcome: Outcome) -> Cause | None:
    """Return the class of the reason of the document's dead letter; None if it has none."""
    if _held(outcome) is not None:
        return Cause.HELD_BACK
    return outcome.cause if isinstance(outcome, Rejected | Retry) else None


def _held(outcome: Outcome) -> HeldDocuments | None:
    """Return what a sweep with this ``outcome`` held back; None if nothing was."""
    return outcome.held if isinstance(outcome, SweepResult) else None


def _all_dead(claim: Claim, batch: Batch | None, reason: str, now_ms: int) -> BatchReport:
    """Report that every document of a job is dead.

    There is one dead letter a document, or one with the payload if the job has no batch.
    """
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
