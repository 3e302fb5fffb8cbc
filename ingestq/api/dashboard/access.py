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

from ingestq.api.authenticator import (
    PRINCIPAL,
    Authenticator,
    limit_message,
    rate_headers,
    refused_for_now,
)
from ingestq.api.dashboard.paths import EVENTS, OPEN_PATHS, PATHS, SIGN_IN, SIGN_OUT
from ingestq.api.errors import log_unavailable, problem_response, retry_after
from ingestq.broker.tokens import Admission, ApiTokens, RequestRate
from ingestq.core.errors import BrokerUnavailable, ServiceUnavailable, UsageError
from ingestq.core.tokens import UNLIMITED
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


STORED: Final = "stored."
"""Begins a session of the owner of one of the `ApiTokens`: it is stored with them."""
SESSION_BYTES: Final = 32


class Visitors:
    """Signs browsers in and out, and says who they are.

    The owner of INGESTQ_API_TOKEN has a session of ``own``. One of another token is a random text
    that is stored with ``tokens``, hashed as they are, and ends when the token does.
    """

    def __init__(
        self, authenticator: Authenticator, own: Sessions | None, tokens: ApiTokens | None
    ) -> None:
        self.authenticator = authenticator
        self._own = own
        self._tokens = tokens

    async def sign_in(self, token: str) -> str | RequestRate | None:
        """Return a new session of the owner of ``token``; None if that is not valid.

        It counts as a request: returns the limit of the token if it has to wait. Raises
        BrokerUnavailable.
        """
        admission = await self.authenticator.admit(token.encode())
        if admission is None:
            return None
        if refused_for_now(admission):
            return admission.rate
        token_id = admission.principal.token_id
        if token_id is None or self._tokens is None:
            return None if self._own is None else self._own.new()
        session = STORED + secrets.token_urlsafe(SESSION_BYTES)
        await self._tokens.begin_session(token_id, session, SESSION_SECONDS)
        return session

    async def admit(self, session: str, *, count: int) -> Admission | None:
        """Return whose ``session`` it is, and count so many requests; None if it has ended.

        Raises BrokerUnavailable if nobody can tell.
        """
        if not await self.authenticator.is_locked():
            return Admission(UNLIMITED)
        if self._tokens is not None and session.startswith(STORED):
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    return await self._tokens.admit_session(session, count=count)
            except TimeoutError as error:
                raise BrokerUnavailable(
                    f"Redis does not answer within {PROBE_SECONDS:g} s"
                ) from error
        if self._own is not None and await self._own.is_valid(session):
            return Admission(UNLIMITED)
        return None

    async def end(self, session: str) -> None:
        """End ``session`` before its time, on all servers. Raises BrokerUnavailable."""
        if self._tokens is not None and session.startswith(STORED):
            await self._tokens.end_session(session)
        elif self._own is not None:
            await self._own.end(session)


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


UNCOUNTED_PATHS: Final = frozenset({EVENTS, SIGN_OUT})
"""Paths that count for no limit of a token: a browser opens the stream again by itself."""


class DashboardGuard:
    """Middleware that guards the routes of the dashboard, and lets all others pass.

    It puts the `Principal` of a request into its scope. `ingestq.api.auth.SiteGuard` keeps out
    pages of other sites, here as everywhere.
    """

    def __init__(self, app: ASGIApp, visitors: Visitors) -> None:
        self._app = app
        self._visitors = visitors

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
        path = request.url.path
        if path in OPEN_PATHS:
            return None
        try:
            count = 0 if path in UNCOUNTED_PATHS else 1
            admission = await self._visitors.admit(session_of(request), count=count)
        except (ServiceUnavailable, UsageError) as error:  # UsageError: it refuses our credentials
            log_unavailable(path, error)
            return problem_response(503, str(error))
        if admission is not None:
            if admission.rate is not None and refused_for_now(admission):
                headers = rate_headers(admission.rate) | retry_after(admission.rate.wait_seconds)
                return problem_response(429, limit_message(admission.rate), headers)
            request.scope[PRINCIPAL] = admission.principal
            return None
        if path == EVENTS:
            return problem_response(401, f"sign in at {SIGN_IN}")
        return RedirectResponse(SIGN_IN, 303)


def session_of(request: Request) -> str:
    """Return the session that ``request`` claims to belong to; empty if none."""
    return request.cookies.get(COOKIE, "")
