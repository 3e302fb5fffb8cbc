"""``ingestq scheduler``: start scheduled runs until stopped."""

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
    """Start the runs of the [[schedule]] tables when they are due.

    Runs until it is stopped. You can start several schedulers with the same tables: each run starts
    once. SIGTERM or Ctrl-C interrupts the current runs; the next scheduler starts them again.
    """
    configure_logging(logging.INFO)
    run_command(_scheduler)


async def _scheduler(settings: Settings) -> ExitCode:
    entries = scheduled_entries(settings)
    if not entries:
        raise UsageError("nothing is scheduled: add a [[schedule]] table to ingestq.toml")
    async with (
        open_broker(settings) as broker,
        open_schedule(entries, settings, broker) as part,
    ):
        await run_parts(part)
    return ExitCode.OK
