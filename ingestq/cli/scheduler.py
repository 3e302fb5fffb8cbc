"""``ingestq scheduler``: begin what is scheduled until told to stop."""

import logging

from ingestq.app.composition import open_broker
from ingestq.app.schedule_actions import open_schedule
from ingestq.app.schedule_entries import scheduled_entries
from ingestq.app.services import run_parts
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.output import configure_logging
from ingestq.core.errors import UsageError


def scheduler() -> None:
    """Begin the runs of the tables [[schedule]] when they are due, until stopped.

    Several may be up with the same tables: each run is begun once. SIGTERM or Ctrl-C interrupts
    what runs; the next scheduler makes up for it.
    """
    configure_logging(logging.INFO)
    run_command(_scheduler)


async def _scheduler(settings: Settings) -> ExitCode:
    entries = scheduled_entries(settings)
    if not entries:
        raise UsageError("nothing is scheduled; write a table [[schedule]] into ingestq.toml")
    async with (
        open_broker(settings) as broker,
        open_schedule(entries, settings, broker) as part,
    ):
        await run_parts(part)
    return ExitCode.OK
