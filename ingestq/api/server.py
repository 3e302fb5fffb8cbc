"""uvicorn as a part of a process that is not its own."""

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
    """Serves ``app`` in the running loop; whoever runs it decides when it stops.

    Requests that run when it is stopped may end within ``drain_seconds``; then their connections
    are cut.
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
        """Take no new requests and let the running ones end; called again, do not wait for them."""
        if self.should_exit:
            self.force_exit = True
            for connection in self.server_state.connections:
                connection.transport.abort()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        # uvicorn's own time limit cancels the requests, each with a traceback in the log.
        patience = loop.call_later(self._drain_seconds, self.stop)
        await super().shutdown(sockets)
        patience.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone: uvicorn raises them again when it is done, and so kills us."""
        yield


async def listen(host: str, port: int) -> socket.socket:
    """Listen on ``host`` and ``port``; port 0 is any that is free.

    Raises UsageError if that is not possible.
    """
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: a machine may well call ::1 localhost and not have it.
        family, *_, address = min(addresses, key=lambda info: info[0])
        listener = socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"INGESTQ_API_HOST {host!r} is not a host: {error}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"INGESTQ_API_PORT {port} is in use on {host} by another process; set another "
                "port, or 0 for any that is free"
            ) from error
        raise UsageError(
            f"INGESTQ_API_HOST {host} and INGESTQ_API_PORT {port} cannot be listened on: "
            f"{os.strerror(error.errno or 0)}"
        ) from error
    # asyncio does this for sockets that it made itself; without it each answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where ``listener`` is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
