"""Bounds what the documents in work hold in memory, however large they are."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ingestq.core.documents import Lane

MAX_CHUNKS: Final = 16_384
"""Some 60 MB of text, words and payloads."""


class MemoryBudget:
    """Bounds the chunks of prepared documents held at once, to about ``chunks`` in each lane.

    How many chunks a document has is known only after it was prepared. So a document waits while
    its lane has used up its budget, and the documents admitted before that may exceed it.
    """

    def __init__(self, chunks: int = MAX_CHUNKS) -> None:
        self._free = dict.fromkeys(Lane, chunks)
        self._released = asyncio.Event()

    async def admit(self, lane: Lane) -> None:
        """Wait until another document of ``lane`` may be prepared."""
        while self._free[lane] <= 0:
            self._released.clear()
            await self._released.wait()

    @contextmanager
    def hold(self, lane: Lane, chunks: int) -> Iterator[None]:
        """Charge the chunks of a document to the budget of ``lane`` while inside."""
        self._free[lane] -= chunks
        try:
            yield
        finally:
            self._free[lane] += chunks
            self._released.set()
