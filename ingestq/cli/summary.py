"""The summary that ``ingestq run`` and ``ingestq add --wait`` print."""

from ingestq.app.ingestion import Summary
from ingestq.cli.entry import ExitCode
from ingestq.cli.output import line, print_json


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
    line(
        f"{documents.indexed} indexed, {documents.unchanged} unchanged, "
        f"{documents.rejected} rejected"
        + (f", {documents.deleted} deleted" if documents.deleted else "")
        + (f", {documents.superseded} superseded" if documents.superseded else "")
        + (f", {summary.waiting} still queued: run again to continue" if summary.waiting else "")
    )
    line(
        f"{chunks.embedded} chunks embedded, {chunks.reused} reused, {chunks.deleted} deleted "
        f"in {summary.seconds:.1f} s ({summary.chunks_per_second:.1f}/s) "
        f"into {summary.collection}"
    )
