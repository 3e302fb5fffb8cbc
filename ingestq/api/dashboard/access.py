"""Restricts the dashboard to signed-in browsers, and keeps pages of other sites out."""

import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestq.api.auth import LOOPBACK_HOSTS, is_of_another_site
from ingestq.api.dashboard.paths import EVENTS, OPEN_PATHS, PATHS, SIGN_IN
from ingestq.api.errors import problem_response

COOKIE: Final = "ingestq_session"
SESSION_SECONDS: Final = 12 * 3600
PURPOSE: Final = b"ingestq dashboard session until "


@dataclass(frozen=True)
class Sessions:
    """Makes and checks sessions, without storing them.

    A session is the time at which it ends (Unix time) and its HMAC, keyed with ``token``. So it
    survives a restart, is valid on every server with the same token, and ends when the token
    changes.
    """

    token: str

    def is_token(self, token: str) -> bool:
        """Return whether ``token`` is right, in constant time."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def new(self) -> str:
        """Return a session that starts now."""
        ends = str(int(time.time()) + SESSION_SECONDS)
        return f"{ends}.{self._digest(ends)}"

    def is_valid(self, session: str) -> bool:
        """Return whether ``session`` was made with the same token and has not ended."""
        ends, _, digest = session.partition(".")
        return (
            ends.isascii()
            and ends.isdecimal()
            and hmac.compare_digest(digest.encode(), self._digest(ends).encode())
            and time.time() < int(ends)
        )

    def _digest(self, ends: str) -> str:
        message = PURPOSE + ends.encode()
        return hmac.new(self.token.encode(), message, hashlib.sha256).hexdigest()


HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer, forms would be sent with "Origin: null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class DashboardGuard:
    """Middleware that guards the routes of the dashboard, and lets all others pass.

    Without ``sessions``, nobody has to sign in. The server then listens on loopback only, and the
    Host header must name it: this stops DNS rebinding, where a page lets its own name lead here.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions | None) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if self._sessions is None and _host(request) not in LOOPBACK_HOSTS:
            return problem_response(
                403,
                "without INGESTQ_API_TOKEN, the dashboard is served only at http://127.0.0.1 and "
                "http://localhost",
            )
        if is_of_another_site(request.headers) and not _is_link(request):
            return problem_response(403, "pages of other sites cannot use the dashboard")
        if self._sessions is None or request.url.path in OPEN_PATHS:
            return None
        if self._sessions.is_valid(request.cookies.get(COOKIE, "")):
            return None
        if request.url.path == EVENTS:
            return problem_response(401, f"sign in at {SIGN_IN}")
        return RedirectResponse(SIGN_IN, 303)


def _host(request: Request) -> str | None:
    """Return the host name in the Host header, in lower case and without the port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _is_link(request: Request) -> bool:
    """Return whether a browser follows a link. Other sites may link here: they see no response.

    A form that is sent with POST also opens a page, but is not a link.
    """
    return request.method == "GET" and request.headers.get("sec-fetch-dest") == "document"
