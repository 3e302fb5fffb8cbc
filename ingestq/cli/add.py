"""``ingestq add``: queue documents; a worker indexes them."""

import asyncio
from collections.abc import AsyncIterable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Final

import msgspec
import typer

from ingestq.app.composition import open_broker
from ingestq.app.ingestion import Ingestion, Summary
from ingestq.app.services import stop_signals, undisturbed
from ingestq.app.settings import Settings
from ingestq.app.sources import Places, checked_places
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.broker.queue.versions import VersionSupply
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import STANDARD_STREAM, AllowMassDelete, Checksum, Json, PlaceNames, Source
from ingestq.cli.output import line, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.stdio import StandardInput
from ingestq.cli.summary import print_summary
from ingestq.core.documents import Document
from ingestq.core.results import FailedDocument
from ingestq.core.service import run_together, run_until_first
from producers.files import json_lines as jsonl
from producers.files.walk import ReadOptions, ScanRecord

STREAM: Final = str(STANDARD_STREAM)
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until a worker has processed the documents.")
]
Inline = Annotated[
    bool,
    typer.Option(
        "--inline",
        help="Send short text files with their content, for workers that cannot read the files.",
    ),
]


def add(
    paths: PlaceNames,
    source: Source = None,
    inline: Inline = False,
    checksum: Checksum = False,
    allow_mass_delete: AllowMassDelete = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Queue documents; a worker indexes them.

    Queues every file under PATH. If PATH is -, reads documents as JSON Lines from stdin; a line may
    be as long as INGESTQ_MAX_DOCUMENT_BYTES. Files that were deleted from a folder since it was
    last indexed are removed from the index.
    """
    options = ReadOptions(inline, checksum)
    run_command(
        partial(_add, paths, source, options, allow_mass_delete, wait, json),
        as_json=json,
        traced=True,
    )


async def _add(
    paths: list[str],
    source: str | None,
    options: ReadOptions,
    allow_mass_delete: bool,
    wait: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    named = [path for path in paths if path != STREAM]
    places = await checked_places(named, source, options, settings)
    with ExitStack() as ending:
        async with open_broker(settings) as broker:
            with progress_display("queueing") as display:
                ingestion = Ingestion(broker.client, display)
                scan = ScanRecord()
                lines = settings.max_document_bytes if STREAM in paths else None
                found = _documents(places, scan, broker.queue, lines)
                sweeps = partial(scan.sweeps, allow_mass_delete=allow_mass_delete)
                interrupted = asyncio.Event()

                async def work() -> None:
                    parts = [ingestion.produce(found, sweeps)]
                    if wait:
                        parts.append(ingestion.follow(until_queue_is_empty=False))
                    await run_together(*parts)

                with stop_signals(interrupted.set):
                    await run_until_first(work(), interrupted.wait())
                ending.enter_context(undisturbed())  # the summary is due, however it ended
                summary = await ingestion.summary(settings.collection, settings.embeddings_price)
    if wait:
        code = print_summary(summary, as_json=as_json)
    else:
        code = _print_queued(ingestion.submission, summary, as_json=as_json)
    return ExitCode.INTERRUPTED if interrupted.is_set() else code


async def _documents(
    places: Places, scan: ScanRecord, queue: JobQueue, max_line_bytes: int | None
) -> AsyncIterable[Document | FailedDocument]:
    """Yield the documents of ``places``, then those on stdin if there is a ``max_line_bytes``."""
    async for document in places.documents(queue.issue_version, scan):
        yield document
    if max_line_bytes is not None:
        lines = jsonl.read_lines(StandardInput(), max_line_bytes)
        async for document in jsonl.parse(lines, VersionSupply(queue.issue_versions)):
            yield document


def _print_queued(submission: str, summary: Summary, *, as_json: bool) -> ExitCode:
    rejected = summary.documents.rejected
    queued = summary.waiting + summary.documents.total - rejected
    if as_json:
        print_json(
            {
                "submission": submission,
                "documents": {"queued": queued, "rejected": rejected},
                "rejected": [msgspec.structs.asdict(document) for document in summary.failed],
            }
        )
    else:
        for document in summary.failed:
            line(f"rejected: {document.doc_id}: {document.reason}", style="red")
        line(f"{queued} queued as submission {submission}, {rejected} rejected")
    return ExitCode.DOCUMENTS_FAILED if rejected else ExitCode.OK
