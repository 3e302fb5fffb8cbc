"""The proxy itself: its address, its faults, and its connections."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url

from tests.redis_proxy.commands import Predicate
from tests.redis_proxy.connection import Connection
from tests.redis_proxy.faults import Disconnect, Fault, Hold, Stage
from tests.redis_proxy.peer import Peer

F = TypeVar("F", bound=Fault)

HOST: Final = "127.0.0.1"
REDIS_PORT: Final = 6379
LINE_BYTES: Final = 1024 * 1024
"""Longer than any line of RESP. Longer values come after their size."""


@dataclass(frozen=True)
class RedisProxy:
    """A running proxy. ``matches`` says which requests a fault counts."""

    url: str
    """Where clients connect: with the server's database and credentials, which they send."""
    _armed: list[Fault] = field(default_factory=list)

    def drop_before(self, matches: Predicate, *, nth: int = 1, times: int = 1) -> Disconnect:
        """Lose the connection before the request reaches the server."""
        return self._arm(Disconnect(matches, Stage.REQUEST, nth, times))

    def drop_after(self, matches: Predicate, *, nth: int = 1, times: int = 1) -> Disconnect:
        """Lose the connection after the server replied, before the client sees the reply."""
        return self._arm(Disconnect(matches, Stage.REPLY, nth, times))

    def hold_request(self, matches: Predicate, *, nth: int = 1) -> Hold:
        """Keep the request from the server until it is released."""
        return self._arm(Hold(matches, Stage.REQUEST, nth))

    def hold_reply(self, matches: Predicate, *, nth: int = 1) -> Hold:
        """Keep the reply from the client until it is released."""
        return self._arm(Hold(matches, Stage.REPLY, nth))

    def _arm(self, fault: F) -> F:
        self._armed.append(fault)
        return fault


@asynccontextmanager
async def redis_proxy(upstream: str) -> AsyncIterator[RedisProxy]:
    """Run a proxy on a free TCP port, in front of the server at the URL ``upstream``.

    On leaving, all connections are closed and held messages are discarded. Then raises an
    ExceptionGroup if the proxy could not keep its guarantees.
    Raises ValueError if ``upstream`` is neither redis:// nor unix://.
    """
    armed: list[Fault] = []
    connections = _Connections(upstream, armed)
    listening = await asyncio.start_server(connections.accept, HOST, 0, limit=LINE_BYTES)
    try:
        port = listening.sockets[0].getsockname()[1]
        yield RedisProxy(proxied_url(upstream, port), armed)
    finally:
        listening.close()
        await connections.close()
        await listening.wait_closed()


def proxied_url(upstream: str, port: int) -> str:
    """Return the URL ``upstream`` with ``port`` of this host as its address."""
    url = urlsplit(upstream)
    credentials, at, _ = url.netloc.rpartition("@")
    return url._replace(
        scheme="redis",
        netloc=f"{credentials}{at}{HOST}:{port}",
        path="" if url.scheme == "unix" else url.path,
    ).geturl()


class _Connections:
    """Accepts clients and connects each to the server."""

    def __init__(self, upstream: str, armed: Sequence[Fault]) -> None:
        if urlsplit(upstream).scheme not in ("redis", "unix"):
            raise ValueError(f"{upstream!r} is neither redis:// nor unix://")
        self._server = parse_url(upstream)
        self._armed = armed
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve a client in a task of its own."""
        client = Peer(reader, writer)
        if self._closed:
            client.reset()
        else:
            self._tasks.append(asyncio.create_task(self._serve(client)))

    async def close(self) -> None:
        """Close all connections; raises what went wrong in any of them."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if errors:
            raise ExceptionGroup("the proxy of Redis failed", errors)

    async def _serve(self, client: Peer) -> None:
        try:
            try:
                server = await self._connect()
            except OSError:
                return  # unreachable: the client notices by losing its own connection
            await Connection(client, server, self._armed).run()
        finally:
            client.reset()

    async def _connect(self) -> Peer:
        if "path" in self._server:
            opened = asyncio.open_unix_connection(self._server["path"], limit=LINE_BYTES)
        else:
            opened = asyncio.open_connection(
                self._server.get("host", "localhost"),
                self._server.get("port", REDIS_PORT),
                limit=LINE_BYTES,
            )
        return Peer(*await opened)
