"""Lists web pages: those of a sitemap, a single one, or a list of them."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import structlog

from ingestq.core import events
from ingestq.core.errors import PageFailed, RemoteUnavailable, UsageError
from ingestq.core.paths import guess_media_type
from ingestq.core.remote import RemoteObject
from ingestq.core.urls import public_url
from ingestq.core.web import NOT_INSTALLED, WebConfig, host_of, name_of, page_url, site_of
from producers.remote.sitemap import (
    HEAD_BYTES,
    MAX_SITEMAP_BYTES,
    NotASitemap,
    Sitemap,
    SitemapEntry,
    is_sitemap,
    read_sitemap,
    settled,
)

if TYPE_CHECKING:
    from ingestq.outbound.sites import Sites

log = structlog.get_logger()

HTML: Final = "text/html"
GROUP: Final = 500
"""Addresses that a thread looks at together: a sitemap has so many that the event loop would wait
for seconds."""
MAX_SITEMAPS: Final = 1000
"""Most sitemaps of a site: together they may list fifty million pages."""
DISALLOWED: Final = "robots.txt disallows them"
NOTHING_DELETED: Final = "Nothing was deleted from the index"


class SiteLister:
    """Lists the pages in the sitemap at ``url``, or the page at ``url``; see `Lister`.

    The root of a site (``https://host/``) stands for the sitemaps that its robots.txt names, if it
    names any. Only pages of the same host are listed, and only those that robots.txt allows.
    """

    def __init__(self, url: str, config: WebConfig) -> None:
        self._url = url
        self._config = config
        self._sites: Sites | None = None
        self._first: Sitemap | None = None
        self._looked = False

    @property
    def url(self) -> str:
        """See `Lister.url`."""
        return self._url

    def open(self) -> None:
        """See `Lister.open`."""
        self._sites = self._sites or _opened(self._url, self._config)

    async def is_object(self) -> bool:
        """See `Lister.is_object`."""
        if not self._looked:
            await asyncio.to_thread(self.open)
            self._first = await self._look()
            self._looked = True
        return self._first is None

    async def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """See `Lister.pages`."""
        if await self.is_object():
            yield [_described(SitemapEntry(self._url))]
            return
        assert self._first is not None, "it is a sitemap"
        seen: set[str] = set()
        read = {self._url}
        waiting: list[Sitemap | str] = [self._first]
        elsewhere = disallowed = 0
        while waiting:
            next_one = waiting.pop()
            sitemap = await self._read(next_one) if isinstance(next_one, str) else next_one
            entries = await self._in_form(sitemap, self._url)
            if sitemap.is_index:
                new = {entry.url for entry in entries} - read
                read |= new
                if len(read) > MAX_SITEMAPS:
                    raise self._wrong(f"it names more than {MAX_SITEMAPS:,} sitemaps")
                waiting.extend(sorted(new, reverse=True))
                continue
            found: list[RemoteObject] = []
            for group in _groups(entries):
                new_ones = []
                for entry in group:
                    if entry.url not in seen:
                        seen.add(entry.url)
                        new_ones.append(entry)
                own = [one for one in new_ones if site_of(one.url) == site_of(self._url)]
                allowed = await self._allowed([one.url for one in own]) if own else ()
                elsewhere += len(new_ones) - len(own)
                disallowed += len(own) - len(allowed)
                found += await asyncio.to_thread(_all_described, own, allowed)
            yield found
        _tell(self._url, elsewhere, "they are on another host")
        _tell(self._url, disallowed, DISALLOWED)
        if elsewhere and elsewhere == len(seen):
            other = host_of(next(iter(seen)))
            raise self._wrong(
                f"it lists no page of {host_of(self._url)}, only of other hosts such as {other}; "
                "pass the sitemap at the address of that host"
            )

    async def _in_form(self, sitemap: Sitemap, base: str) -> Sequence[SitemapEntry]:
        """Return the entries with their addresses in the form that ids have."""
        found: list[SitemapEntry] = []
        for group in _groups(sitemap.entries):
            try:
                found += await asyncio.to_thread(_all_in_form, group, base)
            except (UsageError, ValueError) as error:
                raise self._wrong(f"it lists an address that is none: {error}") from error
        return found

    async def _look(self) -> Sitemap | None:
        """Return the sitemap at the address; None if it is a page."""
        if self._url == f"{site_of(self._url)}/":
            with _translated(self._url):
                named = await self._open_sites.sitemaps(self._url)
            if not named:
                return None
            return Sitemap(is_index=True, entries=tuple(map(SitemapEntry, named)))
        path = self._url.partition("?")[0]
        data = b""
        with _translated(self._url):
            async with self._open_sites.get(
                self._url, MAX_SITEMAP_BYTES, obey_robots=False
            ) as answer:
                async for block in answer.blocks:
                    data += block
                    if len(data) >= HEAD_BYTES and not is_sitemap(path, data[:HEAD_BYTES]):
                        return None
        if not is_sitemap(path, data[:HEAD_BYTES]):
            return None
        return await self._parsed(self._url, data)

    async def _read(self, url: str) -> Sitemap:
        blocks = []
        with _translated(url):
            async with self._open_sites.get(url, MAX_SITEMAP_BYTES, obey_robots=False) as answer:
                async for block in answer.blocks:
                    blocks.append(block)  # noqa: PERF401 - what was read counts if it breaks off
        return await self._parsed(url, b"".join(blocks))

    async def _parsed(self, url: str, data: bytes) -> Sitemap:
        try:
            return await asyncio.to_thread(read_sitemap, data)
        except NotASitemap as error:
            raise UsageError(
                f"{public_url(url)} is no sitemap: {error}. {NOTHING_DELETED}"
            ) from error

    async def _allowed(self, urls: Sequence[str]) -> Collection[str]:
        with _translated(self._url):
            return await self._open_sites.allowed(self._url, urls)

    @property
    def _open_sites(self) -> "Sites":
        assert self._sites is not None, "`is_object` opens it"
        return self._sites

    def _wrong(self, reason: str) -> UsageError:
        return UsageError(f"{public_url(self._url)}: {reason}. {NOTHING_DELETED}")


class PageLister:
    """Lists the ``pages``, of any sites, that robots.txt allows; see `Lister`."""

    def __init__(self, pages: Sequence[str], config: WebConfig) -> None:
        self._pages = pages
        self._config = config

    @property
    def url(self) -> str:
        """See `Lister.url`; that of the first page."""
        return self._pages[0]

    def open(self) -> None:
        """See `Lister.open`."""
        _opened(self.url, self._config)

    async def is_object(self) -> bool:
        """See `Lister.is_object`: what is no longer listed is deleted."""
        await asyncio.to_thread(self.open)
        return False

    async def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """See `Lister.pages`."""
        sites = await asyncio.to_thread(_opened, self.url, self._config)
        found = []
        for page in self._pages:
            with _translated(page):
                if await sites.is_allowed(page):
                    found.append(_described(SitemapEntry(page)))
        yield found
        _tell(self.url, len(self._pages) - len(found), DISALLOWED)


def _opened(url: str, config: WebConfig) -> "Sites":
    """Return what visits sites. Blocks. Raises UsageError if a package for that is missing."""
    try:
        from ingestq.outbound.sites import Sites
    except ImportError as error:
        raise UsageError(f"{public_url(url)}: {NOT_INSTALLED}") from error
    return Sites(config)


def _tell(url: str, pages: int, reason: str) -> None:
    if pages:
        log.warning(events.WEB_PAGES_SKIPPED, url=url, pages=pages, reason=reason)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Raise what a request raises as `Lister` documents it."""
    from ingestq.outbound.sites import PageRefused

    try:
        yield
    except PageRefused as error:
        raise UsageError(f"{public_url(url)}: {error}. {NOTHING_DELETED}") from error
    except PageFailed as error:
        raise RemoteUnavailable(f"{public_url(url)}: {error}") from error


def _groups(entries: Sequence[SitemapEntry]) -> Iterator[Sequence[SitemapEntry]]:
    return (entries[at : at + GROUP] for at in range(0, len(entries), GROUP))


def _all_in_form(entries: Sequence[SitemapEntry], base: str) -> Sequence[SitemapEntry]:
    return [SitemapEntry(page_url(urljoin(base, one.url)), one.lastmod) for one in entries]


def _all_described(
    entries: Sequence[SitemapEntry], allowed: Collection[str]
) -> Sequence[RemoteObject]:
    return [_described(entry) for entry in entries if entry.url in allowed]


def _described(entry: SitemapEntry) -> RemoteObject:
    path = entry.url.partition("?")[0]
    media_type = guess_media_type(path.rpartition("/")[2]) or HTML
    return RemoteObject(
        entry.url, name_of(entry.url), settled(entry.lastmod), media_type=media_type
    )
