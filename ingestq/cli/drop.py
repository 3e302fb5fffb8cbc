"""``ingestq drop``: keep the index equal to folders until stopped."""

from functools import partial
from typing import Annotated

import typer

from ingestq.app.composition import open_broker
from ingestq.app.monitoring import open_monitor
from ingestq.app.services import run_parts
from ingestq.app.settings import Settings
from ingestq.app.watch import WatchRequest, checked_folders, drop_parts
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Source, named_place

Folders = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DIR",
        help="Folders to watch, also remote ones (s3://bucket/prefix). Default: the [[drop]] "
        "tables in ingestq.toml.",
        show_default=False,
        parser=named_place,
    ),
]
Hot = Annotated[
    bool,
    typer.Option("--hot", help="Move processed files to done/ or failed/ in the folder."),
]


def drop(
    folders: Folders = None,
    source: Source = None,
    allow_mass_delete: AllowMassDelete = False,
    hot: Hot = False,
) -> None:
    """Watch folders and keep the index equal to them.

    Runs until it is stopped. Queues a file once it has not changed for INGESTQ_DROP_SETTLE_SECONDS;
    a worker indexes it. Removes deleted files from the index, unless the folder is a hot folder
    (--hot): there the documents of processed files stay. A remote folder is scanned every
    INGESTQ_DROP_RESCAN_SECONDS.
    """
    wanted = WatchRequest(tuple(folders or ()), source, allow_mass_delete, hot)
    run_command(partial(_drop, wanted), until_stopped=True)


async def _drop(wanted: WatchRequest, settings: Settings) -> ExitCode:
    folders = await checked_folders(wanted, settings)
    async with open_monitor(settings) as monitor, open_broker(settings) as broker:
        if monitor is not None:
            monitor.started(broker.queue)
        await run_parts(*drop_parts(folders, wanted, settings, broker))
    return ExitCode.OK
