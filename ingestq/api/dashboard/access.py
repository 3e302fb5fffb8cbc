"""Restricts the dashboard to browsers that have signed in."""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestq.api.dashboard.paths import EVENTS, OPEN_PATHS, PATHS, SIGN_IN
from ingestq.api.errors import log_unavailable, problem_response
from ingestq.core.errors import BrokerUnavailable, ServiceUnavailable, UsageError
from ingestq.monitoring.health_checks import PROBE_SECONDS

COOKIE: Final = "ingestq_session"
SESSION_SECONDS: Final = 12 * 3600
PURPOSE: Final = b"ingestq dashboard session "
ID_BYTES: Final = 16


class Revoked(Protocol):
    """The sessions that were ended by signing out. Both methods raise BrokerUnavailable."""

    async def add(self, session_id: str, seconds: int) -> None: ...
    async def has(self, session_id: str) -> bool: ...


@dataclass(frozen=True)
class Sessions:
    """Makes, checks and ends sessions.

    A session is an id, the time at which it ends (Unix time) and their HMAC, keyed with ``token``.
    So it survives a restart, is valid on every server with the same token, and ends when the token
    changes. Only those that were signed out before their end are stored, in ``revoked``.
    """

    token: str = field(repr=False)
    revoked: Revoked

    def is_token(self, token: str) -> bool:
        """Return whether ``token`` is right, in constant time."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def new(self) -> str:
        """Return a session that starts now."""
        signed = f"{secrets.token_hex(ID_BYTES)}.{int(time.time()) + SESSION_SECONDS}"
        return f"{signed}.{self._digest(signed)}"

    async def is_valid(self, session: str) -> bool:
        """Return whether ``session`` was made with the same token and has not ended.

        Raises BrokerUnavailable if nobody can say whether it was ended before its time.
        """
        if self._seconds_left(session) <= 0:
            return False
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return not await self.revoked.has(_id(session))
        except TimeoutError as error:
            raise BrokerUnavailable(f"Redis does not answer within {PROBE_SECONDS:g} s") from error

    async def end(self, session: str) -> None:
        """End ``session`` before its time, on all servers. Raises BrokerUnavailable."""
        if (seconds := self._seconds_left(session)) > 0:
            await self.revoked.add(_id(session), seconds)

    def _seconds_left(self, session: str) -> int:
        """Return for how long ``session`` is valid; 0 if it was not made with the token."""
        signed, _, digest = session.rpartition(".")
        if not hmac.compare_digest(digest.encode(), self._digest(signed).encode()):
            return 0
        return int(signed.rpartition(".")[2]) - int(time.time())

    def _digest(self, signed: str) -> str:
        message = PURPOSE + signed.encode()
        return hmac.new(self.token.encode(), message, hashlib.sha256).hexdigest()


def _id(session: str) -> str:
    return session.partition(".")[0]


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

    Without ``sessions``, nobody has to sign in. `ingestq.api.auth.SiteGuard` keeps out pages of
    other sites, here as everywhere.
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

        refusal = await self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    async def _refusal(self, request: Request) -> Response | None:
        if self._sessions is None or request.url.path in OPEN_PATHS:
            return None
        try:
            if await self._sessions.is_valid(session_of(request)):
                return None
        except (ServiceUnavailable, UsageError) as error:  # UsageError: it refuses our credentials
            log_unavailable(request.url.path, error)
            return problem_response(503, str(error))
        if request.url.path == EVENTS:
            return problem_response(401, f"sign in at {SIGN_IN}")
        return RedirectResponse(SIGN_IN, 303)


def session_of(request: Request) -> str:
    """Return the session that ``request`` claims to belong to; empty if none."""
    return request.cookies.get(COOKIE, "")
