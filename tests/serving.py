"""Serves the API inside a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ingestq.api.app import Services
from ingestq.api.connections import ConnectionLimits
from ingestq.api.dashboard.board import Board
from ingestq.api.dashboard.plots import History
from ingestq.api.routes.documents import Index
from ingestq.api.routes.monitoring import IndexCounter
from ingestq.api.routes.search import Search
from ingestq.api.server import Server
from ingestq.app.composition import Broker
from ingestq.broker.queue.stats import RecentWorkReader
from ingestq.broker.revoked_sessions import RevokedSessions
from ingestq.broker.schedule.runs import Runs
from ingestq.core.listener import listen, url_of
from tests.waiting import ended


def services(
    broker: Broker,
    search: Search | None = None,
    index: Index | None = None,
    history: History | None = None,
    overview: IndexCounter | None = None,
) -> Services:
    recent, runs = RecentWorkReader(broker.redis, broker.config), Runs(broker.redis, broker.config)
    board = Board(broker.queue, broker.dead_letters, recent, runs, history or History(), overview)
    revoked = RevokedSessions(broker.redis, broker.config)
    return Services(broker.client, broker.dead_letters, revoked, search, index, board, overview)


@asynccontextmanager
async def listening(app: FastAPI, limits: ConnectionLimits | None = None) -> AsyncIterator[str]:
    """Serve ``app`` on a free port; yields its URL. On leaving, waits for all requests."""
    with await listen("127.0.0.1", 0, "INGESTQ_API") as listener:
        server = Server(app, drain_seconds=600, limits=limits)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield url_of(listener)
        finally:
            server.stop()
            await ended(serving)
