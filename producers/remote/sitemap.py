"""Reads sitemaps: https://www.sitemaps.org/protocol.html, in XML, gzip or plain text."""

import gzip
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Final
from xml.parsers import expat

MAX_SITEMAP_BYTES: Final = 50 * 1024 * 1024
"""The protocol's limit, unpacked."""
MAX_SITEMAP_URLS: Final = 50_000
"""The protocol's limit."""
MAX_URL_CHARACTERS: Final = 4096
SUFFIXES: Final = (".xml", ".xml.gz", ".txt.gz")
"""Of names that only sitemaps have, as far as they are asked for."""
HEAD_BYTES: Final = 4096
"""So much of a file tells whether it is a sitemap."""
GZIP: Final = b"\x1f\x8b"
ROOTS: Final = {"urlset": "url", "sitemapindex": "sitemap"}
"""The two kinds of a sitemap, and what their entries are called."""
DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
SETTLED: Final = timedelta(days=2)
"""A day that ended so long ago is over in all time zones."""


class NotASitemap(Exception):
    """The content is no sitemap, or exceeds a limit of the protocol; the message says why."""


@dataclass(frozen=True)
class SitemapEntry:
    """An address in a sitemap, and when that says it was written, as it stands there."""

    url: str
    lastmod: str | None = None


@dataclass(frozen=True)
class Sitemap:
    """The pages of a sitemap, or the sitemaps of a sitemap index."""

    is_index: bool
    entries: tuple[SitemapEntry, ...]


def is_sitemap(path: str, head: bytes) -> bool:
    """Return whether a file at ``path`` that begins with ``head`` is a sitemap, or meant to be one.

    A text is one only if it begins with an address, and a packed file only by its name, or if it
    is one inside.
    """
    if path.endswith(SUFFIXES):
        return True
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
        except zlib.error:
            return False
    if path.endswith(".txt") and _is_list(_text_of(head)):
        return True
    return re.search(rb"<(\w+:)?(urlset|sitemapindex)\b", head) is not None


def read_sitemap(data: bytes) -> Sitemap:
    """Return what the sitemap ``data`` lists. Raises NotASitemap."""
    if data.startswith(GZIP):
        data = _unpacked(data)
    text = _text_of(data)
    return _of_lines(text) if _is_list(text) else _Reader().read(text)


def _text_of(data: bytes) -> bytes:
    """Return ``data`` from its first character on: many sites send an empty line before it."""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()


def _is_list(text: bytes) -> bool:
    return text[:8].lower().startswith((b"http://", b"https://"))


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.open(BytesIO(data)) as file:  # all that was packed one after the other
            found = file.read(MAX_SITEMAP_BYTES + 1)
    except EOFError as error:
        raise NotASitemap("it is cut off") from error
    except (OSError, zlib.error) as error:
        raise NotASitemap(f"it cannot be unpacked: {error}") from error
    if len(found) > MAX_SITEMAP_BYTES:
        raise NotASitemap(f"it unpacks to more than {MAX_SITEMAP_BYTES:,} bytes")
    return found


def _of_lines(text: bytes) -> Sitemap:
    lines = text.decode("utf-8", "replace").split()
    if len(lines) > MAX_SITEMAP_URLS:
        raise NotASitemap(_too_many())
    return Sitemap(is_index=False, entries=tuple(map(SitemapEntry, lines)))


def _too_many() -> str:
    return f"it lists more than {MAX_SITEMAP_URLS:,} addresses; split it into several"


@dataclass
class _Reader:
    """Collects the entries of a sitemap in XML. No entity of its own is ever expanded."""

    root: str | None = None
    depth: int = 0
    entries: list[SitemapEntry] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    open: str | None = None

    def read(self, data: bytes) -> Sitemap:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._refuse
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise NotASitemap(f"it is no XML, or damaged: {error}") from error
        return Sitemap(self.root == "sitemapindex", tuple(self.entries))

    def _refuse(self, *_: object) -> None:
        raise NotASitemap("it declares entities, as no sitemap does")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        self.depth += 1
        if self.depth == 1:
            if local not in ROOTS:
                raise NotASitemap(f"it begins with <{local[:40]}>, not <urlset> or <sitemapindex>")
            self.root = local
        elif self.depth == 2:
            self.fields = {}
        elif self.depth == 3 and local in ("loc", "lastmod"):
            self.open = local if local not in self.fields else None  # image:loc is another one

    def _text(self, text: str) -> None:
        if self.open is not None:
            self.fields[self.open] = (self.fields.get(self.open, "") + text)[:MAX_URL_CHARACTERS]

    def _end(self, name: str) -> None:
        self.depth -= 1
        self.open = None
        if self.depth == 1 and (url := self.fields.get("loc", "").strip()):
            if len(self.entries) == MAX_SITEMAP_URLS:
                raise NotASitemap(_too_many())
            self.entries.append(SitemapEntry(url, self.fields.get("lastmod", "").strip() or None))


def settled(lastmod: str | None, now: datetime | None = None) -> str | None:
    """Return ``lastmod`` if the next change of the page certainly gives it another one, else None.

    A day that is not over may have more changes, and so may a time that has not come.
    """
    if lastmod is None:
        return None
    now = datetime.now(UTC) if now is None else now
    try:
        if DAY.fullmatch(lastmod):
            return lastmod if date.fromisoformat(lastmod) + SETTLED <= now.date() else None
        written = datetime.fromisoformat(lastmod)
        if written.tzinfo is None:
            written = written.replace(tzinfo=UTC)
        return lastmod if written + timedelta(seconds=2) < now else None
    except (ValueError, OverflowError):  # it is no time, or the last that there is
        return None
