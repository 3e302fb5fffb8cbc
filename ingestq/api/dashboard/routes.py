"""``/``: the dashboard, its forms and its event stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated, Final
from urllib.parse import parse_qs, unquote, urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from ingestq.api.bodies.intake import Intake
from ingestq.api.dashboard import paths
from ingestq.api.dashboard.access import COOKIE, SESSION_SECONDS, Sessions
from ingestq.api.dashboard.board import FRESH_SECONDS, Board
from ingestq.api.dashboard.pages import GONE, REQUEUED, Pages, Requeuing, Searched
from ingestq.api.parameters import Collections
from ingestq.api.routes.search import Search
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import new_submission
from ingestq.core.errors import IngestqError, ServiceUnavailable, UsageError
from ingestq.core.search_query import SearchQuery
from ingestq.core.service import happens_within

FORM_BYTES: Final = 1024 * 1024
"""Enough for the names of all dead letters that are shown, unless they are very long."""
MOST_FIELDS: Final = 100


async def form_fields(request: Request, intake: Intake) -> dict[str, list[str]]:
    """The values of each field of the form that is the body of ``request``.

    Raises HTTPException (422) if it is none, and what `Intake.body` raises.
    """
    async with intake.body(request) as body:
        try:
            return parse_qs(body.decode("ascii"), max_num_fields=MOST_FIELDS)
        except ValueError as error:
            raise HTTPException(422, f"the body is no form: {error}") from error


HITS: Final = 8
STREAM_SECONDS: Final = 3600.0
SEE_OTHER: Final = 303
"""The answer to a form: show that page, and do not send the form again when it is reloaded."""

Count = Annotated[int | None, Query(ge=0)]


class Dashboard:
    """What the routes have in common."""

    def __init__(
        self,
        board: Board,
        dead_letters: DeadLetters,
        search: Search | None,
        collections: Collections,
        sessions: Sessions | None,
    ) -> None:
        self.board = board
        self.dead_letters = dead_letters
        self.search = search
        self.collections = collections
        self.sessions = sessions
        self.pages = Pages(collections.names)

    async def page(
        self, searched: Searched | None = None, requeuing: Requeuing | None = None
    ) -> HTMLResponse:
        """The page as of now. It is an error of the server if nothing can be said of now."""
        view = await self.board.look(fresh=True)
        signed_in = self.sessions is not None
        content = self.pages.page(view, searched, requeuing, signed_in)
        return HTMLResponse(content, 200 if view.problem is None else 503)

    async def ask(self, question: str, collection: str | None) -> Searched:
        """What is found; whatever is in the way of that is said on the page."""
        if self.search is None:
            return Searched(question, problem="this server cannot search")
        try:
            named = self.collections.named(collection)
        except ValueError as error:
            return Searched(question, problem=str(error))
        try:
            hits = await self.search(SearchQuery(question, HITS, collection=named))
        except IngestqError as error:
            return Searched(question, named, problem=str(error))
        return Searched(question, named, hits)

    async def requeue(self, keys: list[str]) -> Requeuing:
        """Queue documents again, as one submission."""
        submission, requeued = new_submission(), 0
        for key in keys:  # one at a time, as each has its document with it
            requeued += await self.dead_letters.requeue(
                await self.dead_letters.get([key]), submission
            )
        return Requeuing(requeued, len(keys) - requeued)

    async def events(self, stopping: asyncio.Event) -> AsyncIterator[ServerSentEvent]:
        """The parts of the page, now and whenever they changed, until ``stopping`` is set.

        Or for an hour: who listens connects again, and has to be signed in still.
        """
        ends = time.monotonic() + STREAM_SECONDS
        sent: dict[str, str] = {}
        while not stopping.is_set() and time.monotonic() < ends:
            view = await self.board.look()
            parts = {"notice": self.pages.notice(view), **self.pages.regions(view)}
            for name, html in parts.items():
                if sent.get(name) != html:
                    yield ServerSentEvent(event=name, data=html)
                    sent[name] = html
            await happens_within(stopping, FRESH_SECONDS)


def dashboard_routes(
    dashboard: Dashboard, intake: Intake, heartbeat_seconds: float, stopping: asyncio.Event
) -> APIRouter:
    """The routes of ``dashboard``; forms are read through ``intake``."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get(paths.PAGE)
    async def page(
        q: str = "", collection: str | None = None, requeued: Count = None, gone: Count = None
    ) -> HTMLResponse:
        question = q.strip()
        searched = await dashboard.ask(question, collection) if question else None
        done = None if requeued is None or gone is None else Requeuing(requeued, gone)
        return await dashboard.page(searched, done)

    @router.get(paths.EVENTS)
    async def stream() -> EventSourceResponse:
        return EventSourceResponse(dashboard.events(stopping), ping=heartbeat_seconds)

    @router.post(paths.REQUEUE)
    async def requeue(request: Request) -> Response:
        fields = await form_fields(request, intake)
        try:
            done = await dashboard.requeue([unquote(name) for name in fields.get("letter", [])])
        except (ServiceUnavailable, UsageError) as error:
            return await dashboard.page(requeuing=Requeuing(problem=str(error)))
        said = urlencode({REQUEUED: done.requeued, GONE: done.gone})
        return RedirectResponse(f"{paths.PAGE}?{said}#letters", SEE_OTHER)

    for path, media_type in paths.ASSETS.items():
        router.add_api_route(path, _asset(path, media_type))
    return router


def sign_in_routes(dashboard: Dashboard, sessions: Sessions, intake: Intake) -> APIRouter:
    """The routes by which a browser gets a session, and gives it back."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get(paths.SIGN_IN)
    async def ask() -> str:
        return dashboard.pages.sign_in(failed=False)

    @router.post(paths.SIGN_IN)
    async def sign_in(request: Request) -> Response:
        fields = await form_fields(request, intake)
        if not sessions.knows(fields.get("token", [""])[0]):
            return HTMLResponse(dashboard.pages.sign_in(failed=True), 401)
        answer = RedirectResponse(paths.PAGE, SEE_OTHER)
        answer.set_cookie(
            COOKIE,
            sessions.new(),
            max_age=SESSION_SECONDS,
            secure=_is_https(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    @router.post(paths.SIGN_OUT)
    async def sign_out() -> RedirectResponse:
        answer = RedirectResponse(paths.SIGN_IN, SEE_OTHER)
        answer.delete_cookie(COOKIE)
        return answer

    return router


def _asset(path: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = (files("ingestq.api.dashboard") / "assets" / PurePosixPath(path).name).read_bytes()

    async def asset() -> Response:
        return Response(content, media_type=media_type)

    return asset


def _is_https(request: Request) -> bool:
    """Whether the browser speaks TLS, with this server or with a proxy before it."""
    said = request.headers.get("x-forwarded-proto", request.url.scheme)
    return said.partition(",")[0].strip().lower() == "https"
