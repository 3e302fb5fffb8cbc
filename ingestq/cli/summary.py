"""The summaries that ``ingestq run``, its ``--dry-run`` and ``ingestq add --wait`` print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ingestq.app.ingestion import Summary
from ingestq.cli.entry import ExitCode
from ingestq.cli.output import line, print_json
from ingestq.core.results import DocumentWarning

if TYPE_CHECKING:
    from ingestq.app.dry_run import DryRunResult

SHOWN_CHANGES: Final = 10
"""Most documents that a dry run lists of each kind of change."""
SHOWN_WARNINGS: Final = 10
"""Most warnings in a summary for people. A file that warns is common, so they are often many."""


def print_summary(summary: Summary, *, as_json: bool) -> ExitCode:
    """Print ``summary``; return the exit code, which says whether any document failed."""
    if as_json:
        print_json(summary.as_json())
    else:
        _print_for_people(summary)
    return _exit_code(summary)


def _exit_code(summary: Summary) -> ExitCode:
    return ExitCode.DOCUMENTS_FAILED if summary.documents.rejected else ExitCode.OK


def print_dry_run(result: "DryRunResult", *, as_json: bool) -> ExitCode:
    """Print what a run would do; return the exit code that it would have."""
    summary = result.summary
    if as_json:
        print_json(result.as_json())
        return _exit_code(summary)
    _print_failures(summary)
    _print_ids("would index", result.to_index, summary.documents.indexed)
    _print_ids("would delete", result.to_delete, summary.documents.deleted)
    chunks = summary.chunks
    line(f"dry run, nothing was written: {_documents(summary)}")
    line(
        f"{chunks.embedded} chunks to embed ({summary.usage.tokens:,} tokens), "
        f"{chunks.reused} to reuse, {chunks.deleted} to delete in {summary.collection}"
    )
    _print_cost(summary, "would cost")
    return _exit_code(summary)


def _print_ids(change: str, ids: Sequence[str], total: int) -> None:
    for doc_id in ids[:SHOWN_CHANGES]:
        line(f"{change}: {doc_id}")
    if (more := total - min(len(ids), SHOWN_CHANGES)) > 0:
        line(f"{change}: … and {more:,} more")


def _print_for_people(summary: Summary) -> None:
    _print_failures(summary)
    line(_documents(summary))
    chunks = summary.chunks
    line(
        f"{chunks.embedded} chunks embedded, {chunks.reused} reused, {chunks.deleted} deleted "
        f"in {summary.seconds:.1f} s ({summary.chunks_per_second:.1f}/s) "
        f"into {summary.collection}"
    )
    _print_cost(summary, "cost")


def _print_failures(summary: Summary) -> None:
    for document in summary.failed:
        line(f"rejected: {document.doc_id}: {document.reason}", style="red")
    if (more := summary.documents.rejected - len(summary.failed)) > 0:
        line(f"rejected: … and {more:,} more", style="red")
    print_warnings(summary.warnings[:SHOWN_WARNINGS], summary.warned.warnings)


def _documents(summary: Summary) -> str:
    documents = summary.documents
    return (
        f"{documents.indexed} indexed, {documents.unchanged} unchanged, "
        f"{documents.rejected} rejected"
        + (f", {documents.deleted} deleted" if documents.deleted else "")
        + (f", {documents.superseded} superseded" if documents.superseded else "")
        + (f", {summary.warned.documents} with warnings" if summary.warned.documents else "")
        + (f", {summary.waiting} still queued: run again to continue" if summary.waiting else "")
    )


def _print_cost(summary: Summary, verb: str) -> None:
    if summary.cost is not None:
        line(f"{summary.usage.tokens:,} tokens {verb} {summary.cost:,.6f}")


def print_warnings(shown: Sequence[DocumentWarning], total: int) -> None:
    """Print what could not be read of documents: the warnings ``shown`` of a ``total``."""
    for warned in shown:
        line(f"warning: {warned.doc_id}: {warned.warning}", style="yellow")
    if (more := total - len(shown)) > 0:
        line(f"warning: … and {more:,} more; `ingestq status --warnings` lists all", style="yellow")
