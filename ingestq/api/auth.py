"""Checks who may send requests: names of this server, pages of other sites, the bearer token."""

import hmac
import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ingestq.api.errors import problem_response, retry_after

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "[::1]", "localhost", "localhost."})
"""How `LOOPBACK_HOSTS` are written in a ``Host`` header."""
OWN_SITES: Final = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site`` for a page of this server, and for an address that was typed."""


class SiteGuard:
    """Middleware that keeps pages of other sites, open in a user's browser, away from every route.

    Without a token, the ``Host`` header has to name this machine as well: this stops DNS rebinding,
    where a page lets its own name lead here. With a token (``has_token``), the host may be any
    name, and requests with an ``Authorization`` header pass: no page of another site can send one,
    because this server answers no preflight request.

    Links from other sites are followed: they change nothing, and that site does not see the answer.
    """

    def __init__(self, app: ASGIApp, *, has_token: bool) -> None:
        self._app = app
        self._has_token = has_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not scope["path"].startswith("/"):  # http://…, which would name the host a second time
            return problem_response(400, "request a path, such as GET /status, without a host")
        if not self._has_token and not _names_loopback(headers.getlist("host")):
            return problem_response(
                403,
                "without INGESTQ_API_TOKEN, this server is reached only as http://127.0.0.1, "
                "http://[::1] or http://localhost; use one of them, or set a token",
            )
        trusted = self._has_token and "authorization" in headers
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
    """Middleware that refuses requests without the token (RFC 6750), except for ``open_paths``.

    As it runs before the routes, a route that is added later is protected as well, and no byte of
    a body is read before the token is checked.

    The right token is always accepted: nobody can lock out a client whose address they share. An
    address that sends wrong ones is told to wait, and loses its connection each time.
    """

    def __init__(self, app: ASGIApp, token: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._open_paths = open_paths
        self._throttle = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        sent = _bearer_token(scope)
        if sent is not None and hmac.compare_digest(sent, self._token):
            self._throttle.succeeded(scope)
            await self._app(scope, receive, send)
        else:
            await self._refusal(scope, guessed=sent is not None)(scope, receive, send)

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
            "send the header Authorization: Bearer TOKEN, with the value of INGESTQ_API_TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )


def _bearer_token(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            return credentials.strip() or None if scheme.lower() == b"bearer" else None
    return None
