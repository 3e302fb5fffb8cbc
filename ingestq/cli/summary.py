"""The summary that ``ingestq run`` and ``ingestq add --wait`` print."""

from collections.abc import Sequence
from typing import Final

from ingestq.app.ingestion import Summary
from ingestq.cli.entry import ExitCode
from ingestq.cli.output import line, print_json
from ingestq.core.results import DocumentWarning

SHOWN_WARNINGS: Final = 10
"""Most warnings in a summary for people. A file that warns is common, so they are often many."""


def print_summary(summary: Summary, *, as_json: bool) -> ExitCode:
    """Print ``summary``; return the exit code, which says whether any document failed."""
    if as_json:
        print_json(summary.as_json())
    else:
        _print_for_people(summary)
    return ExitCode.DOCUMENTS_FAILED if summary.documents.rejected else ExitCode.OK


def _print_for_people(summary: Summary) -> None:
    documents, chunks = summary.documents, summary.chunks
    for document in summary.failed:
        line(f"rejected: {document.doc_id}: {document.reason}", style="red")
    if (more := documents.rejected - len(summary.failed)) > 0:
        line(f"rejected: … and {more:,} more", style="red")
    print_warnings(summary.warnings[:SHOWN_WARNINGS], summary.warned.warnings)
    line(
        f"{documents.indexed} indexed, {documents.unchanged} unchanged, "
        f"{documents.rejected} rejected"
        + (f", {documents.deleted} deleted" if documents.deleted else "")
        + (f", {documents.superseded} superseded" if documents.superseded else "")
        + (f", {summary.warned.documents} with warnings" if summary.warned.documents else "")
        + (f", {summary.waiting} still queued: run again to continue" if summary.waiting else "")
    )
    line(
        f"{chunks.embedded} chunks embedded, {chunks.reused} reused, {chunks.deleted} deleted "
        f"in {summary.seconds:.1f} s ({summary.chunks_per_second:.1f}/s) "
        f"into {summary.collection}"
    )


def print_warnings(shown: Sequence[DocumentWarning], total: int) -> None:
    """Print what could not be read of documents: the warnings ``shown`` of a ``total``."""
    for warned in shown:
        line(f"warning: {warned.doc_id}: {warned.warning}", style="yellow")
    if (more := total - len(shown)) > 0:
        line(f"warning: … and {more:,} more; `ingestq status --warnings` lists all", style="yellow")
