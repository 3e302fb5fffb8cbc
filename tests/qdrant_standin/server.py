"""Runs the stand-in on a loopback port, in a thread with an event loop of its own.

The local mode blocks its event loop, which must not be the one of the test.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.qdrant_standin.app import LARGEST_BODY, create_app
from tests.qdrant_standin.faults import Answered, Faults
from tests.qdrant_standin.holds import Holding, Holds, again

START_SECONDS: Final = 10


@dataclass
class Standin:
    """A running stand-in."""

    url: str
    faults: Faults = field(default_factory=Faults)
    holds: Holds = field(default_factory=Holds)
    requests: list[str] = field(default_factory=list)
    """Every request so far, as ``METHOD /path?query``."""


class StandinServer(uvicorn.Server):
    """The server of a `Standin`; it starts with `serve_until_stopped`."""

    def __init__(
        self,
        listener: socket.socket,
        api_key: str | None,
        on_start: Callable[[], None],
        largest_body: int = LARGEST_BODY,
    ) -> None:
        self.standin = Standin(f"http://127.0.0.1:{listener.getsockname()[1]}")
        # asyncio turns Nagle's algorithm off only for sockets that it has made itself; with it,
        # every answer waits 40 ms for the client to acknowledge its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener = listener
        self._on_start = on_start
        app = Holding(create_app(api_key, largest_body), self.standin.holds)
        super().__init__(
            uvicorn.Config(
                _Faulty(app, self.standin, self._hang_up),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
            )
        )

    def serve_until_stopped(self) -> None:
        """Serve until ``should_exit`` is set or, in the main thread, until SIGTERM."""
        self.run(sockets=[self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def _hang_up(self, client: tuple[str, int]) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()


@asynccontextmanager
async def qdrant_standin(
    api_key: str | None = None, largest_body: int = LARGEST_BODY
) -> AsyncIterator[Standin]:
    """Start an empty stand-in on a free port; stop it on leaving.

    Every request must have the ``api_key``, if given, and be at most ``largest_body`` bytes.
    """
    started = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = StandinServer(listener, api_key, started.set, largest_body)
        thread = threading.Thread(target=server.serve_until_stopped, name="qdrant-standin")
        thread.start()
        try:
            assert await asyncio.to_thread(started.wait, START_SECONDS), "it did not start"
            yield server.standin
        finally:
            server.standin.holds.release_all()
            server.should_exit = True
            await asyncio.to_thread(thread.join)


@dataclass(frozen=True)
class _Faulty:
    """Passes requests on to ``app``, except those with a planned fault."""

    app: ASGIApp
    standin: Standin
    hang_up: Callable[[tuple[str, int]], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}".rstrip("?")
        self.standin.requests.append(request)
        content = None
        if self.standin.faults.standing is not None:
            body = await Request(scope, receive).body()
            content, receive = json.loads(body) if body else None, again(body)
        fault = self.standin.faults.meet(request, content)
        if fault is None:
            await self.app(scope, receive, send)
        elif isinstance(fault, Answered):
            await Request(scope, receive).body()  # unread, it would break the connection
            await fault.response(scope, receive, send)
        else:
            if fault.after:
                await self.app(scope, receive, _unsent)
            self.hang_up(scope["client"])
            while (await receive())["type"] != "http.disconnect":
                pass


async def _unsent(message: Message) -> None:
    """Drop the answer."""
