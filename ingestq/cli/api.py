"""``ingestq api``: the HTTP API, until told to stop."""

import asyncio
import logging
from typing import Final

import structlog

from broker import events
from broker.dead_letters import DeadLetters
from broker.errors import UsageError
from ingestq.cli.console import configure_logging
from ingestq.cli.entry import ExitCode, run_command
from ingestq.lookup import Lookup
from ingestq.on_demand import QdrantOnDemand
from ingestq.runtime import open_broker, stop_signals
from ingestq.searching import Searching
from ingestq.settings import Settings
from producers.client import IngestClient

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

log = structlog.get_logger()


def api() -> None:
    """Serve the HTTP API on INGESTQ_API_HOST and INGESTQ_API_PORT, until stopped.

    SIGTERM or Ctrl-C lets running requests end within INGESTQ_DRAIN_SECONDS. A second one stops
    at once.
    """
    configure_logging(logging.INFO)
    run_command(_api)


async def _api(settings: Settings) -> ExitCode:
    from producers.api.app import ApiConfig, Services, create_app
    from producers.api.server import Server, listen, url_of

    token = settings.api_token or None  # an empty one would protect nothing
    if token is None and settings.api_host not in LOOPBACK:
        raise UsageError(
            f"INGESTQ_API_HOST is {settings.api_host!r} and INGESTQ_API_TOKEN is not set: anybody "
            "who reaches this host could queue documents; set a token, or listen on 127.0.0.1"
        )
    stopping = asyncio.Event()
    with await listen(settings.api_host, settings.api_port) as listener:
        async with (
            open_broker(settings) as broker,
            QdrantOnDemand(settings) as qdrant,
            Searching(settings, qdrant) as search,
        ):
            services = Services(
                IngestClient(broker.queue),
                DeadLetters(broker.redis, broker.config),
                search,
                Lookup(settings, qdrant),
            )
            config = ApiConfig(settings.max_document_bytes, token)
            server = Server(create_app(services, config, stopping), settings.drain_seconds)

            def stop() -> None:
                stopping.set()
                server.stop()

            with stop_signals(stop):
                log.info(events.API_STARTED, url=url_of(listener), token=token is not None)
                await server.serve([listener])
    return ExitCode.OK
