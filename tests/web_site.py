"""A web site in the test's own process, which counts and dates what is asked of it."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

NOT_FOUND = 404
NOT_MODIFIED = 304


@dataclass
class Answer:
    """What is sent for a path; ``raw`` is sent as it is, after the headers."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What was asked for, when (monotonic time), and how it was answered."""

    path: str
    status: int
    at: float
    headers: Mapping[str, str]


@dataclass
class WebSite:
    """Sends ``answers`` by path, and 404 for all others."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, path: str, text: str, *, head: str = "", **headers: str) -> None:
        """Publish an article with a menu, a banner and a footer around ``text``."""
        self.answers[path] = Answer(
            article(text, head).encode(),
            headers={"content-type": "text/html; charset=utf-8"}
            | {name.replace("_", "-"): value for name, value in headers.items()},
        )

    def sitemap(
        self, *paths: str, at: str = "/sitemap.xml", packed: bool = False, **lastmods: str
    ) -> None:
        """Publish a sitemap of ``paths``, and of those in ``lastmods`` with their time."""
        entries = [f"<url><loc>{escape(self.absolute(path))}</loc></url>" for path in paths]
        entries += [
            f"<url><loc>{self.absolute('/' + name)}</loc><lastmod>{time}</lastmod></url>"
            for name, time in lastmods.items()
        ]
        body = urlset(*entries)
        self.answers[at] = Answer(gzip.compress(body) if packed else body)

    def index(self, *paths: str, at: str) -> None:
        """Publish an index of sitemaps."""
        entries = "".join(f"<sitemap><loc>{self.absolute(path)}</loc></sitemap>" for path in paths)
        namespace = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
        self.answers[at] = Answer(f"<sitemapindex {namespace}>{entries}</sitemapindex>".encode())

    def absolute(self, path: str) -> str:
        return path if "://" in path else f"{self.url}{path}"

    def asked(self) -> list[tuple[str, int]]:
        """Return the pages asked for since the last call, and the status of each answer."""
        found = [
            (request.path, request.status)
            for request in self.requests
            if request.path != "/robots.txt" and "sitemap" not in request.path
        ]
        self.requests.clear()
        return sorted(found)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in pairs}
            path = head[0].split()[1]
            answer = self.answers.get(path, Answer(status=NOT_FOUND))
            status = answer.status
            etag = answer.headers.get("etag")
            if etag is not None and headers.get("if-none-match") == etag:
                answer, status = Answer(headers=answer.headers), NOT_MODIFIED
            self.requests.append(Request(path, status, time.monotonic(), headers))
            lines = {"content-length": str(len(answer.body)), "connection": "close"}
            lines |= answer.headers
            sent = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{sent}\r\n".encode() + answer.body)
            await writer.drain()
        writer.close()


def urlset(*entries: str) -> bytes:
    namespace = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    return f"<?xml version='1.0'?><urlset {namespace}>{''.join(entries)}</urlset>".encode()


def article(text: str, head: str = "") -> str:
    return (
        f"<!doctype html><html><head><title>Island news</title>{head}</head><body>"
        "<nav><ul><li><a href='/'>Home</a></li><li><a href='/shop'>Our shop</a></li></ul></nav>"
        "<div class='cookie-consent'>We use cookies. Accept all cookies.</div>"
        f"<main><article><h1>The island</h1>{text}</article></main>"
        "<footer><p>Copyright Island Inc. Imprint.</p></footer></body></html>"
    )


@asynccontextmanager
async def web_site() -> AsyncIterator[WebSite]:
    """Serve a site on a free port of 127.0.0.1."""
    site = WebSite()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site
