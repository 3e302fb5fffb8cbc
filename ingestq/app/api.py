"""Opens the HTTP API as one part of a process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from ingestq.api.auth import LOOPBACK_HOSTS
from ingestq.app.composition import Broker
from ingestq.app.search import DocumentLookup, QdrantOnDemand, SearchService
from ingestq.app.services import ProcessPart
from ingestq.app.settings import Settings
from ingestq.core import events
from ingestq.core.errors import UsageError
from ingestq.core.service import run_together

if TYPE_CHECKING:
    from socket import socket

    from worker.store.client import Qdrant

log = structlog.get_logger()


@asynccontextmanager
async def listening(settings: Settings) -> "AsyncIterator[socket]":
    """Listen on the configured host and port, before anything else is opened.

    Raises UsageError if that is not possible, or if anybody on the network could use the API.
    """
    from ingestq.api.server import listen

    if settings.api_token is None and settings.api_host not in LOOPBACK_HOSTS:
        raise UsageError(
            f"INGESTQ_API_HOST is {settings.api_host!r} and INGESTQ_API_TOKEN is not set: anybody "
            "who can reach this host could queue documents; set a token, or listen on 127.0.0.1"
        )
    with await listen(settings.api_host, settings.api_port) as listener:
        yield listener


@asynccontextmanager
async def open_api(
    settings: Settings, broker: Broker, listener: "socket", qdrant: "Qdrant | None" = None
) -> AsyncIterator[ProcessPart]:
    """Open everything the API needs. It uses ``qdrant`` if one is passed, else opens its own."""
    from ingestq.api.app import ApiConfig, Services, create_app
    from ingestq.api.dashboard.board import Board
    from ingestq.api.dashboard.plots import History
    from ingestq.api.server import Server, url_of
    from ingestq.broker.queue.stats import RecentWorkReader
    from ingestq.broker.schedule.runs import Runs

    stopping = asyncio.Event()
    async with AsyncExitStack() as opened:
        on_demand = QdrantOnDemand(settings, opened, qdrant)
        recent, runs = (
            RecentWorkReader(broker.redis, broker.config),
            Runs(broker.redis, broker.config),
        )
        board = Board(broker.queue, broker.dead_letters, recent, runs, History())
        services = Services(
            broker.client,
            broker.dead_letters,
            SearchService(settings, opened, on_demand),
            DocumentLookup(on_demand),
            board,
        )
        config = ApiConfig(
            settings.max_document_bytes, settings.api_token, collections=settings.collections
        )
        server = Server(create_app(services, config, stopping), settings.drain_seconds)

        async def serve() -> None:
            await run_together(board.run(stopping), serve_until_stopped())

        async def serve_until_stopped() -> None:
            await server.serve([listener])
            stopping.set()

        def stop() -> None:
            stopping.set()
            server.stop()

        log.info(events.API_STARTED, url=url_of(listener), token=settings.api_token is not None)
        yield ProcessPart(serve, stop)
