"""What a URL of Redis says: a server, with or without TLS, or the Sentinels that know it."""

from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)

from ingestq.broker.sentinel import (
    MasterConnection,
    Sentinels,
    TlsMasterConnection,
)
from ingestq.core.errors import UsageError

SENTINEL_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""The schemes of URLs of Sentinels, and those of the servers that they name."""
SENTINEL_PORT: Final = 26379
SENTINEL_CREDENTIALS: Final = {"sentinel_username": "username", "sentinel_password": "password"}
"""Options of a URL that are for the Sentinels, and what redis-py calls them."""
URL_FORMS: Final = (
    "redis://HOST:PORT/DATABASE, rediss://…, unix:///PATH or "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE"
)
"""For messages."""
TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Options of a URL that name files."""


def is_sentinel_url(url: str) -> bool:
    """Return whether ``url`` names Sentinels and not a server."""
    return url.partition("://")[0].lower() in SENTINEL_SCHEMES


def connection_options(url: str) -> dict[str, Any]:
    """Return what redis-py's ConnectionPool needs to know for ``url``.

    Raises ValueError if that is not the URL of a Redis.
    """
    options = _sentinel_options(url) if is_sentinel_url(url) else _server_options(url)
    if options.get("connection_class") is not UnixDomainSocketConnection:
        options.setdefault("socket_keepalive", True)
    return options


def _server_options(url: str) -> dict[str, Any]:
    options = dict[str, Any](parse_url(url))
    if options.get("connection_class") is SSLConnection:
        # redis-py before version 6 does not check it by default.
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    return options


def _sentinel_options(url: str) -> dict[str, Any]:
    """Return the options for connections to the master that the Sentinels of ``url`` name.

    User, password and options are the master's, except `SENTINEL_CREDENTIALS`. TLS is for both.
    """
    parts = urlsplit(url)
    credentials, at, places = parts.netloc.rpartition("@")
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service:
        raise ValueError("it names no service")
    query = parse_qsl(parts.query)
    own = {SENTINEL_CREDENTIALS[name]: v for name, v in query if name in SENTINEL_CREDENTIALS}
    others = urlencode([(name, v) for name, v in query if name not in SENTINEL_CREDENTIALS])
    scheme = SENTINEL_SCHEMES[parts.scheme]
    options = _server_options(f"{scheme}://{credentials}{at}master/{int(database or 0)}?{others}")
    has_tls = options.get("connection_class") is SSLConnection
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    del options["host"]
    options["connection_class"] = TlsMasterConnection if has_tls else MasterConnection
    options["sentinels"] = Sentinels(
        unquote(service),
        [_sentinel_place(place) for place in places.split(",")],
        SSLConnection if has_tls else Connection,
        own | tls,
    )
    return options


def _sentinel_place(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("a Sentinel has no host")
    return parts.hostname, parts.port or SENTINEL_PORT


def check_tls(connection: SSLConnection) -> None:
    """Raise UsageError if the options for TLS of ``connection`` cannot be used."""
    if (connection.certfile is None) != (connection.keyfile is None):
        raise UsageError(
            "INGESTQ_REDIS_URL has only one of ssl_certfile and ssl_keyfile; a client certificate "
            "needs both"
        )
    try:
        connection.ssl_context.get()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"TLS for INGESTQ_REDIS_URL cannot be set up ({reason}); check the files that its "
            f"options {', '.join(TLS_FILES)} name"
        ) from error
