"""Builds the application from routes, error handlers and limits."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer

from ingestq.api.auth import BearerAuth, SiteGuard, Throttle
from ingestq.api.authenticator import Authenticator
from ingestq.api.bodies.intake import Intake
from ingestq.api.connections import ConnectionLimits
from ingestq.api.dashboard.access import DashboardGuard, Revoked, Sessions, Visitors
from ingestq.api.dashboard.board import Board
from ingestq.api.dashboard.paths import PATHS as DASHBOARD_PATHS
from ingestq.api.dashboard.routes import (
    FORM_BYTES,
    SIGN_IN_BYTES,
    SIGN_IN_FORMS,
    Dashboard,
    dashboard_routes,
    sign_in_routes,
)
from ingestq.api.errors import handle_errors, problems
from ingestq.api.parameters import Collections
from ingestq.api.rights import RightsGuard
from ingestq.api.routes.dead_letters import dead_letter_routes
from ingestq.api.routes.documents import Index, document_routes, index_routes
from ingestq.api.routes.mcp import FREE_BYTES, HELD_BODIES, mcp_route
from ingestq.api.routes.monitoring import (
    IndexCounter,
    health_routes,
    metric_routes,
    status_routes,
)
from ingestq.api.routes.search import Search, search_routes
from ingestq.api.routes.submissions import submission_routes
from ingestq.api.spans import RequestSpans
from ingestq.api.streams import EventStreams
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.tokens import ApiTokens
from ingestq.client.client import IngestClient
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.health import HEALTH_PATHS, METRICS, HealthCheck
from ingestq.monitoring.health_checks import probe_workers
from ingestq.monitoring.monitor import Monitor

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig


@dataclass(frozen=True)
class ApiConfig:
    """Limits of the API.

    With a ``token``, every request except health checks has to send it, or another token that was
    made. Without one, only this machine is answered. A body is at most
    ``max_document_bytes`` long; a client that sends nothing for ``silence_seconds`` in the middle
    of one is cut off. An idle event stream sends a ping every ``heartbeat_seconds``, because
    proxies cut connections that are silent for a minute. A batch waits up to ``full_seconds`` while
    the queue is full. Requests may name any of ``collections``; the first one is the default.
    The server accepts up to ``connections``.
    """

    max_document_bytes: int
    token: str | None = field(default=None, repr=False)
    silence_seconds: float = 30.0
    heartbeat_seconds: float = 15.0
    full_seconds: float = 30.0
    collections: tuple[str, ...] = (DEFAULT_COLLECTION,)
    connections: int = ConnectionLimits.connections

    def __post_init__(self) -> None:
        if self.token == "":
            raise ValueError("token is empty; set one that nobody can guess")


@dataclass(frozen=True)
class Services:
    """The services that the routes call.

    Without ``search`` or ``index`` there are no routes for them, without ``board`` no dashboard.
    Without ``overview`` it is unknown what the collections hold. ``revoked`` has the sessions of
    the dashboard that were signed out, ``monitor`` what this process shows of itself, and
    ``api_tokens`` the tokens that were made.
    """

    client: IngestClient
    dead_letters: DeadLetters
    revoked: Revoked
    search: Search | None = None
    index: Index | None = None
    board: Board | None = None
    overview: IndexCounter | None = None
    monitor: Monitor = field(default_factory=Monitor)
    api_tokens: ApiTokens | None = None


NO_TELEMETRY: "Final[TelemetryConfig]" = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""FastAPI's own spans hold paths and queries, which may be ids of documents and what people search
for, and continue traces of anybody: see `RequestSpans` instead."""


def create_app(
    services: Services, config: ApiConfig, stopping: asyncio.Event | None = None
) -> FastAPI:
    """Return the application. Its event streams end once ``stopping`` is set."""
    app = FastAPI(
        title="ingestq",
        summary="Queues documents, reports their progress, and searches them.",
        docs_url=None,  # these pages load scripts from other hosts; openapi.json is served
        redoc_url=None,
        telemetry=NO_TELEMETRY,
    )
    handle_errors(app)
    if stopping is None:
        stopping = asyncio.Event()
    monitor = services.monitor
    monitor.started(services.client.queue)
    monitor.health.probes[HealthCheck.WORKERS] = probe_workers(services.client.queue)
    authenticator = Authenticator(config.token, services.api_tokens)
    app.include_router(health_routes(monitor.health), responses=problems(403))
    streams = EventStreams(config.connections)
    for router in _routers(services, config, stopping, authenticator, streams):
        if not authenticator.has_tokens:
            app.include_router(router, responses=problems(403))
        else:
            app.include_router(
                router, dependencies=[DOCUMENTED_TOKEN], responses=problems(401, 403, 429)
            )
    intake = Intake(config.max_document_bytes, config.silence_seconds, HELD_BODIES, FREE_BYTES)
    app.router.routes.append(mcp_route(app, intake, Collections(config.collections)))
    app.add_middleware(RightsGuard)
    app.add_middleware(RequestSpans, silent_paths=HEALTH_PATHS | {METRICS})
    own_paths = DASHBOARD_PATHS if services.board is not None else frozenset()
    app.add_middleware(BearerAuth, authenticator=authenticator, open_paths=HEALTH_PATHS | own_paths)
    app.add_middleware(SiteGuard, authenticator=authenticator)
    if services.board is not None:
        _add_dashboard(app, services, services.board, config, stopping, authenticator, streams)
    return app


def create_search_app(search: Search, collections: Collections) -> FastAPI:
    """Return an application that has nothing but ``GET /search``."""
    app = FastAPI(telemetry=NO_TELEMETRY)
    handle_errors(app)
    app.include_router(search_routes(search, collections))
    return app


def _add_dashboard(
    app: FastAPI,
    services: Services,
    board: Board,
    config: ApiConfig,
    stopping: asyncio.Event,
    authenticator: Authenticator,
    streams: EventStreams,
) -> None:
    """Add the dashboard, and its guard in front of all others."""
    sessions = None if config.token is None else Sessions(config.token, services.revoked)
    visitors = Visitors(authenticator, sessions, services.api_tokens)
    collections = Collections(config.collections)
    dashboard = Dashboard(board, services.dead_letters, services.search, collections, visitors)
    intake = Intake(FORM_BYTES, config.silence_seconds)
    app.include_router(
        dashboard_routes(dashboard, intake, config.heartbeat_seconds, stopping, streams)
    )
    if authenticator.has_tokens:
        small = Intake(SIGN_IN_BYTES, config.silence_seconds, SIGN_IN_FORMS)
        app.include_router(sign_in_routes(dashboard, visitors, small, Throttle()))
    app.add_middleware(DashboardGuard, visitors=visitors)


def _routers(
    services: Services,
    config: ApiConfig,
    stopping: asyncio.Event,
    authenticator: Authenticator,
    streams: EventStreams,
) -> Iterator[APIRouter]:
    intake = Intake(config.max_document_bytes, config.silence_seconds)
    collections = Collections(config.collections)
    yield document_routes(services.client, intake, config.full_seconds, collections, authenticator)
    yield submission_routes(
        services.client, config.heartbeat_seconds, stopping, authenticator, streams
    )
    yield dead_letter_routes(services.dead_letters, collections)
    yield status_routes(services.client, services.dead_letters, services.overview, collections)
    yield metric_routes(services.monitor)
    if services.search is not None:
        yield search_routes(services.search, collections)
    if services.index is not None:
        yield index_routes(services.index, services.dead_letters, collections)


DOCUMENTED_TOKEN = Security(HTTPBearer(auto_error=False))
"""Makes openapi.json say that a token is needed; `BearerAuth` checks it."""
