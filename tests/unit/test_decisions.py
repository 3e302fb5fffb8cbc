"""The outcomes of a job's documents become one decision: ack or nack."""

from collections.abc import Sequence

import pytest

from ingestq.broker.queue.leases import Claim
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import (
    BrokerUnavailable,
    DocumentRejected,
    PoolFailure,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import BatchReport, ChunkCounts, DocumentCounts
from worker.consumer.decision import (
    MAX_TRIES,
    SERVICE_RETRY_SECONDS,
    STORE_FULL_SECONDS,
    Ack,
    Decision,
    Nack,
    backoff_seconds,
    decide,
    decide_aborted,
    decide_unknown,
    outcome_of,
)
from worker.pipeline.ingest import (
    Indexed,
    Misconfigured,
    Outcome,
    Rejected,
    Retry,
    Superseded,
    Unchanged,
)

INDEXED = Indexed(ChunkCounts(embedded=2))
TRANSIENT = Retry("it died", counts_as_try=True, traceback="trace")
AWAY = Retry("away", counts_as_try=False)
FULL = Retry("full", counts_as_try=False, back_pressure_seconds=STORE_FULL_SECONDS)
WRONG = Misconfigured(UsageError("a wrong key"))


def batch(size: int) -> IngestBatch:
    return IngestBatch(
        "s",
        tuple(
            Document(collection="c", doc_id=f"d{i}", version=1, source="", text="t")
            for i in range(size)
        ),
    )


def claim(failures: int = 0, crashes: int = 0, poison: frozenset[int] = frozenset()) -> Claim:
    return Claim(
        *("j", 1, b"job", Lane.BULK, "s", 3, failures, crashes, poison),
        is_poison=bool(poison),
        aborted=False,
        collection="c",
    )


def decided(*outcomes: Outcome, failures: int = 0) -> Decision:
    return decide(claim(failures), batch(len(outcomes)), outcomes, now_ms=7)


def reasons(report: BatchReport) -> dict[str, str]:
    return {dead_letter.doc_id: dead_letter.reason for dead_letter in report.dead}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DocumentRejected("no text"), Rejected("no text")),
        (BrokerUnavailable("away"), AWAY),
        (StoreUnavailable("away", 9), Retry("away", counts_as_try=False, back_pressure_seconds=9)),
        (StoreFull("full"), FULL),
    ],
)
def test_an_error_becomes_the_outcome_of_its_class(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) == outcome


def test_a_transient_error_keeps_its_traceback() -> None:
    try:
        raise PoolFailure("it died")
    except PoolFailure as error:
        outcome = outcome_of(error)
    assert isinstance(outcome, Retry)
    assert outcome.counts_as_try
    assert "raise PoolFailure" in outcome.traceback


def test_a_usage_error_becomes_misconfigured() -> None:
    error = UsageError("a wrong key")
    assert outcome_of(error) == Misconfigured(error)


def test_a_finished_job_is_acked_with_its_outcomes() -> None:
    decision = decided(INDEXED, Unchanged(), Superseded(), Rejected("no text"))
    assert isinstance(decision, Ack)
    assert decision.error is None
    report = decision.report
    assert report.documents == DocumentCounts(indexed=1, unchanged=1, superseded=1, rejected=1)
    assert report.chunks == ChunkCounts(embedded=2)
    assert report.resolved == batch(2).versions
    [dead_letter] = report.dead
    assert (dead_letter.doc_id, dead_letter.reason, dead_letter.tries, dead_letter.failed_ms) == (
        "d3",
        "no text",
        1,
        7,
    )


@pytest.mark.parametrize(
    ("outcomes", "nack"),
    [
        ([INDEXED, TRANSIENT], Nack("it died", backoff_seconds(1), counts_as_try=True)),
        ([TRANSIENT, AWAY], Nack("away", SERVICE_RETRY_SECONDS)),
        (
            [AWAY, FULL],
            Nack("full", SERVICE_RETRY_SECONDS, back_pressure_seconds=STORE_FULL_SECONDS),
        ),
        ([FULL, TRANSIENT, WRONG], Nack("a wrong key", fatal=WRONG.error)),
    ],
)
def test_the_gravest_outcome_decides_how_a_job_is_nacked(
    outcomes: Sequence[Outcome], nack: Nack
) -> None:
    assert decided(*outcomes) == nack


def test_an_unavailable_service_never_dead_letters_a_document() -> None:
    assert decided(TRANSIENT, AWAY, failures=MAX_TRIES) == Nack("away", SERVICE_RETRY_SECONDS)


def test_after_the_last_try_only_failed_documents_are_dead_lettered() -> None:
    decision = decided(INDEXED, TRANSIENT, failures=MAX_TRIES - 1)
    assert isinstance(decision, Ack)
    assert decision.report.documents == DocumentCounts(indexed=1, rejected=1)
    [dead_letter] = decision.report.dead
    assert (dead_letter.doc_id, dead_letter.tries, dead_letter.traceback) == (
        "d1",
        MAX_TRIES,
        "trace",
    )


def test_a_job_that_raises_on_its_last_try_is_dead_lettered_as_a_whole() -> None:
    decision = decide(claim(MAX_TRIES - 1), batch(2), TRANSIENT, now_ms=7)
    assert isinstance(decision, Ack)
    assert decision.error == "it died"
    assert reasons(decision.report) == {"d0": "it died", "d1": "it died"}


def test_the_tries_of_a_poison_document_are_the_workers_it_killed() -> None:
    poison = claim(crashes=3, poison=frozenset([1]))
    decision = decide(poison, batch(2), [INDEXED, Rejected("it kills")], now_ms=7)
    assert isinstance(decision, Ack)
    [dead_letter] = decision.report.dead
    assert (dead_letter.doc_id, dead_letter.tries) == ("d1", 3)


def test_an_unknown_job_waits_and_is_then_dead_lettered_with_its_payload() -> None:
    decision = decide_unknown(claim(), "unknown", None, now_ms=7)
    assert isinstance(decision, Nack)
    assert decision.counts_as_try
    decision = decide_unknown(claim(MAX_TRIES - 1), "unknown", None, now_ms=7)
    assert isinstance(decision, Ack)
    [dead_letter] = decision.report.dead
    assert (dead_letter.doc_id, dead_letter.payload, dead_letter.documents) == ("j", b"job", 3)
    assert decision.report.documents == DocumentCounts(rejected=3)


def test_the_documents_of_an_aborted_job_are_dead_lettered() -> None:
    decision = decide_aborted(claim(), batch(2), now_ms=7)
    assert (decision.aborted, decision.error) == (True, "aborted")
    assert reasons(decision.report) == {"d0": "aborted", "d1": "aborted"}
