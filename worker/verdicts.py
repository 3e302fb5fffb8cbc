"""What becomes of a job once it ran: it is finished, or put back. Decided here, done elsewhere."""

import time
import traceback
from dataclasses import dataclass
from typing import Final

import structlog
from arq.worker import Retry

from broker import events
from broker.contract import BatchReport, DeadLetter, IngestBatch, bury
from broker.errors import ContractError, Failure, UsageError, classify
from broker.leases import Claim
from worker.retries import (
    MAX_TRIES,
    NEWER_WORKER_SECONDS,
    SERVICE_RETRY_SECONDS,
    AwaitService,
    backoff_seconds,
    jittered,
)

log = structlog.get_logger()


@dataclass(frozen=True)
class Finish:
    """The job is done with; ``report`` says what became of its documents."""

    report: BatchReport


@dataclass(frozen=True)
class PutBack:
    """The job is to be run again.

    ``failed`` says whether this run counts as a try; ``fatal`` is why this worker must not run it.
    """

    reason: str
    delay_seconds: float
    failed: bool
    fatal: UsageError | None = None


Verdict = Finish | PutBack

RELEASE: Final = PutBack("the worker stops", delay_seconds=0, failed=False)


def judge(error: Exception, claim: Claim, batch: IngestBatch) -> Verdict:
    """The verdict on a job that raised ``error``."""
    tries = claim.failures + 1
    reason = str(error) or type(error).__name__
    if isinstance(error, AwaitService):
        log.warning(events.SERVICE_AWAY, error=error.reason, retry_in=_defer_seconds(error))
        return PutBack(error.reason, _defer_seconds(error), failed=False)
    if isinstance(error, Retry) and tries < MAX_TRIES:
        return PutBack(reason, _defer_seconds(error), failed=True)
    match classify(error):
        case Failure.FATAL:
            assert isinstance(error, UsageError), "nothing else is fatal"
            return PutBack(reason, delay_seconds=0, failed=False, fatal=error)
        case Failure.UNAVAILABLE:
            delay = jittered(SERVICE_RETRY_SECONDS)
            log.warning(events.SERVICE_AWAY, error=reason, retry_in=delay)
            return PutBack(reason, delay, failed=False)
        case Failure.TRANSIENT if tries < MAX_TRIES:
            log.warning(events.JOB_FAILED, job=claim.job_id, error=reason, exc_info=error)
            return PutBack(reason, backoff_seconds(tries), failed=True)
        case _:
            log.error(events.JOB_BURIED, job=claim.job_id, reason=reason, exc_info=error)
            trace = "".join(traceback.format_exception(error))
            return Finish(bury(batch, reason, tries=tries, traceback=trace))


def judge_unknown(claim: Claim, reason: str, batch: IngestBatch) -> Verdict:
    """The verdict on a function this worker does not have."""
    if claim.failures + 1 < MAX_TRIES:
        return PutBack(reason, jittered(NEWER_WORKER_SECONDS), failed=True)
    log.error(events.JOB_BURIED, job=claim.job_id, reason=reason)
    return Finish(bury(batch, reason, tries=claim.failures + 1))


def judge_undecodable(claim: Claim, error: ContractError) -> Verdict:
    """The verdict on bytes that are no job this worker knows: in the end they are kept as is."""
    if claim.failures + 1 < MAX_TRIES:
        return PutBack(str(error), jittered(NEWER_WORKER_SECONDS), failed=True)
    log.error(events.JOB_BURIED, job=claim.job_id, reason=str(error))
    letter = DeadLetter(
        key=claim.job_id,
        doc_id=claim.job_id,
        reason=str(error),
        payload=claim.payload,
        tries=claim.failures + 1,
        buried_ms=time.time_ns() // 1_000_000,
    )
    return Finish(BatchReport(dead=(letter,)))


def _defer_seconds(retry: Retry) -> float:
    return (retry.defer_score or 0) / 1000
