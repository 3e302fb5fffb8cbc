"""``ingestq api``: serve the HTTP API until stopped."""

import logging

from ingestq.app.composition import open_broker
from ingestq.app.services import run_parts
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.output import configure_logging


def api() -> None:
    """Serve the HTTP API and the dashboard.

    Listens on INGESTQ_API_HOST and INGESTQ_API_PORT until it is stopped. SIGTERM or Ctrl-C lets
    running requests finish within INGESTQ_DRAIN_SECONDS; a second one stops at once.
    """
    configure_logging(logging.INFO)
    run_command(_api)


async def _api(settings: Settings) -> ExitCode:
    from ingestq.app.api import listening, open_api

    async with (
        listening(settings) as listener,
        open_broker(settings) as broker,
        open_api(settings, broker, listener) as part,
    ):
        await run_parts(part)
    return ExitCode.OK
