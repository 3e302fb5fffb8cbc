"""``ingestq up``: run worker, API, watched folders and schedule in one process until stopped."""

from functools import partial
from typing import Annotated

import typer

from ingestq.app.composition import open_broker, opening_qdrant
from ingestq.app.schedule_actions import open_schedule
from ingestq.app.schedule_entries import scheduled_entries
from ingestq.app.services import ProcessPart, run_parts
from ingestq.app.settings import Settings
from ingestq.app.watch import WatchRequest, checked_folders, drop_parts
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import AllowMassDelete, Source, named_place

Folders = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="DIR",
        help="Folder to watch, also a remote one. Can be repeated. Default: the [[drop]] tables in "
        "ingestq.toml.",
        show_default=False,
        parser=named_place,
    ),
]


def up(
    folders: Folders = None, source: Source = None, allow_mass_delete: AllowMassDelete = False
) -> None:
    """Run worker, API, watched folders and schedule in one process.

    Runs until it is stopped. SIGTERM or Ctrl-C lets running jobs and requests finish within
    INGESTQ_DRAIN_SECONDS; a second one stops at once. If one part fails, all are stopped.
    """
    wanted = WatchRequest(tuple(folders or ()), source, allow_mass_delete)
    run_command(partial(_up, wanted), until_stopped=True)


async def _up(wanted: WatchRequest, settings: Settings) -> ExitCode:
    from ingestq.app.api import listening, open_api
    from ingestq.app.worker import open_worker
    from ingestq.monitoring.monitor import recorded

    folders = await checked_folders(wanted, settings, required=False)
    entries = scheduled_entries(settings)
    async with (
        listening(settings) as listener,
        recorded() as monitor,
        opening_qdrant(settings) as qdrant,
        open_broker(settings) as broker,
        open_worker(settings, broker, qdrant, monitor=monitor) as worker,
        open_api(settings, broker, listener, monitor, await qdrant) as api,
        open_schedule(entries, settings, broker, await qdrant) as schedule,
    ):
        drops = drop_parts(folders, wanted, settings, broker)
        scheduled = [schedule] if entries else []
        await run_parts(ProcessPart(worker.run_until_stopped, worker.stop), api, *drops, *scheduled)
    return ExitCode.OK
