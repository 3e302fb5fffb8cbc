"""Who may use the dashboard: signed-in browsers, and no pages of other sites."""

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
    """Sessions of who knew ``token``.

    One is the time at which it ends (Unix time), and a digest of that which is keyed with the
    token. So it outlives this server, is good for all that have the token, and ends with it.
    """

    token: str

    def knows(self, token: str) -> bool:
        """Whether this is the token; how long that takes says nothing about it."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def new(self) -> str:
        """A session that begins now."""
        ends = str(int(time.time()) + SESSION_SECONDS)
        return f"{ends}.{self._digest(ends)}"

    def is_valid(self, session: str) -> bool:
        """Whether it was made here, or with the same token elsewhere, and has not ended."""
        ends, _, digest = session.partition(".")
        return (
            ends.isascii()
            and ends.isdecimal()
            and hmac.compare_digest(digest.encode(), self._digest(ends).encode())
            and time.time() < int(ends)
        )

    def _digest(self, ends: str) -> str:
        said = PURPOSE + ends.encode()
        return hmac.new(self.token.encode(), said, hashlib.sha256).hexdigest()


HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: with it, forms are sent without saying where they come from.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class DashboardGuard:
    """Stands before the routes of the dashboard, and lets all others pass.

    Without ``sessions`` nobody has to sign in. Then the server listens on loopback only, and has to
    be called by a name of that: a page may have its own name lead here once it was loaded.
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
                "the dashboard is at http://127.0.0.1 and http://localhost, and by no other name "
                "as long as INGESTQ_API_TOKEN is not set",
            )
        if is_of_another_site(request.headers) and not _is_link(request):
            return problem_response(403, "another site may not use the dashboard")
        if self._sessions is None or request.url.path in OPEN_PATHS:
            return None
        if self._sessions.is_valid(request.cookies.get(COOKIE, "")):
            return None
        if request.url.path == EVENTS:
            return problem_response(401, f"sign in at {SIGN_IN}")
        return RedirectResponse(SIGN_IN, 303)


def _host(request: Request) -> str | None:
    """The name by which this server was called, in lower case and without the port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _is_link(request: Request) -> bool:
    """Return whether a browser opens a page: other sites may link here, as they see nothing of it.

    A form that is sent with POST also opens a page, and is none.
    """
    return request.method == "GET" and request.headers.get("sec-fetch-dest") == "document"
