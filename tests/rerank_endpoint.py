"""A stand-in for text-embeddings-inference's ``POST /rerank``, over real HTTP and without a model.

The shortest text is the best, whatever the query. It has the limits and messages of
text-embeddings-inference.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI, Request, Response

from tests.embeddings_endpoint.answers import of_tei
from tests.serving import listening

MAX_TEXTS: Final = 32


@dataclass
class RerankServer:
    """A running endpoint. Changes to its fields apply from the next request."""

    url: str = ""
    api_key: str | None = None
    answer: Response | None = None
    """What every request is answered."""
    hangs: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def rerank(self, request: Request) -> Any:
        wanted = await request.json()
        self.asked.append(wanted)
        if self.hangs:
            await self.stopping.wait()
        if self.api_key not in (None, request.headers.get("authorization", "")[len("Bearer ") :]):
            return Response(status_code=401)
        if self.answer is not None:
            return self.answer
        if len(wanted["texts"]) > MAX_TEXTS:
            said = f"batch size {len(wanted['texts'])} > maximum allowed batch size {MAX_TEXTS}"
            return of_tei(413, said)
        found = [{"index": i, "score": score(text)} for i, text in enumerate(wanted["texts"])]
        return sorted(found, key=lambda one: -one["score"])


def score(text: str) -> float:
    """Return the endpoint's score of ``text``."""
    return 1 / len(text)


@asynccontextmanager
async def rerank_server() -> AsyncIterator[RerankServer]:
    """Run an endpoint on a free port; stop it on leaving."""
    server, app = RerankServer(), FastAPI()
    app.add_api_route("/rerank", server.rerank, methods=["POST"])
    async with listening(app) as server.url:
        yield server
        server.stopping.set()
