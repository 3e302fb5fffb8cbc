"""The summary of ``run`` and ``add --wait`` for people."""

import pytest

from ingestq.app.ingestion import Summary
from ingestq.cli.entry import ExitCode
from ingestq.cli.summary import print_summary
from ingestq.core.results import ChunkCounts, DocumentCounts


def printed(documents: DocumentCounts, capsys: pytest.CaptureFixture[str]) -> str:
    summary = Summary(documents, ChunkCounts(), 1.0, "documents", (), 0)
    assert print_summary(summary, as_json=False) is ExitCode.OK
    return capsys.readouterr().out


def test_deleted_documents_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = printed(DocumentCounts(indexed=1, deleted=2), capsys).splitlines()
    assert first == "1 indexed, 0 unchanged, 0 rejected, 2 deleted"


def test_deletions_are_not_mentioned_if_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = printed(DocumentCounts(indexed=1), capsys).splitlines()
    assert first == "1 indexed, 0 unchanged, 0 rejected"
