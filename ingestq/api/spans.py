"""Records each request as a span, a child of the caller's if that sends ``traceparent``."""

from collections.abc import Set
from typing import Final

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestq.core.tracing import MAX_STATE_CHARACTERS, TRACEPARENT, TRACESTATE, TraceContext, span

SERVER_ERROR: Final = 500
"""From this status on, a request has failed."""


class RequestSpans:
    """ASGI middleware; to be added first, so that it sees only requests that were let in.

    A span is named after the route: a path may hold the id of a document. Requests for
    ``silent_paths``, which programs ask for all the time, are not recorded.
    """

    def __init__(self, app: ASGIApp, *, silent_paths: Set[str]) -> None:
        self._app = app
        self._silent_paths = silent_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in self._silent_paths:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        with span(method, "server", attributes, _sent_with(scope)) as request:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    request.set({"http.response.status_code": status})
                    if status >= SERVER_ERROR:
                        request.fail(str(status))
                await send(message)

            try:
                await self._app(scope, receive, note if request.is_recording else send)
            finally:
                route = scope.get("route")
                if isinstance(route, APIRoute):
                    request.rename(f"{method} {route.path}")
                    request.set({"http.route": route.path})


def _sent_with(scope: Scope) -> TraceContext | None:
    headers = Headers(scope=scope)
    parent = headers.get(TRACEPARENT)
    if parent is None:
        return None
    state = headers.get(TRACESTATE, "")
    return TraceContext(parent, state if len(state) <= MAX_STATE_CHARACTERS else "")
