"""The application: routes, errors and limits put together."""

from dataclasses import dataclass

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from producers.api.auth import BearerAuth
from producers.api.errors import answer_errors, problems
from producers.api.intake import Intake
from producers.api.routes.documents import document_routes
from producers.api.routes.health import HEALTH_PATHS, health_routes
from producers.api.routes.search import Search, search_routes
from producers.api.routes.status import status_routes
from producers.api.routes.submissions import submission_routes
from producers.client import IngestClient


@dataclass(frozen=True)
class ApiConfig:
    """What the API accepts.

    With a ``token``, every request but those for the health of the server has to show it. A body
    is at most ``max_document_bytes`` long; a client that sends nothing for ``silence_seconds``
    in the midst of one is given up.
    """

    max_document_bytes: int
    token: str | None = None
    silence_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.token == "":
            raise ValueError("token is empty: everybody could guess it")


def create_app(client: IngestClient, config: ApiConfig, search: Search | None = None) -> FastAPI:
    """Make the application; what is posted to it goes to ``client``.

    Without ``search`` there is no route for questions.
    """
    app = FastAPI(
        title="ingestq",
        summary="Puts documents on the queue, says what became of them, and searches them.",
        docs_url=None,  # these pages load their scripts from elsewhere; openapi.json is served
        redoc_url=None,
    )
    answer_errors(app)
    app.include_router(health_routes(client))
    intake = Intake(config.max_document_bytes, config.silence_seconds)
    routers = [document_routes(client, intake), submission_routes(client), status_routes(client)]
    if search is not None:
        routers.append(search_routes(search))
    for router in routers:
        if config.token is None:
            app.include_router(router)
        else:
            app.include_router(router, dependencies=[DOCUMENTED_TOKEN], responses=problems(401))
    if config.token is not None:
        app.add_middleware(BearerAuth, token=config.token, open_paths=HEALTH_PATHS)
    return app


DOCUMENTED_TOKEN = Security(HTTPBearer(auto_error=False))
"""Only makes openapi.json say that a token is needed: `BearerAuth` is what checks it."""
