"""``/``: the dashboard page, its forms and its event stream."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated, Final
from urllib.parse import parse_qs, unquote, urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from ingestq.api.auth import Throttle
from ingestq.api.authenticator import limit_message, rate_headers
from ingestq.api.bodies.intake import Intake
from ingestq.api.dashboard import paths
from ingestq.api.dashboard.access import COOKIE, SESSION_SECONDS, Visitors, session_of
from ingestq.api.dashboard.board import FRESH_SECONDS, Board
from ingestq.api.dashboard.pages import GONE, REQUEUED, Pages, RequeueResult, SearchPanel
from ingestq.api.errors import retry_after
from ingestq.api.parameters import Caller, Collections
from ingestq.api.routes.dead_letters import may_see
from ingestq.api.routes.search import Search
from ingestq.api.streams import EventStreams
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.tokens import RequestRate
from ingestq.client.client import new_submission
from ingestq.core.errors import IngestqError, NotPermitted, ServiceUnavailable, UsageError
from ingestq.core.search_query import SearchFilter, SearchQuery, parse_condition
from ingestq.core.service import happens_within
from ingestq.core.tokens import Principal
from ingestq.core.urls import without_secrets

FORM_BYTES: Final = 1024 * 1024
"""Enough for the keys of all dead letters on the page, unless they are very long."""
SIGN_IN_BYTES: Final = 4096
SIGN_IN_FORMS: Final = 1024
"""Sign-in forms that are read at once, so that unfinished ones do not keep out others."""
MAX_FIELDS: Final = 100


async def form_fields(request: Request, intake: Intake) -> dict[str, list[str]]:
    """Return the values of each field of the form in ``request``.

    Raises HTTPException 422 if the body is not a form, and what `Intake.body` raises.
    """
    async with intake.body(request) as body:
        try:
            return parse_qs(body.decode("ascii"), max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise HTTPException(422, f"the body is not a form: {error}") from error


HITS: Final = 8
STREAM_SECONDS: Final = 3600.0
SEE_OTHER: Final = 303
"""After a form: show another page, so that reloading does not send the form again."""

Count = Annotated[int | None, Query(ge=0)]


class Dashboard:
    """The services of the dashboard, and what its routes do with them."""

    def __init__(
        self,
        board: Board,
        dead_letters: DeadLetters,
        search: Search | None,
        collections: Collections,
        visitors: Visitors,
    ) -> None:
        self.board = board
        self.dead_letters = dead_letters
        self.search = search
        self.collections = collections
        self.visitors = visitors
        self.pages = Pages(collections.names)

    async def page(
        self,
        principal: Principal,
        search: SearchPanel | None = None,
        requeue: RequeueResult | None = None,
    ) -> HTMLResponse:
        """Return the current page; with status 503 if the state cannot be read."""
        view = await self.board.view(principal, fresh=True)
        signed_in = await self.visitors.authenticator.is_locked()
        content = self.pages.page(view, principal, search, requeue, signed_in)
        return HTMLResponse(content, 200 if view.problem is None else 503)

    async def find(
        self,
        principal: Principal,
        query: str,
        collection: str | None,
        filters: Sequence[str],
        group: bool,
    ) -> SearchPanel:
        """Search; errors become the ``problem`` of the panel."""
        panel = SearchPanel(query, collection or "", filters, group)
        if self.search is None:
            return replace(panel, problem="search is not available on this server")
        try:
            seen = self.collections.seen_by(principal)
            panel = replace(panel, collection=seen.named(collection))
            where = SearchFilter(tuple(map(parse_condition, filters)), tenant=principal.tenant)
        except (ValueError, NotPermitted) as error:
            return replace(panel, problem=str(error))
        try:
            wanted = SearchQuery(query, HITS, where=where, collection=panel.collection, group=group)
            result = await self.search(wanted)
            return replace(panel, hits=result.hits, warnings=result.warnings)
        except IngestqError as error:
            return replace(panel, problem=without_secrets(str(error)))

    async def requeue(self, principal: Principal, keys: list[str]) -> RequeueResult:
        """Requeue the dead letters with these ``keys``, as one submission.

        Those that do not exist for ``principal`` are gone.
        """
        submission, requeued = new_submission(), 0
        for key in (key for key in keys if may_see(principal, key)):  # each brings its document
            requeued += await self.dead_letters.requeue(
                await self.dead_letters.get([key]), submission
            )
        return RequeueResult(requeued, len(keys) - requeued)

    async def events(
        self, principal: Principal, session: str, stopping: asyncio.Event
    ) -> AsyncIterator[ServerSentEvent]:
        """Yield the parts of the page, now and after each change, until ``stopping`` is set.

        Ends soon after ``session`` has ended, and after an hour: browsers reconnect, and need a
        valid session to do so.
        """
        ends = time.monotonic() + STREAM_SECONDS
        sent: dict[str, str] = {}
        while not stopping.is_set() and time.monotonic() < ends and await self._admits(session):
            view = await self.board.view(principal)
            parts = {"notice": self.pages.notice(view), **self.pages.regions(view, principal)}
            for name, html in parts.items():
                if sent.get(name) != html:
                    yield ServerSentEvent(event=name, data=html)
                    sent[name] = html
            await happens_within(stopping, FRESH_SECONDS)

    async def _admits(self, session: str) -> bool:
        try:
            return await self.visitors.admit(session, count=0) is not None
        except (ServiceUnavailable, UsageError):  # the browser reconnects, and is told
            return False


def dashboard_routes(
    dashboard: Dashboard,
    intake: Intake,
    heartbeat_seconds: float,
    stopping: asyncio.Event,
    streams: EventStreams,
) -> APIRouter:
    """Return the routes of ``dashboard``; forms are read with ``intake``."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    find = dashboard.find

    @router.get(paths.PAGE)
    async def page(
        caller: Caller,
        q: str | None = None,
        collection: str | None = None,
        filters: Annotated[tuple[str, ...], Query(alias="filter")] = (),
        group: bool = False,
        requeued: Count = None,
        gone: Count = None,
    ) -> HTMLResponse:
        typed = [condition for condition in filters if condition.strip()]
        search = None if q is None else await find(caller, q.strip(), collection, typed, group)
        done = None if requeued is None or gone is None else RequeueResult(requeued, gone)
        return await dashboard.page(caller, search, done)

    @router.get(paths.EVENTS)
    async def stream(request: Request, caller: Caller) -> EventSourceResponse:
        events = dashboard.events(caller, session_of(request), stopping)
        return streams.response(events, heartbeat_seconds)

    @router.post(paths.REQUEUE)
    async def requeue(request: Request, caller: Caller) -> Response:
        fields = await form_fields(request, intake)
        try:
            keys = [unquote(key) for key in fields.get("dead_letter", [])]
            done = await dashboard.requeue(caller, keys)
        except (ServiceUnavailable, UsageError) as error:
            failed = RequeueResult(problem=without_secrets(str(error)))
            return await dashboard.page(caller, requeue=failed)
        counts = urlencode({REQUEUED: done.requeued, GONE: done.gone})
        return RedirectResponse(f"{paths.PAGE}?{counts}#dead_letters", SEE_OTHER)

    for path, media_type in paths.ASSETS.items():
        router.add_api_route(path, _asset(path, media_type))
    return router


def sign_in_routes(
    dashboard: Dashboard, visitors: Visitors, intake: Intake, throttle: Throttle
) -> APIRouter:
    """Return the routes with which a browser signs in and out.

    While ``throttle`` makes an address wait, no token from it is looked at.
    """
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get(paths.SIGN_IN)
    async def ask() -> str:
        return dashboard.pages.sign_in()

    @router.post(paths.SIGN_IN)
    async def sign_in(request: Request) -> Response:
        fields = await form_fields(request, intake)
        if wait := throttle.wait_seconds(request.scope):  # now: many forms may be read at once
            asked = f"Too many wrong tokens. Try again in {math.ceil(wait)} s."
            return HTMLResponse(dashboard.pages.sign_in(asked), 429, retry_after(wait))
        session = await visitors.sign_in(fields.get("token", [""])[0])
        if session is None:
            throttle.failed(request.scope)
            return HTMLResponse(dashboard.pages.sign_in("Wrong token."), 401)
        throttle.succeeded(request.scope)
        if isinstance(session, RequestRate):
            headers = rate_headers(session) | retry_after(session.wait_seconds)
            asked = f"Too many requests: {limit_message(session)}."
            return HTMLResponse(dashboard.pages.sign_in(asked), 429, headers)
        answer = RedirectResponse(paths.PAGE, SEE_OTHER)
        answer.set_cookie(
            COOKIE,
            session,
            max_age=SESSION_SECONDS,
            secure=_is_https(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    @router.post(paths.SIGN_OUT)
    async def sign_out(request: Request) -> RedirectResponse:
        await visitors.end(session_of(request))
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
    """Return whether the browser uses TLS, with this server or with a proxy in front of it."""
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
    return scheme.partition(",")[0].strip().lower() == "https"
