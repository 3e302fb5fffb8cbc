"""Searches for a process that is there for something else: nothing is loaded before the first."""

import asyncio
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Final, Self

from broker.question import Question
from ingestq.on_demand import QdrantOnDemand
from ingestq.runtime import open_model, query_settings
from ingestq.settings import Settings

if TYPE_CHECKING:
    from types import TracebackType

    from worker.embedding.pool import ModelPool
    from worker.points import Hit

PROCESSES: Final = 1
"""Questions are short; a second copy of the model would cost more than it saves."""


class Searching:
    """Answers questions, as an asynchronous context manager.

    A model is kept once it is loaded. There is a second one when the collection was rebuilt with
    another one.
    """

    def __init__(self, settings: Settings, qdrant: QdrantOnDemand) -> None:
        self._settings = settings
        self._qdrant = qdrant
        self._kept = AsyncExitStack()
        self._loading = asyncio.Lock()
        self._models: dict[tuple[str, str], ModelPool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        trace: "TracebackType | None",
    ) -> None:
        await self._kept.aclose()

    async def __call__(self, question: Question) -> "list[Hit]":
        """The answer; nothing if nothing was ever indexed.

        Raises what `worker.search.search` raises, ModelUnavailable and StoreUnavailable.
        """
        # On a thread, as importing takes longer than anybody on the event loop should wait.
        await asyncio.to_thread(import_module, "worker.search")
        from worker.collection import find_collection
        from worker.search import search

        async with self._qdrant.opened() as qdrant:
            asked = question.collection or self._settings.collection
            names = await find_collection(qdrant, asked)
            if names is None:
                return []
            settings = await query_settings(self._settings, qdrant, names)
        model = await self._loaded(settings)
        async with self._qdrant.opened() as qdrant:
            return await search(qdrant, names, model, question)

    async def _loaded(self, settings: Settings) -> "ModelPool":
        wanted = settings.model, settings.precision
        async with self._loading:
            if wanted not in self._models:
                opening = open_model(settings, PROCESSES)
                self._models[wanted] = await self._kept.enter_async_context(opening)
            return self._models[wanted]
