"""What could not be read of documents is bounded and counted, and older entries are understood."""

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ingestq.broker.queue.stats import EndedJob
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import (
    LISTED_WARNINGS,
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    DocumentWarning,
    SubmissionStatus,
    WarningCounts,
)
from tests.unit.test_decisions import claim
from worker.consumer.decision import Ack, decide
from worker.pipeline.ingest import Indexed, Outcome, Superseded, Unchanged
from worker.pipeline.points import LedgerEntry
from worker.text.parts import MAX_WARNINGS, WARNING_CHARACTERS, bounded_warnings

texts = st.text(st.characters(), max_size=2 * WARNING_CHARACTERS)


@given(st.lists(texts, max_size=3 * MAX_WARNINGS))
def test_stored_warnings_are_few_and_short_and_can_be_stored(warnings: list[str]) -> None:
    stored = bounded_warnings(warnings)
    assert len(stored) <= MAX_WARNINGS
    assert all(len(warning) <= WARNING_CHARACTERS for warning in stored)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=tuple[str, ...]) == stored
    assert bounded_warnings(stored) == stored
    assert bool(stored) is bool(warnings)


@given(st.integers(0, 5000))
def test_warnings_that_are_left_out_are_counted(number: int) -> None:
    warnings = [f"page {n} has no text" for n in range(number)]
    stored = bounded_warnings(warnings)
    if number <= MAX_WARNINGS:
        assert stored == tuple(warnings)
    else:
        *kept, rest = stored
        assert kept == warnings[: len(kept)]
        assert rest == f"and {number - len(kept):,} more"


def test_a_warning_that_comes_again_is_kept_once() -> None:
    assert bounded_warnings(["no text", "bad line", "no text"]) == ("no text", "bad line")


def report_of(outcomes: Sequence[Outcome]) -> BatchReport:
    documents = tuple(
        Document(collection="c", doc_id=f"d{i}", version=1, source="", text="t")
        for i in range(len(outcomes))
    )
    decision = decide(claim(), IngestBatch("s", documents), outcomes, now_ms=7)
    assert isinstance(decision, Ack)
    return decision.report


def test_a_report_has_the_warnings_of_indexed_and_unchanged_documents() -> None:
    read = Indexed(ChunkCounts(embedded=1))
    report = report_of(
        [
            Indexed(ChunkCounts(), ("page 1 has no text", "page 2 has no text")),
            read,
            Unchanged(("line 7 was skipped",)),
            Superseded(),
        ]
    )
    assert report.documents == DocumentCounts(indexed=2, unchanged=1, superseded=1)
    assert report.warned == WarningCounts(documents=2, warnings=3)
    assert report.warnings == (
        DocumentWarning("d0", "page 1 has no text"),
        DocumentWarning("d0", "page 2 has no text"),
        DocumentWarning("d2", "line 7 was skipped"),
    )


def test_a_report_counts_all_warnings_and_lists_a_bounded_number() -> None:
    many = tuple(f"page {n} has no text" for n in range(MAX_WARNINGS))
    report = report_of([Indexed(ChunkCounts(), many)] * 256)
    both = report + report
    for one, times in ((report, 1), (both, 2)):
        assert one.warned == WarningCounts(times * 256, times * 256 * MAX_WARNINGS)
        assert len(one.warnings) == LISTED_WARNINGS


def test_what_an_earlier_version_stored_has_no_warnings() -> None:
    counts = {"indexed": 1, "unchanged": 0, "superseded": 0, "deleted": 0, "rejected": 0}
    report = {"documents": counts, "chunks": {"embedded": 1, "reused": 0, "deleted": 0}}
    stored = msgspec.msgpack.encode(report)
    assert msgspec.msgpack.decode(stored, type=BatchReport).warned == WarningCounts()
    about = {"function": "ingest", "about": "a", "success": True, "finished_ms": 1, "seconds": 1.0}
    ended = msgspec.msgpack.decode(msgspec.msgpack.encode(report | about), type=EndedJob)
    assert ended.warned == WarningCounts()
    assert SubmissionStatus.of({b"accepted": b"1", b"documents.indexed": b"1"}).as_json()[
        "warned"
    ] == 0  # fmt: skip
    entry = {
        "tenant": "",
        "doc_id": "d",
        "source": "d",
        "version": 1,
        "attempt": 1,
        "content_hash": "",
        "chunks": 0,
        "state": "indexed",
        "written_ms": 1,
    }
    assert msgspec.convert(entry, LedgerEntry).warnings == ()
