"""``ingestq add``: queue documents; a worker indexes them."""

import asyncio
import logging
from collections.abc import AsyncIterable
from functools import partial
from pathlib import Path
from typing import Annotated

import aiofiles
import msgspec
import typer

from ingestq.app.composition import open_broker
from ingestq.app.ingestion import Ingestion, Summary
from ingestq.app.services import stop_signals
from ingestq.app.settings import Settings
from ingestq.broker.queue.job_queue import JobQueue
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Checksum, Json, Paths, Source
from ingestq.cli.output import configure_logging, line, print_json
from ingestq.cli.progress import progress_display
from ingestq.cli.summary import print_summary
from ingestq.core.documents import Document
from ingestq.core.results import FailedDocument
from ingestq.core.service import run_together, run_until_first
from producers.files import json_lines as jsonl
from producers.files import walk as files
from producers.files.walk import ReadOptions, ScanRecord

STDIN = Path("-")

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
    paths: Paths,
    source: Source = None,
    inline: Inline = False,
    checksum: Checksum = False,
    allow_mass_delete: AllowMassDelete = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Queue documents; a worker indexes them.

    Queues every file under PATH. If PATH is -, reads documents as JSON Lines from stdin. Files that
    were deleted from a folder since it was last indexed are removed from the index.
    """
    configure_logging(logging.WARNING)
    options = ReadOptions(inline, checksum)
    run_command(partial(_add, paths, source, options, allow_mass_delete, wait, json), as_json=json)


async def _add(
    paths: list[Path],
    source: str | None,
    options: ReadOptions,
    allow_mass_delete: bool,
    wait: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    async with open_broker(settings) as broker:
        with progress_display("queueing") as display:
            ingestion = Ingestion(broker.client, display)
            scan = ScanRecord()
            found = _documents(paths, source, options, scan, broker.queue)
            sweeps = partial(scan.sweeps, allow_mass_delete=allow_mass_delete)
            work = [ingestion.produce(found, sweeps)]
            if wait:
                work.append(ingestion.follow(until_queue_is_empty=False))
            interrupted = asyncio.Event()
            with stop_signals(interrupted.set):
                await run_until_first(run_together(*work), interrupted.wait())
            summary = await ingestion.summary(settings.collection)
    if wait:
        code = print_summary(summary, as_json=as_json)
    else:
        code = _print_queued(ingestion.submission, summary, as_json=as_json)
    return ExitCode.INTERRUPTED if interrupted.is_set() else code


async def _documents(
    paths: list[Path],
    source: str | None,
    options: ReadOptions,
    scan: ScanRecord,
    queue: JobQueue,
) -> AsyncIterable[Document | FailedDocument]:
    named = [path for path in paths if path != STDIN]
    async for document in files.observe(named, source, queue.now, options, scan):
        yield document
    if STDIN in paths:
        async for document in jsonl.parse(aiofiles.stdin_bytes, queue.now):
            yield document


def _print_queued(submission: str, summary: Summary, *, as_json: bool) -> ExitCode:
    queued = summary.waiting + summary.documents.total - len(summary.failed)
    if as_json:
        print_json(
            {
                "submission": submission,
                "documents": {"queued": queued, "rejected": len(summary.failed)},
                "rejected": [msgspec.structs.asdict(document) for document in summary.failed],
            }
        )
    else:
        for document in summary.failed:
            line(f"rejected: {document.doc_id}: {document.reason}", style="red")
        line(f"{queued} queued as submission {submission}, {len(summary.failed)} rejected")
    return ExitCode.DOCUMENTS_FAILED if summary.failed else ExitCode.OK
