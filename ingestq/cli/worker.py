"""``ingestq worker``: take documents off the queue until told to stop."""

import logging

from ingestq.cli.console import configure_logging
from ingestq.cli.entry import ExitCode, run_command
from ingestq.parts import Part, run_parts
from ingestq.runtime import open_broker, open_worker
from ingestq.settings import Settings


def worker() -> None:
    """Index what is queued, until stopped.

    SIGTERM or Ctrl-C drains: running jobs may finish within INGESTQ_DRAIN_SECONDS, the rest goes
    back on the queue. A second one stops at once.
    """
    configure_logging(logging.INFO)
    run_command(_worker)


async def _worker(settings: Settings) -> ExitCode:
    async with open_broker(settings) as broker, open_worker(settings, broker) as running:
        await run_parts(Part(running.run_until_stopped, running.stop))
    return ExitCode.OK
