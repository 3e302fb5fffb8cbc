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
from ingestq.cli.output import configure_logging, err, line, print_json, print_summary
from ingestq.cli.progress import progress_display
from ingestq.core.documents import Document
from ingestq.core.results import FailedDocument
from producers.files import json_lines as jsonl
from producers.files import walk as files
from producers.files.walk import ReadOptions, ScanRecord

STDIN = Path("-")

Wait = Annotated[
    bool, typer.Option("--wait", help="Follow the documents until a worker is done with them.")
]


Inline = Annotated[
    bool,
    typer.Option(
        "--inline", help="Send the text of short files along, for workers that cannot read them."
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
    """Queue every file under PATH, or the documents on stdin (-) as JSON Lines.

    What is gone from a folder since it was last indexed is removed.
    """
    configure_logging(logging.WARNING)
    sending = ReadOptions(inline, checksum)
    run_command(partial(_add, paths, source, sending, allow_mass_delete, wait, json))


async def _add(
    paths: list[Path],
    source: str | None,
    sending: ReadOptions,
    allow_mass_delete: bool,
    wait: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    async with open_broker(settings) as broker:
        with progress_display(err, "queueing") as display:
            ingestion = Ingestion(broker.client, display)
            interrupted = asyncio.Event()

            def stop() -> None:
                interrupted.set()
                producing.cancel()
                ingestion.end()

            with stop_signals(stop):
                async with asyncio.TaskGroup() as group:
                    sightings = ScanRecord()
                    found = _documents(paths, source, sending, sightings, broker.queue)
                    sweeps = partial(sightings.sweeps, allow_mass_delete=allow_mass_delete)
                    producing = group.create_task(ingestion.produce(found, sweeps))
                    if wait:
                        group.create_task(ingestion.follow(until_queue_is_empty=False))
            summary = await ingestion.summary(settings.collection)
    if wait:
        code = print_summary(summary, as_json=as_json)
    else:
        code = _print_queued(ingestion.submission, summary, as_json=as_json)
    return ExitCode.INTERRUPTED if interrupted.is_set() else code


async def _documents(
    paths: list[Path],
    source: str | None,
    sending: ReadOptions,
    sightings: ScanRecord,
    queue: JobQueue,
) -> AsyncIterable[Document | FailedDocument]:
    named = [path for path in paths if path != STDIN]
    async for document in files.observe(named, source, queue.now, sending, sightings):
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
