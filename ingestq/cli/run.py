"""``ingestq run``: queue files and process the queue, in one process and once."""

import asyncio
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Final

import typer

from ingestq.app.composition import imported
from ingestq.app.ingestion import Ingestion
from ingestq.app.services import stop_signals, undisturbed
from ingestq.app.settings import Settings
from ingestq.app.sources import checked_places
from ingestq.app.start import StartTimes, open_parts
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Checksum, Json, PlaceNames, Source, Verbose
from ingestq.cli.progress import progress_display
from ingestq.cli.summary import print_dry_run, print_summary
from ingestq.core.service import Service, run_together, run_until_first
from producers.files.walk import ReadOptions, ScanRecord

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be indexed, embedded and deleted, and what it would cost. Write "
        "nothing.",
    ),
]
RELEASE_SECONDS: Final = 5.0
"""How long the worker may take to nack the jobs that it could not finish."""


def run(
    paths: PlaceNames,
    source: Source = None,
    checksum: Checksum = False,
    allow_mass_delete: AllowMassDelete = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Index files and folders, print a summary, and exit.

    Queues every file under PATH and runs a worker until the queue is empty. Files that were deleted
    from a folder since it was last indexed are removed from the index.
    """
    options = ReadOptions(checksum=checksum)
    start = _dry_run if dry_run else _run
    run_command(
        partial(start, paths, source, options, allow_mass_delete, json),
        as_json=json,
        verbose=verbose,
        traced=True,
    )


async def _run(
    paths: list[str],
    source: str | None,
    options: ReadOptions,
    allow_mass_delete: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    places = await checked_places(paths, source, options, settings)
    interrupted = asyncio.Event()
    times = StartTimes()
    with ExitStack() as ending, progress_display("loading the model") as display:
        async with open_parts(settings, times) as (broker, worker):
            ingestion = Ingestion(broker.client, display, settings.collections)
            scan = ScanRecord()
            found = places.documents(broker.queue.issue_version, scan)
            sweeps = partial(scan.sweeps, allow_mass_delete=allow_mass_delete)
            over = asyncio.Event()

            def interrupt() -> None:
                interrupted.set()
                over.set()
                ingestion.stop()
                worker.stop()

            async def produce() -> None:
                with times.of("walk"):
                    await run_until_first(ingestion.produce(found, sweeps), over.wait())

            async def work(_: asyncio.Event) -> None:
                try:
                    await worker.run_until_stopped()
                finally:
                    over.set()
                    ingestion.end()

            grace_seconds = settings.drain_seconds + RELEASE_SECONDS
            with stop_signals(interrupt):
                async with Service(work, name="worker", grace_seconds=grace_seconds):
                    try:
                        await run_together(produce(), ingestion.follow(until_queue_is_empty=True))
                    finally:
                        if not interrupted.is_set():
                            worker.stop()
            ending.enter_context(undisturbed())  # the summary is due, however it ended
            summary = await ingestion.summary(settings.collection, settings.embeddings_price)
    code = print_summary(summary, as_json=as_json)
    return ExitCode.INTERRUPTED if interrupted.is_set() else code


async def _dry_run(
    paths: list[str],
    source: str | None,
    options: ReadOptions,
    allow_mass_delete: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    places = await checked_places(paths, source, options, settings)
    await imported("ingestq.app.dry_run")
    from ingestq.app.dry_run import DryRun, opened_ports

    with progress_display("loading the model") as display:
        async with opened_ports(settings) as (ports, head):
            dry_run = DryRun(
                places, ports, head, display, settings.collection, settings.embeddings_price
            )
            result = await dry_run.finish(allow_mass_delete=allow_mass_delete)
    return print_dry_run(result, as_json=as_json)
