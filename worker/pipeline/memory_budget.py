"""Back-pressure: bounds what documents in work hold in memory, whatever their size."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MAX_CHUNKS: Final = 16_384
"""Some 60 MB of text, words and payloads."""


class MemoryBudget:
    """Bounds the chunks of prepared documents that are held at once, to about ``chunks``.

    The chunks of a document are only known once it is prepared. So no document is admitted while
    the budget is used up, and those that were admitted before may exceed it.
    """

    def __init__(self, chunks: int = MAX_CHUNKS) -> None:
        self._free = chunks
        self._changed = asyncio.Event()

    async def admit(self) -> None:
        """Wait until another document may be prepared."""
        while self._free <= 0:
            self._changed.clear()
            await self._changed.wait()

    @contextmanager
    def hold(self, chunks: int) -> Iterator[None]:
        """Charge the chunks of a document to the budget while inside."""
        self._free -= chunks
        try:
            yield
        finally:
            self._free += chunks
            self._changed.set()
