"""Qdrant, for a process that is there for something else: opened when somebody asks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Self

from ingestq.runtime import open_qdrant
from ingestq.settings import Settings

if TYPE_CHECKING:
    from types import TracebackType

    from worker.qdrant import Qdrant


class QdrantOnDemand:
    """Opens Qdrant for whoever asks, as an asynchronous context manager.

    The connection to a server is kept. The local Qdrant is opened for each question anew and for
    one at a time, as only one process may have it open, and workers need it, too. One that somebody
    else keeps open is ``shared``.
    """

    def __init__(self, settings: Settings, shared: "Qdrant | None" = None) -> None:
        self._settings = settings
        self._kept = AsyncExitStack()
        self._turn = asyncio.Lock()
        self._open: Qdrant | None = shared

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        trace: "TracebackType | None",
    ) -> None:
        await self._kept.aclose()

    @asynccontextmanager
    async def opened(self) -> "AsyncIterator[Qdrant]":
        """Qdrant, ready to be asked. Raises StoreUnavailable if it does not answer."""
        # On a thread, as importing takes longer than anybody on the event loop should wait.
        await asyncio.to_thread(import_module, "worker.ledger")
        if self._open is None and self._settings.qdrant_url is None:
            async with self._turn, open_qdrant(self._settings) as local:
                yield local
            return
        async with self._turn:
            if self._open is None:
                opening = open_qdrant(self._settings)
                self._open = await self._kept.enter_async_context(opening)
        yield self._open
