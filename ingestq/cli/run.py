"""``ingestq run``: everything in one process, once."""

import asyncio
import logging
from functools import partial
from pathlib import Path

from ingestq.app.composition import open_broker
from ingestq.app.ingestion import Ingestion
from ingestq.app.services import stop_signals
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Checksum, Json, Paths, Source
from ingestq.cli.output import configure_logging, err, print_summary
from ingestq.cli.progress import progress_display
from producers.files import walk as files
from producers.files.walk import ReadOptions, ScanRecord


def run(
    paths: Paths,
    source: Source = None,
    checksum: Checksum = False,
    allow_mass_delete: AllowMassDelete = False,
    json: Json = False,
) -> None:
    """Queue every file under PATH, work the queue empty, and print a summary.

    What is gone from a folder since it was last indexed is removed.
    """
    configure_logging(logging.WARNING)
    sending = ReadOptions(checksum=checksum)
    run_command(partial(_run, paths, source, sending, allow_mass_delete, json))


async def _run(
    paths: list[Path],
    source: str | None,
    sending: ReadOptions,
    allow_mass_delete: bool,
    as_json: bool,
    settings: Settings,
) -> ExitCode:
    from ingestq.app.worker import open_worker

    with progress_display(err, "loading the model") as display:
        async with open_broker(settings) as broker, open_worker(settings, broker) as worker:
            ingestion = Ingestion(broker.client, display, settings.collections)
            sightings = ScanRecord()
            found = files.observe(paths, source, broker.queue.now, sending, sightings)
            sweeps = partial(sightings.sweeps, allow_mass_delete=allow_mass_delete)
            interrupted = asyncio.Event()

            def stop() -> None:
                interrupted.set()
                producing.cancel()
                ingestion.stop()
                worker.stop()

            async def work() -> None:
                await worker.run_until_stopped()
                ingestion.end()

            async def follow() -> None:
                await ingestion.follow(until_queue_is_empty=True)
                if not interrupted.is_set():
                    worker.stop()

            with stop_signals(stop):
                async with asyncio.TaskGroup() as group:
                    producing = group.create_task(ingestion.produce(found, sweeps))
                    group.create_task(work())
                    group.create_task(follow())
            summary = await ingestion.summary(settings.collection)
    code = print_summary(summary, as_json=as_json)
    return ExitCode.INTERRUPTED if interrupted.is_set() else code
