"""Runs the endpoint on a loopback port, in a thread with an event loop of its own."""

import json
import math
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from tests.embeddings_endpoint.app import DIMENSION, body_of, entries, refusal

START_SECONDS: Final = 60

Fault = Response | Literal["hang", "drop", "nan", "null", "zero", "short", "empty"]
"""An answer, or the endpoint hangs, drops the connection, or sends an invalid vector."""


@dataclass(frozen=True)
class Asked:
    """A request, received ``at`` a time of ``time.monotonic()``."""

    texts: tuple[str, ...]
    headers: Mapping[str, str]
    at: float
    body: Mapping[str, Any]


@dataclass
class Endpoint:
    """A running endpoint. Changes to its fields apply from the next request."""

    url: str
    api_key: str | None = None
    dimension: int = DIMENSION
    shuffled: bool = False
    asked: list[Asked] = field(default_factory=list)
    planned: list[Fault] = field(default_factory=list)
    """The faults of the next requests, one each."""
    poison: dict[str, Fault] = field(default_factory=dict)
    """The fault of every request with this text."""
    slow_texts: int | None = None
    """It hangs over a request with so many texts."""

    def forget(self) -> None:
        """Reset to the state after the start."""
        self.api_key, self.dimension, self.shuffled = None, DIMENSION, False
        self.asked, self.planned, self.poison, self.slow_texts = [], [], {}, None

    def meet(self, texts: tuple[str, ...]) -> Fault | None:
        """Return the fault of a request; a planned one is used up."""
        if self.planned:
            return self.planned.pop(0)
        if len(texts) == self.slow_texts:
            return "hang"
        return next((self.poison[text] for text in texts if text in self.poison), None)


@contextmanager
def embeddings_endpoint() -> Iterator[Endpoint]:
    """Start an endpoint on a free port; stop it on leaving."""
    started = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio turns Nagle's algorithm off only for sockets that it has made itself.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        server = _Server(endpoint, started)
        thread = threading.Thread(target=server.run, args=([listener],), name="embeddings-endpoint")
        thread.start()
        try:
            assert started.wait(START_SECONDS), "it did not start"
            yield endpoint
        finally:
            server.should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    def __init__(self, endpoint: Endpoint, started: threading.Event) -> None:
        self._endpoint = endpoint
        self._started = started
        super().__init__(
            uvicorn.Config(
                self._respond,
                interface="asgi3",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                date_header=False,  # some planned answers have their own
                timeout_graceful_shutdown=1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started.set()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        content = await request.body()
        if scope["path"] != "/v1/embeddings":
            await PlainTextResponse("404 page not found", 404)(scope, receive, send)
        elif self._endpoint.api_key not in (None, _bearer(request)):
            await Response(status_code=401)(scope, receive, send)
        else:
            answer = self._answer(json.loads(content), request)
            if isinstance(answer, Response):
                await answer(scope, receive, send)
                return
            if answer == "drop":
                self._hang_up(scope["client"])
            while (await receive())["type"] != "http.disconnect":
                pass

    def _answer(self, wanted: dict[str, Any], request: Request) -> Response | str:
        texts = tuple(wanted["input"])
        self._endpoint.asked.append(Asked(texts, request.headers, time.monotonic(), wanted))
        fault = self._endpoint.meet(texts)
        if isinstance(fault, Response) or fault in ("hang", "drop"):
            return fault
        refused = refusal(wanted)
        if refused is not None:
            return refused
        answer = entries(texts, self._endpoint.dimension)
        for entry in answer:
            del entry["embedding"][wanted.get("dimensions") or self._endpoint.dimension :]
        poisoned = [i for i, text in enumerate(texts) if self._endpoint.poison.get(text) == fault]
        spoil(answer, poisoned or [0], fault)
        if self._endpoint.shuffled:
            random.Random(len(texts)).shuffle(answer)
        return Response(
            body_of(answer, sum(len(text.split()) for text in texts)), media_type="application/json"
        )

    def _hang_up(self, client: tuple[str, int]) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()


def spoil(answer: list[dict[str, Any]], places: list[int], fault: str | None) -> None:
    """Make the vectors in ``places`` invalid."""
    for place in sorted(places, reverse=True):
        vector = answer[place]["embedding"]
        match fault:
            case "nan":
                vector[1] = math.nan
            case "null":
                vector[1] = None
            case "zero":
                vector[:] = [0.0] * len(vector)
            case "empty":
                vector.clear()
            case "short":
                del answer[place]


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")
