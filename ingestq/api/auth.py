"""Checks who may send requests: the bearer token (RFC 6750), and pages of other sites."""

import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ingestq.api.errors import problem_response


class BearerAuth:
    """Middleware that refuses requests without the token, except those for ``open_paths``.

    As it runs before the routes, a route that is added later is protected as well, and no byte of
    a body is read before the token is checked.
    """

    def __init__(self, app: ASGIApp, token: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
            or scope["path"] in self._open_paths
            or self._has_token(scope)
        ):
            await self._app(scope, receive, send)
        else:
            refusal = problem_response(
                401,
                "send the header Authorization: Bearer TOKEN, with the value of INGESTQ_API_TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, credentials = value.partition(b" ")
                return scheme.lower() == b"bearer" and hmac.compare_digest(
                    credentials.strip(), self._token
                )
        return False


LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
OWN_SITES: Final = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site`` for a page of this server, and for an address that was typed."""


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
