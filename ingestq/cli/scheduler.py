"""``ingestq scheduler``: start scheduled runs until stopped."""

from ingestq.app.composition import open_broker
from ingestq.app.monitoring import open_monitor
from ingestq.app.schedule_actions import open_schedule
from ingestq.app.schedule_entries import scheduled_entries
from ingestq.app.services import run_parts
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.core.errors import UsageError


def scheduler() -> None:
    """Start the runs of the [[schedule]] tables when they are due.

    Runs until it is stopped. You can start several schedulers with the same tables: each run starts
    once. SIGTERM or Ctrl-C interrupts the current runs; the next scheduler starts them again.
    """
    run_command(_scheduler, until_stopped=True)


async def _scheduler(settings: Settings) -> ExitCode:
    entries = scheduled_entries(settings)
    if not entries:
        raise UsageError("nothing is scheduled: add a [[schedule]] table to ingestq.toml")
    async with (
        open_monitor(settings) as monitor,
        open_broker(settings) as broker,
        open_schedule(entries, settings, broker) as part,
    ):
        if monitor is not None:
            monitor.started(broker.queue)
        await run_parts(part)
    return ExitCode.OK
