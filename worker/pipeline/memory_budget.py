"""Bounds what documents in work hold in memory, whatever their size."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MANY_CHUNKS: Final = 16_384
"""Some 60 MB of text, words and payloads."""


class Room:
    """For about so many chunks of prepared documents, ``chunks``.

    How many a document has is known when it is prepared. So none is begun while the room is full,
    and those that were begun before may go beyond it.
    """

    def __init__(self, chunks: int = MANY_CHUNKS) -> None:
        self._free = chunks
        self._changed = asyncio.Event()

    async def enter(self) -> None:
        """Return when another document may be prepared."""
        while self._free <= 0:
            self._changed.clear()
            await self._changed.wait()

    @contextmanager
    def hold(self, chunks: int) -> Iterator[None]:
        """Take room for the chunks of a document while inside."""
        self._free -= chunks
        try:
            yield
        finally:
            self._free += chunks
            self._changed.set()
