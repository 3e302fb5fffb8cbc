"""The application: routes, errors and limits put together."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer

from ingestq.api.auth import BearerAuth
from ingestq.api.bodies.intake import Intake
from ingestq.api.dashboard.access import DashboardGuard, Sessions
from ingestq.api.dashboard.board import Board
from ingestq.api.dashboard.paths import PATHS as DASHBOARD_PATHS
from ingestq.api.dashboard.routes import FORM_BYTES, Dashboard, dashboard_routes, sign_in_routes
from ingestq.api.errors import answer_errors, problems
from ingestq.api.parameters import Collections
from ingestq.api.routes.dead_letters import dead_letter_routes
from ingestq.api.routes.documents import Index, document_routes, index_routes
from ingestq.api.routes.monitoring import HEALTH_PATHS, health_routes, metric_routes, status_routes
from ingestq.api.routes.search import Search, search_routes
from ingestq.api.routes.submissions import submission_routes
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import IngestClient
from ingestq.core.documents import DEFAULT_COLLECTION


@dataclass(frozen=True)
class ApiConfig:
    """What the API accepts.

    With a ``token``, every request but those for the health of the server has to show it. A body
    is at most ``max_document_bytes`` long; a client that sends nothing for ``silence_seconds``
    in the midst of one is given up. A stream on which nothing happens says so every
    ``heartbeat_seconds``, because proxies cut connections that are silent for a minute. A batch
    waits up to ``full_seconds`` for room in a full queue. Requests may be about any of
    ``collections``, and are about the first unless they say so.
    """

    max_document_bytes: int
    token: str | None = None
    silence_seconds: float = 30.0
    heartbeat_seconds: float = 15.0
    full_seconds: float = 30.0
    collections: tuple[str, ...] = (DEFAULT_COLLECTION,)

    def __post_init__(self) -> None:
        if self.token == "":
            raise ValueError("token is empty: everybody could guess it")


@dataclass(frozen=True)
class Services:
    """What the routes are about.

    Without ``search`` or ``index`` there are no routes for them, without ``board`` no dashboard.
    """

    client: IngestClient
    dead_letters: DeadLetters
    search: Search | None = None
    index: Index | None = None
    board: Board | None = None


def create_app(
    services: Services, config: ApiConfig, stopping: asyncio.Event | None = None
) -> FastAPI:
    """Make the application. Streams of events end once ``stopping`` is set."""
    app = FastAPI(
        title="ingestq",
        summary="Puts documents on the queue, says what became of them, and searches them.",
        docs_url=None,  # these pages load their scripts from elsewhere; openapi.json is served
        redoc_url=None,
    )
    answer_errors(app)
    stopping = stopping or asyncio.Event()
    app.include_router(health_routes(services.client))
    for router in _routers(services, config, stopping):
        if config.token is None:
            app.include_router(router)
        else:
            app.include_router(router, dependencies=[DOCUMENTED_TOKEN], responses=problems(401))
    own_paths = _add_dashboard(app, services, config, stopping)
    if config.token is not None:
        app.add_middleware(BearerAuth, token=config.token, open_paths=HEALTH_PATHS | own_paths)
    return app


def _add_dashboard(
    app: FastAPI, services: Services, config: ApiConfig, stopping: asyncio.Event
) -> frozenset[str]:
    """Add the dashboard, if there is one; the paths that it guards by itself."""
    if services.board is None:
        return frozenset()
    sessions = None if config.token is None else Sessions(config.token)
    collections = Collections(config.collections)
    dashboard = Dashboard(
        services.board, services.dead_letters, services.search, collections, sessions
    )
    intake = Intake(FORM_BYTES, config.silence_seconds)
    app.include_router(dashboard_routes(dashboard, intake, config.heartbeat_seconds, stopping))
    if sessions is not None:
        app.include_router(sign_in_routes(dashboard, sessions, intake))
    app.add_middleware(DashboardGuard, sessions=sessions)
    return DASHBOARD_PATHS


def _routers(services: Services, config: ApiConfig, stopping: asyncio.Event) -> Iterator[APIRouter]:
    intake = Intake(config.max_document_bytes, config.silence_seconds)
    collections = Collections(config.collections)
    yield document_routes(
        services.client,
        intake,
        config.full_seconds,
        collections,
        guarded=config.token is not None,
    )
    yield submission_routes(services.client, config.heartbeat_seconds, stopping)
    yield dead_letter_routes(services.dead_letters, collections)
    yield status_routes(services.client)
    yield metric_routes(services.client)
    if services.search is not None:
        yield search_routes(services.search, collections)
    if services.index is not None:
        yield index_routes(services.index, services.dead_letters, collections)


DOCUMENTED_TOKEN = Security(HTTPBearer(auto_error=False))
"""Only makes openapi.json say that a token is needed: `BearerAuth` is what checks it."""
