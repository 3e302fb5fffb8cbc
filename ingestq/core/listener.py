"""Sockets that servers of this process listen on."""

import asyncio
import errno
import os
import socket
from typing import Final

from ingestq.core.errors import UsageError

BACKLOG: Final = 1024
"""Connections that wait in the kernel to be accepted; they take no descriptors."""


async def listen(host: str, port: int, settings: str) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; port 0 picks a free one.

    Raises UsageError if that is not possible: it names the settings that decide, which begin with
    ``settings``, as INGESTQ_API.
    """
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: some machines resolve localhost to ::1 without having it.
        family, *_, address = min(addresses, key=lambda info: info[0])
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"{settings}_HOST {host!r} cannot be resolved: {error}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"{settings}_PORT {port} is in use on {host} by another process; set another "
                "port, or 0 for any free one"
            ) from error
        raise UsageError(
            f"cannot listen on {settings}_HOST {host}, {settings}_PORT {port}: "
            f"{os.strerror(error.errno or 0)}"
        ) from error
    # asyncio does this only for its own sockets; without it, each response takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of ``listener``."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
