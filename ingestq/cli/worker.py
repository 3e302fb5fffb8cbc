"""``ingestq worker``: index queued documents until stopped."""

import logging

from ingestq.app.composition import open_broker
from ingestq.app.services import ProcessPart, run_parts
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.output import configure_logging


def worker() -> None:
    """Index queued documents.

    Runs until it is stopped. SIGTERM or Ctrl-C lets running jobs finish within
    INGESTQ_DRAIN_SECONDS and returns the others to the queue; a second one stops at once.
    """
    configure_logging(logging.INFO)
    run_command(_worker)


async def _worker(settings: Settings) -> ExitCode:
    from ingestq.app.worker import open_worker

    async with open_broker(settings) as broker, open_worker(settings, broker) as running:
        await run_parts(ProcessPart(running.run_until_stopped, running.stop))
    return ExitCode.OK
