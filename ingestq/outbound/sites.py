"""Visits web sites politely: robots.txt, a delay between requests, bounded answers and redirects.

Needs httpx and protego. Only public addresses are connected to, also by redirects.
"""

import asyncio
import os
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from urllib.parse import urljoin

import httpx
from protego import Protego

from ingestq.core.errors import IngestqError, PageFailed, RemoteUnavailable, SiteBusy, UsageError
from ingestq.core.urls import public_url, without_secrets
from ingestq.core.web import USER_AGENT, WebConfig, host_of, page_url, site_of
from ingestq.outbound.addresses import AddressRefused
from ingestq.outbound.transport import PublicTransport

MAX_REDIRECTS: Final = 10
IDLE_SECONDS: Final = 30.0
"""How long a site may send nothing."""
ANSWER_SECONDS: Final = 300.0
"""How long an answer may take in all."""
ROBOTS_BYTES: Final = 500 * 1024
"""So much of robots.txt has to be read (RFC 9309); the rest counts as missing."""
ROBOTS_SECONDS: Final = 3600.0
"""How long a robots.txt is kept; RFC 9309 allows a day."""
MAX_HOSTS: Final = 200
"""The robots.txt of so many hosts are kept: one with 200 rules takes 140 KB of memory."""
MAX_CRAWL_DELAY_SECONDS: Final = 60.0
MAX_PAUSE_SECONDS: Final = 3600.0
"""A longer Retry-After is cut to this."""
DEFAULT_PAUSE_SECONDS: Final = 30.0
"""How long a host is left alone that is overloaded and does not say for how long."""
LONGEST_BUSY_SECONDS: Final = 600.0
"""A page is asked for again after so long at most, wherever its turn is."""
BLOCK_BYTES: Final = 256 * 1024
GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
NOT_MODIFIED: Final = 304
TOO_MANY_REQUESTS: Final = 429
OVERLOADED: Final = frozenset({429, 503})
AWAY: Final = frozenset({408, 425, 502, 504})
DENIED: Final = frozenset({401, 403, 407, 451})
GONE: Final = frozenset({404, 410})
SERVER_ERROR: Final = 500
CLIENT_ERROR: Final = 400


class PageRefused(IngestqError):
    """A page cannot be had, however often it is asked for. ``status`` is what the site answered."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class WebAnswer:
    """What a site answers. ``url`` is where redirects ended; ``blocks`` are the decoded bytes.

    ``blocks`` raises PageRefused if it is larger than was asked for, and PageFailed if it breaks
    off.
    """

    url: str
    status: int
    headers: httpx.Headers
    blocks: AsyncGenerator[bytes, None]

    @property
    def media_type(self) -> str:
        """The media type that the site names, in lower case; empty if it names none."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


@dataclass
class _Host:
    """When a host may be asked next (monotonic time), and what its robots.txt says.

    ``last_at`` is when the last of those that were sent away may come.
    """

    next_at: float = 0.0
    last_at: float = 0.0
    closed_until: float = 0.0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    robots: Protego | None = None
    read_at: float = 0.0

    @property
    def is_free(self) -> bool:
        """True if it may be asked now, and nobody has been promised a turn."""
        return max(self.next_at, self.last_at, self.closed_until) <= time.monotonic()


class Sites:
    """Sends requests to web sites, as ``config`` says; one for a process, in one event loop.

    Methods raise PageRefused for what never succeeds, RemoteUnavailable if the site is away,
    overloaded, or asks to wait, and PageFailed if it fails over this page. With
    ``max_wait_seconds``, they raise SiteBusy instead of waiting longer for the host's turn.
    """

    def __init__(self, config: WebConfig, *, max_wait_seconds: float | None = None) -> None:
        self._config = config
        self._max_wait_seconds = max_wait_seconds
        self._hosts: dict[str, _Host] = {}
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def is_allowed(self, url: str) -> bool:
        """Return whether robots.txt of its host lets us read ``url``."""
        robots = await self._robots(url)
        return bool(robots.can_fetch(url, USER_AGENT))

    async def allowed(self, site: str, urls: Sequence[str]) -> Collection[str]:
        """Return those of ``urls``, all on the host of ``site``, that robots.txt lets us read."""
        robots = await self._robots(site)
        return await asyncio.to_thread(
            lambda: {url for url in urls if robots.can_fetch(url, USER_AGENT)}
        )

    async def sitemaps(self, url: str) -> list[str]:
        """Return the sitemaps that robots.txt of the host of ``url`` names."""
        return list((await self._robots(url)).sitemaps)

    @asynccontextmanager
    async def get(
        self,
        url: str,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        *,
        obey_robots: bool = True,
    ) -> AsyncIterator[WebAnswer]:
        """Yield the answer of ``url``: 2xx, or 304 if ``headers`` ask for that.

        It may have up to ``max_bytes``. With ``obey_robots``, raises PageRefused if robots.txt
        disallows the page, or one that it redirects to.
        """
        seen: set[str] = set()
        while True:
            if url in seen or len(seen) > MAX_REDIRECTS:
                raise PageRefused(
                    "it redirects in a circle" if url in seen else "it redirects too often"
                )
            seen.add(url)
            delay = self._config.delay_seconds
            if obey_robots:
                robots = await self._robots(url)
                if not robots.can_fetch(url, USER_AGENT):
                    raise PageRefused(f"robots.txt of {host_of(url)} disallows it")
                asked = float(robots.crawl_delay(USER_AGENT) or 0)
                delay = max(delay, min(asked, MAX_CRAWL_DELAY_SECONDS))
            async with self._sent(url, delay, headers) as answer:
                if answer.has_redirect_location:
                    url = self._target(url, answer.headers["location"])
                    continue
                self._check(url, answer)
                yield WebAnswer(url, answer.status_code, answer.headers, _blocks(answer, max_bytes))
                return

    @asynccontextmanager
    async def _sent(
        self, url: str, delay: float, headers: Mapping[str, str] | None
    ) -> AsyncIterator[httpx.Response]:
        client = await self._opened()
        await self._take_turn(url, delay)
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                client.stream("GET", url, headers=headers) as answer,
            ):
                yield answer
        except AddressRefused as error:
            raise PageRefused(f"{error}; set INGESTQ_WEB_ALLOW_PRIVATE=true to allow it") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise RemoteUnavailable(f"{site_of(url)} cannot be reached: {_said(error)}") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise PageFailed("the site did not answer, or not to the end, in time") from error
        except (httpx.InvalidURL, UnicodeError) as error:  # the latter by a host that IDNA forbids
            raise PageRefused(f"{public_url(url)} is no address: {error}") from error
        except httpx.HTTPError as error:
            raise PageFailed(f"the answer broke off: {_said(error)}") from error

    async def _opened(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                transport = await asyncio.to_thread(
                    PublicTransport, allow_private=self._config.allow_private
                )
                self._client = httpx.AsyncClient(
                    transport=transport,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=IDLE_SECONDS,
                    headers={
                        "user-agent": self._config.user_agent,
                        "accept-encoding": "gzip",
                    },
                )
            return self._client

    async def _take_turn(self, url: str, delay: float) -> None:
        """Wait until the host of ``url`` may be asked.

        Raises RemoteUnavailable if it asked to be left alone, and SiteBusy if its turn is too far.
        """
        host, now = self._host(url), time.monotonic()
        self._check_open(url, host)
        turn = max(now, host.next_at)
        if self._max_wait_seconds is not None and turn - now > self._max_wait_seconds:
            host.last_at = max(host.last_at, turn) + delay
            raise SiteBusy(
                f"{site_of(url)} is asked for other pages first",
                min(host.last_at - now, LONGEST_BUSY_SECONDS),
            )
        host.next_at = turn + delay
        await asyncio.sleep(turn - now)
        self._check_open(url, host)

    def _check_open(self, url: str, host: _Host) -> None:
        left = host.closed_until - time.monotonic()
        if left <= 0:
            return
        asked = f"{site_of(url)} asked to wait"
        if self._max_wait_seconds is None:
            raise RemoteUnavailable(asked)
        raise SiteBusy(asked, min(left, LONGEST_BUSY_SECONDS))

    def _host(self, url: str) -> _Host:
        """Return what is known of the host of ``url``, which is now the one used most recently."""
        site = site_of(url)
        host = self._hosts.pop(site) if site in self._hosts else _Host()
        self._hosts[site] = host
        self._forget_surplus()
        return host

    def _forget_surplus(self) -> None:
        """Forget the hosts used least recently, except for when they may be asked, if not now."""
        surplus = len(self._hosts) - MAX_HOSTS
        for site, host in list(islice(self._hosts.items(), max(surplus, 0))):
            if host.reading.locked():
                continue
            host.robots = None
            if host.is_free:
                del self._hosts[site]

    def _target(self, url: str, location: str) -> str:
        try:
            return page_url(urljoin(url, location))
        except (UsageError, ValueError) as error:
            raise PageRefused(f"it redirects to what is no page: {error}") from error

    def _check(self, url: str, answer: httpx.Response) -> None:
        """Raise unless ``answer`` has what was asked for, or says that nothing has changed."""
        status = answer.status_code
        if status < 300 or status == NOT_MODIFIED:
            return
        if status in OVERLOADED:
            pause = _retry_after(answer.headers)
            self._host(url).closed_until = time.monotonic() + pause
            raise RemoteUnavailable(f"{site_of(url)} answered {status}; it is asked again later")
        if status in AWAY:
            raise RemoteUnavailable(f"{site_of(url)} answered {status}")
        if status in GONE:
            raise PageRefused(f"there is no such page: the site answered {status}", status)
        if status in DENIED:
            raise PageRefused(f"access is denied: the site answered {status}", status)
        if status >= SERVER_ERROR:
            raise PageFailed(f"the site answered {status}")
        raise PageRefused(f"the site answered {status}", status)

    async def _robots(self, url: str) -> Protego:
        """Return robots.txt of the host of ``url``; an empty one if it has none."""
        host = self._host(url)
        async with host.reading:
            if host.robots is None or time.monotonic() - host.read_at > ROBOTS_SECONDS:
                host.robots = await self._read_robots(f"{site_of(url)}/robots.txt")
                host.read_at = time.monotonic()
            return host.robots

    async def _read_robots(self, url: str) -> Protego:
        data = b""
        try:
            async with self.get(url, 2 * ROBOTS_BYTES, obey_robots=False) as answer:
                async for block in answer.blocks:
                    data += block
        except PageRefused as error:
            if error.status is None:  # with a status, there is none, and all is allowed
                raise
        except PageFailed as error:
            raise RemoteUnavailable(
                f"{url} cannot be read, so nothing of the site is: {error}"
            ) from error
        text = data[:ROBOTS_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
        return await asyncio.to_thread(Protego.parse, text)


async def _blocks(answer: httpx.Response, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body, unpacked piece by piece: no bomb is ever whole in memory."""
    encoding = str(answer.headers.get("content-encoding", "identity")).strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise PageRefused(f"it is sent as {encoding[:40]}, although only gzip was asked for")
    declared = str(answer.headers.get("content-length", ""))
    if declared.isdecimal() and int(declared) > max_bytes:
        raise PageRefused(too_large(max_bytes))
    unpack = zlib.decompressobj(GZIP_OR_ZLIB) if "gzip" in encoding else None
    size = 0
    async for raw in answer.aiter_raw(BLOCK_BYTES):
        packed = raw
        while packed:
            if unpack is None:
                block, packed = packed, b""
            else:
                try:
                    block = unpack.decompress(packed, BLOCK_BYTES)
                except zlib.error as error:
                    raise PageFailed(f"it is not packed as it says: {error}") from error
                packed = unpack.unconsumed_tail
            size += len(block)
            if size > max_bytes:
                raise PageRefused(too_large(max_bytes))
            yield block
    if unpack is not None and size and not unpack.eof:
        raise PageFailed("the answer broke off")


def too_large(max_bytes: int) -> str:
    """Return why an answer is refused that has more than ``max_bytes``."""
    return f"more than {max_bytes:,} bytes, which is the limit"


def _retry_after(headers: httpx.Headers) -> float:
    """Return for how many seconds a host that is overloaded wants to be left alone."""
    said = str(headers.get("retry-after", "")).strip()
    if said.isdecimal():
        return min(float(said), MAX_PAUSE_SECONDS)
    from email.utils import parsedate_to_datetime

    try:
        pause = parsedate_to_datetime(said).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_PAUSE_SECONDS
    return min(max(pause, 0.0), MAX_PAUSE_SECONDS)


def _said(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return without_secrets(str(error) or type(error).__name__)
