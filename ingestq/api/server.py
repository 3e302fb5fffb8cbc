"""Runs uvicorn as one part of a process."""

import asyncio
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from ingestq.api.connections import HEAD_BYTES, Connection, ConnectionLimits, Connections
from ingestq.core import events
from ingestq.core.log_limit import LogLimit
from ingestq.core.service import Service, happens_within

ACCEPT_RETRY_SECONDS: Final = 1.0
"""Pause after the system had no descriptor or memory for a connection."""

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Serves ``app`` in the running event loop until `stop` is called.

    Requests that are running then may finish within ``drain_seconds``; after that, their
    connections are cut.
    """

    server_state: Connections

    def __init__(
        self, app: ASGIApp, drain_seconds: float, limits: ConnectionLimits | None = None
    ) -> None:
        self._drain_seconds = drain_seconds
        limits = limits or ConnectionLimits()
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                h11_max_incomplete_event_size=HEAD_BYTES,
                http=Connection,  # also where httptools is installed
                lifespan="off",
                log_config=None,
                log_level="error",  # warnings are about what clients send, a line for each
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=limits.keep_alive_seconds,
                workers=1,
                ws="none",
            )
        )
        self.server_state = Connections(limits)
        self._accepting: list[Service] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, one at a time: asyncio's own server accepts more than there may be.

        It also logs every failure to accept one, thousands of times a second.
        """
        self.servers: list[asyncio.Server] = []
        for listener in sockets or ():
            listener.setblocking(False)
            accepting = Service(
                partial(self._accept, listener), name="accept", on_end=self._end_accepting
            )
            accepting.start()
            self._accepting.append(accepting)
        self.started = True

    async def _accept(self, listener: socket.socket, stopping: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        log_limit = LogLimit()
        new = partial(Connection, self.config, self.server_state, self.lifespan.state)
        while not stopping.is_set():
            try:
                accepted, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:  # by the client
                continue
            except OSError as error:
                if (skipped := log_limit.skipped()) is not None:
                    reason = os.strerror(error.errno or 0)
                    log.warning(events.API_ACCEPT_FAILED, reason=reason, skipped=skipped)
                await happens_within(stopping, ACCEPT_RETRY_SECONDS)
                continue
            try:
                await self.server_state.has_place()
            except BaseException:
                accepted.close()
                raise
            await loop.connect_accepted_socket(new, accepted)

    def _end_accepting(self) -> None:
        self.should_exit = True

    def stop(self) -> None:
        """Accept no new requests and let the running ones finish; cut them if called again."""
        if self.should_exit:
            self.force_exit = True
            for connection in self.server_state.connections:
                connection.transport.abort()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for accepting in self._accepting:
            await accepting.stop()
        loop = asyncio.get_running_loop()
        # uvicorn's own time limit would log a traceback for each request that it cancels.
        deadline = loop.call_later(self._drain_seconds, self.stop)
        await super().shutdown(sockets)
        deadline.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install no handlers: uvicorn's would raise the signals again and kill the process."""
        yield
