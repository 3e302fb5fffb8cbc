"""Opens the HTTP API as one part of a process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog

from ingestq.api.auth import LOOPBACK_HOSTS
from ingestq.app.collections import IndexReader
from ingestq.app.composition import Broker
from ingestq.app.descriptors import places_for_connections
from ingestq.app.search import DocumentLookup, QdrantOnDemand, SearchService
from ingestq.app.services import ProcessPart
from ingestq.app.settings import Settings, revealed
from ingestq.core import events
from ingestq.core.errors import UsageError
from ingestq.core.health import HealthCheck
from ingestq.core.listener import listen, url_of
from ingestq.core.results import CollectionCounts
from ingestq.core.service import run_together

if TYPE_CHECKING:
    from socket import socket

    from ingestq.monitoring.monitor import Monitor
    from worker.store.client import Qdrant

log = structlog.get_logger()


@asynccontextmanager
async def listening(settings: Settings) -> "AsyncIterator[socket]":
    """Listen on the configured host and port, before anything else is opened.

    Raises UsageError if that is not possible, or if anybody on the network could use the API.
    """
    if settings.api_token is None and settings.api_host not in LOOPBACK_HOSTS:
        raise UsageError(
            f"INGESTQ_API_HOST is {settings.api_host!r} and INGESTQ_API_TOKEN is not set: anybody "
            "who can reach this host could queue documents; set a token, or listen on 127.0.0.1"
        )
    with await listen(settings.api_host, settings.api_port, "INGESTQ_API") as listener:
        yield listener


async def _qdrant_answers(on_demand: QdrantOnDemand, settings: Settings) -> bool:
    qdrant = await on_demand.opened()
    from worker.store.collection import find_collection

    await find_collection(qdrant, settings.collection)
    return True


@asynccontextmanager
async def open_api(
    settings: Settings,
    broker: Broker,
    listener: "socket",
    monitor: "Monitor",
    qdrant: "Qdrant | None" = None,
) -> AsyncIterator[ProcessPart]:
    """Open everything the API needs, which shows what ``monitor`` has.

    It uses ``qdrant`` if one is passed, else opens its own.
    """
    from ingestq.api.app import ApiConfig, Services, create_app
    from ingestq.api.connections import ConnectionLimits
    from ingestq.api.dashboard.board import Board
    from ingestq.api.dashboard.plots import History
    from ingestq.api.server import Server
    from ingestq.broker.queue.stats import RecentWorkReader
    from ingestq.broker.revoked_sessions import RevokedSessions
    from ingestq.broker.schedule.runs import Runs
    from ingestq.broker.tokens import ApiTokens

    places = places_for_connections(settings.api_max_connections, settings.pool_size)
    stopping = asyncio.Event()
    async with AsyncExitStack() as opened:
        on_demand = QdrantOnDemand(settings, opened, qdrant)
        recent, runs = (
            RecentWorkReader(broker.redis, broker.config),
            Runs(broker.redis, broker.config),
        )
        overview = IndexReader(on_demand, settings.collections)
        board = Board(broker.queue, broker.dead_letters, recent, runs, History(), overview)
        services = Services(
            broker.client,
            broker.dead_letters,
            RevokedSessions(broker.redis, broker.config),
            SearchService(settings, opened, on_demand),
            DocumentLookup(on_demand),
            board,
            overview,
            monitor,
            ApiTokens(broker.redis, broker.config),
        )

        async def counts() -> Sequence[CollectionCounts]:
            return (await overview()).collections

        monitor.count_collections = counts
        monitor.health.probes[HealthCheck.QDRANT] = partial(_qdrant_answers, on_demand, settings)
        config = ApiConfig(
            settings.max_document_bytes,
            revealed(settings.api_token),
            collections=settings.collections,
            connections=places,
        )
        app = create_app(services, config, stopping)
        server = Server(app, settings.drain_seconds, ConnectionLimits(places))

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
