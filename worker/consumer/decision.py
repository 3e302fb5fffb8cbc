"""What becomes of a job: acknowledged, or tried again; when and how often."""

import random
import time
import traceback
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from arq.worker import Retry

from ingestq.broker.queue.leases import Claim
from ingestq.core import events
from ingestq.core.errors import (
    ContractError,
    Failure,
    ServiceUnavailable,
    StoreFull,
    UsageError,
    classify,
    describe,
    encodable,
)
from ingestq.core.jobs import Batch, bury
from ingestq.core.results import BatchReport, DeadLetter, DocumentCounts

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


class AwaitService(Retry):
    """Raised by a job that cannot go on while a service is away. Counts as no try."""

    def __init__(self, reason: str) -> None:
        super().__init__(jittered(SERVICE_RETRY_SECONDS))
        self.reason = reason


def backoff_seconds(failures: int) -> float:
    """How long to wait after the ``failures``-th failure: exponential, with jitter."""
    return jittered(min(FIRST_BACKOFF_SECONDS * 2 ** (failures - 1), LONGEST_BACKOFF_SECONDS))


def pause_seconds(error: BaseException) -> float:
    """How long a worker has to claim nothing after ``error``, because a service wants to be left
    alone; mostly 0.
    """
    match error:
        case StoreFull():
            return STORE_FULL_SECONDS
        case ServiceUnavailable(retry_after=float() | int() as named):
            return named
        case _:
            return 0.0


def jittered(seconds: float) -> float:
    """``seconds`` give or take a quarter, so that workers do not come back all at once."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311


log = structlog.get_logger()


@dataclass(frozen=True)
class Finish:
    """The job is done with; ``report`` says what became of its documents.

    ``result`` is what arq's ``Job.result()`` answers; if the job was given up, ``error`` says why.
    """

    report: BatchReport
    result: Any = None
    error: str | None = None
    aborted: bool = False


@dataclass(frozen=True)
class PutBack:
    """The job is to be run again.

    ``failed`` says whether this run counts as a try; ``fatal`` is why this worker must not run it,
    ``pause_seconds`` how long it must not run any.
    """

    reason: str
    delay_seconds: float
    failed: bool
    fatal: UsageError | None = None
    pause_seconds: float = 0.0


Verdict = Finish | PutBack

RELEASE: Final = PutBack("the worker stops", delay_seconds=0, failed=False)
ABORTED: Final = "aborted"
"""The reason in the dead letters of a job that somebody aborted."""


def accept(returned: Any, batch: Batch | None) -> Finish:
    """The verdict on a job that returned.

    Raises TypeError if it had documents and does not report what became of them.
    """
    if batch is None:
        return Finish(BatchReport(), result=_encodable(returned))
    if not isinstance(returned, BatchReport):
        raise TypeError(f"the job returned {type(returned).__name__}, not a BatchReport")
    return Finish(returned, result=returned)


def judge(
    error: Exception, claim: Claim, batch: Batch | None, max_tries: int = MAX_TRIES
) -> Verdict:
    """The verdict on a job that raised ``error``."""
    tries = claim.failures + 1
    reason = describe(error)
    if isinstance(error, AwaitService):
        log.warning(events.SERVICE_AWAY, error=error.reason, retry_in=_defer_seconds(error))
        return PutBack(error.reason, _defer_seconds(error), failed=False)
    if isinstance(error, Retry) and tries < max_tries:
        return PutBack(reason, _defer_seconds(error), failed=True)
    match classify(error):
        case Failure.FATAL:
            assert isinstance(error, UsageError), "nothing else is fatal"
            return PutBack(reason, delay_seconds=0, failed=False, fatal=error)
        case Failure.UNAVAILABLE:
            pause = pause_seconds(error)
            delay = pause + jittered(SERVICE_RETRY_SECONDS)
            log.warning(events.SERVICE_AWAY, error=reason, retry_in=delay)
            return PutBack(reason, delay, failed=False, pause_seconds=pause)
        case Failure.TRANSIENT if tries < max_tries:
            log.warning(events.JOB_FAILED, job=claim.job_id, error=reason, exc_info=error)
            return PutBack(reason, backoff_seconds(tries), failed=True)
        case _:
            log.error(events.JOB_BURIED, job=claim.job_id, reason=reason, exc_info=error)
            trace = encodable("".join(traceback.format_exception(error)))
            return _give_up(claim, batch, reason, trace=trace)


def judge_unknown(claim: Claim, reason: str, batch: Batch | None) -> Verdict:
    """The verdict on a job this worker has no function for, or cannot even decode.

    It waits for a newer worker; in the end it is kept among the dead letters.
    """
    if claim.failures + 1 < MAX_TRIES:
        return PutBack(reason, jittered(NEWER_WORKER_SECONDS), failed=True)
    log.error(events.JOB_BURIED, job=claim.job_id, reason=reason)
    return _give_up(claim, batch, reason)


def judge_aborted(claim: Claim) -> Verdict:
    """The verdict on a job that somebody aborted: its documents can be requeued."""
    log.info(events.JOB_ABORTED, job=claim.job_id)
    try:
        batch = claim.job().known_batch
    except ContractError:
        batch = None
    return _give_up(claim, batch, ABORTED, aborted=True)


def _give_up(
    claim: Claim,
    batch: Batch | None,
    reason: str,
    *,
    trace: str = "",
    aborted: bool = False,
) -> Finish:
    tries = claim.failures + 1
    if batch is None:
        report = _bury_as_is(claim, reason, trace)
    else:
        report = bury(batch, reason, tries=tries, traceback=trace)
    return Finish(report, error=reason, aborted=aborted)


def _bury_as_is(claim: Claim, reason: str, trace: str) -> BatchReport:
    """Give up a job that cannot be taken apart: there is one dead letter, with its payload."""
    dead_letter = DeadLetter(
        key=claim.job_id,
        doc_id=claim.job_id,
        documents=claim.documents,
        reason=reason,
        payload=claim.payload,
        tries=claim.failures + 1,
        buried_ms=time.time_ns() // 1_000_000,
        submission=claim.submission,
        traceback=trace,
        collection=claim.collection,
    )
    return BatchReport(documents=DocumentCounts(rejected=claim.documents), dead=(dead_letter,))


def _encodable(returned: Any) -> Any:
    """What can be kept of ``returned``: a result nobody can store does not make a job fail."""
    try:
        msgspec.msgpack.encode(returned)
    except (TypeError, ValueError, OverflowError):
        return repr(returned)
    return returned


def _defer_seconds(retry: Retry) -> float:
    return (retry.defer_score or 0) / 1000
