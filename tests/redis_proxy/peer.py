"""One side of a connection through the proxy."""

import contextlib
import socket
import struct
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tests.redis_proxy.resp import Request, read_reply, read_request

T = TypeVar("T")

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all: TCP then sends RST, and discards what was not yet sent."""


class Peer:
    """A client, or the server. Once it is gone, reads return None and writes do nothing."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request | None:
        """Return the next request of a client; None at the end."""
        return await self._unless_gone(read_request)

    async def reply(self) -> bytes | None:
        """Return the next reply of the server; None at the end or if it is incomplete."""
        return await self._unless_gone(read_reply)

    def send(self, raw: bytes) -> None:
        """Send ``raw`` without waiting.

        Waiting for the peer to read it could be a deadlock, if the peer waits for its own requests
        to be read. So replies are buffered here, as they are in Redis itself.
        """
        self._writer.write(raw)

    async def drain(self) -> None:
        """Wait until most of what was sent has left."""
        with contextlib.suppress(ConnectionError):  # reading detects that the peer is gone
            await self._writer.drain()

    def end(self) -> None:
        """Send nothing more; what the peer still sends can be read."""
        with contextlib.suppress(OSError):  # its connection is gone already
            self._writer.write_eof()

    async def close(self) -> None:
        """Close the connection after everything that was sent."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):  # the peer was faster
            await self._writer.wait_closed()

    def reset(self) -> None:
        """Reset the connection at once. May be called again."""
        if not self._writer.is_closing():
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
            )
        self._writer.transport.abort()

    async def _unless_gone(self, read: Callable[[StreamReader], Awaitable[T]]) -> T | None:
        try:
            return await read(self._reader)
        except (IncompleteReadError, ConnectionError):
            return None
