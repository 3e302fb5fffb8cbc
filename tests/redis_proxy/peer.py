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
    """A client, or the server. Once it has gone away, reading gives None and writing is in vain."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request | None:
        """What a client sends next."""
        return await self._unless_gone(read_request)

    async def reply(self) -> bytes | None:
        """What the server sends next. A reply that is cut off is none."""
        return await self._unless_gone(read_reply)

    def send(self, raw: bytes) -> None:
        """Send ``raw`` at leisure.

        Waiting for the peer to read it could be for ever, if the peer in turn waits for its own
        requests to be read. So replies pile up here, as they do in Redis itself.
        """
        self._writer.write(raw)

    async def drain(self) -> None:
        """Wait until most of what was sent has left."""
        with contextlib.suppress(ConnectionError):  # reading tells that the peer has gone
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
        """Close the connection at once, abruptly. Doing so again is fine."""
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
