"""``ingestq api``: serve the HTTP API until stopped."""

from ingestq.app.composition import open_broker
from ingestq.app.services import run_parts
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command


def api() -> None:
    """Serve the HTTP API and the dashboard.

    Listens on INGESTQ_API_HOST and INGESTQ_API_PORT until it is stopped. SIGTERM or Ctrl-C lets
    running requests finish within INGESTQ_DRAIN_SECONDS; a second one stops at once.
    """
    run_command(_api, until_stopped=True)


async def _api(settings: Settings) -> ExitCode:
    from ingestq.app.api import listening, open_api
    from ingestq.monitoring.monitor import recorded

    async with (
        listening(settings) as listener,
        recorded() as monitor,
        open_broker(settings) as broker,
        open_api(settings, broker, listener, monitor) as part,
    ):
        await run_parts(part)
    return ExitCode.OK
