"""Requests that are kept for a while: a test sees that a client waits, and says for how long."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Matches = Callable[[str, Any], bool]
"""Whether a request is meant, given ``METHOD /path`` and its body's JSON: None, if it has none."""


@dataclass
class Hold:
    """Keeps the next request that matches: before it is carried out, or else its answer.

    If the client goes away meanwhile, a request is forgotten, as if it had never arrived.
    """

    matches: Matches
    is_answer: bool
    _taken: bool = False
    _struck: Future[None] = field(default_factory=Future)
    _released: Future[None] = field(default_factory=Future)

    async def struck(self) -> None:
        """Return when a client waits for this request."""
        await asyncio.shield(asyncio.wrap_future(self._struck))

    def release(self) -> None:
        """Let go of what is held. A hold that is released beforehand holds nothing."""
        with contextlib.suppress(InvalidStateError):
            self._released.set_result(None)

    def take(self, request: str, body: Any) -> bool:
        """Whether this request is the one to keep. Called by the server, one after the other."""
        if self._taken or not self.matches(request, body):
            return False
        self._taken = True
        return True

    async def outlasted(self, receive: Receive) -> bool:
        """Wait until it is released; whether the client did, too."""
        self._struck.set_result(None)
        # After the body comes nothing but a disconnect.
        gone: asyncio.Future[Any] = asyncio.ensure_future(receive())
        released: asyncio.Future[Any] = asyncio.shield(asyncio.wrap_future(self._released))
        await asyncio.wait([gone, released], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return False
        gone.cancel()
        return True


@dataclass(frozen=True)
class Holds:
    """What is to be held. Called by a test while another thread serves."""

    _planned: list[Hold] = field(default_factory=list)

    def request(self, matches: Matches) -> Hold:
        """Keep the next request that matches from being carried out."""
        return self._plan(Hold(matches, is_answer=False))

    def answer(self, matches: Matches) -> Hold:
        """Carry out the next request that matches, and keep the answer."""
        return self._plan(Hold(matches, is_answer=True))

    def release_all(self) -> None:
        """Hold nothing any more."""
        for hold in self._planned:
            hold.release()

    def any(self) -> bool:
        """Whether a request has to be looked at."""
        return bool(self._planned)

    def meet(self, request: str, body: Any) -> Hold | None:
        """The hold that strikes a request, if one does."""
        return next((hold for hold in list(self._planned) if hold.take(request, body)), None)

    def _plan(self, hold: Hold) -> Hold:
        self._planned.append(hold)
        return hold


@dataclass(frozen=True)
class Holding:
    """Lets requests through to ``app``, those that are held later than others."""

    app: ASGIApp
    holds: Holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.holds.any():
            await self.app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        hold = self.holds.meet(
            f"{scope['method']} {scope['path']}", json.loads(body) if body else None
        )
        if hold is None:
            await self.app(scope, again(body), send)
        elif not hold.is_answer:
            if await hold.outlasted(receive):
                await self.app(scope, again(body), send)
        else:
            answer: list[Message] = []
            await self.app(scope, again(body), _into(answer))
            if await hold.outlasted(receive):
                for message in answer:
                    await send(message)


def again(body: bytes) -> Receive:
    """What the body is read from, though it was read before."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return receive


def _into(messages: list[Message]) -> Send:
    async def send(message: Message) -> None:
        messages.append(message)

    return send
