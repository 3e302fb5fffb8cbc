"""Web pages as documents: their addresses, and how sites are visited. Plain data."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from ingestq.core.errors import UsageError
from ingestq.core.urls import HIDDEN, public_url

WEB_SCHEMES: Final = frozenset({"http", "https"})
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
USER_AGENT: Final = "ingestq"
"""What robots.txt and robots tags call us."""
DOCS_URL: Final = "https://github.com/ingestq/ingestq/blob/main/docs/web.md"
DEFAULT_DELAY_SECONDS: Final[float] = 1
SAFE_IN_URL: Final = "%/:=&?~#+!$,;'@()*[]"
"""What is not escaped in a path or query: it is what browsers leave as it is."""
NOT_INSTALLED: Final = "this needs packages that are not installed; run: pip install 'ingestq[web]'"


@dataclass(frozen=True)
class WebConfig:
    """How sites are visited.

    A process sends at most one request in ``delay_seconds`` to a host, which may ask for more with
    Crawl-delay. Requests say who sends them in ``user_agent``. Hosts in a private
    network are refused unless ``allow_private``.
    """

    delay_seconds: float = DEFAULT_DELAY_SECONDS
    user_agent: str = f"{USER_AGENT} (+{DOCS_URL})"
    allow_private: bool = False


DEFAULT_WEB: Final = WebConfig()


TOLD_ETAG: Final = "etag "
TOLD_TIME: Final = "modified "
"""What the tag of a page begins with if its site has told it, and not its sitemap."""


def told_tag(state: str | None) -> str | None:
    """Return the tag in the ``state`` of a page if its site has told it, else None."""
    tag = "" if state is None else state.partition(":")[2].rpartition(":")[0]
    return tag if tag.startswith((TOLD_ETAG, TOLD_TIME)) else None


def is_web(url: str) -> bool:
    """Return whether ``url`` is the address of a web page or a sitemap."""
    return url.partition("://")[0].lower() in WEB_SCHEMES


def page_url(url: str) -> str:
    """Return the address of a web page in the form that ids have.

    Scheme and host are in lower case, without the port that is usual, the path is not empty, what
    has to be escaped is, and there is no fragment. Raises UsageError, without a secret, if it is no
    such address, or holds a user or password.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{public_url(url)}: {error}") from error
    scheme = parts.scheme.lower()
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{scheme}://{HIDDEN}@…: a user or password must not be in the address, which is "
            "stored with every chunk"
        )
    if scheme not in WEB_SCHEMES or not host:
        raise UsageError(f"{public_url(url)}: write https://host/page or https://host/sitemap.xml")
    try:
        place = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise UsageError(f"{public_url(url)}: there can be no such host") from error
    place = f"[{place}]" if ":" in place else place
    if port is not None and port != DEFAULT_PORTS[scheme]:
        place = f"{place}:{port}"
    path, query = (quote(part, safe=SAFE_IN_URL) for part in (parts.path or "/", parts.query))
    return urlunsplit((scheme, place, path, query, ""))


def site_of(url: str) -> str:
    """Return scheme and host of a `page_url`, with which the ids of the site's pages begin."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{host_of(place)}"


def host_of(url: str) -> str:
    """Return the host of a `page_url`, with its port if it has one."""
    return url.partition("://")[2].partition("/")[0] if "://" in url else url.partition("/")[0]


def name_of(url: str) -> str:
    """Return a `page_url` without its scheme: what stands behind a source's name in ids."""
    return url.partition("://")[2]
