"""``ingestq drop``: keep the index equal to folders until stopped."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ingestq.app.composition import open_broker
from ingestq.app.services import run_parts
from ingestq.app.settings import Settings
from ingestq.app.watch import WatchRequest, drop_parts, watched_folders
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Source
from ingestq.cli.output import configure_logging

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DIR",
        help="Folders to watch. Default: the [[drop]] tables in ingestq.toml.",
        show_default=False,
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
    (--hot): there the documents of processed files stay.
    """
    configure_logging(logging.INFO)
    run_command(partial(_drop, WatchRequest(tuple(folders or ()), source, allow_mass_delete, hot)))


async def _drop(wanted: WatchRequest, settings: Settings) -> ExitCode:
    folders = await asyncio.to_thread(watched_folders, wanted, settings)
    async with open_broker(settings) as broker:
        await run_parts(*drop_parts(folders, wanted, settings, broker))
    return ExitCode.OK
