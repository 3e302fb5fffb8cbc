"""The proxy itself: its address, its thread, and how requests pass through it."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.addresses import base_url, transport
from tests.qdrant_proxy.answers import error_response, invalid_key
from tests.qdrant_proxy.faults import Answered, Faults
from tests.qdrant_proxy.holds import Holding, Holds, again

START_SECONDS: Final = 60
STOP_SECONDS: Final = 10
ANSWER_SECONDS: Final = 120.0
"""Longer than any client waits for an answer."""
OF_ONE_CONNECTION: Final = frozenset(
    ("accept-encoding", "connection", "content-length", "host", "keep-alive", "transfer-encoding")
)
"""Headers that belong to one connection, not to the message."""
PUBLIC: Final = frozenset(("/", "/healthz", "/livez", "/readyz"))
"""A server answers these without an API key."""


@dataclass
class QdrantProxy:
    """A running proxy."""

    url: str
    """Where clients connect."""
    faults: Faults = field(default_factory=Faults)
    holds: Holds = field(default_factory=Holds)
    requests: list[str] = field(default_factory=list)
    """Every request so far, as ``METHOD /path?query``."""


@asynccontextmanager
async def qdrant_proxy(
    upstream: str,
    *,
    api_key: str | None = None,
    largest_body: int | None = None,
    certificate: tuple[Path, Path] | None = None,
    listener: socket.socket | None = None,
) -> AsyncIterator[QdrantProxy]:
    """Run a proxy on ``listener``, or on a free TCP port, in front of the Qdrant at ``upstream``.

    ``upstream`` is an HTTP URL, or ``unix://`` and the path of a socket. Every request must have
    the ``api_key``, if given, and be at most ``largest_body`` bytes, as with a server that is
    configured so. It speaks TLS if there is a ``certificate``, with its key. On leaving, holds are
    released.
    """
    started = threading.Event()
    with listener or socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        scheme = "http" if certificate is None else "https"
        proxy = QdrantProxy(f"{scheme}://{host}:{port}")
        forwarding = _Forwarding(upstream, api_key, largest_body)
        server = _Server(listener, proxy, forwarding, started.set, certificate)
        thread = threading.Thread(target=server.serve_until_stopped, name="qdrant-proxy")
        thread.start()
        try:
            assert await asyncio.to_thread(started.wait, START_SECONDS), "it did not start"
            yield proxy
        finally:
            proxy.holds.release_all()
            server.should_exit = True
            await asyncio.to_thread(thread.join)


class _Server(uvicorn.Server):
    def __init__(
        self,
        listener: socket.socket,
        proxy: QdrantProxy,
        forwarding: "_Forwarding",
        on_start: Callable[[], None],
        certificate: tuple[Path, Path] | None,
    ) -> None:
        # asyncio turns Nagle's algorithm off only for sockets that it has made itself; with it,
        # every answer waits 40 ms for the client to acknowledge its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener = listener
        self._forwarding = forwarding
        self._on_start = on_start
        super().__init__(
            uvicorn.Config(
                _Faulty(Holding(forwarding, proxy.holds), proxy, self._hang_up),
                ws="none",
                lifespan="off",
                log_config=None,
                timeout_graceful_shutdown=STOP_SECONDS,
                ssl_certfile=certificate and certificate[0],
                ssl_keyfile=certificate and certificate[1],
            )
        )

    def serve_until_stopped(self) -> None:
        """Serve until ``should_exit`` is set."""
        self.run(sockets=[self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await self._forwarding.close()

    def _hang_up(self, client: tuple[str, int]) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()


class _Forwarding:
    """Passes requests on to the Qdrant at ``upstream``.

    Raises httpx.TransportError if that cannot be reached or goes away.
    """

    def __init__(self, upstream: str, api_key: str | None, largest_body: int | None) -> None:
        self._base = base_url(upstream)
        self._api_key = api_key
        self._largest_body = largest_body
        self._client = httpx.AsyncClient(transport=transport(upstream), timeout=ANSWER_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A refused body is read, too: unread, it would break the connection.
        request = Request(scope, receive)
        answer = await self._answer(request, await request.body())
        await answer(scope, receive, send)

    async def close(self) -> None:
        await self._client.aclose()

    async def _answer(self, request: Request, body: bytes) -> Response:
        key = request.headers.get("api-key")
        if self._api_key is not None and key != self._api_key and request.url.path not in PUBLIC:
            return invalid_key()
        if self._largest_body is not None and len(body) > self._largest_body:
            text = f"JSON payload ({len(body)} bytes) is larger than allowed"
            return error_response(400, f"{text} (limit: {self._largest_body} bytes).")
        path, query = request.scope["raw_path"], request.scope["query_string"]
        answer = await self._client.request(
            request.method,
            self._base + path.decode() + (f"?{query.decode()}" if query else ""),
            content=body,
            headers=_forwarded(request.headers.items()),
        )
        forwarded = Response(answer.content, answer.status_code)
        headers = MutableHeaders(scope={"headers": forwarded.raw_headers})
        headers.update(_forwarded(answer.headers.items()))
        return forwarded


def _forwarded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name not in OF_ONE_CONNECTION}


@dataclass(frozen=True)
class _Faulty:
    """Passes requests on to ``app``, except those with a planned fault."""

    app: ASGIApp
    proxy: QdrantProxy
    hang_up: Callable[[tuple[str, int]], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}".rstrip("?")
        self.proxy.requests.append(request)
        content = fault = None
        if self.proxy.faults.any():
            body = await Request(scope, receive).body()
            content, receive = json.loads(body) if body else None, again(body, receive)
            fault = self.proxy.faults.meet(request, content)
        if fault is None:
            try:
                await self.app(scope, receive, send)
            except httpx.TransportError:
                await self._drop(scope, receive)
        elif isinstance(fault, Answered):
            await fault.answer(content)(scope, receive, send)
        else:
            if fault.after:
                await self.app(scope, receive, _unsent)
            await self._drop(scope, receive)

    async def _drop(self, scope: Scope, receive: Receive) -> None:
        self.hang_up(scope["client"])
        while (await receive())["type"] != "http.disconnect":
            pass


async def _unsent(message: Message) -> None:
    """Drop the answer."""
