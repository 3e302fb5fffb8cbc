"""The summary of ``run`` and ``add --wait`` for people."""

from typing import Any

import pytest

from ingestq.app.ingestion import Summary
from ingestq.cli.entry import ExitCode
from ingestq.cli.summary import SHOWN_WARNINGS, print_summary
from ingestq.core.results import ChunkCounts, DocumentCounts, DocumentWarning, WarningCounts


def printed(documents: DocumentCounts, capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    summary = Summary(documents, ChunkCounts(), 1.0, "documents", (), 0, **more)
    assert print_summary(summary, as_json=False) is ExitCode.OK
    return capsys.readouterr().out


def test_deleted_documents_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = printed(DocumentCounts(indexed=1, deleted=2), capsys).splitlines()
    assert first == "1 indexed, 0 unchanged, 0 rejected, 2 deleted"


def test_deletions_are_not_mentioned_if_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = printed(DocumentCounts(indexed=1), capsys).splitlines()
    assert first == "1 indexed, 0 unchanged, 0 rejected"


def test_a_few_warnings_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    warnings = [DocumentWarning("a.pdf", f"page {n} has no text") for n in (3, 4)]
    shown = printed(
        DocumentCounts(indexed=2), capsys, warned=WarningCounts(1, 2), warnings=warnings
    )
    assert shown.splitlines()[:3] == [
        "warning: a.pdf: page 3 has no text",
        "warning: a.pdf: page 4 has no text",
        "2 indexed, 0 unchanged, 0 rejected, 1 with warnings",
    ]


def test_of_many_warnings_the_first_are_shown_and_the_others_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warnings = [DocumentWarning(f"{n}.pdf", "page 1 has no text") for n in range(1000)]
    shown = printed(
        DocumentCounts(indexed=2500), capsys, warned=WarningCounts(2500, 2500), warnings=warnings
    )
    *listed, more, counts, _ = shown.splitlines()
    assert listed == [f"warning: {n}.pdf: page 1 has no text" for n in range(SHOWN_WARNINGS)]
    assert more == "warning: … and 2,490 more; `ingestq status --warnings` lists all"
    assert counts == "2500 indexed, 0 unchanged, 0 rejected, 2500 with warnings"
