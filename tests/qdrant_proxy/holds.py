"""Holds requests or answers back until the test releases them."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.qdrant_proxy.bodies import written

Matches = Callable[[str, Any], bool]
"""Returns True for matching requests, given ``METHOD /path`` and the JSON body, or None."""


@dataclass
class Hold:
    """Holds back the next request that matches, or its answer if ``is_answer``.

    If the client disconnects meanwhile, a held request is dropped.
    """

    matches: Matches
    is_answer: bool
    client: str | None = None
    """The address of the client whose request was held back."""
    _taken: bool = False
    _struck: Future[None] = field(default_factory=Future)
    _released: Future[None] = field(default_factory=Future)

    async def struck(self) -> None:
        """Return when a request has been held back."""
        await asyncio.shield(asyncio.wrap_future(self._struck))

    def release(self) -> None:
        """Release the request or answer. If called before, nothing will be held."""
        with contextlib.suppress(InvalidStateError):
            self._released.set_result(None)

    def take(self, request: str, body: Any) -> bool:
        """Return True if this is the request to hold. Called for one request at a time."""
        if self._taken or not self.matches(request, body):
            return False
        self._taken = True
        return True

    async def outlasted(self, scope: Scope, receive: Receive) -> bool:
        """Wait for the release; return False if the client disconnected before."""
        self.client = scope["client"][0]
        self._struck.set_result(None)
        # After the body, only a disconnect can arrive.
        gone: asyncio.Future[Any] = asyncio.ensure_future(receive())
        released: asyncio.Future[Any] = asyncio.shield(asyncio.wrap_future(self._released))
        await asyncio.wait([gone, released], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return False
        gone.cancel()
        return True


@dataclass(frozen=True)
class Holds:
    """The planned holds. A test plans them while another thread serves."""

    _planned: list[Hold] = field(default_factory=list)

    def request(self, matches: Matches) -> Hold:
        """Hold back the next request that matches before it is carried out."""
        return self._plan(Hold(matches, is_answer=False))

    def answer(self, matches: Matches) -> Hold:
        """Carry out the next request that matches, and hold back its answer."""
        return self._plan(Hold(matches, is_answer=True))

    def document(self, number: int) -> Hold:
        """Hold back the request that writes the first chunks of the ``number``th document."""
        begun: set[str] = set()

        def matches(request: str, body: Any) -> bool:
            chunks = (each for each in written(request, body) if "page_content" in each)
            begun.update(chunk["doc_id"] for chunk in chunks)
            return len(begun) >= number

        return self.request(matches)

    def release_all(self) -> None:
        """Release all holds."""
        for hold in self._planned:
            hold.release()

    def any(self) -> bool:
        """Return True if any hold is planned."""
        return bool(self._planned)

    def meet(self, request: str, body: Any) -> Hold | None:
        """Return the hold for a request, or None."""
        return next((hold for hold in list(self._planned) if hold.take(request, body)), None)

    def _plan(self, hold: Hold) -> Hold:
        self._planned.append(hold)
        return hold


@dataclass(frozen=True)
class Holding:
    """Passes requests on to ``app``, held ones after their release."""

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
            await self.app(scope, again(body, receive), send)
        elif not hold.is_answer:
            if await hold.outlasted(scope, receive):
                await self.app(scope, again(body, receive), send)
        else:
            answer: list[Message] = []
            await self.app(scope, again(body, receive), _into(answer))
            if await hold.outlasted(scope, receive):
                for message in answer:
                    await send(message)


def again(body: bytes, receive: Receive) -> Receive:
    """Return a `Receive` that replays a body that was already read, and then goes on."""
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _into(messages: list[Message]) -> Send:
    async def send(message: Message) -> None:
        messages.append(message)

    return send
