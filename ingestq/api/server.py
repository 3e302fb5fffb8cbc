"""Runs uvicorn as one part of a process."""

import asyncio
import errno
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from ingestq.core.errors import UsageError


class Server(uvicorn.Server):
    """Serves ``app`` in the running event loop until `stop` is called.

    Requests that are running then may finish within ``drain_seconds``; after that, their
    connections are cut.
    """

    def __init__(self, app: ASGIApp, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                server_header=False,
                workers=1,
                ws="none",
            )
        )

    def stop(self) -> None:
        """Accept no new requests and let the running ones finish; cut them if called again."""
        if self.should_exit:
            self.force_exit = True
            for connection in self.server_state.connections:
                connection.transport.abort()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        # uvicorn's own time limit would log a traceback for each request that it cancels.
        deadline = loop.call_later(self._drain_seconds, self.stop)
        await super().shutdown(sockets)
        deadline.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install no handlers: uvicorn's would raise the signals again and kill the process."""
        yield


async def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; port 0 picks a free one.

    Raises UsageError if that is not possible.
    """
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: some machines resolve localhost to ::1 without having it.
        family, *_, address = min(addresses, key=lambda info: info[0])
        listener = socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"INGESTQ_API_HOST {host!r} cannot be resolved: {error}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"INGESTQ_API_PORT {port} is in use on {host} by another process; set another "
                "port, or 0 for any free one"
            ) from error
        raise UsageError(
            f"cannot listen on INGESTQ_API_HOST {host}, INGESTQ_API_PORT {port}: "
            f"{os.strerror(error.errno or 0)}"
        ) from error
    # asyncio does this only for its own sockets; without it, each response takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of ``listener``."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
