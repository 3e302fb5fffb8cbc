"""Checks who may send requests: names of this server, pages of other sites, the bearer token."""

import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestq.api.authenticator import (
    PRINCIPAL,
    Authenticator,
    limit_message,
    rate_headers,
    refused_for_now,
)
from ingestq.api.errors import log_unavailable, problem_response, retry_after
from ingestq.broker.tokens import Admission
from ingestq.core.errors import ServiceUnavailable, UsageError
from ingestq.core.tokens import UNLIMITED, token_id_of

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "[::1]", "localhost", "localhost."})
"""How `LOOPBACK_HOSTS` are written in a ``Host`` header."""
OWN_SITES: Final = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site`` for a page of this server, and for an address that was typed."""


class SiteGuard:
    """Middleware that keeps pages of other sites, open in a user's browser, away from every route.

    If no token is needed, the ``Host`` header has to name this machine as well: this stops DNS
    rebinding, where a page lets its own name lead here. Where ``authenticator`` wants a token, the
    host may be any name, and requests with an ``Authorization`` header pass: no page of another
    site can send one, because this server answers no preflight request.

    Links from other sites are followed: they change nothing, and that site does not see the answer.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else await self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not scope["path"].startswith("/"):  # http://…, which would name the host a second time
            return problem_response(400, "request a path, such as GET /status, without a host")
        named = _names_loopback(headers.getlist("host"))
        try:
            is_locked = await self._authenticator.is_locked()
        except (ServiceUnavailable, UsageError) as error:  # UsageError: it refuses our credentials
            if not named:
                log_unavailable(scope["path"], error)
                return problem_response(503, str(error))
            is_locked = False
        if not is_locked and not named:
            return problem_response(
                403,
                "without INGESTQ_API_TOKEN, this server is reached only as http://127.0.0.1, "
                "http://[::1] or http://localhost; use one of them, or set a token",
            )
        trusted = is_locked and "authorization" in headers
        if trusted or _is_link(scope, headers) or not is_of_another_site(headers):
            return None
        return problem_response(
            403,
            "a page of another site sent this request; send it from a page of this server, or from "
            "a program other than a browser",
        )


def _names_loopback(hosts: list[str]) -> bool:
    """Return whether there is one ``Host`` header and it names loopback, with any port."""
    return len(hosts) == 1 and re.sub(r":[0-9]*\Z", "", hosts[0].lower()) in LOOPBACK_NAMES


def _is_link(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Return whether a browser follows a link. A form that is sent with POST is not a link."""
    return scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"


def is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that a page of another site makes the request.

    If ``Sec-Fetch-Site`` is sent, it decides: no page can set it. Otherwise the host of ``Origin``
    must equal ``Host``. Clients other than browsers send neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in OWN_SITES
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return True
    return not host or host.lower() != headers.get("host", "").lower()


FREE_FAILURES: Final = 5
"""Wrong tokens in a row after which an address has to wait: people mistype."""
LONGEST_WAIT_SECONDS: Final = 30.0
"""Short, because an owner may share the address with an attacker, behind a proxy."""
FORGOTTEN_SECONDS: Final = 600.0
"""Failures are forgotten this long after the last one."""
MAX_ADDRESSES: Final = 4096
"""Addresses that are remembered; the one whose last failure is oldest is forgotten first."""


FIRST_WAIT_SECONDS: Final = 1.0
"""Doubled after each further failure."""


@dataclass(frozen=True)
class _Failures:
    count: int = 0
    at: float = -math.inf
    wait_seconds: float = 0.0

    def one_more(self, now: float) -> "_Failures":
        if now - self.at > FORGOTTEN_SECONDS:
            return _Failures(1, now)
        if self.count + 1 < FREE_FAILURES:
            return _Failures(self.count + 1, now)
        wait = min(2 * self.wait_seconds or FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        return _Failures(self.count + 1, now, wait)


class Throttle:
    """Counts wrong tokens by the address they come from, and says how long it has to wait.

    Kept in this process alone. An IPv6 address counts with all others of its /64 network, which
    usually belong to one host.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_seconds(self, scope: Scope) -> float:
        """Return the seconds until the client may try again; 0 if it may now."""
        failures = self._failures.get(_address(scope), _Failures())
        passed = time.monotonic() - failures.at
        return max(0.0, failures.wait_seconds - passed)

    def failed(self, scope: Scope) -> None:
        """Count a wrong token of the client."""
        address = _address(scope)
        before = self._failures.pop(address, _Failures())
        self._failures[address] = before.one_more(time.monotonic())
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, scope: Scope) -> None:
        """Forget the wrong tokens of the client."""
        self._failures.pop(_address(scope), None)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    if client is None:
        return ""
    try:
        address = ip_address(client[0])
    except ValueError:
        return str(client[0])
    if not isinstance(address, IPv6Address) or address.ipv4_mapped is not None:
        return str(address)
    return str(IPv6Address(int(address) >> 64 << 64))


class BearerAuth:
    """Middleware that refuses requests without a token (RFC 6750), except for ``open_paths``.

    It puts the `Principal` of a request into its scope; where ``authenticator`` wants no token,
    everybody may do everything. As it runs before the routes, a route that is added later is
    protected as well, and no byte of a body is read before the token is checked.

    A right token is always accepted: nobody can lock out a client whose address they share. An
    address that sends wrong ones is told to wait, and loses its connection each time.
    """

    def __init__(
        self, app: ASGIApp, authenticator: Authenticator, open_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._open_paths = open_paths
        self._throttle = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._open_paths or PRINCIPAL in scope:
            await self._app(scope, receive, send)
        else:
            await self._admit(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = _bearer_token(scope)
        try:
            admission = await self._admission(sent)
        except (ServiceUnavailable, UsageError) as error:  # UsageError: it refuses our credentials
            log_unavailable(scope["path"], error)
            await problem_response(503, str(error))(scope, receive, send)
            return
        if admission is None:
            await self._refusal(scope, guessed=sent is not None)(scope, receive, send)
            return
        self._throttle.succeeded(scope)
        rate = admission.rate
        headers = rate_headers(rate)
        if rate is not None and refused_for_now(admission):
            headers |= retry_after(rate.wait_seconds)
            await problem_response(429, limit_message(rate), headers)(scope, receive, send)
            return

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        scope[PRINCIPAL] = admission.principal
        await self._app(scope, receive, send_with_rate if headers else send)

    async def _admission(self, sent: bytes | None) -> Admission | None:
        """Return who sends the request. A limited token limits its owner also where none is needed.

        Raises ServiceUnavailable or UsageError if nobody can tell.
        """
        limited = sent is not None and token_id_of(sent) is not None
        if not limited and not await self._authenticator.is_locked():
            return Admission(UNLIMITED)
        return None if sent is None else await self._authenticator.admit(sent)

    def _refusal(self, scope: Scope, *, guessed: bool) -> Response:
        wait = self._throttle.wait_seconds(scope)
        if guessed and wait:
            return problem_response(
                429,
                f"wrong token, and too many of them; wait {wait:.0f} s",
                retry_after(wait) | {"Connection": "close"},
            )
        if guessed:
            self._throttle.failed(scope)
        return problem_response(
            401,
            "send the header Authorization: Bearer TOKEN, with the value of INGESTQ_API_TOKEN, or "
            "a token that `ingestq token create` has made",
            {"WWW-Authenticate": "Bearer"},
        )


def _bearer_token(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            return credentials.strip() or None if scheme.lower() == b"bearer" else None
    return None
