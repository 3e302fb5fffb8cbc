"""Event streams that leave enough connections to everybody else."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from ingestq.api.authenticator import principal_of
from ingestq.api.connections import ConnectionLimits
from ingestq.api.errors import problem_response, retry_after

STREAMS_OF_ONE: Final = 16
"""How many streams the owner of one token may have open, or fewer if there are few connections."""
SHARE_OF_ONE: Final = 1 / 8
SHARE_OF_ALL: Final = 1 / 2
"""Shares of the connections: a stream keeps its own for as long as its client wants."""
STREAM_RETRY_SECONDS: Final = 5.0


class EventStreams:
    """Counts the open event streams of a server that accepts so many ``connections``.

    The owner of INGESTQ_API_TOKEN, and everybody where no token is needed, may use what all may use
    together.
    """

    def __init__(self, connections: int = ConnectionLimits.connections) -> None:
        self._most = max(1, int(connections * SHARE_OF_ALL))
        self._most_of_one = max(1, min(STREAMS_OF_ONE, int(connections * SHARE_OF_ONE)))
        self._open: Counter[str | None] = Counter()

    def response(
        self, events: AsyncIterator[ServerSentEvent], heartbeat_seconds: float
    ) -> EventSourceResponse:
        """Return a response that streams ``events``; status 429 if too many streams are open."""
        return _CountedResponse(self, events, heartbeat_seconds)

    def enter(self, token_id: str | None) -> str | None:
        """Count a stream; return why there must not be one more, if so."""
        if token_id is not None and self._open[token_id] >= self._most_of_one:
            return f"this token has {self._most_of_one} event streams open; close one"
        if self._open.total() >= self._most:
            return f"{self._most} event streams are open, as many as this server allows"
        self._open[token_id] += 1
        return None

    def leave(self, token_id: str | None) -> None:
        """Count a stream no more."""
        self._open[token_id] -= 1
        if not self._open[token_id]:
            del self._open[token_id]


class _CountedResponse(EventSourceResponse):
    def __init__(
        self,
        streams: EventStreams,
        events: AsyncIterator[ServerSentEvent],
        heartbeat_seconds: float,
    ) -> None:
        super().__init__(events, ping=heartbeat_seconds)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token_id = principal_of(scope).token_id
        if (refusal := self._streams.enter(token_id)) is not None:
            answer = problem_response(429, refusal, retry_after(STREAM_RETRY_SECONDS))
            await answer(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.leave(token_id)
