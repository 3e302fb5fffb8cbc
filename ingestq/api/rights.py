"""The right that each route needs, in one table: a route that is not in it is answered to no token.

Only who may do everything reaches other routes, so forgetting one here opens nothing.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from ingestq.api.authenticator import PRINCIPAL
from ingestq.api.dashboard import paths
from ingestq.api.errors import problem_response
from ingestq.api.parameters import DOC_ID
from ingestq.core.health import HEALTH, LIVE, METRICS, READY
from ingestq.core.tokens import Principal, Right


class Access(Enum):
    """Who is answered by a route that needs no particular right."""

    EVERYBODY = auto()
    TOKEN = auto()
    """Everybody who has a token, or needs none."""
    ALL_COLLECTIONS = auto()
    """As TOKEN, unless the token is for some collections only: the answer names all."""


Needs = Access | Right

ROUTES: Final[Mapping[tuple[str, str], Needs]] = {
    ("GET", LIVE): Access.EVERYBODY,
    ("GET", HEALTH): Access.EVERYBODY,
    ("GET", READY): Access.EVERYBODY,
    ("GET", METRICS): Right.ADMIN,
    ("GET", "/openapi.json"): Access.ALL_COLLECTIONS,
    ("GET", "/status"): Right.READ,
    ("GET", "/search"): Right.READ,
    ("POST", "/documents"): Right.WRITE,
    ("POST", "/documents:batch"): Right.WRITE,
    ("GET", f"/documents/{DOC_ID}"): Right.READ,
    ("DELETE", f"/documents/{DOC_ID}"): Right.WRITE,
    ("GET", "/submissions/{submission}"): Right.READ,
    ("GET", "/submissions/{submission}/events"): Right.READ,
    ("GET", "/dead-letters"): Right.READ,
    ("GET", f"/dead-letters/{DOC_ID}"): Right.READ,
    ("POST", f"/dead-letters/{DOC_ID}/requeue"): Right.WRITE,
    ("DELETE", f"/dead-letters/{DOC_ID}"): Right.WRITE,
    ("POST", "/mcp"): Access.TOKEN,
    ("GET", paths.PAGE): Right.READ,
    ("GET", paths.EVENTS): Right.READ,
    ("POST", paths.REQUEUE): Right.WRITE,
    ("GET", paths.SIGN_IN): Access.EVERYBODY,
    ("POST", paths.SIGN_IN): Access.EVERYBODY,
    ("POST", paths.SIGN_OUT): Access.EVERYBODY,
    **{("GET", path): Access.EVERYBODY for path in paths.ASSETS},
}
"""What each route needs, by its method and path. HEAD needs what GET needs."""

_PATTERNS: Final = [
    (method, compile_path(path)[0], needs) for (method, path), needs in ROUTES.items()
]


def needs_of(method: str, path: str) -> Needs | None:
    """Return what a request for ``path`` needs; None if there is no such route."""
    method = "GET" if method == "HEAD" else method
    exact = ROUTES.get((method, path))
    if exact is not None:
        return exact
    found = (
        needs for known, pattern, needs in _PATTERNS if known == method and pattern.match(path)
    )
    return next(found, None)


class RightsGuard:
    """Middleware that refuses requests whose `Principal` lacks the right that the route needs.

    It is the last one before the routes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else _refusal(scope)
        await (refusal or self._app)(scope, receive, send)


def _refusal(scope: Scope) -> Response | None:
    method, path = scope["method"], scope["path"]
    needs = needs_of(method, path)
    if needs is Access.EVERYBODY:
        return None
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is None and needs is None:  # another method of a path that is open to everybody
        return _unknown(path)
    if principal is None:
        return problem_response(401, "send a token", {"WWW-Authenticate": "Bearer"})
    if needs is None:
        return None if principal.may(Right.ADMIN) else _unknown(path)
    if isinstance(needs, Right) and not principal.may(needs):
        has = ", ".join(right for right in Right if principal.may(right))
        return problem_response(
            403, f"this needs a token with the right {needs}; the rights of this one: {has}"
        )
    if needs is Access.ALL_COLLECTIONS and principal.collections is not None:
        return problem_response(403, "this needs a token for all collections")
    return None


def _unknown(path: str) -> Response:
    allowed = sorted({method for method, pattern, _ in _PATTERNS if pattern.match(path)})
    if allowed:
        return problem_response(405, "Method Not Allowed", {"Allow": ", ".join(allowed)})
    return problem_response(404, "Not Found")
