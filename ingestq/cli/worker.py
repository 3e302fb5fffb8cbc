"""``ingestq worker``: index queued documents until stopped."""

from ingestq.app.composition import open_broker, opening_model, opening_qdrant
from ingestq.app.monitoring import open_monitor
from ingestq.app.services import ProcessPart, run_parts
from ingestq.app.settings import Settings
from ingestq.cli.entry import ExitCode, run_command


def worker() -> None:
    """Index queued documents.

    Runs until it is stopped. SIGTERM or Ctrl-C lets running jobs finish within
    INGESTQ_DRAIN_SECONDS and returns the others to the queue; a second one stops at once.
    """
    run_command(_worker, until_stopped=True)


async def _worker(settings: Settings) -> ExitCode:
    from ingestq.app.worker import open_worker

    async with (
        open_monitor(settings) as monitor,
        opening_qdrant(settings) as qdrant,
        opening_model(settings) as model,
        open_broker(settings) as broker,
        open_worker(settings, broker, qdrant, model, monitor) as running,
    ):
        if monitor is not None:
            (await model).begin()  # readiness waits for its processes
            monitor.started(broker.queue)
        await run_parts(ProcessPart(running.run_until_stopped, running.stop))
    return ExitCode.OK
