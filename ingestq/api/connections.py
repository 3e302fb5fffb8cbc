"""Bounds what a client can hold by keeping its connection open: places, memory and time."""

import asyncio
from dataclasses import dataclass
from typing import Final

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ingestq.api.bodies.intake import MIN_BYTES_PER_SECOND
from ingestq.api.schemas import Problem
from ingestq.core import events
from ingestq.core.log_limit import LogLimit

HEAD_BYTES: Final = 16 * 1024
"""Size of the request line and all headers."""

log = structlog.get_logger()


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be at once, and how long each may wait for its client.

    The head of a request has to be complete ``head_seconds`` after the client connected, or after
    the response before it. A connection without any byte of a next request is closed after
    ``keep_alive_seconds``. A client that reads a response slower than `MIN_BYTES_PER_SECOND` is cut
    off after ``unread_seconds``: long, because the kernel takes it in large pieces.

    `ingestq.api.bodies.intake` bounds the time for bodies.
    """

    connections: int = 512
    head_seconds: float = 10.0
    keep_alive_seconds: int = 5
    unread_seconds: float = 60.0


class Connections(ServerState):
    """The open connections. Beyond the limit, a new one takes the place of one that is idle.

    Idle is one that waits for its client: for a request, for more of a body, or until a response is
    read. Of those, the one whose client has been inactive for longest is closed. So clients that
    hold connections open do not keep others out; if all connections have requests that are being
    processed, new ones wait.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self.limits = limits
        self._by_activity: dict[Connection, None] = {}
        self._left = asyncio.Event()
        self._log_limit = LogLimit()

    def enter(self, connection: "Connection") -> None:
        """Count ``connection``."""
        self._by_activity[connection] = None

    def touch(self, connection: "Connection") -> None:
        """Note that the client of ``connection`` did something."""
        if connection in self._by_activity:
            del self._by_activity[connection]
            self._by_activity[connection] = None  # at the end

    def leave(self, connection: "Connection") -> None:
        """Give the place of ``connection`` to another."""
        self._by_activity.pop(connection, None)
        self._left.set()

    async def has_place(self) -> None:
        """Return when there is a place for one more connection; close an idle one if needed."""
        while len(self._by_activity) >= self.limits.connections:
            self._left.clear()
            idle = next((c for c in self._by_activity if c.waits_for_client), None)
            if (skipped := self._log_limit.skipped()) is not None:
                log.warning(
                    events.API_CONNECTIONS_FULL,
                    connections=self.limits.connections,
                    idle=idle is not None,
                    skipped=skipped,
                )
            if idle is not None:
                idle.transport.abort()
            await self._left.wait()


class _Deadline:
    """Cuts a connection unless its client reads what was sent, and then begins a new request."""

    def __init__(self, transport: asyncio.Transport, limits: ConnectionLimits) -> None:
        self._transport = transport
        self._limits = limits
        self._unread = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to count, again if it was started before."""
        self.stop()
        self._unread = self._transport.get_write_buffer_size()
        seconds = self._limits.unread_seconds if self._unread else self._limits.head_seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        read = self._unread - self._transport.get_write_buffer_size()
        expected = min(self._unread, self._limits.unread_seconds * MIN_BYTES_PER_SECOND)
        if expected and read >= expected:
            self.start()
        else:
            self._transport.abort()


class Connection(H11Protocol):
    """A connection that waits for its client only so long."""

    server_state: Connections
    _head_deadline: _Deadline
    _reading_deadline: _Deadline

    @property
    def waits_for_client(self) -> bool:
        """True if nothing happens until the client sends or reads something."""
        if self.transport.is_closing() or self.flow.write_paused:
            return True
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self.flow.read_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_deadline = _Deadline(transport, self.server_state.limits)
        self._reading_deadline = _Deadline(transport, self.server_state.limits)
        self._head_deadline.start()
        self.server_state.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_deadline.stop()
        self._reading_deadline.stop()
        super().connection_lost(exc)
        self.server_state.leave(self)

    def data_received(self, data: bytes) -> None:
        self.server_state.touch(self)
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a request has begun
            self._head_deadline.stop()

    def on_response_complete(self) -> None:
        self._head_deadline.start()  # before: the next request may have arrived already
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_deadline.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reading_deadline.stop()
        self.server_state.touch(self)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, or whose head is too large, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # in the middle of a response
            self.transport.abort()
            return
        detail = f"this is not HTTP/1.1, or the headers are larger than {HEAD_BYTES} bytes"
        body = Problem(detail=detail).model_dump_json().encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:  # a route waits for the rest of the body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._head_deadline.start()  # also for reading this answer
        self.transport.close()
